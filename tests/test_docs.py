"""Every example in README.md and docs/ runs, and every example of pyroute2's page about namespaces.

Examples of a document are its ```python blocks, run one after the other in one Python process in namespaces of its
own. A block after the line `<!-- example: not run -->` is shown only, one after `<!-- example: fresh -->` begins anew.
The page's examples are files in data/netns_page: its text with `fastns` in the import, then what it must have done.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from isolation import RUN_DIR, need_privilege, need_tool

import fastns

HERE = Path(__file__).resolve().parent
TREE = HERE.parent
PAGE = sorted((HERE / "data" / "netns_page").glob("*.py"))
DOCUMENTS = [TREE / "README.md", *sorted((TREE / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- example: (?P<how>[\w ]+) -->\n+)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)

# In a network and mount namespace of its own: examples use plain names, and must not meet.
RUNNER = """
import pathlib, sys, warnings
sys.path[:0] = {path!r}
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


def run_example(file, needs=(), check=True):
    script = RUNNER.format(
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
    return [(m["how"], m["code"]) for m in found if m["language"] == "python"]


@pytest.mark.root
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TREE)))
def test_examples_of_document(document, tmp_path):
    parts: list[str] = [""]
    for how, code in blocks(document):
        if how == "not run":
            compile(code, str(document), "exec")
            continue
        if how == "fresh":
            parts.append("")
        parts[-1] += code + "\n"
    for number, code in enumerate(parts):
        if code:
            file = tmp_path / f"{document.stem}_{number}.py"
            file.write_text(code, encoding="utf-8")
            run_example(file, check=False)


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
    targets = set(re.findall(r"^([a-z]+):", (TREE / "Makefile").read_text(encoding="utf-8"), re.M))
    for document in [*DOCUMENTS, TREE / "CONTRIBUTING.md"]:
        named = set(re.findall(r"`make ([a-z]+)", document.read_text(encoding="utf-8")))
        assert named <= targets, document


def test_isolation_leaves_the_machine_alone():
    need_privilege()
    listing = "import os, sys; sys.path.insert(0, %r); from isolation import acquire; acquire(); print(os.listdir(%r))"
    out = subprocess.run(
        [sys.executable, "-c", listing % (str(HERE), RUN_DIR)], check=True, capture_output=True, text=True
    )
    assert out.stdout.strip() == "[]"
