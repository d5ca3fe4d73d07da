"""`pusher bridge`: turn flags into a BridgeConfig, serve until a signal. No rule of the API."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pusher.cli.values import DURATION, read_secret

if TYPE_CHECKING:
    from pusher.bridge import BridgeConfig
    from pusher.bridge.config import Credentials

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
            object_type, _, duration = part.partition("=")
            if object_type.strip() not in _TYPES:
                raise click.BadParameter(f"{object_type!r} is not one of {', '.join(_TYPES)}")
            delays[object_type.strip()] = DURATION.convert(duration, None, None)
        return delays


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_WARNING = "Visible in `ps`; prefer PUSHER_BRIDGE_{0} or --{1}-file."


@click.command("bridge")
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
    envvar="PUSHER_BRIDGE_TOKEN",
    metavar="TOKEN",
    help="OAuth token to demand. " + _WARNING.format("TOKEN", "token"),
)
@click.option("--token-file", type=_FILE, help="File that holds the token.")
@click.option(
    "--api-key",
    envvar="PUSHER_BRIDGE_API_KEY",
    metavar="KEY",
    help="The account's hapikey to demand. " + _WARNING.format("API_KEY", "api-key"),
)
@click.option("--api-key-file", type=_FILE, help="File that holds the account's hapikey.")
@click.option(
    "--developer-key",
    envvar="PUSHER_BRIDGE_DEVELOPER_KEY",
    metavar="KEY",
    help="The developer's hapikey to demand where an appId is given. "
    + _WARNING.format("DEVELOPER_KEY", "developer-key"),
)
@click.option("--developer-key-file", type=_FILE, help="File that holds the developer's hapikey.")
@click.option(
    "--portal-id",
    type=click.IntRange(1),
    default=62515,
    show_default=True,
    help="The account's id.",
)
@click.option(
    "--app-id",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="The application that an OAuth token stands for.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log to stderr what the bridge does.")
def command(
    settings_file: Path | None, stores_file: Path | None, *, verbose: bool, **options: Any
) -> None:
    """Serve a local Ecommerce Bridge.

    The first line on stdout is `listening on http://HOST:PORT`. Without credentials the bridge is
    open, and then it listens on loopback only. SIGINT or SIGTERM stops it.

    \b
    pusher bridge --settings settings.json --stores stores.json
    pusher bridge --port 0 --db bridge.db --processing-delay LINE_ITEM=0,DEAL=2s
    """  # noqa: D301  # \b is click's mark for lines that stay as they are.
    credentials = _credentials(options)
    if not credentials.are_given and not _is_loopback(options["host"]):
        raise click.UsageError(
            f"{options['host']} is not a loopback address: a bridge without credentials would be"
            " open to the network. Give --token-file, --api-key-file or --developer-key-file."
        )
    from pusher.bridge import BridgeConfig  # noqa: PLC0415  # aiohttp and sqlite3 come with it.

    config = BridgeConfig(
        host=options["host"],
        port=options["port"],
        db=options["db"],
        credentials=credentials,
        portal_id=options["portal_id"],
        app_id=options["app_id"],
        settings=_read_json(settings_file, dict) if settings_file else None,
        stores=tuple(_read_json(stores_file, list)) if stores_file else (),
        processing_delay_s=options["processing_delay"],
        jitter_s=options["jitter"],
        seed=options["seed"],
        latency_s=options["latency"],
    )
    _serve(config, verbose=verbose)


def _credentials(options: dict[str, Any]) -> Credentials:
    from pusher.bridge.config import Credentials  # noqa: PLC0415  # Its package is heavy.

    secrets = {
        name: read_secret(options[name], options[f"{name}_file"], "--" + name.replace("_", "-"))
        for name in ("token", "api_key", "developer_key")
    }
    return Credentials(**secrets)


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
