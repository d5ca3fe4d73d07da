"""Changes of databases on live topics: Debezium's, with and without schema, and Maxwell's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from fakes.command import Ended, letters_in, run
from fakes.endpoint import Endpoint

from kafka.broker import Broker
from kafka.members import name_of_a_topic

MAP = """
[tables."shop.customers"]
type = "CONTACT"
store = "s1"
id = "id"
associations = { DEAL = "deal_ids" }

[tables."shop.customers".properties]
email = "mail"
city = "address.city"

[tables."shop.orders"]
type = "DEAL"
store = "s1"
id = ["shop", "number"]
changedAt = { field = "updated", unit = "us" }
properties = ["status"]

[tables."shop.sessions"]
skip = true
"""
TIME_MS = 1_700_000_000_000
COLUMNS = [{"type": "int64", "field": "id"}]

Records = list[tuple[Any, Any]]
"""Keys and values that become JSON; None is null."""


def in_schema(payload: Any) -> Any:
    """As JsonConverter writes it with schemas.enable=true."""
    schema = {"type": "struct", "fields": COLUMNS, "optional": False, "name": "shop.Value"}
    return {"schema": schema, "payload": payload}


def debezium(op: str, table: str, before: Any = None, after: Any = None) -> dict[str, Any]:
    source = {"version": "3.0", "connector": "mysql", "db": "shop", "table": table, "ts_ms": 5}
    return {"before": before, "after": after, "source": source, "op": op, "ts_ms": 6}


def maxwell(kind: str, table: str, data: Any = None, **more: Any) -> dict[str, Any]:
    change = {"database": "shop", "table": table, "type": kind, "ts": 1_600_000_000, **more}
    return change if data is None else {**change, "data": data}


def produce(broker: Broker, topic: str, records: Records) -> None:
    producer = Producer({"bootstrap.servers": broker.address})
    for number, (key, value) in enumerate(records):
        producer.produce(
            topic,
            None if value is None else json.dumps(value),
            None if key is None else json.dumps(key),
            partition=0,
            timestamp=TIME_MS + number,
        )
    assert producer.flush(20) == 0


@pytest.fixture
def topic(broker: Broker) -> str:
    return broker.create_topic(f"{name_of_a_topic()}.shop.customers", 1)


async def push(
    broker: Broker, topic: str, endpoint: Endpoint, cwd: Path, *options: str, mapping: str = MAP
) -> Ended:
    (cwd / "map.toml").write_text(mapping)
    return await run(
        *("push", f"kafka://{broker.address}/{topic}?group=g-{topic}", "--map", "map.toml"),
        *("--url", endpoint.url, "--no-preflight", "--confirm", "0", "--report", "-"),
        *("--until", "end", "--group-protocol", "classic" if broker.is_real else "consumer"),
        *("--linger", "50ms"),
        *options,
        cwd=cwd,
    )


def summed_up(endpoint: Endpoint) -> list[tuple[Any, ...]]:
    """What was delivered: action, type, id, properties, associations, changedAt since TIME_MS."""
    return [
        (
            one["action"],
            one["objectType"],
            one["externalObjectId"],
            one.get("properties") or {},
            one.get("associations") or {},
            one["changedAt"] - TIME_MS,
        )
        for one in endpoint.delivered
    ]


@pytest.mark.parametrize("has_schema", [True, False])
async def test_debezium_changes_with_deletes_and_tombstones_become_messages(
    broker: Broker, topic: str, endpoint: Endpoint, tmp_path: Path, *, has_schema: bool
) -> None:
    ann = {"id": 1, "mail": "ann@x", "address": {"city": "Rome"}, "deal_ids": [7, 8]}
    bob = {"id": 2, "mail": None, "address": None, "deal_ids": None}
    order = {"shop": "a", "number": 9, "status": "paid", "updated": (TIME_MS + 500) * 1000}
    changes: Records = [
        ({"id": 1}, debezium("r", "customers", after=ann)),
        ({"id": 2}, debezium("c", "customers", after=bob)),
        ({"id": 1}, debezium("u", "customers", before=ann, after={**ann, "mail": "new@x"})),
        ({"id": 1}, debezium("d", "customers", before=ann)),
        ({"id": 1}, None),  # The second half of that delete.
        ({"id": 3}, None),  # A delete of its own: the first half was compacted away.
        ({"id": 2}, debezium("d", "customers", before={"id": 2})),  # Replica identity: the key.
        ({"id": 2}, debezium("c", "customers", after=bob)),  # It comes back, without a tombstone
        ({"id": 2}, None),  # between: so this one is a delete of its own.
        ({"shop": "a", "number": 9}, debezium("c", "orders", after=order)),
        ({"shop": "a", "number": 9}, debezium("d", "orders", before=None)),
        ({"shop": "a", "number": 9}, None),
        ({"id": 5}, debezium("c", "sessions", after={"id": 5})),
        (None, debezium("t", "customers")),
        (None, debezium("m", "customers")),
        ({"id": 6}, debezium("c", "products", after={"id": 6})),  # Not in the mapping.
        ({"id": 7}, debezium("c", "customers", after={"mail": "no id"})),
    ]
    if has_schema:
        changes = [
            (None if key is None else in_schema(key), None if one is None else in_schema(one))
            for key, one in changes
        ]
    produce(broker, topic, changes)
    ended = await push(broker, topic, endpoint, tmp_path)
    assert ended.code == 1, ended.err
    assert "the values are debezium" in ended.err
    of_ann = {"email": "ann@x", "city": "Rome"}
    links = {"DEAL": ["7", "8"]}
    assert ordered(endpoint) == {
        ("CONTACT", "1"): [
            ("UPSERT", of_ann, links, 0),
            ("UPSERT", {**of_ann, "email": "new@x"}, links, 2),
            ("DELETE", {}, {}, 3),
        ],
        ("CONTACT", "2"): [
            ("UPSERT", {"email": ""}, {}, 1),
            ("DELETE", {}, {}, 6),
            ("UPSERT", {"email": ""}, {}, 7),
            ("DELETE", {}, {}, 8),
        ],
        ("CONTACT", "3"): [("DELETE", {}, {}, 5)],
        ("DEAL", "a-9"): [("UPSERT", {"status": "paid"}, {}, 500), ("DELETE", {}, {}, 10)],
    }
    assert ended.report["skipped"] == {
        "tombstone_of_pair": 2,
        "unmapped": 1,
        "truncate": 1,
        "message": 1,
    }
    assert [one["reason"] for one in letters_in(tmp_path)] == ["no_mapping", "no_id"]
    assert (await push(broker, topic, endpoint, tmp_path)).counts() == (0, 0, 0, 0)


def ordered(endpoint: Endpoint) -> dict[tuple[str, str], list[tuple[Any, ...]]]:
    """What was delivered of each object, in its order."""
    found: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    for action, object_type, external_id, *rest in summed_up(endpoint):
        found.setdefault((object_type, external_id), []).append((action, *rest))
    return found


async def test_a_tombstone_that_the_next_run_reads_repeats_the_delete_and_does_no_harm(
    broker: Broker, topic: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    produce(broker, topic, [({"id": 1}, debezium("d", "customers", before={"id": 1}))])
    await push(broker, topic, endpoint, tmp_path)
    produce(broker, topic, [({"id": 1}, None)])
    ended = await push(broker, topic, endpoint, tmp_path)
    assert ended.counts() == (1, 1, 0, 0)
    assert [one[:3] for one in summed_up(endpoint)] == [("DELETE", "CONTACT", "1")] * 2


async def test_maxwell_changes_become_messages_and_ddl_and_bootstrap_marks_are_skipped(
    broker: Broker, topic: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    key = {"database": "shop", "table": "customers", "pk.id": 1}
    ann = {"id": 1, "mail": "ann@x", "address": {"city": "Rome"}, "deal_ids": 7}
    produce(
        broker,
        topic,
        [
            (None, maxwell("table-create", "customers", sql="create table")),
            (None, maxwell("bootstrap-start", "customers", {})),
            (key, maxwell("bootstrap-insert", "customers", ann)),
            (None, maxwell("bootstrap-complete", "customers", {})),
            (key, maxwell("update", "customers", {**ann, "mail": "new@x"}, old={"mail": "ann@x"})),
            (key, maxwell("delete", "customers", ann)),
            (key, maxwell("insert", "sessions", {"id": 3})),
            (key, maxwell("insert", "products", {"id": 4})),
        ],
    )
    ended = await push(broker, topic, endpoint, tmp_path, mapping=f'unmapped = "skip"\n{MAP}')
    assert ended.code == 0, ended.err
    assert "the values are maxwell" in ended.err
    of_ann = {"email": "ann@x", "city": "Rome"}
    assert ordered(endpoint) == {
        ("CONTACT", "1"): [
            ("UPSERT", of_ann, {"DEAL": ["7"]}, 2),
            ("UPSERT", {**of_ann, "email": "new@x"}, {"DEAL": ["7"]}, 4),
            ("DELETE", {}, {}, 5),
        ]
    }
    assert ended.report["skipped"] == {"ddl": 1, "bootstrap": 2, "unmapped": 2}
