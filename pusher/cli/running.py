"""What commands share that run a pipeline: signals, and how the report ends the command."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pusher.report import Report
    from pusher.stopping import Stopping

__all__ = ["check_folder", "exit_with", "obey_signals"]


def check_folder(flag: str, path: str | Path | None) -> None:
    """Find out before the run, rather than after it, that a file has nowhere to go.

    Raises:
        UsageError: its folder does not exist.
    """
    from pusher.errors import UsageError  # noqa: PLC0415 - loaded when a run begins

    if path is not None and not Path(path).parent.is_dir():
        raise UsageError(f"{flag}: {Path(path).parent} is not a directory")


async def obey_signals(stopping: Stopping, *, task_status: Any) -> None:
    """First signal: stop reading and drain. Second: leave now. Third: without a report."""
    import anyio  # noqa: PLC0415

    from pusher.model import Halt, HaltKind  # noqa: PLC0415

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        received = 0
        async for signum in signals:
            received += 1
            name = signal.Signals(signum).name
            halt = Halt(HaltKind.INTERRUPTED, f"interrupted by {name}", int(signum))
            if received == 1:
                stopping.end_reading(halt)
            elif received == 2:
                stopping.end_sending(halt)
            else:
                os._exit(128 + int(signum))


def exit_with(report: Report, path: str | None, *, quiet: bool) -> None:
    """Print the summary and the report, and end with the report's exit code."""
    from pusher.cli.summary import summary  # noqa: PLC0415

    exit_code = report.exit_code
    if not quiet or exit_code:
        with suppress(OSError, ValueError, AttributeError):  # A closed stderr is no failure.
            sys.stderr.write(summary(report) + "\n")
            sys.stderr.flush()
    try:
        if path == "-":
            sys.stdout.buffer.write(report.to_json())
            sys.stdout.buffer.flush()
        elif path is not None:
            Path(path).write_bytes(report.to_json())
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError as error:
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(f"pusher: error: --report: {path}: {error.strerror}\n")
        exit_code = 3
    sys.exit(exit_code)
