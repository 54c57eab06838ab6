"""`fastns monitor`: the events of namespaces as lines, with what was lost at its place."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import stat
import sys
import time
from typing import TYPE_CHECKING, Any, Iterable

import click
from pyroute2.netlink import rtnl

from fastns import netns
from fastns.cli.base import JSON, complete_names, console, explain, open_namespace, printable, say
from fastns.cli.messages import plain, segments
from fastns.monitor import Lost, ResyncBegin, ResyncEnd
from fastns.pool import identity, raise_descriptor_limit
from fastns.schema import constant

if TYPE_CHECKING:
    from fastns.cli.messages import Segments

GROUPS = {
    "link": (rtnl.RTNLGRP_LINK,),
    "addr": (rtnl.RTNLGRP_IPV4_IFADDR, rtnl.RTNLGRP_IPV6_IFADDR),
    "route": (rtnl.RTNLGRP_IPV4_ROUTE, rtnl.RTNLGRP_IPV6_ROUTE),
    "rule": (rtnl.RTNLGRP_IPV4_RULE, rtnl.RTNLGRP_IPV6_RULE),
    "neigh": (rtnl.RTNLGRP_NEIGH,),
    "nexthop": (constant(rtnl, "RTNLGRP_NEXTHOP"),),
    "tc": (rtnl.RTNLGRP_TC,),
    "mdb": (rtnl.RTNLGRP_MDB,),
    "netconf": (rtnl.RTNLGRP_IPV4_NETCONF, rtnl.RTNLGRP_IPV6_NETCONF),
    "nsid": (rtnl.RTNLGRP_NSID,),
}
DEFAULT = ("link", "addr", "route", "rule", "neigh", "nexthop")
TURN = 1000  # items of one namespace before the others have theirs
DESCRIPTORS = 10  # of one watched namespace
PATIENCE_MS = 250  # between looks at whether a state is to be read anew


@click.command()
@click.argument("names", nargs=-1, metavar="[NS]…", shell_complete=complete_names)
@click.option(
    "--all", "everything", is_flag=True, help="All in the run directory, and those that come while it runs."
)
@click.option(
    "-g",
    "--group",
    "groups",
    multiple=True,
    type=click.Choice(list(GROUPS)),
    help=f"Only events about these; more than one can be given. Without: {', '.join(DEFAULT)}.",
)
@click.option("--initial", is_flag=True, help="Begin with everything as it is.")
@click.option("--no-resync", is_flag=True, help="Do not read the state anew where events were lost.")
@click.option("-n", "--count", type=click.IntRange(1), help="End after so many events.")
@JSON
def monitor(
    names: tuple[str, ...],
    everything: bool,
    groups: tuple[str, ...],
    initial: bool,
    no_resync: bool,
    count: int | None,
    as_json: bool,
) -> None:
    """Show what changes in namespaces (names, paths, or . for this one, which is the default), until Ctrl-C.

    A proxy process receives, so that nothing is lost while a line is written. What the kernel had to drop all the
    same is shown where it is missing, and the state is read anew behind it. It ends when the last of the namespaces
    that were named is removed. --json prints an object a line.
    """
    if everything and names:
        raise click.UsageError("--all and names exclude each other")
    numbers = [number for group in dict.fromkeys(groups or DEFAULT) for number in GROUPS[group]]
    printer = Printer(as_json, labelled=everything or len(names) > 1, count=count)
    options = {"groups": numbers, "resync": not no_resync, "initial": initial}
    with contextlib.suppress(Enough), Watcher(printer, None if everything else names or (".",), options) as watcher:
        watcher.run()


class Enough(Exception):
    """As many events as were asked for have been shown."""


class Printer:
    """Writes items: coloured where people read, plain lines or JSON elsewhere."""

    def __init__(self, as_json: bool, labelled: bool, count: int | None) -> None:
        self.as_json = as_json
        self.labelled = labelled
        self.left = count
        self.console = None if as_json or not sys.stdout.isatty() else console(highlight=False)
        self.width = 0

    def item(self, source: Source, item: Any) -> None:
        if isinstance(item, Lost):
            self.write(source.name, {"event": "lost", "count": item.count}, lost(item))
        elif isinstance(item, ResyncBegin):
            kinds = list(dict.fromkeys(kind for kind, _ in item.kinds))
            shown = [("= ", "cyan"), (f"everything as it is: {', '.join(kinds)}", "cyan")]
            self.write(source.name, {"event": "resync-begin", "kinds": kinds}, shown)
        elif isinstance(item, ResyncEnd):
            text = "that was everything" if item.complete else "it changed meanwhile, and is read once more"
            shown = [("= ", "cyan"), (text, "cyan")]
            self.write(source.name, {"event": "resync-end", "complete": item.complete}, shown)
        else:
            self.message(source, item)

    def message(self, source: Source, msg: Any) -> None:
        anew = bool(msg["header"].get("resync"))
        if self.as_json:
            data = {"event": msg["event"], "resync": anew, "data": plain(msg)}
            self.write(source.name, data, [])
        else:
            source.learn(msg)
            sign = ("= ", "dim") if anew else ("- ", "red") if "_DEL" in msg["event"] else ("+ ", "green")
            self.write(source.name, {}, [sign, *segments(msg, source.device)])
        if self.left is not None and not anew:
            self.left -= 1
            if self.left <= 0:
                raise Enough

    def write(self, name: str, data: dict[str, Any], shown: Segments) -> None:
        at = time.time()
        if self.as_json:
            click.echo(json.dumps({"time": at, "netns": name, **data}, default=str))
            return
        stamp = f"{time.strftime('%H:%M:%S', time.localtime(at))}.{int(at % 1 * 1000):03d}  "
        label = ""
        if self.labelled:
            self.width = max(self.width, len(printable(name)))
            label = f"{printable(name):<{self.width}}  "
        shown = [(stamp, "dim"), (label, "magenta"), *((printable(text), style) for text, style in shown)]
        if self.console is None:
            click.echo("".join(text for text, _ in shown).rstrip())
            return
        from rich.text import Text

        self.console.print(Text.assemble(*shown), soft_wrap=True)


def lost(item: Lost) -> Segments:
    what = "events are" if item.count is None else f"{item.count:,} events are" if item.count > 1 else "1 event is"
    return [("! ", "bold red"), (f"{what} missing here", "bold red")]


class Source:
    """One watched namespace."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.name = name
        self.devices: dict[int, str] = {}
        self.identity = identity(name)
        self.ns = open_namespace(name)
        try:
            self.events = self.ns.monitor(**options)
        except BaseException:
            self.ns.close()
            raise
        self.fd = self.events.fileno()

    def learn(self, msg: Any) -> None:
        if msg["event"] == "RTM_NEWLINK" and msg.get("ifname"):
            self.devices[msg["index"]] = msg.get("ifname")

    def device(self, index: int) -> str:
        if index not in self.devices:
            try:
                (link,) = self.ns.link("get", index=index)
                self.devices[index] = link.get("ifname")
            except OSError:
                return f"if{index}"  # gone by now
        return self.devices[index]

    def close(self) -> None:
        self.events.close()
        self.ns.close()


class Watcher:
    """All watched namespaces in one loop: their events, their names coming and going, and who reads us."""

    def __init__(self, printer: Printer, names: Iterable[str] | None, options: dict[str, Any]) -> None:
        self.printer = printer
        self.names = names
        self.options = options
        self.sources: dict[str, Source] = {}
        self.by_fd: dict[int, Source] = {}
        self.busy: set[Source] = set()  # there may be more of them, without waiting
        self.due: set[Source] = set()  # their state is to be read anew, in its time
        self.poller = select.poll()
        self.earlier = -1

    def __enter__(self) -> Watcher:
        self.coming = netns.watch()  # before looking at what is there, or a name could slip through
        # A signal that comes just before the poll is noticed by what it writes here, and by nothing else.
        self.signals, self.wakeup = socket.socketpair()
        self.wakeup.setblocking(False)
        try:
            self.poller.register(self.coming.fileno(), select.POLLIN)
            self.poller.register(self.signals.fileno(), select.POLLIN)
            self.earlier = signal.set_wakeup_fd(self.wakeup.fileno(), warn_on_full_buffer=False)
            if stat.S_ISFIFO(os.fstat(1).st_mode):
                self.poller.register(1, 0)  # POLLERR once nobody reads
            if self.names is None:
                self.reconcile(netns.listnetns(), announce=False)
            else:
                raise_descriptor_limit(DESCRIPTORS * len(list(self.names)) + 256)
                for name in dict.fromkeys(self.names):
                    self.add(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self.earlier)
        for source in self.sources.values():
            source.close()
        self.coming.close()
        self.signals.close()
        self.wakeup.close()

    def add(self, name: str) -> None:
        source = Source(name, self.options)
        self.sources[name] = self.by_fd[source.fd] = source
        self.poller.register(source.fd, select.POLLIN)
        self.busy.add(source)

    def drop(self, source: Source, why: str) -> None:
        del self.sources[source.name], self.by_fd[source.fd]
        self.due.discard(source)
        self.busy.discard(source)
        self.poller.unregister(source.fd)
        source.close()
        self.printer.write(source.name, {"event": why}, [("- ", "red"), (f"namespace {why}", "yellow")])

    def reconcile(self, names: Iterable[str], announce: bool = True) -> None:
        """Bring what is watched in line with what these names mean now."""
        listed = list(names)
        raise_descriptor_limit(DESCRIPTORS * (len(self.sources) + len(listed)) + 256)
        for name in listed:
            source = self.sources.get(name)
            if source is not None and identity(name) != source.identity:
                self.drain(source)
                self.drop(source, "removed")
                source = None
            if source is None and self.names is None:
                try:
                    self.add(name)
                except FileNotFoundError:
                    continue  # gone already
                except OSError as error:
                    say(explain(error))  # a dead entry; or one that may not be entered
                    continue
                if announce:
                    shown = [("+ ", "green"), ("namespace created", "yellow")]
                    self.printer.write(name, {"event": "created"}, shown)

    def drain(self, source: Source) -> bool:
        """Show what is there; whether there may be more."""
        for _ in range(TURN):
            try:
                item = source.events.get(0)
            except TimeoutError:
                return False
            if isinstance(item, Lost) and self.options["resync"]:
                self.due.add(source)
            elif isinstance(item, ResyncEnd) and item.complete:
                self.due.discard(source)
            self.printer.item(source, item)
        return True

    def run(self) -> None:
        while self.sources or self.names is None:
            changed = False
            ready = self.busy | self.due
            for fd, _ in self.poller.poll(0 if self.busy else PATIENCE_MS if self.due else None):
                if fd == 1:
                    raise BrokenPipeError
                if fd == self.signals.fileno():
                    self.signals.recv(4096)
                    continue
                if fd in self.by_fd:
                    ready.add(self.by_fd[fd])
                else:
                    changed = True
            for source in ready:
                self.busy.discard(source)
                try:
                    if self.drain(source):
                        self.busy.add(source)
                except BrokenPipeError:
                    raise
                except OSError as error:
                    self.drop(source, "failed")
                    if not self.sources:  # as when the proxy has died, which is the same one for all
                        raise
                    say(f"{source.name}: {explain(error)}")
            if changed:
                self.reconcile([event.name for event in self.pending()])

    def pending(self) -> list[Any]:
        found = []
        with contextlib.suppress(TimeoutError):
            while True:
                found.append(self.coming.get(0))
        return found
