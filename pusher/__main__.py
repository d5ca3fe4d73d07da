"""The command: `pusher`, or `python -m pusher`. It prints errors and ends with exit codes."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    _keep_standard_streams_open()
    try:
        import click  # noqa: PLC0415 - after the descriptors are in order

        from pusher.cli import command  # noqa: PLC0415
    except KeyboardInterrupt:
        sys.exit(130)
    try:
        command(prog_name="pusher", standalone_mode=False)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.ClickException as error:
        with suppress(OSError, ValueError):  # A closed stderr does not change the exit code.
            error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has seen enough. Keep the interpreter from complaining at exit.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)


def _keep_standard_streams_open() -> None:
    """Point what is closed at nothing, or the next file that is opened would stand in for it.

    A closed stdin becomes one that cannot be read, so that reading it is an error, not empty input.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, os.O_WRONLY)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)


if __name__ == "__main__":
    main()
