"""The commands of `fastns`. Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted.

`exec` and `rootless` end as the program they start does, with 126 when it cannot be run, 127 when there is none, and
125 when it was not reached (namespaces, privilege), so that a failing program can be told from a failing fastns.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import socket
import struct
import sys
from typing import Any, Callable, NoReturn

import click

from fastns import __version__, _core, netns
from fastns._watch import is_dead
from fastns.nspopen import exec_mounts

HINT = "run it as root, or inside `fastns rootless -- …`"
NOT_REACHED = 125
INSIDE = "FASTNS_ROOTLESS"  # set in the environment by `fastns rootless`

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
PROGRAM = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def explain(error: OSError) -> str:
    """One line: the reference, what failed, and the way out where privilege is what is missing."""
    text = error.strerror or str(error)
    if error.filename is not None:
        name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
        text = f"{name}: {text}"
    if error.errno in (errno.EPERM, errno.EACCES):
        text = f"{text}; {HINT}"
    return text


def fail(text: str, code: int = 1) -> NoReturn:
    click.echo(f"fastns: {text}", err=True)
    sys.exit(code)


def main() -> None:
    """The entry point: no traceback for what can go wrong outside this program."""
    try:
        code = cli.main(prog_name="fastns", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered goes nowhere at exit
        sys.exit(1)
    except OSError as error:
        fail(explain(error))
    except ValueError as error:
        fail(str(error), 2)
    sys.exit(code if isinstance(code, int) else 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="fastns %(version)s")
def cli() -> None:
    """Network namespaces of Linux."""


def replace_process(argv: tuple[str, ...]) -> NoReturn:
    """Become the program, with the signal dispositions Python changed put back."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvp(argv[0], argv)
    except FileNotFoundError:
        fail(f"{argv[0]}: program not found", 127)
    except OSError as error:
        fail(f"{argv[0]}: {error.strerror}", 126)


# add, del, exec


@cli.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
def add(names: tuple[str, ...]) -> None:
    """Create namespaces, as `ip netns add` does."""
    for_each(names, netns.create)


@cli.command("del")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
def delete(names: tuple[str, ...]) -> None:
    """Remove namespaces, dead entries too. Processes in one keep it alive without its name."""
    for_each(names, netns.remove)


def for_each(names: tuple[str, ...], work: Callable[[str], None]) -> None:
    """All of them, also where one fails; every failure is told."""
    failed = 0
    for name in names:
        try:
            work(name)
        except OSError as error:
            click.echo(f"fastns: {explain(error)}", err=True)
            failed = 1
    sys.exit(failed)


@cli.command("exec", context_settings=PROGRAM)
@click.argument("name", metavar="NS")
@click.argument("argv", nargs=-1, required=True, metavar="CMD…", type=click.UNPROCESSED)
def execute(name: str, argv: tuple[str, ...]) -> None:
    """Become CMD inside a namespace, a name or a path, as with `ip netns exec`.

    /sys shows the namespace, and the files of /etc/netns/NS stand over those of /etc.
    """
    try:
        nsfd, _ = netns.open_ref(name)
        mounts = exec_mounts(name, nsfd)
        _core.enter_for_good(nsfd, name, mounts)
        os.close(nsfd)
    except OSError as error:
        fail(explain(error), NOT_REACHED)
    except ValueError as error:
        fail(str(error), NOT_REACHED)
    for source, target, err in mounts.failures():
        click.echo(f"fastns: {os.fsdecode(source)} over {os.fsdecode(target)}: {os.strerror(err)}", err=True)
    replace_process(argv)


# rootless


@cli.command(context_settings=PROGRAM)
@click.argument("argv", nargs=-1, metavar="[CMD…]", type=click.UNPROCESSED)
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
    os.makedirs(netns.NETNS_RUN_DIR, mode=0o755, exist_ok=True)


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
    SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1  # netdevice(7); not in the standard library
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sH22x", b"lo", 0))
        flags = struct.unpack_from("H", request, 16)[0] | IFF_UP
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags))


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


# list


@cli.command("list")
@JSON
def list_command(as_json: bool) -> None:
    """Show the namespaces of the run directory: id, links, processes, dead entries."""
    pids = netns.ns_pids()
    found = [item for name in sorted(netns.listnetns()) if (item := describe(name, pids.get(name, [])))]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    rows: list[tuple[str, ...]] = [
        (
            item["name"],
            "" if item["nsid"] is None else str(item["nsid"]),
            "?" if item["links"] is None else " ".join(item["links"]),
            " ".join(map(str, item["pids"])),
            item["state"],
        )
        for item in found
    ]
    table(("name", "nsid", "links", "processes", "state"), rows)


def describe(name: str, pids: list[int]) -> dict[str, Any] | None:
    """Everything `list` shows of one entry; None if it has just been removed."""
    shown: dict[str, Any] = {"name": name, "state": "alive", "inode": None, "nsid": None, "links": None, "pids": pids}
    try:
        nsfd, _ = netns.open_ref(name)
    except OSError as error:
        path = os.path.join(netns.NETNS_RUN_DIR, name)
        if not os.path.lexists(path):
            return None
        shown["state"] = "dead" if is_dead(os.fsencode(path)) else explain(error)
        return shown
    try:
        shown["inode"] = os.fstat(nsfd).st_ino
        shown["nsid"] = netns._nsid(nsfd)
        shown["links"] = link_names(nsfd)
    except PermissionError:
        pass  # it may be seen, but not entered
    finally:
        os.close(nsfd)
    return shown


def link_names(nsfd: int) -> list[str]:
    from fastns.iproute import NetNS

    with NetNS(nsfd, flags=0, transport="direct") as ns:
        return [link.get("ifname") for link in ns.get_links()]


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Aligned columns; when read by a program, whole lines whatever their length."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console() if sys.stdout.isatty() else Console(width=100_000, color_system=None)
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in head:
        shown.add_column(title)
    for row in rows:
        shown.add_row(*map(Text, row))
    with console.capture() as capture:
        console.print(shown)
    click.echo(re.sub(r" +$", "", capture.get(), flags=re.M), nl=False)


# doctor

CAPABILITIES = {"CAP_DAC_OVERRIDE": 1, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21}
LIMITS = {
    "net.core.rmem_max": "/proc/sys/net/core/rmem_max",
    "net.core.wmem_max": "/proc/sys/net/core/wmem_max",
    "user.max_net_namespaces": "/proc/sys/user/max_net_namespaces",
    "user.max_mnt_namespaces": "/proc/sys/user/max_mnt_namespaces",
    "user.max_user_namespaces": "/proc/sys/user/max_user_namespaces",
    "fs.nr_open": "/proc/sys/fs/nr_open",
}
SOL_NETLINK, SO_RCVBUFFORCE = 270, 33  # linux/socket.h, asm/socket.h; not in the standard library
NETLINK_OPTIONS = {  # linux/netlink.h
    "NETLINK_EXT_ACK": 11,
    "NETLINK_CAP_ACK": 10,
    "NETLINK_GET_STRICT_CHK": 12,
    "NETLINK_LISTEN_ALL_NSID": 8,
}


@cli.command()
@JSON
def doctor(as_json: bool) -> None:
    """Say what this machine lets fastns do, and what fastns will use. Exit code 1 if it cannot work at all."""
    report = examine()
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        rows: list[tuple[str, ...]] = []
        for section in ("system", "privilege", "features", "limits", "tools", "use"):
            for number, (name, value) in enumerate(report[section].items()):
                text = {"True": "yes", "False": "no", "None": "?"}.get(str(value), str(value))
                rows.append((section if number == 0 else "", name, text))
        table(("", "", ""), rows)
        for problem in report["problems"]:
            click.echo(f"! {problem}")
    sys.exit(0 if report["ready"] else 1)


def examine() -> dict[str, Any]:
    """Everything `doctor` finds out, by trying."""
    import platform
    import resource
    import shutil
    from importlib import metadata

    effective = int((re.search(r"CapEff:\s*(\w+)", read("/proc/self/status") or "") or ["", "0"])[1], 16)
    capabilities = {name: bool(effective >> bit & 1) for name, bit in CAPABILITIES.items()}
    system = {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "fastns": __version__,
        "build": _core.BUILD,
        "pyroute2": metadata_version("pyroute2", metadata),
    }
    features = probe_features()
    create = try_create()
    way_back = try_way_back()
    run_dir = try_run_dir()
    user_namespace = (read("/proc/self/uid_map") or "").split() != ["0", "0", "4294967295"]
    as_user = None if create == "" else try_rootless()
    privilege = {
        "user": os.geteuid(),
        **capabilities,
        "inside a user namespace": user_namespace,
        "inside fastns rootless": bool(os.environ.get(INSIDE)),
        "create and enter a namespace": create == "",
        "write the run directory": run_dir == "",
        "user namespaces (fastns rootless)": as_user,
    }
    limits: dict[str, Any] = {name: read(path) for name, path in LIMITS.items()}
    limits["open files (soft, hard)"] = " ".join(map(str, resource.getrlimit(resource.RLIMIT_NOFILE)))
    tools = {name: shutil.which(name) for name in ("ip", "ping")}
    forced = features["SO_RCVBUFFORCE"]
    use = {
        "namespaces": NAMESPACES[create == "" and run_dir == "", as_user is True],
        "way into a namespace": "the calling thread, there and back" if way_back else "a throw-away thread",
        "requests": "direct, on a socket of this process" if create == "" else "through a proxy process",
        "events": "through the shared proxy process",
        "event buffer": "as large as asked (SO_RCVBUFFORCE)" if forced else f"at most {limits['net.core.rmem_max']} bytes",
    }
    problems = [
        problem
        for problem in (
            create and f"namespaces cannot be created here: {create}",
            run_dir and f"the run directory {netns.NETNS_RUN_DIR} cannot be used: {run_dir}",
            as_user is False and "and an ordinary user gets no user namespace either",
            not features["NETLINK_EXT_ACK"] and "kernel before 4.12: errors come without the kernel's text",
            not features["NETLINK_GET_STRICT_CHK"] and "kernel before 4.20: filters are applied by fastns",
            tools["ip"] is None and "no `ip`: fine for fastns, needed by its tests",
            _core.BUILD != "release" and f"this is a {_core.BUILD} build: its speed says nothing",
        )
        if problem
    ]
    ready = (create == "" and run_dir == "") or as_user is True
    return {
        "system": system,
        "privilege": privilege,
        "features": features,
        "limits": limits,
        "tools": tools,
        "use": use,
        "problems": problems,
        "ready": ready,
    }


NAMESPACES = {
    (True, True): "this machine's",
    (True, False): "this machine's",
    (False, True): "those of a user namespace, with `fastns rootless`",
    (False, False): "none",
}


def metadata_version(name: str, metadata: Any) -> str | None:
    try:
        version: str = metadata.version(name)
        return version
    except metadata.PackageNotFoundError:
        return None


def probe_features() -> dict[str, bool]:
    features = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        for name, option in NETLINK_OPTIONS.items():
            features[name] = works(lambda option=option: sock.setsockopt(SOL_NETLINK, option, 1))
        features["SO_RCVBUFFORCE"] = works(lambda: sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 20))
    features["memfd_create"] = works(lambda: os.close(os.memfd_create("fastns", os.MFD_CLOEXEC)))
    features["pidfd_open"] = works(lambda: os.close(os.pidfd_open(os.getpid())))
    features["seccomp filter"] = os.path.exists("/proc/sys/kernel/seccomp/actions_avail")
    return features


def works(attempt: Any) -> bool:
    try:
        attempt()
    except (OSError, AttributeError):
        return False
    return True


def try_create() -> str:
    """Make a namespace without a name and open a socket in it. The reason why not, or "" ."""
    try:
        nsfd = _core.ns_new()
        try:
            os.close(_core.socket_in(nsfd, socket.AF_NETLINK, socket.SOCK_RAW, 0))
        finally:
            os.close(nsfd)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def try_way_back() -> bool:
    """Whether setns() to the own namespace works, which is what returning to it asks for. setns(2)."""
    fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _core.ns_set(fd)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def try_run_dir() -> str:
    place = netns.NETNS_RUN_DIR
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    return "" if os.access(place, os.W_OK | os.X_OK) else f"no right to write {place}"


def try_rootless() -> bool:
    """Whether an ordinary user's `fastns rootless` works, tried in a child."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            enter_rootless()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


# demo


@cli.command()
@click.option("--routes", default=100_000, show_default=True, type=click.IntRange(1, 10_000_000), help="How many to load.")
@JSON
def demo(routes: int, as_json: bool) -> None:
    """Show fastns at work on two namespaces of its own, beside pyroute2. Leaves nothing behind.

    Without root it does so in a user namespace (`fastns rootless`).
    """
    if try_create() or try_run_dir():
        try:
            enter_rootless()
        except OSError as error:
            fail(explain_rootless(error))
        refused = try_create() or try_run_dir()
        if refused:
            fail(refused)
    from fastns import _demo

    _demo.run(routes, as_json)
