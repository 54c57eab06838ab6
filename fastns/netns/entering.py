"""Into a namespace: the calling thread, a function, a socket. setns(2)."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import Any, Optional, TypeVar, cast

from pyroute2.common import USE_DEFAULT_TIMEOUT

from fastns import _core
from fastns.netns.opening import open_ref
from fastns.netns.reference import Ref, check_libc, filename, mockable

T = TypeVar("T")


@mockable
def setns(netns: Ref, flags: int = os.O_CREAT, libc: Any = None, fork: bool = True) -> None:
    """Move the calling thread, and no other, into the namespace.

    `flags` as in open(2): os.O_CREAT makes a namespace that is missing, os.O_CREAT | os.O_EXCL only that. What
    it has opened itself is closed again. There is no way back but another `setns`, to `/proc/1/ns/net` or to what
    was saved: see `entered`, `run_in` and `pushns`. `libc` and `fork` are not used.

    Privilege: CAP_SYS_ADMIN, in the user namespace that owns the namespace too.
    Raises: as `open_ref`; PermissionError; AttributeError if `libc` is no libc object.
    """
    check_libc(libc, "syscall")
    with open_ref(netns, flags, libc=libc) as nsfd:
        _core.ns_set(nsfd, filename(netns))


class _Saved(threading.local):
    """The namespaces a thread has pushed. Closed with the thread."""

    def __init__(self) -> None:
        self.stack: list[_core.Descriptor] = []


_saved = _Saved()


@mockable
def pushns(newns: Optional[Ref] = None, libc: Any = None) -> None:
    """Save the calling thread's namespace, and move the thread into `newns` if that is given.

    Each thread has a stack of its own. If the move fails nothing stays saved. Errors: `setns`.
    """
    stack = _saved.stack
    # Opened before anything else: what is saved must not get the number of a closed descriptor given as newns.
    check_libc(libc, "syscall")
    if newns is None:
        _core.ns_push(stack, -1)
        return
    with open_ref(newns, os.O_CREAT, libc=libc) as nsfd:
        _core.ns_push(stack, nsfd, filename(newns))


@mockable
def popns(libc: Any = None) -> None:
    """Move the calling thread back into the namespace it has saved last.

    Raises: IndexError if it has saved none; PermissionError, the namespace then stays saved.
    """
    check_libc(libc, "syscall")
    _core.ns_pop(_saved.stack)


@mockable
def dropns(libc: Any = None) -> None:
    """Forget the namespace the calling thread has saved last. Raises: IndexError if it has saved none."""
    _saved.stack.pop()


@mockable
def create_socket(
    netns: Optional[Ref] = None,
    family: int = socket.AF_INET,
    socket_type: int = socket.SOCK_STREAM,
    proto: int = 0,
    fileno: Optional[int] = None,
    flags: int = os.O_CREAT,
    libc: Any = None,
    timeout: float = USE_DEFAULT_TIMEOUT,
) -> socket.socket:
    """A socket that was opened inside the namespace and stays there, whichever thread uses it.

    Without `netns` it is one of the calling thread's namespace; with `fileno` it is that descriptor's. `flags` as
    in open(2). `libc` and `timeout` (seconds) are not used: nothing is waited for.

    Privilege: CAP_SYS_ADMIN in both user namespaces; CAP_NET_RAW over the namespace for raw and packet sockets.
    Raises: TypeError for both `fileno` and `netns`; as `open_ref`; PermissionError; OSError(EAFNOSUPPORT,
    EPROTONOSUPPORT, EMFILE) from socket(2); AttributeError if `libc` is no libc object.
    """
    if fileno is not None and netns is not None:
        raise TypeError("you can not specify both fileno and netns")
    if fileno is not None:
        return socket.socket(fileno=fileno)
    if netns is None:
        return socket.socket(family, socket_type, proto)
    check_libc(libc, "syscall")
    with open_ref(netns, flags, libc=libc) as nsfd:
        return _core.socket_in(nsfd, socket.socket, family, socket_type, proto, filename(netns))


def entered(netns: Optional[Ref], flags: int = 0, *, pid: Optional[int] = None) -> _core.Entered:
    """Context manager: the calling thread, and no other, is inside the namespace while the body runs.

        with entered("blue"):
            ...

    The way back is proven before the thread leaves. If it fails all the same (the body has given up its
    privilege), the process aborts rather than go on in the wrong namespace. Do not await or yield in the body:
    whatever runs meanwhile in the thread would run inside as well.

    Privilege: CAP_SYS_ADMIN, in the user namespaces that own the namespace and the present one; where the present
    one belongs to a parent there is no way back, and it is a PermissionError (`run_in` works there).
    Raises: on entering, as `open_ref`.
    """
    return _core.Entered(lambda: open_ref(netns, flags, pid=pid), filename(netns, pid))


def run_in(netns: Ref, func: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """func(*args, **kwargs), called inside the namespace; what it returns or raises comes through.

    It runs in the calling thread, which is back afterwards, as for `entered`. Where that thread could not come
    back it runs in an operating-system thread of its own, with a copy of the caller's context variables, that ends
    with it; signal handlers wait until then.

    Privilege: CAP_SYS_ADMIN, in the user namespace that owns the namespace too. Raises: as `open_ref`.
    """
    with open_ref(netns) as nsfd:
        return cast("T", _core.ns_run(nsfd, lambda: func(*args, **kwargs), filename(netns)))
