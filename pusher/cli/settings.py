"""`pusher settings`: show, replace or delete the property mappings of an account or application."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pusher.cli.asking import confirm_or_end, must_be_able_to_ask
from pusher.cli.connection import (
    EXIT_CODES,
    Connection,
    application_options,
    as_json,
    connection_options,
    json_option,
    printed,
    talk,
    yes_option,
)
from pusher.cli.values import read_json_object

if TYPE_CHECKING:
    from pusher.client import BridgeClient

__all__ = ["command"]


_EXAMPLE = """
\b
Example:
  export PUSHER_URL=http://127.0.0.1:8080
  pusher settings get > settings.json
  $EDITOR settings.json
  pusher settings put settings.json --yes
"""

_GET = """
\b
Examples:
  export PUSHER_URL=http://127.0.0.1:8080
  pusher settings get > settings.json
  pusher settings get --json | jq '.mappings | keys'
  pusher settings get --app-id 7 --developer-key-file key > settings-of-7.json
"""

_PUT = """
\b
Examples:
  export PUSHER_URL=http://127.0.0.1:8080
  pusher settings put settings.json --yes
  jq '.enabled = false' settings.json | pusher settings put - --yes
"""

_DELETE = """
\b
Example:
  export PUSHER_URL=http://127.0.0.1:8080
  pusher settings delete --yes
"""


@click.group(epilog=_EXAMPLE + EXIT_CODES)
def command() -> None:
    """Show, replace or delete the settings: property mappings, webhookUri, enabled.

    With --app-id they are those of an application, otherwise those of the account.
    """


@command.command("get", epilog=_GET + EXIT_CODES)
@connection_options
@application_options
@click.option(
    "--provided", is_flag=True, help="HubSpot's own mappings as well; not to be put back."
)
@json_option
def get(*, provided: bool, is_json: bool, **options: Any) -> None:
    """Print the settings as JSON, in a form that can be put back."""
    connection = Connection.of(options)

    async def ask(client: BridgeClient) -> dict[str, Any]:
        return await client.get_settings(app_id=connection.app_id, show_provided_mappings=provided)

    printed(as_json(talk(connection, ask, only_reads=True), is_indented=not is_json))


@command.command("put", epilog=_PUT + EXIT_CODES)
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@connection_options
@application_options
@yes_option
@json_option
def put(file: Path, *, yes: bool, is_json: bool, **options: Any) -> None:
    """Replace the settings with those in FILE (- is stdin): what FILE leaves out is removed.

    Shows what would change, and asks.
    """
    connection = Connection.of(options)
    if not yes:
        must_be_able_to_ask("the settings would be replaced")
    wanted = read_json_object(file)

    async def ask(client: BridgeClient) -> dict[str, Any]:
        return await _present(client, connection.app_id)

    diff = _diff(talk(connection, ask, only_reads=True), wanted)
    if not diff:
        click.echo("nothing to change: the settings are so already", err=True)
        if is_json:
            printed(as_json(wanted))
        return
    click.echo(diff, err=True)
    if not yes:
        confirm_or_end("Replace the settings?")

    async def replace(client: BridgeClient) -> dict[str, Any]:
        return await client.put_settings(wanted, app_id=connection.app_id)

    result = talk(connection, replace)
    click.echo("the settings are replaced", err=True)
    if is_json:
        printed(as_json(result))


@command.command("delete", epilog=_DELETE + EXIT_CODES)
@connection_options
@application_options
@yes_option
@json_option
def delete(*, yes: bool, is_json: bool, **options: Any) -> None:
    """Delete the settings. It cannot be undone; to pause, put them with `"enabled": false`."""
    connection = Connection.of(options)
    click.echo(
        "Deleting the settings cannot be undone. To stop messages from being applied for a while,"
        ' put the settings with "enabled": false instead.',
        err=True,
    )
    if not yes:
        must_be_able_to_ask("the settings would be deleted")
        confirm_or_end("Delete the settings?")

    async def ask(client: BridgeClient) -> None:
        await client.delete_settings(app_id=connection.app_id)

    talk(connection, ask)
    click.echo("the settings are deleted", err=True)
    if is_json:
        printed(as_json({"deleted": True}))


async def _present(client: BridgeClient, app_id: int | None) -> dict[str, Any]:
    from pusher.errors import BridgeApiError  # noqa: PLC0415 - loaded when it is called

    try:
        return await client.get_settings(app_id=app_id)
    except BridgeApiError as error:
        if error.status == 404:
            return {}
        raise


def _diff(present: dict[str, Any], wanted: dict[str, Any]) -> str:
    before, after = (
        json.dumps(settings, indent=2, sort_keys=True).splitlines()
        for settings in (present, wanted)
    )
    return "\n".join(difflib.unified_diff(before, after, "present", "new", lineterm=""))
