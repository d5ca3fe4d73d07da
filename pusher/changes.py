"""Turn the records of change streams into sync messages: one line of canonical NDJSON each.

No clock, no I/O. A `Converter` is given records in the order of their partitions, from a file or
from a live topic, and answers each with a line, a reason to pass over it, or a problem:

    converter = Converter(mapping=Mapping.parse(text, "map.toml"))
    outcome = converter.convert(Record(value, key, topic, partition, offset, timestamp_ms))

What the values are is told from the first that is no tombstone, and fixed from then on.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from functools import lru_cache
from typing import Literal, get_args

import msgspec
from msgspec import Raw

from pusher.mapping import Entry, Mapping, Row
from pusher.model import Problem
from pusher.records import Record, Skipped

__all__ = ["CHANGE_FORMATS", "ChangeFormat", "Converter", "Outcome", "change_format_of"]

ChangeFormat = Literal["canonical", "connect", "debezium", "debezium-flat", "maxwell"]
"""What a value holds. `canonical` are sync messages, or rows that a mapping describes."""

CHANGE_FORMATS: tuple[ChangeFormat, ...] = get_args(ChangeFormat)

Outcome = bytes | Skipped | Problem
"""A line without its end; or why there is none."""

PAIRS_MAX = 10_000
"""So many deletes are remembered that a tombstone may follow; Debezium's follows at once."""

_KEY_BYTES_MAX = 64

_ROW_OPS = frozenset("crud")
_OTHER_OPS = {"t": Skipped("truncate"), "m": Skipped("message")}
_MAXWELL_UPSERTS = frozenset({"insert", "update", "bootstrap-insert"})
_MAXWELL_MARKS = frozenset({"bootstrap-start", "bootstrap-complete", "bootstrap-complete-early"})
_MAXWELL_DDL = ("table-", "database-")
_CANONICAL_KEYS = frozenset({"externalObjectId", "objectType", "storeId"})

UNMAPPED = Skipped("unmapped")
PAIRED_TOMBSTONE = Skipped("tombstone_of_pair")
TOMBSTONE_WITHOUT_MAPPING = Skipped("tombstone_without_mapping")
TOMBSTONE_WITHOUT_KEY = Skipped("tombstone_without_key")

EMPTY_VALUE = Problem("not_json", "the value is empty; a tombstone is null")

_OPEN_BRACE, _QUOTE = 0x7B, 0x22
_CHANGED_AT = b'"changedAt"'


class _Source(msgspec.Struct, gc=False):
    db: str | None = None
    schema: str | None = None
    table: str | None = None
    collection: str | None = None
    ts_ms: int | None = None


class _Debezium(msgspec.Struct, gc=False):
    op: str
    source: _Source | None = None
    before: Raw = Raw(b"null")
    after: Raw = Raw(b"null")
    ts_ms: int | None = None


class _Maxwell(msgspec.Struct, gc=False):
    type: str
    database: str | None = None
    table: str | None = None
    ts: int | None = None
    data: Raw = Raw(b"null")


class _Connect(msgspec.Struct, gc=False):
    payload: Raw


class _Dated(msgspec.Struct, rename="camel", gc=False):
    changed_at: int | str | None = None


class _Stamped(msgspec.Struct, rename="camel", gc=False):
    changed_at: Raw | None = None


_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_debezium = msgspec.json.Decoder(_Debezium).decode
_decode_maxwell = msgspec.json.Decoder(_Maxwell).decode
_decode_connect = msgspec.json.Decoder(_Connect).decode
_decode_dated_lines = msgspec.json.Decoder(_Dated).decode_lines
_decode_stamped = msgspec.json.Decoder(_Stamped).decode
_BROKEN = (msgspec.DecodeError, UnicodeError, RecursionError)


def fields_of(value: bytes) -> dict[str, Raw] | None:
    """The fields of a JSON object; None where it is none."""
    try:
        return _decode_fields(value)
    except _BROKEN:
        return None


def change_format_of(value: bytes) -> ChangeFormat | None:
    """What a value holds; None where it is no JSON object, so that the next one tells."""
    fields = fields_of(text_of(value))
    if fields is None:
        return None
    if fields.keys() == {"schema", "payload"}:
        schema = bytes(fields["schema"])
        if schema == b"null" or (schema[:1] == b"{" and b'"type"' in schema):
            inner = change_format_of(bytes(fields["payload"]))
            return "debezium" if inner == "debezium" else "connect"
    if _is_debezium(fields):
        return "debezium"
    if {"database", "table", "type"} <= fields.keys() and (
        "data" in fields or bytes(fields["type"])[1:].startswith((b"table-", b"database-"))
    ):
        return "maxwell"
    return "debezium-flat" if {"__deleted", "__op"} & fields.keys() else "canonical"


def _is_debezium(fields: Row) -> bool:
    if "source" not in fields or bytes(fields["source"])[:1] != b"{":
        return False
    if "ddl" in fields or "tableChanges" in fields:
        return True
    is_row_or_message = "before" in fields or "after" in fields or "message" in fields
    return "op" in fields and (is_row_or_message or bytes(fields["op"]) in (b'"t"', b'"m"'))


def text_of(value: bytes) -> bytes:
    """A value on one line; of a JSON string that holds JSON, what it holds (StringConverter)."""
    value = value.strip()
    if value[:1] == b'"':
        try:
            inner = _decode_text(value).strip()
        except _BROKEN:
            return value
        if inner[:1] == "{" or inner == "null":
            value = inner.encode()
    if b"\n" in value or b"\r" in value:
        value = value.replace(b"\n", b" ").replace(b"\r", b" ")  # White space, as JSON has it.
    return value


class Converter:
    """Makes sync messages of the records of one run.

    Args:
        change: what the values hold; None tells it from the first that is no tombstone.
        mapping: what rows are; without one, rows have to be sync messages themselves.

    Attributes:
        change: as given, or found.
    """

    def __init__(
        self, *, change: ChangeFormat | None = None, mapping: Mapping | None = None
    ) -> None:
        self.change = change
        self._mapping = mapping
        self._deleted: OrderedDict[tuple[str | None, int | None, bytes], None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Converter of {self.change or 'what comes'}, {len(self._deleted)} deletes open>"

    @property
    def remembers(self) -> bool:
        """What comes depends on what came before: deletes are kept until their tombstone."""
        return self.change is None or self._mapping is not None or self.change.startswith("debez")

    def lines_of(self, values: list[str], times_ms: list[int | None]) -> list[bytes] | None:
        """The lines of values that are sync messages already, in one go.

        Args:
            values: none of them a tombstone.
            times_ms: of their records.

        Returns:
            None where some need a closer look, or may be more than sync messages.
        """
        if self._mapping is not None or self.change != "canonical":
            return None
        data = "\n".join(values).encode()
        try:
            dated = _decode_dated_lines(data)
        except _BROKEN:
            return None
        lines = data.split(b"\n")
        if not len(dated) == len(lines) == len(values):
            return None
        for index, one in enumerate(dated):
            if one.changed_at is None:
                lines[index] = _stamped(lines[index], times_ms[index])
        return lines

    def convert(self, record: Record) -> Outcome:
        """Make a message of a record."""
        if record.value is None:
            return self._tombstone(record)
        value = text_of(record.value)
        if value == b"null":
            return self._tombstone(record)
        if not value:
            return EMPTY_VALUE
        if not value.isascii():
            try:
                str(value, "utf-8")
            except UnicodeDecodeError as error:
                return Problem("not_utf8", f"byte {error.start + 1} of the value is not UTF-8")
        change = self.change
        if change is None:
            change = self.change = change_format_of(value)
        if change == "debezium":
            return self._debezium(value, record)
        if change == "maxwell":
            return self._maxwell(value, record)
        if change == "connect":
            return self._connect(value, record)
        return self._plain(value, record)

    def _tombstone(self, record: Record) -> Outcome:
        """The end of a key: the second half of a delete, or a delete of its own."""
        key = record.key
        if key is None:
            return TOMBSTONE_WITHOUT_KEY
        if self._deleted.pop(_pair_key(record, key), True) is None:
            return PAIRED_TOMBSTONE
        entry = self._entry(record, None)
        if entry is None:
            return TOMBSTONE_WITHOUT_MAPPING
        if entry.skip:
            return UNMAPPED
        row = entry.key_row(record)
        rows: tuple[Row, ...] = ({},) if row is None else (row, {})
        return entry.delete(rows, record, record.timestamp_ms)

    def _plain(self, value: bytes, record: Record) -> Outcome:
        """A sync message, or a row that the mapping describes."""
        if self._mapping is None:
            return _stamped(value, record.timestamp_ms)
        fields = fields_of(value)
        if fields is None:
            return value  # The decoder says what is wrong with it.
        table = _text(fields, "__table")
        entry = self._entry(record, table)
        if entry is None:
            if _CANONICAL_KEYS & fields.keys():
                return _stamped(value, record.timestamp_ms)
            return self._unmapped(record, table)
        is_delete = _text(fields, "__deleted") == "true" or _text(fields, "__op") == "d"
        time_ms = record.timestamp_ms
        if time_ms is None:
            time_ms = _number(fields, "__source_ts_ms") or _number(fields, "__ts_ms")
        return self._mapped(entry, fields, record, time_ms, is_delete=is_delete)

    def _connect(self, value: bytes, record: Record) -> Outcome:
        try:
            payload = text_of(bytes(_decode_connect(value).payload))
        except _BROKEN as error:
            return Problem("wrong_format", f"not Kafka Connect's schema and payload: {error}")
        if payload == b"null":
            return self._tombstone(record)
        return self._plain(payload, record)

    def _debezium(self, value: bytes, record: Record) -> Outcome:
        try:
            change = _decode_debezium(value)
        except _BROKEN as error:
            return self._other_debezium(value, record, error)
        if change.op not in _ROW_OPS:
            return _OTHER_OPS.get(change.op) or Problem(
                "wrong_format", f"op {change.op[:20]!r} is none of Debezium's"
            )
        is_delete = change.op == "d"
        row = bytes(change.before if is_delete else change.after)
        source = change.source or _Source()
        table = _table_of(source.db, source.schema, source.table or source.collection)
        time_ms = record.timestamp_ms
        if time_ms is None:
            time_ms = source.ts_ms or change.ts_ms
        return self._row(row, table, record, time_ms, is_delete=is_delete)

    def _other_debezium(self, value: bytes, record: Record, error: Exception) -> Outcome:
        """What is no change of a row: one inside of a schema, DDL, a transaction, a heartbeat."""
        fields = fields_of(value) or {}
        if "payload" in fields:
            payload = text_of(bytes(fields["payload"]))
            if payload == b"null":
                return self._tombstone(record)
            if "payload" not in (fields_of(payload) or {"payload"}):
                return self._debezium(payload, record)
        if "ddl" in fields or "tableChanges" in fields:
            return Skipped("ddl")
        if _text(fields, "status") in ("BEGIN", "END") and "id" in fields:
            return Skipped("transaction")
        if fields.keys() == {"ts_ms"}:
            return Skipped("heartbeat")
        return Problem("wrong_format", f"not a change of Debezium's: {error}")

    def _maxwell(self, value: bytes, record: Record) -> Outcome:
        try:
            change = _decode_maxwell(value)
        except _BROKEN as error:
            return Problem("wrong_format", f"not a change of Maxwell's: {error}")
        if change.type.startswith(_MAXWELL_DDL):
            return Skipped("ddl")
        if change.type in _MAXWELL_MARKS:
            return Skipped("bootstrap")
        if change.type not in _MAXWELL_UPSERTS and change.type != "delete":
            return Problem("wrong_format", f"type {change.type[:20]!r} is none of Maxwell's")
        table = _table_of(change.database, None, change.table)
        time_ms = record.timestamp_ms
        if time_ms is None and change.ts is not None:
            time_ms = 1000 * change.ts
        is_delete = change.type == "delete"
        return self._row(bytes(change.data), table, record, time_ms, is_delete=is_delete)

    def _row(
        self,
        row: bytes,
        table: str | None,
        record: Record,
        time_ms: int | None,
        *,
        is_delete: bool,
    ) -> Outcome:
        """A row of a table; one that is a sync message itself needs no mapping."""
        # What is inside of a value is on one line already.
        fields = fields_of(row if row[0] == _OPEN_BRACE else text_of(row)) or {}
        entry = self._entry(record, table)
        if entry is not None:
            return self._mapped(entry, fields, record, time_ms, is_delete=is_delete)
        if "externalObjectId" not in fields:
            return self._unmapped(record, table)
        if is_delete:
            fields["action"] = Raw(b'"DELETE"')
            fields.pop("changedAt", None)  # That of the change before.
            self._remember(record, is_delete=True)
        return _stamped(msgspec.json.encode(fields), time_ms)

    def _mapped(
        self,
        entry: Entry,
        fields: Row,
        record: Record,
        time_ms: int | None,
        *,
        is_delete: bool,
    ) -> Outcome:
        if entry.skip:
            return UNMAPPED
        self._remember(record, is_delete=is_delete)
        if not is_delete:
            return entry.upsert(fields, record, time_ms)
        key_row = entry.key_row(record)
        rows = (fields,) if key_row is None else (fields, {**key_row, **fields}, key_row)
        return entry.delete(rows, record, time_ms)

    def _entry(self, record: Record, table: str | None) -> Entry | None:
        return None if self._mapping is None else self._mapping.entry_for(record.topic, table)

    def _unmapped(self, record: Record, table: str | None) -> Skipped | Problem:
        if self._mapping is not None and self._mapping.skips_unmapped:
            return UNMAPPED
        what = f"table {table}" if table else f"topic {record.topic}" if record.topic else "them"
        return Problem("no_mapping", f"rows, and --map says nothing of {what}")

    def _remember(self, record: Record, *, is_delete: bool) -> None:
        """Keep a delete until its tombstone; a later change of the key begins anew."""
        deleted = self._deleted
        if record.key is None or not (is_delete or deleted):
            return
        key = _pair_key(record, record.key)
        if is_delete:
            deleted[key] = None
            deleted.move_to_end(key)
            if len(deleted) > PAIRS_MAX:
                deleted.popitem(last=False)
        else:
            deleted.pop(key, None)


@lru_cache(maxsize=1024)
def _table_of(database: str | None, schema: str | None, table: str | None) -> str | None:
    """The whole name of a table, of what is known of it."""
    return ".".join([name for name in (database, schema, table) if name]) or None


def _pair_key(record: Record, key: bytes) -> tuple[str | None, int | None, bytes]:
    if len(key) > _KEY_BYTES_MAX:
        key = hashlib.blake2b(key, digest_size=16).digest()
    return record.topic, record.partition, key


def _stamped(value: bytes, time_ms: int | None) -> bytes:
    """A sync message with the time of its record, where it has none of its own."""
    if time_ms is None or not value or value[0] != _OPEN_BRACE:
        return value
    if _CHANGED_AT in value:
        try:
            stamp = _decode_stamped(value).changed_at
        except _BROKEN:
            return value
        if stamp is not None and stamp != b"null":
            return value
        fields = _decode_fields(value)
        fields["changedAt"] = Raw(b"%d" % time_ms)
        return msgspec.json.encode(fields)
    rest = value[1:].lstrip()
    return b'{"changedAt":%d%b%b' % (time_ms, b"" if rest[:1] == b"}" else b",", rest)


def _text(fields: Row, name: str) -> str | None:
    raw = fields.get(name)
    if raw is None:
        return None
    text = bytes(raw)
    if text[0] != _QUOTE:
        return text.decode("utf-8", "replace")
    try:
        return _decode_text(text)
    except _BROKEN:
        return None


def _number(fields: Row, name: str) -> int | None:
    text = _text(fields, name)
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
