"""Decoding: each line that is not blank is a message or a rejection, and hurts no other."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes.scanner import needs_scanner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from pusher.decoding import Decoded, Decoder
from pusher.model import Chunk, Lane, ObjectType, SyncMessage
from pusher.protocol import decode_piece, encode_messages

READ_AT_MS = 1_700_000_000_000
LANE = Lane("s", "DEAL")


def chunk_of(data: bytes, *, offset: int = 0, first_line: int = 1) -> Chunk:
    line_count = data.count(b"\n") + (not data.endswith(b"\n"))
    return Chunk(data, "in.ndjson", offset, first_line, line_count)


def decode(data: bytes, **defaults: Any) -> Decoded:
    return Decoder(**defaults).decode(chunk_of(data), READ_AT_MS)


either_way = pytest.mark.parametrize(
    "takes_groups",
    [
        pytest.param(False, id="messages"),
        pytest.param(True, id="groups", marks=needs_scanner),
    ],
)


def count_in(decoded: Decoded) -> int:
    return len(decoded.messages) + (decoded.groups.left() if decoded.groups else 0)


def messages_in(decoded: Decoded) -> list[SyncMessage]:
    """All messages, in the order of their lines; those of groups without store and type."""
    if not decoded.groups:
        return decoded.messages
    found: list[tuple[int, SyncMessage]] = []
    for group in decoded.groups:
        taken = group.take(len(group), 1 << 30, False)
        assert taken is not None
        piece, _, origins = taken
        found += zip(origins, decode_piece(piece), strict=True)
    return [one for _, one in sorted(found, key=lambda entry: entry[0])]


def line_of(**fields: Any) -> bytes:
    """A good line, with some fields replaced; None takes a field away."""
    record = {
        "storeId": "s",
        "objectType": "DEAL",
        "action": "UPSERT",
        "externalObjectId": "1",
        "changedAt": 1_600_000_000_000,
    } | fields
    return json.dumps({key: value for key, value in record.items() if value is not None}).encode()


GOOD = line_of()
GOOD_HEAD = b'{"storeId":"s","objectType":"DEAL","changedAt":1600000000000,'


def good_line(text: bytes) -> bytes:
    """A good line but for the fields in `text`, which are written as they are."""
    return GOOD_HEAD + text + b"}"


def with_id(text: bytes) -> bytes:
    return good_line(b'"externalObjectId":' + text)


def with_changed_at(text: bytes) -> bytes:
    return b'{"storeId":"s","objectType":"DEAL","externalObjectId":"1","changedAt":' + text + b"}"


def with_properties(text: bytes) -> bytes:
    return with_id(b'"1","properties":' + text)


def only_message(data: bytes, **defaults: Any) -> SyncMessage:
    decoded = decode(data, **defaults)
    assert decoded.rejections == []
    assert len(decoded.messages) == 1
    return decoded.messages[0]


# What is taken


def test_a_canonical_line_becomes_a_message() -> None:
    message = only_message(
        line_of(action="DELETE", properties={"name": "x"}, associations={"CONTACT": ["c1"]})
    )
    assert message.external_object_id == "1"
    assert message.store_id == "s"
    assert message.object_type == "DEAL"
    assert message.action == "DELETE"
    assert message.changed_at == 1_600_000_000_000
    assert json.loads(bytes(message.properties)) == {"name": "x"}
    assert json.loads(bytes(message.associations)) == {"CONTACT": ["c1"]}


def test_a_missing_action_is_an_upsert() -> None:
    assert only_message(line_of(action=None)).action == "UPSERT"


@pytest.mark.parametrize("object_type", ["CONTACT", "PRODUCT", "DEAL", "LINE_ITEM"])
def test_each_object_type_of_the_reference_is_taken(object_type: str) -> None:
    assert only_message(line_of(objectType=object_type)).object_type == object_type


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"5", "5"),
        (b"0", "0"),
        (b"18446744073709551616", "18446744073709551616"),
        (b'"a"', "a"),
        (b'"' + b"x" * 100 + b'"', "x" * 100),
        (b'"\\u0041/ ?%"', "A/ ?%"),
    ],
)
def test_ids_are_taken_as_strings_and_as_integers(text: bytes, expected: str) -> None:
    assert only_message(with_id(text)).external_object_id == expected


def test_an_integer_store_becomes_a_string() -> None:
    assert only_message(line_of(storeId=42)).store_id == "42"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"0", 0),
        (b"1542092841947", 1_542_092_841_947),
        (b'"1542092841947"', 1_542_092_841_947),
        (b'"0"', 0),
        (b"9223372036854775807", 2**63 - 1),
        (b'"9223372036854775807"', 2**63 - 1),
    ],
)
def test_changed_at_is_taken_as_an_integer_and_as_a_digit_string(
    text: bytes, expected: int
) -> None:
    changed_at = only_message(with_changed_at(text)).changed_at
    assert type(changed_at) is int
    assert changed_at == expected


@pytest.mark.parametrize("field", ["properties", "associations"])
@pytest.mark.parametrize("text", [b"null", b"[]", b"[ ]", b"{}", b"  {}", b"{ }"])
def test_missing_null_and_list_maps_are_empty_maps(field: str, text: bytes) -> None:
    message = only_message(with_id(b'"1","' + field.encode() + b'": ' + text))
    assert json.loads(bytes(message.properties)) == {}
    assert json.loads(bytes(message.associations)) == {}


def test_extra_keys_are_ignored() -> None:
    assert only_message(line_of(offset=7, run={"a": [1]}, Action="x")).external_object_id == "1"


def test_keys_written_with_escapes_are_known() -> None:
    assert only_message(good_line(b'"\\u0065xternalObjectId":"1"')).external_object_id == "1"


def test_crlf_line_ends_are_taken() -> None:
    decoded = decode(GOOD + b"\r\n" + line_of(externalObjectId="2") + b"\r\n")
    assert [message.external_object_id for message in decoded.messages] == ["1", "2"]
    assert decoded.rejections == []


def test_a_last_line_without_an_end_is_taken() -> None:
    decoded = decode(GOOD + b"\n" + line_of(externalObjectId="2"))
    assert [message.external_object_id for message in decoded.messages] == ["1", "2"]


@pytest.mark.parametrize("blank", [b"", b"\r", b"  ", b"\t \r"])
def test_a_blank_line_is_passed_over(blank: bytes) -> None:
    decoded = decode(blank + b"\n" + GOOD + b"\n" + blank + b"\n" + GOOD + b"\n" + blank + b"\n")
    assert len(decoded.messages) == 2
    assert list(decoded.indexes) == [0, 1]
    assert decoded.rejections == []


@pytest.mark.parametrize("data", [b"\n", b"\r\n\r\n", b" "])
def test_a_chunk_of_blank_lines_holds_nothing(data: bytes) -> None:
    decoded = decode(data)
    assert (decoded.messages, list(decoded.indexes), decoded.rejections) == ([], [], [])


def test_null_where_the_field_may_be_missing_counts_as_missing() -> None:
    line = (
        b'{"storeId":"s","objectType":null,"action":null,"externalObjectId":"1","changedAt":null}'
    )
    message = only_message(line, default_type="DEAL")
    assert message.action == "UPSERT"
    assert message.object_type == "DEAL"
    assert message.changed_at == READ_AT_MS


# Defaults


def test_a_missing_store_is_filled_in() -> None:
    assert only_message(line_of(storeId=None), default_store="d").store_id == "d"


def test_a_missing_type_is_filled_in() -> None:
    assert only_message(line_of(objectType=None), default_type="CONTACT").object_type == "CONTACT"


def test_the_line_wins_over_the_defaults() -> None:
    message = only_message(GOOD, default_store="d", default_type="CONTACT")
    assert (message.store_id, message.object_type) == ("s", "DEAL")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"storeId": None}, "missing_store"), ({"objectType": None}, "missing_type")],
)
def test_without_defaults_a_missing_store_or_type_is_rejected(
    fields: dict[str, Any], reason: str
) -> None:
    decoded = decode(line_of(**fields))
    assert [rejection.reason for rejection in decoded.rejections] == [reason]


# What is rejected

DEEP = b"[" * 100_000 + b"]" * 100_000
BAD_LINES: list[tuple[str, bytes, str]] = [
    ("text", b"hello", "not_json"),
    ("cut off", GOOD[:-5], "not_json"),
    ("trailing text", GOOD + b"x", "not_json"),
    ("two values", GOOD + GOOD, "not_json"),
    ("two values with a space", GOOD + b" " + GOOD, "not_json"),
    ("NUL before", b"\0" + GOOD, "not_json"),
    ("NUL after", GOOD + b"\0", "not_json"),
    ("NUL alone", b"\0", "not_json"),
    ("NUL in a string", with_id(b'"a\0b"'), "not_json"),
    ("NUL in a map", with_properties(b'{"a":"\0"}'), "not_json"),
    ("BOM inside", b"\xef\xbb\xbf" + GOOD, "not_json"),
    ("form feed", b"\x0c", "not_json"),
    ("trailing comma", with_properties(b'{"a":"1",}'), "not_json"),
    ("NaN", with_properties(b'{"a":NaN}'), "not_json"),
    ("single quotes", b"{'storeId':'s'}", "not_json"),
    ("nested too deeply", with_properties(b'{"a":' + DEEP + b"}"), "not_json"),
    ("array", b"[1]", "not_an_object"),
    ("string", b'"x"', "not_an_object"),
    ("number", b"17", "not_an_object"),
    ("null", b"null", "not_an_object"),
    ("true", b"true", "not_an_object"),
    ("not UTF-8 in a map", with_properties(b'{"a":"\xff"}'), "not_utf8"),
    ("not UTF-8 in an id", with_id(b'"\xe4"'), "not_utf8"),
    ("not UTF-8 at all", b"\xff\xfe\x00{", "not_utf8"),
    ("UTF-8 surrogate", with_properties(b'{"a":"\xed\xa0\x80"}'), "not_utf8"),
    ("lone surrogate in an id", with_id(b'"\\ud800"'), "not_json"),
    ("lone low surrogate in an id", with_id(b'"\\udc00"'), "not_json"),
    ("unknown type", line_of(objectType="COMPANY"), "unknown_type"),
    ("type in lower case", line_of(objectType="deal"), "unknown_type"),
    ("type is a number", line_of(objectType=1), "unknown_type"),
    ("unknown action", line_of(action="PATCH"), "unknown_action"),
    ("action in lower case", line_of(action="upsert"), "unknown_action"),
    ("no id", line_of(externalObjectId=None), "bad_id"),
    ("null id", with_id(b"null"), "bad_id"),
    ("empty id", with_id(b'""'), "bad_id"),
    ("id of 101 characters", with_id(b'"' + b"x" * 101 + b'"'), "bad_id"),
    ("integer id of 101 digits", with_id(b"1" * 101), "bad_id"),
    ("integer id of 5,000 digits", with_id(b"1" * 5_000), "bad_id"),
    ("id not ASCII", with_id('"ä"'.encode()), "bad_id"),
    ("id not ASCII, escaped", with_id(b'"\\u00e4"'), "bad_id"),
    ("id not ASCII, beyond the BMP", with_id(b'"\\ud83d\\ude00"'), "bad_id"),
    ("id is true", with_id(b"true"), "bad_id"),
    ("id is a float", with_id(b"1.5"), "bad_id"),
    ("id is a list", with_id(b'["1"]'), "bad_id"),
    (
        "null store",
        b'{"storeId":null,"objectType":"DEAL","externalObjectId":"1"}',
        "bad_store",
    ),
    ("empty store", line_of(storeId=""), "bad_store"),
    ("store is a float", line_of(storeId=1.5), "bad_store"),
    ("negative changedAt", with_changed_at(b"-1"), "bad_changed_at"),
    ("negative changedAt as a string", with_changed_at(b'"-1"'), "bad_changed_at"),
    ("float changedAt", with_changed_at(b"1.5"), "bad_changed_at"),
    ("whole float changedAt", with_changed_at(b"1600000000000.0"), "bad_changed_at"),
    ("exponent changedAt", with_changed_at(b"1e12"), "bad_changed_at"),
    ("huge exponent changedAt", with_changed_at(b"1e400"), "bad_changed_at"),
    ("bool changedAt", with_changed_at(b"true"), "bad_changed_at"),
    ("changedAt too big", with_changed_at(b"9223372036854775808"), "bad_changed_at"),
    (
        "changedAt too big, as a string",
        with_changed_at(b'"9223372036854775808"'),
        "bad_changed_at",
    ),
    ("changedAt of 5,000 digits", with_changed_at(b"9" * 5_000), "bad_changed_at"),
    (
        "changedAt of 5,000 digits, as a string",
        with_changed_at(b'"' + b"9" * 5_000 + b'"'),
        "bad_changed_at",
    ),
    ("changedAt is a date", with_changed_at(b'"2020-01-01T00:00:00Z"'), "bad_changed_at"),
    ("changedAt is empty", with_changed_at(b'""'), "bad_changed_at"),
    ("changedAt of Arabic digits", with_changed_at('"١٢٣"'.encode()), "bad_changed_at"),
    ("properties are a string", with_properties(b'"x"'), "bad_map"),
    ("properties are a list", with_properties(b'["x"]'), "bad_map"),
    ("associations are a number", with_id(b'"1","associations":5'), "bad_map"),
]
TWICE_BAD_LINES: list[tuple[str, bytes]] = [
    ("null action, cut off", b'{"action":null,"storeId"'),
    ("unknown type, cut off", b'{"objectType":"COMPANY","storeId":"s",'),
    ("negative changedAt, then text", b'{"changedAt":-1,x'),
    ("null action, nested too deeply", b'{"action":null,"properties":{"a":' + DEEP + b"}}"),
    ("null action, trailing text", line_of(action=None)[:-1] + b',"action":null} x'),
    ("null type, huge changedAt", b'{"objectType":null,"changedAt":"' + b"9" * 5_000 + b'"}'),
]
EVERY_BAD_LINE = [(name, line) for name, line, _ in BAD_LINES] + TWICE_BAD_LINES


@pytest.mark.parametrize(
    ("line", "reason"),
    [(line, reason) for _, line, reason in BAD_LINES],
    ids=[b[0] for b in BAD_LINES],
)
def test_a_bad_line_is_rejected_with_its_reason(line: bytes, reason: str) -> None:
    decoded = decode(line)
    assert decoded.messages == []
    assert [rejection.reason for rejection in decoded.rejections] == [reason]
    detail = decoded.rejections[0].detail
    assert detail
    assert "\n" not in detail
    assert len(detail) < 500


@pytest.mark.parametrize(
    "line", [line for _, line in EVERY_BAD_LINE], ids=[name for name, _ in EVERY_BAD_LINE]
)
def test_a_bad_line_costs_nothing_but_itself(line: bytes) -> None:
    """Good lines beside a bad one are kept; the rejection says where the bad one is."""
    before, after = line_of(externalObjectId="before"), line_of(externalObjectId="after")
    data = before + b"\n\n" + line + b"\r\n" + after + b"\n"
    decoded = Decoder().decode(chunk_of(data, offset=1_000, first_line=50), READ_AT_MS)
    assert [message.external_object_id for message in decoded.messages] == ["before", "after"]
    assert list(decoded.indexes) == [0, 2]
    (rejection,) = decoded.rejections
    assert rejection.line == 52
    assert rejection.offset == 1_000 + len(before) + 2
    assert rejection.record == line
    assert rejection.source == "in.ndjson"


@pytest.mark.parametrize(
    "text", [b'{"a":"\\ud800"}', b'{"a":"\\udc00"}', b'{"a":"x\\ud83dy and more text"}']
)
def test_a_lone_surrogate_in_a_map_is_sent_as_it_is_or_rejected_but_never_raises(
    text: bytes,
) -> None:
    decoded = decode(with_properties(text) + b"\n" + GOOD)
    assert len(decoded.messages) + len(decoded.rejections) == 2
    for message in decoded.messages:
        strip_lane(message)
    assert json.loads(encode_messages(LANE, decoded.messages))


def test_a_surrogate_pair_in_a_map_is_taken() -> None:
    message = only_message(with_properties(b'{"a":"\\ud83d\\ude00"}'))
    assert json.loads(bytes(message.properties)) == {"a": "\U0001f600"}


def test_two_values_on_a_line_are_rejected_when_a_blank_line_makes_the_count_right() -> None:
    decoded = decode(b"\n" + GOOD + GOOD + b"\n")
    assert decoded.messages == []
    assert [(one.reason, one.line) for one in decoded.rejections] == [("not_json", 2)]


def test_a_value_spread_over_lines_is_rejected_when_two_on_a_line_make_the_count_right() -> None:
    data = GOOD[:12] + b"\n" + GOOD[12:] + b"\n" + GOOD + GOOD + b"\n"
    decoded = decode(data)
    assert decoded.messages == []
    assert [one.line for one in decoded.rejections] == [1, 2, 3]


def test_an_oversized_line_is_one_rejection_with_its_length() -> None:
    chunk = Chunk(b'{"storeId', "in.ndjson", 77, 5, 1, oversized_bytes=20_000_000)
    decoded = Decoder().decode(chunk, READ_AT_MS)
    assert (decoded.messages, list(decoded.indexes)) == ([], [])
    (rejection,) = decoded.rejections
    assert rejection.reason == "line_too_long"
    assert (rejection.line, rejection.offset, rejection.record) == (5, 77, b'{"storeId')
    assert "20000000" in rejection.detail
    assert 20_000_000 in rejection.extra.values()


# changedAt that is filled in


@either_way
def test_a_missing_changed_at_is_the_time_of_reading(*, takes_groups: bool) -> None:
    decoded = decode(line_of(changedAt=None), takes_groups=takes_groups)
    assert [message.changed_at for message in messages_in(decoded)] == [READ_AT_MS]


@either_way
def test_two_lines_of_one_object_never_get_equal_times(*, takes_groups: bool) -> None:
    """Also across chunks read in the same millisecond, and when the clock steps back."""
    decoder = Decoder(takes_groups=takes_groups)
    times: dict[str, list[int]] = {"a": [], "b": []}
    for read_at_ms in (READ_AT_MS, READ_AT_MS, READ_AT_MS - 5, READ_AT_MS + 1):
        data = b"\n".join(line_of(changedAt=None, externalObjectId=name) for name in "aabab")
        for message in messages_in(decoder.decode(chunk_of(data), read_at_ms)):
            assert isinstance(message.changed_at, int)
            times[str(message.external_object_id)].append(message.changed_at)
    for name, filled in times.items():
        assert filled == sorted(set(filled)), name


@either_way
@settings(deadline=None)
@given(
    chunks=st.lists(
        st.tuples(
            st.integers(0, 3),
            st.lists(st.sampled_from(["a", "b", 1, "1"]), min_size=1, max_size=6),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_filled_in_times_of_an_object_always_rise(
    *, takes_groups: bool, chunks: list[tuple[int, list[Any]]]
) -> None:
    decoder = Decoder(takes_groups=takes_groups)
    last: dict[object, int] = {}
    read_at_ms = READ_AT_MS
    for step_ms, ids in chunks:
        read_at_ms += step_ms
        data = b"\n".join(line_of(changedAt=None, externalObjectId=one) for one in ids)
        for message in messages_in(decoder.decode(chunk_of(data), read_at_ms)):
            assert isinstance(message.changed_at, int)
            assert message.changed_at > last.get(message.external_object_id, 0)
            last[message.external_object_id] = message.changed_at


def test_a_changed_at_that_is_given_is_not_touched() -> None:
    decoded = decode(GOOD + b"\n" + GOOD + b"\n" + line_of(changedAt=None))
    assert [message.changed_at for message in decoded.messages] == [
        1_600_000_000_000,
        1_600_000_000_000,
        READ_AT_MS,
    ]


# Warnings


@either_way
def test_seconds_are_taken_and_warned_about_once(*, takes_groups: bool) -> None:
    decoder = Decoder(takes_groups=takes_groups)
    chunk = chunk_of(GOOD + b"\n" + line_of(changedAt=1_600_000_000))
    first, second = decoder.decode(chunk, READ_AT_MS), decoder.decode(chunk, READ_AT_MS)
    assert bool(first.groups) == takes_groups
    assert count_in(first) == 2
    assert len(first.warnings) == 1
    assert "seconds" in first.warnings[0]
    assert "1600000000 " in first.warnings[0]
    assert second.warnings == []


@either_way
def test_null_property_values_are_taken_and_warned_about_once(*, takes_groups: bool) -> None:
    decoder = Decoder(takes_groups=takes_groups)
    chunk = chunk_of(line_of(properties={"a": None}))
    first, second = decoder.decode(chunk, READ_AT_MS), decoder.decode(chunk, READ_AT_MS)
    assert bool(first.groups) == takes_groups
    assert count_in(first) == 1
    assert len(first.warnings) == 1
    assert "null" in first.warnings[0]
    assert second.warnings == []


def test_null_property_values_reach_the_bridge_as_they_are() -> None:
    message = only_message(line_of(properties={"a": None}))
    assert json.loads(bytes(message.properties)) == {"a": None}


@either_way
def test_what_was_warned_of_in_one_way_is_not_warned_of_in_the_other(*, takes_groups: bool) -> None:
    """A chunk with something to normalise comes as messages; see `takes_groups`."""
    bad = line_of(changedAt=1_600_000_000, properties={"a": None})
    chunks = [chunk_of(bad), chunk_of(bad + b"\n" + with_id(b'"1","action":null'))]
    for first, then in (chunks, chunks[::-1]):
        decoder = Decoder(takes_groups=takes_groups)
        decoded = [decoder.decode(chunk, READ_AT_MS) for chunk in (first, then)]
        assert {bool(one.groups) for one in decoded} == {takes_groups, False}
        assert [len(one.warnings) for one in decoded] == [2, 0]


@either_way
def test_the_earliest_time_that_is_no_second_gives_no_warning(*, takes_groups: bool) -> None:
    decoder = Decoder(takes_groups=takes_groups)
    for changed_at, count in ((10**11, 0), (10**11 - 1, 1)):
        decoded = decoder.decode(chunk_of(line_of(changedAt=changed_at)), READ_AT_MS)
        assert len(decoded.warnings) == count


@either_way
@pytest.mark.parametrize(
    ("text", "is_null_value"),
    [
        (b'{"a":null}', True),
        (b'{ "a" : "x", "b"\t: null }', True),
        (b'{"a":{"b":null}}', True),
        (b'{"a":[null]}', False),
        (b'{"null":"x"}', False),
        (b'{"a":"null"}', False),
        (b"{}", False),
    ],
)
def test_only_a_null_that_is_a_value_is_warned_of(
    text: bytes, *, is_null_value: bool, takes_groups: bool
) -> None:
    decoded = decode(with_properties(text), takes_groups=takes_groups)
    assert bool(decoded.groups) == takes_groups
    assert bool(decoded.warnings) == is_null_value


@either_way
def test_a_null_association_is_not_warned_of(*, takes_groups: bool) -> None:
    decoded = decode(line_of(associations={"CONTACT": None}), takes_groups=takes_groups)
    assert decoded.warnings == []


@needs_scanner
@pytest.mark.parametrize("more", [0, 1])
def test_a_line_of_megabytes_is_a_group_as_its_body_is_made_from_where_it_was_read(
    more: int,
) -> None:
    around = len(line_of(properties={"a": ""}))
    data = line_of(properties={"a": "x" * ((1 << 20) - around + more)})
    assert len(data) == (1 << 20) + more
    decoded = decode(data, takes_groups=True)
    assert decoded.groups is not None
    assert count_in(decoded) == 1


def test_good_lines_give_no_warnings() -> None:
    assert decode(GOOD + b"\n" + line_of(properties={"a": "x"})).warnings == []


def test_a_null_map_is_no_null_property() -> None:
    assert decode(with_properties(b"null")).warnings == []


# Properties

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text("ab"), children),
    max_leaves=5,
)
good_lines = st.builds(
    line_of,
    externalObjectId=st.text("abc1", min_size=1, max_size=3) | st.integers(0, 5),
    storeId=st.sampled_from(["s", "t", 7]),
    changedAt=st.none() | st.integers(0, 2**63 - 1) | st.just("1600000000000"),
    action=st.sampled_from([None, "UPSERT", "DELETE"]),
    properties=st.none() | st.dictionaries(st.text("abc"), st.text("xyzä")) | st.just([]),
)
shallow_bad_lines = st.sampled_from([line for _, line in EVERY_BAD_LINE if len(line) < 10_000])
half_lines = st.sampled_from([GOOD[:20], GOOD[20:], b"{", b"}", GOOD + GOOD])
blank_lines = st.sampled_from([b"", b" ", b"\t\r"])
mixes = st.lists(good_lines | shallow_bad_lines | half_lines | blank_lines, min_size=1, max_size=12)


@settings(deadline=None)
@given(mixes, st.sampled_from([b"", b"\n"]))
@example([b"", GOOD + GOOD], b"\n")
@example([b'{"action":null,x', GOOD], b"\n")
def test_a_chunk_decodes_as_its_lines_do(lines: list[bytes], end: bytes) -> None:
    """A whole chunk and line by line give the same; nothing is lost, nothing counted twice."""
    data = b"\n".join(lines) + end
    decoded = decode(data)
    expected_messages, expected_rejections, expected_indexes = [], [], []
    index = 0
    for number, line in enumerate(lines, 1):
        if not line.strip(b" \t\r"):
            continue
        alone = decode(line)
        assert len(alone.messages) + len(alone.rejections) == 1
        for message in alone.messages:
            expected_indexes.append(index)
            expected_messages.append(shown(message))
        expected_rejections += [(one.reason, number, one.record) for one in alone.rejections]
        index += 1
    assert [shown(message) for message in decoded.messages] == expected_messages
    assert list(decoded.indexes) == expected_indexes
    assert [(r.reason, r.line, r.record) for r in decoded.rejections] == expected_rejections
    for rejection in decoded.rejections:
        start = rejection.offset
        assert data[start : start + len(rejection.record)] == rejection.record


def shown(message: SyncMessage) -> tuple[object, ...]:
    """All of a message but a time that was filled in."""
    changed_at = message.changed_at
    is_filled = isinstance(changed_at, int) and READ_AT_MS <= changed_at < READ_AT_MS + 1_000
    return (
        message.external_object_id,
        message.store_id,
        message.object_type,
        message.action,
        None if is_filled else changed_at,
        bytes(message.properties),
        bytes(message.associations),
    )


@settings(deadline=None)
@given(st.binary(max_size=200))
@example(b"{" * 100)
def test_arbitrary_bytes_never_raise(data: bytes) -> None:
    chunk = chunk_of(data)
    decoded = Decoder().decode(chunk, READ_AT_MS)
    assert len(decoded.messages) + len(decoded.rejections) == len(list(chunk.lines()))


@settings(deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=2))
def test_a_good_line_with_some_bytes_replaced_never_raises(at: int, patch: bytes) -> None:
    data = GOOD[:at] + patch + GOOD[at + len(patch) :]
    chunk = chunk_of(data)
    decoded = Decoder().decode(chunk, READ_AT_MS)
    assert len(decoded.messages) + len(decoded.rejections) == len(list(chunk.lines()))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text("abc/ %", min_size=1, max_size=5),
            st.sampled_from(["UPSERT", "DELETE"]),
            st.integers(0, 2**63 - 1),
            st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), json_values),
            st.dictionaries(st.sampled_from(["CONTACT", "DEAL"]), st.lists(st.text("c1"))),
        ),
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
)
def test_what_is_decoded_is_encoded_again_as_it_was(
    records: list[tuple[str, str, int, dict[str, Any], dict[str, list[str]]]],
    ensure_ascii: bool,  # noqa: FBT001
) -> None:
    """The maps of a request have the values of the input: unicode, big numbers, nesting."""
    keys = ("externalObjectId", "action", "changedAt", "properties", "associations")
    expected = [dict(zip(keys, record, strict=True)) for record in records]
    lines = [
        json.dumps({"storeId": "s", "objectType": "DEAL", **one}, ensure_ascii=ensure_ascii)
        for one in expected
    ]
    decoded = decode("\n".join(lines).encode())
    assert decoded.rejections == []
    for message in decoded.messages:
        strip_lane(message)
    body = json.loads(encode_messages(LANE, decoded.messages))
    assert body == {"storeId": "s", "objectType": "DEAL", "messages": expected}


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1.10,"b":1e400,"c":123456789012345678901234567890}',
        b'{ "a" : "\\u00e4\\/" , "b" : "\xc3\xa4" }',
        b'{"a":"1","a":"2"}',
    ],
)
def test_a_map_keeps_its_very_bytes(text: bytes) -> None:
    message = only_message(with_properties(text))
    strip_lane(message)
    assert text in encode_messages(LANE, [message])


def strip_lane(message: SyncMessage) -> None:
    """As joining a lane does."""
    message.store_id = message.object_type = UNSET


def test_types_of_the_model_are_those_of_the_reference() -> None:
    types: list[ObjectType] = ["CONTACT", "PRODUCT", "DEAL", "LINE_ITEM"]
    data = b"\n".join(line_of(objectType=one) for one in types)
    assert [message.object_type for message in decode(data).messages] == types
