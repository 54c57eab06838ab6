"""Runs the examples in pyroute2's docstrings, and prints what each of them printed and raised.

    docstrings.py (plain | fastns) (mock | real) SECONDS

"mock": those for Sphinx's doctest (`testcode`), on pyroute2's mock of the kernel, in groups, as Sphinx runs them. "real":
these and all others (literal blocks and code blocks that compile), in a namespace with `eth0`, its other end `eth1`, and
one more namespace, `test`; an example sees the names that earlier ones of its docstring made. Each docstring has a
process and a namespace of its own, each example so many seconds. Standard input is a JSON list of names to leave out.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import pkgutil
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import deque
from pathlib import Path

import pyroute2

DIRECTIVE = re.compile(r"^(?P<indent> *)(?:\.\. (?P<name>testsetup|testcode|code-block|code|doctest)::(?P<group>.*)|(?P<text>.*)::)$")
AT_A_TIME = 12  # they wait more than they work
# What differs between two runs of anything.
VOLATILE = re.compile(
    r"0x[0-9a-f]{6,}|'(?:sequence_number|pid|handle)': \d+|(?:[0-9a-f]{2}:){5}[0-9a-f]{2}|\d+\.\d{4,}|pid=\d+|seq=\d+|'time': \d+|_timer': \d+"
)
SETUP = """
import asyncio, errno, os, pprint, socket, types
from socket import AF_INET, AF_INET6, AF_UNSPEC, socketpair
from subprocess import PIPE
import pyroute2
from pyroute2.netlink import nla, nlmsg
from pyroute2.netlink.exceptions import NetlinkError
globals().update({name: x for name, x in vars(pyroute2).items() if name[0] != "_" and not isinstance(x, types.ModuleType)})
from pyroute2 import config, netns
from pyroute2.common import uifname
"""
# What examples take for granted, made where one names it.
GIVEN = {
    **dict.fromkeys(("ip", "ipr", "iproute"), "IPRoute()"),
    **dict.fromkeys(("index", "idx", "dev", "interface", "eth0", "ifindex"), "2"),
    **dict.fromkeys(("eth1", "em1"), "3"),
    "ndb": "NDB(sources=[{'target': 'localhost', 'kind': 'local'}, {'target': 'test', 'kind': 'netns', 'netns': 'test'}])",
    "ct": "Conntrack()",
    "ns": "NetNS('test')",
    "mptcp": "MPTCP()",
    "nft": "pyroute2.nftables.main.NFTables(nfgen_family=2)",
    "ipset": "IPSet()",
    "wg": "WireGuard()",
    "ipvs": "IPVS()",
}


def blocks(text: str) -> list[tuple[str, str, str]]:
    """The examples of a docstring: directive ("" for a literal block), group, code."""
    lines, found = text.expandtabs().splitlines(), []
    for number, line in enumerate(lines):
        match = DIRECTIVE.match(line)
        if match is None or (match["text"] or "").lstrip().startswith(".. "):
            continue
        body = []
        for follower in lines[number + 1 :]:
            if follower.strip() and len(follower) - len(follower.lstrip()) <= len(match["indent"]):
                break
            body.append(follower)
        while body and (not body[0].strip() or re.match(r"\s*:\w+:", body[0])):
            del body[0]
        code = textwrap.dedent("\n".join(body)).strip()
        if ">>>" in code:
            code = "\n".join(row[4:] for row in code.splitlines() if row.startswith((">>> ", "... ")))
        try:
            compile(code, "example", "exec")
        except SyntaxError:
            continue
        if code:
            found.append((match["name"] or "", (match["group"] or "").strip() or "default", code + "\n"))
    return found


def docstrings() -> list[tuple[str, list[tuple[str, str, str]]]]:
    found = []
    root = Path(pyroute2.__file__).parent
    for module in pkgutil.walk_packages([str(root)], "pyroute2."):
        file = root.parent / Path(*module.name.split(".")) / "__init__.py"
        file = file if file.exists() else file.parent.with_suffix(".py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                examples = blocks(ast.get_docstring(node) or "")
                if examples:
                    found.append((f"{module.name}:{getattr(node, 'name', '')}", examples))
    return found


class Out(Exception):
    """An example takes too long."""


def expire(*_: object) -> None:
    raise Out


def execute(codes: list[str], scope: dict[str, object], seconds: float) -> list[list[str]]:
    """What each piece of code printed and raised."""
    results = []
    for code in codes:
        printed = io.StringIO()
        problem = ""
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(code, "example", "exec"), scope)
        except BaseException as error:
            problem = f"{type(error).__name__} {getattr(error, 'code', None) or getattr(error, 'errno', None) or error}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        results.append([VOLATILE.sub("-", printed.getvalue()), VOLATILE.sub("-", problem)])
    return results


def start(codes: list[str], mock: bool, seconds: float) -> tuple[int, int]:
    """A process for the examples of one docstring; its id, and where it writes what they did."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    os.setsid()
    signal.signal(signal.SIGALRM, expire)
    scope: dict[str, object] = {"__name__": "__main__"}
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    try:
        if mock:
            pyroute2.config.mock_netlink = pyroute2.config.mock_netns = True
        else:
            real_namespace()
        exec(SETUP, scope)
        given(codes, scope)
        os.chdir(tempfile.mkdtemp())
        outcome = execute(codes, scope, seconds)
    except BaseException as error:
        outcome = [["", f"setup: {error!r}"]]
    with os.fdopen(writing, "w") as stream:
        json.dump(outcome, stream)
    os.kill(0, signal.SIGKILL)  # and whatever the examples have started
    raise AssertionError


def finish(pid: int, reading: int) -> list[list[str]]:
    with os.fdopen(reading) as stream:
        text = stream.read()
    os.waitpid(pid, 0)
    return json.loads(text) if text else [["", "died"]]


def given(codes: list[str], scope: dict[str, object]) -> None:
    for name, expression in GIVEN.items():
        if any(re.search(rf"\b{name}\b", code) for code in codes):
            with contextlib.suppress(Exception):
                exec(f"{name} = {expression}", scope)


def real_namespace() -> None:
    from isolation import acquire

    acquire()
    commands = """
        link add eth0 type veth peer name eth1
        link set eth0 address 52:54:00:72:58:b2
        link set eth1 address 52:54:00:72:58:b3
        link set eth0 up
        link set eth1 up
        netns add test
    """
    with open("/proc/sys/net/ipv6/conf/default/accept_dad", "w") as accept_dad:
        accept_dad.write("0")
    for command in commands.strip().splitlines():
        subprocess.run(["ip", *command.split()], check=True)
    # or the one library's examples see the kernel's own addresses and routes come, and the other's do not
    shown = ["ip", "-6", "-o", "addr", "show", "scope", "link", "-tentative"]
    while len(subprocess.run(shown, check=True, capture_output=True).stdout.splitlines()) < 2:
        time.sleep(0.01)


def jobs(mock: bool) -> dict[str, list[str]]:
    """The examples to run one after the other, by a name."""
    found = {}
    for name, examples in docstrings():
        if mock:
            for group in {group for directive, group, _ in examples if directive == "testcode"}:
                mine = [code for directive, own, code in examples if own == group and directive.startswith("test")]
                found[f"{name} {group}"] = mine
        else:
            found[name] = [code.replace("config.mock_netlink = True", "") for _, _, code in examples]
    return found


def main(how: str, where: str, seconds: str) -> None:
    if how == "fastns":
        import fastns

        fastns.install()
    skipped = json.load(sys.stdin)
    todo = [(name, codes) for name, codes in jobs(where == "mock").items() if name not in skipped]
    results, running = {}, deque()
    while todo or running:
        while todo and len(running) < AT_A_TIME:
            name, codes = todo.pop(0)
            running.append((name, *start(codes, where == "mock", float(seconds))))
        name, pid, reading = running.popleft()
        results[name] = finish(pid, reading)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
