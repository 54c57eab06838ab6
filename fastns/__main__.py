"""The `fastns` command. `python -m fastns` is the same."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; says what to install where click or rich are missing."""
    try:
        from fastns.cli import main as run

        run()
    except KeyboardInterrupt:  # before the command had begun
        sys.exit(130)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("click", "rich"):
            raise
        print(
            f"fastns: the command needs {missing}, which is not installed: pip install 'fastns[cli]'",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
