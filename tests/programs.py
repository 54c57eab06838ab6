"""What tests of NSPopen run and look at."""

from __future__ import annotations

import gc
import os
import pathlib
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from subprocess import PIPE
from typing import Any, Callable

from isolation import RUN_DIR

from fastns import _core
from fastns.nspopen import NSPopen

WALL = 0x40000000  # __WALL: the proxy is a child without an exit signal. waitpid(2)
READLINK = ["readlink", "/proc/self/ns/net"]


def inside(name: str) -> str:
    """What READLINK prints in the namespace of that name."""
    return f"net:[{os.stat(os.path.join(RUN_DIR, name)).st_ino}]"


def output(*args: Any, **kwargs: Any) -> str:
    with NSPopen(*args, stdout=PIPE, text=True, **kwargs) as child:
        out, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    return out.strip()


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that must come, as long as the test's own limit lets."""
    while not condition():
        time.sleep(0.005)


def no_child_is_left() -> None:
    """Whom subprocess has in its books, as it has every Popen dropped with its program running, is no orphan."""
    gc.collect()
    for popen in list(subprocess._active):  # type: ignore[attr-defined]
        with suppress(ChildProcessError):
            os.waitpid(popen.pid, 0)  # its wait() may have been left with the lock taken
    _core.reap_abandoned(60_000)
    with suppress(ChildProcessError):
        raise AssertionError(os.waitpid(-1, os.WNOHANG | WALL))


def script(
    code: str, *argv: str, prefix: tuple[str, ...] = (), options: tuple[str, ...] = (), check: bool = True
) -> subprocess.CompletedProcess:
    """Run Python code in a process of its own, with this fastns."""
    root = str(pathlib.Path(_core.__file__).parent.parent)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path[1:]])}
    done = subprocess.run(
        [*prefix, sys.executable, *options, "-c", textwrap.dedent(code), *argv],
        capture_output=True, text=True, env=env, timeout=100, check=False,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, done.stderr
    return done
