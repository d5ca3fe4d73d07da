"""The `pusher` command: which commands there are, and in which file each lives."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from pusher.cli.file_options import file_options, remember
from pusher.version import __version__

try:
    import pusher._scanner  # noqa: F401 - a file that does not load is as good as none
except ImportError:
    _SCANNER = "not compiled, so slower"
else:
    _SCANNER = "compiled"

__all__ = ["command"]

_COMMANDS = {
    "push": "Push a change stream into a bridge and confirm a sample of it.",
    "plan": "Say what a push would send, how long it takes, and what would fail.",
    "repair": "Send again what the bridge could not process.",
    "replay": "Push dead letters again.",
    "report": "Show the report of a run, or make a page of it.",
    "confirm": "Confirm later what a run has sampled or delivered.",
    "import": "Serve the import webhook and send what it asks for.",
    "settings": "Show, replace or delete property mappings.",
    "stores": "Show, create, replace or delete stores.",
    "status": "What became of one object.",
    "errors": "What the bridge failed to process.",
    "bridge": "Run a local Ecommerce Bridge.",
    "demo": "The whole job on a bundled stream, against an embedded bridge.",
    "generate": "Write a change stream of any size.",
    "config": "Show the settings of a command, and where each comes from.",
    "completion": "Print the script that completes commands and options in a shell.",
}

_FILES = {"import": "import_"}
"""Where a command's file is called otherwise: `import` is a word of the language."""


class _LazyGroup(click.Group):
    """Knows its commands by name, so that help and version need not load them."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._found: dict[str, click.Command] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        if cmd_name not in self._found:
            from pusher.cli.configuring import attach  # noqa: PLC0415 - loaded with a command
            from pusher.cli.naming import prepare  # noqa: PLC0415

            file = _FILES.get(cmd_name, cmd_name)
            found: click.Command = import_module(f"pusher.cli.{file}").command
            prepare(found, (cmd_name,))
            attach(found, (cmd_name,))
            self._found[cmd_name] = found
        return self._found[cmd_name]

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a bad value from the environment is complained of by its variable."""
        try:
            return super().invoke(ctx)
        except click.BadParameter as error:
            from pusher.cli.naming import variable_behind  # noqa: PLC0415 - it may have been named

            if error.param is not None and error.ctx is not None:
                error.param_hint = variable_behind(error.ctx, error.param) or error.param_hint
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    cls=_LazyGroup,
    params=file_options(remember, envvars=True),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`pusher COMMAND --help` tells more. Begin with `pusher demo`. Every option can also be"
    " set in the environment and in pusher.toml; `pusher config` shows what is.",
)
@click.version_option(
    __version__,
    prog_name="pusher",
    message=f"%(prog)s, version %(version)s\nscanner: {_SCANNER}",
)
def command() -> None:
    """Push NDJSON change streams into an Ecommerce Bridge v2.

    Messages are grouped per store and type, sent in batches with bounded concurrency, kept in order
    per object, and confirmed by a sample. Nothing is lost silently.
    """
