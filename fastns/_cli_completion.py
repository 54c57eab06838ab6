"""`fastns completion`: what a shell needs to complete commands, options and the names of namespaces."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    bash: `source <(fastns completion bash)` in ~/.bashrc. zsh: the same with zsh in ~/.zshrc, behind compinit.
    fish: `fastns completion fish > ~/.config/fish/completions/fastns.fish`.
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(ctx.find_root().command, {}, "fastns", "_FASTNS_COMPLETE").source())
