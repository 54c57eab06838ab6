"""An exception out of the middle of a start, as a signal handler may raise it: no process is left without an owner."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any, Callable

import pytest
from guard import descriptors
from interrupted import Struck, alone, bytecodes, strike

from fastns import _core, nspopen
from fastns.nspopen import NSPopen
from fastns.proxy import Proxy

pytestmark = pytest.mark.root

ROUNDS = 150
WALL = 0x40000000  # __WALL: the proxy is a child without an exit signal. waitpid(2)
FILES = (nspopen.__file__, subprocess.__file__)
UNTOUCHED = ("__del__", "wait", "_wait", "_try_wait", "_internal_poll")  # which keep subprocess's own books


def no_child_is_left() -> None:
    """Whom subprocess has in its books, as it has every Popen dropped with its program running, is no orphan."""
    gc.collect()
    for popen in list(subprocess._active):  # type: ignore[attr-defined]
        with suppress(ChildProcessError):
            os.waitpid(popen.pid, 0)  # its wait() may have been left with the lock taken
    _core.reap_abandoned(60_000)
    assert not [text for text in descriptors().values() if text.startswith("net:")]
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG | WALL)


def start_and_wait(netns: str, **options: Any) -> None:
    child = None
    try:
        child = NSPopen(netns, ["true"], **options)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if child is not None:
            child.wait()


def proxy_and_close(netns: str) -> None:
    proxy = None
    try:
        proxy = Proxy(netns=[netns])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if proxy is not None:
            proxy.close()


WAYS: dict[str, Callable[[str], None]] = {
    "there and back": start_and_wait,
    "thread": lambda netns: start_and_wait(netns, exec_like_ip=True),
    "in the child": lambda netns: start_and_wait(netns, preexec_fn=int, stdout=subprocess.DEVNULL),
    "proxy": proxy_and_close,
}


def traced(frame: FrameType) -> bool:
    return frame.f_code.co_name not in UNTOUCHED and frame.f_code.co_filename in FILES


def between_bytecodes(netns: str, way: str, seed: str) -> None:
    bytecodes(partial(WAYS[way], netns), traced)  # Python 3.12 and 3.13 tell of the bytecodes of a later trace only
    total = bytecodes(partial(WAYS[way], netns), traced)
    assert total > 500
    struck = 0
    for moment in random.Random(seed).sample(range(1, total), ROUNDS):
        try:
            bytecodes(partial(WAYS[way], netns), traced, moment)  # the count varies a little
        except Struck:
            struck += 1
    assert struck > ROUNDS / 2
    no_child_is_left()


def by_a_signal(netns: str, way: str, seed: str) -> None:
    rng = random.Random(seed)
    struck = 0
    signal.signal(signal.SIGALRM, strike)
    for _ in range(ROUNDS):
        try:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.00001, 0.004))
            WAYS[way](netns)
        except Struck:
            struck += 1
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    assert struck
    no_child_is_left()


@pytest.mark.parametrize("way", ["there and back", "thread", "in the child"])
def test_between_any_two_bytecodes(netns: str, rng: random.Random, way: str) -> None:
    alone(between_bytecodes, netns, way, str(rng.random()))


@pytest.mark.parametrize("way", WAYS)
def test_by_a_signal(netns: str, rng: random.Random, way: str) -> None:
    alone(by_a_signal, netns, way, str(rng.random()))


def the_program_is_killed(netns: str) -> None:
    class Interrupted(NSPopen):
        def _close_pipe_fds(self, *args: Any) -> None:  # after the fork
            super()._close_pipe_fds(*args)  # type: ignore[misc]
            raise Struck

    with pytest.raises(Struck):
        Interrupted(netns, ["sleep", "600"])
    no_child_is_left()


def test_the_program_is_killed(netns: str) -> None:
    alone(the_program_is_killed, netns)
