"""Chunks to try the compiled scanner with, and a judge: it takes them as the decoder does.

`python -m proof.scanning LIBRARY` tries one build of it for a while, with chunks that are nearly
right; a build with sanitizers also tells of any byte that it should not touch.
"""

from __future__ import annotations

import gc
import json
import mmap
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import orjson
from msgspec import UNSET

from pusher.decoding import Decoder
from pusher.model import (
    OBJECT_TYPES,
    Chunk,
    Group,
    Groups,
    Lane,
    ObjectType,
    SyncMessage,
    ids_text_of,
)
from pusher.plain import OpenLanes as PlainLanes
from pusher.protocol import body_head, encode_piece

__all__ = [
    "FIRST_ORIGIN",
    "NOTHING",
    "Defaults",
    "Scan",
    "canonical_line",
    "chunk",
    "chunk_of",
    "compare",
    "mutated",
    "scan_of",
    "wild_line",
]

FIRST_ORIGIN = 5 << 20
READ_AT_MS = 1_700_000_000_000
CHANGED_AT_MAX = 2**63 - 1
ALL = 1 << 40

Scan = Callable[
    [bytes, int, str | None, str | None, int], tuple[Groups, int, int, int, bool] | None
]


class Defaults(NamedTuple):
    """What a line without a store, a type or a time gets; below 0, no time is filled in."""

    store: str | None = None
    object_type: ObjectType | None = None
    time_ms: int = READ_AT_MS


NOTHING = Defaults()


# The judge


def chunk_of(data: bytes) -> Chunk:
    """The chunk that a source makes of whole lines."""
    line_count = data.count(b"\n") + (not data.endswith(b"\n"))
    return Chunk(data, "in.ndjson", 0, 1, line_count, FIRST_ORIGIN >> 20)


def compare(
    scan: Scan, data: bytes, defaults: Defaults = NOTHING, rng: random.Random | None = None
) -> bool:
    """Tell whether the scanner takes the chunk. With `rng`, its messages are taken in parts.

    Raises:
        AssertionError: it takes it for something else than the decoder does.
    """
    scanned = scan(data, FIRST_ORIGIN, *defaults)
    if scanned is None:
        return False
    groups, count, undated, earliest_ms, has_null = scanned
    decoded = Decoder(default_store=defaults.store, default_type=defaults.object_type).decode(
        chunk_of(data), defaults.time_ms
    )
    assert not decoded.rejections, (data, decoded.rejections)
    messages, indexes = decoded.messages, list(decoded.indexes)
    assert count == len(messages), data
    lines = [line for line in data.split(b"\n") if line.strip(b" \t\r")]
    facts = [
        _facts_of(line, message, defaults) for line, message in zip(lines, messages, strict=True)
    ]
    assert has_null == any(fact.has_null for fact in facts), data
    times_ms = [fact.time_ms for fact in facts if fact.time_ms is not None]
    assert earliest_ms == min(times_ms, default=CHANGED_AT_MAX), data
    assert undated == count - len(times_ms), data
    assert not undated or defaults.time_ms >= 0, data
    lanes: dict[tuple[str, str], list[tuple[SyncMessage, int]]] = {}
    for message, index in zip(messages, indexes, strict=True):
        lane: tuple[str, str] = (message.store_id, message.object_type)  # type: ignore[assignment]
        message.store_id = message.object_type = UNSET
        lanes.setdefault(lane, []).append((message, FIRST_ORIGIN + index))
    assert [(group.store_id, group.object_type) for group in groups] == list(lanes), data
    for group, members in zip(groups, lanes.values(), strict=True):
        _compare_group(group, members, rng, data)
    return True


def _compare_group(
    group: Group, members: list[tuple[SyncMessage, int]], rng: random.Random | None, data: bytes
) -> None:
    while members:
        assert len(group) == len(members), data
        most, most_bytes, at_least_one = ALL, ALL, False
        if rng is not None:
            most, most_bytes = rng.choice((0, 1, 2, 200)), rng.choice((0, 150, 400, ALL))
            at_least_one = rng.random() < 0.5
        fitting = _fitting([one for one, _ in members], most, most_bytes, at_least_one=at_least_one)
        part, members = members[:fitting], members[fitting:]
        taken = group.take(most, most_bytes, at_least_one)
        if not part:
            assert taken is None, data
            if rng is not None and rng.random() < 0.2:
                assert group.drop() == len(members), data
                break
            continue
        assert taken is not None, data
        piece, ids, origins = taken
        messages = [message for message, _ in part]
        assert piece == bytes(encode_piece(messages)), data
        assert ids == ids_text_of(messages), data
        assert origins == [origin for _, origin in part], data
    assert len(group) == 0, data
    assert group.take(ALL, ALL, True) is None, data


def _fitting(
    messages: Sequence[SyncMessage], most: int, most_bytes: int, *, at_least_one: bool
) -> int:
    """So many of the messages fit."""
    if most >= len(messages) and most_bytes == ALL:
        return len(messages)
    count = size = 0
    for message in messages[: max(most, 0)]:
        size += len(encode_piece([message])) + (count > 0)
        if size > most_bytes and not (at_least_one and count == 0):
            break
        count += 1
    return count


class _Object(list[tuple[str, Any]]):
    """The fields of a JSON object, with any that are named twice."""


def _not_json(text: str) -> None:
    raise AssertionError(f"{text} is not JSON")


def _number(digits: str) -> int | str:
    return int(digits) if len(digits) < 40 else digits


_decode_strictly = json.JSONDecoder(
    object_pairs_hook=_Object, parse_int=_number, parse_constant=_not_json
).decode


class _Facts(NamedTuple):
    """What another decoder finds in a line."""

    time_ms: int | None
    has_null: bool
    """A property is null."""


def _facts_of(line: bytes, message: SyncMessage, defaults: Defaults) -> _Facts:
    """Check a message by what another decoder finds in its line."""
    pairs = _decode_strictly(str(line, "utf-8").strip(" \t\r"))
    assert type(pairs) is _Object, line
    fields = dict(pairs)
    for name in message.__struct_encode_fields__:
        assert sum(name == other for other, _ in pairs) <= 1, (line, name)
    one_id = fields["externalObjectId"]
    store = fields.get("storeId", defaults.store)
    object_type = fields.get("objectType", defaults.object_type)
    assert type(one_id) in {str, int}, line
    assert type(store) in {str, int}, line
    assert 1 <= len(str(one_id)) <= 100, line
    assert str(one_id).isascii(), line
    assert object_type in OBJECT_TYPES, line
    assert (message.external_object_id, message.store_id) == (str(one_id), str(store)), line
    assert (message.object_type, message.action) == (object_type, fields.get("action", "UPSERT"))
    changed_at = fields.get("changedAt")
    assert type(changed_at) in {str, int} or "changedAt" not in fields, line
    time_ms = None if changed_at is None else int(changed_at)
    assert message.changed_at == (defaults.time_ms if time_ms is None else time_ms), line
    assert 0 <= message.changed_at <= CHANGED_AT_MAX, line
    for name, raw in (("properties", message.properties), ("associations", message.associations)):
        value = fields.get(name, _Object())
        assert type(value) is _Object, line
        assert _decode_strictly(str(bytes(raw), "utf-8")) == value, line
    json.dumps(pairs, ensure_ascii=False).encode()  # Fails where half a surrogate pair is alone.
    return _Facts(time_ms, _has_null(fields.get("properties")))


def _has_null(value: object) -> bool:
    if type(value) is _Object:
        return any(one is None or _has_null(one) for _, one in value)
    return isinstance(value, list) and any(map(_has_null, value))


# Chunks

_BLANKS = ("", "", "", "", "", "", " ", "\t", "\r", " \t ")
_TEXTS = (
    *(
        "a",
        "value",
        "null",
        ": null",
        " ",
        "/",
        "\x7f",
        "x" * 7,
        "x" * 8,
        "x" * 40,
        "{",
        "[1]",
        ",",
    ),
    *("é", "\u20ac", "\U0001f600", "\uffff", "\U0010ffff", "\u2028", "\x80"),
    *('\\"', "\\\\", "\\/", "\\b", "\\f", "\\n", "\\r", "\\t", "\\u0000", "\\u00e9", "\\uFFff"),
    *("\\ud83d\\ude00", "\\uD800\\uDC00", "\\udbff\\udfff"),
)
_NUMBERS = (
    *("0", "-0", "7", "-12", "1.5", "0.25", "1e3", "1E+3", "2.5e-10", "1e999", "9007199254740993"),
    "1" * 50,
)
_IDS = (
    *('"1"', '"42"', '"a"', '"A-b_c.d~"', '"with space"', '"/"', '"\x7f"', "1", "42", "0", "-7"),
    *(f'"{"x" * 99}"', f'"{"y" * 100}"', "9" * 18),
)
_STORES = (
    *('"s"', '"s"', '"t"', '"store-1"', '"magasin-é"', '"店"', '"\U0001f600"', '"5"', "5", "-1"),
    f'"{"x" * 300}"',
)
_TIMES = (
    *("0", "9", "1600000000", "1600000000000", "1700000000001", str(CHANGED_AT_MAX)),
    *('"0"', '"1600000000000"', f'"{CHANGED_AT_MAX}"'),
)
_ACTIONS = ("UPSERT", "UPSERT", "DELETE")
_ODD_FIELDS = (
    *('"externalObjectId":07', '"externalObjectId":""', '"externalObjectId":"é"'),
    *(
        '"externalObjectId":"\\u0031"',
        '"externalObjectId":null',
        f'"externalObjectId":"{"x" * 101}"',
    ),
    *(
        '"changedAt":"1e3"',
        '"changedAt":"01"',
        '"changedAt":"1',
        '"changedAt":01',
        '"changedAt":-1',
        '"changedAt":1.0',
    ),
    *('"changedAt":1e3', '"changedAt":-0', '"changedAt":null', f'"changedAt":{2**63}'),
    *(f'"changedAt":{2**64 + 5}', '"changedAt":99999999999999999999', '"changedAt":true'),
    *(
        '"storeId":""',
        '"storeId":1e3',
        '"storeId":-0',
        '"storeId":null',
        '"storeId":"\\u0073"',
        '"store\\u0049d":"t"',
    ),
    *('"objectType":"deal"', '"objectType":"DEALS"', '"objectType":null', '"objectType":1'),
    *('"action":"upsert"', '"action":null', '"action":"INSERT"', '"action":"DELETED"'),
    *('"properties":null', '"properties":[]', '"properties":"x"', '"properties":{"a":1,}'),
    *('"associations":null', '"associations":[ ]', '"associations":0', '"associations":{"a"}'),
    *('"properties":{"a":01}', '"properties":{"a":+1}', '"properties":{"a":.5}'),
    *('"properties":{"a":1.}', '"properties":{"a":1e}', '"properties":{"a":-}'),
    *('"properties":{"a":NaN}', '"properties":{"a":tru}', '"properties":{"a":nulll}'),
    *('"properties":{"a":"\\ud800"}', '"properties":{"a":"\\udc00\\ud800"}'),
    *('"properties":{"a":"\\x"}', '"properties":{"a":"\\u12g4"}', '"properties":{"a":"\x01"}'),
    *('"properties":{a:1}', "\"properties\":{'a':1}", '"properties":{"a":1]', '"other":[1}'),
    *('"properties":{"a":' + "[" * 62 + "]" * 62 + "}", '"other":' + "[" * 64 + "]" * 64),
)


def _text(rng: random.Random) -> str:
    return "".join([rng.choice(_TEXTS) for _ in range(rng.choice((0, 1, 1, 1, 2, 3)))])


def _value(rng: random.Random, depth: int) -> str:
    kind = rng.randrange(8 if depth else 5)
    if kind < 2:
        return f'"{_text(rng)}"'
    if kind == 2:
        return rng.choice(_NUMBERS)
    if kind < 5:
        return rng.choice(("true", "false", "null"))
    if kind == 5:
        items = [_value(rng, depth - 1) for _ in range(rng.randrange(3))]
        return _joined(rng, "[", items, "]")
    return _object(rng, depth - 1)


def _object(rng: random.Random, depth: int) -> str:
    return _joined(
        rng,
        "{",
        [_field(rng, _text(rng), _value(rng, depth)) for _ in range(rng.randrange(4))],
        "}",
    )


def _joined(rng: random.Random, opening: str, parts: list[str], closing: str) -> str:
    inside = ",".join([f"{rng.choice(_BLANKS)}{part}{rng.choice(_BLANKS)}" for part in parts])
    return f"{opening}{inside or rng.choice(_BLANKS)}{closing}"


def _field(rng: random.Random, name: str, value: str) -> str:
    return f'"{name}"{rng.choice(_BLANKS)}:{rng.choice(_BLANKS)}{value}'


def _fields(rng: random.Random, *, may_lack_time: bool = False) -> list[str]:
    fields = [
        _field(rng, "externalObjectId", rng.choice(_IDS)),
        _field(rng, "storeId", rng.choice(_STORES)),
        _field(rng, "objectType", f'"{rng.choice(OBJECT_TYPES)}"'),
    ]
    if rng.random() < 0.9 or not may_lack_time:
        fields.append(_field(rng, "changedAt", rng.choice(_TIMES)))
    if rng.random() < 0.6:
        fields.append(_field(rng, "action", f'"{rng.choice(_ACTIONS)}"'))
    if rng.random() < 0.8:
        fields.append(_field(rng, "properties", _object(rng, 3)))
    if rng.random() < 0.3:
        fields.append(_field(rng, "associations", _object(rng, 1)))
    if rng.random() < 0.2:
        fields.append(_field(rng, rng.choice(("other", "", "storeid", "ID")), _value(rng, 2)))
    rng.shuffle(fields)
    return fields


def canonical_line(rng: random.Random) -> bytes:
    """A line that the scanner takes, without its end."""
    blank = rng.choice(_BLANKS)
    return f"{blank}{_joined(rng, '{', _fields(rng), '}')}{rng.choice(_BLANKS)}".encode()


def wild_line(rng: random.Random) -> bytes:
    """A line with something odd in it, most times: a field too much, too few, or another one."""
    fields = _fields(rng, may_lack_time=True)
    harm = rng.randrange(5)
    if harm == 0:
        del fields[rng.randrange(len(fields))]
    elif harm == 1:
        fields.append(rng.choice(fields))
    elif harm == 2:
        fields.append(rng.choice(_ODD_FIELDS))
    else:
        odd = rng.choice(_ODD_FIELDS)
        name = odd.partition(":")[0]
        fields = [field for field in fields if not field.startswith(name)] + [odd]
        rng.shuffle(fields)
    return _joined(rng, "{", fields, "}").encode()


def chunk(rng: random.Random, line: Callable[[random.Random], bytes]) -> bytes:
    """A few lines of a kind, with blank ones between them now and then."""
    lines = []
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        if rng.random() < 0.1:
            lines.append(rng.choice((b"", b" ", b"\r", b"\t \r")))
        lines.append(line(rng))
    return b"\n".join(lines) + rng.choice((b"\n", b"\n", b"", b"\r\n", b"\n\n"))


_FRAGMENTS = (
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r", b" ", b"\t", b"\0", b"\x1f"),
    *(b"null", b"true", b"false", b"nul", b"0", b"-", b".", b"e", b"1e5", b'""', b"{}", b"[]"),
    *(b"\\u", b"\\ud800", b"\\udc00", b"\\u0000", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80"),
    *("é".encode(), "\U0001f600".encode(), b"\xf4\x90\x80\x80", b"\xe0\x80\x80", b"\xef\xbb\xbf"),
    *(b'"a":null,', b'"a":"b"', b"},{", b"}\n{", b'{"a":', b"/**/", b"\x0b", b"\xc2\xa0", b"\x80"),
    *(b'"storeId":"t",', b'"objectType":"DEAL",', b'"action":"DELETE",', b'"properties":{},'),
    *(b'"externalObjectId":"9",', b'"changedAt":5,', b"'", b"+", b"00", b"9" * 12, b"x" * 60),
)


def mutated(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """The chunk after a few harms, some of them with parts of others."""
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        at = rng.randrange(len(data) + 1)
        harm = rng.randrange(12)
        if harm < 2:
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif harm > 9:
            data = data[:at] + bytes([rng.randrange(0x20, 0x80)]) + data[at + 1 :]
        elif harm < 4:
            data = data[:at] + rng.choice(_FRAGMENTS) + data[at:]
        elif harm < 6:
            data = data[:at] + data[at + rng.choice((1, 1, 2, 5, 20)) :]
        elif harm == 6:
            data = data[:at]
        elif harm == 7:
            other = rng.choice(others)
            begin = rng.randrange(len(other) + 1)
            data = data[:at] + other[begin : begin + rng.choice((1, 4, 16, 1_000))] + data[at:]
        elif harm == 8:
            data = data[:at] + rng.choice(_FRAGMENTS) + data[at + rng.choice((1, 1, 2, 4)) :]
        else:
            end = at + rng.choice((1, 3, 9, 30))
            data = data[:end] + data[at:end] + data[end:]
        data = data or b"\n"
    return data


# The campaign


def module_of(library: Path) -> ModuleType:
    """The scanner of another build, and its lanes."""
    name = "pusher._scanner"
    spec = spec_from_file_location(name, library, loader=ExtensionFileLoader(name, str(library)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scan_of(library: Path) -> Scan:
    """The scanner of another build."""
    scan: Scan = module_of(library).scan
    return scan


class _Lanes:
    """The lanes of another build, and plain ones that get the same messages."""

    def __init__(self, module: ModuleType, rng: random.Random) -> None:
        self._scan, self._rng = module.scan, rng
        limits = rng.choice((1, 2, 5, 200)), rng.choice((200, 900, 4 << 20)), rng.random() < 0.8
        self._fast = module.OpenLanes(_name_lane, *limits)
        self._plain = PlainLanes(_name_lane, *limits)
        self._keeps_order = limits[2]
        self._flying: list[tuple[Any, bytes]] = []

    def add(self, data: bytes, defaults: Defaults) -> None:
        """Let a chunk that is taken go through both, and compare the bodies that come out."""
        rng, fast = self._rng, self._fast
        scanned, again = (self._scan(data, FIRST_ORIGIN, *defaults) for _ in range(2))
        if scanned is None:
            return
        if rng.random() < 0.2:  # In pieces, as where messages wait.
            for group in scanned[0]:
                lane = fast.lane(group.store_id, group.object_type)
                piece, ids, origins = group.take(rng.choice((1, 2)), ALL, True)
                fast.extend(lane, piece, ids if self._keeps_order else "", origins, 0.0)
                self._follow(lane, again[0])
        while (lane := fast.add(scanned[0], 0.0)) is not None:
            self._follow(lane, again[0])
            self._take(lane)
        for lane in fast.open():
            self._follow(lane, again[0])
            if rng.random() < 0.3:
                self._take(lane)
            elif rng.random() < 0.1:
                fast.copy_out([FIRST_ORIGIN >> 20])
            elif rng.random() < 0.1:
                fast.clear(lane)
                self._plain.clear(self._plain.lane(*lane.name))
        while self._flying and rng.random() < 0.7:
            fast.land(*self._flying.pop(rng.randrange(len(self._flying))))
        for lane in fast.all():
            if lane.is_idle:
                fast.forget(lane)

    def _follow(self, lane: Any, again: Groups) -> None:
        """Let as many messages of the same group into the plain lane."""
        other = self._plain.lane(*lane.name)
        if missing := lane.count - other.count:
            group = next(one for one in again if (one.store_id, one.object_type) == lane.name)
            taken = group.take(missing, ALL, True)
            assert taken is not None
            self._plain.extend(other, *taken, 0.0)
        assert (lane.count, lane.body_bytes) == (other.count, other.body_bytes)
        assert self._fast.body(lane) == self._plain.body(other)

    def _take(self, lane: Any) -> None:
        other = self._plain.lane(*lane.name)
        meets = self._fast.meets_flying(lane)
        flying = {marks for of, marks in self._flying if of is lane}
        assert flying or not meets
        body, ids, origins, marks = self._fast.take(lane)
        assert (body, ids) == (self._plain.body(other), self._plain.ids(other))
        assert origins == self._plain.origins(other)
        self._plain.clear(other)
        if self._keeps_order:
            self._flying.append((lane, marks))


def _name_lane(store_id: str, object_type: ObjectType) -> tuple[Lane, bytes]:
    lane = Lane(store_id, object_type)
    return lane, body_head(lane)


_DEFAULTS = (
    *(NOTHING, NOTHING, Defaults(time_ms=-1), Defaults(time_ms=1), Defaults("s", None)),
    *(Defaults("é", "DEAL"), Defaults("5", "DEAL", CHANGED_AT_MAX - 9)),
)


def _tried(rng: random.Random) -> Iterator[bytes]:
    """Chunks without end: harmed ones, whole ones, and all beginnings of one now and then."""
    pool = [chunk(rng, canonical_line) for _ in range(200)]
    while True:
        pool[rng.randrange(len(pool))] = fresh = chunk(
            rng, canonical_line if rng.random() < 0.8 else wild_line
        )
        yield fresh
        for _ in range(100):
            yield mutated(rng, rng.choice(pool), pool)
        if rng.random() < 0.02:
            yield from (fresh[:end] for end in range(len(fresh)))


def _starve(scan: Scan, rng: random.Random) -> int:
    """Let one allocation after the other fail; say how many did. Without `_testcapi`, none does."""
    try:
        api = import_module("_testcapi")
    except ImportError:
        return 0
    lanes = 40
    data = b"\n".join(
        b'{"externalObjectId":"%d","objectType":"DEAL","storeId":"lane %d"}'
        % (number, number % lanes)
        for number in range(lanes * 8)
    )
    failures, places = 0, list(range(lanes))
    for nth in range(lanes * 20):
        groups: Groups | tuple[()] = ()
        are_taken = [False] * lanes
        try:
            api.set_nomemory(nth, nth + rng.choice((1, 2)))
            scanned = scan(data, 0, "s", "DEAL", 1)
            if scanned is not None:
                groups = scanned[0]
                for group, place in zip(groups, places, strict=True):
                    group.take(3, ALL, False)
                    are_taken[place] = True
        except MemoryError:
            failures += 1
        finally:
            api.remove_mem_hooks()
        for group, is_taken in zip(groups, are_taken, strict=bool(groups)):
            assert len(group) == (5 if is_taken else 8), "a take that fails takes nothing"
    assert 4 * lanes < failures < 20 * lanes, "scans and takes were starved, and some got through"
    assert compare(scan, data)
    return failures


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main(library: str, seconds: str, seed: str, last: str) -> None:
    """Try for so long; print what was done as JSON. `last` keeps the chunk that was tried last."""
    rng, module = random.Random(int(seed)), module_of(Path(library))
    scan: Scan = module.scan
    lanes = _Lanes(module, rng)
    starved = _starve(scan, rng)
    executions = taken = 0
    warm_bytes = 0
    end_s = time.monotonic() + float(seconds)
    with Path(last).open("wb+") as file:
        file.truncate(1 << 16)
        with mmap.mmap(file.fileno(), 1 << 16) as kept:
            for data in _tried(rng):
                seen = data[: (1 << 16) - 8]
                kept[: 8 + len(seen)] = len(data).to_bytes(8, "little") + seen
                defaults = rng.choice(_DEFAULTS)
                if compare(scan, data, defaults, rng):
                    taken += 1
                    lanes.add(data, defaults)
                if executions % 512 == 0:
                    lanes = _Lanes(module, rng)
                executions += 1
                if executions % 256 == 0 and time.monotonic() > end_s:
                    break
                if executions == 20_000:
                    gc.collect()
                    warm_bytes = _resident_bytes()
    gc.collect()
    grown_bytes = _resident_bytes() - warm_bytes if warm_bytes else 0
    done = {
        "executions": executions,
        "taken": taken,
        "starved": starved,
        "grown_mib": grown_bytes >> 20,
    }
    with suppress(BrokenPipeError):
        sys.stdout.buffer.write(orjson.dumps(done) + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
