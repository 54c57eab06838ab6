"""What the commands of `fastns` share: errors, signals, and output that no name can write escape sequences into."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Iterator, NoReturn

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from rich.console import Console

    from fastns.iproute import IPRoute

RUN_DIR = "/var/run/netns"  # netns.NETNS_RUN_DIR, without what its import takes
HINT = "run it as root, or inside `fastns rootless -- …`"
NOT_REACHED = 125
INSIDE = "FASTNS_ROOTLESS"  # set in the environment by `fastns rootless`

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
PROGRAM = {"ignore_unknown_options": True, "allow_interspersed_args": False}


class Program(click.Command):
    """A command whose `argv` is another program's: the shell completes that as the program's own."""

    def __init__(self, name: str | None, **attributes: Any) -> None:
        super().__init__(name, PROGRAM, **attributes)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Asked for what begins like an option."""
        if ctx.params.get("argv"):
            return complete_program(ctx, self.params[-1], incomplete)
        return super().shell_complete(ctx, incomplete)


def complete_program(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For the shell: the last so many words are a program's."""
    return [CompletionItem(str(1 + len(ctx.params.get("argv") or ())), "program")]


def complete_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The namespaces of the run directory, for the shell. No import of fastns.netns: a key press waits for this."""
    try:
        names = os.listdir(RUN_DIR)
    except OSError:
        return []
    given = ctx.params.get(param.name or "") or ()
    return sorted(n for n in names if n.startswith(incomplete) and n == printable(n) and n not in given)


def reference(name: str) -> str:
    """The namespace a command was given: "." is the one it runs in."""
    return "/proc/thread-self/ns/net" if name == "." else name


def open_namespace(name: str, **options: Any) -> IPRoute:
    """A handle in the namespace a command was given. For the one it runs in that takes no privilege."""
    from fastns.iproute import IPRoute, NetNS

    return IPRoute(**options) if name == "." else NetNS(name, flags=0, **options)


def printable(text: str) -> str:
    """The text with everything a terminal might act on written as an escape: controls, line ends, bidi marks."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def explain(error: OSError) -> str:
    """One line: the reference, what failed, and the way out where privilege is what is missing."""
    text = error.strerror or str(error)
    if error.filename is not None:
        name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
        text = f"{name}: {text}"
    if error.errno in (errno.EPERM, errno.EACCES):
        text = f"{text}; {HINT}"
    return text


def say(text: str) -> None:
    """One line on standard error."""
    click.echo(f"fastns: {printable(text)}", err=True)


def fail(text: str, code: int = 1) -> NoReturn:
    say(text)
    sys.exit(code)


def replace_process(argv: tuple[str, ...]) -> NoReturn:
    """Become the program, with the signal dispositions Python changed put back."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvp(argv[0], argv)
    except FileNotFoundError:
        fail(f"{argv[0]}: program not found", 127)
    except OSError as error:
        fail(f"{argv[0]}: {error.strerror}", 126)


class Stop(SystemExit):
    """A signal asked us to end; everything made is removed on the way out."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does, by an exception: what it made or changed is put back."""
    owner = os.getpid()

    def stop(number: int, _: Any) -> None:
        if os.getpid() == owner:
            raise Stop(128 + number)
        signal.signal(number, signal.SIG_DFL)  # a child that pyroute2 forked, and ends so
        os.kill(os.getpid(), number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def console(**options: Any) -> Console:
    """Where people read; when a program does, whole lines whatever their length, and plain."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(**options)
    return Console(width=100_000, color_system=None, **options)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]], right: tuple[str, ...] = ()) -> None:
    """Print aligned columns."""
    out = console()
    with out.capture() as capture:
        out.print(grid(head, rows, right))
    click.echo(re.sub(r" +$", "", capture.get(), flags=re.M), nl=False)


def grid(head: tuple[str, ...], rows: list[tuple[str, ...]], right: tuple[str, ...] = ()) -> Any:
    """Columns for rich to show; those named in `right` are flush right."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in head:
        shown.add_column(title, justify="right" if title in right else "left")
    for row in rows:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    return shown
