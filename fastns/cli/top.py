"""`fastns top`: what is in each namespace and what goes through it, again and again."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections import Counter
from typing import Any, NamedTuple

import click
from pyroute2.netlink.rtnl.ifinfmsg import IFF_LOOPBACK

from fastns import netns
from fastns.cli.base import (
    JSON,
    complete_names,
    console,
    grid,
    open_namespace,
    reference,
    stopped_by_signals,
    table,
)
from fastns.cli.vocabulary import TABLES
from fastns.netns.discovery import process_namespaces
from fastns.netns.reference import is_dead
from fastns.pool import Pool, identity

COUNTERS = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets")
COLUMNS = ("links", "addresses", "routes", "processes", *COUNTERS)
HEAD = ("name", "links", "addresses", "routes", "processes", "rx/s", "tx/s", "rx pkt/s", "tx pkt/s")
SORTS = {"name": "name", **{name: name for name in COLUMNS[:4]}, "rx": "rx_bytes", "tx": "tx_bytes"}
AROUND = 4  # lines of the screen that are not rows


@click.command()
@click.argument("names", nargs=-1, metavar="[NS]…", shell_complete=complete_names)
@click.option(
    "-i", "--interval", type=click.FloatRange(0.05), default=2.0, show_default=True, help="Seconds between two looks."
)
@click.option("-s", "--sort", type=click.Choice(list(SORTS)), default="name", show_default=True)
@click.option("-n", "--count", type=click.IntRange(1), help="End after so many looks.")
@click.option("--once", is_flag=True, help="One look, after one interval over which the rates are taken.")
@JSON
def top(
    names: tuple[str, ...], interval: float, sort: str, count: int | None, once: bool, as_json: bool
) -> None:
    """Show namespaces (names, paths, . for this one; all in the run directory without) until Ctrl-C.

    Links, addresses, routes without those of the table "local", processes, and the traffic of all links but the
    loopback: bytes and packets a second. --json prints an object for each look.
    """
    with Pool() as pool, stopped_by_signals():
        looks = Looks(pool, names)
        looks.take()
        if as_json or once or not sys.stdout.isatty():
            print_looks(looks, interval, sort, 1 if once else count, as_json)
        else:
            show_looks(looks, interval, sort, count)


class Seen(NamedTuple):
    """The counters of the links of a namespace, and when they were read."""

    at: float
    identity: Any
    links: dict[int, tuple[int, ...]]


class Looks:
    def __init__(self, pool: Pool, names: tuple[str, ...]) -> None:
        self.pool = pool
        self.names = names
        self.seen: dict[str, Seen] = {}

    def take(self) -> list[dict[str, Any]]:
        """What is there now, with the rates since the last time; None where there was none."""
        names = list(dict.fromkeys(self.names)) or sorted(netns.listnetns())
        pids = Counter(key for _, key in process_namespaces())
        found: dict[str, Any] = self.pool.map(gather, [name for name in names if name != "."])
        if "." in names:
            with open_namespace(".") as here:
                found["."] = gather(here)
        self.pool.prune()
        before, self.seen = self.seen, {}
        rows = []
        for name in names:
            result = found[name]
            if isinstance(result, FileNotFoundError) and not self.names:
                continue  # removed meanwhile
            row: dict[str, Any] = {"name": name, "state": "alive", **dict.fromkeys(COLUMNS)}
            rows.append(row)
            if isinstance(result, OSError):
                row["state"] = state(name, result)
                continue
            if isinstance(result, Exception):
                raise result
            counts, links = result
            key = identity(reference(name))
            row.update(counts, processes=pids[key] if key else 0)
            self.seen[name] = seen = Seen(time.monotonic(), key, links)
            last = before.get(name)
            if last is not None and last.identity == key:
                row.update(rates(last, seen))
        return rows


def state(name: str, error: OSError) -> str:
    """In few words, why nothing can be said of a namespace."""
    if isinstance(error, FileNotFoundError):
        return "gone"
    if error.errno == errno.EINVAL and is_dead(os.fsencode(os.path.join(netns.NETNS_RUN_DIR, name))):
        return "dead"
    return os.strerror(error.errno or 0)


def gather(ns: Any) -> tuple[dict[str, int], dict[int, tuple[int, ...]]]:
    links = ns.table("link")
    flags, indexes = links["flags"].to_list(), links["index"].to_list()
    columns = [[value or 0 for value in links[name].to_list()] for name in COUNTERS]
    counters = {
        index: values for flag, index, *values in zip(flags, indexes, *columns) if not flag & IFF_LOOPBACK
    }
    counts = {
        "links": len(links),
        "addresses": len(ns.table("addr")),
        "routes": sum(number != TABLES["local"] for number in ns.table("route")["table"].to_list()),
    }
    return counts, counters


def rates(last: Seen, now: Seen) -> dict[str, float]:
    """A second, over the links that were there both times."""
    passed = max(now.at - last.at, 1e-6)
    both = now.links.keys() & last.links.keys()
    return {
        name: max(sum(now.links[index][n] - last.links[index][n] for index in both), 0) / passed
        for n, name in enumerate(COUNTERS)
    }


def in_order(rows: list[dict[str, Any]], sort: str) -> list[dict[str, Any]]:
    if sort == "name":
        return rows
    return sorted(rows, key=lambda row: -1 if row[SORTS[sort]] is None else row[SORTS[sort]], reverse=True)


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    if row["state"] != "alive":
        return (row["name"], row["state"], *[""] * (len(HEAD) - 2))
    counts = ("?" if row[name] is None else f"{row[name]:,}" for name in COLUMNS[:4])
    sizes = ("" if row[name] is None else size(row[name]) for name in COUNTERS[:2])
    packets = ("" if row[name] is None else f"{row[name]:,.0f}" for name in COUNTERS[2:])
    return (row["name"], *counts, *sizes, *packets)


def size(number: float) -> str:
    from rich.filesize import decimal

    return decimal(int(number)).replace("bytes", "B").replace("byte", "B")


def print_looks(looks: Looks, interval: float, sort: str, count: int | None, as_json: bool) -> None:
    done = 0
    while True:
        time.sleep(interval)
        rows = in_order(looks.take(), sort)
        if as_json:
            click.echo(json.dumps({"time": time.time(), "namespaces": rows}))
        else:
            table(HEAD, [cells(row) for row in rows], right=HEAD[1:])
        done += 1
        if done == count:
            return
        if not as_json:
            click.echo()


def show_looks(looks: Looks, interval: float, sort: str, count: int | None) -> None:
    from rich.live import Live

    out = console(highlight=False)
    done = 0
    with Live(console=out, screen=True, auto_refresh=False) as live:
        while done != count:
            live.update(screen(in_order(looks.take(), sort), out.height, interval), refresh=True)
            done += 1
            time.sleep(interval)


def screen(rows: list[dict[str, Any]], height: int, interval: float) -> Any:
    """The whole picture of one look, cut to the height of the terminal."""
    from rich.console import Group
    from rich.text import Text

    room = max(height - AROUND, 1)
    title = f"{len(rows):,} namespaces  {time.strftime('%H:%M:%S')}  every {interval:g} s, Ctrl-C ends"
    parts = [Text(title, style="dim"), Text(""), grid(HEAD, [cells(row) for row in rows[:room]], right=HEAD[1:])]
    if len(rows) > room:
        parts.append(Text(f"… and {len(rows) - room:,} more", style="dim"))
    return Group(*parts)
