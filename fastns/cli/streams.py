"""The standard streams of a command, whichever of them it was started with. A shell closes them by `<&-`, `>&-`, `2>&-`."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class OutputError(Exception):
    """Standard output cannot be written. No OSError, which commands take for one of what they work on."""


class Stream(io.FileIO):
    """A standard stream. Of output that has failed once, or is `silent`, the rest goes nowhere, at exit too."""

    def __init__(self, fd: int, mode: str, silent: bool = False) -> None:
        super().__init__(fd, mode, closefd=False)
        self.silent = silent

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if self.silent:
                return memoryview(data).nbytes
            self.silent = True
            if isinstance(error, BrokenPipeError):
                raise
            raise OutputError(f"write error: {error.strerror}") from None

    def readinto(self, buffer: Any) -> int:
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise OSError(error.errno, f"read error: {error.strerror}") from None


def hold() -> None:
    """Keep the numbers of closed streams from what is opened later, and tell what is wrong with an output.

    In the place of a closed one stands a descriptor that can be neither read nor written (O_PATH of open(2)) and is
    closed by execve(2): a program that the command becomes has the streams the command was given.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_PATH | os.O_CLOEXEC)  # the lowest free number, which this is
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(Stream(0, "r")))
    sys.stdout = text(1, sys.stdout)
    sys.stderr = text(2, sys.stderr, silent=True)


def text(fd: int, given: Any, silent: bool = False) -> io.TextIOWrapper:
    """A text stream with the encoding of the one the interpreter has opened, if it has."""
    return io.TextIOWrapper(
        io.BufferedWriter(Stream(fd, "w", silent)),
        encoding=getattr(given, "encoding", None),
        errors=getattr(given, "errors", "surrogateescape" if fd == 1 else "backslashreplace"),
        line_buffering=True,
    )
