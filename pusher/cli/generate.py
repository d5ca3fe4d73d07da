"""`pusher generate`: write a change stream to stdout."""

from __future__ import annotations

import sys

import click

from pusher.cli.connection import write_all
from pusher.cli.values import SHARE

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
@click.option("--bad", type=SHARE, default="0%", help="Which share of the lines is cut off.")
@click.option(
    "--dangling",
    type=SHARE,
    default="0%",
    help="Which share of deals and line items points at an object that never comes.",
)
def command(count: int, stores: int, seed: int, bad: float, dangling: float) -> None:
    """Write COUNT messages of made-up shops to stdout, one JSON object a line.

    Stores are called store-0001 and so on; a bridge must know them. Objects come before what points
    at them. The property names are those of the Northwind settings of `pusher demo`.
    """
    from pusher.generating import generate  # noqa: PLC0415 - loaded when it is called

    blocks = generate(count, stores=stores, seed=seed, bad_share=bad, dangling_share=dangling)
    for block in blocks:
        write_all(sys.stdout.buffer, block)
    sys.stdout.buffer.flush()
