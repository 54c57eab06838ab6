"""Start a process inside a network namespace: `NSPopen`, a real `subprocess.Popen`.

Nothing of subprocess is copied. `Popen._execute_child` runs as it is in the Python at hand, with one name replaced:
the call of `fork_exec` is made from inside the namespace. So there is no helper process, the pid and the
descriptors are this process's own, and every argument of `Popen` means what it means there. What else stands there
for `subprocess.Popen` when this is imported is taken as it is, and its child enters by itself.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import types
import weakref
from _posixsubprocess import fork_exec
from _thread import start_new_thread
from collections.abc import Iterable
from typing import Any, Callable

from fastns import _core
from fastns.netns import open_ref

__all__ = ["NSPopen"]

# Those of `ip netns exec`, which knows no other run directory.
RUN_DIR = "/var/run/netns"
ETC_DIR = "/etc/netns"

log = logging.getLogger("fastns")

_Popen = subprocess.Popen
_execute_child: types.FunctionType = _Popen._execute_child  # type: ignore[attr-defined]
_PARAMETERS = _execute_child.__code__.co_varnames[1 : _execute_child.__code__.co_argcount]
_PREEXEC_FN = _PARAMETERS.index("preexec_fn")
_IDENTITY = [_PARAMETERS.index(name) for name in ("gid", "gids", "uid")]
# Another Popen, which a program has put in the place of the interpreter's (gevent's is one), may start by other means.
_OTHER = not {"_fork_exec", "fork_exec"} & set(_execute_child.__code__.co_names)
# As it is now: what a program puts there later may close a descriptor later (gevent's does), and the end of a pipe that
# is still open here is no end for who reads it.
_os = types.ModuleType("os")
vars(_os).update(vars(_execute_child.__globals__["os"]))


def _name_of(reference: Any, netns_fd: int) -> str | None:
    """The name in the run directory of what `netns_fd` refers to, or None. Same namespace: same device and inode."""
    if isinstance(reference, bytes):
        reference = os.fsdecode(reference)
    if isinstance(reference, str):
        head, tail = os.path.split(reference)
        if not head or os.path.realpath(head) == os.path.realpath(RUN_DIR):
            return tail
    wanted = os.fstat(netns_fd)
    try:
        entries = sorted(os.listdir(RUN_DIR))
    except OSError:
        return None
    for name in entries:
        try:
            found = os.stat(os.path.join(RUN_DIR, name))
        except OSError:
            continue
        if os.path.samestat(found, wanted):
            return name
    return None


def exec_mounts(reference: Any, netns_fd: int) -> _core.SpawnMounts:
    """What `ip netns exec` mounts for this namespace: /sys, and /etc/netns/NAME/* over /etc. ip-netns(8).

    A namespace without a name in the run directory has no files under /etc/netns.
    """
    name = _name_of(reference, netns_fd)
    binds = []
    if name:
        directory = os.path.join(ETC_DIR, name)
        try:
            files = os.listdir(directory)
        except OSError:
            files = []
        binds = [(os.fsencode(os.path.join(directory, f)), os.fsencode(os.path.join("/etc", f))) for f in files]
    try:
        read_only = bool(os.statvfs("/sys").f_flag & os.ST_RDONLY)
    except OSError:
        read_only = False
    return _core.SpawnMounts(os.fsencode(name or "sysfs"), read_only, binds)


def report_mounts(mounts: _core.SpawnMounts) -> None:
    """Log the files that could not be bound: as with `ip netns exec`, the program runs all the same."""
    for source, target, err in mounts.failures():
        log.warning("Bind %s -> %s failed: %s", os.fsdecode(source), os.fsdecode(target), os.strerror(err))


def _file_method(file: Any, name: str) -> Callable[..., Any]:
    """fcntl.<name> on whatever descriptor the file has when called; does not keep the file open."""
    target = getattr(fcntl, name)
    ref = weakref.ref(file)

    def method(*args: Any, **kwargs: Any) -> Any:
        alive = ref()
        if alive is None:
            raise ValueError("I/O operation on closed file")
        return target(alive.fileno(), *args, **kwargs)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = target.__doc__
    return method


class NSPopen(_Popen):  # type: ignore[type-arg]
    """A `subprocess.Popen` whose program starts inside a network namespace.

    `nsname`: a name in /var/run/netns, a path, an open descriptor or file; or `pid=` of a process there (then
    `nsname` stays None). All other arguments go to `subprocess.Popen`, and all its attributes and methods work:
    the pid is the program's own, the pipes are this process's own descriptors, fit for select, asyncio and
    `pass_fds` of another process.

    `flags`, as in open(2): 0 (default) wants an existing namespace, os.O_CREAT creates a missing one,
    os.O_CREAT | os.O_EXCL wants to be the one who creates it. A created namespace stays.

    `exec_like_ip=True`: as `ip netns exec`. The program gets a mount namespace of its own (mounts made outside
    still arrive, its own stay inside), /sys shows the namespace's devices (nothing else stays mounted below /sys),
    and each file /etc/netns/NAME/FILE stands over /etc/FILE, if it can: those that cannot are logged. NAME is
    found by inode for a descriptor or pid; a namespace without a name has no such files. The process's
    membership in a VRF control group is kept, which `ip` would clear.

    `libc` is accepted for pyroute2's sake and unused.

    Beside Popen's: `release()`, and the methods `fcntl`, `ioctl`, `flock` and `lockf` (module fcntl, the
    descriptor filled in) on `stdin`, `stdout` and `stderr`.

    Threads: no other thread's namespace changes, and the caller's only for the duration of the vfork, with the
    GIL held. Where the caller could not come back (network_namespaces(7): no CAP_SYS_ADMIN over the user
    namespace that owns the current one), and always with `exec_like_ip`, a throw-away thread starts the
    program. A parent-death signal (PR_SET_PDEATHSIG, prctl(2)) follows the thread that forked; a program
    that sets it within its first microseconds may get it from that thread's end.
    With `preexec_fn` the calling thread forks, and the child enters the namespace just before it calls
    `preexec_fn`, so a parent-death signal set there means the calling thread. The exception is `preexec_fn`
    together with `user`, `group` or `extra_groups`: entering must come before them, hence in the parent as above.

    Privilege: CAP_SYS_ADMIN in the current user namespace and in the one owning the network namespace.

    Raises: FileNotFoundError (no such namespace, flags=0), FileExistsError (O_CREAT | O_EXCL), PermissionError and
    other OSError with `filename` = the namespace (open, setns, unshare, mount), and whatever subprocess raises about
    the program. When it raises after the program has started, as a signal handler may make it, the program is killed
    and reaped. Source: setns(2), ip-netns(8).
    """

    nsname: Any
    flags: int
    released: bool

    def __init__(
        self,
        nsname: Any = None,
        *popen_args: Any,
        flags: int = 0,
        exec_like_ip: bool = False,
        pid: int | None = None,
        libc: Any = None,
        **popen_kwargs: Any,
    ) -> None:
        self.nsname = nsname
        self.flags = flags
        self.released = False
        child = _core.SpawnChild()
        try:
            with open_ref(nsname, flags, pid=pid, libc=libc) as netns_fd:
                reference: Any = nsname
                if pid is not None:
                    reference = f"/proc/{pid}/ns/net"
                elif not isinstance(nsname, (str, bytes, int)):
                    reference = getattr(nsname, "name", netns_fd)
                mounts = exec_mounts(reference, netns_fd) if exec_like_ip else None
                self._start_in = (netns_fd, reference, mounts, child)
                try:
                    super().__init__(*popen_args, **popen_kwargs)
                finally:
                    self.__dict__.pop("_start_in", None)
            for file in (self.stdin, self.stdout, self.stderr):
                if file is not None:
                    for name in ("fcntl", "ioctl", "flock", "lockf"):
                        setattr(file, name, _file_method(file, name))
            child.keep()
        except BaseException:
            if child.pid and self.returncode is None:
                self.returncode = -signal.SIGKILL
            child.end()
            raise

    def __exit__(self, *exc_info: Any) -> None:
        if not self.released:
            super().__exit__(*exc_info)

    def _execute_child(self, *args: Any) -> None:
        netns_fd, reference, mounts, child = self._start_in
        preexec_fn = args[_PREEXEC_FN]
        if _OTHER or (preexec_fn is not None and all(args[i] is None for i in _IDENTITY)):
            self._enter_in_child(preexec_fn, args)
        else:
            self._execute_with(_fork_exec_in(netns_fd, reference, mounts, child), args)
        if mounts is not None:
            report_mounts(mounts)

    def _execute_with(self, call: Callable[..., int], args: Iterable[Any]) -> None:
        scope = {**_execute_child.__globals__, "os": _os}
        scope["_fork_exec"] = call
        scope["_posixsubprocess"] = types.SimpleNamespace(fork_exec=call)  # Python 3.9, 3.10
        scope["_USE_POSIX_SPAWN"] = False
        types.FunctionType(_execute_child.__code__, scope)(self, *args)

    if not _OTHER:
        _close_pipe_fds = types.FunctionType(
            _Popen._close_pipe_fds.__code__,  # type: ignore[attr-defined]
            {**_Popen._close_pipe_fds.__globals__, "os": _os},  # type: ignore[attr-defined]
        )

    def _enter_in_child(self, preexec_fn: Callable[[], Any] | None, args: tuple[Any, ...]) -> None:
        netns_fd, reference, mounts, child = self._start_in
        # The child can only say that something failed, not what; so find out here whether entering works.
        _core.fork_exec_in(netns_fd, reference, mounts, None, ())
        with _core.duplicated(netns_fd) as safe_fd:  # below 3 the child puts its standard files
            gid, gids, uid = (args[i] for i in _IDENTITY)

            def enter_and_call() -> None:
                _core.enter_for_good(safe_fd, reference, mounts)
                if gids is not None:
                    os.setgroups(gids)
                if gid is not None:
                    os.setregid(gid, gid)
                if uid is not None:
                    os.setreuid(uid, uid)
                if preexec_fn is not None:
                    preexec_fn()

            changed = list(args)
            changed[_PREEXEC_FN] = enter_and_call
            for i in _IDENTITY:  # who has given them up could not enter any more
                changed[i] = None
            if _OTHER:
                if not isinstance(args[0], (str, bytes, os.PathLike)):
                    changed[0] = [os.fspath(arg) for arg in args[0]]  # Python code, not to run inside the namespace
                _execute_child(self, *changed)
            else:
                self._execute_with(lambda *arguments: child.start(fork_exec, arguments), changed)

    def release(self) -> None:
        """Close the pipes and let go of the child; afterwards every attribute access raises RuntimeError.

        Sends no signal. A child that has ended is reaped; one that still runs is waited for by a thread that
        ends with it, so it never becomes a zombie. Calling it again does nothing. A pipe to `stdin` that still
        holds buffered data is flushed; that its reader is gone is no error here.
        """
        if self.released:
            return
        self.released = True
        for file in (self.stdin, self.stdout, self.stderr):
            if file is not None:
                try:
                    file.close()
                except BrokenPipeError:
                    pass
        if self.poll() is not None:
            self.__class__ = _Released
            return
        if _OTHER:
            return  # it waits by itself, and needs this object for it
        # This object will not be usable, so a plain one with the same state does the waiting.
        waiter = _Popen.__new__(_Popen)
        waiter.__dict__.update(self.__dict__)
        self.__class__ = _Released
        start_new_thread(waiter.wait, ())


class _Released(NSPopen):
    """What an NSPopen becomes by release(). Changing the class costs the living ones nothing per access."""

    def __init__(self) -> None:
        raise TypeError("not to be made")

    def __getattribute__(self, name: str) -> Any:
        if name in ("release", "released", "nsname", "flags") or (name[:2] == "__" and name[-2:] == "__"):
            return object.__getattribute__(self, name)
        raise RuntimeError("the object is released")

    def __enter__(self) -> _Released:
        raise RuntimeError("the object is released")

    def __del__(self) -> None:
        """The waiting is done or somebody else's."""

    def __repr__(self) -> str:
        return f"<NSPopen: in {self.nsname!r}, released>"


def _fork_exec_in(
    netns_fd: int, reference: Any, mounts: _core.SpawnMounts | None, child: _core.SpawnChild
) -> Callable[..., int]:
    """fork_exec with subprocess's signature, which runs inside the namespace."""

    def call(argv: list[Any], executables: Any, close_fds: Any, keep: Any, cwd: Any, *rest: Any) -> int:
        # To bytes here: __fspath__ is Python code and must not run inside the namespace.
        plain = [os.fsencode(arg) for arg in argv]
        if cwd is not None:
            cwd = os.fsencode(cwd)
        arguments = (plain, executables, close_fds, keep, cwd, *rest)
        pid: int = _core.fork_exec_in(netns_fd, reference, mounts, child.start, (fork_exec, arguments))
        return pid

    return call
