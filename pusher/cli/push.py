"""`pusher push`: translate flags into settings, run, print the report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pusher.cli.asking import asked, can_ask, confirm_or_end
from pusher.cli.connection import connection_options, option, refresh_options, with_options
from pusher.cli.running import (
    Unusable,
    check_reports,
    exit_with,
    heed_signals,
    hold_signals,
    ignore_signals,
    obey_signals,
    pass_over_snapshots,
    show_snapshot,
)
from pusher.cli.streaming import (
    checkpoint_options,
    guard_options,
    input_options,
    kafka_options,
    monitor_options,
    output_options,
    pace_options,
    repair_options,
    settings_of,
    spool_options,
    topic_of,
)
from pusher.cli.values import DURATION, SAMPLE, SOURCE

if TYPE_CHECKING:
    from pusher.config import Settings
    from pusher.pipeline import Pipeline
    from pusher.repairer import Before
    from pusher.report import Report
    from pusher.sources import LetterFilter

__all__ = ["command", "push_options", "run_push"]

Command = TypeVar("Command", bound=Callable[..., Any])

GC_THRESHOLD = (20_000, 20, 100)

_EPILOG = """
\b
Examples:
  tail -F changes.ndjson | pusher push --url http://127.0.0.1:8080
  pusher push export/ --phases --url https://bridge.example --token-file token --checkpoint ck
  kcat -C -J -e -q -o beginning -b h:9092 -t orders \\
      | pusher push --map map.toml --dry-run --url http://127.0.0.1:8080
  pusher push 'kafka://h1:9092,h2:9092/orders?group=hubspot' --url https://bridge.example
  export PUSHER_URL=http://127.0.0.1:8080
  zcat old.ndjson.gz | pusher push --store shop-1 --type PRODUCT --report - | jq .messages
  pusher push export/ --url https://bridge.example --token-file token --html run.html

\b
Signals:
  INT, TERM  read no more, deliver what was read, report; a second one leaves at once
  USR1       say on stderr how the run is, and what limits it

\b
Exit codes:
  0  all delivered, and the sample confirmed
  1  some messages rejected (see the dead letters), or the sample or the repair shows failures
  2  usage or configuration
  3  stopped, and can go on later: the endpoint refuses or is gone, a store was left out, the
     disk is full, the input is damaged, or --expect or --max-rejected was missed
  4  all delivered, but the sample could not be confirmed in time
  130, 143  interrupted by Ctrl-C or SIGTERM
"""


def push_options(command: Command) -> Command:
    """The options of everything that pushes."""
    return with_options(
        command,
        connection_options,
        refresh_options,
        input_options,
        option(
            "--phases",
            is_flag=True,
            help="CONTACT and PRODUCT, then DEAL, then LINE_ITEM, each when the one before was"
            " processed. Files are read once a phase, and what comes from a pipe is spooled.",
        ),
        repair_options,
        spool_options,
        option(
            "--order",
            type=click.Choice(["key", "none"]),
            default="key",
            help="key: messages of one object go out in source order, never two at a time.",
        ),
        pace_options,
        option(
            "--linger",
            type=DURATION,
            default="1s",
            help="Open batches leave when nothing came for so long.",
        ),
        option("--max-age", type=DURATION, default="30s", help="Open batches leave after so long."),
        guard_options,
        option(
            "--confirm",
            type=SAMPLE,
            default="400",
            help="How many messages to confirm afterwards, or which share; 0 for none; all for"
            " each delivered object.",
        ),
        option(
            "--confirm-rate",
            type=float,
            metavar="R",
            help="Status polls a second at most.  [default: 9; on loopback no limit]",
        ),
        option("--confirm-timeout", type=DURATION, default="60s", help="How long to wait for it."),
        option(
            "--confirm-window",
            type=DURATION,
            default="5m",
            help="Topics: confirm so many messages of each stretch of so much time.",
        ),
        option(
            "--sample-out",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Write what is to be confirmed there, for `pusher confirm`. Replaced."
            "  [default with --confirm all: pusher.sample.ndjson]",
        ),
        option(
            "-y",
            "--yes",
            "confirm_long",
            is_flag=True,
            help="--confirm all: begin it without a question, even if it takes longer than 10 min.",
        ),
        checkpoint_options,
        option(
            "--ledger",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Append a line for each accepted request: its lane, which lines of the input it"
            " carried, a hash of their ids, status and latency.",
        ),
        kafka_options,
        monitor_options,
        option(
            "--progress",
            type=click.Choice(["auto", "never"]),
            default="auto",
            help="auto: a bar on a terminal, a line every few seconds elsewhere.",
        ),
        output_options,
    )


@click.command(
    epilog=_EPILOG,
    short_help="Push a change stream into a bridge.",
    context_settings={"show_default": True},
)
@click.argument("source", nargs=-1, type=SOURCE)
@push_options
def command(source: tuple[str, ...], **options: Any) -> None:
    """Push a change stream into an Ecommerce Bridge, and confirm a sample of it.

    SOURCE is a file, a directory, a glob, - for standard input (the default), or live topics of
    Kafka as kafka://HOST:PORT/TOPIC,TOPIC?group=NAME (or a pattern, ^...). Files may be
    compressed with gzip or zstandard. Exports of Kafka topics are recognised by their first
    record (see --format). Otherwise each line is one change:

    \b
      {"storeId": "shop-1", "objectType": "PRODUCT", "action": "UPSERT",
       "externalObjectId": "42", "changedAt": 1542092841947,
       "properties": {"name": "Tea"}, "associations": {}}

    Every option can also be set in the environment, --batch-size as PUSHER_BATCH_SIZE, or in the
    file pusher.toml, as batch-size = 100. `pusher config push` shows what counts.
    """  # noqa: D301 - click wants the character
    run_push(source or ("-",), options)


def run_push(
    source: tuple[str, ...],
    options: dict[str, Any],
    *,
    letters: LetterFilter | None = None,
    before: Before | None = None,
) -> None:
    """Push and end the command with the report's exit code.

    Args:
        source: what to read.
        options: the values of `push_options`.
        letters: the source is dead letters, and these of them are pushed again.
        before: what was pushed already, and is repaired now.
    """
    from pusher.cli.logs import configure  # noqa: PLC0415 - loaded when a run begins
    from pusher.errors import PusherError, UsageError  # noqa: PLC0415

    pass_over_snapshots()
    report, html, quiet = options.pop("report"), options.pop("html"), options.pop("quiet")
    is_verbose, log_format = options.pop("verbose"), options.pop("log_format")
    shows_progress = options.pop("progress") == "auto" and not quiet
    address = options.pop("metrics_host"), options.pop("metrics_port")
    configure(verbosity=-1 if quiet else int(is_verbose), log_format=log_format)
    try:
        check_reports(report, html)
        pipeline = _pipeline(source, options, letters, before, (report, html))
        result = _run_watched(pipeline, address, shows_progress=shows_progress)
        if pipeline.declined_s is not None and result.exit_code in {1, 4} and can_ask():
            result = _confirmed_after_all(result, pipeline.settings)
        examples = getattr(pipeline.source, "examples", None)
        if examples and not quiet:
            click.echo("\n".join(examples.lines()), err=True)
    except UsageError as error:
        raise Unusable(str(error)) from error
    except PusherError as error:
        raise click.ClickException(str(error)) from error
    exit_with(result, report, html, quiet=quiet, as_json=log_format == "json")


def _pipeline(
    source: tuple[str, ...],
    values: dict[str, Any],
    letters: LetterFilter | None,
    before: Before | None,
    reports: tuple[str | None, str | None],
) -> Pipeline:
    from pusher.pipeline import Pipeline  # noqa: PLC0415
    from pusher.sources import open_source  # noqa: PLC0415

    settings = _agreed(settings_of(values))
    # Before anything else is opened: a closed stdin would become the first file that is.
    opened = topic_of(source, values, settings) or open_source(
        source,
        max_line_bytes=settings.max_line_bytes,
        letters=letters,
        formats=settings.formats,
    )
    others = (
        settings.dead_letters,
        settings.checkpoint,
        settings.ledger,
        settings.objects_path or settings.sample_out,
    )
    check_reports(*reports, {*opened.paths, *(path.resolve() for path in others if path)})
    return Pipeline(opened, settings, before=before)


def _agreed(settings: Settings) -> Settings:
    """Where all are to be confirmed, and it is known to take long, a person has to say so.

    Raises:
        UsageError: there is nobody to ask.
    """
    from pusher.accounting import LONG_S, how_long  # noqa: PLC0415
    from pusher.errors import UsageError  # noqa: PLC0415

    count, rate = settings.expect, settings.status_rate
    if not settings.confirm.is_all or settings.confirm_long or not count or not rate:
        return settings
    if count / rate <= LONG_S or settings.dry_run:
        return settings
    what = f"--confirm all: {how_long(count, rate)}"
    if not can_ask():
        raise UsageError(f"{what}; give --yes, or confirm a sample; nothing was sent")
    confirm_or_end(f"{what}, once they are delivered. Do it?")
    return replace(settings, confirm_long=True)


def _confirmed_after_all(report: Report, settings: Settings) -> Report:
    """Ask whether all are to be confirmed, now that it is known how long it takes."""
    from msgspec import structs  # noqa: PLC0415

    from pusher.cli.confirm import confirmed  # noqa: PLC0415
    from pusher.report import outcome_of  # noqa: PLC0415

    path = settings.objects_path
    heed_signals()
    if path is None or not asked(f"{report.confirmation.detail}\nDo it now?"):
        ignore_signals()
        return report
    result = confirmed(path, settings, is_agreed=True)
    if result.reason is not None:
        return report
    outcome, exit_code = outcome_of(
        None,
        is_complete=True,
        rejected=int(report.outcome == "rejected") or report.messages.rejected,
        failed=result.confirmation.failed + (report.repair.left if report.repair else 0),
        unconfirmed=result.confirmation.unconfirmed,
    )
    return structs.replace(
        report,
        outcome=outcome,
        exit_code=exit_code,
        elapsed_s=round(report.elapsed_s + result.elapsed_s, 3),
        confirmation=result.confirmation,
    )


def _run_watched(
    pipeline: Pipeline, address: tuple[str, int | None], *, shows_progress: bool
) -> Report:
    """Run a pipeline with signals, progress, and perhaps metrics beside it."""
    import gc  # noqa: PLC0415

    import anyio  # noqa: PLC0415

    # What is loaded by now stays, and what a run makes is freed without the collector's help:
    # visiting it all again and again would cost a tenth of the speed. Errors do make cycles.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    hold_signals()
    report: Report = anyio.run(
        _run, pipeline, address, shows_progress, backend_options={"use_uvloop": True}
    )
    ignore_signals()  # The event loop has put its own ways back in their place.
    return report


async def _run(
    pipeline: Pipeline,
    address: tuple[str, int | None],
    shows_progress: bool,  # noqa: FBT001 - anyio.run passes positions
) -> Report:
    import anyio  # noqa: PLC0415

    from pusher.errors import UsageError  # noqa: PLC0415
    from pusher.progress import is_live_terminal, show_bar, show_lines  # noqa: PLC0415

    report: Report | None = None
    unusable: UsageError | None = None
    async with anyio.create_task_group() as tasks:
        await tasks.start(obey_signals, pipeline.stopping, lambda: show_snapshot(pipeline.vitals()))
        if shows_progress:
            tasks.start_soon(show_bar if is_live_terminal() else show_lines, pipeline.view)
        try:
            async with AsyncExitStack() as stack:
                if address[1] is not None:
                    from pusher.monitor import Monitor  # noqa: PLC0415

                    await stack.enter_async_context(Monitor(pipeline, address[0], address[1]))
                report = await pipeline.run()
        except UsageError as error:
            unusable = error  # Raised beyond the group, which would wrap it.
        tasks.cancel_scope.cancel()
    if report is None:
        raise unusable or AssertionError("a run ends with a report or an error")
    return report
