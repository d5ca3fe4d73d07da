"""`pusher stores`: show, create, replace or delete stores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pusher.cli.asking import confirm_or_end, must_be_able_to_ask
from pusher.cli.connection import (
    EXIT_CODES,
    Connection,
    as_json,
    connection_options,
    json_option,
    printed,
    talk,
    yes_option,
)
from pusher.cli.tables import shows_tables, table
from pusher.cli.values import read_json_object

if TYPE_CHECKING:
    from pusher.client import BridgeClient

__all__ = ["command"]

_LIST = """
\b
Examples:
  export PUSHER_URL=http://127.0.0.1:8080
  pusher stores list
  pusher stores list | jq -r .id
"""

_GET = """
\b
Example:
  export PUSHER_URL=http://127.0.0.1:8080
  pusher stores get shop-1 > store.json
"""

_PUT = """
\b
Examples:
  export PUSHER_URL=http://127.0.0.1:8080
  pusher stores put --id shop-1 --label "My shop" --admin-uri shop.example
  pusher stores put store.json
"""

_DELETE = """
\b
Example:
  export PUSHER_URL=http://127.0.0.1:8080
  pusher stores delete shop-2 --yes
"""


@click.group(epilog=_LIST + EXIT_CODES)
def command() -> None:
    """Show, create, replace or delete stores."""


@command.command("list", epilog=_LIST + EXIT_CODES)
@connection_options
@json_option
def list_(*, is_json: bool, **options: Any) -> None:
    """All stores: a table on a terminal, a JSON object a line in a pipe."""

    async def ask(client: BridgeClient) -> list[dict[str, Any]]:
        return await client.list_stores()

    stores = talk(Connection.of(options), ask, only_reads=True)
    if is_json or not shows_tables():
        printed(b"".join(map(as_json, stores)))
    else:
        fields = ("id", "label", "adminUri")
        table(fields, [[store.get(name) for name in fields] for store in stores])


@command.command("get", epilog=_GET + EXIT_CODES)
@click.argument("store_id", metavar="ID")
@connection_options
@json_option
def get(store_id: str, *, is_json: bool, **options: Any) -> None:
    """Print a store as JSON, in a form that can be put back."""

    async def ask(client: BridgeClient) -> dict[str, Any]:
        return await client.get_store(store_id)

    store = talk(Connection.of(options), ask, only_reads=True)
    printed(as_json(store, is_indented=not is_json))


@command.command("put", epilog=_PUT + EXIT_CODES)
@click.argument(
    "file",
    required=False,
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
)
@click.option("--id", "store_id", metavar="ID", help="Your name of the store.")
@click.option("--label", metavar="TEXT", help="What people see.")
@click.option("--admin-uri", metavar="URI", help="Where people manage it; left out, it is removed.")
@connection_options
@json_option
def put(
    file: Path | None,
    *,
    store_id: str | None,
    label: str | None,
    admin_uri: str | None,
    is_json: bool,
    **options: Any,
) -> None:
    """Create or replace a store, from a JSON FILE (- is stdin) or from --id and --label."""
    store = _store(file, {"id": store_id, "label": label, "adminUri": admin_uri})

    async def ask(client: BridgeClient) -> dict[str, Any]:
        return await client.put_store(store)

    result = talk(Connection.of(options), ask)
    click.echo(f"store {result.get('id')} is put", err=True)
    if is_json:
        printed(as_json(result))


@command.command("delete", epilog=_DELETE + EXIT_CODES)
@click.argument("store_id", metavar="ID")
@connection_options
@yes_option
@json_option
def delete(store_id: str, *, yes: bool, is_json: bool, **options: Any) -> None:
    """Delete a store. The data of its objects stays."""
    connection = Connection.of(options)
    if not yes:
        must_be_able_to_ask(f"the store {store_id} would be deleted")
        confirm_or_end(f"Delete the store {store_id}? The data of its objects stays.")

    async def ask(client: BridgeClient) -> None:
        await client.delete_store(store_id)

    talk(connection, ask)
    click.echo(f"store {store_id} is deleted", err=True)
    if is_json:
        printed(as_json({"deleted": True, "id": store_id}))


def _store(file: Path | None, given: dict[str, str | None]) -> dict[str, Any]:
    named = {name: value for name, value in given.items() if value is not None}
    if file is None:
        if not named.keys() >= {"id", "label"}:
            raise click.UsageError("give a FILE, or --id and --label")
        return named
    if named:
        raise click.UsageError("give a FILE or --id, --label and --admin-uri, not both")
    return read_json_object(file)
