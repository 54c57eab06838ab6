"""Network namespaces by name: make, remove, list, enter. pyroute2's `netns` module, without its forks.

A namespace reference is a name in the run directory, a path (anything with a "/"), an open descriptor, a file
object, or `pid=`. Two references are the same namespace when device and inode are equal, never by path.
Source: network_namespaces(7), setns(2), ip-netns(8).
"""

from __future__ import annotations

import errno
import os
from typing import Any, NamedTuple, Optional, Union

from fastns import _core

NETNS_RUN_DIR = "/var/run/netns"

Ref = Union[str, bytes, "os.PathLike[Any]", int, Any]


class _Place(NamedTuple):
    """Where a name stands in the file system."""

    ref: Union[str, bytes]  # what the user gave: the filename of every OSError
    directory: bytes
    path: bytes
    is_name: bool


def _place(netns: Ref) -> _Place:
    """The path of a name, or of a path, checked before any system call."""
    ref = netns if isinstance(netns, (str, bytes)) else os.fspath(netns)
    name = os.fsencode(ref)
    if b"\0" in name:
        raise ValueError(f"a namespace name has no NUL in it: {ref!r}")
    if b"/" in name:
        directory, _, last = name.rpartition(b"/")
        if last in (b"", b".", b".."):
            raise ValueError(f"not the path of a namespace: {ref!r}")
        return _Place(ref, directory or b"/", name, False)
    if name in (b"", b".", b".."):
        raise ValueError(f"not a namespace name: {ref!r}")
    if len(name) > 255:
        raise ValueError(f"a namespace name has at most 255 bytes: {ref!r}")
    directory = os.fsencode(NETNS_RUN_DIR)
    return _Place(ref, directory, directory + b"/" + name, True)


def _is_run_dir(place: _Place) -> bool:
    if place.is_name:
        return True
    try:
        return os.path.samefile(place.directory, os.fsencode(NETNS_RUN_DIR))
    except OSError:
        return False


def _check_libc(libc: Any, function: str) -> None:
    # Unused; but what is no libc object fails here as it does in pyroute2.
    if libc is not None:
        getattr(libc, function)


def open_ref(
    netns: Ref, flags: int = 0, *, pid: Optional[int] = None, libc: Any = None
) -> tuple[int, bool]:
    """An open descriptor of the namespace, and whether the caller has to close it.

    `flags`: `os.O_CREAT` makes a namespace that is missing, with `os.O_EXCL` it must be missing, as in open(2).
    `pid` gives the namespace of a process instead; `netns` is None then.

    Raises: ValueError for a name that cannot be one, TypeError for what is no reference; FileNotFoundError where
    there is nothing (and no O_CREAT), FileExistsError (O_CREAT | O_EXCL), OSError(EINVAL) for what is no network
    namespace, a dead entry included, OSError(EBADF) for a closed descriptor, PermissionError.
    """
    if pid is not None:
        if netns is not None:
            raise TypeError("a namespace is given by name or by pid=, not both")
        path = _pid_path(pid)
        return _core.ns_open(os.fsencode(path), path, "open /proc/PID/ns/net"), True
    if isinstance(netns, (str, bytes)) or hasattr(netns, "__fspath__"):
        place = _place(netns)
        if flags & os.O_CREAT:
            return _open_or_create(place, flags, libc), True
        return _core.ns_open(place.path, place.ref), True
    fd = _descriptor(netns)
    _core.ns_check(fd, fd)
    return fd, False


def _descriptor(netns: Ref) -> int:
    if isinstance(netns, bool) or netns is None:
        raise TypeError(f"not a namespace reference: {netns!r}")
    if isinstance(netns, int):
        fd = netns
    elif hasattr(netns, "fileno"):
        fd = netns.fileno()
    else:
        raise TypeError(f"not a namespace reference: {netns!r}")
    if not -1 <= fd < 1 << 31:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), fd)
    return fd


def _pid_path(pid: Any) -> str:
    if isinstance(pid, bool) or not isinstance(pid, int):
        raise TypeError(f"a pid is an integer: {pid!r}")
    if not 0 < pid < 1 << 31:
        raise ValueError(f"not a process id: {pid!r}")
    return f"/proc/{pid}/ns/net"


def _open_or_create(place: _Place, flags: int, libc: Any) -> int:
    while True:
        if not flags & os.O_EXCL:
            try:
                return _core.ns_open(place.path, place.ref)
            except FileNotFoundError:
                pass
        try:
            return _make(place, None, keep=True)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise


def _make(place: _Place, pid: Optional[int], keep: bool) -> int:
    if os.path.lexists(place.path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), place.ref)
    if pid is None:
        nsfd = _core.ns_new(place.ref)
    else:
        path = _pid_path(pid)
        nsfd = _core.ns_open(os.fsencode(path), path, "open /proc/PID/ns/net")
    try:
        _core.ns_bind(nsfd, place.directory, place.path, _is_run_dir(place), place.ref)
    except BaseException:
        os.close(nsfd)
        raise
    if keep:
        return nsfd
    os.close(nsfd)
    return -1


def create(netns: Ref, libc: Any = None) -> None:
    """Create a network namespace."""
    _check_libc(libc, "mount")
    _make(_place(netns), None, keep=False)


def remove(netns: Ref, libc: Any = None) -> None:
    """Remove a network namespace."""
    _check_libc(libc, "umount2")
    place = _place(netns)
    _core.ns_unbind(place.directory, place.path, _is_run_dir(place), place.ref)


def listnetns(nspath: Optional[str] = None) -> list[str]:
    """The names in the run directory (or in `nspath`), dead entries included."""
    try:
        return os.listdir(nspath or NETNS_RUN_DIR)
    except FileNotFoundError:
        return []
