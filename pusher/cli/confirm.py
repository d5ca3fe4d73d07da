"""`pusher confirm`: find out later what became of what a run has delivered."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pusher.cli.asking import can_ask, confirm_or_end
from pusher.cli.connection import (
    Connection,
    connection_options,
    option,
    refresh_options,
    refresher_of,
    yes_option,
)
from pusher.cli.running import (
    Unusable,
    check_reports,
    exit_with,
    hold_signals,
    ignore_signals,
    obey_signals,
)
from pusher.cli.streaming import report_options
from pusher.cli.values import DURATION

if TYPE_CHECKING:
    from pusher.accounting import Accounting
    from pusher.config import Settings
    from pusher.report import ConfirmReport
    from pusher.sample_file import SampleFile
    from pusher.transport import HttpTransport

__all__ = ["command", "confirmed"]

SHOW_EVERY_S = 5.0

_EPILOG = """
\b
Examples:
  pusher push export/ --sample-out sample.ndjson --url https://bridge.example
  pusher confirm sample.ndjson --wait 10m --url https://bridge.example --token-file token
  jq -c 'select(.state == "failed")' sample.ndjson

\b
Exit codes:
  0  all confirmed
  1  some failed
  2  usage or configuration, or a person said no
  3  the endpoint is gone or does not accept the credentials, or the disk is full
  4  some could not be confirmed in time, or Ctrl-C ended the waiting
  130  Ctrl-C, before anything was asked for
"""


@click.command(epilog=_EPILOG, context_settings={"show_default": True})
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@connection_options
@refresh_options
@option(
    "--wait",
    "wait_s",
    type=DURATION,
    default="60s",
    help="How long to go on asking for what is not known when each object was asked for once.",
)
@option(
    "--confirm-rate",
    type=float,
    metavar="R",
    help="Requests a second at most.  [default: 9; on loopback no limit]",
)
@yes_option
@report_options
def command(
    file: Path,
    *,
    wait_s: float,
    confirm_rate: float | None,
    yes: bool,
    report: str | None,
    quiet: bool,
    verbose: bool,
    log_format: str,
    **options: Any,
) -> None:
    """Confirm what a run wrote with --sample-out, or with --confirm all.

    What becomes known is added to FILE at once, so that it can be ended and called again at any
    time: what is known already is not asked for again. The report tells of all that is in FILE.
    """
    from pusher.cli.logs import configure  # noqa: PLC0415 - loaded when it is called
    from pusher.config import Settings  # noqa: PLC0415
    from pusher.errors import PusherError, UsageError  # noqa: PLC0415

    configure(verbosity=-1 if quiet else int(verbose), log_format=log_format)
    connection = Connection.of(options)
    try:
        check_reports(report, None, {file.resolve()})
        settings = Settings(
            url=connection.url,
            token=connection.token,
            api_key=connection.api_key,
            refresher=refresher_of(options),
            confirm_rate=confirm_rate,
            confirm_timeout_s=wait_s,
            **connection.door,
        )
        result = confirmed(file, settings, is_agreed=yes)
    except UsageError as error:
        raise Unusable(str(error)) from error
    except PusherError as error:
        raise _Stopped(str(error)) from error
    except KeyboardInterrupt:  # Before anything was asked for.
        sys.exit(130)
    exit_with(result, report, quiet=quiet, as_json=log_format == "json")


class _Stopped(click.ClickException):
    exit_code = 3


def confirmed(path: Path, settings: Settings, *, is_agreed: bool) -> ConfirmReport:
    """Confirm the objects in a file, as far as that is possible.

    Args:
        path: of the file; what becomes known is added to it.
        settings: the connection, the rate, and how long to wait.
        is_agreed: it may take however long it takes; otherwise a person is asked.

    Raises:
        UsageError: the file cannot be used, or there is nobody to ask.
        DiskError: the file cannot be read.
    """
    import random  # noqa: PLC0415

    import anyio  # noqa: PLC0415

    from pusher.accounting import LONG_S, Accounting, how_long  # noqa: PLC0415
    from pusher.errors import UsageError  # noqa: PLC0415
    from pusher.sample_file import opened_sample  # noqa: PLC0415
    from pusher.transport import HttpTransport  # noqa: PLC0415

    started_s = time.monotonic()
    rate = settings.status_rate
    with opened_sample(path) as file:
        door = HttpTransport(settings.url, **settings.transport_options())
        of_portal = settings.api_key is not None
        accounting = Accounting(
            file, door, rate=rate, rng=random.Random(settings.seed), of_portal=of_portal
        )
        try:
            anyio.run(accounting.load)
            reason: str | None = None
            if accounting.counts.pending:
                if accounting.estimate_s > LONG_S and not is_agreed:
                    what = how_long(accounting.counts.pending, rate)
                    if not can_ask():
                        raise UsageError(f"{what}: give --yes where nobody can be asked")
                    confirm_or_end(f"{what}. Do it?")
                hold_signals()
                reason = anyio.run(
                    _run, accounting, door, settings, backend_options={"use_uvloop": True}
                )
                ignore_signals()
            return _report(file, accounting, reason, time.monotonic() - started_s)
        finally:
            accounting.close()


def _report(
    file: SampleFile, accounting: Accounting, reason: str | None, elapsed_s: float
) -> ConfirmReport:
    from pusher.model import Halt, HaltKind  # noqa: PLC0415
    from pusher.report import ConfirmReport, outcome_of  # noqa: PLC0415

    confirmation = accounting.confirmation()
    outcome, exit_code = outcome_of(
        None if reason is None else Halt(HaltKind.STOPPED, reason),
        is_complete=reason is None,
        rejected=0,
        failed=confirmation.failed,
        unconfirmed=confirmation.unconfirmed,
    )
    return ConfirmReport(
        # Nothing was delivered here: what is delivered is confirmed.
        outcome="confirmed" if outcome == "delivered" else outcome,
        exit_code=exit_code,
        reason=reason,
        run_id=file.header.run_id,
        elapsed_s=round(elapsed_s, 3),
        polls=accounting.polls,
        confirmation=confirmation,
        sample=str(file.path),
    )


async def _run(accounting: Accounting, door: HttpTransport, settings: Settings) -> str | None:
    """Confirm until all is known, time is up, or a signal comes; say why it has to stop."""
    import random  # noqa: PLC0415

    import anyio  # noqa: PLC0415

    from pusher.cli.logs import shown  # noqa: PLC0415
    from pusher.errors import DiskError  # noqa: PLC0415
    from pusher.preflight import preflight  # noqa: PLC0415
    from pusher.stopping import Stopping, cancel_after  # noqa: PLC0415

    stopping = Stopping()
    reason: str | None = None
    async with door, anyio.create_task_group() as beside:
        await beside.start(obey_signals, stopping, lambda: shown(accounting.stage()))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_after, stopping.reading_ended, tasks.cancel_scope)
            reason = await preflight(door, rng=random.Random(settings.seed))
            if reason is None:
                tasks.start_soon(_show, accounting)
                try:
                    await accounting.run(settings.confirm_timeout_s)
                except DiskError as error:
                    reason = str(error)
            tasks.cancel_scope.cancel()
        beside.cancel_scope.cancel()
    return reason


async def _show(accounting: Accounting) -> None:
    import logging  # noqa: PLC0415

    import anyio  # noqa: PLC0415

    log = logging.getLogger("pusher")
    log.info("%s", accounting.plan())
    while True:
        await anyio.sleep(SHOW_EVERY_S)
        log.info("%s", accounting.stage())
