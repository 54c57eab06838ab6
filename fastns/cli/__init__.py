"""The commands of `fastns`. Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted.

`exec` and `rootless` end as the program they start does, with 126 when it cannot be run, 127 when there is none, and
125 when it was not reached (namespaces, privilege), so that a failing program can be told from a failing fastns.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from fastns import __version__
from fastns.cli.base import explain, fail
from fastns.cli.streams import OutputError, hold

# Each command's module is imported when that command runs.
COMMANDS = {
    "add": "names:add",
    "bench": "bench:bench",
    "completion": "completion:completion",
    "del": "names:delete",
    "demo": "demo:demo",
    "doctor": "doctor:doctor",
    "exec": "exec:execute",
    "list": "names:list_command",
    "load": "load:load",
    "map": "map:map_command",
    "monitor": "monitor:monitor",
    "rootless": "rootless:rootless",
    "top": "top:top",
}


def main() -> None:
    """The entry point: no traceback for what can go wrong outside this program."""
    hold()
    try:
        code = cli.main(prog_name="fastns", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        fail("interrupted", 130)
    except BrokenPipeError:
        sys.exit(1)
    except OutputError as error:
        fail(str(error))
    except OSError as error:
        fail(explain(error))
    except ValueError as error:
        fail(str(error), 2)
    sys.exit(code if isinstance(code, int) else 0)


class Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except ConnectionError as error:  # a ProxyError: click takes EPIPE for the end of standard output, and is silent
            fail(explain(error))

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"fastns.cli.{module}"), attribute)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="fastns %(version)s")
def cli() -> None:
    """Network namespaces of Linux."""
