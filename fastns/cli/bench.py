"""`fastns bench`: the comparison of `fastns demo` with all contenders."""

from __future__ import annotations

import json
import os
import platform
import secrets
import sys
import warnings
from contextlib import nullcontext
from typing import Any

import click
import pyroute2
from pyroute2.netlink.exceptions import NetlinkError as Pyroute2Error

import fastns
from fastns import _core, netns
from fastns.cli.base import JSON, say, stopped_by_signals, table
from fastns.cli.compare import (
    COMPARED_ROUTES,
    compare,
    comparisons,
    discard,
    enter_what_is_needed,
    prepare_compared,
    show,
    spare_name,
)

CONTENDERS = ("fastns direct", "fastns relay", "pyroute2", "ip")


@click.command()
@JSON
def bench(as_json: bool) -> None:
    """Compare fastns, direct and through a proxy, with pyroute2 and `ip` on this machine. Half a minute.

    In a namespace of its own, of which nothing stays; without root in a user namespace. Medians of a few rounds
    in turns: which is faster, and by how much. For numbers to quote there is `make bench` in the source.
    """
    enter_what_is_needed()
    owner = os.getpid()
    name = f"fastns-{secrets.token_hex(4)}-bench"
    result: dict[str, Any] = {
        "fastns": fastns.__version__,
        "build": _core.BUILD,
        "pyroute2": getattr(pyroute2, "__version__", None),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpus": len(os.sched_getaffinity(0)),
        "routes": COMPARED_ROUTES,
    }
    with stopped_by_signals(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pyroute2 forks, which Python 3.12 warns about in a process with threads
        try:
            netns.create(name)
            prepare_compared(name)
            result["comparison"] = measure(name)
        except Pyroute2Error as error:
            raise OSError(error.code, f"pyroute2: {error}") from None
        finally:
            if os.getpid() == owner:
                for problem in discard((name, spare_name(name))):
                    say(f"could not remove {problem}")
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    click.echo(
        f"fastns {result['fastns']} ({result['build']} build), pyroute2 {result['pyroute2']}, Python {result['python']}, "
        f"Linux {result['kernel']}, {result['cpus']} CPUs, a namespace with {COMPARED_ROUTES:,} routes\n"
    )
    rows = [(row["work"], *(cell(row["seconds"], who) for who in CONTENDERS)) for row in result["comparison"]]
    table(("work", *CONTENDERS), rows, right=CONTENDERS)


def measure(name: str) -> list[dict[str, Any]]:
    from rich.console import Console

    out = Console(stderr=True) if sys.stderr.isatty() else None
    rows = []
    for work, runs in comparisons(name, CONTENDERS):
        with nullcontext() if out is None else out.status(work):
            rows.append({"work": work, "seconds": compare(runs)})
    return rows


def cell(seconds: dict[str, float], who: str) -> str:
    """The time, and how many times fastns direct's it is."""
    if who not in seconds:
        return ""
    if who == CONTENDERS[0]:
        return show(seconds[who])
    return f"{show(seconds[who])} (x {seconds[who] / seconds[CONTENDERS[0]]:.1f})"
