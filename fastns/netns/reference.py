"""What the functions are given, checked before any system call: a namespace reference, and `libc=`.

A reference is a place in the file system, a descriptor, or a process. Here too: what a dead entry is, and the mocks of
pyroute2.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Callable
from typing import Any, NamedTuple, Optional, Protocol, TypeVar, Union, cast

from pyroute2 import config

NETNS_RUN_DIR: str = "/var/run/netns"
"""The run directory: where names stand. Looked up at each call, so it may be changed, to a directory of one's own in
a user namespace for example.
"""

F = TypeVar("F", bound=Callable[..., Any])


class HasFileno(Protocol):
    """A file, or what else has a descriptor."""

    def fileno(self) -> int: ...


Ref = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]", int, HasFileno]


class Place(NamedTuple):
    """Where a name stands in the file system."""

    ref: Union[str, bytes]  # what the user gave: the filename of every OSError
    directory: bytes
    path: bytes
    is_name: bool


def place_of(netns: Optional[Ref]) -> Place:
    """The path of a name, or of a path, checked before any system call."""
    if isinstance(netns, (str, bytes)):
        ref = netns
    elif isinstance(netns, os.PathLike):
        ref = os.fspath(netns)
    else:
        raise TypeError(f"not the name or path of a namespace: {netns!r}")
    name = os.fsencode(ref)
    if b"\0" in name:
        raise ValueError(f"a namespace name has no NUL in it: {ref!r}")
    if b"/" in name:
        directory, _, last = name.rpartition(b"/")
        if last in (b"", b".", b".."):
            raise ValueError(f"not the path of a namespace: {ref!r}")
        if len(last) > 255:
            raise ValueError(f"a namespace name has at most 255 bytes: {ref!r}")
        return Place(ref, directory or b"/", name, False)
    if name in (b"", b".", b".."):
        raise ValueError(f"not a namespace name: {ref!r}")
    if len(name) > 255:
        raise ValueError(f"a namespace name has at most 255 bytes: {ref!r}")
    directory = os.fsencode(NETNS_RUN_DIR)
    return Place(ref, directory, directory + b"/" + name, True)


def is_run_dir(place: Place) -> bool:
    if place.is_name:
        return True
    try:
        return os.path.samefile(place.directory, os.fsencode(NETNS_RUN_DIR))
    except OSError:
        return False


def is_place(netns: Optional[Ref]) -> bool:
    return isinstance(netns, (str, bytes)) or hasattr(netns, "__fspath__")


def descriptor(netns: Optional[Ref]) -> int:
    if isinstance(netns, int) and not isinstance(netns, bool):
        fd = netns
    elif netns is not None and hasattr(netns, "fileno"):
        fd = netns.fileno()
        if not isinstance(fd, int):
            raise TypeError(f"not a namespace reference: {netns!r}")
    else:
        raise TypeError(f"not a namespace reference: {netns!r}")
    if not 0 <= fd < 1 << 31:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), fd)
    return fd


def pid_path(pid: Any) -> str:
    if isinstance(pid, bool) or not isinstance(pid, int):
        raise TypeError(f"a process id is an integer: {pid!r}")
    if not 0 < pid < 1 << 31:
        raise ValueError(f"not a process id: {pid!r}")
    return f"/proc/{pid}/ns/net"


def filename(netns: Optional[Ref], pid: Optional[int] = None) -> Union[str, bytes, int]:
    """What stands for the reference in an error: itself, if it is something that pickles."""
    if pid is not None:
        return pid_path(pid)
    return place_of(netns).ref if is_place(netns) else descriptor(netns)


def check_libc(libc: Any, function: str) -> None:
    # Not used. But what is no libc object fails here as it does in pyroute2: AttributeError.
    if libc is not None:
        getattr(libc, function)


def mockable(func: F) -> F:
    """With `pyroute2.config.mock_netns` set the function only records its calls, as pyroute2's own does."""
    return cast("F", functools.wraps(func)(config.mock_if("mock_netns")(func)))


def is_bare(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_size == 0


def is_dead(path: bytes) -> bool:
    """Something bears the name, a mount point without a mount or a dangling link, and no namespace is there."""
    try:
        found = os.lstat(path)
        return is_bare(found) or (stat.S_ISLNK(found.st_mode) and not os.path.exists(path))
    except OSError:
        return False
