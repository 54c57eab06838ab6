"""Exceptions out of the middle of a call, as a signal handler may raise them: at any bytecode, and by real signals."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Callable

from programs import script

CODE = """
import importlib, os, sys
sys.path.insert(0, sys.argv[1])
getattr(importlib.import_module(sys.argv[2]), sys.argv[3])(*sys.argv[4:])
os._exit(0)  # a lock that is left taken would stop what runs at the end
"""


class Struck(BaseException):
    pass


def strike(*_: Any) -> None:
    raise Struck


def alone(function: Callable[..., None], *argv: str) -> None:
    """In a process of its own: what an exception leaves of locks, as that of logging, would stop others."""
    path = Path(function.__code__.co_filename)
    script(CODE, str(path.parent), path.stem, function.__name__, *argv)


def bytecodes(
    work: Callable[[], None], traced: Callable[[FrameType], bool], last: int = -1
) -> int:
    """How many bytecodes of the traced frames `work` runs. Raises before the one with the number `last`."""
    count, here = 0, os.getpid()

    def each(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if event == "opcode" and os.getpid() == here:
            count += 1
            if count == last:
                sys.settrace(None)
                raise Struck
        return each

    def called(frame: FrameType, event: str, _: Any) -> Any:
        if not traced(frame):
            return None
        frame.f_trace_opcodes = True
        return each

    sys.settrace(called)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


def alarmed(work: Callable[[], None], seconds: float) -> bool:
    """Whether a handler has raised out of `work`, after that many seconds."""
    signal.signal(signal.SIGALRM, strike)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            work()
        finally:
            with suppress(Struck):
                signal.setitimer(signal.ITIMER_REAL, 0)
    except Struck:
        return True
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
    return False
