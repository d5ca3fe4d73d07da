"""`pusher generate`: write a change stream to stdout."""

from __future__ import annotations

import sys

import click

from pusher.cli.connection import write_all

__all__ = ["command"]

_EPILOG = """
\b
Examples:
  pusher generate 20000 --seed 7 | gzip > made-up.ndjson.gz
  pusher generate 1000 --stores 4 | pusher push --dry-run --url http://127.0.0.1:8080
"""


@click.command(
    epilog=_EPILOG,
    context_settings={"show_default": True},
)
@click.argument("count", type=click.IntRange(min=0))
@click.option("--stores", type=click.IntRange(1, 1_000_000), default=1, help="How many stores.")
@click.option("--seed", type=int, default=0, help="The same seed gives the same bytes.")
def command(count: int, stores: int, seed: int) -> None:
    """Write COUNT messages of made-up shops to stdout, one JSON object a line.

    Stores are called store-0001 and so on; a bridge must know them. Objects come before what points
    at them. The property names are those of the Northwind settings of `pusher demo`.
    """
    from pusher.generating import generate  # noqa: PLC0415 - loaded when it is called

    for block in generate(count, stores=stores, seed=seed):
        write_all(sys.stdout.buffer, block)
    sys.stdout.buffer.flush()
