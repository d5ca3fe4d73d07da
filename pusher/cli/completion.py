"""`pusher completion`: print the script that completes commands, options and values."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class

__all__ = ["command"]

_EPILOG = """
\b
Examples:
  eval "$(pusher completion bash)"
  pusher completion bash > pusher.bash
  pusher completion zsh > _pusher
  pusher completion fish > pusher.fish
"""


@click.command(epilog=_EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print what makes SHELL complete commands, options and their values.

    \b
    For good, in bash: echo 'eval "$(pusher completion bash)"' >> ~/.bashrc
              in zsh:  echo 'eval "$(pusher completion zsh)"' >> ~/.zshrc, after compinit
              in fish: pusher completion fish > ~/.config/fish/completions/pusher.fish

    The command has to be found as `pusher`.
    """  # noqa: D301 - click wants the character
    script = get_completion_class(shell)
    if script is None:
        raise click.UsageError(f"no completion for {shell}")
    root = click.get_current_context().find_root()
    # Not the class's own method: it starts the shell to see how old it is.
    click.echo(ShellComplete.source(script(root.command, {}, "pusher", "_PUSHER_COMPLETE")))
