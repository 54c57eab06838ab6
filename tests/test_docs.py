"""Every example in README.md and docs/ runs, and every example of pyroute2's page about namespaces.

Examples of a document are its ```python and ```sh blocks, run one after the other in one Python process in namespaces
of its own. A block after the line `<!-- example: not run -->` is shown only, one after `<!-- example: fresh -->` begins
anew; `<!-- example: needs NAME NAME -->` names the modules without which none of the document is run.
The page's examples are files in data/netns_page: its text with `fastns` in the import, then what it must have done.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from isolation import RUN_DIR, need_privilege, need_tool

import fastns

HERE = Path(__file__).resolve().parent
TREE = HERE.parent
PAGE = sorted((HERE / "data" / "netns_page").glob("*.py"))
DOCUMENTS = [TREE / "README.md", *sorted((TREE / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- example: (?P<how>[\w ]+) -->\n+)?^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```$",
    re.M | re.S,
)

# In a network and mount namespace of its own: examples use plain names, and must not meet.
RUNNER = """
import os, pathlib, sys, warnings
sys.path[:0] = {path!r}
os.environ["PATH"] = {programs!r} + os.pathsep + os.environ["PATH"]
from isolation import acquire
acquire()
from guard import leaks, look
import subprocess
warnings.simplefilter("error")
for name in {needs!r}:
    subprocess.run(["ip", "netns", "add", name], check=True)
before = look()
scope = {{"__name__": "__main__"}}
exec(compile(pathlib.Path({file!r}).read_text(), {file!r}, "exec"), scope)
scope.clear()
if {check!r}:
    found = leaks(before)
    if found:
        sys.exit("left behind: " + "; ".join(found))
"""


def run_example(file, needs=(), check=True, programs=""):
    script = RUNNER.format(
        programs=str(programs),
        path=[str(HERE), str(Path(fastns.__file__).parent.parent)],
        needs=list(needs),
        file=str(file),
        check=check,
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, cwd=TREE
    )
    assert done.returncode == 0, f"{file}\n{done.stdout}{done.stderr}"
    return done.stdout


def directive(text, name):
    found = re.search(rf"^# {name}: (.*)$", text, re.M)
    return found.group(1).split() if found else []


@pytest.mark.root
@pytest.mark.parametrize("file", PAGE, ids=lambda path: path.stem)
def test_example_of_pyroute2s_page(file):
    need_tool("ip")
    text = file.read_text(encoding="utf-8")
    for name in directive(text, "after"):
        if not hasattr(fastns, name):
            pytest.skip(f"python: fastns has no {name} yet")
    run_example(file, directive(text, "needs"))


def test_page_is_complete():
    assert len(PAGE) == 12


def blocks(document):
    found = list(BLOCK.finditer(document.read_text(encoding="utf-8")))
    return [
        (m["how"] or "", m["language"], textwrap.dedent(m["code"]))
        for m in found
        if m["language"] in ("python", "sh")
    ]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A directory in which `python` and `fastns` are those under test."""
    folder = tmp_path_factory.mktemp("bin")
    for name, command in (("python", ""), ("fastns", " -m fastns")):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{command} "$@"\n', encoding="utf-8")
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.root
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TREE)))
def test_examples_of_document(document, tmp_path, programs):
    parts: list[str] = [""]
    for how, language, code in blocks(document):
        for module in how.split()[1:] if how.startswith("needs ") else ():
            if importlib.util.find_spec(module) is None:
                pytest.skip(f"python: {document.name} needs {module}")
        if how == "not run":
            if language == "python":
                compile(code, str(document), "exec")
            continue
        if how == "fresh":
            parts.append("")
        script = code if language == "python" else f"subprocess.run(['bash', '-ec', {code!r}], check=True)"
        parts[-1] += script + "\n"
    for number, code in enumerate(parts):
        if code:
            file = tmp_path / f"{document.stem}_{number}.py"
            file.write_text("import subprocess\n" + code, encoding="utf-8")
            run_example(file, check=False, programs=programs)


def test_reference_has_every_public_name():
    named = {
        name
        for page in (TREE / "docs" / "reference").glob("*.md")
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M)
    }
    missing = []
    package = Path(fastns.__file__).parent
    for path in sorted([*package.glob("[a-z]*.py"), *package.glob("*/__init__.py")]):
        name = path.parent.name if path.stem == "__init__" else path.stem
        module = importlib.import_module(f"fastns.{name}")
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if not getattr(thing, "__module__", "fastns").startswith("fastns"):
                continue
            places = {module.__name__, f"{module.__name__}.{name}", f"fastns.{name}"}
            if not places & named:
                missing.append(f"{module.__name__}.{name}")
    assert missing == []
    assert {"fastns._core", "fastns._codec"} <= named


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TREE)))
def test_links_of_document_lead_somewhere(document):
    text = BLOCK.sub("", document.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    local = [target for target in targets if not target.startswith(("http://", "https://", "mailto:"))]
    assert [target for target in local if not (document.parent / target).exists()] == []


def test_readme_begins_with_the_two_commands():
    text = (TREE / "README.md").read_text(encoding="utf-8")
    commands = [
        line.split("#")[0].strip() for line in text.splitlines() if line.startswith(("make ", "$ make "))
    ]
    assert commands[:2] == ["make run", "make test"]


def test_make_targets_named_in_documents_exist():
    targets = set(re.findall(r"^([a-z-]+):", (TREE / "Makefile").read_text(encoding="utf-8"), re.M))
    for document in [*DOCUMENTS, TREE / "CONTRIBUTING.md"]:
        named = set(re.findall(r"`make ([a-z-]+)", document.read_text(encoding="utf-8")))
        assert named <= targets, document


def test_isolation_leaves_the_machine_alone():
    need_privilege()
    listing = "import os, sys; sys.path.insert(0, %r); from isolation import acquire; acquire(); print(os.listdir(%r))"
    out = subprocess.run(
        [sys.executable, "-c", listing % (str(HERE), RUN_DIR)], check=True, capture_output=True, text=True
    )
    assert out.stdout.strip() == "[]"
