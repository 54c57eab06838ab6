"""`fastns add`, `del`, `list`: names in the run directory.

`fastns.netns` is imported when they run: a shell that completes their words does not wait for it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Callable

import click

from fastns.cli.base import JSON, complete_names, explain, say, table


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
def add(names: tuple[str, ...]) -> None:
    """Create namespaces, as `ip netns add` does."""
    from fastns import netns

    for_each(names, netns.create)


@click.command("del")
@click.argument("names", nargs=-1, required=True, metavar="NAME…", shell_complete=complete_names)
def delete(names: tuple[str, ...]) -> None:
    """Remove namespaces, dead entries too. Processes in one keep it alive without its name."""
    from fastns import netns

    for_each(names, netns.remove)


def for_each(names: tuple[str, ...], work: Callable[[str], None]) -> None:
    """All of them, also where one fails; every failure is told."""
    failed = 0
    for name in names:
        try:
            work(name)
        except OSError as error:
            say(explain(error))
            failed = 1
    sys.exit(failed)


@click.command("list")
@JSON
def list_command(as_json: bool) -> None:
    """Show the namespaces of the run directory: id, links, processes, dead entries."""
    from fastns import netns

    pids = netns.ns_pids()
    found = [item for name in sorted(netns.listnetns()) if (item := describe(name, pids.get(name, [])))]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    rows: list[tuple[str, ...]] = [
        (
            item["name"],
            "" if item["nsid"] is None else str(item["nsid"]),
            "?" if item["links"] is None else " ".join(item["links"]),
            " ".join(map(str, item["pids"])),
            item["state"],
        )
        for item in found
    ]
    table(("name", "nsid", "links", "processes", "state"), rows)


def describe(name: str, pids: list[int]) -> dict[str, Any] | None:
    """Everything `list` shows of one entry; None if it has just been removed."""
    from fastns import netns
    from fastns.netns.discovery import nsid_of
    from fastns.netns.reference import is_dead

    shown: dict[str, Any] = {"name": name, "state": "alive", "inode": None, "nsid": None, "links": None, "pids": pids}
    try:
        nsfd, _ = netns.open_ref(name)
    except OSError as error:
        path = os.path.join(netns.NETNS_RUN_DIR, name)
        if not os.path.lexists(path):
            return None
        shown["state"] = "dead" if is_dead(os.fsencode(path)) else explain(error)
        return shown
    try:
        shown["inode"] = os.fstat(nsfd).st_ino
        shown["nsid"] = nsid_of(nsfd)
        shown["links"] = link_names(nsfd)
    except PermissionError:
        pass  # it may be seen, but not entered
    finally:
        os.close(nsfd)
    return shown


def link_names(nsfd: int) -> list[str]:
    from fastns.iproute import NetNS

    with NetNS(nsfd, flags=0, transport="direct") as ns:
        return [link.get("ifname") for link in ns.get_links()]
