"""What the examples in pyroute2's docstrings print and raise is the same on fastns, every one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def examples(tmp_path, how, where, seconds, skipped):
    env = {key: value for key, value in os.environ.items() if key != "FASTNS_INSTALL"}
    env.update(PYTHONPATH=os.pathsep.join((str(HERE.parent), env.get("PYTHONPATH", ""))), TMPDIR=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "docstrings.py"), how, where, seconds],
        input=json.dumps(skipped), capture_output=True, text=True, env=env, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("where", "enough"), [("mock", 25), pytest.param("real", 100, marks=pytest.mark.root)])
def test_examples_of_docstrings(tmp_path, where, enough):
    theirs = examples(tmp_path, "plain", where, "3", [])
    # Some never end, two of them by a bug (NSPopen of a program that is not there). What took too long is not compared.
    endless = [name for name, results in theirs.items() if any(problem.startswith("Out") for _, problem in results)]
    ours = examples(tmp_path, "fastns", where, "60", endless)
    assert {name: results for name, results in theirs.items() if name not in endless} == ours
    assert sum(not problem for results in ours.values() for _, problem in results) >= enough
