"""`fastns exec`: become a program inside a namespace, as `ip netns exec` does."""

from __future__ import annotations

import os

import click

from fastns import _core
from fastns.cli.base import (
    NOT_REACHED,
    Program,
    complete_names,
    complete_program,
    explain,
    fail,
    replace_process,
    say,
)


@click.command("exec", cls=Program)
@click.argument("name", metavar="NS", shell_complete=complete_names)
@click.argument("argv", nargs=-1, required=True, metavar="CMD…", type=click.UNPROCESSED, shell_complete=complete_program)
def execute(name: str, argv: tuple[str, ...]) -> None:
    """Become CMD inside a namespace, a name or a path, as with `ip netns exec`.

    /sys shows the namespace, and the files of /etc/netns/NS stand over those of /etc.
    """
    from fastns.netns import open_ref  # here: a shell that completes words does not wait for it
    from fastns.nspopen import exec_mounts

    try:
        nsfd, _ = open_ref(name)
        mounts = exec_mounts(name, nsfd)
        _core.enter_for_good(nsfd, name, mounts)
        os.close(nsfd)
    except OSError as error:
        fail(explain(error), NOT_REACHED)
    except ValueError as error:
        fail(str(error), NOT_REACHED)
    for source, target, err in mounts.failures():
        say(f"{os.fsdecode(source)} over {os.fsdecode(target)}: {os.strerror(err)}")
    replace_process(argv)
