"""The command line: one file a command, each loaded when it is called."""

from pusher.cli.group import command

__all__ = ["command"]
