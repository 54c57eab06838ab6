"""Every command with its standard streams closed, full, or with nobody at the other end."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from commands import COMMAND, ENV
from isolation import need_tool

pytestmark = pytest.mark.root

# {ns}: a namespace; {new}: a name without one
COMMANDS = {
    "add": ["add", "{new}"],
    "bench": ["bench", "--help"],
    "completion": ["completion", "bash"],
    "del": ["del", "{ns}"],
    "demo": ["demo", "--routes", "1"],
    "doctor": ["doctor"],
    "exec": ["exec", "{ns}", "true"],
    "help": ["--help"],
    "list": ["list"],
    "list --json": ["list", "--json"],
    "load": ["load", "{ns}", "-"],
    "map": ["map", "{ns}"],
    "map -f dot": ["map", "{ns}", "-f", "dot"],
    "monitor": ["monitor", "--initial", "{ns}"],
    "rootless": ["rootless", "true"],
    "top": ["top", "--once", "-i", "0.05", "{ns}"],
    "version": ["--version"],
}
SILENT = {"add", "del", "exec", "rootless"}  # they write nothing when they succeed
ENDLESS = {"monitor"}
READ_ERROR = "fastns: read error: Bad file descriptor"
WRITE_ERROR = "fastns: write error: Bad file descriptor"
OPEN_STREAMS = "import os, sys; sys.exit(sum(1 << fd for fd in range(3) if os.path.exists(f'/proc/self/fd/{fd}')))"


def start(argv, redirections, **options):
    line = f'exec "$@" {redirections}'
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(["sh", "-c", line, "sh", *argv], env=ENV, text=True, **options)


def run(argv, redirections, **options):
    with start(argv, redirections, **options) as process:
        out, err = process.communicate(timeout=100)
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    return process.returncode, out, err


def command(name, netns, missing):
    return [*COMMAND, *(word.format(ns=netns, new=missing) for word in COMMANDS[name])]


def test_every_command_is_in_the_table():
    from fastns.cli import COMMANDS as there

    assert set(there) <= set(COMMANDS)


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - SILENT))
@pytest.mark.parametrize(
    ("redirection", "told"),
    [
        (">&-", WRITE_ERROR),
        (">/dev/full", "fastns: write error: No space left on device"),
        ("<&- >&- 2>&-", ""),
    ],
)
def test_output_that_cannot_be_written_is_told(name, redirection, told, netns, missing):
    code, out, err = run(command(name, netns, missing), redirection)
    assert (code, out) == (1, "")
    assert err == told or told in err.splitlines()


@pytest.mark.parametrize("name", sorted(SILENT))
@pytest.mark.parametrize("redirection", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full"])
def test_what_writes_nothing_does_its_work(name, redirection, netns, missing):
    assert run(command(name, netns, missing), redirection) == (0, "", "")


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - SILENT - ENDLESS))
@pytest.mark.parametrize("redirection", ["<&-", "2>&-"])
def test_streams_that_are_not_written_may_be_missing(name, redirection, netns, missing):
    code, out, err = run(command(name, netns, missing), redirection)
    if (name, redirection) == ("load", "<&-"):
        assert (code, err) == (1, f"{READ_ERROR}\n")
    else:
        assert code == 0
        assert out


@pytest.mark.parametrize("redirection", ["<&-", "2>&-"])
def test_monitor_goes_on_without_the_streams_it_does_not_write(redirection, netns, missing):
    with start(command("monitor", netns, missing), redirection) as process:
        try:
            assert "everything as it is" in process.stdout.readline()
        finally:
            process.terminate()


@pytest.mark.parametrize("name", ["list", "doctor", "map", "monitor"])
def test_nobody_reads(name, netns, missing):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        code, _, err = run(command(name, netns, missing), "", stdout=writing)
    finally:
        os.close(writing)
    assert (code, err) == (1, "")


@pytest.mark.parametrize("redirection", ["", "<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_program_has_the_streams_it_would_have_of_ip(redirection, netns):
    need_tool("ip")
    program = [sys.executable, "-ISc", OPEN_STREAMS]
    wanted = run(["ip", "netns", "exec", netns, *program], redirection)
    assert wanted[0] == 7 & ~sum(1 << "<>2".index(word[0]) for word in redirection.split())
    assert run([*COMMAND, "exec", netns, *program], redirection) == wanted
    assert run([*COMMAND, "rootless", *program], redirection) == wanted


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_exit_codes_stay_when_nothing_can_be_said(redirection, netns, missing):
    assert run([*COMMAND, "exec", missing, "true"], redirection)[0] == 125
    assert run([*COMMAND, "exec", netns, f"/nonexistent/{missing}"], redirection)[0] == 127
    assert run([*COMMAND, "del", missing], redirection)[0] == 1
    assert run([*COMMAND, "add"], redirection)[0] == 2
