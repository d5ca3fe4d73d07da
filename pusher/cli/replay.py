"""`pusher replay`: push dead letters again."""

from __future__ import annotations

from typing import Any

import click

from pusher.cli.push import push_options, run_push
from pusher.cli.values import SOURCE

__all__ = ["command"]

_EPILOG = """
\b
Examples:
  pusher replay pusher.dead.ndjson --url https://bridge.example --token-file token
  pusher replay pusher.dead.ndjson --reason retries_exhausted --url http://127.0.0.1:8080
  pusher replay pusher.dead.ndjson --status 400 --dry-run --url http://127.0.0.1:8080

The exit codes are those of push.
"""

DEFAULTS = {"dead_letters": "replay.dead.ndjson"}
"""What is rejected again does not go into the file that is read."""


@click.command(epilog=_EPILOG, context_settings={"show_default": True, "default_map": DEFAULTS})
@click.argument("source", nargs=-1, required=True, type=SOURCE, metavar="DEAD.ndjson ...")
@click.option(
    "--reason",
    "reasons",
    multiple=True,
    metavar="R",
    help="Only letters with this reason; may be given more than once.",
)
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=int,
    metavar="N",
    help="Only letters with this HTTP status; may be given more than once.",
)
@push_options
def command(
    source: tuple[str, ...], reasons: tuple[str, ...], statuses: tuple[int, ...], **options: Any
) -> None:
    """Push the original lines of dead letters again.

    Each goes out with the changedAt that it had, so a later change of its object stays on top.
    Letters that were passed over by --reason or --status count as skipped, and so do those that
    hold only the beginning of a line.
    """
    from pusher.sources import LetterFilter  # noqa: PLC0415 - loaded when a run begins

    letters = LetterFilter(frozenset(reasons), frozenset(statuses))
    run_push(source, options, letters=letters)
