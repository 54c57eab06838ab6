"""Gives a test or benchmark session its own network and mount namespace, with an empty run directory.

Nothing such a session makes can collide with another session on the machine, and nothing outlives it, whatever
kills it. FASTNS_TEST_HOST=1 works on the machine's own namespaces instead.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from typing import NoReturn

import pytest

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18

RUN_DIR = "/var/run/netns"
STRICT = os.environ.get("FASTNS_REQUIRE_ROOT", "0") not in ("", "0")
ON_HOST = os.environ.get("FASTNS_TEST_HOST", "0") not in ("", "0")

libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        err = ctypes.get_errno()
        raise OSError(err, f"{what}: {os.strerror(err)}")


def unshare(flags: int) -> None:
    _check(libc.unshare(flags), "unshare")


def mount(source: str, target: str, fstype: str | None = None, flags: int = 0) -> None:
    _check(
        libc.mount(
            source.encode(),
            target.encode(),
            None if fstype is None else fstype.encode(),
            ctypes.c_ulong(flags),
            None,
        ),
        f"mount {target}",
    )


class Privilege:
    """What this process may do, found by trying. `reason` is empty when tests marked `root` can run."""

    def __init__(self) -> None:
        self.reason = ""
        self.isolated = False
        self.passing: set[str] = set()  # where the machine mounts what comes and goes: namespaces, containers, logins

    def acquire(self, isolate: bool = not ON_HOST) -> None:
        try:
            if isolate:
                self._isolate()
            else:
                self._probe()
        except (OSError, subprocess.CalledProcessError) as error:
            self.reason = f"no privilege over namespaces ({error})"

    def _isolate(self) -> None:
        unshare(CLONE_NEWNS | CLONE_NEWNET)
        self.isolated = True
        mount("none", "/", None, MS_REC | MS_PRIVATE)
        with open("/proc/self/mountinfo", errors="surrogateescape") as lines:
            points = {line.split()[4] for line in lines}
        self.passing = {point for point in points if point.startswith(("/run/", "/var/"))}
        mount("tmpfs", os.path.realpath("/var/run"), "tmpfs")
        os.mkdir(RUN_DIR, 0o755)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True, capture_output=True)

    @staticmethod
    def _probe() -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(libc.unshare(CLONE_NEWNS | CLONE_NEWNET) != 0)
        if os.waitpid(pid, 0)[1] != 0:
            raise PermissionError(1, "unshare: not permitted")


privilege = Privilege()
_acquired = False


def acquire(isolate: bool = not ON_HOST) -> Privilege:
    """Idempotent; called once the test session is known to be the one that runs the tests. Without `isolate` this
    process stays where it is and only finds out what it may do."""
    global _acquired
    if not _acquired:
        _acquired = True
        privilege.acquire(isolate)
    return privilege


def unavailable(reason: str) -> NoReturn:
    """Skip, or fail where everything needed is promised to be there (FASTNS_REQUIRE_ROOT=1)."""
    if STRICT:
        pytest.fail(f"required here, and missing: {reason}", pytrace=False)
    pytest.skip(reason)


def need_privilege() -> None:
    if acquire().reason:
        unavailable(privilege.reason)


def need_tool(*names: str) -> None:
    """The test needs these programs."""
    for name in names:
        if shutil.which(name) is None:
            unavailable(f"needs the program {name!r}")


def _ids() -> int:
    with open("/proc/self/uid_map") as uid_map:
        return sum(int(line.split()[2]) for line in uid_map)


needs_tun = pytest.mark.skipif(
    not os.access("/dev/net/tun", os.R_OK | os.W_OK), reason="kernel: /dev/net/tun is not open to this user"
)
needs_ids = pytest.mark.skipif(
    _ids() < 65535, reason="kernel: a user namespace with one id has nobody to become and no say over the machine"
)
