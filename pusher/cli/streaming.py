"""Options of the commands that stream an input to a bridge: `push` and `import`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pusher.cli.connection import option, with_options
from pusher.cli.values import DURATION, SIZE
from pusher.model import OBJECT_TYPES

__all__ = ["input_options", "output_options", "pace_options"]

Command = TypeVar("Command", bound=Callable[..., Any])


def input_options(command: Command) -> Command:
    """What the lines of the input do not say, and how large they may be."""
    return with_options(
        command,
        option("--store", "default_store", metavar="ID", help="Store of lines without storeId."),
        option(
            "--type",
            "default_type",
            type=click.Choice(OBJECT_TYPES),
            help="Type of lines without objectType.",
        ),
        option("--max-line", type=SIZE, default="32MiB", help="Longer lines are rejected unread."),
    )


def pace_options(command: Command) -> Command:
    """How large requests are, and how many."""
    return with_options(
        command,
        option("--batch-size", type=int, default=200, metavar="N", help="Messages in a request."),
        option("--batch-bytes", type=SIZE, default="4MiB", help="Largest request body."),
        option(
            "--concurrency", type=int, default=16, metavar="N", help="Requests in flight at most."
        ),
        option("--rate", type=float, metavar="R", help="Requests a second at most."),
        option(
            "--drain-timeout",
            type=DURATION,
            default="30s",
            help="After Ctrl-C: how long to go on delivering what was read.",
        ),
    )


def output_options(command: Command) -> Command:
    """Where rejected messages, the report and the log go."""
    return with_options(
        command,
        option(
            "--dead-letters",
            type=click.Path(dir_okay=False, path_type=Path),
            default="pusher.dead.ndjson",
            help="Where rejected messages go, each with its reason. Appended to.",
        ),
        option("--report", metavar="FILE", help="Write the JSON report there; - is stdout."),
        option(
            "-q",
            "--quiet",
            is_flag=True,
            help="On stderr only errors, and how a run that failed has ended.",
        ),
        option("-v", "--verbose", is_flag=True, help="Log each retry and split as well."),
        option(
            "--log-format", type=click.Choice(["text", "json"]), default="text", help="On stderr."
        ),
    )
