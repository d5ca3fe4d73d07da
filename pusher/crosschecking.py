"""Which objects an input changes again, deletes, or points at without creating them. No I/O.

Objects and associations become records of three 64-bit words. An object's id is a hash of 62 bits
in them: two of ten million objects are taken for one with a probability of one in 90,000. Records
of one (store, id) are in one partition, so that a partition can be looked at by itself.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pusher.findings import LINES_MAX, Findings
from pusher.model import OBJECT_TYPES, ObjectType, SyncMessage

__all__ = [
    "ASSOCIATED",
    "PARTITIONS",
    "PARTITION_SHIFT",
    "WORDS",
    "Crowded",
    "ObjectCounts",
    "Record",
    "divided",
    "object_records",
    "partition_of",
    "reference_records",
    "resolve",
]

Record = tuple[int, int, int]
"""The key, the place, and what it is."""

WORDS = 3

PARTITIONS = 256
PARTITION_SHIFT = 56
"""The highest bits of a key say in which partition it is."""

ASSOCIATED: dict[ObjectType, tuple[ObjectType, ...]] = {
    "CONTACT": (),
    "PRODUCT": (),
    "DEAL": ("CONTACT",),
    "LINE_ITEM": ("DEAL", "PRODUCT"),
}
"""The associations that the API has ("Sync Message Fields")."""

_CODES = {object_type: code for code, object_type in enumerate(OBJECT_TYPES)}
_CODE_MASK = 3
_HASH_MASK = 0xFFFF_FFFF_FFFF_FFFC
_LEVEL_BITS = 8

_IS_REFERENCE = 1
_IS_DELETE = 1 << 1
_IS_WHOLE = 1 << 2
_INFO_BITS = 8
_CHANGED_AT_MAX = (1 << (64 - _INFO_BITS)) - 1


class Crowded(Exception):  # noqa: N818 - it is no error: the partition has to be divided
    """A partition has more objects than fit into memory."""


def partition_of(key: int, level: int) -> int:
    """In which part of a partition a key is; on level 0, in which of all partitions."""
    return key >> (PARTITION_SHIFT - level * _LEVEL_BITS) & (PARTITIONS - 1)


def object_records(
    messages: Sequence[SyncMessage], places: Sequence[int], are_whole: Sequence[bool]
) -> list[Record]:
    """The records of messages.

    Args:
        messages: decoded, with their store and type.
        places: where each is (see `place_at`).
        are_whole: whether each has what is needed to create its object.
    """
    times_ms: list[int] = [message.changed_at for message in messages]  # type: ignore[misc]
    codes: list[int] = [_CODES[message.object_type] for message in messages]  # type: ignore[index]
    return [
        (
            hash((message.store_id, message.external_object_id)) & _HASH_MASK | code,
            place,
            min(at_ms, _CHANGED_AT_MAX) << _INFO_BITS
            | (message.action == "DELETE") << 1
            | is_whole << 2,
        )
        for message, code, at_ms, place, is_whole in zip(
            messages, codes, times_ms, places, are_whole, strict=True
        )
    ]


def reference_records(
    message: SyncMessage, to_type: ObjectType, external_ids: Iterable[str | int], place: int
) -> list[Record]:
    """The records of a message's associations with objects of one type."""
    store_id, code = message.store_id, _CODES[to_type]
    info = _CODES[message.object_type] << _INFO_BITS | _IS_REFERENCE  # type: ignore[index]
    return [
        (hash((store_id, str(external_id))) & _HASH_MASK | code, place, info)
        for external_id in external_ids
    ]


def divided(blocks: Iterable[array[int]], level: int) -> Iterator[tuple[int, array[int]]]:
    """Yield (part, records) for the blocks of a partition that is too large, in their order."""
    for block in blocks:
        parts: dict[int, array[int]] = {}
        for start in range(0, len(block), WORDS):
            part = partition_of(block[start], level)
            parts.setdefault(part, array("Q")).extend(block[start : start + WORDS])
        yield from parts.items()


@dataclass(slots=True)
class ObjectCounts:
    """How many objects there are, by type, and the most messages that one of them has."""

    distinct: Counter[ObjectType] = field(default_factory=Counter)
    again: Counter[ObjectType] = field(default_factory=Counter)
    """Those with more than one message."""
    most: int = 0
    most_place: int = 0
    associations: int = 0


class _First:
    """The first places of a finding; and how often there is one."""

    __slots__ = ("count", "places")

    def __init__(self) -> None:
        self.count = 0
        self.places: list[int] = []

    def add(self, place: int) -> None:
        self.count += 1
        if len(self.places) < LINES_MAX or place < self.places[-1]:
            self.places = sorted([*self.places, place])[:LINES_MAX]


class _Partition:
    """The objects of one partition. What a message does depends on those before it."""

    def __init__(self, objects_max: int) -> None:
        self._objects_max = objects_max
        self._last_ms: dict[int, int] = {}
        """changedAt of the newest change so far, by key; -1 once the object is deleted."""
        self._created: dict[int, int] = {}
        """Which record, by number, creates the object."""
        self._messages: dict[int, int] = {}
        """How many messages an object has, where it is more than one."""
        self.found: dict[tuple[str, str], _First] = {}

    def _note(self, kind: str, of: str, place: int) -> None:
        first = self.found.get((kind, of))
        if first is None:
            first = self.found[kind, of] = _First()
        first.add(place)

    def take_objects(self, blocks: Iterable[array[int]], counts: ObjectCounts) -> None:
        last_ms, created, number = self._last_ms, self._created, 0
        for block in blocks:
            words = iter(block)
            for key, place, info in zip(words, words, words, strict=True):
                number += 1
                if info & _IS_REFERENCE:
                    continue
                if key in last_ms:
                    self._again(key, place, info, number, counts)
                    continue
                if len(last_ms) >= self._objects_max:
                    raise Crowded
                if info & _IS_DELETE:
                    last_ms[key] = -1
                else:
                    last_ms[key] = info >> _INFO_BITS
                    created[key] = number
                    if not info & _IS_WHOLE:
                        self._note("missing_email", "", place)
                others = (key ^ 1 in last_ms) + (key ^ 2 in last_ms) + (key ^ 3 in last_ms)
                if others == 1:  # With the third type it is no other id.
                    self._note("shared_id", "", place)

    def _again(self, key: int, place: int, info: int, number: int, counts: ObjectCounts) -> None:
        """An object's second message, or a later one."""
        object_type = OBJECT_TYPES[key & _CODE_MASK]
        messages = self._messages[key] = self._messages.get(key, 1) + 1
        if messages == 2:
            self._note("changed_again", object_type, place)
        if messages > counts.most:
            counts.most, counts.most_place = messages, place
        last_ms, changed_at_ms = self._last_ms[key], info >> _INFO_BITS
        if last_ms == -1:
            self._note("after_delete", object_type, place)
            return
        if changed_at_ms < last_ms:
            self._note("stale", object_type, place)
            return
        if changed_at_ms == last_ms:
            self._note("same_time", object_type, place)
        if info & _IS_DELETE:
            self._last_ms[key] = -1
            return
        self._last_ms[key] = changed_at_ms
        self._created.setdefault(key, number)

    def take_references(self, blocks: Iterable[array[int]], counts: ObjectCounts) -> None:
        created, number = self._created, 0
        for block in blocks:
            words = iter(block)
            for key, place, info in zip(words, words, words, strict=True):
                number += 1
                if not info & _IS_REFERENCE:
                    continue
                counts.associations += 1
                made = created.get(key)
                if made is None or made > number:
                    kind = "dangling_association" if made is None else "later_target"
                    from_type = OBJECT_TYPES[info >> _INFO_BITS]
                    self._note(kind, f"{from_type} to {OBJECT_TYPES[key & _CODE_MASK]}", place)

    def count_into(self, counts: ObjectCounts) -> None:
        by_code = Counter(key & _CODE_MASK for key in self._last_ms)
        again_by_code = Counter(key & _CODE_MASK for key in self._messages)
        for code, object_type in enumerate(OBJECT_TYPES):
            counts.distinct[object_type] += by_code[code]
            counts.again[object_type] += again_by_code[code]


def resolve(
    blocks: Callable[[], Iterable[array[int]]],
    counts: ObjectCounts,
    findings: Findings,
    *,
    objects_max: int,
) -> None:
    """Look at one partition, twice: at its objects, then at the associations.

    Args:
        blocks: yields the records, in the order of reading, each time that it is called.
        counts: added to.
        findings: added to.
        objects_max: so many objects fit into memory.

    Raises:
        Crowded: it has more; nothing was added.
    """
    partition = _Partition(objects_max)
    partition.take_objects(blocks(), counts)
    partition.take_references(blocks(), counts)
    partition.count_into(counts)
    for (kind, of), first in partition.found.items():
        findings.add(kind, of, first.places, first.count)
