"""The options that say which settings file is read. They load nothing: every start has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

__all__ = ["FILE_NAME", "NAMED", "Taker", "file_options", "remember"]

FILE_NAME = "pusher.toml"
NAMED = "pusher.named"
"""Where in the context's notes is what was given."""

Taker = Callable[[click.Context, click.Parameter, Any], Any]


def file_options(take: Taker, *, envvars: bool = False) -> list[click.Parameter]:
    """The options that name the file and the profile; each is given to `take`."""
    return [
        click.Option(
            ["--config"],
            metavar="FILE",
            type=click.Path(),
            envvar="PUSHER_CONFIG" if envvars else None,
            is_eager=True,
            expose_value=False,
            callback=take,
            help=f"TOML with settings.  [default: {FILE_NAME} here, or in ~/.config/pusher]",
        ),
        click.Option(
            ["--profile"],
            metavar="NAME",
            envvar="PUSHER_PROFILE" if envvars else None,
            is_eager=True,
            expose_value=False,
            callback=take,
            help="Settings of [profiles.NAME] win over the others in the file.",
        ),
    ]


def remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keep what was given before the command."""
    if value is not None:
        ctx.meta.setdefault(NAMED, {})[param.name] = value
