"""Exceptions out of the middle of a call, as a signal handler may raise them: at any bytecode, and by real signals."""

from __future__ import annotations

import opcode
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Callable

from programs import script

CODE = """
import faulthandler, importlib, os, sys
faulthandler.dump_traceback_later(90, exit=True)  # where it hangs, before script() ends it
sys.path.insert(0, sys.argv[1])
getattr(importlib.import_module(sys.argv[2]), sys.argv[3])(*sys.argv[4:])
os._exit(0)  # a lock that is left taken would stop what runs at the end
"""


# The interpreter runs no handler before these, and one that raised there would lose the exception being handled.
NEVER = {"PUSH_EXC_INFO", "CHECK_EXC_MATCH", "POP_EXCEPT", "RERAISE", "COPY", "WITH_EXCEPT_START", "CLEANUP_THROW"}


class Struck(BaseException):
    pass


def strike(*_: Any) -> None:
    raise Struck


def alone(function: Callable[..., None], *argv: str, prefix: tuple[str, ...] = ()) -> None:
    """In a process of its own: what an exception leaves of locks, as that of logging, would stop others."""
    path = Path(function.__code__.co_filename)
    script(CODE, str(path.parent), path.stem, function.__name__, *argv, prefix=prefix)


def bytecodes(
    work: Callable[[], None], traced: Callable[[FrameType], bool], last: int = -1
) -> int:
    """How many bytecodes of the traced frames `work` runs. Raises before the one with the number `last`, or soon after."""
    count, here = 0, os.getpid()

    def each(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if event == "opcode" and os.getpid() == here:
            count += 1
            if 0 <= last <= count and opcode.opname[frame.f_code.co_code[frame.f_lasti]] not in NEVER:
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
