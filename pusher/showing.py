"""Show what is made of the records of each topic: counts, and a few examples. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

from pusher.changes import Outcome
from pusher.model import Problem
from pusher.records import Record, Skipped

__all__ = ["Examples"]

EXAMPLES_MAX = 2
KINDS_MAX = 100
_SHOWN_BYTES = 400


@dataclass(slots=True)
class _Kind:
    count: int = 0
    examples: list[tuple[bytes | None, bytes | None, bytes]] = field(default_factory=list)
    """(key, value, line or detail)."""


class Examples:
    """Collects them while a run goes on; so many kinds at most."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def clear(self) -> None:
        """Begin anew."""
        self._kinds.clear()

    def add(self, record: Record, outcome: Outcome) -> None:
        """Take note of what was made of a record."""
        name = record.topic or "input"
        kind, text = _kind_of(outcome)
        found = self._kinds.get((name, kind))
        if found is None:
            if len(self._kinds) >= KINDS_MAX:
                name, kind = "others", "not shown"
            found = self._kinds.setdefault((name, kind), _Kind())
        found.count += 1
        if len(found.examples) < EXAMPLES_MAX and kind != "not shown":
            found.examples.append((_cut(record.key), _cut(record.value), text[: _SHOWN_BYTES + 1]))

    def lines(self) -> list[str]:
        """For people."""
        shown = []
        for (name, kind), found in sorted(self._kinds.items()):
            shown.append(f"{name}: {found.count:,} {kind}")
            for key, value, text in found.examples:
                if key is not None:
                    shown.append(f"    key    {_printable(key)}")
                shown.append(f"    value  {'null' if value is None else _printable(value)}")
                if text:
                    shown.append(f"    ->     {_printable(text)}")
        return shown


def _kind_of(outcome: Outcome) -> tuple[str, bytes]:
    if isinstance(outcome, Skipped):
        return f"skipped: {outcome.reason}", b""
    if isinstance(outcome, Problem):
        return f"rejected: {outcome.reason}", outcome.detail.encode()
    return ("DELETE" if b'"action":"DELETE"' in outcome else "UPSERT"), outcome


def _cut(data: bytes | None) -> bytes | None:
    """No more than is shown, and one byte to tell that there was more."""
    return None if data is None else data[: _SHOWN_BYTES + 1]


def _printable(data: bytes) -> str:
    text = data[:_SHOWN_BYTES].decode("utf-8", "replace")
    text = "".join(one if one.isprintable() else " " for one in text)
    return text if len(data) <= _SHOWN_BYTES else f"{text}..."
