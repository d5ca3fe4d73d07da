"""`pusher repair`: send again what the bridge could not process in an earlier run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from pusher.cli.connection import connection_options, option, refresh_options, with_options
from pusher.cli.push import run_push
from pusher.cli.running import Unusable
from pusher.cli.streaming import (
    input_options,
    output_options,
    pace_options,
)
from pusher.cli.values import DURATION, SOURCE
from pusher.model import ObjectType

if TYPE_CHECKING:
    from pusher.repairer import Before

__all__ = ["command"]

Command = TypeVar("Command", bound=Callable[..., Any])

_EPILOG = """
\b
Examples:
  pusher repair report.json --url https://bridge.example --token-file token
  pusher repair report.json export/ --url http://127.0.0.1:8080 --repair 5
  pusher repair report.json --url http://127.0.0.1:8080 --report - | jq .repair.errors

The exit codes are those of push: 0 when no error is left, 1 where some are.
"""

DEFAULTS = {"dead_letters": "repair.dead.ndjson"}


def _options(command: Command) -> Command:
    return with_options(
        command,
        connection_options,
        refresh_options,
        input_options,
        option(
            "--repair",
            type=click.IntRange(min=1),
            default=3,
            metavar="N",
            help="Send again in N rounds at most.",
        ),
        pace_options,
        option(
            "--confirm-rate",
            type=float,
            metavar="R",
            help="Listings of errors a second at most.  [default: 9; on loopback no limit]",
        ),
        option(
            "--confirm-timeout",
            type=DURATION,
            default="60s",
            help="How long to wait until what was sent again is processed.",
        ),
        output_options,
    )


@click.command(
    epilog=_EPILOG,
    short_help="Send again what the bridge could not process.",
    context_settings={"show_default": True, "default_map": DEFAULTS},
)
@click.argument("report_of_run", metavar="REPORT", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("source", nargs=-1, type=SOURCE)
@_options
def command(report_of_run: Path, source: tuple[str, ...], **options: Any) -> None:
    """List the sync errors since an earlier run began, and send again what may succeed now.

    REPORT is the JSON report of that run (push --report). SOURCE is what it read: without it, the
    files that the report names, or the spool that --keep-spool has left. The same --store, --type,
    --format and --map have to be given. An object's messages go out in their order and with their
    changedAt, so a later change of it stays on top.
    """
    from pusher.errors import UsageError  # noqa: PLC0415 - loaded when a run begins
    from pusher.sampling import SampleSize  # noqa: PLC0415

    try:
        before, inputs = _read(report_of_run)
    except UsageError as error:
        raise Unusable(str(error)) from error
    more = {
        "confirm": SampleSize(0),
        "progress": "auto",
        "metrics_host": "127.0.0.1",
        "metrics_port": None,
        "until": None,
        "group_instance": None,
    }
    run_push(source or inputs, {**options, **more}, before=before)


class _Lane(msgspec.Struct):
    store_id: str
    object_type: ObjectType


class _Repaired(msgspec.Struct):
    """What of a report says what is to be repaired."""

    run_id: str
    began_ms: int | None
    inputs: list[str] | None
    lanes: list[_Lane]
    lanes_total: int


def _read(path: Path) -> tuple[Before, tuple[str, ...]]:
    """What a run has sent, and what it read.

    Raises:
        UsageError: the file is no report, or of a run that has sent nothing.
    """
    from pusher.errors import UsageError  # noqa: PLC0415
    from pusher.model import Lane  # noqa: PLC0415
    from pusher.repairer import Before  # noqa: PLC0415

    try:
        report = msgspec.json.decode(path.read_bytes(), type=_Repaired)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: is not a report of pusher push: {error}") from error
    if report.began_ms is None:
        raise UsageError(f"{path}: that run has sent nothing, so there is nothing to repair")
    lanes = {Lane(lane.store_id, lane.object_type) for lane in report.lanes}
    is_whole = report.lanes_total == len(lanes)
    return Before(report.began_ms, lanes if is_whole else ()), tuple(report.inputs or ())
