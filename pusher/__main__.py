"""The command: `pusher`, or `python -m pusher`. It prints errors and ends with exit codes."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    _keep_standard_streams_open()
    from pusher.cli import command  # noqa: PLC0415 - after the descriptors are in order

    try:
        command(prog_name="pusher")
    except BrokenPipeError:
        # Whoever read our output has seen enough. Keep the interpreter from complaining at exit.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)


def _keep_standard_streams_open() -> None:
    """Point a closed stdout or stderr at nothing, or the next file that is opened would be it."""
    for number in (1, 2):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, os.O_WRONLY)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)


if __name__ == "__main__":
    main()
