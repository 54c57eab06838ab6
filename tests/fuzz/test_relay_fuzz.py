"""The C of the relay against a caller that lies and a system that fails: built alone, no interpreter in the way."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from isolation import unavailable
from relaybuild import ENVIRONMENT, PACKAGE, build

SECONDS = float(os.environ.get("FASTNS_FUZZ_SECONDS", "3"))

if not (PACKAGE / "loop.c").is_file():
    pytest.skip("python: the source tree is not here", allow_module_level=True)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    made = {}

    def get(name, how):
        if (name, how) not in made:
            compiler = shutil.which(os.environ.get("CC", "cc")) or unavailable("no C compiler")
            directory = tmp_path_factory.mktemp("fuzz")
            done = build(compiler, name, how, directory)
            if how == "sanitized" and done.returncode != 0 and "san" in done.stderr:
                unavailable("the compiler has no sanitizers")
            assert done.returncode == 0, done.stderr
            made[name, how] = str(directory / name)
        return made[name, how]

    return get


def run(*command):
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-6000:]


@pytest.mark.parametrize("part", ["proxy", "ring", "policy", pytest.param("reach", marks=pytest.mark.root)])
def test_hostile_caller(program, part, rng):
    run(program("relay_fuzz", "sanitized"), part, str(rng.randrange(1 << 48)), str(SECONDS))


def test_hostile_caller_of_the_process_as_it_is(program, rng):
    """Without sanitizers: with its filter, and with the caller's memory unmapped."""
    run(program("relay_fuzz", "release"), "proxy", str(rng.randrange(1 << 48)), str(SECONDS))


def test_filter(program):
    run(program("relay_fuzz", "release"), "filter")


@pytest.mark.parametrize("how", ["sanitized", "coverage"])  # the first has no filter
def test_every_call_failing(program, how):
    run(program("relay_faults", how))
