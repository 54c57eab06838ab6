"""`fastns completion`: what a shell needs to complete commands, options, files and the names of namespaces.

The scripts ask `fastns completion SHELL WORDS…` at each press of the key. Every line of the answer is a kind and, behind a
tab, what it needs:

plain   the candidate as the shell wants it, a tab, a word about it (fish, zsh)
file    nothing: the shell completes a file
program the number of words before those of another program: the shell completes as for that one
"""

from __future__ import annotations

import re
from typing import Iterator

import click
from click.shell_completion import CompletionItem, ShellComplete

from fastns.cli.base import PROGRAM

BASH = r"""
_fastns() {
    local kind text
    COMPREPLY=()
    while IFS=$'\t' read -r kind text; do
        case $kind in
        plain) COMPREPLY+=("$text") ;;
        file) compopt -o default ;;
        program)
            if declare -F _comp_command_offset >/dev/null; then
                _comp_command_offset "$text"
            elif declare -F _command_offset >/dev/null; then
                _command_offset "$text"
            elif [ "$text" = "$COMP_CWORD" ]; then
                mapfile -t COMPREPLY < <(compgen -c -- "${COMP_WORDS[COMP_CWORD]}" | sort -u)
            else
                compopt -o default
            fi
            ;;
        esac
    done < <(fastns completion bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
}
complete -F _fastns fastns
"""

ZSH = r"""
#compdef fastns
_fastns() {
    local line
    local -a items
    for line in "${(@f)$(fastns completion zsh "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}"; do
        case $line in
        plain*) items+=("${line#*$'\t'}") ;;
        file*) _files ;;
        program*)
            shift "${line#*$'\t'}" words
            (( CURRENT -= ${line#*$'\t'} ))
            _normal
            ;;
        esac
    done
    (( $#items )) && _describe -V fastns items
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _fastns "$@"
else
    compdef _fastns fastns
fi
"""

FISH = r"""
function _fastns
    set -l words (commandline -opc) (commandline -ct)
    for line in (fastns completion fish $words[2..-2] (string unescape -- $words[-1]; or echo $words[-1]) 2>/dev/null)
        set -l item (string split -m 1 \t -- $line)
        switch $item[1]
            case plain
                echo $item[2]
            case file
                __fish_complete_path $words[-1]
            case program
                set -l own (string escape -- $words[(math $item[2] + 1)..-2]) $words[-1]
                complete -C (string join " " -- $own)
        end
    end
end
complete --no-files --command fastns --arguments "(_fastns)"
"""

SCRIPTS = {"bash": BASH, "fish": FISH, "zsh": ZSH}

# A word as bash sees it, the last one perhaps without its closing quote.
WORD = re.compile(r"""(?:\\.|\\$|'[^']*(?:'|$)|"(?:\\.|[^"\\])*(?:\\?$|")|[^\s'"\\])+""", re.S)
PIECE = re.compile(r"""\\(.?)|'([^']*)'?|"((?:\\.|[^"\\])*)\\?"?""", re.S)


@click.command(context_settings=PROGRAM)
@click.argument("shell", type=click.Choice(sorted(SCRIPTS)))
@click.argument("words", nargs=-1, metavar="[WORD…]", type=click.UNPROCESSED)
@click.pass_context
def completion(ctx: click.Context, shell: str, words: tuple[str, ...]) -> None:
    """Print the completion script of a shell; with words, what the script asks at the press of the key.

    bash: `source <(fastns completion bash)` in ~/.bashrc. zsh: the same with zsh in ~/.zshrc, behind compinit.
    fish: `fastns completion fish > ~/.config/fish/completions/fastns.fish`.
    """
    if not words:
        click.echo(SCRIPTS[shell].lstrip(), nl=False)
        return
    command = ctx.find_root().command
    lines = in_bash(command, *words) if shell == "bash" else in_words(command, shell, words)
    for line in lines:
        click.echo(line)


def candidates(command: click.Command, words: list[str], last: str) -> list[CompletionItem]:
    """What could stand for `last` behind the words of the command line, which begins with `fastns`."""
    found = ShellComplete(command, {}, "fastns", "").get_completions(words, last)
    option, equals, _ = last.partition("=")
    for item in found:
        if item.type == "program":
            item.value = str(len(words) + 2 - int(item.value))
        elif equals and option.startswith("--"):
            item.value = f"{option}={item.value}"
    return found


def in_words(command: click.Command, shell: str, words: tuple[str, ...]) -> Iterator[str]:
    """The answer for zsh and fish, which quote by themselves."""
    for item in candidates(command, list(words[:-1]), words[-1]):
        value = str(item.value)
        if item.type != "plain":
            yield f"{item.type}\t{value}"
        elif shell == "zsh":
            value = re.sub(r"[\\:]", r"\\\g<0>", value)
            yield f"plain\t{value}:{item.help}" if item.help else f"plain\t{value}"
        else:
            yield f"plain\t{value}\t{item.help}" if item.help else f"plain\t{value}"


def in_bash(command: click.Command, line: str, breaks: str) -> Iterator[str]:
    """The answer for bash, which splits words at `breaks` too, completes what is behind the last of them, and quotes
    nothing."""
    raw = WORD.findall(line)
    if not raw or not line.endswith(raw[-1]):
        raw.append("")
    last = raw[-1]
    quote = last[:1] if last[:1] in ("'", '"') else ""
    split = "" if quote else re.match(rf"(?:(?:\\.|[^\\])*[{re.escape(breaks)}])?", last, re.S)[0]  # type: ignore[index]
    for item in candidates(command, list(map(unquoted, raw[1:-1])), unquoted(last)):
        value = str(item.value)
        if item.type == "program":
            pieces = f"[{re.escape(breaks)}]+|[^{re.escape(breaks)}]+"
            yield f"program\t{sum(len(re.findall(pieces, word)) for word in raw[: int(value)])}"
        elif item.type == "plain":
            yield f"plain\t{quoted(value[len(unquoted(split)) :], quote)}"
        else:
            yield f"{item.type}\t{value}"


def unquoted(word: str) -> str:
    def plain(found: re.Match[str]) -> str:
        backslash, single, double = found.groups()
        if double is not None:
            return re.sub(r'\\([$`"\\\n])', r"\1", double)
        return backslash if single is None else single

    return PIECE.sub(plain, word)


def quoted(value: str, quote: str) -> str:
    """As it may stand behind this quote, which readline closes."""
    if quote == "'":
        return value.replace("'", r"'\''")
    return re.sub(r'[$`"\\]' if quote else r"[^\w@%+=:,./-]", r"\\\g<0>", value)
