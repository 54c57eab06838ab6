"""An exception out of the middle of a start, as a signal handler may raise it: no process is left without an owner."""

from __future__ import annotations

import random
import signal
import subprocess
from functools import partial
from types import FrameType
from typing import Any, Callable

import pytest
from guard import descriptors
from interrupted import Struck, alone, bytecodes, strike
from programs import no_child_is_left

from fastns import nspopen
from fastns.nspopen import NSPopen
from fastns.proxy import Proxy

pytestmark = pytest.mark.root

ROUNDS = 150
FILES = (nspopen.__file__, subprocess.__file__)
UNTOUCHED = ("__del__", "wait", "_wait", "_try_wait", "_internal_poll")  # which keep subprocess's own books


def nothing_is_left() -> None:
    no_child_is_left()
    assert not [text for text in descriptors().values() if text.startswith("net:")]


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
    nothing_is_left()


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
    nothing_is_left()


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
    nothing_is_left()


def test_the_program_is_killed(netns: str) -> None:
    alone(the_program_is_killed, netns)
