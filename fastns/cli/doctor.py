"""`fastns doctor`: what this machine lets fastns do."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from typing import Any

import click

from fastns import __version__, _core
from fastns.cli.base import INSIDE, JSON, RUN_DIR, table
from fastns.cli.rootless import enter_rootless, read

CAPABILITIES = ("CAP_DAC_OVERRIDE", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_PTRACE", "CAP_SYS_ADMIN")
LIMITS = {
    "net.core.rmem_max": "/proc/sys/net/core/rmem_max",
    "net.core.wmem_max": "/proc/sys/net/core/wmem_max",
    "user.max_net_namespaces": "/proc/sys/user/max_net_namespaces",
    "user.max_mnt_namespaces": "/proc/sys/user/max_mnt_namespaces",
    "user.max_user_namespaces": "/proc/sys/user/max_user_namespaces",
    "fs.nr_open": "/proc/sys/fs/nr_open",
}
NETLINK_OPTIONS = ("NETLINK_EXT_ACK", "NETLINK_CAP_ACK", "NETLINK_GET_STRICT_CHK", "NETLINK_LISTEN_ALL_NSID")


@click.command()
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
    capabilities = {name: bool(effective >> getattr(_core, name) & 1) for name in CAPABILITIES}
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
            run_dir and f"the run directory {RUN_DIR} cannot be used: {run_dir}",
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
        for name in NETLINK_OPTIONS:
            option = getattr(_core, name)
            features[name] = works(lambda option=option: sock.setsockopt(_core.SOL_NETLINK, option, 1))
        features["SO_RCVBUFFORCE"] = works(
            lambda: sock.setsockopt(socket.SOL_SOCKET, _core.SO_RCVBUFFORCE, 1 << 20)
        )
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
            _core.socket_in(nsfd, socket.socket, socket.AF_NETLINK, socket.SOCK_RAW).close()
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
    place = RUN_DIR
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
