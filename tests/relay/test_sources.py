"""The order of the relay's C files: each knows only those below it. Read as text, nothing is built or run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from isolation import need_tool

PACKAGE = Path(__file__).resolve().parents[2] / "fastns" / "relay"

if not PACKAGE.is_dir():  # the tests of an installed package, away from the source
    pytest.skip("python: the source tree is not here", allow_module_level=True)

# From the bottom up: a file includes headers, and calls functions, of those before it.
ORDER = [
    "kernel",
    "bytes",
    "call",
    "stage",
    "relay",
    "gap",
    "ring",
    "proxy",
    "netns",
    "channel",
    "boundary",
    "policy",
    "power",
    "requests",
    "control",
    "loop",
    "start",
]
FILES = sorted(path for path in PACKAGE.iterdir() if path.suffix in (".c", ".h"))
by_name = pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])


def code(path):
    return re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def level(path):
    return ORDER.index(path.stem)


def defined(path):
    """The functions with a body that other files can call, inline ones of a header included."""
    return re.findall(r"^(?!static (?!inline))[\w *]+?\b(\w+)\([^;{}]*\)\s*\{", code(path), re.M)


DEFINED = {name: path for path in FILES for name in defined(path)}


def test_every_file_has_its_place():
    assert {path.stem for path in FILES} == set(ORDER)


@by_name
def test_includes_go_downwards(path):
    """What goes downwards only has no circle."""
    for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', code(path), re.M):
        included = PACKAGE / name
        assert included in FILES
        assert included.suffix == ".h"
        assert level(included) < level(path) or included == path.with_suffix(".h") != path, name


@by_name
def test_calls_go_downwards(path):
    for name in set(re.findall(r"\b(fns_\w+)\s*\(", code(path))):
        assert name in DEFINED
        assert level(DEFINED[name]) <= level(path), name


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".c"], ids=lambda path: path.name)
def test_names_say_the_file(path):
    for name in defined(path):
        assert name.startswith(f"fns_{path.stem}_") or path.stem == "bytes", name


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".h"], ids=lambda path: path.name)
def test_header_lists_its_own_file_only(path):
    for name in re.findall(r"^\w[\w *()]*?\b(fns_\w+)\s*\([^{}]*?\);", code(path), re.M):
        assert DEFINED[name] in (path, path.with_suffix(".c")), name


@by_name
def test_state_is_in_one_struct(path):
    """What outlives a call is in `proxy`; else only tables stand outside of functions."""
    declaration = r"^(?:static |extern )?(?:struct |union |enum )?\w[\w *]*(?:\[\w*\])?(?: = .*)?;$"
    outside = re.findall(declaration, code(path), re.M)
    kept = [line for line in outside if not line.startswith(("static const ", "struct chan;", "struct allowed;"))]
    assert kept == {"proxy.c": ["struct fns_proxy proxy;"], "proxy.h": ["extern struct fns_proxy proxy;"]}.get(
        path.name, []
    )


@by_name
def test_begins_with_what_it_is_for(path):
    """What it owns, what it must not touch, who calls it."""
    comment = re.match(r"/\*.*?\*/", path.read_text(encoding="utf-8"), re.DOTALL)
    assert comment is not None
    assert sum(bool(line.strip(" */")) for line in comment[0].splitlines()) >= 3


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("level", ["-O0", "-O2", "-O3"])
def test_nothing_of_libc_runs_in_the_proxy(compiler, level, tmp_path):
    """What a program interposes does not run there, and what it had mapped is not there. The caller's end of the ring is
    in the file of the other one."""
    need_tool(compiler)
    sources = [path for path in FILES if path.suffix == ".c"]
    flags = [level, "-std=gnu11", "-fPIC", "-fvisibility=hidden", "-fno-stack-protector", "-D_FORTIFY_SOURCE=2"]
    subprocess.run([compiler, *flags, "-c", *map(str, sources)], check=True, cwd=tmp_path)
    names: dict[str, set[str]] = {"T": set(), "U": set()}
    for path in sources:
        kept = {"clock_gettime", "sched_getcpu"} if path.stem == "ring" else set()
        done = subprocess.run(["nm", f"{path.stem}.o"], check=True, cwd=tmp_path, capture_output=True, text=True)
        for line in done.stdout.splitlines():
            kind, name = line.split()[-2:]
            names["U" if kind == "U" else "T"].add("" if name in kept else name)
    assert names["U"] - names["T"] <= {"", "__ehdr_start", "_end", "_GLOBAL_OFFSET_TABLE_"}
