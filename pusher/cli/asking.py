"""Ask a person before something is replaced or deleted, and never a pipe."""

from __future__ import annotations

import sys

import click

__all__ = ["confirm_or_end", "must_be_able_to_ask"]


def must_be_able_to_ask(what: str) -> None:
    """End with 2 where nobody can be asked.

    Raises:
        click.UsageError: stdin is not a terminal.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError(f"{what}: give --yes where nobody can be asked; nothing was sent")


def confirm_or_end(question: str) -> None:
    """Ask; a no ends the command with 2, before anything is changed."""
    try:
        is_wanted = click.confirm(question, err=True)
    except click.Abort:
        is_wanted = False
    if not is_wanted:
        click.echo("nothing was changed", err=True)
        sys.exit(2)
