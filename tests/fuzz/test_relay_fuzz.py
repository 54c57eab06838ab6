"""The C of the relay against a caller that lies: built alone, under sanitizers, no interpreter in the way."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from isolation import unavailable

TREE = Path(__file__).resolve().parents[2]
PACKAGE = TREE / "fastns"
SECONDS = float(os.environ.get("FASTNS_FUZZ_SECONDS", "4"))
SANITIZE = [
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
    "-DFASTNS_SANITIZE",
    "-O1",
]

if not (PACKAGE / "_relay.c").is_file():
    pytest.skip("python: the source tree is not here", allow_module_level=True)


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    made: dict[bool, str] = {}

    def get(sanitized: bool) -> str:
        if sanitized not in made:
            compiler = shutil.which(os.environ.get("CC", "cc")) or unavailable("no C compiler")
            target = str(tmp_path_factory.mktemp("fuzz") / "relay_fuzz")
            sources = [
                str(Path(__file__).with_name("relay_fuzz.c")),
                *map(str, sorted(PACKAGE.glob("_relay*.c"))),
            ]
            flags = SANITIZE if sanitized else ["-O2", "-Wl,-z,now"]
            done = subprocess.run(
                [compiler, "-std=gnu11", "-g", *flags, f"-I{PACKAGE}", "-o", target, *sources],
                check=False,
                capture_output=True,
                text=True,
            )
            if sanitized and done.returncode != 0 and "san" in done.stderr:
                unavailable("the compiler has no sanitizers")
            assert done.returncode == 0, done.stderr
            made[sanitized] = target
        return made[sanitized]

    return get


def run(*command: str) -> None:
    # leaks are counted by the tests themselves; the checker needs ptrace, which containers often refuse
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    environment.pop("LD_PRELOAD", None)
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-6000:]


@pytest.mark.parametrize("part", ["proxy", "ring", "policy"])
def test_hostile_caller(build, part, rng):
    run(build(True), part, str(rng.randrange(1 << 48)), str(SECONDS))


def test_filter(build):
    run(build(False), "filter")


def test_hostile_caller_of_the_process_as_it_is(build, rng):
    """Without sanitizers: with its filter, and with the caller's memory unmapped."""
    run(build(False), "proxy", str(rng.randrange(1 << 48)), str(SECONDS))
