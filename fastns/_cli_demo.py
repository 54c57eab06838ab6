"""`fastns demo` and `fastns bench`: fastns at work, and beside others."""

from __future__ import annotations

import click

from fastns._cli_base import JSON, fail
from fastns._cli_doctor import try_create, try_run_dir
from fastns._cli_rootless import enter_rootless, explain_rootless


@click.command()
@click.option("--routes", default=100_000, show_default=True, type=click.IntRange(1, 10_000_000), help="How many to load.")
@JSON
def demo(routes: int, as_json: bool) -> None:
    """Show fastns at work on two namespaces of its own, beside pyroute2. Leaves nothing behind.

    Without root it does so in a user namespace (`fastns rootless`).
    """
    enter_what_is_needed()
    from fastns import _demo

    _demo.run(routes, as_json)


@click.command()
@JSON
def bench(as_json: bool) -> None:
    """Compare fastns, direct and through a proxy, with pyroute2 and `ip` on this machine. Half a minute.

    In a namespace of its own, of which nothing stays; without root in a user namespace. Medians of a few rounds
    in turns: which is faster, and by how much. For numbers to quote there is `make bench` in the source.
    """
    enter_what_is_needed()
    from fastns import _bench

    _bench.run(as_json)


def enter_what_is_needed() -> None:
    """A user namespace where this one has no right to make network namespaces."""
    if try_create() or try_run_dir():
        try:
            enter_rootless()
        except OSError as error:
            fail(explain_rootless(error))
        refused = try_create() or try_run_dir()
        if refused:
            fail(refused)
