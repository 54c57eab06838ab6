"""Network namespaces by name: make, remove, list, watch, enter. pyroute2's `netns` module, without its forks.

A namespace reference is a name in the run directory, a path (anything with a "/" in it), an open descriptor, a
file object, or `pid=`. Two references are the same namespace when device and inode are equal, never by path.

A failed system call is an OSError whose text names the call (and the capability that was missing) and whose
`filename` is the reference as it was given. A name that cannot be one is a ValueError, and what is no reference at
all a TypeError, both before any system call. Nothing here forks, so everything may be called from any thread. In a
forked child everything works that works in its parent; only what a thread has pushed stays with that thread.

Source: network_namespaces(7), setns(2), unshare(2), ip-netns(8).
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Optional, Protocol, TypeVar, Union, cast

from pyroute2 import config
from pyroute2.common import USE_DEFAULT_TIMEOUT

from fastns import _core
from fastns.netns.watch import NetnsEvent, Watch, is_bare, is_dead

__all__ = [
    "NETNS_RUN_DIR",
    "NetnsEvent",
    "NetnsInfo",
    "Sysctl",
    "Watch",
    "attach",
    "create",
    "create_many",
    "create_socket",
    "dropns",
    "entered",
    "exists",
    "getnsfd",
    "info",
    "listnetns",
    "ns_pids",
    "open_ref",
    "pid_to_ns",
    "popns",
    "pushns",
    "remove",
    "remove_many",
    "run_in",
    "setns",
    "sysctl",
    "watch",
]

NETNS_RUN_DIR = "/var/run/netns"
"""The run directory: where names stand. Looked up at each call, so it may be changed, to a directory of one's own in
a user namespace for example.
"""

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class HasFileno(Protocol):
    """A file, or what else has a descriptor."""

    def fileno(self) -> int: ...


Ref = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]", int, HasFileno]


def _mockable(func: F) -> F:
    """With `pyroute2.config.mock_netns` set the function only records its calls, as pyroute2's own does."""
    return cast("F", functools.wraps(func)(config.mock_if("mock_netns")(func)))


# References


class _Place(NamedTuple):
    """Where a name stands in the file system."""

    ref: Union[str, bytes]  # what the user gave: the filename of every OSError
    directory: bytes
    path: bytes
    is_name: bool


def _place(netns: Optional[Ref]) -> _Place:
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


def _is_place(netns: Optional[Ref]) -> bool:
    return isinstance(netns, (str, bytes)) or hasattr(netns, "__fspath__")


def _descriptor(netns: Optional[Ref]) -> int:
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


def _pid_path(pid: Any) -> str:
    if isinstance(pid, bool) or not isinstance(pid, int):
        raise TypeError(f"a process id is an integer: {pid!r}")
    if not 0 < pid < 1 << 31:
        raise ValueError(f"not a process id: {pid!r}")
    return f"/proc/{pid}/ns/net"


def _open_pid(pid: Any) -> int:
    path = _pid_path(pid)
    return _core.ns_open(path.encode(), path, "open /proc/PID/ns/net")


def _check_libc(libc: Any, function: str) -> None:
    # Not used. But what is no libc object fails here as it does in pyroute2: AttributeError.
    if libc is not None:
        getattr(libc, function)


def _filename(netns: Optional[Ref], pid: Optional[int] = None) -> Union[str, bytes, int]:
    """What stands for the reference in an error: itself, if it is something that pickles."""
    if pid is not None:
        return _pid_path(pid)
    return _place(netns).ref if _is_place(netns) else _descriptor(netns)


def open_ref(netns: Optional[Ref], flags: int = 0, *, pid: Optional[int] = None, libc: Any = None) -> tuple[int, bool]:
    """An open descriptor of the namespace, and whether the caller has to close it.

    `flags`: `os.O_CREAT` makes a namespace that is missing, with `os.O_EXCL` it must be missing, as in open(2).
    `pid` gives the namespace of a process instead; `netns` is None then.

    Raises: ValueError for a name that cannot be one, TypeError for what is no reference; FileNotFoundError where
    there is nothing (and no O_CREAT), FileExistsError (O_CREAT | O_EXCL), OSError(EINVAL) for what is no network
    namespace, a dead entry included, OSError(EBADF) for a closed descriptor, PermissionError.
    """
    if pid is not None:
        if netns is not None:
            raise TypeError("a namespace is given by a reference or by pid=, not by both")
        return _open_pid(pid), True
    if _is_place(netns):
        place = _place(netns)
        if flags & os.O_CREAT:
            return _open_or_create(place, flags, libc), True
        return _core.ns_open(place.path, place.ref), True
    fd = _descriptor(netns)
    _core.ns_check(fd, fd)
    return fd, False


def _open_or_create(place: _Place, flags: int, libc: Any) -> int:
    exclusive = flags & os.O_EXCL
    for attempt in range(64):
        if not exclusive:
            try:
                return _core.ns_open(place.path, place.ref)
            except FileNotFoundError:
                pass
            except OSError:
                # Perhaps half made by somebody who is about to mount. iproute2 makes the namespace in between.
                if attempt == 63 or not _is_fresh(place.path):
                    raise
                time.sleep(0.005)
                continue
        _check_libc(libc, "mount")
        try:
            return _make(place, keep=True)
        except FileExistsError:
            if exclusive:
                raise
    raise FileNotFoundError(errno.ENOENT, "made and removed again and again by others", place.ref)


def _is_fresh(path: bytes) -> bool:
    """A mount point, nothing mounted on it, and less than a quarter of a second old."""
    try:
        found = os.lstat(path)
    except OSError:
        return True
    return is_bare(found) and -0.25 < time.time() - found.st_ctime < 0.25


def _make(place: _Place, *, keep: bool = False) -> int:
    """Make a namespace with that name; with `keep` the result is an open descriptor of it."""
    _refuse_taken(place)
    return _core.ns_create(place.directory, place.path, _is_run_dir(place), keep, place.ref)


def _refuse_taken(place: _Place) -> None:
    if _core.ns_taken(place.path):  # a namespace made in vain costs more than this look
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), place.ref)


# pyroute2's functions


def _get_netnspath(name: Union[str, bytes]) -> bytes:
    """The path of a name, or of a path, as bytes."""
    return _place(name).path


def _create(netns: Ref, libc: Any = None, pid: Optional[int] = None) -> None:
    """`create`, or with `pid` `attach`. Unlike pyroute2's it leaves the calling thread where it is."""
    _check_libc(libc, "mount")
    if isinstance(pid, str) and pid.isdecimal():
        pid = int(pid)
    place = _place(netns)
    if pid is None:
        _make(place)
        return
    path = _pid_path(pid)
    _refuse_taken(place)
    nsfd = _core.ns_open(path.encode(), path, "open /proc/PID/ns/net")
    try:
        _core.ns_bind(nsfd, place.directory, place.path, _is_run_dir(place), place.ref)
    finally:
        os.close(nsfd)


@_mockable
def create(netns: Ref, libc: Any = None) -> None:
    """Create a network namespace under a name in the run directory, or at a path.

    Works from any thread and next to `ip netns add`; the calling thread stays in its namespace. Nothing is left
    behind on failure. The run directory becomes a shared mount, as `ip netns add` makes it; the directory of a
    path elsewhere is made if it is missing and otherwise left as it is. `libc` is not used.

    Privilege: CAP_SYS_ADMIN, and write access to the directory.
    Raises: FileExistsError if the name is taken, by a dead entry too; PermissionError; OSError(ENOSPC) at the
    kernel's limit of network namespaces (user.max_net_namespaces) or of mounts (fs.mount-max);
    AttributeError if `libc` is no libc object.
    """
    _create(netns, libc)


@_mockable
def attach(netns: Ref, pid: int, libc: Any = None) -> None:
    """Give the network namespace of the process `pid` a name, as if it had been made by `create`.

    Privilege and errors as for `create`, and CAP_SYS_PTRACE over the process.
    Raises also: FileNotFoundError if there is no such process.
    """
    if pid is None:
        raise TypeError("a process id is an integer: None")
    _create(netns, libc, pid)


@_mockable
def remove(netns: Ref, libc: Any = None) -> None:
    """Remove a network namespace's name: unmount it and delete its mount point.

    The namespace itself ends with its last user (process, socket, descriptor or other name). Only a network
    namespace's mount is ever unmounted. A dead entry, the mount point alone, is deleted as well: in the run
    directory an empty file, elsewhere an empty file without permission bits, as `create` makes them.

    Privilege: CAP_SYS_ADMIN over the mount namespace, and write access to the directory.
    Raises: FileNotFoundError; OSError(EINVAL) for anything that is no namespace, which is left untouched, symbolic
    links included; PermissionError; AttributeError if `libc` is no libc object.
    """
    _check_libc(libc, "umount2")
    place = _place(netns)
    _core.ns_unbind(place.directory, place.path, _is_run_dir(place), place.ref)


def create_many(names: Iterable[Ref], workers: int = 2) -> None:
    """`create` for each name, `workers` at a time. All are tried; then the first error is raised, its `failures` all
    of them by name."""
    _for_each(create, names, workers)


def remove_many(names: Iterable[Ref], workers: int = 2) -> None:
    """`remove` for each name. Errors as `create_many`."""
    _for_each(remove, names, workers)


def _for_each(func: Callable[[Any], None], names: Iterable[Any], workers: int) -> None:
    with ThreadPoolExecutor(max(workers, 1)) as executor:
        futures = {name: executor.submit(func, name) for name in names}
    failures = {name: error for name, future in futures.items() if (error := future.exception())}
    for error in failures.values():
        error.failures = failures  # type: ignore[attr-defined]
        raise error


def listnetns(nspath: Optional[str] = None) -> list[str]:
    """The names in the run directory (or in the directory `nspath`), in no order, dead entries included.

    A directory that does not exist holds no names. Raises: PermissionError, NotADirectoryError.
    """
    try:
        return os.listdir(nspath or NETNS_RUN_DIR)
    except FileNotFoundError:
        return []


@_mockable
def getnsfd(netns: Ref, flags: int = 0, libc: Any = None, fork: bool = True) -> int:
    """An open descriptor of the namespace: a new one, to be closed by the caller, for a name or a path; the very
    same for a descriptor or file object.

    `flags` as in open(2): os.O_CREAT, os.O_CREAT | os.O_EXCL. `libc` and `fork` are not used. Errors: `open_ref`.
    """
    return open_ref(netns, flags, libc=libc)[0]


@_mockable
def setns(netns: Ref, flags: int = os.O_CREAT, libc: Any = None, fork: bool = True) -> None:
    """Move the calling thread, and no other, into the namespace.

    `flags` as in open(2): os.O_CREAT makes a namespace that is missing, os.O_CREAT | os.O_EXCL only that. What
    it has opened itself is closed again. There is no way back but another `setns`, to `/proc/1/ns/net` or to what
    was saved: see `entered`, `run_in` and `pushns`. `libc` and `fork` are not used.

    Privilege: CAP_SYS_ADMIN, in the user namespace that owns the namespace too.
    Raises: as `open_ref`; PermissionError; AttributeError if `libc` is no libc object.
    """
    _check_libc(libc, "syscall")
    nsfd, owned = open_ref(netns, flags, libc=libc)
    try:
        _core.ns_set(nsfd, _filename(netns))
    finally:
        if owned:
            os.close(nsfd)


class _Saved(threading.local):
    """The namespaces a thread has pushed. Closed with the thread."""

    def __init__(self) -> None:
        self.stack = _Stack()


class _Stack(list[int]):
    def __del__(self) -> None:
        for fd in self:
            os.close(fd)


_saved = _Saved()


@_mockable
def pushns(newns: Optional[Ref] = None, libc: Any = None) -> None:
    """Save the calling thread's namespace, and move the thread into `newns` if that is given.

    Each thread has a stack of its own. If the move fails nothing stays saved. Errors: `setns`.
    """
    stack = _saved.stack
    # Opened before anything else: what is saved must not get the number of a closed descriptor given as newns.
    _check_libc(libc, "syscall")
    nsfd, owned = open_ref(newns, os.O_CREAT, libc=libc) if newns is not None else (-1, False)
    try:
        stack.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        if newns is not None:
            try:
                _core.ns_set(nsfd, _filename(newns))
            except BaseException:
                os.close(stack.pop())
                raise
    finally:
        if owned:
            os.close(nsfd)


@_mockable
def popns(libc: Any = None) -> None:
    """Move the calling thread back into the namespace it has saved last.

    Raises: IndexError if it has saved none; PermissionError, the namespace then stays saved.
    """
    _check_libc(libc, "syscall")
    stack = _saved.stack
    _core.ns_set(stack[-1], stack[-1])
    os.close(stack.pop())


@_mockable
def dropns(libc: Any = None) -> None:
    """Forget the namespace the calling thread has saved last. Raises: IndexError if it has saved none."""
    os.close(_saved.stack.pop())


def _names(nspath: str) -> dict[tuple[int, int], str]:
    """The names of a run directory by device and inode."""
    names = {}
    for name in listnetns(nspath):
        try:
            found = os.stat(os.path.join(nspath, name))
        except OSError:
            continue  # removed meanwhile, or a dangling link
        names[found.st_dev, found.st_ino] = name
    return names


def _process_namespaces() -> Iterator[tuple[int, tuple[int, int]]]:
    """Each process that may be looked at, and the device and inode of its network namespace."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                found = os.stat(f"/proc/{name}/ns/net")
            except OSError:
                continue  # gone, or somebody else's
            yield int(name), (found.st_dev, found.st_ino)


def ns_pids(nspath: Optional[str] = None) -> dict[str, list[int]]:
    """The process ids in each namespace that has a name in the run directory (or in `nspath`) and a process.

    Processes of others are seen with CAP_SYS_PTRACE only.
    """
    names = _names(nspath or NETNS_RUN_DIR)
    result: dict[str, list[int]] = {}
    for pid, key in _process_namespaces():
        if key in names:
            result.setdefault(names[key], []).append(pid)
    return result


def pid_to_ns(pid: int = 1, nspath: Optional[str] = None) -> Optional[str]:
    """The name of the namespace the process `pid` is in; None if it has no name, or there is no such process or no
    right to look at it (CAP_SYS_PTRACE)."""
    try:
        found = os.stat(f"/proc/{pid}/ns/net")
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return None
    return _names(nspath or NETNS_RUN_DIR).get((found.st_dev, found.st_ino))


@_mockable
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
    _check_libc(libc, "syscall")
    nsfd, owned = open_ref(netns, flags, libc=libc)
    try:
        fd = _core.socket_in(nsfd, family, socket_type, proto, _filename(netns))
    finally:
        if owned:
            os.close(nsfd)
    try:
        return socket.socket(family, socket_type, proto, fileno=fd)
    except BaseException:
        os.close(fd)
        raise


# New


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
    return _core.Entered(lambda: open_ref(netns, flags, pid=pid), _filename(netns, pid))


def run_in(netns: Ref, func: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """func(*args, **kwargs), called inside the namespace; what it returns or raises comes through.

    It runs in the calling thread, which is back afterwards, as for `entered`. Where that thread could not come
    back it runs in an operating-system thread of its own, with a copy of the caller's context variables, that ends
    with it; signal handlers wait until then.

    Privilege: CAP_SYS_ADMIN, in the user namespace that owns the namespace too. Raises: as `open_ref`.
    """
    nsfd, owned = open_ref(netns)
    try:
        return cast("T", _core.ns_run(nsfd, lambda: func(*args, **kwargs), _filename(netns)))
    finally:
        if owned:
            os.close(nsfd)


def exists(netns: Optional[Ref], *, pid: Optional[int] = None) -> bool:
    """Whether the reference is a network namespace. A dead entry and a closed descriptor are none.

    Raises: ValueError, TypeError as `open_ref`; PermissionError.
    """
    try:
        nsfd, owned = open_ref(netns, pid=pid)
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        return False
    if owned:
        os.close(nsfd)
    return True


class NetnsInfo(NamedTuple):
    """What is known of a namespace."""

    netns: Union[str, bytes, int]
    """The reference as it was given, the number for a file object."""
    path: Optional[str]
    """Where the name stands; None for a descriptor."""
    alive: bool
    """False for a dead entry: the mount point is there and no namespace on it."""
    device: Optional[int]
    """Device and inode: equal exactly for references to the same namespace. None if dead."""
    inode: Optional[int]
    nsid: Optional[int]
    """The number the calling thread's namespace has for it; None if it has none."""
    pids: tuple[int, ...]
    """The processes in it, as far as one may look (CAP_SYS_PTRACE)."""


def info(netns: Optional[Ref], *, pid: Optional[int] = None) -> NetnsInfo:
    """What is known of the namespace: identity, nsid, processes, mount alive or dead.

    Raises: as `open_ref`, but a dead entry is reported, not refused.
    """
    ref = _filename(netns, pid)
    path = _pid_path(pid) if pid is not None else None
    if pid is None and _is_place(netns):
        path = os.fsdecode(_place(netns).path)
    try:
        nsfd, owned = open_ref(netns, pid=pid)
    except OSError:
        if path is None or pid is not None or not is_dead(os.fsencode(path)):
            raise
        return NetnsInfo(ref, path, False, None, None, None, ())
    try:
        found = os.fstat(nsfd)
        nsid = _nsid(nsfd)
    finally:
        if owned:
            os.close(nsfd)
    key = found.st_dev, found.st_ino
    pids = tuple(sorted(pid for pid, other in _process_namespaces() if other == key))
    return NetnsInfo(ref, path, True, found.st_dev, found.st_ino, nsid, pids)


_RTM_GETNSID = 90
_NLMSG_ERROR = 2
_NLM_F_REQUEST = 1
_NETNSA_NSID = 1
_NETNSA_FD = 3


def _nsid(nsfd: int) -> Optional[int]:
    """The id of the namespace in the calling thread's. rtnetlink(7), linux/net_namespace.h.

    Written by hand: this module knows no messages, and this one has a single attribute.
    """
    request = struct.pack("=IHHIIB3xHHI", 28, _RTM_GETNSID, _NLM_F_REQUEST, 1, 0, 0, 8, _NETNSA_FD, nsfd)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.sendto(request, (0, 0))
        answer = sock.recv(65536)
    kind = struct.unpack_from("=H", answer, 4)[0]
    if kind == _NLMSG_ERROR:
        code = -struct.unpack_from("=i", answer, 16)[0]
        raise OSError(code, f"RTM_GETNSID: {os.strerror(code)}", nsfd)
    offset = 20
    while offset + 8 <= len(answer):
        size, attribute = struct.unpack_from("=HH", answer, offset)
        if attribute == _NETNSA_NSID:
            nsid: int = struct.unpack_from("=i", answer, offset + 4)[0]
            return nsid if nsid >= 0 else None
        offset += max(4, size + 3 & ~3)
    return None


class Sysctl:
    """The settings below /proc/sys/net of a namespace, by name: see `sysctl`."""

    def __init__(self, netns: Ref) -> None:
        self._netns = netns
        self._ref = _filename(netns)

    @staticmethod
    def _path(name: str) -> bytes:
        """As sysctl(8) reads names: the separator that comes first separates, the other one is part of a name."""
        if not isinstance(name, str):
            raise TypeError(f"the name of a setting is a string: {name!r}")
        dot, slash = name.find("."), name.find("/")
        if dot >= 0 and (slash < 0 or dot < slash):
            name_parts = [part.replace("/", ".") for part in name.split(".")]
        else:
            name_parts = name.split("/")
        if (
            len(name_parts) < 2
            or name_parts[0] != "net"
            or "\0" in name
            or any(part in ("", ".", "..") for part in name_parts)
        ):
            raise ValueError(f"not a setting below net: {name!r}")
        return os.fsencode("/proc/sys/" + "/".join(name_parts))

    def _error(self, error: OSError, name: str) -> OSError:
        return OSError(error.errno, f"{error.strerror} ({name})", self._ref)

    def __getitem__(self, name: str) -> str:
        """The value, without the newline at its end. Raises: FileNotFoundError, PermissionError; as `open_ref`."""
        path = self._path(name)
        nsfd, owned = open_ref(self._netns)
        try:
            data = _core.sysctl_read(nsfd, path, self._ref)
        except OSError as error:
            raise self._error(error, name) from None
        finally:
            if owned:
                os.close(nsfd)
        return data.decode().rstrip("\n")

    def __setitem__(self, name: str, value: Union[str, bytes, int]) -> None:
        """Set it. Privilege: CAP_NET_ADMIN over the namespace.

        Raises: FileNotFoundError, PermissionError, OSError(EINVAL) for a value the kernel refuses; as `open_ref`.
        """
        path = self._path(name)
        if isinstance(value, int):
            data = str(int(value)).encode()
        elif isinstance(value, (str, bytes)):
            data = os.fsencode(value)
        else:
            raise TypeError(f"the value of a setting is a string or a number: {value!r}")
        if not data.endswith(b"\n"):
            data += b"\n"
        nsfd, owned = open_ref(self._netns)
        try:
            _core.sysctl_write(nsfd, path, data, self._ref)
        except OSError as error:
            raise self._error(error, name) from None
        finally:
            if owned:
                os.close(nsfd)

    def __contains__(self, name: object) -> bool:
        try:
            self[cast("str", name)]
        except (ValueError, TypeError, FileNotFoundError, IsADirectoryError):
            return False
        except OSError as error:
            # There, and only to be written, or only with more privilege.
            return error.errno in (errno.EACCES, errno.EPERM, errno.EIO)
        return True

    def get(self, name: str, default: Optional[str] = None) -> Optional[str]:
        """The value, or `default` where the namespace has no such setting. Errors otherwise as for reading."""
        try:
            return self[name]
        except FileNotFoundError:
            return default

    def __iter__(self) -> Iterator[str]:
        """Every name, "." between the parts and "/" for a dot inside one."""
        return iter(run_in(self._netns, _sysctl_names))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._ref!r})"


def _sysctl_names() -> list[str]:
    names = []
    # Each thread's own view; /proc/sys would give the same, it is looked up by the thread that asks.
    for directory, _, files in os.walk("/proc/sys/net"):
        parts = directory.split("/")[3:]
        names += [".".join(part.replace(".", "/") for part in (*parts, file)) for file in files]
    return sorted(names)


def sysctl(netns: Ref) -> Sysctl:
    """The settings below /proc/sys/net of the namespace: `sysctl("blue")["net.ipv4.ip_forward"] = 1`.

    Reads give strings. Names are those of sysctl(8), with "." or "/" between the parts, and stay below `net`.
    Each access opens the reference anew and runs inside the namespace, the caller's thread stays where it is.
    """
    return Sysctl(netns)


def watch(nspath: Optional[str] = None, timeout: Optional[float] = None) -> Watch:
    """Namespaces being created and removed in the run directory (or in `nspath`), by whomever, from now on.

        with watch() as events:
            for event, name in events:
                ...

    A namespace counts as created when it is mounted under its name, and as removed when the name is gone. The run
    directory need not exist yet. Iterating ends after `timeout` seconds without an event (None: never).

    Privilege: none. Raises: OSError(EMFILE, ENOSPC) at the limit of inotify instances or watches
    (fs.inotify.max_user_instances); FileNotFoundError if the parent of the run directory does not exist.
    """
    return Watch(nspath or NETNS_RUN_DIR, timeout)
