"""`pusher status`: what the bridge says of one object."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from pusher.cli.connection import (
    Connection,
    as_json,
    connection_options,
    json_option,
    printed,
    talk,
)
from pusher.cli.values import DURATION
from pusher.model import OBJECT_TYPES

if TYPE_CHECKING:
    from pusher.client import BridgeClient
    from pusher.model import ObjectType
    from pusher.protocol import SyncStatus

__all__ = ["command"]

POLL_FIRST_S = 0.2
POLL_FACTOR = 1.6
POLL_MAX_S = 5.0

_EPILOG = """
\b
Example:
  export PUSHER_URL=http://127.0.0.1:8080
  pusher status DEAL shop-1 10248 --wait 30s && echo processed

\b
Exit codes:
  0  processed without error
  1  processing failed, or the bridge answered with an error
  2  usage or configuration
  3  the endpoint is gone, is no bridge, or does not accept the credentials
  4  not known yet
"""


@click.command(epilog=_EPILOG)
@click.argument("object_type", metavar="TYPE", type=click.Choice(OBJECT_TYPES))
@click.argument("store_id", metavar="STORE")
@click.argument("external_id", metavar="ID")
@connection_options
@click.option("--wait", "wait_s", type=DURATION, default="0", help="Ask again for so long.")
@json_option
def command(
    object_type: ObjectType,
    store_id: str,
    external_id: str,
    *,
    wait_s: float,
    is_json: bool,
    **options: Any,
) -> None:
    """Print what became of the object ID of a store, and end accordingly."""
    from pusher.model import Lane  # noqa: PLC0415 - loaded when it is called

    lane = Lane(store_id, object_type)

    async def ask(client: BridgeClient) -> SyncStatus | None:
        return await _known_status(client, lane, external_id, wait_s)

    status = talk(Connection.of(options), ask, only_reads=True)
    if status is None or status.last_processed_at is None:
        click.echo("not known yet: the bridge has not processed it", err=True)
        if status is not None or is_json:
            printed(_status_json(status))
        sys.exit(4)
    from pusher.protocol import failure_in, printable  # noqa: PLC0415

    failure = failure_in(status)
    if is_json or not sys.stdout.isatty():
        printed(_status_json(status))
    else:
        text = f"{object_type} {external_id} of {store_id}: HubSpot id {status.hubspot_id}"
        printed(f"{printable(text)}\n".encode())
    if failure is not None:
        click.echo(printable(f"failed: {failure.type}: {failure.details}"), err=True)
        sys.exit(1)


async def _known_status(
    client: BridgeClient, lane: Any, external_id: str, wait_s: float
) -> SyncStatus | None:
    import anyio  # noqa: PLC0415

    deadline_s = time.monotonic() + wait_s
    pause_s = POLL_FIRST_S
    while True:
        status = await client.get_status(lane, external_id)
        left_s = deadline_s - time.monotonic()
        if (status is not None and status.last_processed_at is not None) or left_s <= 0:
            return status
        await anyio.sleep(min(pause_s, left_s))
        pause_s = min(POLL_MAX_S, pause_s * POLL_FACTOR)


def _status_json(status: SyncStatus | None) -> bytes:
    import msgspec  # noqa: PLC0415

    return as_json(None if status is None else msgspec.to_builtins(status))
