"""Runs tests with every proxy followed by strace, and compares what they called with the table of the filter.

    python tests/relay/power [PYTEST ARGUMENTS]

Whatever a proxy calls must be in the table, and whatever is in the table must have been called, or stand in UNSEEN
with the reason why it need not be on the machine at hand. Whether the tests pass is not looked at: a proxy under strace is
slow, which those about bursts do not bear.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
TABLE = HERE.parents[2] / "fastns" / "relay" / "power.c"
PATIENCE = 60.0  # seconds for the last ones to write their logs

UNSEEN = {
    "getppid": "kernels without pidfd_open",
    "restart_syscall": "a poll that a stop interrupted",
}
LOOKED_AT = "raw=!ioctl,fcntl,sendto,socket,socketpair,setns,clone,madvise,bind,shutdown"  # the arguments that are words

Rule = tuple[str, str]


def table() -> set[Rule]:
    """(call, the argument it must have, where only one passes)."""
    rules = set()
    for call, checks in re.findall(r"\{SYS_(\w+), \{(.*)\}\},", TABLE.read_text()):
        words = re.findall(r"\{EQUAL, \d, ([^}]*)\}", checks)
        rules.add((call, " ".join(word for word in words if re.fullmatch(r"[A-Z][A-Z_| ]*", word))))
    return rules


def fits(rule: Rule, call: str, arguments: str) -> bool:
    return rule[0] == call and all(word in arguments for word in re.findall(r"\w+", rule[1]))


def read(log: Path, rules: set[Rule], met: Counter[Rule]) -> tuple[set[str], bool]:
    """Counts the rules one proxy's calls fall under. What is wrong with the others; whether the log is complete."""
    wrong = set()
    line = ""
    with log.open(errors="replace") as lines:
        for line in lines:
            rest = line.partition(" ")[2].lstrip()
            call, bracket, arguments = rest.partition("(")
            if bracket and call.isidentifier():
                fitting = [rule for rule in rules if fits(rule, call, arguments)]
                met.update(fitting)
                if not fitting:
                    wrong.add(f"called, not in the table: {rest.rstrip()}")
            elif "SIGSYS" in rest:
                wrong.add(rest.rstrip())
    return wrong, "+++ " in line


def compare(directory: Path) -> list[str]:
    rules = table()
    met: Counter[Rule] = Counter()
    wrong = set()
    logs = sorted(directory.iterdir())
    end = time.monotonic() + PATIENCE
    for log in logs:
        found: Counter[Rule] = Counter()
        outside, complete = read(log, rules, found)
        while not complete and time.monotonic() < end:
            time.sleep(0.05)
            found.clear()
            outside, complete = read(log, rules, found)
        met += found
        wrong |= outside
    names = {rule: " ".join(filter(None, rule)) for rule in rules}
    for rule in sorted(rules, key=lambda rule: (-met[rule], rule)):
        print(f"{met[rule]:9}  {names[rule]}" + ("" if met[rule] else f": {UNSEEN.get(names[rule], '?')}"))
    wrong |= {
        f"in the table, never called: {names[rule]}"
        for rule in rules - met.keys()
        if names[rule] not in UNSEEN
    }
    wrong |= {f"not in the table: {name}" for name in UNSEEN.keys() - names.values()}
    print(f"{len(logs)} proxies followed")
    return sorted(wrong) if logs else ["no proxy was followed"]


def follow(connection: socket.socket, logs: Path, numbers: Iterator[int]) -> None:
    """Attaches strace to the process whose pid comes, and answers when it is."""
    with connection:
        pid = int(connection.makefile().readline())
        log = logs / f"{pid}.{next(numbers)}"
        command = ["strace", "-f", "-q", "-s", "0", "-e", LOOKED_AT, "-o", str(log), "-p", str(pid)]
        tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while tracer.poll() is None:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                break
            if "\nTracerPid:\t0\n" not in status:
                break
            time.sleep(0.001)
        connection.sendall(b"x")
    tracer.wait()


def listen(server: socket.socket, logs: Path) -> None:
    numbers = itertools.count()
    while True:
        connection, _ = server.accept()
        threading.Thread(target=follow, args=(connection, logs, numbers), daemon=True).start()


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="fastns-power-") as name, socket.socket(socket.AF_UNIX) as server:
        work = Path(name)
        work.chmod(0o755)
        logs = work / "logs"
        logs.mkdir()
        server.bind(str(work / "socket"))
        (work / "socket").chmod(0o666)
        server.listen(64)
        threading.Thread(target=listen, args=(server, logs), daemon=True).start()
        environment = {
            **os.environ,
            "POWER_SOCKET": str(work / "socket"),
            "PYTHONPATH": f"{HERE / 'follow'}:{HERE.parents[2]}",
        }
        subprocess.run([sys.executable, "-m", "pytest", *sys.argv[1:]], env=environment, check=False)
        wrong = compare(logs)
    for line in wrong:
        print(line)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
