"""Builds the C programs that test the relay, and measures what of its C they and a suite of tests reach.

    python tests/fuzz/relaybuild.py [DIRECTORY...]

prints the lines of each file of the relay that nothing has run, and fails below 95 percent of any. DIRECTORY: object
directories of a FASTNS_COVERAGE=1 build after tests have run with it, counted together with the programs here: see
`make coverage`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / "fastns" / "relay"
SOURCES = sorted(PACKAGE.glob("*.c"))
FLAGS = {
    "sanitized": [
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-fno-omit-frame-pointer",
        "-DFASTNS_SANITIZE",
        "-O1",
    ],
    "release": ["-O2"],
    "coverage": ["-O0", "--coverage", "-DFASTNS_COVERAGE"],
}
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "LD_PRELOAD"},
    # leaks are counted by the programs themselves; the checker needs ptrace, which containers often refuse
    "ASAN_OPTIONS": "detect_leaks=0",
}


def wraps() -> list[str]:
    names = sorted(set(re.findall(r"\bX\((\w+)\)", (HERE / "relay_faults.c").read_text())) - {"name"})
    return [f"-Wl,--wrap=fns_call_{name}" for name in names]


def build(compiler: str, program: str, how: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """The program (relay_fuzz or relay_faults) into `directory`, which is also where it is compiled."""
    extra = wraps() if program == "relay_faults" else []
    command = [
        compiler,
        "-std=gnu11",
        "-g",
        "-fno-stack-protector",
        *FLAGS[how],
        *extra,
        f"-I{PACKAGE}",
        f"-I{HERE}",
    ]
    command += ["-o", str(directory / program), str(HERE / f"{program}.c"), *map(str, SOURCES)]
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd=directory,
    )


def reached(directory: Path, source: Path, into: dict[int, bool]) -> None:
    for data in directory.glob(f"*{source.stem}.gcda"):
        if not re.search(rf"(^|-){re.escape(source.stem)}$", data.stem):
            continue
        done = subprocess.run(
            ["gcov", "-t", str(data)], check=True, capture_output=True, text=True, cwd=PACKAGE.parents[1]
        )
        current = None
        for line in done.stdout.splitlines():
            found = re.match(r"\s*-:\s+0:Source:(.*)", line)
            if found:
                current = Path(found[1]).name
            found = re.match(r"\s*([^:]+):\s*(\d+):", line)
            if found and current == source.name and found[1] != "-":
                number = int(found[2])
                into[number] = into.get(number, False) or not found[1].startswith(("#", "="))


def main(directories: list[str]) -> int:
    with tempfile.TemporaryDirectory() as temporary:
        places = [Path(name).resolve() for name in directories]
        for program, runs in {
            "relay_fuzz": [["proxy", "1", "8"], ["ring", "1", "1"], ["policy", "1", "2"], ["reach", "1", "2"]],
            "relay_faults": [[]],
        }.items():
            place = Path(temporary) / program
            place.mkdir()
            done = build("gcc", program, "coverage", place)
            if done.returncode:
                print(done.stderr)
                return 1
            for arguments in runs:
                subprocess.run([str(place / program), *arguments], check=True, env=ENVIRONMENT)
            places.append(place)
        lines = hit = 0
        lowest = 1.0
        for source in SOURCES:
            seen: dict[int, bool] = {}
            for place in places:
                reached(place, source, seen)
            text = source.read_text().splitlines()
            lines += len(seen)
            hit += sum(seen.values())
            lowest = min(lowest, sum(seen.values()) / max(len(seen), 1))
            print(f"{source.name}: {sum(seen.values())} of {len(seen)} lines")
            for number in sorted(number for number, run in seen.items() if not run):
                print(f"    {number}: {text[number - 1].strip()}")
        print(f"the relay's C: {hit} of {lines} lines, {100 * hit / max(lines, 1):.1f} %")
        return 0 if lines and lowest >= 0.95 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
