"""`pusher bridge`: turn flags into a BridgeConfig, serve until a signal. No rule of the API."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pusher.cli.naming import Apart
from pusher.cli.values import DURATION, read_secret

if TYPE_CHECKING:
    from pusher.bridge import BridgeConfig
    from pusher.bridge.faults import FaultPlan

_TYPES = ("CONTACT", "PRODUCT", "DEAL", "LINE_ITEM")


class _Delays(click.ParamType[dict[str, float]]):
    name = "delay"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, float]:
        del param, ctx
        if isinstance(value, dict):
            return value
        if "=" not in value:
            return dict.fromkeys(_TYPES, DURATION.convert(value, None, None))
        delays: dict[str, float] = {}
        for part in value.split(","):
            name, _, duration = part.partition("=")
            object_type = name.strip()
            if object_type not in _TYPES:
                raise click.BadParameter(f"{name!r} is not one of {', '.join(_TYPES)}")
            if object_type in delays:
                raise click.BadParameter(f"{object_type} comes twice")
            delays[object_type] = DURATION.convert(duration, None, None)
        return delays


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_WARNING = "Visible in `ps`; prefer PUSHER_BRIDGE_{0} or --{1}-file."


_EPILOG = """
\b
Examples:
  pusher bridge --settings settings.json --stores stores.json
  pusher bridge --port 0 --db bridge.db --processing-delay LINE_ITEM=0,DEAL=2s
  pusher bridge --faults seed=7,429=2%,reset-after=0.5%,slow=1%:2s,retry-after=date
"""


@click.command("bridge", cls=Apart, epilog=_EPILOG)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port to listen on; 0 picks a free one.",
)
@click.option(
    "--db",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep the state in this SQLite file and in FILE-queue beside it. Without it the state is"
    " temporary and goes away with the bridge.",
)
@click.option("--settings", "settings_file", type=_FILE, help="JSON: settings to put at the start.")
@click.option(
    "--stores", "stores_file", type=_FILE, help="JSON: list of stores to put at the start."
)
@click.option(
    "--processing-delay",
    type=_Delays(),
    default="0",
    metavar="DELAY",
    help="Wait before a batch is processed: `2s` for all types, or `LINE_ITEM=0,DEAL=2s` for some."
    " Units are ms and s.",
)
@click.option("--jitter", type=DURATION, default="0", help="Up to this much more delay, by chance.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides the jitter.")
@click.option(
    "--latency", type=DURATION, default="0", help="Delay of each answer of the API, e.g. 50ms."
)
@click.option(
    "--token",
    metavar="TOKEN",
    help="OAuth token to demand. " + _WARNING.format("TOKEN", "token"),
)
@click.option("--token-file", type=_FILE, help="File that holds the token.")
@click.option(
    "--api-key",
    metavar="KEY",
    help="The account's hapikey to demand. " + _WARNING.format("API_KEY", "api-key"),
)
@click.option("--api-key-file", type=_FILE, help="File that holds the account's hapikey.")
@click.option(
    "--developer-key",
    metavar="KEY",
    help="The developer's hapikey to demand where an appId is given. "
    + _WARNING.format("DEVELOPER_KEY", "developer-key"),
)
@click.option("--developer-key-file", type=_FILE, help="File that holds the developer's hapikey.")
@click.option(
    "--client-secret",
    metavar="SECRET",
    help="Sign the import webhook with the application's client secret. "
    + _WARNING.format("CLIENT_SECRET", "client-secret"),
)
@click.option("--client-secret-file", type=_FILE, help="File that holds the client secret.")
@click.option(
    "--credentials",
    "credentials_file",
    type=_FILE,
    help="TOML: any number of applications with their tokens, developer keys and client secrets,"
    " and the account's id and keys. The flags for one of each are added to it.",
)
@click.option(
    "--portal-id", type=click.IntRange(1), help="The account's id.  [default: the file's, or 62515]"
)
@click.option(
    "--app-id",
    type=click.IntRange(1),
    help="The application that --token, --developer-key and --client-secret belong to, and that"
    " imports are started for.  [default: the file's first, or 1]",
)
@click.option(
    "--webhook-timeout",
    type=DURATION,
    default="30s",
    show_default=True,
    help="How long an application may take to answer the import webhook.",
)
@click.option(
    "--faults",
    metavar="PLAN",
    help="Let requests to the API go wrong on purpose, by a seeded plan: `429=2%,slow=1%:2s`. The"
    " shares are of 429, 500, 502, 503, 504 (no work is done), html (a proxy's 502 page),"
    " reset-before, reset-after (the work), slow[:TIME], truncated. Also seed=N and"
    " retry-after=seconds|date|both|none[:TIME].",
)
@click.option("-v", "--verbose", is_flag=True, help="Log to stderr what the bridge does.")
def command(
    settings_file: Path | None, stores_file: Path | None, *, verbose: bool, **options: Any
) -> None:
    """Serve a local Ecommerce Bridge.

    The first line on stdout is `listening on http://HOST:PORT`. Without credentials the bridge is
    open, and then it listens on loopback only. SIGINT or SIGTERM stops it.
    """
    from pusher.bridge import BridgeConfig  # noqa: PLC0415  # aiohttp and sqlite3 come with it.

    config = BridgeConfig(
        **_credentials(options),
        host=options["host"],
        port=options["port"],
        db=options["db"],
        settings=_read_json(settings_file, dict) if settings_file else None,
        stores=tuple(_read_json(stores_file, list)) if stores_file else (),
        processing_delay_s=options["processing_delay"],
        jitter_s=options["jitter"],
        seed=options["seed"],
        latency_s=options["latency"],
        webhook_timeout_s=options["webhook_timeout"],
        faults=_faults(options["faults"]),
    )
    if not config.all_credentials().is_enforced and not _is_loopback(config.host):
        raise click.UsageError(
            f"{config.host} is not a loopback address: a bridge without credentials would be open"
            " to the network. Give --credentials, --token-file, --api-key-file or"
            " --developer-key-file."
        )
    _serve(config, verbose=verbose)


def _credentials(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of a BridgeConfig that say who may call: those of the file, then the flags."""
    from pusher.bridge.config import (  # noqa: PLC0415  # Its package is heavy.
        DEFAULT_PORTAL_ID,
        Credentials,
        Register,
    )
    from pusher.bridge.credentials import (  # noqa: PLC0415
        CredentialsError,
        check_added,
        read_credentials,
    )

    secrets = {
        name: read_secret(options[name], options[f"{name}_file"], "--" + name.replace("_", "-"))
        for name in ("token", "api_key", "developer_key", "client_secret")
    }
    credentials, app_id = Credentials(**secrets), options["app_id"]
    register, portal_id = Register(), None
    path = options["credentials_file"]
    if path is not None:
        try:
            content = read_credentials(path)
            app_id = app_id or content.first_app_id or 1
            check_added(credentials, app_id, content.register)
        except CredentialsError as error:
            raise click.UsageError(f"--credentials: {error}") from error
        register, portal_id = content.register, content.portal_id
    wanted_id = options["portal_id"]
    if portal_id is not None and wanted_id not in {None, portal_id}:
        raise click.UsageError(f"--portal-id is {wanted_id}, but {path} is of portal {portal_id}")
    return {
        "credentials": credentials,
        "register": register,
        "portal_id": wanted_id or portal_id or DEFAULT_PORTAL_ID,
        "app_id": app_id or 1,
    }


def _faults(text: str | None) -> FaultPlan | None:
    from pusher.bridge.faults import FaultPlanError, parse_faults  # noqa: PLC0415  # Heavy package.

    try:
        return None if text is None else parse_faults(text)
    except FaultPlanError as error:
        raise click.UsageError(f"--faults: {error}") from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_json(path: Path, shape: type[Any]) -> Any:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise click.UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, shape):
        raise click.UsageError(f"{path} does not hold a JSON {shape.__name__}")
    return value


def _serve(config: BridgeConfig, *, verbose: bool) -> None:
    import logging  # noqa: PLC0415  # Only this command needs it.
    import sys  # noqa: PLC0415

    import uvloop  # noqa: PLC0415

    from pusher.bridge.database import DatabaseError  # noqa: PLC0415
    from pusher.bridge.refusals import RefusalError  # noqa: PLC0415

    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    if not verbose:
        # It logs a traceback for every malformed request, which has been answered with a 400.
        logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    try:
        uvloop.run(_run(config))
    except RefusalError as error:
        raise click.UsageError(f"settings or stores: {error.message}") from error
    except (DatabaseError, OSError) as error:
        raise click.UsageError(str(error)) from error


async def _run(config: BridgeConfig) -> None:
    import asyncio  # noqa: PLC0415  # Only this command needs it.
    import signal  # noqa: PLC0415

    from pusher.bridge import running_bridge  # noqa: PLC0415

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with running_bridge(config) as bridge:
        click.echo(f"listening on {bridge.url}")  # click flushes.
        waiting = asyncio.create_task(stopped.wait())
        await asyncio.wait({waiting, bridge.processing}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
