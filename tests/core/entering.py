"""What tests of entering a namespace look at."""

from __future__ import annotations

import os
import socket

import faults
import pytest
from faults import CLONE_NEWNET, here, socket_namespace

from fastns import _core


def link(fd: int) -> str:
    return f"net:[{os.fstat(fd).st_ino}]"


def open_udp(fd: int) -> socket.socket:
    return _core.socket_in(fd, socket.socket, socket.AF_INET, socket.SOCK_DGRAM, 0, "the-name")


def check_udp(fd: int) -> None:
    """A socket can be opened inside fd, is inside, and the thread is where it was."""
    before = here()
    with open_udp(fd) as sock:
        assert socket_namespace(sock.fileno()) == link(fd)
        assert not sock.get_inheritable()
    assert here() == before


def no_return() -> None:
    """The calling thread could really not come back to its own namespace."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    with pytest.raises(PermissionError):
        faults.call(faults.libc.setns(own, CLONE_NEWNET))
    os.close(own)


def blocked_signals(tid: int) -> int:
    with open(f"/proc/{tid}/status") as status:
        return next(int(line.split()[1], 16) for line in status if line.startswith("SigBlk:"))
