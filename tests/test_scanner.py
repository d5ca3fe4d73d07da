"""The compiled scanner: what it takes, it takes as the decoder does; anything else it leaves."""

from __future__ import annotations

import gc
import random
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import pytest
from fakes.scanner import needs_scanner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proof.scanning import (
    FIRST_ORIGIN,
    NOTHING,
    Defaults,
    canonical_line,
    chunk,
    chunk_of,
    compare,
    mutated,
    wild_line,
)

from pusher.decoding import HAS_SCANNER, Decoded, Decoder
from pusher.model import OBJECT_TYPES, Group, Groups, ids_text_of
from pusher.protocol import decode_piece

if HAS_SCANNER:
    from pusher._scanner import scan

pytestmark = needs_scanner

MAX = 2**63 - 1
ALL = 1 << 40
READ_AT_MS = 1_700_000_000_000
HEAD = b'{"storeId":"s","objectType":"DEAL"'
PLAIN = HEAD + b',"externalObjectId":"1","changedAt":1600000000000}'
ITS_PIECE = (
    b'{"externalObjectId":"1","action":"UPSERT","changedAt":1600000000000'
    b',"properties":{},"associations":{}}'
)

deterministic = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def line_with(text: str | bytes) -> bytes:
    """A line that is good, apart from the fields in `text`."""
    return PLAIN[:-1] + b"," + as_bytes(text) + b"}"


def with_id(text: str | bytes) -> bytes:
    return HEAD + b',"changedAt":1,"externalObjectId":' + as_bytes(text) + b"}"


def with_time(text: str) -> bytes:
    return HEAD + b',"externalObjectId":"1","changedAt":' + text.encode() + b"}"


def with_store(text: str | bytes) -> bytes:
    return (
        b'{"objectType":"DEAL","externalObjectId":"1","changedAt":1,"storeId":'
        + as_bytes(text)
        + b"}"
    )


def with_type(text: str) -> bytes:
    return (
        b'{"storeId":"s","externalObjectId":"1","changedAt":1,"objectType":' + text.encode() + b"}"
    )


def with_property(text: str | bytes) -> bytes:
    return line_with(b'"properties":{"a":' + as_bytes(text) + b"}")


def nested(levels: int, opening: str = "[", closing: str = "]") -> str:
    return opening * levels + closing * levels


def found(data: bytes, defaults: Defaults = NOTHING) -> tuple[Groups, int, int, int, bool]:
    """What the scanner gives, which is compared with what the decoder gives."""
    assert compare(scan, data, defaults)
    scanned = scan(data, FIRST_ORIGIN, *defaults)
    assert scanned is not None
    return scanned


def is_left(data: bytes, defaults: Defaults = NOTHING) -> bool:
    """The scanner leaves it to the decoder, also between lines that it would take."""
    alone = scan(data, 0, *defaults) is None
    among = scan(PLAIN + b"\n" + data + b"\n" + PLAIN + b"\n", 0, *defaults) is None
    assert alone == among
    return alone


def all_of(group: Group) -> tuple[bytes, str, list[int]]:
    taken = group.take(ALL, ALL, False)
    assert taken is not None
    return taken


# What it gives


def test_a_plain_line_becomes_a_piece_of_a_body_with_its_id_and_its_origin() -> None:
    groups, count, undated, earliest_ms, has_null = found(PLAIN)
    assert (count, undated, earliest_ms, has_null) == (1, 0, 1_600_000_000_000, False)
    assert [(group.store_id, group.object_type, len(group)) for group in groups] == [
        ("s", "DEAL", 1)
    ]
    assert all_of(groups[0]) == (ITS_PIECE, "1", [FIRST_ORIGIN])


def test_the_lanes_come_in_the_order_of_their_first_messages_and_messages_in_theirs() -> None:
    lanes = [("b", "DEAL"), ("a", "DEAL"), ("b", "CONTACT"), ("b", "DEAL"), ("a", "DEAL")]
    lines = [
        b'{"storeId":"%b","objectType":"%b","externalObjectId":"%d","changedAt":%d}'
        % (store.encode(), object_type.encode(), number, 9 - number)
        for number, (store, object_type) in enumerate(lanes)
    ]
    groups, count, _, earliest_ms, _ = found(b"\n\n".join(lines))
    assert (count, earliest_ms) == (5, 5)
    assert [(group.store_id, group.object_type) for group in groups] == lanes[:3]
    assert [all_of(group)[1:] for group in groups] == [
        ("0\xff3", [FIRST_ORIGIN, FIRST_ORIGIN + 3]),
        ("1\xff4", [FIRST_ORIGIN + 1, FIRST_ORIGIN + 4]),
        ("2", [FIRST_ORIGIN + 2]),
    ]


@pytest.mark.parametrize("data", [b"", b"\n", b"\n\n\n", b" \t\r\n \n", b"\r\n"])
def test_no_message_is_no_group(data: bytes) -> None:
    groups, *facts = found(data)
    assert (len(groups), list(groups), facts) == (0, [], [0, 0, MAX, False])


def test_the_decoder_gives_its_groups_with_the_same_warnings() -> None:
    data = with_time("1600000000") + b"\n" + with_property("null") + b"\n"
    whole: list[Decoded] = [
        Decoder(takes_groups=takes_groups).decode(chunk_of(data), READ_AT_MS)
        for takes_groups in (True, False)
    ]
    assert [len(decoded.messages) for decoded in whole] == [0, 2]
    assert whole[0].groups is not None
    assert all_of(whole[0].groups[0])[2] == [FIRST_ORIGIN, FIRST_ORIGIN + 1]
    assert whole[0].warnings == whole[1].warnings
    assert len(whole[0].warnings) == 2


def test_the_decoder_decodes_what_the_scanner_leaves() -> None:
    decoded = Decoder(takes_groups=True).decode(chunk_of(with_id(r'"\u0037"')), READ_AT_MS)
    assert not decoded.groups
    assert [message.external_object_id for message in decoded.messages] == ["7"]


# What it takes

TAKEN = {
    "a blank before": b" \t\r" + PLAIN,
    "a blank behind": PLAIN + b"\r \t",
    "blanks within": b'{ "storeId" :\t"s"\r,"objectType":"DEAL" , "externalObjectId": "1"'
    b',"changedAt" : 1 }',
    "a line end": PLAIN + b"\n",
    "CRLF": PLAIN + b"\r\n" + PLAIN + b"\r\n",
    "blank lines": b"\n \n" + PLAIN + b"\n\t\n\r\n" + PLAIN + b"\n\n",
    "an id of 1 byte": with_id('"x"'),
    "an id of 100 bytes": with_id(f'"{"x" * 100}"'),
    "an id with DEL": with_id('"\x7f"'),
    "an id that is a number's digits": with_id('"007"'),
    "an integer id": with_id("7"),
    "a negative id": with_id("-7"),
    "the id 0": with_id("0"),
    "an id of 18 digits": with_id("9" * 18),
    "a negative id of 18 digits": with_id("-" + "9" * 18),
    "an integer store": with_store("5"),
    "a negative store": with_store("-5"),
    "time 0": with_time("0"),
    "time 0 in quotes": with_time('"0"'),
    "time 5 in quotes": with_time('"5"'),
    "time 2^63-1 in quotes": with_time(f'"{MAX}"'),
    "no time": HEAD + b',"externalObjectId":"1"}',
    "time 2^63-1": with_time(str(MAX)),
    "a store beyond ASCII": with_store('"店é\U0001f600"'),
    "a long store": with_store(f'"{"x" * 5_000}"'),
    "no action": PLAIN,
    "UPSERT": line_with('"action":"UPSERT"'),
    "DELETE": line_with('"action":"DELETE"'),
    "no properties": line_with('"properties":{}'),
    "blanks in no properties": line_with('"properties":{ \t}'),
    "no associations": line_with('"associations":{ }'),
    "both maps": line_with('"associations":{"CONTACT":["c"]},"properties":{"a":"b"}'),
    "a field of nobody": line_with('"other":{"storeId":"t"}'),
    "a field of nobody twice": line_with('"other":1,"other":null'),
    "a field without a name": line_with('"":0'),
    "other capitals": line_with('"storeid":"t","STOREID":5'),
    "a property twice": line_with('"properties":{"a":1,"a":2}'),
    "62 levels of arrays": with_property(nested(62)),
    "62 levels of objects": line_with('"properties":' + '{"a":' * 62 + "1" + "}" * 62),
    "63 levels": line_with('"properties":' + '{"a":' * 63 + "1" + "}" * 63),
    "63 levels of others": line_with('"other":' + nested(63)),
    "escapes": with_property(r'"\"\\\/\b\f\n\r\t\u0000\u00e9\uFFff"'),
    "a pair of surrogates": with_property(r'"\ud83d\ude00\uDBFF\uDFFF"'),
    "an escaped name": line_with(r'"properties":{"\u0061\n":1}'),
    "DEL": with_property('"\x7f"'),
    "text beyond ASCII": with_property(
        '"é\u0080\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"'
    ),
    "literals": with_property("[true,false,null]"),
}


@pytest.mark.parametrize("data", TAKEN.values(), ids=TAKEN)
def test_it_takes(data: bytes) -> None:
    found(data)


@pytest.mark.parametrize(
    "number",
    [
        *("0", "-0", "7", "-12", "1.5", "-0.0", "0.25", "1e3", "1E+3", "1e-0", "0e0", "12.50e-10"),
        *("1e999", "9007199254740993", "1" * 400),
    ],
)
def test_it_takes_the_number(number: str) -> None:
    found(with_property(number))
    found(with_property(f"[{number}]"))


@pytest.mark.parametrize("object_type", OBJECT_TYPES)
def test_it_takes_the_type(object_type: str) -> None:
    found(with_type(f'"{object_type}"'))


def test_a_missing_store_or_type_is_the_default_and_a_given_one_is_not() -> None:
    bare = b'{"externalObjectId":"1","changedAt":1}'
    groups = found(bare + b"\n" + PLAIN + b"\n", Defaults("é", "LINE_ITEM"))[0]
    lanes = [(group.store_id, group.object_type) for group in groups]
    assert lanes == [("é", "LINE_ITEM"), ("s", "DEAL")]
    assert is_left(bare, Defaults("s", None))
    assert is_left(bare, Defaults(None, "DEAL"))
    assert is_left(bare)


def test_an_integer_and_its_digits_are_the_same_store() -> None:
    groups = found(with_store("5") + b"\n" + with_store('"5"'), Defaults("5", None))[0]
    assert [(group.store_id, len(group)) for group in groups] == [("5", 2)]


def test_a_missing_time_is_filled_in_where_that_is_asked_for() -> None:
    undated = b"\n".join([HEAD + b',"externalObjectId":"%d"}' % number for number in range(3)])
    groups, count, undated_count, earliest_ms, _ = found(undated)
    assert (count, undated_count, earliest_ms) == (3, 3, MAX)
    assert all_of(groups[0])[0].count(b'"changedAt":%d,' % READ_AT_MS) == 3
    assert is_left(undated, Defaults(time_ms=-1))
    assert found(undated + b"\n" + with_time("5"))[1:4] == (4, 3, 5)


@pytest.mark.parametrize("time_ms", [1, 9, 10, MAX])
def test_a_time_that_is_filled_in_has_as_many_digits_as_it_has(time_ms: int) -> None:
    found(b'{"storeId":"s","objectType":"DEAL","externalObjectId":"1"}', Defaults(time_ms=time_ms))


def test_only_one_message_of_an_object_may_have_no_time() -> None:
    lanes = [(store, kind) for store in ("s", "t") for kind in OBJECT_TYPES]
    lines = [
        b'{"storeId":"%b","objectType":"%b","externalObjectId":"%d"}'
        % (store.encode(), kind.encode(), number)
        for number in range(2_000)
        for store, kind in lanes
    ]
    data = b"\n".join(lines)
    scanned = scan(data, 0, None, None, READ_AT_MS)
    assert scanned is not None
    assert scanned[1:3] == (16_000, 16_000)
    for line in (lines[0], lines[-1], lines[7_777]):
        assert scan(data + b"\n" + line, 0, None, None, READ_AT_MS) is None
    dated = lines[5][:-1] + b',"changedAt":1}'
    assert scan(data + b"\n" + dated, 0, None, None, READ_AT_MS) is not None


def test_the_decoder_never_fills_in_a_time_twice_whoever_decodes() -> None:
    undated = HEAD + b',"externalObjectId":"1"}'
    for chunks in product((undated, undated + b"\n" + undated, PLAIN + b"\n" + undated), repeat=3):
        times: list[list[int]] = []
        for takes_groups in (True, False):
            decoder = Decoder(takes_groups=takes_groups)
            times.append([])
            for data in chunks:
                decoded = decoder.decode(chunk_of(data), READ_AT_MS)
                messages = decoded.messages
                for group in decoded.groups or ():
                    messages += decode_piece(all_of(group)[0])
                times[-1] += [message.changed_at for message in messages]  # type: ignore[misc]
        assert times[0] == times[1]


@pytest.mark.parametrize(
    ("fields", "has_null"),
    [
        ('"properties":{"a":null}', True),
        ('"properties":{"a": null}', True),
        ('"properties":{"a":{"b":[{"c":null}]}}', True),
        ('"properties":{"a":null,"b":"c"}', True),
        ('"properties":{"a":"null"}', False),
        ('"properties":{"a":": null"}', False),
        ('"properties":{"null":1}', False),
        ('"properties":{"a":[null]}', False),
        ('"properties":{"a":[{},null]}', False),
        ('"associations":{"a":null}', False),
        ('"other":null', False),
        ('"other":{"a":null}', False),
    ],
)
def test_a_null_that_is_a_property_is_told_of(fields: str, has_null: bool) -> None:  # noqa: FBT001
    assert found(PLAIN + b"\n" + line_with(fields) + b"\n" + PLAIN)[4] is has_null


def test_the_earliest_time_of_all_lines_is_told() -> None:
    assert found(b"\n".join(map(with_time, ("7", "5", "6"))))[3] == 5
    assert found(with_time(str(MAX)))[3] == MAX


# What it leaves

LEFT = {
    "no JSON": b"x",
    "an array": b"[]",
    "a string": b'"a"',
    "null": b"null",
    "an empty object": b"{}",
    "no id": HEAD + b',"changedAt":1}',
    "no time twice": HEAD + b',"externalObjectId":"1"}\n' + HEAD + b',"externalObjectId":1}',
    "no store": b'{"objectType":"DEAL","externalObjectId":"1","changedAt":1}',
    "no type": b'{"storeId":"s","externalObjectId":"1","changedAt":1}',
    "a BOM": b"\xef\xbb\xbf" + PLAIN,
    "a NUL before": b"\0" + PLAIN,
    "a NUL behind": PLAIN + b"\0",
    "a NUL in an id": with_id(b'"a\0b"'),
    "a NUL in a store": with_store(b'"a\0b"'),
    "a NUL in a property": with_property(b'"a\0b"'),
    "a NUL between": PLAIN.replace(b",", b",\0", 1),
    "only a NUL": b"\0",
    "a form feed": PLAIN + b"\f",
    "a vertical tab": b"\v" + PLAIN,
    "a no-break space": PLAIN + b"\xc2\xa0",
    "two values in a line": PLAIN + PLAIN,
    "two values with a comma": PLAIN + b"," + PLAIN,
    "two values with a blank": PLAIN + b" " + PLAIN,
    "a comma behind": PLAIN + b",",
    "a trailing comma": PLAIN[:-1] + b",}",
    "a leading comma": b"{," + PLAIN[1:],
    "two commas": PLAIN.replace(b",", b",,", 1),
    "no comma": PLAIN.replace(b",", b" ", 1),
    "no colon": PLAIN.replace(b":", b" ", 1),
    "two colons": PLAIN.replace(b":", b"::", 1),
    "no quote": b"{a:1}",
    "single quotes": PLAIN.replace(b'"', b"'"),
    "no end": PLAIN[:-1],
    "another end": PLAIN[:-1] + b"]",
    "a comment": PLAIN + b"//x",
    "a value across lines": PLAIN.replace(b",", b",\n"),
    "a line end in a string": with_property(b'"a\nb"'),
    "an empty id": with_id('""'),
    "an id of 101 bytes": with_id(f'"{"x" * 101}"'),
    "an id of 357 bytes": with_id(f'"{"x" * 357}"'),
    "an id of 19 digits": with_id("1" * 19),
    "an integer id with a zero before": with_id("07"),
    "the id -0": with_id("-0"),
    "the id 7.0": with_id("7.0"),
    "the id 7e2": with_id("7e2"),
    "the id 7E0": with_id("7E0"),
    "the id +7": with_id("+7"),
    "the id -": with_id("-"),
    "an id that is no number": with_id("7x"),
    "the id true": with_id("true"),
    "a null id": with_id("null"),
    "an id beyond ASCII": with_id('"é"'),
    "an id with a quote": with_id(r'"a\"b"'),
    "an id with an escape": with_id(r'"\u0031"'),
    "an id with a control": with_id(b'"a\x01b"'),
    "an empty store": with_store('""'),
    "a store with a zero before": with_store("05"),
    "the store -0": with_store("-0"),
    "the store 5.0": with_store("5.0"),
    "the store 5e0": with_store("5e0"),
    "a store of 19 digits": with_store("1" * 19),
    "a null store": with_store("null"),
    "a store with an escape": with_store(r'"\u0073"'),
    "a store with a backslash": with_store(r'"a\\b"'),
    "a store with a control": with_store(b'"a\x1fb"'),
    "a store that is not UTF-8": with_store(b'"\xff"'),
    "an escaped name": PLAIN.replace(b"storeId", b"store\\u0049d"),
    "an escaped name of nobody": line_with(r'"\u0061":1'),
    "a name beyond ASCII": line_with('"é":1'),
    "an unknown type": with_type('"ORDER"'),
    "a type in small letters": with_type('"deal"'),
    "the beginning of a type": with_type('"DEA"'),
    "more than a type": with_type('"DEALS"'),
    "a null type": with_type("null"),
    "an empty type": with_type('""'),
    "an empty action": line_with('"action":""'),
    "a null action": line_with('"action":null'),
    "another action": line_with('"action":"INSERT"'),
    "an action in small letters": line_with('"action":"upsert"'),
    "more than an action": line_with('"action":"UPSERTS"'),
    "an action with an escape": line_with(r'"action":"\u0055PSERT"'),
    "64 levels": with_property(nested(63)),
    "64 levels of others": line_with('"other":' + nested(64)),
    "1,000 levels": with_property(nested(1_000)),
    "100,000 levels": with_property("[" * 100_000),
    "levels that are crossed": with_property('[{"a":1]}'),
}
for _name, _again in {
    "storeId": '"s"',
    "objectType": '"DEAL"',
    "externalObjectId": '"1"',
    "changedAt": "1",
}.items():
    LEFT[f"{_name} twice"] = line_with(f'"{_name}":{_again}')
for _name, _again in {"action": '"UPSERT"', "properties": "{}", "associations": "{}"}.items():
    LEFT[f"{_name} twice"] = line_with(f'"{_name}":{_again},"{_name}":{_again}')
for _name, _value in product(
    ("properties", "associations"), ("null", "[]", "[ ]", '""', "0", "true", '["a"]')
):
    LEFT[f"{_name} {_value}"] = line_with(f'"{_name}":{_value}')


@pytest.mark.parametrize("data", LEFT.values(), ids=LEFT)
def test_it_leaves(data: bytes) -> None:
    assert is_left(data)


@pytest.mark.parametrize(
    "time",
    [
        *("00", "01", "-0", "-1", "+1", "1.0", "1.", "1e3", "1E0", '""', "null", "true", ""),
        *(str(2**63), str(2**64), str(2**64 + 5), "9" * 19, "9" * 20, "1" + "0" * 19, "0" * 20),
        *(
            '"05"',
            '"-5"',
            '"+5"',
            '"5',
            '5"',
            '" 5"',
            '"5 "',
            '"5.0"',
            '"5e3"',
            '"\\u0035"',
            f'"{2**63}"',
        ),
        *("1" * 400, "0x5", "1_000", "1 2", "[]", "{}", "NaN", "\u0661"),
    ],
)
def test_it_leaves_the_time(time: str) -> None:
    assert is_left(with_time(time))


@pytest.mark.parametrize(
    "value",
    [
        *(
            "01",
            "-",
            "-a",
            "+1",
            ".5",
            "1.",
            "1.e3",
            "1e",
            "1e+",
            "1e+-1",
            "0x1",
            "1_0",
            "--1",
            "-01",
        ),
        *("NaN", "Infinity", "-Infinity", "1f", "0 1", "1.2.3", "1e1.5", "00"),
        *("t", "tru", "True", "truee", "f", "fals", "falsee", "n", "nul", "nulll", "None", "nan"),
        *("[1,]", "[,1]", "[1 2]", "[1", "[", "]", "{", "}", '{"a"}', '{"a":}', '{"a":1,}', "{,}"),
        *('{"a":1', '{"a" 1}', "{1:1}", '{"a":1 "b":2}', "[}", "{]", "", "'a'", '"', '"a'),
    ],
)
def test_it_leaves_the_value(value: str) -> None:
    for data in (with_property(value), line_with(f'"other":{value}')):
        assert is_left(data)
        assert not compare(scan, data[: data.rindex(value.encode()) + len(value)])


@pytest.mark.parametrize(
    "text",
    [
        *(r"\x", r"\'", r"\0", r"\U0041", r"\u", r"\u1", r"\u12", r"\u123", r"\u123g", r"\u 123"),
        *(
            r"\u+123",
            r"\u-123",
            r"\ud800",
            r"\udbff",
            r"\udc00",
            r"\udfff",
            r"\ud800a",
            r"\ud800\n",
        ),
        *(r"\ud800\ud800", r"\udc00\ud800", r"\ud800\u0041", r"\ud800\\udc00", r"\ud800\udc0"),
        *("\\", "\t", "\r", "\x00", "\x01", "\x1f", "a\tb", "x" * 7 + "\x1f", "x" * 8 + "\x00"),
    ],
)
def test_it_leaves_the_text(text: str) -> None:
    for data in (
        with_property(f'"{text}"'),
        line_with(f'"properties":{{"{text}":1}}'),
        line_with(f'"other":"{text}"'),
        with_store(f'"{text}"'),
        with_id(f'"{text}"'),
    ):
        assert is_left(data)


def bytes_that_are_not_utf8() -> Iterator[bytes]:
    """Sequences that Python's decoder does not take, about each border of what it takes."""
    tails = (0x00, 0x22, 0x5C, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF)
    for lead in (
        0x80,
        0xBF,
        0xC0,
        0xC1,
        0xC2,
        0xDF,
        0xE0,
        0xE1,
        0xEC,
        0xED,
        0xEE,
        0xEF,
        0xF0,
        0xF1,
    ):
        yield from (bytes((lead, *rest)) for rest in product(tails, repeat=1))
    for lead in (0xE0, 0xE1, 0xED, 0xEF):
        yield from (bytes((lead, *rest)) for rest in product(tails, repeat=2))
    for lead in (0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xF8, 0xFE, 0xFF):
        yield from (bytes((lead, *rest)) for rest in product(tails, repeat=3))


def test_utf8_is_taken_exactly_where_it_is_valid() -> None:
    outcomes = set()
    for sequence in bytes_that_are_not_utf8():
        if b"\0" in sequence or b'"' in sequence or b"\\" in sequence:
            is_valid = False
        else:
            try:
                sequence.decode()
            except UnicodeDecodeError:
                is_valid = False
            else:
                is_valid = True
        text = b'"' + sequence + b'"'
        for data in (with_property(text), with_store(text), line_with(b'"other":' + text)):
            assert (scan(data, 0, None, None, -1) is not None) == is_valid, data
        outcomes.add(is_valid)
    assert outcomes == {True, False}


def test_every_beginning_of_a_line_is_left() -> None:
    line = line_with(
        '"action":"DELETE","properties":{"a":[true,false,null,-1.5e+3,"é\\ud83d\\ude00\U0001f600"]}'
        ',"associations":{"CONTACT":["1"]}'
    )
    assert compare(scan, line)
    for end in range(1, len(line)):
        assert is_left(line[:end])


def test_every_byte_in_every_place_is_taken_as_the_decoder_takes_it() -> None:
    line = line_with('"action":"DELETE","properties":{"a":[true,1.5,"é\\n"]}')
    assert compare(scan, line)
    taken = [
        compare(scan, line[:at] + bytes([byte]) + line[at + 1 :])
        for at in range(len(line))
        for byte in (*range(0, 256, 7), *b'"\\{}[],: \n\r\0\x1f\x20\x7f\x80019-+.eE')
    ]
    assert 500 < sum(taken) < len(taken) / 2


# Many


def test_40_000_lanes_are_told_apart() -> None:
    lines = [
        b'{"storeId":"%d","objectType":"%b","externalObjectId":"%d","changedAt":%d}'
        % (number % 10_000, OBJECT_TYPES[number // 10_000 % 4].encode(), number, number)
        for number in range(60_000)
    ]
    scanned = scan(b"\n".join(lines), 7, None, None, -1)
    assert scanned is not None
    groups, count, _, earliest_ms, _ = scanned
    assert (len(groups), count, earliest_ms) == (40_000, 60_000, 0)
    for number, group in enumerate(groups):
        assert (group.store_id, group.object_type) == (
            str(number % 10_000),
            OBJECT_TYPES[number // 10_000],
        )
        origins = [7 + number] + ([7 + number + 40_000] if number < 20_000 else [])
        assert all_of(group)[2] == origins


def test_thousands_of_messages_of_a_few_lanes_are_taken() -> None:
    rng = random.Random(5)
    data = b"\n".join([canonical_line(rng) for _ in range(5_000)])
    assert compare(scan, data)
    assert compare(scan, data, rng=rng)


def test_a_message_of_a_megabyte_is_taken() -> None:
    value = '"' + "x" * (1 << 20) + 'é"'
    groups = found(PLAIN + b"\n" + with_property(value) + b"\n")[0]
    assert len(all_of(groups[0])[0]) > 1 << 20


# Chunks that nobody thought of

_random = st.randoms(use_true_random=False)


@settings(deterministic, max_examples=150)
@given(_random)
def test_whatever_is_canonical_is_taken_in_all_spellings(rng: random.Random) -> None:
    assert compare(scan, chunk(rng, canonical_line), rng=rng)


@settings(deterministic, max_examples=300)
@given(_random)
def test_what_is_odd_is_left_or_taken_as_the_decoder_takes_it(rng: random.Random) -> None:
    compare(scan, chunk(rng, wild_line), rng.choice((NOTHING, Defaults("s", "DEAL"))), rng)


@settings(deterministic, max_examples=300)
@given(_random)
def test_a_chunk_that_is_harmed_is_left_or_taken_as_the_decoder_takes_it(
    rng: random.Random,
) -> None:
    data = chunk(rng, canonical_line)
    compare(scan, mutated(rng, data, [data]), rng=rng)


@settings(deterministic, max_examples=100)
@given(st.lists(st.binary(max_size=40), max_size=4))
def test_any_bytes_are_left_or_taken_as_the_decoder_takes_them(parts: list[bytes]) -> None:
    compare(scan, PLAIN.join(parts), Defaults("s", "DEAL"))


def test_40_000_harmed_chunks_are_left_or_taken_as_the_decoder_takes_them() -> None:
    rng = random.Random(20)
    pool = [chunk(rng, canonical_line) for _ in range(200)]
    taken = sum(
        compare(scan, mutated(rng, rng.choice(pool), pool), Defaults("s", None), rng)
        for _ in range(40_000)
    )
    assert 4_000 < taken < 36_000, "both happen"


# Taking


def five() -> tuple[Group, list[bytes]]:
    """Five messages of one lane, and the pieces of each."""
    groups = found(b"\n".join([with_id(f'"{"x" * number}"') for number in range(1, 6)]))[0]
    pieces = [
        ITS_PIECE.replace(b'"1"', b'"%b"' % (b"x" * number)).replace(b"1600000000000", b"1")
        for number in range(1, 6)
    ]
    return groups[0], pieces


@pytest.mark.parametrize("first", range(6))
@pytest.mark.parametrize("second", range(6))
def test_messages_are_taken_in_parts_up_to_a_number(first: int, second: int) -> None:
    group, pieces = five()
    at = 0
    for most in (first, second, 5):
        count = min(most, len(pieces) - at)
        taken = group.take(most, ALL, False)
        part = range(at, at + count)
        if not part:
            assert taken is None
        else:
            ids = "\xff".join("x" * (number + 1) for number in part)
            origins = [FIRST_ORIGIN + number for number in part]
            assert taken == (b",".join(pieces[at : at + count]), ids, origins)
        at += count
        assert len(group) == len(pieces) - at


@pytest.mark.parametrize("at_least_one", [False, True])
def test_messages_are_taken_in_parts_up_to_a_size_with_its_commas(at_least_one: bool) -> None:  # noqa: FBT001
    _, pieces = five()
    for most_bytes in range(-1, sum(map(len, pieces)) + 10):
        group, _ = five()
        count = sum(
            len(b",".join(pieces[:number])) <= most_bytes for number in range(1, len(pieces) + 1)
        )
        taken = group.take(200, most_bytes, at_least_one)
        count = max(count, at_least_one)
        if count == 0:
            assert taken is None
        else:
            assert taken is not None
            assert taken[0] == b",".join(pieces[:count])
        assert len(group) == 5 - count


def test_at_least_one_is_still_none_where_none_is_asked_for_or_left() -> None:
    group, _ = five()
    assert group.take(0, ALL, True) is None
    assert group.take(-1, ALL, True) is None
    assert len(group) == 5
    all_of(group)
    assert group.take(ALL, ALL, True) is None


def test_what_is_dropped_is_counted_and_gone() -> None:
    group, _ = five()
    group.take(2, ALL, False)
    assert group.drop() == 3
    assert (len(group), group.drop(), group.take(ALL, ALL, True)) == (0, 0, None)


def test_a_group_tells_what_it_is() -> None:
    group = found(with_store('"é"'))[0][0]
    assert repr(group) == "<Group of 1 for é DEAL>"
    group.drop()
    assert repr(group) == "<Group of 0 for é DEAL>"


def test_a_group_outlives_what_it_was_found_in() -> None:
    store = "st" + "ore" * 20
    lines = [
        b'{"externalObjectId":"%d","changedAt":1,"objectType":"%b"}' % (number, kind.encode())
        for number in range(500)
        for kind in OBJECT_TYPES
    ]
    scanned = scan(b"\n".join(lines), 0, "".join(list(store)), None, -1)
    assert scanned is not None
    kept = scanned[0][2]
    del scanned, lines
    gc.collect()
    other = [bytes(range(256)) * 1_000 for _ in range(20)]
    assert kept.store_id == store
    assert all_of(kept)[1] == "\xff".join(map(str, range(500)))
    assert other


def test_chunks_may_be_scanned_and_messages_taken_by_several_threads_at_once() -> None:
    rng = random.Random(31)
    chunks = [b"\n".join([canonical_line(rng) for _ in range(100)]) for _ in range(40)]
    shared = found(b"\n".join([PLAIN] * 20_000))[0][0]
    origins: list[int] = []

    def work(data: bytes) -> bool:
        while taken := shared.take(50, ALL, False):
            origins.extend(taken[2])
            if len(taken[2]) < 50 or taken[2][0] % 1_000 == 0:
                break
        return compare(scan, data)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, chunks))
    while taken := shared.take(50, ALL, False):
        origins.extend(taken[2])
    assert sorted(origins) == list(range(FIRST_ORIGIN, FIRST_ORIGIN + 20_000))


def test_code_that_runs_while_messages_are_taken_may_take_some_as_well() -> None:
    """A collection of garbage may run any code, in the middle of anything that makes an object."""
    lines = [with_id(f'"{"x" * (number % 7 * 13 + 1)}"') for number in range(2_000)]
    group = found(b"\n".join(lines))[0][0]
    parts: list[tuple[bytes, str, list[int]]] = []

    class Taker:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            if part := group.take(3, ALL, False):
                parts.append(part)

    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        while part := group.take(5, ALL, False):
            parts.append(part)
            Taker()
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    for piece, ids, origins in parts:
        assert ids_text_of(decode_piece(piece)) == ids
        assert ids.split("\xff") == [
            "x" * ((origin - FIRST_ORIGIN) % 7 * 13 + 1) for origin in origins
        ]
    taken = sorted(origin for _, _, origins in parts for origin in origins)
    assert taken == list(range(FIRST_ORIGIN, FIRST_ORIGIN + 2_000))


# What is not asked for rightly


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), TypeError),
        ((PLAIN,), TypeError),
        ((PLAIN, 0, None, None), TypeError),
        ((PLAIN, 0, None, None, -1, None), TypeError),
        ((PLAIN, 0, None, None, None), TypeError),
        ((PLAIN, 0, None, None, "1"), TypeError),
        ((PLAIN, 0, None, None, 1.0), TypeError),
        ((PLAIN, 0, None, None, 2**63), OverflowError),
        ((str(PLAIN), 0, None, None, -1), TypeError),
        ((bytearray(PLAIN), 0, None, None, -1), TypeError),
        ((memoryview(PLAIN), 0, None, None, -1), TypeError),
        ((type("Sub", (bytes,), {})(PLAIN), 0, None, None, -1), TypeError),
        ((None, 0, None, None, -1), TypeError),
        ((PLAIN, "0", None, None, -1), TypeError),
        ((PLAIN, 0.0, None, None, -1), TypeError),
        ((PLAIN, None, None, None, -1), TypeError),
        ((PLAIN, 2**63, None, None, -1), OverflowError),
        ((PLAIN, 2**63 - 1, None, None, -1), OverflowError),
        ((PLAIN, -(2**63) - 1, None, None, -1), OverflowError),
        ((PLAIN, 0, b"s", None, -1), TypeError),
        ((PLAIN, 0, 5, None, -1), TypeError),
        ((PLAIN, 0, "\ud800", None, -1), UnicodeEncodeError),
        ((PLAIN, 0, None, b"DEAL", -1), TypeError),
        ((PLAIN, 0, None, "deal", -1), ValueError),
        ((PLAIN, 0, None, "", -1), ValueError),
        ((PLAIN, 0, None, "\udfff", -1), UnicodeEncodeError),
    ],
)
def test_scan_complains_of_wrong_arguments(
    arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        scan(*arguments)


class Untellable:
    def __bool__(self) -> bool:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), TypeError),
        ((1, 1), TypeError),
        ((1, 1, True, 1), TypeError),
        (("1", 1, True), TypeError),
        ((1.0, 1, True), TypeError),
        ((1, None, True), TypeError),
        ((2**63, 1, True), OverflowError),
        ((1, 2**63, True), OverflowError),
        ((1, ALL, Untellable()), ZeroDivisionError),
    ],
)
def test_take_complains_of_wrong_arguments_and_takes_nothing(
    arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    group, _ = five()
    with pytest.raises(error):
        group.take(*arguments)
    assert len(group) == 5


def test_a_group_is_made_by_a_scan_only() -> None:
    group: Any = five()[0]
    with pytest.raises(TypeError):
        type(group)()
    with pytest.raises(AttributeError):
        group.store_id = "t"
    with pytest.raises(TypeError):
        type(group).take = None


def test_origins_may_be_any_that_have_room() -> None:
    for first in (0, -5, 2**62, MAX - (1 << 28)):
        scanned = scan(PLAIN + b"\n" + PLAIN, first, None, None, -1)
        assert scanned is not None
        assert all_of(scanned[0][0])[2] == [first, first + 1]


# What it leaves behind


def test_no_memory_and_no_reference_is_kept() -> None:
    rng = random.Random(9)
    whole = chunk(rng, canonical_line) + b"\n".join([PLAIN] * 300) + b"\n"
    tried = [whole, whole + b"x", whole[:-5], b"", PLAIN, with_id("7"), with_id("true")]
    tried.append(b"\n".join([with_store(f'"store {number}"') for number in range(100)]))
    tried += [undated := HEAD + b',"externalObjectId":"1"}', undated + b"\n" + undated]
    tried += [mutated(rng, whole, tried) for _ in range(20)]
    store, ones_type = f"store {len(tried)}", b"DEAL".decode()

    def once() -> None:
        for data in tried:
            scanned = scan(data, 1 << 40, store, ones_type, 5)
            for group in scanned[0] if scanned else ():
                repr(group)
                group.take(7, 2_000, True)
                group.take(1, 1, False)
            with pytest.raises(TypeError):
                scan(data, "", store, ones_type, 5)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="no object type"):
                scan(data, 0, store, store, 5)

    once()
    watched = [*tried, store, ones_type, "DEAL", None, type(five()[0])]
    gc.collect()
    references = list(map(sys.getrefcount, watched))
    tracemalloc.start()
    try:
        once()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(50):
            once()
        gc.collect()
        grown_bytes = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    now = list(map(sys.getrefcount, watched))
    assert [abs(a - b) < 20 for a, b in zip(references, now, strict=True)] == [True] * len(watched)
    assert grown_bytes < 4_096


def test_a_group_holds_its_chunk_until_it_goes() -> None:
    data = bytes(bytearray(PLAIN))
    before = sys.getrefcount(data)
    scanned = scan(data, 0, None, None, -1)
    assert sys.getrefcount(data) == before + 1
    del scanned
    assert sys.getrefcount(data) == before
    assert scan(data[:-1] + b" ", 0, None, None, -1) is None
    assert sys.getrefcount(data) == before
