"""`fastns load`: a file of changes into a namespace, in batches."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
import time
from typing import IO, TYPE_CHECKING, Any, Iterator

import click

from fastns.cli.base import JSON, complete_names, open_namespace, say
from fastns.cli.lines import Item, parse
from fastns.errors import BatchError

if TYPE_CHECKING:
    from collections.abc import Callable

LISTED = 10_000  # errors kept for --json; all are told


@click.command()
@click.argument("name", metavar="NS", shell_complete=complete_names)
@click.argument("file", metavar="FILE|-", type=click.File("rb"))
@click.option(
    "--errors",
    type=click.Choice(["raise", "collect", "stop"]),
    default="raise",
    show_default=True,
    help="raise: go on, exit code 1 in the end. collect: go on, exit code 0. stop: end behind the first datagram "
    "with an error.",
)
@click.option("--chunk", type=click.IntRange(1), help="Requests in a datagram at most: the grain of --errors stop.")
@JSON
def load(name: str, file: IO[bytes], errors: str, chunk: int | None, as_json: bool) -> None:
    """Apply FILE, a line a change, inside a namespace: a name, a path, or . for this one.

    Lines are those of `ip -batch` (`route add 10.0.0.0/24 via 10.1.0.1 dev eth0`; routes, addresses, links,
    neighbours, rules) or JSON (`["route", "add", {"dst": "10.0.0.0/24", "oif": "eth0"}]`, as for the methods of a
    handle). What fails is told with its line.
    """
    with open_namespace(name) as ns:
        loader = Loader(ns, file, errors, chunk)
        try:
            loader.run()
        except KeyboardInterrupt:
            say(f"{loader.done:,} lines had been sent")
            raise
    if as_json:
        click.echo(json.dumps(loader.summary(), indent=2))
    else:
        click.echo(loader.sentence())
    if errors != "collect" and (loader.failures or loader.unknown):
        sys.exit(1)


class Loader:
    """One load: where it stands, and which lines failed."""

    def __init__(self, ns: Any, file: IO[bytes], errors: str, chunk: int | None) -> None:
        self.ns = ns
        self.file = file
        self.source = "-" if file.name in ("<stdin>", 0) else os.fsdecode(file.name)
        self.policy = errors
        self.batch = ns.batch(errors="stop" if errors == "stop" else "collect", chunk=chunk)
        self.waiting: dict[int, tuple[int, str]] = {}  # lines whose outcome is not known, by their index in the batch
        self.current = (0, "")
        self.devices: dict[str, int] = {}
        self.stale = False  # requests that may change names wait in the batch
        self.done = self.failures = self.applied = self.unknown = 0
        self.told: list[dict[str, Any]] = []
        self.position = 0
        self.seconds = 0.0
        self.stopped = False

    def run(self) -> None:
        began = time.monotonic()
        with progress_bar(self) as self.show:
            try:
                with self.batch as batch:
                    batch.load(self.items(), self.progress, self.each, self.refused)
            except BatchError:
                self.stopped = True
        self.seconds = time.monotonic() - began
        self.unknown = len(self.batch.unknown)
        self.applied = self.batch.sent - self.batch.failed - self.unknown
        for index in self.batch.unknown:
            self.tell(self.waiting.get(index, (0, "")), None, "what became of it is not known: its answer was lost")

    def items(self) -> Iterator[Item]:
        for number, text in self.lines():
            self.current = number, text
            try:
                item = parse(text, self.index)
            except ValueError as error:
                self.refused(None, error)
            else:
                if item is None:
                    continue
                self.waiting[self.batch.count] = self.current
                if item[0] == "link":
                    self.stale = True
                yield item
            if self.stopped:
                return

    def lines(self) -> Iterator[tuple[int, str]]:
        """Number and text of each; what ends in a backslash goes on in the next one."""
        whole, first = "", 0
        for number, raw in enumerate(self.file, 1):
            self.position += len(raw)
            text = raw.decode("utf-8", "surrogateescape").rstrip("\r\n")
            whole, first = whole + text, first or number
            if text.endswith("\\"):
                whole = whole[:-1] + " "
                continue
            yield first, whole
            whole, first = "", 0
        if whole:
            yield first, whole

    def index(self, device: str) -> int:
        """The index of a device, which may be one that an earlier line made."""
        if self.stale:
            self.batch.flush()
            self.devices.clear()
            self.stale = False
        if device not in self.devices:
            found = self.ns.link_lookup(ifname=device) if len(device.encode("utf-8", "replace")) < 16 else ()
            if not found:
                raise ValueError(f"no device {device!r}")
            self.devices[device] = found[0]
        return self.devices[device]

    def progress(self, done: int, failed: int) -> None:
        for index in range(self.done, done):
            self.waiting.pop(index, None)
        self.done = done
        self.show(self)

    def each(self, index: int, result: Any) -> None:
        if isinstance(result, Exception):
            self.failed(self.waiting[index], result)

    def refused(self, item: Any, error: Exception) -> None:
        self.waiting.pop(self.batch.count, None)
        self.failed(self.current, error)
        self.stopped = self.policy == "stop"

    def failed(self, line: tuple[int, str], error: Exception) -> None:
        self.failures += 1
        text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        self.tell(line, getattr(error, "errno", None), text)

    def tell(self, line: tuple[int, str], code: int | None, text: str) -> None:
        number, content = line
        if len(self.told) < LISTED:
            self.told.append({"line": number, "text": content, "errno": code, "error": text})
        say(f"{self.source}:{number}: {text} ({content.strip()})")

    def summary(self) -> dict[str, Any]:
        return {
            "applied": self.applied,
            "failed": self.failures,
            "unknown": self.unknown,
            "stopped": self.stopped,
            "seconds": self.seconds,
            "errors": self.told,
        }

    def sentence(self) -> str:
        text = f"{self.applied:,} applied, {self.failures:,} failed"
        if self.unknown:
            text += f", {self.unknown:,} unknown"
        if self.stopped:
            text += ", the rest not sent"
        return f"{text}, {self.seconds:.2f} s"


@contextlib.contextmanager
def progress_bar(loader: Loader) -> Iterator[Callable[[Loader], None]]:
    """What shows on a terminal how far the load is; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    found = os.fstat(loader.file.fileno())
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[lines]:,} sent, {task.fields[failed]:,} failed"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        size = found.st_size if stat.S_ISREG(found.st_mode) else None
        task = progress.add_task("loading", total=size, lines=0, failed=0)

        def show(loader: Loader) -> None:
            progress.update(task, completed=loader.position, lines=loader.done, failed=loader.failures)

        yield show
