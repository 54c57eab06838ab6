"""`fastns demo`: fastns at work, beside pyroute2."""

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
    if try_create() or try_run_dir():
        try:
            enter_rootless()
        except OSError as error:
            fail(explain_rootless(error))
        refused = try_create() or try_run_dir()
        if refused:
            fail(refused)
    from fastns import _demo

    _demo.run(routes, as_json)
