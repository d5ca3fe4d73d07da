"""Settings from a file: which one it is, and how its values become a command's defaults."""

from __future__ import annotations

import functools
import logging
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pusher.cli.file_options import FILE_NAME, NAMED, Taker, file_options
from pusher.cli.naming import commands_of, is_instead_of, key_of, setting_of, variable_behind
from pusher.cli.running import Unusable
from pusher.errors import UsageError
from pusher.masking import shown
from pusher.settings_file import Entry, Kind, SettingsFile

if TYPE_CHECKING:
    from pusher.cli.naming import CommandPath
    from pusher.settings_file import Setting

__all__ = ["Loaded", "attach", "load", "loaded_for", "overruled", "settings_tree"]

SIZE_MAX = 1 << 18

_LOADED = "pusher.loaded"

_GIVEN = (
    ParameterSource.COMMANDLINE,
    ParameterSource.ENVIRONMENT,
    ParameterSource.DEFAULT_MAP,
)
"""Where a value that somebody gave may come from; the first wins."""

_log = logging.getLogger("pusher")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings file of this run."""

    file: SettingsFile
    profile: str | None
    entries: Mapping[str, Entry] = field(default_factory=dict)
    """What of it counts for the command, by key."""
    is_open: bool = False
    """It has secrets, and others may read it."""

    def announce(self, parameters: Mapping[str, Any]) -> None:
        """Say on stderr what is to be known of it, the way the command says things."""
        from pusher.cli.logs import configure  # noqa: PLC0415 - loaded where there is a file

        verbosity = -1 if parameters.get("quiet") else int(bool(parameters.get("verbose")))
        configure(verbosity=verbosity, log_format=parameters.get("log_format", "text"))
        if "quiet" in parameters:
            profile = f", profile {self.profile}" if self.profile else ""
            _log.info("settings from %s%s", self.file.name, profile)
        if self.is_open:
            _log.warning(
                "%s holds secrets, and every user of this machine can read it: chmod 600",
                self.file.name,
            )


def attach(command: click.Command, path: CommandPath) -> None:
    """Let a command, or those in a group, read a settings file, if they have settings."""
    for words, one in commands_of(command, path):
        if not any(key_of(param) for param in one.params):
            continue
        one.params += file_options(_taker(one, words))
        if one.callback is not None:
            one.callback = _prepared(one, one.callback)


def load(ctx: click.Context, command: click.Command, path: CommandPath) -> Loaded | None:
    """Read the file that was named or found, if there is one, and check all of it.

    Args:
        ctx: of any command.
        command: what the values are for.
        path: its words; empty for no command in particular.

    Raises:
        Unusable: it cannot be read, or does not fit.
    """
    named = ctx.meta.get(NAMED, {})
    profile: str | None = named.get("profile")
    where = Path(named["config"]) if "config" in named else _found()
    if where is None:
        if profile is not None:
            raise Unusable(f"--profile {profile}: there is no settings file")
        return None
    try:
        text, is_public = _read(where, is_named="config" in named)
        file = SettingsFile.parse(text, str(where))
        tree = settings_tree(ctx)
        file.check(tree)
        if profile is not None:
            file.check_profile(profile)
        entries = file.entries(path, tree[path], profile) if path else {}
        params = {key_of(param): param for param in command.params}
        for key, entry in entries.items():
            _try(ctx, file, entry, params[key])
    except UsageError as error:
        raise Unusable(str(error)) from error
    return Loaded(file, profile, entries, is_public and _has_secrets(file.document, _paths(tree)))


def loaded_for(ctx: click.Context) -> Loaded | None:
    """The settings file that a command has read."""
    found: Loaded | None = ctx.meta.get(_LOADED)
    return found


def overruled(ctx: click.Context, command: click.Command) -> set[str]:
    """The parameters that do not count, as another one that says the same thing wins over them.

    `--api-key` wins over the `token-file` of a file, say. Where both come from the same place,
    both count: the command then says that they exclude each other.
    """
    ranks: dict[str, tuple[str, ParameterSource]] = {}
    for param in command.params:
        key, source = key_of(param), ctx.get_parameter_source(param.name or "")
        if key is not None and source in _GIVEN:
            ranks[key] = (param.name or "", source)
    return {
        name
        for key, (name, source) in ranks.items()
        for other, (_, winner) in ranks.items()
        if _GIVEN.index(winner) < _GIVEN.index(source) and is_instead_of(command, key, other)
    }


def settings_tree(ctx: click.Context) -> dict[CommandPath, dict[str, Setting]]:
    """What every command takes, by key."""
    root = ctx.find_root()
    group = root.command
    if not isinstance(group, click.Group):
        return {}
    tree: dict[CommandPath, dict[str, Setting]] = {}
    for name in group.list_commands(root):
        command = group.get_command(root, name)
        if command is None:
            continue
        for path, one in commands_of(command, (name,)):
            found = (setting_of(one, param) for param in one.params)
            tree[path] = {setting.key: setting for setting in found if setting is not None}
    return tree


def _taker(command: click.Command, path: CommandPath) -> Taker:
    """What is called with --config and with --profile, in either order: loads at the second."""

    def take(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        named = ctx.meta.setdefault(NAMED, {})
        if value is not None:
            named[param.name] = value
        is_second = named.setdefault("first", param.name) != param.name
        if not is_second or ctx.resilient_parsing:
            return
        loaded = load(ctx, command, path)
        if loaded is None:
            return
        ctx.meta[_LOADED] = loaded
        names = {key_of(param): param.name for param in command.params}
        values = {
            str(names[key]): _hidden_from_help(entry.value) for key, entry in loaded.entries.items()
        }
        ctx.default_map = {**(ctx.default_map or {}), **values}

    return take


def _hidden_from_help(value: Any) -> Callable[[], Any]:
    """A default that the help does not show: it may be a secret."""

    def default() -> Any:
        return value

    return default


def _prepared(command: click.Command, callback: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(callback)
    def prepared(*args: Any, **kwargs: Any) -> Any:
        ctx = click.get_current_context()
        loaded = loaded_for(ctx)
        if loaded is not None:
            loaded.announce(ctx.params)
        try:
            return callback(*args, **{**kwargs, **dict.fromkeys(overruled(ctx, command))})
        except click.ClickException as error:
            text = error.format_message()
            places = _places_of(ctx, command, text, loaded)
            if error.exit_code != Unusable.exit_code or not places:
                raise
            if isinstance(error, click.UsageError):
                raise click.UsageError(text + places, error.ctx) from error
            raise Unusable(text + places) from error

    return prepared


def _places_of(
    ctx: click.Context, command: click.Command, complaint: str, loaded: Loaded | None
) -> str:
    """Where the settings come from that a complaint names, for those that are no flags."""
    places = []
    for param in command.params:
        key = key_of(param)
        if key is None or not re.search(rf"--{re.escape(key)}(?![\w-])", complaint):
            continue
        variable = variable_behind(ctx, param)
        if variable is not None:
            places.append(f"--{key} is {variable}")
        elif loaded is not None and ctx.get_parameter_source(param.name or "") is _GIVEN[-1]:
            entry = loaded.entries.get(key)
            if entry is not None:
                line = loaded.file.line_of(entry.path)
                places.append(f"--{key} is from {loaded.file.name}, line {line}")
    return f" ({'; '.join(places)})" if places else ""


def _found() -> Path | None:
    places = [Path(FILE_NAME)]
    if config := os.environ.get("XDG_CONFIG_HOME"):
        places.append(Path(config) / "pusher" / FILE_NAME)
    elif home := os.environ.get("HOME"):
        places.append(Path(home) / ".config" / "pusher" / FILE_NAME)
    return next((place for place in places if place.is_file()), None)


def _read(path: Path, *, is_named: bool) -> tuple[str, bool]:
    """What is in a file, and whether everybody may read it."""
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            data = file.read(SIZE_MAX + 1)
        # The folder may be anybody's, and an address in the file would get our token.
        if not is_named and about.st_uid not in {0, os.geteuid()}:
            raise UsageError(f"{path} belongs to another user: to use it, give --config {path}")
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8") from error
    if len(data) > SIZE_MAX:
        raise UsageError(f"{path}: larger than {SIZE_MAX // 1024} KiB")
    return text, stat.S_ISREG(about.st_mode) and bool(about.st_mode & stat.S_IROTH)


def _try(ctx: click.Context, file: SettingsFile, entry: Entry, param: click.Parameter) -> None:
    """See to it that a value is one, so that an error can say where it comes from."""
    try:
        param.type_cast_value(ctx, entry.value)
    except click.BadParameter as error:
        raise file.fail(entry.path, f"{entry.path[-1]}: {error.message}") from error


def _paths(tree: Mapping[CommandPath, Mapping[str, Setting]]) -> set[str]:
    """The settings that name files: `client-key` is one, and no secret itself."""
    return {
        key
        for settings in tree.values()
        for key, setting in settings.items()
        if setting.kind is Kind.PATH
    }


def _has_secrets(table: Mapping[str, Any], paths: set[str]) -> bool:
    for key, value in table.items():
        if isinstance(value, dict):
            if _has_secrets(value, paths):
                return True
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str) and shown(key, one, is_path=key in paths) != one:
                return True
    return False
