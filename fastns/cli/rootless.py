"""`fastns rootless`: namespaces of an ordinary user."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

import click

from fastns import _core
from fastns.cli.base import INSIDE, NOT_REACHED, RUN_DIR, Program, complete_program, fail, replace_process


@click.command(cls=Program)
@click.argument("argv", nargs=-1, metavar="[CMD…]", type=click.UNPROCESSED, shell_complete=complete_program)
def rootless(argv: tuple[str, ...]) -> None:
    """Become CMD (or a shell) as root of a user, mount and network namespace of its own. No privilege needed.

    /var/run/netns is private there, so `fastns` and `ip netns` work on namespaces that vanish with the last process.
    """
    try:
        enter_rootless()
    except OSError as error:
        fail(explain_rootless(error), NOT_REACHED)
    replace_process(argv or (os.environ.get("SHELL") or "/bin/sh",))


def enter_rootless() -> None:
    """Move this process (one thread) into new user, mount and network namespaces, root in them."""
    uid, gid = os.geteuid(), os.getegid()
    _core.unshare_process(_core.CLONE_NEWUSER | _core.CLONE_NEWNS | _core.CLONE_NEWNET)
    for file, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{file}", "w") as stream:
            stream.write(text)
    _core.mount_on(b"", b"/", None, _core.MS_REC | _core.MS_SLAVE)
    own_run_dir()
    own_sys()
    loopback_up()
    os.environ[INSIDE] = "1"


def own_run_dir() -> None:
    """A run directory of our own: what is in it now stays visible, only the namespaces do not."""
    run = os.path.realpath("/var/run")
    below = os.open(run, os.O_PATH | os.O_CLOEXEC)
    try:
        entries = [(entry.name, entry.is_symlink(), entry.is_dir()) for entry in os.scandir(run)]
        _core.mount_on(b"tmpfs", os.fsencode(run), b"tmpfs", 0, b"mode=755")
        for name, is_link, is_dir in entries:
            source, target = f"/proc/self/fd/{below}/{name}", os.path.join(run, name)
            if name == "netns":
                continue
            if is_link:
                os.symlink(os.readlink(source), target)
                continue
            if is_dir:
                os.mkdir(target)
            else:
                os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
            try:
                _core.mount_on(os.fsencode(source), os.fsencode(target), None, _core.MS_BIND | _core.MS_REC)
            except OSError:
                (os.rmdir if is_dir else os.unlink)(target)
    finally:
        os.close(below)
    os.makedirs(RUN_DIR, mode=0o755, exist_ok=True)


def own_sys() -> None:
    """/sys of the new network namespace. A kernel that refuses leaves the old one, which shows fewer devices."""
    try:
        groups = os.open("/sys/fs/cgroup", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        groups = -1
    try:
        _core.mount_on(b"sysfs", b"/sys", b"sysfs")
        if groups >= 0:
            source = os.fsencode(f"/proc/self/fd/{groups}")
            _core.mount_on(source, b"/sys/fs/cgroup", None, _core.MS_BIND | _core.MS_REC)
    except OSError:
        pass
    finally:
        if groups >= 0:
            os.close(groups)


def loopback_up() -> None:
    """netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = fcntl.ioctl(sock, _core.SIOCGIFFLAGS, struct.pack("16sH22x", b"lo", 0))
        flags = struct.unpack_from("H", request, 16)[0] | _core.IFF_UP
        fcntl.ioctl(sock, _core.SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags))


def explain_rootless(error: OSError) -> str:
    text = f"no namespaces for an ordinary user here: {error.strerror}"
    causes = [
        f"{path.replace('/proc/sys/', '').replace('/', '.')} = {value}"
        for path, bad in USER_NAMESPACE_SETTINGS.items()
        if (value := read(path)) in bad
    ]
    if error.errno == errno.ENOSPC:
        causes.append(f"user.max_user_namespaces = {read('/proc/sys/user/max_user_namespaces')} is used up")
    if error.errno == errno.EPERM and os.geteuid() == 0:
        causes.append("this root has neither CAP_SYS_ADMIN nor CAP_SETFCAP, which root needs to map itself")
    if causes:
        text = f"{text} ({', '.join(causes)})"
    return text


USER_NAMESPACE_SETTINGS = {
    "/proc/sys/kernel/unprivileged_userns_clone": ("0",),
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": ("1",),
    "/proc/sys/user/max_user_namespaces": ("0",),
}


def read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return None
