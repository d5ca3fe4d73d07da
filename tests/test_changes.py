"""Records become sync messages, reasons to pass over them, or problems; never an exception."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pusher.changes import CHANGE_FORMATS, Converter, change_format_of
from pusher.decoding import Decoder
from pusher.envelopes import FORMATS, Unwrapper, format_of
from pusher.errors import UsageError
from pusher.mapping import Mapping
from pusher.model import Chunk, Problem
from pusher.records import Record, Skipped, epoch_ms_of

MAP = """
[tables."shop.public.customers"]
type = "CONTACT"
store = { field = "shop" }
id = ["id", "line"]
changedAt = { field = "at", unit = "us" }
omit = ["shop"]
associations = { DEAL = "deals", PRODUCT = "product.id" }

[topics."raw.*"]
type = "DEAL"
store = 7
id = "$key"
changedAt = "when"
properties = { total = "sum.amount", topic = "$topic" }

[topics.audit]
skip = true
"""
ROW = {"id": 5, "line": "b", "shop": "s1", "at": 1_700_000_000_123_456, "n": None, "x": 1.50}


def converter(**more: Any) -> Converter:
    return Converter(mapping=Mapping.parse(MAP, "map.toml"), **more)


def record(value: object, *, key: object = None, topic: str = "p.shop.public.customers") -> Record:
    data = None if value is None else json.dumps(value).encode()
    return Record(data, None if key is None else json.dumps(key).encode(), topic, 0, 1, 1_000)


def debezium(op: str, row: dict[str, Any] | None) -> dict[str, Any]:
    source = {"db": "shop", "schema": "public", "table": "customers"}
    return {
        "before": row if op == "d" else None,
        "after": None if op == "d" else row,
        "source": source,
        "op": op,
    }


def message_of(outcome: object) -> dict[str, Any]:
    assert isinstance(outcome, bytes), outcome
    chunk = Chunk(outcome, "in", 0, 1, 1)
    assert len(Decoder(default_store="s").decode(chunk, 1).messages) == 1
    message: dict[str, Any] = json.loads(outcome)
    return message


def test_a_row_becomes_a_message_as_its_mapping_says() -> None:
    row = {**ROW, "deals": [1, "2"], "product": {"id": 9}, "big": "__debezium_unavailable_value"}
    assert message_of(converter().convert(record(debezium("u", row)))) == {
        "objectType": "CONTACT",
        "action": "UPSERT",
        "externalObjectId": "5-b",
        "storeId": "s1",
        "changedAt": 1_700_000_000_123,
        "properties": {
            "id": "5",
            "line": "b",
            "at": "1700000000123456",
            "n": "",
            "x": "1.5",
            "deals": '[1, "2"]',
            "product": '{"id": 9}',
        },
        "associations": {"DEAL": ["1", "2"], "PRODUCT": ["9"]},
    }


def test_what_kafka_knows_can_be_an_id_and_a_property() -> None:
    value = {"sum": {"amount": 3}, "when": "2024-02-29T12:00:00.5+01:00"}
    outcome = converter().convert(record(value, key="k 1", topic="raw.orders"))
    assert message_of(outcome) == {
        "objectType": "DEAL",
        "action": "UPSERT",
        "externalObjectId": "k 1",
        "storeId": "7",
        "changedAt": 1_709_204_400_500,
        "properties": {"total": "3", "topic": "raw.orders"},
    }


@pytest.mark.parametrize("wraps", [True, False])
def test_a_delete_and_its_tombstone_are_one_delete(wraps: bool) -> None:  # noqa: FBT001
    key: dict[str, Any] = {"id": 5, "line": "b", "shop": "s1"}
    value = debezium("d", ROW)
    if wraps:
        key, value = {"schema": None, "payload": key}, {"schema": None, "payload": value}
    one = converter()
    message = message_of(one.convert(record(value, key=key)))
    assert (message["action"], message["externalObjectId"]) == ("DELETE", "5-b")
    assert message["changedAt"] == 1_000
    assert one.convert(record(None, key=key)) == Skipped("tombstone_of_pair")
    later = message_of(one.convert(record(None, key=key)))
    assert (later["action"], later["externalObjectId"]) == ("DELETE", "5-b")


def test_a_tombstone_finds_its_table_by_the_end_of_the_topic() -> None:
    """Debezium's topics of Postgres have the schema and the table, but no database."""
    key = {"id": 5, "line": "b", "shop": "s1"}
    for topic in ("prefix.public.customers", "prefix.shop.public.customers"):
        outcome = converter().convert(record(None, key=key, topic=topic))
        assert message_of(outcome)["action"] == "DELETE"
    outcome = converter().convert(record(None, key=key, topic="prefix.other.customers"))
    assert outcome == Skipped("tombstone_without_mapping")


def test_a_change_between_makes_the_tombstone_a_delete_of_its_own() -> None:
    one, key = converter(), {"id": 5, "line": "b", "shop": "s1"}
    one.convert(record(debezium("d", ROW), key=key))
    one.convert(record(debezium("c", ROW), key=key))
    assert message_of(one.convert(record(None, key=key)))["action"] == "DELETE"


def test_a_delete_with_the_key_columns_only_takes_the_rest_from_the_key() -> None:
    outcome = converter().convert(
        record(debezium("d", {"id": 5}), key={"id": 5, "line": "b", "shop": "s1"})
    )
    assert message_of(outcome)["externalObjectId"] == "5-b"


@pytest.mark.parametrize(
    ("value", "topic", "reason"),
    [
        ({"source": {}, "op": "t"}, "a", "truncate"),
        ({"source": {}, "op": "m", "message": {}}, "a", "message"),
        ({"source": {}, "ddl": "DROP", "databaseName": "d"}, "a", "ddl"),
        ({"status": "BEGIN", "id": "1"}, "a", "transaction"),
        ({"ts_ms": 1}, "a", "heartbeat"),
        (debezium("c", {"a": 1}) | {"source": {"table": "x"}}, "audit", "unmapped"),
    ],
)
def test_what_has_nothing_to_send_is_skipped(value: object, topic: str, reason: str) -> None:
    assert converter(change="debezium").convert(record(value, topic=topic)) == Skipped(reason)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**ROW, "id": None}, "no_id"),
        ({**ROW, "id": ""}, "no_id"),
        ({"line": "b", "shop": "s1"}, "no_id"),
        ({**ROW, "shop": None}, "no_store"),
        ({**ROW, "at": "yesterday"}, "bad_changed_at"),
        ({**ROW, "at": -1}, "bad_changed_at"),
    ],
)
def test_a_row_that_makes_no_message_is_a_problem(row: dict[str, Any], reason: str) -> None:
    outcome = converter().convert(record(debezium("c", row)))
    assert isinstance(outcome, Problem)
    assert outcome.reason == reason


def test_a_table_without_an_entry_is_a_problem_or_skipped() -> None:
    value = debezium("c", {"id": 1}) | {"source": {"db": "shop", "table": "other"}}
    outcome = converter().convert(record(value, topic="p.shop.other"))
    assert isinstance(outcome, Problem)
    assert outcome.reason == "no_mapping"
    assert "shop.other" in outcome.detail
    mapping = Mapping.parse('unmapped = "skip"\n' + MAP, "map.toml")
    outcome = Converter(mapping=mapping).convert(record(value, topic="p.shop.other"))
    assert outcome == Skipped("unmapped")


def test_maxwell_rows_deletes_and_ddl() -> None:
    one = converter()
    base = {"database": "shop", "table": "public.customers", "ts": 1_700_000_000}
    line = {**base, "type": "insert", "data": ROW}
    assert message_of(one.convert(record(line)))["externalObjectId"] == "5-b"
    line = {**base, "type": "delete", "data": ROW}
    without_time = record(line)._replace(timestamp_ms=None)
    assert message_of(one.convert(without_time))["changedAt"] == 1_700_000_000_000
    assert one.convert(record({**base, "type": "table-create"})) == Skipped("ddl")
    assert one.convert(record({**base, "type": "bootstrap-start"})) == Skipped("bootstrap")


def test_flattened_rows_say_themselves_that_they_are_deleted() -> None:
    one = converter()
    message = message_of(one.convert(record({**ROW, "__deleted": "true"})))
    assert message["action"] == "DELETE"
    message = message_of(one.convert(record({**ROW, "__deleted": "false"})))
    assert "__deleted" not in message["properties"]


def test_the_time_of_a_record_fills_only_a_missing_one() -> None:
    one = Converter()
    for fields, wanted in (
        ({}, 1_000),
        ({"changedAt": None}, 1_000),
        ({"changedAt": 5}, 5),
        ({"properties": {"changedAt": 5}}, 1_000),
    ):
        base = {"externalObjectId": "1", "storeId": "s", "objectType": "DEAL"}
        assert message_of(one.convert(record({**base, **fields})))["changedAt"] == wanted


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"externalObjectId": "1"}, "canonical"),
        ({"id": 1}, "canonical"),
        (debezium("c", ROW), "debezium"),
        ({"schema": {"type": "struct"}, "payload": debezium("d", ROW)}, "debezium"),
        ({"schema": None, "payload": {"id": 1}}, "connect"),
        ({"schema": "x", "payload": {"id": 1}}, "canonical"),
        ({"op": "c", "source": "web", "after": {}}, "canonical"),
        ({"database": "d", "table": "t", "type": "insert", "data": {}}, "maxwell"),
        ({"database": "d", "table": "t", "type": "insert"}, "canonical"),
        ({"id": 1, "__op": "c"}, "debezium-flat"),
        (json.dumps(debezium("c", ROW)), "debezium"),
        (5, None),
    ],
)
def test_the_values_are_told_from_one(value: object, name: str | None) -> None:
    assert change_format_of(json.dumps(value).encode()) == name


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('type = "DEAL"', 'type = "DEALS"', 'topics."raw.*".type: must be one of'),
        ('id = "$key"', "", 'topics."raw.*".id: is missing'),
        ('id = "$key"', 'id = "$nope"', "must be a field, or one of $key"),
        ('unit = "us"', 'unit = "min"', "changedAt.unit: must be one of s, ms, us, ns"),
        ("store = 7", "stor = 7", "stor: is not known; did you mean store?"),
        ("store = 7", "store = true", ".store: must be a store id"),
        ('DEAL = "deals"', "DEAL = 3", ".associations.DEAL: must be the name of a field"),
        ('DEAL = "deals"', 'ORDER = "o"', ".associations.ORDER: is not known"),
        ('total = "sum.amount"', "total = 1", ".properties.total: must be the name"),
        ("skip = true", "skip = 1", ".skip: must be true or false"),
        ("skip = true", 'skip = true\nid = "x"', "an entry that is skipped has no more"),
        ("[topics.audit]", "[topic.audit]", "topic: is not known; did you mean topics?"),
        ("[topics.audit]", "[topics.audit", "not TOML"),
        (MAP, "", "it needs a [topics"),
        (MAP, 'unmapped = "no"', "unmapped: must be"),
    ],
)
def test_a_mistake_in_a_mapping_is_named_by_its_key(old: str, new: str, complaint: str) -> None:
    assert old in MAP
    with pytest.raises(UsageError) as caught:
        Mapping.parse(MAP.replace(old, new), "map.toml")
    text = str(caught.value)
    assert text.startswith("map.toml: ")
    assert complaint in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2000-02-29 23:59:59.123456", 951_868_799_123),
        ("2024-12-31T23:00:00-0130", 1_735_691_400_000),
        ("2024-01-01T00:00", 1_704_067_200_000),
        ("2024-13-01T00:00:00Z", None),
        ("soon", None),
    ],
)
def test_iso_times(text: str, time_ms: int | None) -> None:
    assert epoch_ms_of(text) == time_ms


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "topic",
                    "partition",
                    "offset",
                    "payload",
                    "key",
                    "value",
                    "op",
                    "before",
                    "after",
                    "source",
                    "schema",
                    "data",
                    "type",
                    "table",
                    "database",
                    "ts",
                    "ts_ms",
                    "records",
                    "id",
                    "line",
                    "shop",
                    "at",
                    "__deleted",
                    "__op",
                    "timestamp",
                    "Value",
                    "status",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)
NOISE = st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode())


@settings(deadline=None, max_examples=300)
@given(NOISE, NOISE | st.none(), st.sampled_from([None, *CHANGE_FORMATS]), st.sampled_from(FORMATS))
def test_whatever_comes_nothing_is_raised(
    value: bytes, key: bytes | None, change: Any, file_format: Any
) -> None:
    for topic in ("p.shop.public.customers", "raw.x", None):
        one = converter(change=change)
        for data in (value, None, value):
            outcome = one.convert(Record(data, key, topic, 0, 0, None))
            assert isinstance(outcome, bytes | Skipped | Problem)
            assert not isinstance(outcome, bytes) or b"\n" not in outcome
    line = value.replace(b"\n", b" ") or b" "
    assert format_of(line) in (None, *FORMATS)
    unwrapped = Unwrapper(file_format).one(line)
    assert isinstance(unwrapped, Record | Problem | list)
