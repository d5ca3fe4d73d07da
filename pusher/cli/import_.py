"""`pusher import`: wait for the import webhook, send what it asks for, print the report."""

from __future__ import annotations

import ipaddress
import signal
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pusher.cli.connection import connection_options, option
from pusher.cli.running import (
    Unusable,
    check_folder,
    check_reports,
    exit_with,
    hold_signals,
    obey_signals,
    pass_over_snapshots,
    show_snapshot,
)
from pusher.cli.streaming import input_options, output_options, pace_options, settings_of
from pusher.cli.values import SOURCE, read_secret
from pusher.model import OBJECT_TYPES

if TYPE_CHECKING:
    from pusher.config import Settings
    from pusher.errors import PusherError
    from pusher.import_state import ImportState
    from pusher.importing import Importer, ImportReport
    from pusher.protocol import ImportRequest
    from pusher.stopping import Stopping

__all__ = ["command"]

_EPILOG = """
\b
Examples:
  pusher import shop/ --url http://127.0.0.1:8080
  pusher import shop/ --url https://bridge.example --token-file token \\
      --client-secret-file secret --listen 0.0.0.0:8443 --webhook-uri https://me.example/import
  pusher import shop/ --url https://bridge.example --token-file token --state import.state
  pusher import shop/ --url https://bridge.example --token-file token --state import.state --resume

\b
Exit codes:
  0  all of the input's objects were sent, and all types ended
  1  the same, but some messages were rejected (see the dead letters)
  2  usage or configuration
  3  stopped: the endpoint refuses everything or is gone, the disk is full, the input is damaged
  130, 143  interrupted by Ctrl-C or SIGTERM
"""


_NO_SETTINGS = frozenset(
    {
        "listen",
        "webhook_uri",
        "client_secret",
        "client_secret_file",
        "state_file",
        "resume",
        "once",
    }
)


class _Address(click.ParamType[tuple[str, int]]):
    name = "host:port"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        host, _, port = value.rpartition(":")
        if not (host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
            self.fail(f"{value!r} is not HOST:PORT", param, ctx)
        return host.strip("[]"), int(port)


@click.command("import", epilog=_EPILOG, context_settings={"show_default": True})
@click.argument("source", nargs=-1, required=True, type=SOURCE)
@connection_options
@option(
    "--listen",
    type=_Address(),
    default="127.0.0.1:8090",
    help="Where the webhook is served; port 0 picks a free one. Beyond loopback it wants the"
    " client secret.",
)
@option(
    "--webhook-uri",
    metavar="URI",
    help="The webhook's address as the settings have it, where that is another one: signatures"
    " cover it.",
)
@option(
    "--client-secret",
    metavar="S",
    show_default=False,
    help="The application's: requests that it did not sign are refused. Visible in `ps`: rather"
    " set PUSHER_CLIENT_SECRET, or use a file.",
)
@option(
    "--client-secret-file", metavar="FILE", type=click.Path(), help="File with the client secret."
)
@option(
    "--state",
    "state_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep there which pages and ends were accepted.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the import in --state, without waiting for the webhook.",
)
@click.option(
    "--once/--keep-serving",
    default=True,
    help="End after one import, or serve one after the other until Ctrl-C; the report is then"
    " that of the last.",
)
@input_options
@pace_options
@output_options
def command(
    source: tuple[str, ...],
    *,
    report: str | None,
    html: str | None,
    quiet: bool,
    verbose: bool,
    log_format: str,
    **options: Any,
) -> None:
    """Send a store's present data when its owner asks for an import.

    Counts the messages in SOURCE (files, directories, globs; they are read twice, so no pipe), and
    waits for the import webhook. Answers it with the counts of its store, sends these messages in
    pages, and ends each type. Messages that delete cannot be imported; they are skipped. Of several
    messages for an object, the later lines are in the later pages.

    Imports are for applications: they want a token, not an API key.
    """
    from pusher.cli.logs import configure  # noqa: PLC0415 - loaded when a run begins
    from pusher.errors import InputError, PusherError, UsageError  # noqa: PLC0415

    pass_over_snapshots()
    configure(verbosity=-1 if quiet else int(verbose), log_format=log_format)
    try:
        check_reports(report, html)
        check_folder("--dead-letters", options["dead_letters"])
        result = _run(source, options)
    except UsageError as error:
        raise Unusable(str(error)) from error
    except PusherError as error:
        failure = click.ClickException(str(error))
        click.echo(f"Error: {failure.format_message()}", err=True)
        raise SystemExit(3 if isinstance(error, InputError) else 1) from error
    if isinstance(result, int):
        raise SystemExit(result)
    exit_with(result, report, html, quiet=quiet, as_json=log_format == "json")


def _run(source: tuple[str, ...], options: dict[str, Any]) -> ImportReport | int:
    """Check what was asked for, and serve; the report, or the code of an interruption before."""
    import anyio  # noqa: PLC0415

    from pusher.errors import UsageError  # noqa: PLC0415
    from pusher.import_state import ImportState  # noqa: PLC0415
    from pusher.sources import open_source  # noqa: PLC0415

    settings = _settings(options)
    secret = read_secret(options["client_secret"], options["client_secret_file"], "--client-secret")
    host, port = options["listen"]
    if secret is None and not _is_loopback(host):
        raise UsageError(
            f"--listen: {host} is not a loopback address: without --client-secret anyone could"
            " start an import"
        )
    state_file: Path | None = options["state_file"]
    if options["resume"] and (state_file is None or not state_file.is_file()):
        raise UsageError("--resume wants a --state file of an earlier run")
    open_input = partial(
        open_source, source, max_line_bytes=settings.max_line_bytes, formats=settings.formats
    )
    if not open_input().can_be_read_again:
        raise UsageError("an import reads its input twice, so it needs files, not a pipe")
    with ExitStack() as stack:
        state = stack.enter_context(ImportState(state_file))
        if state.order is not None and not options["resume"]:
            raise UsageError(
                f"--state: {state_file} holds an import already; give --resume to continue it, or"
                " another file"
            )
        serve = partial(
            _serve,
            settings,
            open_input,
            state,
            address=(host, port),
            secret=secret,
            public_uri=options["webhook_uri"],
            resumes=options["resume"],
            is_once=options["once"],
        )
        hold_signals()
        return anyio.run(serve, backend_options={"use_uvloop": True})


def _settings(options: dict[str, Any]) -> Settings:
    from pusher.errors import UsageError  # noqa: PLC0415

    if options["api_key"] is not None or options["api_key_file"] is not None:
        raise UsageError("imports are for applications: they want a token, not an API key")
    return settings_of({name: one for name, one in options.items() if name not in _NO_SETTINGS})


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _serve(
    settings: Settings,
    open_input: Any,
    state: ImportState,
    *,
    address: tuple[str, int],
    secret: str | None,
    public_uri: str | None,
    resumes: bool,
    is_once: bool,
) -> ImportReport | int:
    """Count, serve the webhook, import: once, or until told to stop."""
    import anyio  # noqa: PLC0415

    from pusher.cli.summary import summary  # noqa: PLC0415
    from pusher.errors import PusherError  # noqa: PLC0415
    from pusher.importing import Importer, take_inventory  # noqa: PLC0415
    from pusher.stopping import Stopping  # noqa: PLC0415
    from pusher.webhook import Webhook  # noqa: PLC0415

    stopping = Stopping()
    importer: Importer | None = None
    report: ImportReport | None = None
    error: PusherError | None = None
    async with anyio.create_task_group() as tasks:
        await tasks.start(
            obey_signals,
            stopping,
            lambda: show_snapshot(importer.vitals() if importer else None),
        )
        try:
            inventory = await take_inventory(open_input(), settings, stopping)
            importer = Importer(open_input, settings, state, stopping, inventory)
            desk = _Desk(importer, state, inventory.digest)
            if resumes:
                desk.begin()
            async with Webhook(
                *address, desk.answer, client_secret=secret, public_uri=public_uri
            ) as webhook:
                click.echo(f"pusher: the import webhook is served at {webhook.url}", err=True)
                while await desk.next_import(stopping):
                    report = await importer.run()
                    desk.is_busy = False
                    if is_once:
                        break
                    click.echo(summary(report), err=True)
        except PusherError as raised:
            error = raised  # Raised out of the group, it would be wrapped.
        tasks.cancel_scope.cancel()
    if error is not None:
        raise error
    return report or _interrupted(stopping)


def _interrupted(stopping: Stopping) -> int:
    """The exit code of a run that was told to stop before there was an import."""
    halt = stopping.halt
    return 128 + ((halt.signal_number if halt else None) or signal.SIGINT)


async def _cancel_when_told(stopping: Stopping, scope: Any) -> None:
    await stopping.reading_ended()
    scope.cancel()


class _Desk:
    """Takes the webhook's requests: one import at a time."""

    def __init__(self, importer: Importer, state: ImportState, input_digest: str) -> None:
        import anyio  # noqa: PLC0415

        self.wanted = anyio.Event()
        self.is_busy = False
        self._importer = importer
        self._state = state
        self._input_digest = input_digest

    def answer(self, asked: ImportRequest) -> dict[str, int] | None:
        """The counts for a request; None while another import is under way."""
        from pusher.import_state import ImportOrder  # noqa: PLC0415

        types = {part.object_type for part in asked.settings_to_import}
        order = ImportOrder(
            asked.import_started_at,
            asked.store_id,
            [name for name in OBJECT_TYPES if name in types],
            self._input_digest,
        )
        counts = self._importer.counts(asked.store_id)
        if order == self._state.order:
            return counts  # The bridge asks again when our first answer did not reach it.
        if self.is_busy:
            return None
        self._importer.begin(order)
        self.begin()
        return counts

    def begin(self) -> None:
        """Let what the state holds be imported."""
        self.is_busy = True
        self.wanted.set()

    async def next_import(self, stopping: Stopping) -> bool:
        """Wait until an import is wanted; false when the command is to end."""
        import anyio  # noqa: PLC0415

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_when_told, stopping, tasks.cancel_scope)
            await self.wanted.wait()
            tasks.cancel_scope.cancel()
        self.wanted = anyio.Event()
        return not stopping.is_reading_over
