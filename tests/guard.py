"""What a process holds of the system, and the difference between two such looks."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

from isolation import RUN_DIR, privilege

Snapshot = dict


def descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the descriptor the listing itself used
            continue
    return found


def children() -> dict[int, str]:
    """Child processes of every thread of this process, zombies included."""
    me = os.getpid()
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                text = stat.read().decode(errors="replace")
        except OSError:
            continue
        head, _, rest = text.rpartition(")")
        state, ppid = rest.split()[:2]
        if int(ppid) == me:
            found[int(name)] = f"{head.partition('(')[2]} ({state})"
    return found


def threads() -> dict[int, str]:
    """Every thread the kernel knows, also those Python does not."""
    named = {getattr(t, "native_id", None): t.name for t in threading.enumerate()}  # eventlet's have none
    found = {}
    for name in os.listdir("/proc/self/task"):
        try:
            netns = os.stat(f"/proc/self/task/{name}/ns/net").st_ino
        except OSError:
            continue
        found[int(name)] = f"{named.get(int(name), 'unknown to Python')} in network namespace {netns}"
    return found


def mounts() -> dict[str, str]:
    found = {}
    run_dir = os.path.realpath(RUN_DIR)
    with open("/proc/self/mountinfo", errors="surrogateescape") as lines:
        for line in lines:
            left, _, right = line.partition(" - ")
            fields = left.split()
            # The run directory's own is made by the first namespace, and kept on purpose.
            if fields[4] != run_dir and fields[4] not in privilege.passing:
                found[fields[0]] = f"{right.split()[0]} {fields[3]} on {fields[4]}"
    return found


def names() -> dict[str, str]:
    try:
        return dict.fromkeys(os.listdir(RUN_DIR), "entry")
    except OSError:
        return {}


def interfaces() -> dict[int, str]:
    try:
        return dict(socket.if_nameindex())
    except OSError:
        return {}


def state() -> dict[str, Any]:
    return {
        "blocked signals": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "working directory": os.getcwd(),
        "mount namespace": os.stat("/proc/thread-self/ns/mnt").st_ino,
    }


PARTS = {
    "file descriptor": descriptors,
    "child process": children,
    "thread": threads,
    "mount": mounts,
    f"name in {RUN_DIR}": names,
    "interface": interfaces,
    "state": state,
}


def look() -> Snapshot:
    return {kind: part() for kind, part in PARTS.items()}


def close_shared_proxy() -> None:
    """The one proxy a process shares is meant to stay; between tests it goes, so that nothing can hide in it."""
    proxy = sys.modules.get("fastns.proxy")
    close = getattr(proxy, "close_shared", None)
    if close is not None:
        close()


def difference(before: Snapshot, after: Snapshot) -> list[str]:
    found: list[str] = []
    for kind, old in before.items():
        new = after[kind]
        found += [f"{kind} left behind: {key} -> {new[key]}" for key in new.keys() - old.keys()]
        if kind != "thread":  # pytest ends its watchdog thread when a test fails
            found += [f"{kind} gone: {key} -> {old[key]}" for key in old.keys() - new.keys()]
        found += [
            f"{kind} changed: {key}: {old[key]} -> {new[key]}"
            for key in old.keys() & new.keys()
            if old[key] != new[key]
        ]
    return sorted(found)


def leaks(before: Snapshot, patience: float = 5.0) -> list[str]:
    """What is different from `before` once cycles are collected and the kernel has had its time.

    The kernel takes namespaces, their interfaces and exiting threads apart after the call that let them go.
    """
    close_shared_proxy()
    found = difference(before, look())
    if not found:
        return found
    gc.collect()
    end = time.monotonic() + patience
    while True:
        found = difference(before, look())
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.01)
