"""Turn input lines into sync messages, a whole chunk at a time.

No clock, no I/O: the caller passes when the chunk was read.

A chunk of which little has to be normalised is cut into pieces of request bodies by the compiled
scanner, where that was built: a fifth of a microsecond a message. Any other one is decoded in one
go, at half a microsecond. Only a chunk that does not decode is taken line by line, to find the
guilty.
"""

from __future__ import annotations

import re
from codecs import utf_8_decode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from operator import le
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from pusher.errors import UsageError
from pusher.model import (
    EMPTY_MAP,
    Chunk,
    Groups,
    ObjectType,
    Problem,
    Rejection,
    SyncMessage,
    origin_of,
)

try:
    from pusher._scanner import scan
except ImportError:  # No C compiler was there when pusher was installed.
    scan = None  # type: ignore[assignment]

__all__ = ["HAS_SCANNER", "Decoded", "Decoder", "check_default_store"]

HAS_SCANNER = scan is not None

_OPENING_BRACE = 0x7B
_EMPTY_MAPS = (b"null", b"[]")
_CHANGED_AT_MAX = 2**63 - 1
_DIGITS_MAX = 40
_LOOKS_LIKE_SECONDS_BELOW = 10**11
"""1973 in milliseconds, the year 5138 in seconds."""

_LOOSE_CHUNKS = 16
"""So many chunks are taken as they are after one that is not canonical throughout."""

_PIECE_BYTES = 32 << 10

_FILLED_MAX = 100_000
"""So many objects are remembered with the time that was filled in."""

_SEARCH_EVERY = 8
_SEARCH_ALL_CHUNKS_UP_TO = 32


class _UndatedMessage(SyncMessage):
    """A message of which nothing has to be normalised but, perhaps, a missing `changedAt`."""

    external_object_id: Annotated[str, Meta(min_length=1, max_length=100)]
    store_id: Annotated[str, Meta(min_length=1)]
    object_type: ObjectType
    changed_at: Annotated[int, Meta(ge=0, le=_CHANGED_AT_MAX)] | UnsetType = UNSET


class _CanonicalMessage(_UndatedMessage, kw_only=True):
    """A message of which nothing has to be normalised."""

    changed_at: Annotated[int, Meta(ge=0, le=_CHANGED_AT_MAX)]
    # Named again, as fields are encoded in the order in which they are named last.
    properties: Raw = EMPTY_MAP
    associations: Raw = EMPTY_MAP


_decode_canonical = msgspec.json.Decoder(list[_CanonicalMessage]).decode
_decode_canonical_alone = msgspec.json.Decoder(_CanonicalMessage).decode
_decode_undated = msgspec.json.Decoder(list[_UndatedMessage]).decode
_decode_any = msgspec.json.Decoder(list[SyncMessage]).decode
_decode_line = msgspec.json.Decoder(SyncMessage).decode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode

_OPENING = bytearray(b"{")

_AT_ONCE_BYTES = 1 << 20
"""A larger chunk is mostly one long line: it is not copied into an array."""

_NO_TIME = "missing required field `changedAt`"

_NULL_VALUE = re.compile(rb":\s*null\b")

_FIELD_REASONS = {
    "externalObjectId": (
        "bad_id",
        "externalObjectId must be a string of 1 to 100 ASCII characters",
    ),
    "storeId": ("bad_store", "storeId must be a string that is not empty"),
    "objectType": ("unknown_type", "objectType must be CONTACT, PRODUCT, DEAL or LINE_ITEM"),
    "action": ("unknown_action", "action must be UPSERT or DELETE"),
    "changedAt": ("bad_changed_at", "changedAt must be a non-negative integer (epoch ms)"),
}


@dataclass(slots=True, eq=False)
class Decoded:
    """What a chunk held. Every line that is not blank is a message or a rejection.

    `indexes[i]` is the place of `messages[i]` among these lines. Where the scanner took the chunk,
    its messages are in `groups` instead.
    """

    messages: list[SyncMessage]
    indexes: Iterable[int]
    groups: Groups | None = None
    rejections: list[Rejection] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    is_dated: bool = False
    """It is known that no message lacks its `changedAt`."""


_TOO_DEEP = Problem("not_json", "nested too deeply")


class Decoder:
    """Decodes chunks of one run.

    After decoding, each message has a string id, a store, a type, an integer `changed_at` and
    maps that are JSON objects.

    Args:
        default_store: the store of lines without `storeId`.
        default_type: the type of lines without `objectType`.
        takes_groups: the caller has no use for messages, if it can get groups.
    """

    def __init__(
        self,
        *,
        default_store: str | None = None,
        default_type: ObjectType | None = None,
        takes_groups: bool = False,
    ) -> None:
        self._default_store = default_store
        self._default_type = default_type
        self._takes_groups = takes_groups and HAS_SCANNER
        self._last_filled_ms = 0
        self._filled_ms: dict[tuple[object, object, object], int] = {}
        self._chunks_seen = 0
        self._loose_chunks_left = 0
        self._decode_strictly: Callable[[bytes], list[Any]] = _decode_canonical
        self._warned_of_seconds = False
        self._warned_of_nulls = False

    def decode(self, chunk: Chunk, read_at_ms: int) -> Decoded:
        """Decode a chunk. `read_at_ms` fills a missing `changedAt` ("Sync Message Fields")."""
        if chunk.oversized_bytes is not None:
            return Decoded([], (), rejections=[_oversized(chunk)])
        if (scanned := self._scan(chunk, read_at_ms)) is not None:
            return scanned
        decoded = self._decode_at_once(chunk) or self._decode_line_by_line(chunk)
        if not decoded.is_dated:
            if chunk.times_ms is None:
                self._fill_changed_at(decoded.messages, read_at_ms)
            else:
                self._fill_from_times(decoded, chunk.times_ms, read_at_ms)
        self._look_for_oddities(chunk.data, decoded)
        return decoded

    def groups_of(self, chunk: Chunk, read_at_ms: int) -> Groups | None:
        """The messages of a chunk by lane, where `decode` would give them so."""
        if chunk.oversized_bytes is not None:
            return None
        scanned = self._scan(chunk, read_at_ms)
        return None if scanned is None else scanned.groups

    def _scan(self, chunk: Chunk, read_at_ms: int) -> Decoded | None:
        """Find the messages of a chunk by lane; None where one is not as it has to be."""
        if not self._takes_groups:
            return None
        filled_ms = max(read_at_ms, self._last_filled_ms + 1)
        scanned = scan(
            chunk.data,
            origin_of(chunk.number, 0),
            self._default_store,
            self._default_type,
            filled_ms if chunk.times_ms is None else -1,
        )
        if scanned is None:
            return None
        groups, count, undated, earliest_ms, has_null = scanned
        decoded = Decoded([], (), groups)
        if undated:
            self._last_filled_ms = filled_ms
        if undated < count:
            self._warn_of_seconds(earliest_ms, decoded)
        if has_null:
            self._warn_of_nulls(decoded)
        return decoded

    def _decode_at_once(self, chunk: Chunk) -> Decoded | None:
        """Decode a chunk in one go; None where some line is guilty, or shares a line."""
        data = chunk.data
        is_ascii = data.isascii()
        try:
            if not is_ascii:  # Raw values are checked for JSON's grammar, but not for UTF-8.
                _check_utf8(data)
            if len(data) <= _AT_ONCE_BYTES:
                messages, has_types = self._decode_array(_as_array(data))
            elif chunk.line_count == 1:
                messages, has_types = [_decode_canonical_alone(data)], True
            else:
                return None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if len(messages) != chunk.line_count:
            return None
        may_have_odd_ids = not is_ascii or b"\\" in data
        if has_types and _are_canonical(messages, may_have_odd_ids=may_have_odd_ids):
            is_dated = self._decode_strictly is _decode_canonical or len(data) > _AT_ONCE_BYTES
            return Decoded(messages, range(len(messages)), is_dated=is_dated)
        lines = list(chunk.lines())
        return self._sift(chunk, lines, lambda index, _: self._settled(messages[index]))

    def _decode_array(self, data: bytes) -> tuple[list[SyncMessage], bool]:
        """Decode values; tell as well whether all ids, stores, types and times are as they must be.

        Raises:
            msgspec.DecodeError: some are no messages.
        """
        if not self._loose_chunks_left:
            try:
                return self._decode_strictly(data), True
            except msgspec.ValidationError as error:
                if _NO_TIME in str(error):  # Whoever leaves it out does so again.
                    self._decode_strictly = _decode_undated
                    return self._decode_array(data)
                self._loose_chunks_left = _LOOSE_CHUNKS
        self._loose_chunks_left -= 1
        return _decode_any(data), False

    def _decode_line_by_line(self, chunk: Chunk) -> Decoded:
        return self._sift(chunk, list(chunk.lines()), lambda _, line: self.decode_line(line))

    def _sift(
        self,
        chunk: Chunk,
        lines: list[tuple[int, int, bytes]],
        judge: Callable[[int, bytes], SyncMessage | Problem],
    ) -> Decoded:
        decoded = Decoded([], indexes := [])
        for index, (line_number, offset, line) in enumerate(lines):
            verdict = judge(index, line)
            if isinstance(verdict, SyncMessage):
                decoded.messages.append(verdict)
                indexes.append(index)
            else:
                decoded.rejections.append(
                    Rejection(
                        verdict.reason, verdict.detail, chunk.source, line_number, offset, line
                    )
                )
        return decoded

    def decode_line(self, line: bytes) -> SyncMessage | Problem:
        """Decode one line, or say why it is not a message. A missing `changedAt` stays missing."""
        try:
            if not line.isascii():
                str(line, "utf-8")
            return self._settled(_decode_line(line))
        except UnicodeDecodeError as error:
            return Problem("not_utf8", f"byte {error.start + 1} is not UTF-8")
        except RecursionError:
            return _TOO_DEEP
        except msgspec.ValidationError as error:
            return self._decode_loose_line(line, str(error))
        except msgspec.DecodeError as error:
            return Problem("not_json", str(error))

    def _decode_loose_line(self, line: bytes, complaint: str) -> SyncMessage | Problem:
        """Take a line whose only fault is a null where the field may as well be missing."""
        try:
            fields = _decode_fields(line)
            for name in ("action", "changedAt", "objectType"):
                if name in fields and bytes(fields[name]) == b"null":
                    del fields[name]
            return self._settled(_decode_line(msgspec.json.encode(fields)))
        except msgspec.ValidationError as error:
            return _problem_of(str(error) or complaint)
        except RecursionError:
            return _TOO_DEEP
        except msgspec.DecodeError as error:  # It complained of a field before the line broke off.
            return Problem("not_json", str(error))

    def _settled(self, message: SyncMessage) -> SyncMessage | Problem:
        """Bring one message to its canonical form, in place."""
        external_id = message.external_object_id = str(message.external_object_id)
        if not external_id.isascii() or len(external_id) > 100:
            return _field_problem("externalObjectId", external_id)
        if isinstance(message.changed_at, str):
            digits = message.changed_at
            is_number = digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX
            if not is_number or int(digits) > _CHANGED_AT_MAX:
                return _field_problem("changedAt", digits)
            message.changed_at = int(digits)
        return self._settled_lane(message) or _settled_maps(message) or message

    def _settled_lane(self, message: SyncMessage) -> Problem | None:
        """Fill in the store and the type where the line has none."""
        if message.store_id is UNSET:
            if self._default_store is None:
                return Problem("missing_store", "storeId is missing, and no --store is given")
            message.store_id = self._default_store
        elif isinstance(message.store_id, int):
            message.store_id = str(message.store_id)
        if message.object_type is UNSET:
            if self._default_type is None:
                return Problem("missing_type", "objectType is missing, and no --type is given")
            message.object_type = self._default_type
        return None

    def _fill_changed_at(self, messages: list[SyncMessage], read_at_ms: int) -> None:
        """Fill in what is missing, so that two lines of one object never get equal times."""
        missing = [message for message in messages if message.changed_at is UNSET]
        if not missing:
            return
        base_ms = max(read_at_ms, self._last_filled_ms + 1)
        repeats: dict[tuple[object, object, object], int] = {}
        for message in missing:
            key = (message.store_id, message.object_type, message.external_object_id)
            repeat = repeats.get(key, 0)
            repeats[key] = repeat + 1
            message.changed_at = base_ms + repeat
        self._last_filled_ms = base_ms + max(repeats.values()) - 1

    def _fill_from_times(self, decoded: Decoded, times_ms: Sequence[int], read_at_ms: int) -> None:
        """Fill in when a message was produced: the same each time that it is read.

        An object's next message gets a later time, as long as its last one is remembered.
        """
        filled_ms = self._filled_ms
        for message, index in zip(decoded.messages, decoded.indexes, strict=True):
            if message.changed_at is UNSET:
                key = (message.store_id, message.object_type, message.external_object_id)
                at_ms = times_ms[index] if times_ms[index] > 0 else read_at_ms
                at_ms = max(at_ms, filled_ms.get(key, 0) + 1)
                message.changed_at = filled_ms[key] = at_ms
        if len(filled_ms) > _FILLED_MAX:
            for old in list(filled_ms)[: _FILLED_MAX // 2]:
                del filled_ms[old]

    def _look_for_oddities(self, data: bytes, decoded: Decoded) -> None:
        """Warn once of what the bridge takes and later fails on, or mis-dates.

        The search costs a tenth of a microsecond a message, so it is thorough only at first.
        """
        self._chunks_seen += 1
        if self._chunks_seen > _SEARCH_ALL_CHUNKS_UP_TO and self._chunks_seen % _SEARCH_EVERY:
            return
        if not self._warned_of_seconds and decoded.messages:
            earliest = min([m.changed_at for m in decoded.messages])  # type: ignore[type-var]
            self._warn_of_seconds(earliest, decoded)  # type: ignore[arg-type]
        if (
            not self._warned_of_nulls
            and b"null" in data
            and any(_NULL_VALUE.search(m.properties) for m in decoded.messages)
        ):
            self._warn_of_nulls(decoded)

    def _warn_of_seconds(self, earliest_ms: int, decoded: Decoded) -> None:
        if earliest_ms < _LOOKS_LIKE_SECONDS_BELOW and not self._warned_of_seconds:
            self._warned_of_seconds = True
            decoded.warnings.append(
                f"changedAt {earliest_ms} looks like seconds; the bridge expects milliseconds"
            )

    def _warn_of_nulls(self, decoded: Decoded) -> None:
        if not self._warned_of_nulls:
            self._warned_of_nulls = True
            decoded.warnings.append(
                'null property values: the bridge expects strings; "" clears a property'
            )


def check_default_store(store_id: str | None) -> None:
    """Raise UsageError where a store cannot be written into a request: it is empty, or no text."""
    if store_id == "":
        raise UsageError("--store must not be empty")
    try:
        (store_id or "").encode()
    except UnicodeEncodeError:
        raise UsageError("--store must be UTF-8") from None


def _check_utf8(data: bytes) -> None:
    """Raise UnicodeDecodeError where it is not UTF-8. In pieces, as the text takes up caches."""
    view, start = memoryview(data), 0
    while start < len(data):
        is_last = start + _PIECE_BYTES >= len(data)
        _, used = utf_8_decode(view[start : start + _PIECE_BYTES], "strict", is_last)
        start += used


def _as_array(data: bytes) -> bytes:
    """Lines as a JSON array: each line end becomes a comma, so that a blank line is an error.

    Where there are as many values as lines, each line is a value. (The one exception, a line end
    in the place of an object's comma together with two values of one line, does no harm.)
    """
    lines = memoryview(data)[:-1] if data.endswith(b"\n") else data
    return b"".join((b"[", lines, b"]")).replace(b"\n", b",")


def _are_canonical(messages: list[SyncMessage], *, may_have_odd_ids: bool) -> bool:
    """Tell what the types of the fields do not: that ids are ASCII, and maps are objects."""
    if may_have_odd_ids:
        ids: list[str] = [message.external_object_id for message in messages]  # type: ignore[misc]
        if not "".join(ids).isascii():
            return False
    return _are_objects([message.properties for message in messages]) and _are_objects(
        [m.associations for m in messages if m.associations is not EMPTY_MAP]
    )


def _are_objects(values: list[Raw]) -> bool:
    """Tell whether valid JSON values are objects: no other one begins with so high a byte.

    A bytearray compares itself with anything that has a buffer, so no object is made for a value.
    """
    return all(map(le, repeat(_OPENING), values))


def _settled_maps(message: SyncMessage) -> Problem | None:
    """Take what means an empty map: PHP writes one as [], others as null."""
    for name in ("properties", "associations"):
        value = getattr(message, name)
        if memoryview(value)[0] != _OPENING_BRACE:
            text = bytes(value)
            if b"".join(text.split()) not in _EMPTY_MAPS:
                shown = text[:80].decode("utf-8", "replace")
                return Problem("bad_map", f"{name} must be an object, not {shown}")
            setattr(message, name, EMPTY_MAP)
    return None


def _oversized(chunk: Chunk) -> Rejection:
    size = chunk.oversized_bytes or 0
    return Rejection(
        "line_too_long",
        f"the line has {size} bytes; only its first {len(chunk.data)} are kept here",
        chunk.source,
        chunk.first_line,
        chunk.offset,
        chunk.data,
        extra={"line_bytes": size},
    )


def _field_problem(name: str, value: object) -> Problem:
    reason, rule = _FIELD_REASONS[name]
    return Problem(reason, f"{rule}, not {value!a:.120}")


def _problem_of(complaint: str) -> Problem:
    """Translate msgspec's complaint, whose path names the field."""
    if "missing required field `externalObjectId`" in complaint:
        return Problem("bad_id", "externalObjectId is missing")
    for name, (reason, rule) in _FIELD_REASONS.items():
        if f"`$.{name}`" in complaint:
            found = complaint.split(" - at ", maxsplit=1)[0]
            return Problem(reason, f"{rule} ({found})")
    return Problem("not_an_object", complaint.split(" - at ", maxsplit=1)[0])
