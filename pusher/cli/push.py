"""`pusher push`: translate flags into settings, run, print the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pusher.cli.connection import connection_options, option
from pusher.cli.running import Unusable, check_report, exit_with, obey_signals
from pusher.cli.streaming import input_options, output_options, pace_options
from pusher.cli.values import DURATION, SAMPLE, read_secret

if TYPE_CHECKING:
    from pusher.pipeline import Pipeline
    from pusher.report import Report

__all__ = ["command"]

_EPILOG = """
\b
Examples:
  tail -F changes.ndjson | pusher push --url http://127.0.0.1:8080
  pusher push export/ --phases --url https://bridge.example --token-file token
  zcat old.ndjson.gz | pusher push --store shop-1 --type PRODUCT --report - | jq .messages

\b
Exit codes:
  0  all delivered, and the sample confirmed
  1  some messages rejected (see the dead letters), or the sample shows failures
  2  usage or configuration
  3  stopped: the endpoint refuses everything or is gone, the disk is full, the input is damaged
  4  all delivered, but the sample could not be confirmed in time
  130, 143  interrupted by Ctrl-C or SIGTERM
"""


@click.command(
    epilog=_EPILOG,
    short_help="Push a change stream into a bridge.",
    context_settings={"show_default": True},
)
@click.argument("source", nargs=-1)
@connection_options
@input_options
@option(
    "--phases",
    is_flag=True,
    help="CONTACT and PRODUCT, then DEAL, then LINE_ITEM, each when the one before was processed. "
    "Reads the input once a phase, so it needs files.",
)
@option(
    "--order",
    type=click.Choice(["key", "none"]),
    default="key",
    help="key: messages of one object go out in source order, never two at a time.",
)
@pace_options
@option(
    "--linger",
    type=DURATION,
    default="1s",
    help="Open batches leave when nothing came for so long.",
)
@option("--max-age", type=DURATION, default="30s", help="Open batches leave after so long.")
@option(
    "--confirm",
    type=SAMPLE,
    default="400",
    help="How many messages to confirm afterwards, or which share; 0 for none.",
)
@option(
    "--confirm-rate",
    type=float,
    metavar="R",
    help="Status polls a second at most.  [default: 9; on loopback no limit]",
)
@option("--confirm-timeout", type=DURATION, default="60s", help="How long to wait for it.")
@option(
    "--progress",
    type=click.Choice(["auto", "never"]),
    default="auto",
    help="auto: a bar on a terminal, a line every few seconds elsewhere.",
)
@output_options
def command(
    source: tuple[str, ...],
    *,
    report: str | None,
    progress: str,
    quiet: bool,
    verbose: bool,
    log_format: str,
    **values: Any,
) -> None:
    r"""Push a change stream into an Ecommerce Bridge, and confirm a sample of it.

    SOURCE is a file, a directory, a glob, or - for standard input (the default). Files may be
    compressed with gzip or zstandard. Each line is one change:

    \b
      {"storeId": "shop-1", "objectType": "PRODUCT", "action": "UPSERT",
       "externalObjectId": "42", "changedAt": 1542092841947,
       "properties": {"name": "Tea"}, "associations": {}}

    Every option can also be set in the environment: --batch-size is PUSHER_BATCH_SIZE.
    """
    from pusher.cli.logs import configure  # noqa: PLC0415 - loaded when a run begins
    from pusher.errors import PusherError, UsageError  # noqa: PLC0415

    configure(verbosity=-1 if quiet else int(verbose), log_format=log_format)
    try:
        check_report(report)
        pipeline = _pipeline(source, values)
        result = _run_watched(pipeline, shows_progress=progress == "auto" and not quiet)
    except UsageError as error:
        raise Unusable(str(error)) from error
    except PusherError as error:
        raise click.ClickException(str(error)) from error
    exit_with(result, report, quiet=quiet, as_json=log_format == "json")


def _pipeline(source: tuple[str, ...], values: dict[str, Any]) -> Pipeline:
    from pusher.config import Settings  # noqa: PLC0415
    from pusher.pipeline import Pipeline  # noqa: PLC0415
    from pusher.sources import open_source  # noqa: PLC0415

    names = {"linger", "max_age", "drain_timeout", "confirm_timeout"}
    settings = Settings(
        token=read_secret(values.pop("token"), values.pop("token_file"), "--token"),
        api_key=read_secret(values.pop("api_key"), values.pop("api_key_file"), "--api-key"),
        keep_order=values.pop("order") == "key",
        max_line_bytes=values.pop("max_line"),
        **{f"{name}_s" if name in names else name: value for name, value in values.items()},
    )
    # Before anything else is opened: a closed stdin would become the first file that is.
    opened = open_source(source or ("-",), max_line_bytes=settings.max_line_bytes)
    return Pipeline(opened, settings)


def _run_watched(pipeline: Pipeline, *, shows_progress: bool) -> Report:
    """Run a pipeline with signals and progress beside it."""
    import gc  # noqa: PLC0415

    import anyio  # noqa: PLC0415

    # What is loaded by now stays; collecting it again and again would cost a tenth of the speed.
    gc.collect()
    gc.freeze()
    report: Report = anyio.run(_run, pipeline, shows_progress, backend_options={"use_uvloop": True})
    return report


async def _run(pipeline: Pipeline, shows_progress: bool) -> Report:  # noqa: FBT001
    import anyio  # noqa: PLC0415

    from pusher.progress import is_live_terminal, show_bar, show_lines  # noqa: PLC0415

    async with anyio.create_task_group() as tasks:
        await tasks.start(obey_signals, pipeline.stopping)
        if shows_progress:
            tasks.start_soon(show_bar if is_live_terminal() else show_lines, pipeline.view)
        report = await pipeline.run()
        tasks.cancel_scope.cancel()
    return report
