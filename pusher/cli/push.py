"""`pusher push`: translate flags into settings, run, print the report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pusher.cli.connection import connection_options, option, refresh_options, with_options
from pusher.cli.running import (
    Unusable,
    check_reports,
    exit_with,
    hold_signals,
    ignore_signals,
    obey_signals,
    pass_over_snapshots,
)
from pusher.cli.streaming import (
    checkpoint_options,
    guard_options,
    input_options,
    kafka_options,
    monitor_options,
    output_options,
    pace_options,
    settings_of,
    topic_of,
)
from pusher.cli.values import DURATION, SAMPLE, SOURCE

if TYPE_CHECKING:
    from pusher.pipeline import Pipeline
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
  1  some messages rejected (see the dead letters), or the sample shows failures
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
            " processed. Reads the input once a phase, so it needs files.",
        ),
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
            help="How many messages to confirm afterwards, or which share; 0 for none.",
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
        checkpoint_options,
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
    source: tuple[str, ...], options: dict[str, Any], *, letters: LetterFilter | None = None
) -> None:
    """Push and end the command with the report's exit code.

    Args:
        source: what to read.
        options: the values of `push_options`.
        letters: the source is dead letters, and these of them are pushed again.
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
        pipeline = _pipeline(source, options, letters, (report, html))
        result = _run_watched(pipeline, address, shows_progress=shows_progress)
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
    reports: tuple[str | None, str | None],
) -> Pipeline:
    from pusher.pipeline import Pipeline  # noqa: PLC0415
    from pusher.sources import open_source  # noqa: PLC0415

    settings = settings_of(values)
    # Before anything else is opened: a closed stdin would become the first file that is.
    opened = topic_of(source, values, settings) or open_source(
        source,
        max_line_bytes=settings.max_line_bytes,
        letters=letters,
        formats=settings.formats,
    )
    others = (settings.dead_letters, *([settings.checkpoint] if settings.checkpoint else ()))
    check_reports(*reports, {*opened.paths, *(path.resolve() for path in others)})
    return Pipeline(opened, settings)


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
        await tasks.start(obey_signals, pipeline.stopping, pipeline.vitals)
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
