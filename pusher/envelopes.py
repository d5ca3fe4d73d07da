"""What tools write around the records of a topic: which tool it was, and the records within.

No I/O. A file format is told from one record of it, and a line is unwrapped without the others.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from pusher.model import Problem
from pusher.records import Record, epoch_ms_of

__all__ = [
    "FORMATS",
    "FORMAT_NAMES",
    "Format",
    "Kcat",
    "Place",
    "Unwrapper",
    "closest_format",
    "format_of",
    "key_content",
    "of_kcat",
]

Format = Literal[
    "ndjson",
    "kcat",
    "rpk",
    "confluent",
    "aiven",
    "kafkactl",
    "akhq",
    "rest-proxy",
    "lambda",
    "console-consumer",
]

FORMATS: tuple[Format, ...] = get_args(Format)

FORMAT_NAMES: Mapping[str, str] = {
    "ndjson": "JSON values, nothing around them",
    "kcat": "kcat -J",
    "rpk": "rpk topic consume",
    "confluent": "files of a Confluent sink with JsonFormat",
    "aiven": "files of an Aiven sink, jsonl",
    "kafkactl": "kafkactl or kafka-ui",
    "akhq": "AKHQ",
    "rest-proxy": "Confluent REST proxy",
    "lambda": "AWS Lambda events",
    "console-consumer": "kafka-console-consumer with columns",
}

Fields = Mapping[str, Raw]

_KCAT_NEEDED = frozenset({"topic", "partition", "offset", "payload"})
_REST_PROXY_KEYS = frozenset({"topic", "key", "value", "partition", "offset"})
_KAFKACTL_NEEDED = frozenset({"Partition", "Offset", "Value"})
_RPK_NEEDED = frozenset({"topic", "partition", "offset", "timestamp"})
_RPK_KEYS = _RPK_NEEDED | {"key", "value", "value_size", "headers"}
_AKHQ_NEEDED = frozenset({"partition", "offset", "timestamp", "headers", "key", "value"})
_AIVEN_KEYS = frozenset({"key", "value", "offset", "timestamp", "headers"})
_NEEDED: Mapping[Format, frozenset[str]] = {
    "kcat": _KCAT_NEEDED | {"tstype", "broker"},
    "rpk": _RPK_NEEDED | {"value"},
    "kafkactl": _KAFKACTL_NEEDED,
    "akhq": _AKHQ_NEEDED,
    "rest-proxy": _REST_PROXY_KEYS,
    "aiven": frozenset({"value", "offset", "key"}),
    "lambda": frozenset({"eventSource", "records"}),
}
_EVENT_SOURCES = (b'"aws:kafka"', b'"SelfManagedKafka"')

COLUMNS = re.compile(
    rb"(?:(?:CreateTime:(-?\d+)|LogAppendTime:(-?\d+)|NO_TIMESTAMP|Partition:(\d+)|Offset:(\d+)"
    rb"|Delivery:\d+|Epoch:\d+)(?:\t|$))+"
)

Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class Place(NamedTuple):
    """What the name of a file says of the records in it."""

    topic: str
    partition: int
    offset: int


class Kcat(msgspec.Struct, gc=False):
    """A line of kcat -J."""

    topic: str
    partition: int
    offset: int
    payload: str | None
    key: Raw = Raw(b"null")
    ts: int | None = None


class _LooseKcat(Kcat):
    """With a decoder of a schema registry, kcat writes values as objects."""

    payload: Raw  # type: ignore[assignment]


class _Rpk(msgspec.Struct, gc=False):
    topic: str
    partition: int
    offset: int
    timestamp: Integer | None = None
    key: Raw = Raw(b"null")
    value: Raw = Raw(b"null")
    value_size: int | UnsetType = UNSET


class _RestProxy(msgspec.Struct, gc=False):
    topic: str
    partition: int
    offset: int
    value: Raw
    key: Raw = Raw(b"null")


class _Kafkactl(msgspec.Struct, gc=False, rename="pascal"):
    partition: int
    offset: int
    value: Raw
    key: Raw = Raw(b"null")
    timestamp: int | str | None = None


class _Akhq(msgspec.Struct, gc=False):
    partition: int
    offset: int
    value: Raw
    key: Raw = Raw(b"null")
    timestamp: int | str | None = None


class _Aiven(msgspec.Struct, gc=False):
    value: Raw
    key: Raw = Raw(b"null")
    offset: int | None = None
    timestamp: int | str | None = None


class _LambdaRecord(msgspec.Struct, gc=False):
    topic: str
    partition: int
    offset: int
    timestamp: int | None = None
    key: str | None = None
    value: str | None = None


class _Lambda(msgspec.Struct):
    records: dict[str, list[_LambdaRecord]]


_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_kcat = msgspec.json.Decoder(Kcat).decode
_decode_kcat_lines = msgspec.json.Decoder(Kcat).decode_lines
_decode_loose_kcat = msgspec.json.Decoder(_LooseKcat).decode
_decode_rpk = msgspec.json.Decoder(_Rpk).decode
_decode_rest_proxy = msgspec.json.Decoder(_RestProxy).decode
_decode_kafkactl = msgspec.json.Decoder(_Kafkactl).decode
_decode_akhq = msgspec.json.Decoder(_Akhq).decode
_decode_aiven = msgspec.json.Decoder(_Aiven).decode
_decode_lambda = msgspec.json.Decoder(_Lambda).decode

Unwrapped = Record | Problem | list[Record]
"""Of one line: a record; all that a Lambda event holds; or why there is none."""


def format_of(line: bytes) -> Format | None:
    """The tool that a record was written by; None where it shows the marks of none."""
    if COLUMNS.match(line):
        return "console-consumer"
    fields = _fields(line)
    if fields is None:
        return "confluent" if _holds_json(line) else None
    return next((name for name, has_marks in _MARKS if has_marks(fields)), None)


def _is_aiven(fields: Fields) -> bool:
    if not {"value", "offset"} <= fields.keys() <= _AIVEN_KEYS:
        return False
    time = bytes(fields.get("timestamp", Raw(b"null")))
    is_time = time[:1] == b'"' and epoch_ms_of(time[1:-1].decode("utf-8", "replace")) is not None
    return _is_integer(fields["offset"]) and (is_time or time == b"null")


_MARKS: tuple[tuple[Format, Callable[[Fields], bool]], ...] = (
    ("kcat", lambda f: f.keys() >= _KCAT_NEEDED and bool(f.keys() & {"tstype", "broker"})),
    ("lambda", lambda f: "records" in f and bytes(f.get("eventSource", b"")) in _EVENT_SOURCES),
    ("rpk", lambda f: _RPK_NEEDED <= f.keys() <= _RPK_KEYS and _is_integer(f["timestamp"])),
    ("rest-proxy", lambda f: f.keys() == _REST_PROXY_KEYS and _is_integer(f["offset"])),
    ("kafkactl", lambda f: f.keys() >= _KAFKACTL_NEEDED),
    (
        "akhq",
        lambda f: f.keys() >= _AKHQ_NEEDED and "topic" not in f and _is_integer(f["offset"]),
    ),
    ("aiven", _is_aiven),
)
"""In the order in which they are tried: the earlier ones are not met by chance."""


def closest_format(line: bytes) -> tuple[Format, list[str]]:
    """The format that a record comes closest to, and the fields that it lacks for that."""
    keys = (_fields(line) or {}).keys()
    best, share = "ndjson", 0.0
    for name, needed in _NEEDED.items():
        found = len(needed & keys) / len(needed)
        if found > share and len(needed & keys) > 1:
            best, share = name, found
    missing = sorted(_NEEDED[best] - keys) if best in _NEEDED else []  # type: ignore[index]
    return best, missing  # type: ignore[return-value]


def _fields(line: bytes) -> dict[str, Raw] | None:
    try:
        return _decode_fields(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _is_integer(value: Raw) -> bool:
    return bytes(value).lstrip(b"-").isdigit()


def _holds_json(line: bytes) -> bool:
    """Tell a JSON string that holds a JSON object, as StringConverter makes it."""
    try:
        text = _decode_text(line)
    except (msgspec.DecodeError, UnicodeError):
        return False
    return _fields(text.encode()) is not None


class Unwrapper:
    """Takes records out of what a tool has written around them.

    Args:
        file_format: which tool.
    """

    def __init__(self, file_format: Format) -> None:
        self.file_format = file_format
        self._unwrap: Callable[[bytes, Place | None], Unwrapped] = {
            "ndjson": _value_only,
            "confluent": _value_only,
            "kcat": _kcat,
            "rpk": _rpk,
            "rest-proxy": self._rest_proxy,
            "kafkactl": _kafkactl,
            "akhq": _akhq,
            "aiven": self._aiven,
            "lambda": _lambda,
            "console-consumer": _console,
        }[file_format]
        self._is_base64 = False
        """A value that is base64 was seen, so that keys are, too."""

    def __repr__(self) -> str:
        return f"<Unwrapper of {self.file_format}>"

    @property
    def remembers(self) -> bool:
        """What comes depends on what came before."""
        return self.file_format in ("rest-proxy", "aiven") and not self._is_base64

    def all(self, data: bytes, line_count: int) -> list[Kcat] | None:
        """What so many lines of kcat hold, in one go; None where some need a closer look."""
        if self.file_format != "kcat":
            return None
        try:
            read = _decode_kcat_lines(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return None
        return read if len(read) == line_count else None

    def one(self, line: bytes, place: Place | None = None) -> Unwrapped:
        """The record of one line.

        Args:
            line: without its end, and not blank.
            place: what the name of its file says.
        """
        try:
            return self._unwrap(line, place)
        except msgspec.ValidationError as error:
            what = FORMAT_NAMES[self.file_format]
            return Problem("wrong_format", f"not a record as of {what}: {error}")
        except RecursionError:
            return Problem("not_json", "nested too deeply")
        except UnicodeDecodeError as error:
            return Problem("not_utf8", f"byte {error.start + 1} is not UTF-8")
        except msgspec.DecodeError as error:
            return Problem("not_json", str(error))
        except binascii.Error as error:
            return Problem("wrong_format", f"not base64: {error}")

    def _rest_proxy(self, line: bytes, _place: Place | None) -> Unwrapped:
        one = _decode_rest_proxy(line)
        key, value = self._contents(one.key, one.value)
        return Record(value, key, one.topic, one.partition, one.offset)

    def _aiven(self, line: bytes, place: Place | None) -> Unwrapped:
        one = _decode_aiven(line)
        key, value = self._contents(one.key, one.value)
        topic, partition = (place.topic, place.partition) if place else (None, None)
        return Record(value, key, topic, partition, one.offset, _time_ms(one.timestamp))

    def _contents(self, raw_key: Raw, raw_value: Raw) -> tuple[bytes | None, bytes | None]:
        """Key and value, which may be base64: text that is no JSON could be no message anyway."""
        key, value = key_content(raw_key), _content(raw_value)
        if value is not None and value[:2] in (b"ey", b"In", b"bn"):  # {" and its like in base64.
            decoded = base64.b64decode(value, validate=True)
            self._is_base64 = True
            value = None if decoded == b"null" else decoded
        if self._is_base64 and key is not None and bytes(raw_key)[:1] == b'"':
            try:
                key = base64.b64decode(key, validate=True)
            except binascii.Error:
                return key, value
        return key, value


def _content(raw: Raw | bytes) -> bytes | None:
    """What a JSON value stands for: the text of a string, and the JSON of anything else."""
    value = bytes(raw)
    if value[:1] == b'"':
        return _decode_text(value).encode()
    return None if value == b"null" else value


def key_content(raw: Raw | bytes) -> bytes | None:
    """What a key in JSON stands for. It need not be UTF-8: kcat writes its bytes as they are."""
    try:
        return _content(raw)
    except (UnicodeError, msgspec.DecodeError):
        return bytes(raw)[1:-1]


def _time_ms(value: int | str | None) -> int | None:
    if isinstance(value, str):
        value = epoch_ms_of(value)
    return value if value is not None and value >= 0 else None


def _value_only(line: bytes, place: Place | None) -> Unwrapped:
    return Record(line) if place is None else Record(line, None, place.topic, place.partition)


def of_kcat(one: Kcat) -> Record:
    """The record in a line."""
    payload = one.payload
    return Record(
        None if payload is None else payload.encode(),
        key_content(one.key),
        one.topic,
        one.partition,
        one.offset,
        one.ts if one.ts is not None and one.ts >= 0 else None,
    )


def _kcat(line: bytes, _place: Place | None) -> Unwrapped:
    try:
        return of_kcat(_decode_kcat(line))
    except msgspec.ValidationError:
        one = _decode_loose_kcat(line)
    fields = _decode_fields(line)
    for what in ("payload_error", "key_error"):
        if what in fields:
            return Problem("wrong_format", f"kcat: {what}: {_shown(fields[what])}")
    value = _content(one.payload)
    return Record(
        value, key_content(one.key), one.topic, one.partition, one.offset, _time_ms(one.ts)
    )


def _rpk(line: bytes, _place: Place | None) -> Unwrapped:
    one = _decode_rpk(line)
    value = _content(one.value)
    if value is None and one.value_size is not UNSET and one.value_size:
        return Problem("wrong_format", "rpk: no value, as it was asked for --meta-only")
    return Record(
        value, key_content(one.key), one.topic, one.partition, one.offset, _time_ms(one.timestamp)
    )


def _of_a_place(one: _Kafkactl | _Akhq, place: Place | None) -> Record:
    """These name no topic themselves."""
    topic = place.topic if place else None
    return Record(
        _content(one.value),
        key_content(one.key),
        topic,
        one.partition,
        one.offset,
        _time_ms(one.timestamp),
    )


def _kafkactl(line: bytes, place: Place | None) -> Unwrapped:
    return _of_a_place(_decode_kafkactl(line), place)


def _akhq(line: bytes, place: Place | None) -> Unwrapped:
    return _of_a_place(_decode_akhq(line), place)


def _lambda(line: bytes, _place: Place | None) -> Unwrapped:
    return [
        Record(
            None if one.value is None else base64.b64decode(one.value, validate=True),
            None if one.key is None else base64.b64decode(one.key, validate=True),
            one.topic,
            one.partition,
            one.offset,
            _time_ms(one.timestamp),
        )
        for records in _decode_lambda(line).records.values()
        for one in records
    ]


def _console(line: bytes, _place: Place | None) -> Unwrapped:
    match = COLUMNS.match(line)
    if match is None:
        return Problem("wrong_format", "not a line of kafka-console-consumer with its columns")
    created, appended, partition, offset = match.groups()
    # Of headers, key and value the value is always there, and its JSON holds no bare tab.
    rest = line[match.end() :].split(b"\t")
    value, key = rest[-1], rest[-2] if len(rest) > 1 else None
    if len(rest) == 2 and key == b"NO_HEADERS":
        key = None
    time = created or appended
    return Record(
        None if value == b"null" else value,
        None if key == b"null" else key,
        None,
        None if partition is None else int(partition),
        None if offset is None else int(offset),
        _time_ms(int(time)) if time else None,
    )


def _shown(raw: Any) -> str:
    return bytes(raw)[:120].decode("utf-8", "replace")
