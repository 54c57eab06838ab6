"""The `fastns` command, run as a user runs it."""

from __future__ import annotations

import fcntl
import os
import pathlib
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import Any

from fastns import _core

ROOT = str(pathlib.Path(_core.__file__).parent.parent)
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, *sys.path[1:]]), "COLUMNS": "200"}
COMMAND = [sys.executable, "-m", "fastns"]


def run(*argv: str, code: int | None = 0, prefix: list[str] | None = None, **kwargs: Any) -> subprocess.CompletedProcess:
    """Run `fastns argv`; there is never a traceback."""
    kwargs.setdefault("env", ENV)
    kwargs.setdefault("capture_output", True)
    done = subprocess.run([*(prefix or []), *COMMAND, *argv], text=True, check=False, timeout=110, **kwargs)
    assert "Traceback" not in (done.stderr or "")
    if code is not None:
        assert done.returncode == code, done.stderr
    return done


def ip(*argv: str, **kwargs: Any) -> str:
    done = subprocess.run(["ip", *argv], check=False, capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(condition: Any) -> None:
    while not condition():
        time.sleep(0.01)


class Background:
    """A command that goes on by itself, ended with the block; what it has printed so far is read with `until`."""

    def __init__(self, *argv: str, stdin: Any = subprocess.DEVNULL) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *argv],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENV,
            start_new_session=True,
        )
        self.seen = ""

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def until(self, text: str, times: int = 1) -> str:
        """Read until `text` has come so often; everything so far."""
        while self.seen.count(text) < times:
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, f"ended: {self.seen}{self.process.stderr.read().decode()}"
            self.seen += data.decode()
        return self.seen

    def interrupt(self) -> int:
        """Ctrl-C, as it reaches the whole group; the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        _, err = self.process.communicate(timeout=60)
        assert b"Traceback" not in err, err
        return self.process.returncode


class Terminal:
    """A command on a terminal of 100 columns and 30 lines; `screen` is what it has written, escapes included."""

    def __init__(
        self, *argv: str, term: str = "xterm-256color", program: list[str] = COMMAND, env: dict[str, str] = ENV
    ) -> None:
        env = {key: value for key, value in env.items() if key not in ("COLUMNS", "NO_COLOR")}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.execvpe(program[0], [*program, *argv], {**env, "TERM": term})
            finally:
                os._exit(127)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("4H", 30, 100, 0, 0))
        self.screen = ""
        self.status: int | None = None

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.status is None:
            os.killpg(self.pid, signal.SIGKILL)  # a shell is not alone
            os.waitpid(self.pid, 0)
        os.close(self.fd)

    def read(self) -> bool:
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # EIO: the other side is gone
            return False
        self.screen += data.decode(errors="replace")
        return bool(data)

    def until(self, text: str) -> str:
        while text not in self.screen:
            assert self.read(), f"ended: {self.screen!r}"
        return self.screen

    def press(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def end(self) -> int:
        """Read to the end; the exit code."""
        while self.read():
            pass
        self.status = os.waitpid(self.pid, 0)[1]
        return os.waitstatus_to_exitcode(self.status)
