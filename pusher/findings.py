"""What a look at an input has found: each kind with its count and the first lines. No I/O."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import msgspec

__all__ = ["KINDS", "Finding", "Findings", "Kind", "line_of", "place_at"]

Severity = Literal["fails", "warns", "notes"]

LINES_MAX = 5
SUBJECTS_MAX = 1_000
"""So many subjects of one kind are told apart, properties for example; then they are one."""

SUBJECT_CHARS_MAX = 200
"""Names come from the input, and may be as long as a line."""

OTHERS = "(others)"

_LINE_BITS = 44


class Kind(NamedTuple):
    """What a kind of finding means. `text` is read behind the count."""

    severity: Severity
    text: str


KINDS: dict[str, Kind] = {
    "rejected": Kind("fails", "lines are no messages, and become dead letters"),
    "bad_properties": Kind(
        "fails", "messages have property values that are no text, number or boolean: refused"
    ),
    "bad_associations": Kind(
        "fails", "messages have associations that are no lists of ids by type: refused"
    ),
    "unknown_store": Kind("fails", "messages are of a store that the bridge does not know"),
    "no_settings": Kind("fails", "messages fail, as the bridge has no settings"),
    "settings_disabled": Kind("fails", "messages fail, as the settings are not enabled"),
    "type_not_mapped": Kind("fails", "messages are of a type without any mapping"),
    "nothing_mapped": Kind("fails", "messages have only properties without a mapping"),
    "email_not_mapped": Kind("fails", "contacts cannot be created: no mapping leads to email"),
    "missing_email": Kind(
        "fails", "contacts come first without an e-mail address: not created where they are new"
    ),
    "bad_email": Kind("fails", "values are no e-mail address"),
    "bad_time": Kind("fails", "values are no epoch milliseconds, though mapped as DATETIME"),
    "bad_number": Kind("fails", "values are no numbers, though mapped as NUMBER"),
    "bad_stage": Kind("fails", "values are no stage of the ecommerce pipeline"),
    "dangling_association": Kind(
        "fails", "associations point at objects that the input does not create"
    ),
    "unknown_association": Kind("fails", "associations are between types that have none"),
    "later_target": Kind("warns", "associations come before the object that they point at"),
    "unmapped_property": Kind("warns", "values are lost, as no mapping covers the property"),
    "null_values": Kind("warns", 'messages have null values, which change nothing ("" clears)'),
    "seconds": Kind("warns", "changedAt look like seconds instead of milliseconds"),
    "seconds_in_property": Kind("warns", "values look like seconds instead of milliseconds"),
    "future": Kind("warns", "changedAt are in the future: they win over all changes until then"),
    "same_time": Kind("warns", "changes have the changedAt of an earlier one of their object"),
    "stale": Kind("warns", "changes are older than one that came before: ignored"),
    "after_delete": Kind("warns", "changes come after the DELETE of their object: ignored"),
    "undated": Kind("notes", "messages have no changedAt, and get the time of reading"),
    "changed_again": Kind("notes", "objects have more than one message"),
    "shared_id": Kind("notes", "ids of a store are used by more than one type"),
}
"""In the order in which they are shown."""

_RANK = {kind: rank for rank, kind in enumerate(KINDS)}


def place_at(source: int, line: int) -> int:
    """Pack where a line is: the number of its source, in the order of reading, and the line's."""
    return source << _LINE_BITS | line


def line_of(place: int, sources: Sequence[str]) -> str:
    """Unpack `place_at` as people write it: `source:line`."""
    return f"{sources[place >> _LINE_BITS]}:{place & ((1 << _LINE_BITS) - 1)}"


class Finding(msgspec.Struct, frozen=True):
    """One finding.

    `of` says what it is about: a reason, a store, a type, TYPE.property, or TYPE to TYPE; "" where
    it is about messages as such. `lines` are the first ones, as `source:line`.
    """

    kind: str
    of: str
    severity: Severity
    count: int
    text: str
    lines: list[str]


@dataclass(slots=True)
class _Seen:
    count: int = 0
    places: list[int] = field(default_factory=list)


class Findings:
    """Collects them while an input is read, in bounded memory."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, _Seen]] = {}

    def __repr__(self) -> str:
        return f"<Findings of {len(self._seen)} kinds>"

    def add(self, kind: str, of: str, places: Sequence[int], count: int | None = None) -> None:
        """Count a finding of a kind, once for each place, or `count` times.

        Args:
            kind: one of `KINDS`.
            of: what it is about.
            places: where (see `place_at`), ascending; with `count`, the first ones suffice.
            count: how often.
        """
        subjects = self._seen.setdefault(kind, {})
        seen = subjects.get(of)
        if seen is None:
            of = of[:SUBJECT_CHARS_MAX]
            if of not in subjects and len(subjects) >= SUBJECTS_MAX:
                of = OTHERS
            seen = subjects.setdefault(of, _Seen())
        seen.count += len(places) if count is None else count
        first = seen.places
        for place in places:  # They ascend.
            if len(first) == LINES_MAX and place > first[-1]:
                break
            insort(first, place)
            del first[LINES_MAX:]

    def count(self, kind: str) -> int:
        """How often a kind was found."""
        return sum(seen.count for seen in self._seen.get(kind, {}).values())

    def listed(self, sources: Sequence[str]) -> list[Finding]:
        """All findings: by kind, and the most frequent first."""
        found = [
            Finding(
                kind,
                of,
                KINDS[kind].severity,
                seen.count,
                KINDS[kind].text,
                [line_of(place, sources) for place in seen.places],
            )
            for kind, subjects in self._seen.items()
            for of, seen in subjects.items()
            if seen.count
        ]
        return sorted(found, key=lambda one: (_RANK[one.kind], -one.count, one.of))
