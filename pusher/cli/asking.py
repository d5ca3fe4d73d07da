"""Ask a person before something is replaced or deleted, and never a pipe."""

from __future__ import annotations

import sys

import click

__all__ = ["asked", "can_ask", "confirm_or_end", "must_be_able_to_ask"]


def can_ask() -> bool:
    """Whether stdin is a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


def asked(question: str) -> bool:
    """Ask; who leaves without a word says no."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)  # What comes next begins a line.
        return False


def must_be_able_to_ask(what: str) -> None:
    """End with 2 where nobody can be asked.

    Raises:
        click.UsageError: stdin is not a terminal.
    """
    if not can_ask():
        raise click.UsageError(f"{what}: give --yes where nobody can be asked; nothing was sent")


def confirm_or_end(question: str) -> None:
    """Ask; a no ends the command with 2, before anything is changed."""
    if not asked(question):
        click.echo("nothing was changed", err=True)
        sys.exit(2)
