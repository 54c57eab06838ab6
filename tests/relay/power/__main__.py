"""Runs tests with every proxy followed by strace, and compares what they called with the table of the filter.

    python tests/relay/power [PYTEST ARGUMENTS]

Whatever a proxy calls must be in the table, and whatever is in the table must have been called, or stand in UNSEEN
with the reason why it need not be on the machine at hand. Whether the tests pass is not looked at: a proxy under strace is
slow, which those about bursts do not bear.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
TABLE = HERE.parents[2] / "fastns" / "relay" / "power.c"
PATIENCE = 60.0  # seconds for the last ones to write their logs

UNSEEN = {
    "open": "musl",
    "epoll_pwait": "musl, and machines without epoll_wait",
    "epoll_wait": "glibc, where the machine has it",
    "poll": "where the machine has it",
    "ppoll": "where it has not",
    "fstat": "musl, and glibc but for 2.33 to 2.38",
    "newfstatat": "glibc 2.33 to 2.38",
    "fcntl F_SETFD": "musl's open()",
    "getcpu": "where the vDSO does not say it",
    "getppid": "kernels without pidfd_open",
    "restart_syscall": "a poll that a stop interrupted",
}

Rule = tuple[str, str]


def table() -> set[Rule]:
    """(call, the argument it must have, where only one passes)."""
    found = re.findall(r"\{SYS_(\w+), \d, (\w+), ([^}]*)\}", TABLE.read_text())
    return {(call, value if check == "EQUAL" else "") for call, check, value in found}


def fits(rule: Rule, call: str, arguments: str) -> bool:
    return rule[0] == call and all(word in arguments for word in re.findall(r"\w+", rule[1]))


def read(log: Path, rules: set[Rule], met: Counter[Rule]) -> tuple[set[str], bool]:
    """Counts the rules one proxy's calls fall under. What is wrong with the others; whether the log is complete."""
    wrong = set()
    filtered = False
    line = ""
    with log.open(errors="replace") as lines:
        for line in lines:
            rest = line.partition(" ")[2].lstrip()
            call, bracket, arguments = rest.partition("(")
            if call in ("prctl", "seccomp") and "SECCOMP" in arguments and not filtered:
                filtered = arguments.rstrip().endswith("= 0")
            elif filtered and bracket and call.isidentifier():
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


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="fastns-power-") as name:
        work = Path(name)
        work.chmod(0o755)
        logs = work / "logs"
        logs.mkdir()
        logs.chmod(0o1777)
        library = work / "follow.so"
        cc = os.environ.get("CC", "gcc")
        subprocess.run(
            [cc, "-shared", "-fPIC", "-O2", "-Wall", "-o", str(library), str(HERE / "follow.c"), "-ldl"],
            check=True,
        )
        environment = {**os.environ, "LD_PRELOAD": str(library), "POWER_DIRECTORY": str(logs)}
        subprocess.run([sys.executable, "-m", "pytest", *sys.argv[1:]], env=environment, check=False)
        wrong = compare(logs)
    for line in wrong:
        print(line)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
