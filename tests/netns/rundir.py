"""What tests of the run directory look at."""

from __future__ import annotations

import os
import subprocess

import pytest
from conftest import discard
from isolation import RUN_DIR, privilege

from fastns import netns as ns

MNT_DETACH = 2


def ip(*args: str) -> str:
    return subprocess.run(["ip", *args], check=True, capture_output=True, text=True).stdout


def ip_names() -> set[str]:
    return {line.split()[0] for line in ip("netns", "list").splitlines()}


def path_of(name: str) -> str:
    return os.path.join(RUN_DIR, name)


def is_mounted(path: str) -> bool:
    # an unmounted mount point is on a tmpfs, a namespace on nsfs
    return os.lstat(path).st_dev != os.lstat(os.path.dirname(path)).st_dev


def mounts_on(path: str) -> list[str]:
    """The lines of mountinfo for what is mounted on path, without what is hidden beneath another mount."""
    real = os.path.realpath(path)
    device = os.lstat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/thread-self/mountinfo") as file:
        return [line for line in file if line.split()[2:5:2] == [number, real]]


def unshare_run_directory() -> None:
    """As before the first `ip netns add`: an empty directory that is no mount."""
    if not privilege.isolated:
        pytest.skip("only in a run directory of the session's own")
    for name in ns.listnetns():
        discard(name)
    while subprocess.run(["umount", RUN_DIR], check=False, capture_output=True).returncode == 0:
        pass
