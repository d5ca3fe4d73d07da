"""What commands share that run a pipeline: signals, and how the report ends the command."""

from __future__ import annotations

import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pusher.cli.connection import write_all

if TYPE_CHECKING:
    from pusher.progress import Vitals
    from pusher.report import ConfirmReport, Report
    from pusher.stopping import Stopping

__all__ = [
    "Unusable",
    "check_folder",
    "check_reports",
    "exit_with",
    "heed_signals",
    "hold_signals",
    "ignore_signals",
    "obey_signals",
    "pass_over_snapshots",
    "show_snapshot",
    "shown_command",
]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

_BEFORE_HOST = re.compile(r"(?<=://)\S*(?=@)")

_log = logging.getLogger("pusher")


def check_folder(flag: str, path: str | Path | None) -> None:
    """Find out before the run, rather than after it, that a file has nowhere to go.

    Raises:
        UsageError: its folder does not exist.
    """
    from pusher.errors import UsageError  # noqa: PLC0415 - loaded when a run begins

    if path is not None and not Path(path).parent.is_dir():
        raise UsageError(f"{flag}: {Path(path).parent} is not a directory")


def check_reports(path: str | None, html: str | None, taken: Collection[Path] = ()) -> None:
    """Find out before the run, rather than after it, that its reports have nowhere to go.

    Args:
        path: where the JSON is to go.
        html: where the page is to go.
        taken: files that the run reads or writes.

    Raises:
        UsageError: a folder does not exist, one is a folder itself, or a file that is taken.
    """
    if path != "-":
        _check_target("--report", path, taken)
    also_taken = {Path(path).resolve()} if path not in {None, "-"} and path else set()
    _check_target("--html", html, {*taken, *also_taken})


def _check_target(flag: str, path: str | None, taken: Collection[Path]) -> None:
    """Find out whether a file can be written that nothing else is written to.

    Raises:
        UsageError: its folder does not exist, it is a folder itself, or a file that is taken.
    """
    from pusher.errors import UsageError  # noqa: PLC0415

    check_folder(flag, path)
    if path is not None and (not path or Path(path).is_dir()):
        raise UsageError(f"{flag}: {path!r} is a directory")
    if path is not None and Path(path).resolve() in taken:
        raise UsageError(f"{flag} needs a file of its own")


class Unusable(click.ClickException):
    """What was asked for cannot be done. One line: the usage would not help."""

    exit_code = 2


async def obey_signals(stopping: Stopping, show: Callable[[], None], *, task_status: Any) -> None:
    """First signal: stop reading and drain. Second: leave now. Third: without a report.

    SIGUSR1 lets `show` say on stderr how the run is.
    """
    import anyio  # noqa: PLC0415

    from pusher.model import Halt, HaltKind  # noqa: PLC0415

    received = 0
    try:
        with anyio.open_signal_receiver(*_SIGNALS) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            task_status.started()
            async for signum in signals:
                if signum == signal.SIGUSR1:
                    show()
                    continue
                received += 1
                name = signal.Signals(signum).name
                halt = Halt(HaltKind.INTERRUPTED, f"interrupted by {name}", int(signum))
                if received == 1:
                    stopping.end_reading(halt)
                    _log.info("%s: delivering what was read; once more to leave at once", name)
                elif received == 2:
                    stopping.end_sending(halt)
                else:
                    os._exit(128 + int(signum))
    finally:
        ignore_signals()


def show_snapshot(vitals: Vitals | None) -> None:
    """Whoever asks wants to see it, with --quiet too."""
    import time  # noqa: PLC0415

    from pusher.cli.logs import is_json, shown  # noqa: PLC0415
    from pusher.snapshot import snapshot_fields, snapshot_text  # noqa: PLC0415

    now_s = time.monotonic()
    if vitals is None:
        shown("snapshot: nothing is sent yet")
    elif is_json():
        shown("snapshot", fields=snapshot_fields(vitals, now_s))
    else:
        shown(snapshot_text(vitals, now_s))


def pass_over_snapshots() -> None:
    """As long as there is no run to tell of, SIGUSR1 would end the process."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def hold_signals() -> None:
    """Let signals wait until a run obeys them: an event loop that starts or ends cannot."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def ignore_signals() -> None:
    """A run has ended: what is left is its report, and a late signal must not change that."""
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def heed_signals() -> None:
    """A person is asked something: Ctrl-C is an answer, and SIGTERM ends the command."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def exit_with(
    report: Report | ConfirmReport,
    path: str | None,
    html: str | None = None,
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    """Print the summary and the reports, and end with the report's exit code.

    Args:
        report: of the run.
        path: where its JSON goes; - is stdout.
        html: where its page goes. That the page cannot be written is only warned about.
        quiet: no summary of a run that went well.
        as_json: the summary is a line of a log.
    """
    from pusher.cli.summary import summary  # noqa: PLC0415
    from pusher.report import ConfirmReport  # noqa: PLC0415

    if not isinstance(report, ConfirmReport):
        report = _with_command(report)
    exit_code = report.exit_code
    if as_json:
        level = logging.ERROR if exit_code else logging.INFO
        fields = {"outcome": report.outcome, "exit_code": exit_code, "run_id": report.run_id}
        _log.log(level, "%s", summary(report), extra={"fields": fields})
    elif not quiet or exit_code:
        with suppress(OSError, ValueError, AttributeError):  # A closed stderr is no failure.
            sys.stderr.write(summary(report) + "\n")
            sys.stderr.flush()
    try:
        if path == "-":
            write_all(sys.stdout.buffer, report.to_json())
        elif path is not None:
            Path(path).write_bytes(report.to_json())
    except (BrokenPipeError, AttributeError):
        # Nobody reads the report: the reader has gone, or stdout was closed from the start.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError as error:
        _log.error("--report: %s: %s", path, error.strerror)
        exit_code = 3
        if path == "-":
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if html is not None and not isinstance(report, ConfirmReport):
        _write_page(report, html)
    ignore_signals()
    sys.exit(exit_code)


def _write_page(report: Report, html: str) -> None:
    from pusher.errors import DiskError  # noqa: PLC0415
    from pusher.page_file import write_page  # noqa: PLC0415

    try:
        write_page(report, Path(html))
    except DiskError as error:
        _log.warning("--html: the page was not written: %s", error)


def _with_command(report: Report) -> Report:
    """Say in the report which command this is, without its secrets."""
    import msgspec  # noqa: PLC0415

    run = msgspec.structs.replace(report.run, command=shown_command(sys.argv[1:]))
    return msgspec.structs.replace(report, run=run)


def shown_command(arguments: Sequence[str]) -> str:
    """A command line that may be shown to others: no secret is in it.

    Args:
        arguments: as they were given, without the name of the command.
    """
    from pusher import masking  # noqa: PLC0415

    parts = ["pusher"]
    flag = ""
    # A password in an address may have a slash in it, which it should not.
    for argument in (_BEFORE_HOST.sub(masking.MASK, one) for one in arguments):
        is_secret = masking.shown(flag, "") == masking.MASK
        name, equals, value = argument.partition("=")
        if flag and (is_secret or not argument.startswith("--")):
            parts.append(masking.shown(flag, argument))
            flag = ""
        elif name.startswith("--") and equals:
            parts.append(f"{name}={masking.shown(name[2:], value)}")
            flag = ""
        else:
            parts.append(masking.shown("", argument))
            # The one before it was a switch, if it looked like a flag.
            flag = argument[2:] if argument.startswith("--") else ""
    return shlex.join(parts)
