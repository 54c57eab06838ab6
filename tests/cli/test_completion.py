"""`fastns completion`: at the press of the tab key, in real shells."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import subprocess
import sys
from typing import Iterator

import pytest
from commands import ENV, Terminal, run
from isolation import need_tool

pytest.importorskip("click", reason="python: click is not installed")

# What is typed before the tab key, and the line then. NS is a namespace, ODD one whose name a shell has to quote, FILE a
# file, and fnsprogram is found in PATH.
TYPED = [
    ("fastns ma", "fastns map "),
    ("fastns map --format=sv", "fastns map --format=svg "),
    ("fastns del NS", "fastns del NS "),
    ("fastns map NS ODD", "fastns map NS ODD "),
    ("fastns load NS FILE", "fastns load NS FILE "),
    ("fastns exec --he", "fastns exec --help "),
    ("fastns exec NS fnsprog", "fastns exec NS fnsprogram "),
    ("fastns exec ODD cat FILE", "fastns exec ODD cat FILE "),
    ("fastns rootless -- fnsprogram FILE", "fastns rootless -- fnsprogram FILE "),
]


@pytest.fixture
def odd(netns: str) -> Iterator[str]:
    name = f"odd {netns}:,$x"
    run("add", name)
    yield name
    run("del", name)


@pytest.fixture
def env(tmp_path: pathlib.Path) -> dict[str, str]:
    """An environment with `fastns` and `fnsprogram` in PATH, and nothing of the user's own."""
    for name, line in (("fastns", f'exec {sys.executable} -m fastns "$@"'), ("fnsprogram", "")):
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\n{line}\n")
        file.chmod(0o755)
    return {**ENV, "PATH": f"{tmp_path}/bin{os.pathsep}{ENV['PATH']}", "HOME": str(tmp_path), "INPUTRC": "/dev/null"}


def cases(netns: str, odd: str, folder: pathlib.Path) -> Iterator[tuple[str, str]]:
    """TYPED with real names, the last one to be completed without its last two characters."""
    (folder / "file-1.txt").touch()
    real = {"NS": netns, "ODD": re.sub(r"[ $]", r"\\\g<0>", odd), "FILE": f"{folder}/file-1.txt"}
    for typed, line in TYPED:
        words = [real.get(word, word) for word in typed.split()]
        if typed.split()[-1] in real:
            words[-1] = words[-1][:-2].rstrip("\\")
        yield " ".join(words), " ".join(real.get(word, word) for word in line.split(" "))


class Shell(Terminal):
    """A shell whose ctrl-g writes the line that is being edited in angle brackets."""

    def __init__(self, argv: list[str], env: dict[str, str], *commands: str) -> None:
        super().__init__(program=argv, env=env)
        self.press("\n".join([*commands, "echo rea''dy", ""]).encode())
        self.until("ready\r\n")

    def tab(self, typed: str) -> str:
        self.screen = ""
        self.press(typed.encode() + b"\t\x07")
        self.until(">>")
        self.press(b"\x15")
        found = re.search("<<(.*)>>", self.screen, re.S)
        assert found, self.screen
        return found[1]


def bash(env: dict[str, str]) -> Shell:
    show = r"""bind -x '"\C-g": echo "<""<$READLINE_LINE>"">"'"""
    return Shell(["bash", "--norc", "-i"], env, show, "source <(fastns completion bash)")


def zsh(env: dict[str, str]) -> Shell:
    show = 'show() { print -r -- "<""<$BUFFER>"">" }; zle -N show; bindkey "^G" show; bindkey "^U" kill-whole-line'
    init = "autoload -Uz compinit; compinit -u -D; source <(fastns completion zsh)"
    return Shell(["zsh", "-f", "-i"], env, init, show)


@pytest.mark.root
@pytest.mark.parametrize("shell", [bash, zsh], ids=["bash", "zsh"])
def test_tab(shell, netns: str, odd: str, env: dict[str, str], tmp_path: pathlib.Path) -> None:
    need_tool(shell.__name__)
    with shell(env) as terminal:
        for typed, line in cases(netns, odd, tmp_path):
            assert terminal.tab(typed) == line
        assert terminal.tab('fastns map "odd ') == rf'fastns map "odd {netns}:,\$x" '
        terminal.tab("fastns m\t")
        assert "map" in terminal.screen
        assert "monitor" in terminal.screen


@pytest.mark.root
def test_tab_fish(netns: str, odd: str, env: dict[str, str], tmp_path: pathlib.Path) -> None:
    need_tool("fish")
    asked = list(cases(netns, odd, tmp_path))
    script = 'fastns completion fish | source; for line in $argv; complete -C "$line"; echo; end'
    argv = ["fish", "--no-config", "-c", script, *(typed for typed, _ in asked)]
    done = subprocess.run(argv, capture_output=True, text=True, env=env, check=True, cwd=tmp_path)
    found = [[item.split("\t")[0] for item in answer.splitlines()] for answer in done.stdout.split("\n\n")]
    assert found[: len(asked)] == [shlex.split(line)[-1:] for _, line in asked]
    assert done.stderr == ""


@pytest.mark.root
def test_names_are_completed(netns_pair: tuple[str, str]) -> None:
    """Those that are not given yet; none that a terminal might act on."""
    hostile = "fns-a\nplain\tx"
    run("add", hostile)
    try:
        for words in (["load"], ["del", netns_pair[0]]):
            expected = {f"plain\t{name}" for name in netns_pair if name not in words}
            assert set(run("completion", "zsh", *words, "fns-").stdout.splitlines()) == expected
            assert set(run("completion", "bash", f"fastns {' '.join(words)} fns-", " =:").stdout.splitlines()) == expected
    finally:
        run("del", hostile)


def test_words_about_candidates() -> None:
    fish = run("completion", "fish", "").stdout.splitlines()
    assert "plain\tadd\tCreate namespaces, as `ip netns add` does." in fish
    zsh = run("completion", "zsh", "map", "--").stdout.splitlines()
    assert "plain\t--format:text, or what the file's ending says." in zsh
    assert run("completion", "zsh", "list", "x").stdout == ""
