"""Importing, building a source distribution, installing from it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest

import fastns

TREE = Path(__file__).resolve().parent.parent

WATCH = """
import os, sys, threading, signal, atexit
import pyroute2, asyncio, subprocess, multiprocessing, inspect, dataclasses  # what is not fastns's own doing
events = []
watched = ("os.fork", "os.posix_spawn", "subprocess.Popen", "os.system", "socket.__new__", "socket.bind", "os.exec",
           "os.mkdir", "os.remove", "os.rename", "os.chmod", "os.kill", "ctypes.dlopen", "signal.pthread_kill")
watching = True
def hook(name, args):
    if watching and (name in watched or name == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
        events.append((name, args))
sys.addaudithook(hook)
def look():
    handlers = {s: signal.getsignal(s) for s in signal.valid_signals()}
    return sorted(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), handlers, atexit._ncallbacks()
sys.dont_write_bytecode = True
before = look()
import fastns, fastns.netns, fastns._core, fastns._codec
for name in getattr(fastns, '__all__', ()):
    getattr(fastns, name)
after = look()
watching = False
assert events == [], events
assert before == after, (before, after)
"""


def test_import_has_no_side_effects():
    subprocess.run([sys.executable, "-c", WATCH], check=True)


def test_the_release_build_is_tested():
    from fastns import _core

    assert _core.BUILD in ("release", "sanitized", "traced", "coverage")


def test_change_log_begins_with_this_version():
    text = (TREE / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+) \(\d{4}-\d\d-\d\d\)$", text, re.M)[0] == fastns.__version__


def test_stubs_and_marker_are_installed():
    installed = {path.name for path in Path(fastns.__file__).parent.iterdir()}
    assert {"py.typed", "_core.pyi", "_codec.pyi"} <= installed


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    pytest.importorskip("build", reason="python: needs the package 'build'")
    if not (TREE / "fastns" / "_core.pyx").exists():
        pytest.skip("python: the source tree is not here")
    folder = tmp_path_factory.mktemp("sdist")
    work = folder / "tree"
    # a copy: building writes generated files next to the sources, and the tree may be read-only
    ignore = [
        ".git",
        ".venv",
        ".venv-*",
        "build",
        "*.so",
        "*.egg-info",
        "__pycache__",
        "_core.c",
        "_codec.c",
        ".*_cache",
    ]
    shutil.copytree(TREE, work, ignore=shutil.ignore_patterns(*ignore))
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(folder), str(work)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.tar.gz"))


def test_sdist_has_sources_and_nothing_generated(sdist):
    with tarfile.open(sdist) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {
        "_core.pyx",
        "_codec.pyx",
        "relay/loop.c",
        "relay/relay.h",
        "_linux.pxd",
        "core/ns.pxi",
        "_core.pyi",
        "py.typed",
    }
    assert {f"fastns/{name}" for name in wanted} <= names
    assert {"LICENSE", "README.md", "CHANGELOG.md", "setup.py", "pyproject.toml", "Makefile"} <= names
    assert {"tests/conftest.py", "benchmarks/floor.c", "tests/isolation.py"} <= names
    here = {
        str(path.relative_to(TREE))
        for path in (TREE / "fastns").rglob("*")
        if path.suffix in (".py", ".pyx", ".pxi", ".h")
    }
    assert here <= names
    assert not {
        name
        for name in names
        if name.endswith((".so", ".pyc")) or name in ("fastns/_core.c", "fastns/_codec.c")
    }


@pytest.mark.timeout(600)  # it compiles
def test_sdist_installs_into_an_empty_environment(sdist, tmp_path):
    """Without the network: what is needed to build and at run time is lent by this environment through a .pth file."""
    env = tmp_path / "env"
    venv.create(env, with_pip=True, symlinks=True)
    python = str(env / "bin" / "python")
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    lent = tmp_path / "lent"
    lent.mkdir()
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(folder).iterdir():
            if not path.name.lower().startswith(("fastns", "__editable__", "pip")):
                (lent / path.name).symlink_to(path)
    (Path(site) / "lent.pth").write_text(f"{lent}\n")
    quick = {**os.environ, "CFLAGS": "-O0", "PYTHONPATH": str(lent), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    install = [
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        str(sdist),
    ]
    done = subprocess.run(install, check=False, capture_output=True, text=True, env=quick)
    assert done.returncode == 0, done.stdout + done.stderr
    say = "import fastns, fastns._core, fastns._codec; print(fastns.__version__, fastns.__file__)"
    version, path = subprocess.run(
        [python, "-c", say], check=True, capture_output=True, text=True, cwd=tmp_path
    ).stdout.split()
    assert version == fastns.__version__
    assert path.startswith(str(env))
    assert {file.suffix for file in Path(path).parent.iterdir() if file.is_file()} <= {".py", ".pyi", ".so", ".typed"}
