"""`pusher plan`: read the input as a push would, ask the bridge, and print what is to be known."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pusher.cli.connection import (
    Connection,
    application_options,
    connection_options,
    option,
    printed,
    talk,
    with_options,
)
from pusher.cli.running import Unusable
from pusher.cli.streaming import batch_options, choice_options, formats_of, input_options
from pusher.cli.values import DURATION, SAMPLE, SIZE, read_json_object
from pusher.findings import KINDS

if TYPE_CHECKING:
    from pusher.client import BridgeClient
    from pusher.planning import Assumptions, Plan
    from pusher.sources import LineSource
    from pusher.surveying import Known, Reading, Surveyor

__all__ = ["command"]

Halted = tuple[str, int, str]
"""Outcome, exit code and reason of a plan whose input was not read to its end."""

LINE_EVERY_S = 5.0
BAR_EVERY_S = 0.2

_FAILING = [name for name, kind in KINDS.items() if kind.severity == "fails"]

_EPILOG = """
\b
Examples:
  pusher plan export/
  zcat old.ndjson.gz | pusher plan --settings settings.json --latency 250ms --rate 10
  pusher plan export/ --url https://bridge.example --token-file token --json | jq .findings
  kcat -C -J -e -q -o beginning -b h:9092 -t orders | pusher plan --map map.toml
  pusher plan old.ndjson.gz --only-type DEAL --allow dangling_association

\b
Exit codes:
  0  nothing was found that would be rejected, or fail
  1  something was
  2  usage or configuration
  3  the input is damaged, the disk is full, or the bridge does not answer as one
  130, 143  interrupted by Ctrl-C or SIGTERM: the plan is of what was read
"""


def _options(command: Any) -> Any:
    return with_options(
        command,
        partial(connection_options, needs_url=False),
        application_options,
        option(
            "--settings",
            "settings_file",
            metavar="FILE",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Hold properties against these settings, as `pusher settings get` prints them,"
            " instead of the bridge's.",
        ),
        input_options,
        choice_options,
        batch_options,
        option(
            "--latency",
            type=DURATION,
            default="100ms",
            help="For the estimates: what a request takes.",
        ),
        option(
            "--confirm",
            type=SAMPLE,
            default="400",
            help="For the estimates: how many messages are confirmed, or which share.",
        ),
        option(
            "--confirm-rate",
            type=float,
            metavar="R",
            help="Status polls a second at most.  [default: 9; on loopback no limit]",
        ),
        option(
            "--memory",
            "memory_bytes",
            type=SIZE,
            default="64MiB",
            help="What is held of messages, as in a push, and half as much of ids: more of them"
            " go to a temporary file.",
        ),
        option(
            "--spool-dir",
            metavar="DIR",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="Where that file is; 24 bytes a message and an association.  [default: the"
            " system's folder]",
        ),
        option(
            "--allow",
            multiple=True,
            metavar="KIND",
            type=click.Choice(_FAILING),
            help="Findings of this kind are no reason for exit code 1; may be given more than"
            " once.",
        ),
        click.option("--json", "is_json", is_flag=True, help="The plan as one JSON value."),
        option("-q", "--quiet", is_flag=True, help="No progress on stderr."),
    )


@click.command(
    epilog=_EPILOG,
    short_help="Say what a push would send, how long it takes, and what would fail.",
    context_settings={"show_default": True},
)
@click.argument("source", nargs=-1)
@_options
def command(source: tuple[str, ...], **options: Any) -> None:
    """Read an input as `pusher push` would, send nothing, and say what is to be expected.

    SOURCE is as for `push`: files, directories, globs, - for standard input (the default), plain or
    compressed, also exports with --format and --map.

    Counts messages, requests and bytes per store and type, estimates times, and finds what would be
    rejected, what the bridge would accept and then fail, and what it would ignore: each with its
    count and the first lines, as source:line. With --url it asks the bridge for its settings and
    stores, and sends nothing else.
    """
    from pusher.cli.logs import configure  # noqa: PLC0415 - loaded when it is called
    from pusher.errors import PusherError, UsageError  # noqa: PLC0415
    from pusher.planning import compose_plan  # noqa: PLC0415

    configure(verbosity=-1 if options["quiet"] else 0, log_format="text")
    try:
        reading, assumptions = _reading_of(options), _assumptions_of(options)
        opened = _opened(source or ("-",), options)
        known, mappings_from = _known(options)
        surveyor, halt = _surveyed(opened, reading, known, options)
    except UsageError as error:
        raise Unusable(str(error)) from error
    except PusherError as error:
        raise _Stopped(str(error)) from error
    except KeyboardInterrupt:  # Once reading is over.
        sys.exit(130)
    plan = compose_plan(
        surveyor.survey,
        surveyor.findings.listed(surveyor.source_names),
        assumptions,
        mappings_from=mappings_from,
        allowed=options["allow"],
        halt=halt,
    )
    _show(plan, is_json=options["is_json"])
    sys.exit(plan.exit_code)


class _Stopped(click.ClickException):
    exit_code = 3


def _reading_of(options: dict[str, Any]) -> Reading:
    from pusher.surveying import Reading  # noqa: PLC0415

    return Reading(
        default_store=options["default_store"],
        default_type=options["default_type"],
        only_stores=frozenset(options["only_stores"]),
        only_types=frozenset(options["only_types"]),
        limit=options["limit"],
        batch_size=options["batch_size"],
        batch_bytes=options["batch_bytes"],
        memory_bytes=options["memory_bytes"],
    )


def _assumptions_of(options: dict[str, Any]) -> Assumptions:
    from pusher.planning import Assumptions  # noqa: PLC0415
    from pusher.transport import is_loopback  # noqa: PLC0415

    poll_rate = options["confirm_rate"]
    if poll_rate is None and not (options["url"] and is_loopback(options["url"])):
        poll_rate = 9.0
    return Assumptions(
        latency_s=options["latency"],
        concurrency=options["concurrency"],
        rate=options["rate"],
        batch_size=options["batch_size"],
        sample=options["confirm"],
        poll_rate=poll_rate,
    )


def _opened(source: tuple[str, ...], options: dict[str, Any]) -> LineSource:
    """Open the input.

    Raises:
        UsageError: it cannot be opened.
    """
    from pusher.errors import UsageError  # noqa: PLC0415
    from pusher.sources import SCHEME, open_source  # noqa: PLC0415

    if any(one.startswith(SCHEME) for one in source):
        raise UsageError("a plan is of files and pipes; of a topic: kcat -C -J ... | pusher plan")
    if options["max_line"] < 1:
        raise UsageError("--max-line must be at least 1")
    formats = formats_of(options["formats"], options["map_file"], shows=False)
    return open_source(source, options["max_line"], formats=formats)


def _known(options: dict[str, Any]) -> tuple[Known, str | None]:
    """What the bridge says of itself, and where its mappings came from.

    Raises:
        UsageError: a file has no settings.
    """
    from pusher.coverage import Mappings  # noqa: PLC0415
    from pusher.surveying import Known  # noqa: PLC0415

    file: Path | None = options["settings_file"]
    stores: frozenset[str] | None = None
    settings: dict[str, Any] | None = None
    if file is not None:
        settings = read_json_object(file)
        mappings = Mappings.of(settings)
    if options["url"]:
        connection = Connection.of(options)
        asked, stores = talk(
            connection,
            partial(_asked, app_id=connection.app_id, wants_settings=file is None),
            only_reads=True,
        )
        settings = settings or asked
    if file is None and not options["url"]:
        return Known(), None
    where = str(file) if file is not None else "the bridge"
    if settings is None:
        return Known(has_no_settings=True, stores=stores), where
    mappings = Mappings.of(settings)
    return Known(mappings=mappings, stores=stores), where


async def _asked(
    client: BridgeClient, *, app_id: int | None, wants_settings: bool
) -> tuple[dict[str, Any] | None, frozenset[str]]:
    """The settings of a bridge, None where it has none, and its stores."""
    from pusher.errors import BridgeApiError, EndpointError  # noqa: PLC0415

    settings: dict[str, Any] | None = None
    try:
        if wants_settings:
            try:
                settings = await client.get_settings(app_id=app_id)
            except BridgeApiError as error:
                if error.status != 404:
                    raise
        stores = await client.list_stores()
    except BridgeApiError as error:
        # Its own exit code would be that of findings.
        raise EndpointError(f"the bridge does not tell its settings and stores: {error}") from error
    return settings, frozenset(str(store.get("id")) for store in stores)


def _surveyed(
    source: LineSource, reading: Reading, known: Known, options: dict[str, Any]
) -> tuple[Surveyor, Halted | None]:
    """Read the input; and why that ended early, if it did."""
    import gc  # noqa: PLC0415
    import time  # noqa: PLC0415

    import anyio  # noqa: PLC0415

    from pusher.cli.push import GC_THRESHOLD  # noqa: PLC0415
    from pusher.record_spool import RecordSpool  # noqa: PLC0415
    from pusher.surveying import Surveyor  # noqa: PLC0415

    # What is made of a message is freed without the collector's help.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    with RecordSpool(options["memory_bytes"], options["spool_dir"]) as spool:
        surveyor = Surveyor(source, reading, known, spool, now_ms=int(time.time() * 1000))
        halt = anyio.run(_read, surveyor, options["quiet"], backend_options={"use_uvloop": True})
    return surveyor, halt


async def _read(
    surveyor: Surveyor,
    quiet: bool,  # noqa: FBT001 - anyio.run passes positions
) -> Halted | None:
    """Read; what ends that early, and is no reason to forget what was read."""
    import anyio  # noqa: PLC0415

    from pusher.errors import InputError, PusherError  # noqa: PLC0415

    halts: list[Halted] = []
    unusable: PusherError | None = None
    async with anyio.create_task_group() as tasks:
        reading = anyio.CancelScope()
        await tasks.start(_interrupt, reading, halts)
        async with _shown(surveyor, quiet=quiet):
            with reading:
                try:
                    await surveyor.read()
                except InputError as error:
                    halts.append(("stopped", 3, str(error)))
                except PusherError as error:
                    unusable = error  # Raised beyond the group, which would wrap it.
        tasks.cancel_scope.cancel()
    if unusable is not None:
        raise unusable
    await surveyor.finish()
    return halts[0] if halts else None


async def _interrupt(reading: Any, halts: list[Halted], *, task_status: Any) -> None:
    """End reading at the first signal."""
    import signal  # noqa: PLC0415

    import anyio  # noqa: PLC0415

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for signum in signals:
            name = signal.Signals(signum).name
            halts.append(("interrupted", 128 + signum, f"interrupted by {name}"))
            reading.cancel()
            return


@asynccontextmanager
async def _shown(surveyor: Surveyor, *, quiet: bool) -> AsyncIterator[None]:
    """Show how far reading is, meanwhile."""
    import anyio  # noqa: PLC0415

    from pusher.progress import is_live_terminal  # noqa: PLC0415

    async with anyio.create_task_group() as tasks:
        if not quiet:
            tasks.start_soon(_show_bar if is_live_terminal() else _show_lines, surveyor)
        yield
        tasks.cancel_scope.cancel()


async def _show_lines(surveyor: Surveyor) -> None:
    import logging  # noqa: PLC0415

    import anyio  # noqa: PLC0415

    while True:
        await anyio.sleep(LINE_EVERY_S)
        logging.getLogger("pusher").info("reading: %s", _how_far(surveyor))


async def _show_bar(surveyor: Surveyor) -> None:
    import anyio  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    with Console(stderr=True).status("reading") as status:
        while True:
            status.update(f"reading: {_how_far(surveyor)}")
            await anyio.sleep(BAR_EVERY_S)


def _how_far(surveyor: Surveyor) -> str:
    source = surveyor.source
    size_bytes = source.size_bytes
    share = f"{min(1.0, source.read_bytes / size_bytes):.0%} of the input, " if size_bytes else ""
    return f"{share}{surveyor.survey.read:,} messages"


def _show(plan: Plan, *, is_json: bool) -> None:
    from pusher.cli.plan_text import shown, shown_plainly  # noqa: PLC0415
    from pusher.cli.tables import shows_tables  # noqa: PLC0415

    if is_json:
        printed(plan.to_json())
    elif shows_tables():
        shown(plan)
    else:
        printed(shown_plainly(plan).encode())
