"""Rules of the source that no tool checks."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parent.parent
PACKAGE = TREE / "fastns"
GENERATED = {"_core.c", "_codec.c"}

if not PACKAGE.is_dir():  # the tests of an installed package, away from the source
    pytest.skip("python: the source tree is not here", allow_module_level=True)

SOURCES = sorted(
    path
    for path in PACKAGE.iterdir()
    if path.suffix in (".py", ".pyx", ".pxi", ".pxd", ".pyi", ".c", ".h") and path.name not in GENERATED
)
EVERYTHING = SOURCES + sorted(
    path
    for folder in ("tests", "benchmarks", "docs", ".ci")
    for path in (TREE / folder).rglob("*")
    if path.is_file() and path.suffix in (".py", ".md", ".c", "") and "__pycache__" not in path.parts
)

# From the top down: a module imports only from those after it.
LAYERS = [
    "__main__",
    "cli",
    "_cli_names",
    "_cli_completion",
    "_cli_load",
    "_cli_top",
    "_cli_map",
    "_cli_links",
    "_cli_monitor",
    "_cli_messages",
    "_cli_lines",
    "_cli_link_lines",
    "_cli_words",
    "_cli_demo",
    "_cli_doctor",
    "_cli_rootless",
    "_bench",
    "_demo",
    "_compare",
    "_cli_base",
    "dropin",
    "ipdb",
    "_ipdb_views",
    "_ipdb_events",
    "_ipdb_rules",
    "_ipdb_routes",
    "_ipdb_interfaces",
    "_ipdb_links",
    "_ipdb_records",
    "_ipdb_values",
    "pool",
    "aio",
    "_aio_engine",
    "nspopen",
    "iproute",
    "batch",
    "monitor",
    "table",
    "_transport",
    "_engine",
    "_request",
    "proxy",
    "netns",
    "_watch",
    "schema",
    "errors",
    "_codec",
    "_core",
]


def by_name(paths):
    return pytest.mark.parametrize("path", paths, ids=[str(path.relative_to(TREE)) for path in paths])


def lines(path):
    return enumerate(path.read_text(encoding="utf-8").splitlines(), 1)


@by_name([path for path in SOURCES if path.name.startswith("_relay") and path.suffix in (".c", ".h")])
def test_relay_cannot_touch_python(path):
    """What runs after the fork may not allocate, print, take a lock or know an interpreter."""
    code = re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert "Python.h" not in code
    calls = r"\b(malloc|calloc|realloc|free|printf|fprintf|snprintf|strerror|syslog|exit|pthread_(?!self\b)\w+|dlopen|setenv)\s*\("
    assert re.findall(calls, code) == []


@by_name(SOURCES)
def test_file_is_not_too_long(path):
    limit = 1200 if path.name == "_encode.pxi" else 1000
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit


@by_name(EVERYTHING)
def test_no_leftovers(path):
    if path == Path(__file__).resolve():
        return
    words = re.compile(r"\b(TODO|FIXME|XXX|HACK|breakpoint\(\)|pdb\.set_trace)\b")
    assert [f"{number}: {line}" for number, line in lines(path) if words.search(line)] == []


@by_name([path for path in SOURCES if path.suffix in (".pyx", ".pxi")])
def test_every_c_function_states_its_exceptions(path):
    """`cdef` functions returning C values say `except …` or `noexcept`; those returning objects need not."""
    text = re.sub(r'"""\n.*?"""', "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    # what Cython itself makes of a signature that spans lines
    signatures = re.findall(
        r"^[ \t]*cdef ((?:inline |api |public )*[^\n=()]*\([^=]*?\)[^\n:]*):[ \t]*(?:#.*)?$", text, re.M
    )
    objects = re.compile(r"^(inline )?(object|bytes|bytearray|str|list|dict|tuple|set|type|[A-Z_]\w*) ?\w*\(")
    missing = [
        signature
        for signature in (" ".join(signature.split()) for signature in signatures)
        if not re.search(r"\)\s*(nogil\s*)?(noexcept|except)", signature) and not objects.match(signature)
    ]
    assert [s for s in missing if not s.startswith(("extern", "class"))] == []


def imported(path):
    """The modules of the package that a module imports when it is imported itself."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "fastns":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("fastns."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("fastns.")}
    return found


@by_name([path for path in SOURCES if path.suffix == ".py" and path.stem != "__init__"])
def test_imports_go_downwards(path):
    assert path.stem in LAYERS, "say in LAYERS where it stands"
    below = LAYERS[LAYERS.index(path.stem) + 1 :]
    assert sorted(name for name in imported(path) if name in LAYERS and name not in below) == []


@by_name([path for path in SOURCES if path.suffix in (".pyx", ".pxi") and "codec" not in path.name])
def test_core_knows_no_messages(path):
    if path.name in {"_core.pyx", "_ns.pxi", "_sock.pxi", "_spawn.pxi"}:
        assert "pyroute2" not in re.sub(
            r'""".*?"""|#[^\n]*', "", path.read_text(encoding="utf-8"), flags=re.DOTALL
        )


def test_nothing_generated_is_kept():
    ignored = (TREE / ".gitignore").read_text(encoding="utf-8").split()
    assert {"/fastns/_core.c", "/fastns/_codec.c", "*.so"} <= set(ignored)
