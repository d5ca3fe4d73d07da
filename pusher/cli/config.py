"""`pusher config`: show which settings a command would have, and where each comes from."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import click
from click.core import ParameterSource

from pusher.cli.configuring import Loaded, load, loaded_for, overruled, settings_tree
from pusher.cli.connection import as_json, json_option, printed
from pusher.cli.file_options import file_options, remember
from pusher.cli.naming import CommandPath, setting_of, variable_behind, variables_of
from pusher.masking import shown
from pusher.settings_file import Kind, Setting, nearest

__all__ = ["command"]

_EPILOG = """
\b
Examples:
  pusher config push
  pusher config push --concurrency 8 --url http://127.0.0.1:8080
  pusher config --json push --rate 5 | jq -c 'select(.origin != "default")'
  pusher config stores list
  pusher config
"""
_DEFAULT = re.compile(r"\[default: (.+)\]$")
_RAW = "pusher.raw"
_NOT_FOR_COMMANDS = frozenset({"PUSHER_CONFIG", "PUSHER_PROFILE"})


@dataclass(frozen=True, slots=True)
class _Row:
    """A setting: its value as it may be shown, and where that comes from."""

    setting: str
    value: str | float | bool | list[str] | None
    origin: str
    """flag, environment, file, default, or overruled: another one says the same thing."""
    variable: str | None = None
    file: str | None = None
    line: int | None = None
    key: str | None = None
    """The whole key in the file."""
    masked: bool = False
    note: str | None = None
    """What the help says of its default, where that depends on others."""

    @property
    def where(self) -> str:
        """The origin for people."""
        place = self.variable or (f"{self.file}:{self.line}" if self.file else None)
        if self.origin == "overruled":
            return f"overruled: {place}"
        return place or self.origin

    @property
    def text(self) -> str:
        """The value for people."""
        from pusher.protocol import printable  # noqa: PLC0415 - loaded when it is called

        if self.value is None or self.value == []:
            return printable(f"({self.note})") if self.note else "-"
        if isinstance(self.value, bool):
            return str(self.value).lower()
        if isinstance(self.value, list):
            return printable(", ".join(self.value))
        return printable(str(self.value))


class _Mirror(click.Command):
    """Takes what a command takes, and shows its settings instead of running it."""

    def __init__(self, shown_command: click.Command, path: CommandPath) -> None:
        params = [copy.copy(param) for param in shown_command.params]
        for param in params:
            param.required = False
        words = " ".join(path)
        super().__init__(
            path[-1],
            params=params,
            context_settings=shown_command.context_settings,
            help=f"Show the settings that `pusher {words}` would have with these arguments.",
            short_help=shown_command.get_short_help_str(),
        )
        self.shown_command = shown_command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the flags as they were written, besides what they come to."""
        if not ctx.resilient_parsing:
            ctx.meta[_RAW] = self.make_parser(ctx).parse_args(list(args))[0]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> None:
        """Show the settings."""
        loaded = loaded_for(ctx)
        lost = overruled(ctx, self.shown_command)
        rows = [
            _overruled(row) if param.name in lost else row
            for param in self.shown_command.params
            if (setting := setting_of(self.shown_command, param)) is not None
            for row in (_row(ctx, setting, param, loaded),)
        ]
        if loaded is not None:
            loaded.announce({"quiet": False})
        _print(rows, is_json=bool(ctx.meta.get("pusher.json")))


class _Mirrors(click.Group):
    """Has the commands of `pusher`, none of which runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        root = ctx.find_root()
        names = root.command.list_commands(root) if isinstance(root.command, click.Group) else []
        return [name for name in names if name not in {"config", "completion"}]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        root = ctx.find_root()
        if cmd_name not in self.list_commands(ctx) or not isinstance(root.command, click.Group):
            return None
        found = root.command.get_command(root, cmd_name)
        return None if found is None else _mirror(found, (cmd_name,))


def _mirror(found: click.Command, path: CommandPath) -> click.Command:
    if not isinstance(found, click.Group):
        return _Mirror(found, path)
    inner = {name: _mirror(one, (*path, name)) for name, one in found.commands.items()}
    return click.Group(path[-1], commands=inner, short_help=found.get_short_help_str())


@click.group(
    cls=_Mirrors,
    params=file_options(remember),
    invoke_without_command=True,
    epilog=_EPILOG,
    subcommand_metavar="[COMMAND ...]",
)
@json_option
@click.pass_context
def command(ctx: click.Context, *, is_json: bool) -> None:
    """Show the settings of a COMMAND and where each comes from; secrets are masked.

    A flag wins over the environment, that over the settings file, that over the default. Without
    a COMMAND: what the file and the environment set for any, after all of the file was checked,
    and PUSHER_ variables that no command knows.
    """
    ctx.meta["pusher.json"] = is_json
    if ctx.invoked_subcommand is None:
        loaded = load(ctx, command, ())
        rows = [*(_file_rows(ctx, loaded) if loaded else ()), *_environment_rows(ctx)]
        if loaded is not None:
            loaded.announce({"quiet": False})
        _print(rows, is_json=is_json)
        if not rows:
            click.echo("nothing is set: everything has its default", err=True)


def _file_rows(ctx: click.Context, loaded: Loaded) -> Iterator[_Row]:
    """What is in the file, in its order."""
    kinds = {
        setting.key: setting.kind
        for settings in settings_tree(ctx).values()
        for setting in settings.values()
    }
    for path, value in loaded.file.values():
        key = path[-1]
        row = _Row(".".join(path), _plain(value), "file", **_place(loaded, path))
        yield _masked(row, key, kinds[key])


def _environment_rows(ctx: click.Context) -> Iterator[_Row]:
    """What the environment sets, in the order of names; what nobody knows is said on stderr."""
    known = {
        variable: (path if number == 0 else (), setting)
        for path, settings in settings_tree(ctx).items()
        for setting in settings.values()
        for number, variable in enumerate(variables_of(path, setting))
    }
    for variable, value in sorted(os.environ.items()):
        if not value or not variable.startswith("PUSHER_") or variable in _NOT_FOR_COMMANDS:
            continue
        if variable in known:
            path, setting = known[variable]
            row = _Row(".".join((*path, setting.key)), value, "environment", variable=variable)
            yield _masked(row, setting.key, setting.kind)
        else:
            near = nearest(variable, {*known, *_NOT_FOR_COMMANDS})
            hint = f"; did you mean {near}?" if near else ""
            click.echo(f"pusher: warning: no command knows {variable}{hint}", err=True)


def _row(
    ctx: click.Context, setting: Setting, param: click.Parameter, loaded: Loaded | None
) -> _Row:
    name = param.name or ""
    where: dict[str, Any] = {}
    source = ctx.get_parameter_source(name)
    if source is ParameterSource.COMMANDLINE:
        raw, origin = ctx.meta[_RAW][name], "flag"
    elif (variable := variable_behind(ctx, param)) is not None:
        raw, origin, where = os.environ[variable], "environment", {"variable": variable}
        if setting.is_list:
            raw = param.type.split_envvar_value(raw)
    elif loaded is not None and setting.key in loaded.entries:
        entry = loaded.entries[setting.key]
        raw, origin, where = entry.value, "file", _place(loaded, entry.path)
    else:
        raw, origin = _default(ctx, param), "default"
        if raw is None:
            where["note"] = _note(param)
    if raw is not None and setting.kind in {Kind.FLAG, Kind.INTEGER, Kind.NUMBER}:
        value = ctx.params.get(name)
        raw = list(value) if setting.is_list and value else value
    return _masked(_Row(setting.key, _plain(raw), origin, **where), setting.key, setting.kind)


def _default(ctx: click.Context, param: click.Parameter) -> Any:
    """A default as it is written; None where there is none."""
    value = param.get_default(ctx)
    if isinstance(value, str | int | float | os.PathLike) or (
        isinstance(value, list | tuple) and value
    ):
        return value
    return None


def _note(param: click.Parameter) -> str | None:
    """What the help says of a default that depends on others."""
    found = _DEFAULT.search(getattr(param, "help", None) or "")
    return "required" if param.required else found and found[1]


def _overruled(row: _Row) -> _Row:
    return replace(row, value=None, origin="overruled", masked=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [str(one) for one in value]
    return str(value)


def _masked(row: _Row, key: str, kind: Kind) -> _Row:
    def mask(text: str) -> str:
        return shown(key, text, is_path=kind is Kind.PATH)

    value = row.value
    if isinstance(value, list):
        value = [mask(one) for one in value]
    elif isinstance(value, str):
        value = mask(value)
    if value == row.value:
        return row
    return replace(row, value=value, masked=True)


def _place(loaded: Loaded, path: tuple[str, ...]) -> dict[str, Any]:
    file = loaded.file
    return {"file": file.name, "line": file.line_of(path), "key": ".".join(path)}


def _print(rows: list[_Row], *, is_json: bool) -> None:
    if is_json:
        printed(b"".join(as_json(asdict(row)) for row in rows))
        return
    cells = [("SETTING", "VALUE", "FROM"), *((row.setting, row.text, row.where) for row in rows)]
    widths = [max(len(cell[column]) for cell in cells) for column in (0, 1)]
    lines = [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {where}" for name, value, where in cells]
    if rows:
        printed(("\n".join(lines) + "\n").encode())
