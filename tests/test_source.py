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
    for path in PACKAGE.rglob("*")
    if path.suffix in (".py", ".pyx", ".pxi", ".pxd", ".pyi", ".c", ".h") and path.name not in GENERATED
)
EVERYTHING = SOURCES + sorted(
    path
    for folder in ("tests", "benchmarks", "docs", ".ci")
    for path in (TREE / folder).rglob("*")
    if path.is_file() and path.suffix in (".py", ".md", ".c", ".h", "") and "__pycache__" not in path.parts
)
ENTRIES_MAX = 32
LINES_MIN, LINES_MAX = 30, 800
FACES = {"__init__.py", "__main__.py", "_core.pyx", "_codec.pyx"}  # and the header of a C file of the same name

# From the top down, in two steps: a room's files import from the rooms after it, and within a room from the files
# after them. A room is a folder, or a file that stands by itself.
ROOMS = {
    "__main__": "",
    "cli": (
        "names exec load lines link_lines demo bench compare map topology monitor messages top completion doctor rootless "
        "base streams vocabulary words"
    ),
    "__init__": "",
    "dropin": "",
    "ipdb": "database views routes rules interfaces links link_fields events records exceptions values",
    "pool": "",
    "aio": "",
    "nspopen": "",
    "iproute": "",
    "handle": "",
    "batch": "",
    "monitor": "",
    "table": "",
    "engine": "aio blocking request transport",
    "proxy": "",
    "netns": "discovery settings entering names opening watching reference",
    "sleepers": "",
    "schema": "",
    "_codec": "",
    "_core": "",
    "errors": "",
}


def by_name(paths):
    return pytest.mark.parametrize("path", paths, ids=[str(path.relative_to(TREE)) for path in paths])


def lines(path):
    return enumerate(path.read_text(encoding="utf-8").splitlines(), 1)


@by_name([path for path in SOURCES if path.parent.name == "relay"])
def test_relay_cannot_touch_python(path):
    """What runs after the fork may not allocate, print, take a lock or know an interpreter."""
    code = re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert "Python.h" not in code
    calls = r"\b(malloc|calloc|realloc|free|printf|fprintf|snprintf|strerror|syslog|exit|pthread_(?!self\b)\w+|dlopen|setenv)\s*\("
    assert re.findall(calls, code) == []


@by_name(SOURCES)
def test_file_has_the_size_of_one_subject(path):
    length = len(path.read_text(encoding="utf-8").splitlines())
    assert length <= LINES_MAX
    assert length >= LINES_MIN or path.name in FACES or (path.suffix == ".h" and path.with_suffix(".c").exists())


@by_name(SOURCES)
def test_name_does_not_say_the_place_again(path):
    if path.parent == PACKAGE:
        assert not path.name.startswith("_") or path.stem in ("__init__", "__main__", "_core", "_codec", "_linux")
    else:
        assert not path.name.startswith(f"{path.parent.name}_")
        assert not path.name.startswith("_") or path.name == "__init__.py"


def test_top_of_the_package_is_read_at_a_glance():
    entries = [
        path
        for path in PACKAGE.iterdir()
        if path.name not in GENERATED and path.name != "__pycache__" and path.suffix != ".so"
    ]
    assert len(entries) <= ENTRIES_MAX


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


# Imports, wherever they stand: on top, for types only, or inside a function.


def module_of(path):
    """The dotted name below fastns; the face of a folder has the folder's, the face of all is "__init__"."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(parts)


MODULES = {module_of(path): path for path in SOURCES if path.suffix in (".py", ".pyx")}


def named(module, names):
    """What `from module import names` imports of ours."""
    below = module.removeprefix("fastns").lstrip(".")
    for name in names:
        inner = f"{below}.{name}" if below else name
        yield inner if inner in MODULES else below or "__init__"


def imported_by_python(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "fastns":
            yield from named(node.module, [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "fastns":
                    yield "__init__"
                elif alias.name.startswith("fastns."):
                    yield alias.name.removeprefix("fastns.")


def imported_by_cython(path):
    text = path.read_text(encoding="utf-8")
    parts = [path, *(path.parent / name for name in re.findall(r'^include "([^"]+)"', text, re.M))]
    for part in parts:
        for module, names in re.findall(
            r"^\s*from (fastns[\w.]*) import \(?([^#\n]*)", part.read_text(encoding="utf-8"), re.M
        ):
            yield from named(module, re.findall(r"\w+", names))


IMPORTS = {
    name: set(imported_by_python(path) if path.suffix == ".py" else imported_by_cython(path)) - {name}
    for name, path in MODULES.items()
}


def room(module):
    return module.partition(".")[0]


def test_every_file_has_its_room():
    assert {room(module) for module in MODULES} == set(ROOMS)
    for name, order in ROOMS.items():
        inside = {module.partition(".")[2] for module in MODULES if room(module) == name} - {""}
        assert set(order.split()) == inside, name


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_downwards(module):
    order = list(ROOMS)
    below = order[order.index(room(module)) + 1 :]
    for other in IMPORTS[module]:
        assert room(other) == room(module) or room(other) in below, other
    inner = ROOMS[room(module)].split()
    if "." in module:
        below = inner[inner.index(module.partition(".")[2]) + 1 :]
        beside = {other.partition(".")[2] for other in IMPORTS[module] if room(other) == room(module)}
        assert beside <= set(below), beside


def test_no_circle():
    """What imports nothing that is left, and what nothing left imports, is in none; the rest is or is between two."""
    left = {module: set(needed) for module, needed in IMPORTS.items()}
    while True:
        wanted = set().union(*left.values())
        free = {module for module, needed in left.items() if not needed or module not in wanted}
        if not free:
            break
        left = {module: needed - free for module, needed in left.items() if module not in free}
    assert left == {}


@by_name([path for path in SOURCES if path.parent.name == "core" or path.name == "_core.pyx"])
def test_core_knows_no_messages(path):
    assert "pyroute2" not in re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


@by_name([path for path in SOURCES if path.suffix == ".py" and path.parent.name != "ipdb"])
def test_locks_are_the_interpreters_own(path):
    """In a patched program those of threading are green: a thread of the system that waits for one which another thread
    holds never has it. IPDB's may be: it waits for events with them, and belongs to one thread and its greenlets."""
    green = {"Lock", "RLock", "Condition", "Event", "Semaphore", "BoundedSemaphore", "Barrier", "Queue", "SimpleQueue"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in ("threading", "queue")
        for alias in node.names
    }
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") in ("threading", "queue")
    }
    assert (named | used) & green == set()


@by_name([path for path in SOURCES if path.suffix in (".pyx", ".pxi")])
def test_cython_has_no_locks_of_threading(path):
    assert not re.search(r"^\s*(import|from) (threading|queue)\b", path.read_text(encoding="utf-8"), re.M)


def test_nothing_generated_is_kept():
    ignored = (TREE / ".gitignore").read_text(encoding="utf-8").split()
    assert {"/fastns/_core.c", "/fastns/_codec.c", "*.so"} <= set(ignored)
