"""`pusher errors`: what the bridge failed to process, newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pusher.cli.connection import (
    EXIT_CODES,
    Connection,
    application_options,
    as_json,
    connection_options,
    json_option,
    printed,
    talk,
)
from pusher.cli.naming import ApartOption
from pusher.cli.tables import shows_tables, table
from pusher.model import OBJECT_TYPES

if TYPE_CHECKING:
    from pusher.client import BridgeClient
    from pusher.protocol import SyncError

__all__ = ["command"]

_HEADINGS = ("errored at (UTC)", "store", "object", "id", "error", "status", "details")


_EXAMPLES = """
\b
Examples:
  export PUSHER_URL=http://127.0.0.1:8080
  pusher errors --object-type LINE_ITEM | jq -r .externalObjectId
  pusher errors --type INVALID_ASSOCIATION_PROPERTY --limit 20
"""


@click.command(epilog=_EXAMPLES + EXIT_CODES)
@connection_options
@application_options
@click.option(
    "--type",
    "error_type",
    cls=ApartOption,
    metavar="TYPE",
    help="Only this error, as INVALID_DEAL_STAGE.",
)
@click.option("--object-type", type=click.Choice(OBJECT_TYPES), help="Only of these objects.")
@click.option("--resolved", is_flag=True, help="Those as well that were resolved since.")
@click.option(
    "--limit",
    cls=ApartOption,
    type=click.IntRange(min=1),
    metavar="N",
    help="The newest N.  [default: all]",
)
@json_option
def command(
    *,
    error_type: str | None,
    object_type: str | None,
    resolved: bool,
    limit: int | None,
    is_json: bool,
    **options: Any,
) -> None:
    """Print the sync errors: a table on a terminal, a JSON object a line in a pipe.

    With a token they are the application's in this account, with an API key the account's, with
    --app-id and the developer's key the application's in all accounts.
    """
    connection = Connection.of(options)
    is_table = shows_tables() and not is_json
    rows: list[list[object]] = []

    async def ask(client: BridgeClient) -> None:
        async for error in client.all_errors(
            app_id=connection.app_id,
            of_portal=connection.api_key is not None,
            object_type=object_type,
            error_type=error_type,
            show_resolved=resolved,
            limit=limit,
        ):
            if is_table:
                rows.append(_row(error))
            else:
                printed(_line(error))

    talk(connection, ask, only_reads=True)
    if is_table and rows:
        table(_HEADINGS, rows)
    if is_table and not rows:
        click.echo("no errors", err=True)


def _line(error: SyncError) -> bytes:
    import msgspec  # noqa: PLC0415 - loaded when it is called

    return as_json(msgspec.to_builtins(error))


def _row(error: SyncError) -> list[object]:
    from datetime import UTC, datetime  # noqa: PLC0415

    from pusher.protocol import as_ms  # noqa: PLC0415

    at: object = error.errored_at
    errored_ms = as_ms(error.errored_at)
    if errored_ms is not None and errored_ms < 1 << 47:  # Beyond that lies no year that has a name.
        at = datetime.fromtimestamp(errored_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return [
        at,
        error.store_id,
        error.object_type,
        error.external_object_id,
        error.type,
        error.status,
        error.details,
    ]
