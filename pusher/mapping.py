"""Turn rows into sync messages, as a mapping file says: which column is what.

Values in, values out. A mapping is TOML; `Mapping.parse` reads its text.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from collections.abc import Mapping as Table
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw

from pusher.errors import UsageError
from pusher.model import OBJECT_TYPES, Problem
from pusher.records import Record, epoch_ms_of

__all__ = ["Entry", "Mapping", "Row"]

Row = Table[str, Raw]
"""The columns of a row, each as the JSON that it was read as."""

UNITS_PER_S = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
UNAVAILABLE = b'"__debezium_unavailable_value"'
"""Debezium's word for a large column that did not change and was not read."""

_ENTRY_KEYS = (
    "type", "store", "id", "changedAt", "properties", "omit", "associations", "skip",
)  # fmt: skip
_TOP_KEYS = ("unmapped", "topics", "tables")
_META = ("$key", "$topic", "$partition", "$offset", "$timestamp")
_CHANGED_AT_MAX = 2**63 - 1
_INTEGER = re.compile(r"-?\d{1,30}", re.ASCII)
_DECIMAL = re.compile(r"\d{1,30}(?:\.\d{1,30})?(?:[eE]\+?\d{1,2})?", re.ASCII)

_decode_row = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Field:
    """Where a value stands in a row: a column, a path with dots, or what Kafka knows (`$key`)."""

    name: str

    def of(self, row: Row, record: Record) -> bytes | None:
        """The value as JSON; None where there is none."""
        name = self.name
        if name in row:
            return bytes(row[name])
        if name.startswith("$"):
            return _meta(name, record)
        head, _, rest = name.partition(".")
        if rest and head in row:
            inner = _row_of(bytes(row[head]))
            return None if inner is None else Field(rest).of(inner, record)
        return None


def _meta(name: str, record: Record) -> bytes | None:
    head, _, rest = name.partition(".")
    if head == "$key":
        if record.key is None:
            return None
        if rest:
            inner = _row_of(record.key)
            return None if inner is None else Field(rest).of(unwrapped_key(inner), record)
        return _key_as_json(record.key)
    value = {
        "$topic": record.topic,
        "$partition": record.partition,
        "$offset": record.offset,
        "$timestamp": record.timestamp_ms,
    }.get(head)
    return None if value is None else _encode(value)


def unwrapped_key(row: Row) -> Row:
    """The key inside of Kafka Connect's schema and payload; any other one as it is."""
    if row.keys() == {"schema", "payload"}:
        inner = _row_of(bytes(row["payload"]))
        return {"": row["payload"]} if inner is None else inner
    return row


def _row_of(value: bytes) -> dict[str, Raw] | None:
    try:
        str(value, "utf-8")
        return _decode_row(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _key_as_json(key: bytes) -> bytes | None:
    """A key is JSON, or any text."""
    try:
        msgspec.json.decode(key, type=Raw)
        if key[:1] not in b"{[":
            str(key, "utf-8")
            return key.strip()
        row = _row_of(key)
        if row is not None and "" in (inner := unwrapped_key(row)):
            return bytes(inner[""])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass
    try:
        return _encode(key.decode())
    except UnicodeDecodeError:
        return None


@dataclass(frozen=True, slots=True)
class Entry:
    """What the rows of one topic or table are.

    Attributes:
        name: of the entry in the file, for complaints.
        skip: they are not wanted.
        properties: (property name as JSON with its colon, field); None takes all columns.
        omit: columns that are no properties.
        associations: (type as JSON with its colon, field).
    """

    name: str
    skip: bool = False
    object_type: str = ""
    store: Field | str | None = None
    ids: tuple[Field, ...] = ()
    changed_at: Field | None = None
    units_per_s: int = 1_000
    properties: tuple[tuple[bytes, Field], ...] | None = None
    omit: frozenset[str] = frozenset()
    associations: tuple[tuple[bytes, Field], ...] = ()

    def upsert(self, row: Row, record: Record, changed_at_ms: int | None) -> bytes | Problem:
        """The sync message of a row as a line of canonical NDJSON.

        Args:
            row: as it is now.
            record: that it came in.
            changed_at_ms: where the row does not say it.
        """
        head = self._head("UPSERT", row, record, changed_at_ms)
        if isinstance(head, Problem):
            return head
        if self.properties is None:
            omit = self.omit
            parts = [
                _name(name) + text
                for name, raw in row.items()
                if name not in omit
                and not name.startswith("__")
                and (text := _as_text(bytes(raw))) is not UNAVAILABLE
            ]
        else:
            parts = []
            for name, source in self.properties:
                raw = row.get(source.name)  # Most fields are columns.
                value = bytes(raw) if raw is not None else source.of(row, record)
                if value is not None and (text := _as_text(value)) is not UNAVAILABLE:
                    parts.append(name + text)
        line = head + b',"properties":{' + b",".join(parts) + b"}"
        links = [
            name + ids
            for name, source in self.associations
            if (ids := _ids(source.of(row, record))) is not None
        ]
        if links:
            line += b',"associations":{' + b",".join(links) + b"}"
        return line + b"}"

    def delete(
        self, rows: Iterable[Row], record: Record, changed_at_ms: int | None
    ) -> bytes | Problem:
        """The DELETE of an object.

        Args:
            rows: where its id may stand: the row before, the key.
            record: that it came in.
            changed_at_ms: where the rows do not say it.
        """
        problem = Problem("no_id", f"{self.name}: a delete with neither a row nor a key")
        for row in rows:
            # The row before holds the time of the change before.
            head = self._head("DELETE", row, record, changed_at_ms, is_dated=False)
            if not isinstance(head, Problem):
                return head + b"}"
            problem = head
        return problem

    def key_row(self, record: Record) -> Row | None:
        """The columns that a key holds: of an object its fields, otherwise the only id field."""
        if record.key is None:
            return None
        row = _row_of(record.key)
        if row is not None:
            row = dict(unwrapped_key(row))
            if "" not in row:
                return row
        value = _key_as_json(record.key)
        if value is None or value[:1] in b"{[" or len(self.ids) != 1:
            return None
        return {self.ids[0].name: Raw(value)}

    def _head(
        self,
        action: str,
        row: Row,
        record: Record,
        changed_at_ms: int | None,
        *,
        is_dated: bool = True,
    ) -> bytes | Problem:
        """All of a message but its properties and associations, without the closing brace."""
        external_id, store = self._id(row, record), self._store(row, record)
        if isinstance(external_id, Problem):
            return external_id
        if isinstance(store, Problem):
            return store
        if is_dated and self.changed_at is not None:
            value = self.changed_at.of(row, record)
            if value is not None and value != b"null":
                changed_at_ms = self._time_ms(value)
                if changed_at_ms is None:
                    detail = f"the changedAt field {self.changed_at.name} is {_shown(value)}"
                    return Problem("bad_changed_at", f"{self.name}: {detail}, not a time")
        head = _beginning(self.object_type, action) + external_id
        if store is not None:
            head += b',"storeId":' + store
        return head if changed_at_ms is None else head + b',"changedAt":%d' % changed_at_ms

    def _id(self, row: Row, record: Record) -> bytes | Problem:
        if len(self.ids) == 1:
            (source,) = self.ids
            value = source.of(row, record)
            text = None if value is None else _as_id(value)
            return self._without("id", source, value) if text is None else text
        texts = []
        for source in self.ids:
            value = source.of(row, record)
            text = None if value is None else _as_id(value)
            if text is None:
                return self._without("id", source, value)
            texts.append(text)
        return _encode("-".join(_decode_text(text) for text in texts))

    def _store(self, row: Row, record: Record) -> bytes | Problem | None:
        store = self.store
        if not isinstance(store, Field):
            return None if store is None else _quoted(store)
        value = store.of(row, record)
        text = None if value is None else _as_id(value)
        return self._without("store", store, value) if text is None else text

    def _without(self, what: str, source: Field, value: bytes | None) -> Problem:
        found = "is missing" if value is None else f"is {_shown(value)}"
        return Problem(f"no_{what}", f"{self.name}: the {what} field {source.name} {found}")

    def _time_ms(self, value: bytes) -> int | None:
        """Epoch milliseconds of a number in the entry's unit, or of an ISO 8601 time."""
        text = _decode_text(value).strip() if value[:1] == b'"' else value.decode()
        if _INTEGER.fullmatch(text):
            time_ms: int | None = int(text) * 1000 // self.units_per_s
        elif _DECIMAL.fullmatch(text):
            time_ms = int(float(text) * 1000 / self.units_per_s)
        else:
            time_ms = epoch_ms_of(text)
        return time_ms if time_ms is not None and 0 <= time_ms <= _CHANGED_AT_MAX else None


@lru_cache(maxsize=64)
def _beginning(object_type: str, action: str) -> bytes:
    return b'{"objectType":"%b","action":"%b","externalObjectId":' % (
        object_type.encode(),
        action.encode(),
    )


@lru_cache(maxsize=64)
def _quoted(text: str) -> bytes:
    return _encode(text)


@lru_cache(maxsize=4096)
def _name(name: str) -> bytes:
    return _encode(name) + b":"


def _as_text(value: bytes) -> bytes:
    """A value as a JSON string: the bridge expects strings, and "" clears a property."""
    first = value[:1]
    if first == b'"':
        return UNAVAILABLE if value == UNAVAILABLE else value
    if first in b"-0123456789tf":
        return b'"' + value + b'"'
    if first == b"n":
        return b'""'
    return _encode(value.decode())


def _as_id(value: bytes) -> bytes | None:
    """A value as the JSON string of an id; None where it names nothing."""
    if value[:1] == b'"':
        return None if value == b'""' else value
    return b'"' + value + b'"' if value[:1] in b"-0123456789" else None


def _ids(value: bytes | None) -> bytes | None:
    """What an association field holds: an id, or an array of them; None for nothing."""
    if value is None:
        return None
    if value[:1] == b"[":
        ids = [text for raw in _decode_list(value) if (text := _as_id(bytes(raw))) is not None]
        return b"[" + b",".join(ids) + b"]"
    text = _as_id(value)
    return None if text is None else b"[" + text + b"]"


def _shown(value: bytes) -> str:
    return value[:60].decode("utf-8", "replace")


@dataclass(slots=True)
class Mapping:
    """The entries of a mapping file.

    Attributes:
        skips_unmapped: what has no entry is passed over, not rejected.
    """

    tables: dict[str, Entry] = field(default_factory=dict)
    topics: dict[str, Entry] = field(default_factory=dict)
    skips_unmapped: bool = False
    _found: dict[tuple[str | None, str | None], Entry | None] = field(default_factory=dict)

    @staticmethod
    def parse(text: str, name: str) -> Mapping:
        """Read a mapping.

        Args:
            text: of the file.
            name: of the file, for complaints.

        Raises:
            UsageError: it cannot be used; one line, with the key that is wrong.
        """
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{name}: not TOML: {error}") from error
        return _Reader(name).mapping(document)

    def entry_for(self, topic: str | None, table: str | None = None) -> Entry | None:
        """The entry of a table (`database.schema.table`, where known), or of a topic."""
        if (topic, table) not in self._found:
            if len(self._found) > 10_000:  # Names may come from anyone.
                self._found.clear()
            self._found[topic, table] = self._find(topic, table)
        return self._found[topic, table]

    def _find(self, topic: str | None, table: str | None) -> Entry | None:
        if table is not None and (found := _by_suffix(self.tables, table)) is not None:
            return found
        if topic is None:
            if "*" in self.topics:
                return self.topics["*"]
            every = (*self.topics.values(), *self.tables.values())
            return every[0] if len(every) == 1 and table is None else None
        if topic in self.topics:
            return self.topics[topic]
        for pattern, entry in self.topics.items():
            if fnmatchcase(topic, pattern):
                return entry
        return _by_topic(self.tables, topic) if table is None else None


def _by_suffix(tables: dict[str, Entry], name: str) -> Entry | None:
    """The entry of a.b.c, b.c or c, whichever there is first; a.c is a.b.c without its schema."""
    parts = name.split(".")
    candidates = [".".join(parts[start:]) for start in range(len(parts))]
    if len(parts) == 3:
        candidates.insert(1, f"{parts[0]}.{parts[2]}")
    return next((tables[one] for one in candidates if one in tables), None)


def _by_topic(tables: dict[str, Entry], topic: str) -> Entry | None:
    """The table that Debezium names a topic by: prefix.database.table, or prefix.schema.table."""
    found = _by_suffix(tables, topic)
    if found is not None:
        return found
    end = topic.split(".")[-2:]
    same = [entry for name, entry in tables.items() if name.split(".")[-2:] == end]
    return same[0] if len(same) == 1 and len(end) == 2 else None


class _Reader:
    """Checks a mapping key by key, and says which one is wrong."""

    def __init__(self, name: str) -> None:
        self._name = name

    def mapping(self, document: dict[str, Any]) -> Mapping:
        self._check_keys("", document, _TOP_KEYS)
        unmapped = document.get("unmapped", "reject")
        if unmapped not in ("reject", "skip"):
            raise self._wrong("unmapped", 'must be "reject" or "skip"', unmapped)
        mapping = Mapping(skips_unmapped=unmapped == "skip")
        for kind, entries in (("topics", mapping.topics), ("tables", mapping.tables)):
            section = document.get(kind, {})
            if not isinstance(section, dict):
                raise self._wrong(kind, "must be a table", section)
            for one, table in section.items():
                key = f'{kind}."{one}"'
                if not isinstance(table, dict):
                    raise self._wrong(key, "must be a table", table)
                entries[one] = self._entry(key, one, table)
        if not mapping.topics and not mapping.tables:
            raise UsageError(f'{self._name}: it needs a [topics."..."] or a [tables."..."]')
        return mapping

    def _entry(self, key: str, name: str, table: dict[str, Any]) -> Entry:
        self._check_keys(f"{key}.", table, _ENTRY_KEYS)
        skip = table.get("skip", False)
        if not isinstance(skip, bool):
            raise self._wrong(f"{key}.skip", "must be true or false", skip)
        if skip:
            if len(table) > 1:
                raise UsageError(f"{self._name}: {key}.skip: an entry that is skipped has no more")
            return Entry(name, skip=True)
        for needed in ("type", "id"):
            if needed not in table:
                raise UsageError(f"{self._name}: {key}.{needed}: is missing")
        object_type = table["type"]
        if object_type not in OBJECT_TYPES:
            wanted = ", ".join(OBJECT_TYPES)
            raise self._wrong(f"{key}.type", f"must be one of {wanted}", object_type)
        changed_at, units_per_s = self._changed_at(f"{key}.changedAt", table.get("changedAt"))
        return Entry(
            name,
            object_type=object_type,
            store=self._store(f"{key}.store", table.get("store")),
            ids=self._id(f"{key}.id", table["id"]),
            changed_at=changed_at,
            units_per_s=units_per_s,
            properties=self._properties(f"{key}.properties", table.get("properties")),
            omit=frozenset(one.name for one in self._fields(f"{key}.omit", table.get("omit", []))),
            associations=self._associations(f"{key}.associations", table.get("associations", {})),
        )

    def _store(self, key: str, value: Any) -> Field | str | None:
        if isinstance(value, dict):
            self._check_keys(f"{key}.", value, ("field",))
            if "field" not in value:
                raise UsageError(f"{self._name}: {key}.field: is missing")
            return self._field(f"{key}.field", value["field"])
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value:
            raise self._wrong(key, 'must be a store id or { field = "..." }', value)
        return value

    def _id(self, key: str, value: Any) -> tuple[Field, ...]:
        fields = self._fields(key, value) if isinstance(value, list) else (self._field(key, value),)
        if not fields:
            raise self._wrong(key, "must name a field", value)
        return fields

    def _changed_at(self, key: str, value: Any) -> tuple[Field | None, int]:
        unit = "ms"
        if isinstance(value, dict):
            self._check_keys(f"{key}.", value, ("field", "unit"))
            if "field" not in value:
                raise UsageError(f"{self._name}: {key}.field: is missing")
            unit, key, value = value.get("unit", unit), f"{key}.field", value["field"]
        if unit not in UNITS_PER_S:
            key = key.removesuffix(".field") + ".unit"
            raise self._wrong(key, f"must be one of {', '.join(UNITS_PER_S)}", unit)
        return None if value is None else self._field(key, value), UNITS_PER_S[unit]

    def _properties(self, key: str, value: Any) -> tuple[tuple[bytes, Field], ...] | None:
        if value is None:
            return None
        if isinstance(value, list):
            return tuple((_name(one.name), one) for one in self._fields(key, value))
        if not isinstance(value, dict):
            raise self._wrong(key, 'must be a list of fields, or { property = "field" }', value)
        return tuple(
            (_name(name), self._field(f"{key}.{name}", source)) for name, source in value.items()
        )

    def _associations(self, key: str, value: Any) -> tuple[tuple[bytes, Field], ...]:
        if not isinstance(value, dict):
            raise self._wrong(key, 'must be like { CONTACT = "customer_id" }', value)
        self._check_keys(f"{key}.", value, OBJECT_TYPES)
        return tuple(
            (_name(name), self._field(f"{key}.{name}", source)) for name, source in value.items()
        )

    def _fields(self, key: str, value: Any) -> tuple[Field, ...]:
        if not isinstance(value, list):
            raise self._wrong(key, "must be a list of fields", value)
        return tuple(self._field(f"{key}[{index}]", one) for index, one in enumerate(value))

    def _field(self, key: str, value: Any) -> Field:
        if not isinstance(value, str) or not value:
            raise self._wrong(key, "must be the name of a field", value)
        if value.startswith("$") and value.partition(".")[0] not in _META:
            raise self._wrong(key, f"must be a field, or one of {', '.join(_META)}", value)
        return Field(value)

    def _check_keys(self, prefix: str, table: dict[str, Any], known: tuple[str, ...]) -> None:
        for name in table:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
                raise UsageError(f"{self._name}: {prefix}{name}: is not known; {hint}")

    def _wrong(self, key: str, rule: str, value: Any) -> UsageError:
        return UsageError(f"{self._name}: {key}: {rule}, not {value!r:.80}")
