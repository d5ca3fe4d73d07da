"""`pusher demo`: the whole job on the bundled stream, against a bridge in this process."""

from __future__ import annotations

import gzip
import signal
import tempfile
from contextlib import AsyncExitStack
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import click

if TYPE_CHECKING:
    from pusher.report import Report

__all__ = ["command"]

_STORE = "northwind-europe"
_SHOWN = (("CONTACT", "VINET"), ("PRODUCT", "11"), ("DEAL", "10248"), ("LINE_ITEM", "10248-11"))


@click.command(
    epilog="\b\nExamples:\n  pusher demo\n  pusher demo --keep",
    context_settings={"show_default": True},
)
@click.option(
    "--keep",
    is_flag=True,
    help="Keep the bridge running afterwards, until Ctrl-C, to look around in it.",
)
def command(*, keep: bool) -> None:
    """Run the whole job once, without an account.

    Starts a local Ecommerce Bridge on a free port, puts settings and stores, pushes the bundled
    Northwind stream (4,059 messages, two stores) in phases, confirms a sample of it, and shows what
    has become of an order. Nothing leaves this machine.
    """
    import anyio  # noqa: PLC0415 - loaded when it is called

    report: Report = anyio.run(_demonstrate, keep, backend_options={"use_uvloop": True})
    raise SystemExit(report.exit_code)


async def _demonstrate(keep: bool) -> Report:  # noqa: FBT001 - anyio.run passes positions
    import anyio  # noqa: PLC0415
    import orjson  # noqa: PLC0415

    from pusher import BridgeClient, Settings, push  # noqa: PLC0415
    from pusher.bridge import BridgeConfig, running_bridge  # noqa: PLC0415
    from pusher.cli.summary import summary  # noqa: PLC0415

    async with AsyncExitStack() as stack:
        data = stack.enter_context(as_file(files("pusher") / "data"))
        letters = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "dead.ndjson"
        stream = data / "northwind.ndjson.gz"
        stores = orjson.loads((data / "northwind-stores.json").read_bytes())
        bridge = await stack.enter_async_context(running_bridge(BridgeConfig()))
        click.echo(f"A local Ecommerce Bridge listens on {bridge.url}")
        async with BridgeClient(bridge.url) as client:
            mappings = orjson.loads((data / "northwind-settings.json").read_bytes())
            await client.put_settings(mappings)
            for store in stores:
                await client.put_store(store)
        names = " and ".join(store["id"] for store in stores)
        click.echo(f"It has property mappings, and the stores {names}.")
        with gzip.open(stream) as lines:
            click.echo(f"\nThe stream begins with\n  {next(lines).decode().rstrip()}")
        click.echo(f"\n$ pusher push {stream.name} --phases --url {bridge.url}")
        settings = Settings(url=bridge.url, phases=True, dead_letters=letters)
        report = await push(stream, settings)
        click.echo(summary(report))
        click.echo(f"\nWhat the bridge has made of an order of {_STORE}:")
        for line in await _shown_objects(bridge.url):
            click.echo(f"  {line}")
        if keep:
            click.echo(f"\nThe bridge stays at {bridge.url} until Ctrl-C.")
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                await anext(aiter(signals))
    return report


async def _shown_objects(url: str) -> list[str]:
    """A line each for a customer, a product, an order and an order line, as the bridge has them."""
    import orjson  # noqa: PLC0415

    from pusher.model import Failure  # noqa: PLC0415
    from pusher.transport import HttpTransport  # noqa: PLC0415

    lines: list[str] = []
    async with HttpTransport(url) as transport:
        for object_type, external_id in _SHOWN:
            query = urlencode({"storeId": _STORE, "externalObjectId": external_id})
            path = f"/_bridge/objects/{object_type}"
            answer = await transport.request("GET", path, query=query)
            if isinstance(answer, Failure):
                raise click.ClickException(f"the bridge does not answer: {answer.detail}")
            for found in orjson.loads(answer.body)["results"]:
                shown = {"hubspotId": found["hubspotId"], **found["properties"]}
                if found["associations"]:
                    shown["associations"] = found["associations"]
                lines.append(f"{object_type} {external_id}: {orjson.dumps(shown).decode()}")
    return lines
