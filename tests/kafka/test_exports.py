"""Exports that the real tools have written from a real broker are pushed as what they are."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from fakes.command import letters_in, message, run
from fakes.endpoint import Endpoint

from kafka.broker import Broker, Kafka

MAP = """
[tables."shop.customers"]
type = "CONTACT"
store = "s1"
id = "id"
properties = { email = "mail" }
"""
SOURCE = {"db": "shop", "table": "customers", "ts_ms": 5}
TIME_MS = 1_700_000_000_123

needs_kcat = pytest.mark.skipif(shutil.which("kcat") is None, reason="needs kcat")

Produced = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]


def produce(broker: Broker, records: list[Produced], partitions: int = 1) -> str:
    topic = broker.create_topic(f"x.shop.customers-{uuid.uuid4().hex}", partitions)
    producer = Producer({"bootstrap.servers": broker.address})
    for number, (key, value, headers) in enumerate(records):
        producer.produce(
            topic,
            value,
            key,
            partition=number % partitions,
            timestamp=TIME_MS + number,
            headers=headers,  # type: ignore[arg-type]
        )
    assert producer.flush(20) == 0
    return topic


def kcat(broker: Broker, topic: str, path: Path) -> Path:
    shown = subprocess.run(
        ["kcat", "-C", "-J", "-e", "-q", "-o", "beginning", "-b", broker.address, "-t", topic],
        check=True,
        capture_output=True,
        timeout=30,
    )
    path.write_bytes(shown.stdout)
    return path


async def pushed(endpoint: Endpoint, cwd: Path, *arguments: str | Path) -> Any:
    return await run(
        "push", "--url", endpoint.url, "--confirm", "0", "--report", "-", *arguments, cwd=cwd
    )


def canonical(number: int) -> bytes:
    one = message(number)
    del one["changedAt"]
    return json.dumps(one).encode()


def change(op: str, row: dict[str, Any] | None) -> bytes:
    sides = {"before": row if op == "d" else None, "after": None if op == "d" else row}
    return json.dumps({**sides, "source": SOURCE, "op": op, "ts_ms": 6}).encode()


@needs_kcat
async def test_messages_in_kcat_keep_the_time_of_their_records(
    broker: Broker, endpoint: Endpoint, tmp_path: Path
) -> None:
    records: list[Produced] = [(b"k%d" % n, canonical(n), [("h", b"v")]) for n in range(20)]
    records.append((b"\xff\xfe", canonical(20), [("h", None)]))  # A key that is not UTF-8.
    records.append((b"k1", None, []))
    records.append((b"k2", b"", []))
    topic = await asyncio.to_thread(produce, broker, records)
    path = await asyncio.to_thread(kcat, broker, topic, tmp_path / "export.json")
    result = await pushed(endpoint, tmp_path, path)
    assert "detected kcat" in result.err
    assert result.counts() == (23, 21, 1, 0)
    assert result.report["skipped"] == {"tombstone_without_mapping": 1}
    assert {one["externalObjectId"]: one["changedAt"] for one in endpoint.delivered} == {
        f"id{n}": TIME_MS + n for n in range(21)
    }
    (letter,) = letters_in(tmp_path)
    assert (letter["reason"], letter["format"], letter["line"]) == ("not_json", "kcat", 23)
    assert json.loads(letter["record"])["offset"] == 22


@needs_kcat
async def test_debezium_changes_in_kcat_are_mapped_and_a_pair_is_one_delete(
    broker: Broker, endpoint: Endpoint, tmp_path: Path
) -> None:
    key = b'{"id":7}'
    topic = await asyncio.to_thread(
        produce,
        broker,
        [
            (key, change("c", {"id": 7, "mail": "a@b.c", "age": 3}), []),
            (key, change("d", {"id": 7, "mail": "a@b.c"}), []),
            (key, None, []),
            (b'{"id":8}', None, []),
            (None, change("t", None), []),
        ],
    )
    path = await asyncio.to_thread(kcat, broker, topic, tmp_path / "export.json")
    (tmp_path / "map.toml").write_text(f'{MAP}[topics."*"]\ntype="CONTACT"\nstore="s1"\nid="id"\n')
    result = await pushed(endpoint, tmp_path, path, "--map", "map.toml")
    assert result.code == 0, result.err
    assert result.report["skipped"] == {"tombstone_of_pair": 1, "truncate": 1}
    assert [(one["action"], one["externalObjectId"]) for one in endpoint.delivered] == [
        ("UPSERT", "7"),
        ("DELETE", "7"),
        ("DELETE", "8"),
    ]
    assert endpoint.delivered[0]["properties"] == {"email": "a@b.c"}


@pytest.mark.timeout(150)  # The consumer is a Java program that starts anew each time.
@pytest.mark.parametrize(
    ("shows_key", "shows_headers"), [(True, True), (True, False), (False,) * 2]
)
async def test_the_columns_of_the_console_consumer_are_read(
    shows_key: bool,  # noqa: FBT001
    shows_headers: bool,  # noqa: FBT001
    kafka: Kafka,
    endpoint: Endpoint,
    tmp_path: Path,
) -> None:
    records: list[Produced] = [
        (b"k1", canonical(1), [("a", b"b"), ("c", b"d")]),
        (None, canonical(2), []),
        (b"k3", None, []),
    ]
    topic = await asyncio.to_thread(produce, kafka, records)
    properties = {
        "print.timestamp": True,
        "print.partition": True,
        "print.offset": True,
        "print.headers": shows_headers,
        "print.key": shows_key,
    }
    formatting = [
        part
        for name, value in properties.items()
        for part in ("--property", f"{name}={str(value).lower()}")
    ]
    shown = await asyncio.to_thread(
        kafka.tool,
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        *("--topic", topic, "--from-beginning", "--max-messages", "3", *formatting),
        timeout_s=100,
    )
    (tmp_path / "console.txt").write_bytes(shown)
    result = await pushed(endpoint, tmp_path, "console.txt")
    assert "detected console-consumer" in result.err
    assert result.code == 0, result.err
    assert [(one["externalObjectId"], one["changedAt"]) for one in endpoint.delivered] == [
        ("id1", TIME_MS),
        ("id2", TIME_MS + 1),
    ]
    reason = "tombstone_without_mapping" if shows_key else "tombstone_without_key"
    assert result.report["skipped"] == {reason: 1}
