"""Makes system calls fail, in a forked child: seccomp filters, limits, dropped capabilities, user namespaces."""

from __future__ import annotations

import ctypes
import faulthandler
import fcntl
import os
import platform
import resource
import signal
import struct
import threading
import traceback
from typing import Callable, Iterable, Sequence

import pytest

CLONE_NEWUSER = 0x10000000
CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)

_NUMBERS = {
    "x86_64": {
        "socket": 41, "clone": 56, "flock": 73, "mount": 165, "umount2": 166, "unlink": 87, "unshare": 272,
        "setns": 308, "openat": 257, "clone3": 435, "seccomp": 317,
        "setresuid": 117, "setresgid": 119, "landlock_create_ruleset": 444,
    },
    "aarch64": {
        "socket": 198, "clone": 220, "flock": 32, "mount": 40, "umount2": 39, "unlink": 35, "unshare": 97,
        "setns": 268, "openat": 56, "clone3": 435, "seccomp": 277,
        "setresuid": 147, "setresgid": 149, "landlock_create_ruleset": 444,
    },
}  # fmt: skip
_PR_SET_NO_NEW_PRIVS = 38
_MODE_FILTER = 1
_NEW_LISTENER = 8
_RET_ALLOW = 0x7FFF0000
_RET_ERRNO = 0x00050000
_RET_NOTIFY = 0x7FC00000
_NOTIF_RECV = 0xC0502100
_NOTIF_SEND = 0xC0182101
_CONTINUE = 1
_LD_WORD, _JEQ, _RET = 0x20, 0x15, 0x06


def number(name: str) -> int:
    try:
        return _NUMBERS[platform.machine()][name]
    except KeyError:
        pytest.skip(f"kernel: no number known for {name} on {platform.machine()}")


def call(result: int) -> int:
    """The result of a libc call, or its OSError."""
    if result < 0:
        err = ctypes.get_errno()
        raise OSError(err, os.strerror(err))
    return result


def in_child(body: Callable[[], object]) -> int:
    """Run body in a forked child: an exception there fails the test, the wait status comes back."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
            faulthandler.disable()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            body()
            status = 0
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-60000:])
        finally:
            os._exit(status)
    os.close(writer)
    try:
        with open(reader, "rb") as pipe:
            text = pipe.read().decode()
    except BaseException:  # the test's time is up
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        status = os.waitpid(pid, 0)[1]
    if text:
        pytest.fail(text, pytrace=False)
    return status


def survives(body: Callable[[], object]) -> None:
    status = in_child(body)
    assert status == 0, f"the child ended with wait status {status}"


def _program(
    rules: Iterable[Sequence[object]], verdict: Callable[[object], int]
) -> ctypes.Array[ctypes.c_char]:
    code = b""
    for name, err, *rest in rules:
        tests = [(0, number(str(name)))]
        for index, value in (rest[0] if rest else {}).items():  # type: ignore[union-attr]
            tests.append((16 + 8 * index, value & 0xFFFFFFFF))
        for left, (offset, value) in zip(range(len(tests), 0, -1), tests):
            code += struct.pack("=HBBI", _LD_WORD, 0, 0, offset)
            code += struct.pack("=HBBI", _JEQ, 0, 2 * left - 1, value)
        code += struct.pack("=HBBI", _RET, 0, 0, verdict(err))
    code += struct.pack("=HBBI", _RET, 0, 0, _RET_ALLOW)
    return ctypes.create_string_buffer(code, len(code))


def _install(program: ctypes.Array[ctypes.c_char], flags: int) -> int:
    fprog = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(program))
    holder = ctypes.create_string_buffer(fprog, len(fprog))
    call(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    return call(libc.syscall(number("seccomp"), _MODE_FILTER, flags, holder))


def deny(*rules: Sequence[object]) -> None:
    """From now on, in this thread and what it starts, the calls fail: (name, errno[, {argument: value}])."""
    _install(_program(rules, lambda err: _RET_ERRNO | int(err)), 0)  # type: ignore[call-overload]


def supervise(name: str, judge: Callable[[int, int], int]) -> None:
    """From now on every call of that name, in this thread and what it starts, waits for judge(n, thread id), n from
    1 on, called in a thread of its own: the errno it fails with, or 0. The caller must not hold the GIL."""
    ready = threading.Event()
    listener = -1

    def run() -> None:
        ready.wait()
        for n in range(1, 1000):
            request = bytearray(80)
            fcntl.ioctl(listener, _NOTIF_RECV, request, True)
            ident, tid = struct.unpack_from("=QI", request)
            try:
                err = judge(n, tid)
            except BaseException:  # or the call would wait for ever
                traceback.print_exc()
                os._exit(70)
            answer = struct.pack("=QqiI", ident, 0, -err, 0 if err else _CONTINUE)
            fcntl.ioctl(listener, _NOTIF_SEND, bytearray(answer), True)

    threading.Thread(target=run, daemon=True).start()
    listener = _install(_program([(name, 0)], lambda err: _RET_NOTIFY), _NEW_LISTENER)
    ready.set()


def user_namespace(flags: int = 0) -> None:
    """Move this (single-threaded) process into a new user namespace, its root; its network namespace stays behind
    in the parent's unless flags have CLONE_NEWNET."""
    uid, gid = os.geteuid(), os.getegid()
    call(libc.unshare(CLONE_NEWUSER | flags))
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def drop_capabilities() -> None:
    """Be an unprivileged process, whose user id stays."""
    header = struct.pack("=Ii", 0x20080522, 0)
    call(libc.capset(header, bytes(24)))


def ordinary_user() -> None:
    """Be somebody whom the kernel's limits bind: they spare the machine's root."""
    try:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    except OSError:
        return  # a user namespace that knows no other id: nobody special outside
    call(libc.prctl(4, 1, 0, 0, 0))  # PR_SET_DUMPABLE: or /proc/self is root's


def here() -> str:
    """The calling thread's network namespace."""
    return os.readlink("/proc/thread-self/ns/net")


def socket_namespace(fd: int) -> str:
    """The network namespace a socket is of."""
    nsfd = fcntl.ioctl(fd, 0x894C)  # SIOCGSKNS
    try:
        return f"net:[{os.fstat(nsfd).st_ino}]"
    finally:
        os.close(nsfd)
