"""One rule for the names of settings: what a flag is called in the environment and in a file.

`--batch-size` is PUSHER_BATCH_SIZE and `batch-size`, for every command that has it. For `push`
alone it is PUSHER_PUSH_BATCH_SIZE and `batch-size` in `[push]`, and these win. What means something
else than under the same name elsewhere stands `Apart`: only the second form is for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import click
from click.core import ParameterSource

from pusher.settings_file import Kind, Setting

__all__ = [
    "Apart",
    "ApartOption",
    "commands_of",
    "is_instead_of",
    "key_of",
    "prepare",
    "setting_of",
    "variable_behind",
    "variables_of",
]

CommandPath = tuple[str, ...]


class Apart(click.Command):
    """A command whose flags have little to do with those of others."""


class ApartOption(click.Option):
    """A flag that means something else than the same flag of other commands."""


def key_of(param: click.Parameter) -> str | None:
    """The name of a setting; None for what is no setting, such as --help and most arguments."""
    if isinstance(param, click.Argument):
        return param.name if param.nargs == -1 else None
    if param.is_eager:
        return None
    return next(name for name in param.opts if name.startswith("--"))[2:]


def setting_of(command: click.Command, param: click.Parameter) -> Setting | None:
    """What a settings file may say of a parameter."""
    key = key_of(param)
    if key is None:
        return None
    return Setting(
        key,
        _kind(param),
        is_list=param.multiple or param.nargs == -1,
        is_shared=_is_shared(command, param),
        opposites=tuple(name.lstrip("-") for name in param.secondary_opts),
    )


_INSTEAD = {"PUSHER_CONFIRM_TIMEOUT": "PUSHER_CONFIRM__TIMEOUT"}
"""A command's own variables that would be those of another flag: here of `--confirm-timeout`."""


def commands_of(command: click.Command, path: CommandPath) -> Iterator[tuple[CommandPath, Any]]:
    """A command that does something, with its words; of a group, all that are in it."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands_of(inner, (*path, name))
    else:
        yield path, command


def prepare(command: click.Command, path: CommandPath) -> None:
    """Let all parameters of a command, or of those in a group, be set in the environment."""
    for words, one in commands_of(command, path):
        for param in one.params:
            setting = setting_of(one, param)
            if setting is not None:
                param.envvar = variables_of(words, setting)


def variables_of(path: CommandPath, setting: Setting) -> list[str]:
    """The variables that set it for a command; the first that is there counts."""
    own, shared = ("PUSHER_" + "_".join(words) for words in ((*path, setting.key), (setting.key,)))
    names = [own, shared] if setting.is_shared else [own]
    variables = [name.upper().replace("-", "_") for name in names]
    return [_INSTEAD.get(variables[0], variables[0]), *variables[1:]]


def variable_behind(ctx: click.Context, param: click.Parameter) -> str | None:
    """The variable that a value was taken from; None when it was not."""
    if ctx.get_parameter_source(param.name or "") is not ParameterSource.ENVIRONMENT:
        return None
    names = [param.envvar] if isinstance(param.envvar, str) else param.envvar or ()
    return next((name for name in names if os.environ.get(name)), None)


def is_instead_of(command: click.Command, key: str, other: str) -> bool:
    """Whether two settings say one thing: a secret and its file, or a token and an API key."""
    one, two = key.removesuffix("-file"), other.removesuffix("-file")
    credentials = set() if isinstance(command, Apart) else {"token", "api-key"}
    return key != other and (one == two or {one, two} == credentials)


def _is_shared(command: click.Command, param: click.Parameter) -> bool:
    return not isinstance(command, Apart) and not isinstance(param, click.Argument | ApartOption)


def _kind(param: click.Parameter) -> Kind:
    kinds: tuple[tuple[Any, Kind], ...] = (
        (type(click.BOOL), Kind.FLAG),
        (type(click.INT), Kind.INTEGER),
        (type(click.FLOAT), Kind.NUMBER),
        (click.Path, Kind.PATH),
        ((type(click.STRING), click.Choice), Kind.STRING),
    )
    return next((kind for types, kind in kinds if isinstance(param.type, types)), Kind.MEASURE)
