"""What happens seldom: a partition that goes and returns in one fetch, a message of megabytes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import confluent_kafka
import pytest
from aiohttp import web
from confluent_kafka import Producer
from fakes.endpoint import Endpoint, Request, accept
from proof.driving import Oracle

from kafka.broker import Broker, Kafka
from kafka.members import Group, name_of_a_topic, until
from pusher.model import Chunk
from pusher.sources import KafkaSource, Plan, TopicAddress, Until
from pusher.sources.until import Bound

MESSAGES = 300
POLL_INTERVAL_S = 1.5
POLL_INTERVAL = f"max.poll.interval.ms={POLL_INTERVAL_S * 1000:.0f}"


class Restless(confluent_kafka.Consumer):
    """A real client to which, in the middle of its first fetch, each partition goes and returns."""

    is_due = True

    def subscribe(self, topics: Any, **callbacks: Any) -> None:  # type: ignore[override]
        self._assigned, self._revoked = callbacks["on_assign"], callbacks["on_revoke"]
        super().subscribe(topics, **callbacks)

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Any]:
        if not Restless.is_due:
            return super().consume(num_messages, timeout)
        Restless.is_due = False
        before = super().consume(2, 5)
        parts = self.assignment()
        self._revoked(self, parts)
        self._assigned(self, parts)
        return before + super().consume(5, 5)


def client_with(consumer: type) -> Callable[[], Any]:
    names = {name: getattr(confluent_kafka, name) for name in dir(confluent_kafka)}
    return lambda: SimpleNamespace(**{**names, "Consumer": consumer})


async def values_of(source: KafkaSource) -> list[bytes]:
    """Read a source to its end, as the pipeline does: what comes is settled at once."""
    found: list[bytes] = []
    settled: dict[Any, int] = {}

    async def let_go() -> None:
        while True:
            await source.next_revocation()
            source.let_go()

    async def rest() -> None:
        while True:
            await asyncio.sleep(0.05)
            source.rest()

    beside = [asyncio.ensure_future(let_go()), asyncio.ensure_future(rest())]
    try:
        async with aclosing(source.chunks()) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                found += _lines_of(chunk)
                if chunk.partition is not None and chunk.end is not None:
                    settled[chunk.partition] = chunk.end.offset
                source.commit(settled)
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        assert await source.close() is None
    return found


def _lines_of(chunk: Chunk) -> list[bytes]:
    return chunk.data.split(b"\n") if chunk.data else []


def numbered(number: int) -> bytes:
    return json.dumps({"externalObjectId": str(number)}).encode()


@pytest.mark.parametrize(
    ("reset", "has_committed"), [("earliest", True), ("earliest", False), ("latest", True)]
)
async def test_a_partition_that_goes_and_returns_in_one_fetch_is_read_on_and_nothing_is_missed(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, reset: str, *, has_committed: bool
) -> None:
    topic = broker.create_topic(name_of_a_topic(), 1)
    address = TopicAddress.parse(f"kafka://{broker.address}/{topic}?group=g-{topic}")
    producer = Producer({"bootstrap.servers": broker.address})
    for number in range(MESSAGES):
        producer.produce(topic, numbered(number), partition=0)
    assert producer.flush(20) == 0
    first = 10 if has_committed else 0
    if has_committed:
        committing = confluent_kafka.Consumer(
            {"bootstrap.servers": broker.address, "group.id": address.group}
        )
        part = confluent_kafka.TopicPartition(topic, 0, first)
        committing.commit(offsets=[part], asynchronous=False)
        committing.close()
    Restless.is_due = True
    monkeypatch.setattr("pusher.sources.consuming.load_client", client_with(Restless))
    plan = Plan(
        properties={"auto.offset.reset": reset},
        group_protocol="classic" if broker.is_real else "consumer",
        until=Until(),
    )
    found = await asyncio.wait_for(values_of(KafkaSource(address, plan)), 40)
    assert not Restless.is_due
    assert found == [numbered(number) for number in range(first, MESSAGES)]


async def test_messages_of_megabytes_behind_an_endpoint_that_stalls_keep_the_member_in_its_group(
    kafka: Kafka, endpoint: Endpoint, tmp_path: Path
) -> None:
    """The mock cluster keeps no more than 5 MB of a partition."""
    goes_on = asyncio.Event()

    async def stall(request: Request) -> web.StreamResponse:
        await goes_on.wait()
        return await accept(request)

    endpoint.answer = stall
    largest_bytes = 8 << 20
    topic = kafka.create_topic(name_of_a_topic(), 1, largest_bytes)
    producer = Producer({"bootstrap.servers": kafka.address, "message.max.bytes": largest_bytes})
    for number in range(12):
        text = "x" * (4 << 20)
        value = {"storeId": "s", "objectType": "DEAL", "externalObjectId": str(number)}
        producer.produce(topic, json.dumps({**value, "properties": {"text": text}}))
        producer.flush(20)
    oracle = Oracle(int(endpoint.url.rsplit(":", 1)[1]))
    group = Group(kafka, topic, oracle, tmp_path)
    group.configure("session.timeout.ms=1500", "heartbeat.interval.ms=300", POLL_INTERVAL)
    try:
        member = await group.join(
            *("--until", "end", "--memory", "8MiB", "--batch-bytes", "6MiB", "--timeout", "60s"),
        )
        await until(lambda: endpoint.in_flight, "the first request")
        await asyncio.sleep(3 * POLL_INTERVAL_S)  # As long as it takes to be put out of the group.
        goes_on.set()
        assert await member.ended() == 0, member.err
    finally:
        goes_on.set()
        await group.end()
    assert "lost" not in member.err
    assert "revoked" not in member.err
    assert member.report["messages"]["delivered"] == 12
    assert group.committed(1) == group.ends(1)


class Forgetful:
    """A client whose brokers cannot tell at first, as after a start; the group is at its end."""

    def __init__(self, code: int, times: int) -> None:
        self.refusals = [code] * times

    def get_watermark_offsets(self, part: Any, **_: Any) -> tuple[int, int]:
        del part
        self._tell()
        return 0, 5

    def offsets_for_times(self, parts: list[Any], **_: Any) -> list[Any]:
        self._tell()
        return [confluent_kafka.TopicPartition(part.topic, part.partition, 4) for part in parts]

    def committed(self, parts: list[Any], **_: Any) -> list[Any]:
        self._tell()
        return [confluent_kafka.TopicPartition(part.topic, part.partition, 5) for part in parts]

    def _tell(self) -> None:
        if self.refusals:
            raise confluent_kafka.KafkaException(confluent_kafka.KafkaError(self.refusals.pop()))


@pytest.mark.parametrize("at_ms", [None, 1_000_000])
def test_a_bounded_run_waits_for_brokers_that_cannot_tell_how_far_the_group_is(
    at_ms: int | None,
) -> None:
    client = Forgetful(confluent_kafka.KafkaError.NOT_COORDINATOR, 0)
    now_s = time.time()
    until_then = Until(None if at_ms is None else int(now_s * 1000) + at_ms)
    bound = Bound(until_then, client, {"t": [0]})
    now_s += 2_000  # Then that time has come.
    client.refusals = [confluent_kafka.KafkaError.NOT_COORDINATOR] * 3
    answers = [bound.is_reached({}, now_s + number) for number in range(4)]
    assert answers == [False, False, False, True]


def test_a_bounded_run_ends_where_the_brokers_do_not_let_it_ask() -> None:
    client = Forgetful(confluent_kafka.KafkaError.GROUP_AUTHORIZATION_FAILED, 0)
    bound = Bound(Until(), client, {"t": [0]})
    client.refusals = [confluent_kafka.KafkaError.GROUP_AUTHORIZATION_FAILED]
    with pytest.raises(confluent_kafka.KafkaException):
        bound.is_reached({}, time.time())
