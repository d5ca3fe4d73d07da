"""Settings in a TOML file: which count for a command, whether they fit, on which line each is.

Keys at the top are for all commands, those of a table `[push]` or `[stores.put]` for that command.
A profile, `[profiles.NAME]`, is laid out the same way and wins over what is outside of it.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pusher.errors import UsageError

__all__ = ["Entry", "Kind", "Setting", "SettingsFile", "nearest"]

PROFILES = "profiles"

CommandPath = tuple[str, ...]
"""The words of a command: ("stores", "put")."""
KeyPath = tuple[str, ...]
"""Where in the file a key is: ("profiles", "prod", "push", "rate")."""


class Kind(Enum):
    """What a setting takes, in the words of an error."""

    FLAG = "true or false"
    INTEGER = "a whole number"
    NUMBER = "a number"
    STRING = "a string"
    PATH = "the name of a file, in quotes"
    MEASURE = "a string or a number"


@dataclass(frozen=True, slots=True)
class Setting:
    """What a command takes under a name."""

    key: str
    kind: Kind
    is_list: bool = False
    is_shared: bool = True
    """May stand at the top of the file, for all commands that have it."""
    opposites: tuple[str, ...] = ()
    """Flags that stand for false, as `no-preflight`."""


Settings = Mapping[str, Setting]
"""All that a command takes, by key."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A value for a command, and where it is."""

    path: KeyPath
    value: bool | str | list[str]
    """As a command line would have it: text, except for flags."""


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """A file of settings.

    Args:
        name: what errors call it.
        text: what is in it.
        document: the same, parsed.
    """

    name: str
    text: str = field(repr=False)
    document: Mapping[str, Any] = field(repr=False)

    @classmethod
    def parse(cls, text: str, name: str) -> SettingsFile:
        """Read TOML.

        Raises:
            UsageError: it is none.
        """
        try:
            return cls(name, text, tomllib.loads(text))
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise UsageError(f"{name}: not TOML: {error}") from error

    def line_of(self, path: KeyPath) -> int:
        """The line on which a key is, from 1."""
        return _lines(self.text)[path]

    def fail(self, path: KeyPath, why: str) -> UsageError:
        """An error that names the file and the line."""
        return UsageError(f"{self.name}, line {self.line_of(path)}: {why}")

    def entries(
        self, command: CommandPath, settings: Settings, profile: str | None = None
    ) -> dict[str, Entry]:
        """The values that count for a command, by key.

        Raises:
            UsageError: one does not fit, or there is no such profile.
        """
        found: dict[str, Entry] = {}
        for base in self._bases(profile):
            for depth in range(len(command) + 1):
                prefix = base + command[:depth]
                for key, value in self._table(prefix).items():
                    setting = settings.get(key)
                    if isinstance(value, dict) or setting is None:
                        continue
                    if depth or setting.is_shared:
                        path = (*prefix, key)
                        found[key] = Entry(path, self._fitting(path, setting, value))
        return found

    def values(self) -> Iterator[tuple[KeyPath, Any]]:
        """All values with the places of their keys, in the file's order."""
        for path in _paths(self.document, ()):
            value: Any = self.document
            for key in path:
                value = value[key]
            if not isinstance(value, dict):
                yield path, value

    def check(self, commands: Mapping[CommandPath, Settings]) -> None:
        """See to it that every key is known, and that every value fits.

        Args:
            commands: all that there are, with what each takes.

        Raises:
            UsageError: one is not, or does not.
        """
        self._check_table((), (), commands)

    def check_profile(self, name: str) -> None:
        """See to it that there is a profile of this name.

        Raises:
            UsageError: there is none.
        """
        names = self.profiles()
        if name not in names:
            there_are = ", ".join(names) if names else "none"
            raise UsageError(f"{self.name}: no profile {name!r}; there are: {there_are}")

    def profiles(self) -> Mapping[str, Any]:
        """The profiles by name.

        Raises:
            UsageError: a profile is no table.
        """
        found: Any = self.document.get(PROFILES, {})
        if not isinstance(found, dict):
            raise self.fail((PROFILES,), f"{PROFILES} has to be tables, as [{PROFILES}.NAME]")
        for name, value in found.items():
            if not isinstance(value, dict):
                path = (PROFILES, name)
                raise self.fail(path, f"{_dotted(path)} has to be a table, [{_dotted(path)}]")
        return dict(found)

    def _bases(self, profile: str | None) -> list[KeyPath]:
        if profile is None:
            return [()]
        self.check_profile(profile)
        return [(), (PROFILES, profile)]

    def _table(self, path: KeyPath) -> Mapping[str, Any]:
        table: Mapping[str, Any] = self.document
        for key in path:
            inner = table.get(key)
            table = inner if isinstance(inner, dict) else {}
        return table

    def _check_table(
        self, base: KeyPath, words: CommandPath, commands: Mapping[CommandPath, Settings]
    ) -> None:
        depth = len(words)
        here = [path for path in commands if path[:depth] == words]
        below = {path[depth] for path in here if len(path) > depth}
        for key, value in self._table(base + words).items():
            path = (*base, *words, key)
            if path == (PROFILES,):
                for name in self.profiles():
                    self._check_table((PROFILES, name), (), commands)
            elif not isinstance(value, dict):
                self._check_key(path, value, words, commands)
            elif key in below:
                self._check_table(base, (*words, key), commands)
            else:
                near = nearest(key, {*below, PROFILES} if not path[1:] else below)
                why = f"there is no command {' '.join((*words, key))!r}"
                raise self.fail(path, why + _did_you_mean(near))

    def _check_key(
        self,
        path: KeyPath,
        value: Any,
        words: CommandPath,
        commands: Mapping[CommandPath, Settings],
    ) -> None:
        key = path[-1]
        takers = [
            settings for command, settings in commands.items() if command[: len(words)] == words
        ]
        known = [
            setting
            for settings in takers
            for setting in settings.values()
            if words or setting.is_shared
        ]
        fits = [self._fitting(path, setting, value) for setting in known if setting.key == key]
        if fits:
            return
        for setting in known:
            if key in setting.opposites:
                raise self.fail(path, f"unknown key {key!r}: write {setting.key} = false")
        near = nearest(key, {setting.key for setting in known})
        homes = [command for command, settings in commands.items() if key in settings]
        if homes and not words:
            raise self.fail(path, f"{key!r} belongs into {_tables(homes)}")
        table = f" in [{_dotted(path[:-1])}]" if path[1:] else ""
        raise self.fail(path, f"unknown key {key!r}{table}{_did_you_mean(near)}")

    def _fitting(self, path: KeyPath, setting: Setting, value: Any) -> bool | str | list[str]:
        if setting.is_list:
            if not isinstance(value, list):
                raise self.fail(path, f"{setting.key} has to be an array, in [ ]")
            return [str(self._one(path, setting, each)) for each in value]
        return self._one(path, setting, value)

    def _one(self, path: KeyPath, setting: Setting, value: Any) -> bool | str:
        if not _fits(setting.kind, value):
            whose = f"each of {setting.key}" if setting.is_list else setting.key
            raise self.fail(path, f"{whose} has to be {setting.kind.value}, not {_named(value)}")
        return value if isinstance(value, bool) else str(value)


def nearest(name: str, names: Mapping[str, Any] | set[str]) -> str | None:
    """The name that is most like a mistyped one; None where none is."""
    wanted = name.replace("_", "-").lower()
    forms = {one.replace("_", "-").lower(): one for one in sorted(names)}
    close = difflib.get_close_matches(wanted, list(forms), n=1, cutoff=0.7)
    return forms[close[0]] if close else None


def _fits(kind: Kind, value: Any) -> bool:
    if isinstance(value, bool):
        return kind is Kind.FLAG
    if isinstance(value, int):
        return kind in {Kind.INTEGER, Kind.NUMBER, Kind.MEASURE}
    if isinstance(value, float):
        return kind in {Kind.NUMBER, Kind.MEASURE}
    return isinstance(value, str) and kind in {Kind.STRING, Kind.PATH, Kind.MEASURE}


def _named(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    names = {int: "a number", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "a table" if isinstance(value, dict) else "a date or time")


def _did_you_mean(near: str | None) -> str:
    return f"; did you mean {near!r}?" if near else ""


def _tables(commands: list[CommandPath]) -> str:
    return " or ".join(f"[{'.'.join(command)}]" for command in commands)


def _dotted(path: KeyPath) -> str:
    return ".".join(path)


def _lines(text: str) -> dict[KeyPath, int]:
    """The line of each key and table of a good document.

    A statement ends with the first line with which it parses: that is exact, also with strings
    and arrays over several lines.
    """
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    statement, first = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        statement += line + "\n"
        try:
            parsed = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        if statement.lstrip().startswith("["):
            (*_, table) = _paths(parsed, ())
            parsed = {}
            for depth in range(1, len(table) + 1):
                lines.setdefault(table[:depth], first)
        for path in _paths(parsed, table):
            lines.setdefault(path, first)
        statement, first = "", number + 1
    return lines


def _paths(value: Any, prefix: KeyPath) -> Iterator[KeyPath]:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = value[0]
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*prefix, key)
            yield from _paths(inner, (*prefix, key))
