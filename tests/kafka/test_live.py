"""What `pusher push kafka://...` promises, one promise a test."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from confluent_kafka import Producer
from fakes.command import Ended, run
from fakes.endpoint import Endpoint, Request, accept, refuse
from proof.driving import Oracle, running_oracle
from proof.judge import judge
from proof.workload import lines

from kafka.broker import Broker, Kafka, MockCluster, running_kafka
from kafka.members import Group, fill, name_of_a_topic, until

OFFSET_COMMIT = 8
NOT_COORDINATOR = 16


def value(number: int, **more: Any) -> bytes:
    message = {"storeId": "s", "objectType": "DEAL", "externalObjectId": str(number), **more}
    return json.dumps(message).encode()


def produce(broker: Broker, topic: str, *values: bytes | None, timestamp: int = 0) -> None:
    producer = Producer({"bootstrap.servers": broker.address})
    for one in values:
        producer.produce(topic, one, b"key", partition=0, timestamp=timestamp)
    assert producer.flush(20) == 0


@pytest.fixture
def topic(broker: Broker) -> str:
    return broker.create_topic(name_of_a_topic(), 1)


async def push(
    broker: Broker, topic: str, endpoint: Endpoint, cwd: Path, *options: str, group: str = "g"
) -> Ended:
    """Push what is there, and read the report."""
    protocol = "classic" if broker.is_real else "consumer"
    return await run(
        *("push", f"kafka://{broker.address}/{topic}?group={group}-{topic}"),
        *("--url", endpoint.url, "--no-preflight", "--confirm", "0", "--report", "-"),
        *("--until", "end", "--group-protocol", protocol, "--dead-letters", "dead.ndjson"),
        *("--linger", "50ms"),
        *options,
        cwd=cwd,
    )


def delivered(endpoint: Endpoint) -> list[dict[str, Any]]:
    return [m for request in endpoint.requests if request.status == 204 for m in request.messages]


async def test_each_message_is_delivered_once_and_the_next_run_begins_behind_it(
    broker: Broker, topic: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    produce(broker, topic, value(1), value(2))
    first = await push(broker, topic, endpoint, tmp_path)
    produce(broker, topic, value(3))
    second = await push(broker, topic, endpoint, tmp_path)
    assert (first.counts(), second.counts()) == ((2, 2, 0, 0), (1, 1, 0, 0))
    assert [one["externalObjectId"] for one in delivered(endpoint)] == ["1", "2", "3"]


async def test_a_value_over_several_lines_is_one_message(
    broker: Broker, topic: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    produce(broker, topic, value(1).replace(b",", b",\n"), b"\n" + value(2) + b"\r\n")
    ended = await push(broker, topic, endpoint, tmp_path)
    assert ended.counts() == (2, 2, 0, 0)


async def test_what_is_no_message_is_a_dead_letter_with_its_offset(
    broker: Broker, topic: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    produce(broker, topic, value(1), b"no\njson", value(2), b"\xff", value(3))
    ended = await push(broker, topic, endpoint, tmp_path)
    assert ended.code == 1
    assert ended.counts() == (5, 3, 2, 0)
    letters = [json.loads(one) for one in (tmp_path / "dead.ndjson").read_bytes().splitlines()]
    places = sorted((one["source"], one["offset"], one["reason"]) for one in letters)
    assert places == [(f"{topic}[0]", 1, "not_json"), (f"{topic}[0]", 3, "not_utf8")]


async def test_tombstones_and_empty_values_are_skipped_and_committed(
    broker: Broker, topic: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    produce(broker, topic, value(1), None, b"", b"  ")
    ended = await push(broker, topic, endpoint, tmp_path)
    assert ended.report["skipped"] == {"tombstone_without_mapping": 1, "empty_value": 2}
    assert (await push(broker, topic, endpoint, tmp_path)).counts() == (0, 0, 0, 0)


async def test_the_time_of_a_message_fills_a_missing_changed_at(
    broker: Broker, topic: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    produce(broker, topic, value(1), value(1), value(2, changedAt=7), timestamp=1_700_000_000_000)
    await push(broker, topic, endpoint, tmp_path)
    times = [one["changedAt"] for one in delivered(endpoint)]
    assert times == [1_700_000_000_000, 1_700_000_000_001, 7]


async def test_a_row_becomes_a_message_by_the_mapping_and_a_tombstone_a_delete(
    broker: Broker, topic: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "map.toml").write_text(
        f'[topics."{topic}"]\ntype = "DEAL"\nstore = "s"\nid = "id"\nproperties = ["name"]\n'
    )
    producer = Producer({"bootstrap.servers": broker.address})
    producer.produce(topic, b'{"id":7,"name":"tea"}', b'{"id":7}', partition=0)
    producer.produce(topic, None, b'{"id":7}', partition=0)
    assert producer.flush(20) == 0
    ended = await push(broker, topic, endpoint, tmp_path, "--map", "map.toml")
    assert ended.counts() == (2, 2, 0, 0), ended.err
    assert [one["action"] for one in delivered(endpoint)] == ["UPSERT", "DELETE"]


async def test_what_a_mapping_could_not_take_is_replayed_with_one_that_was_mended(
    broker: Broker, topic: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    entry = f'[topics."{topic}"]\ntype = "DEAL"\nid = "$key"\nproperties = ["name"]\n'
    (tmp_path / "map.toml").write_text(entry + 'store = { field = "shop" }\n')
    produce(broker, topic, b'{"name":"tea"}', None, timestamp=1_700_000_000_000)
    first = await push(broker, topic, endpoint, tmp_path, "--map", "map.toml")
    assert first.counts() == (2, 0, 2, 0)
    (tmp_path / "map.toml").write_text(entry + 'store = "s"\n')
    again = await run(
        *("replay", "dead.ndjson", "--map", "map.toml", "--url", endpoint.url, "--report", "-"),
        *("--no-preflight", "--confirm", "0"),
        cwd=tmp_path,
    )
    assert again.code == 0, again.err
    found = [(m["action"], m["externalObjectId"], m["changedAt"]) for m in delivered(endpoint)]
    assert found == [("UPSERT", "key", 1_700_000_000_000), ("DELETE", "key", 1_700_000_000_000)]


async def test_a_rehearsal_shows_what_the_mapping_makes_of_each_kind_of_message(
    broker: Broker, topic: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "map.toml").write_text(
        f'[topics."{topic}"]\ntype = "DEAL"\nstore = "s"\nid = "id"\nproperties = ["name"]\n'
    )
    rows = [b'{"id":%d,"name":"tea"}' % number for number in range(3)]
    produce(broker, topic, *rows, b'{"name":"no id"}', None)
    shown = await push(broker, topic, endpoint, tmp_path, "--map", "map.toml", "--dry-run")
    assert f"{topic}: 3 UPSERT" in shown.err
    assert f"{topic}: 1 DELETE" in shown.err
    assert f"{topic}: 1 rejected: no_id" in shown.err
    assert '->     {"objectType":"DEAL","action":"UPSERT","externalObjectId":"0"' in shown.err
    assert not endpoint.requests


async def test_a_rehearsal_commits_nothing_and_joins_no_group(
    broker: Broker, topic: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    produce(broker, topic, value(1), value(2))
    rehearsal = await push(broker, topic, endpoint, tmp_path, "--dry-run")
    assert rehearsal.report["skipped"] == {"dry_run": 2}
    assert not endpoint.requests
    assert (await push(broker, topic, endpoint, tmp_path)).counts() == (2, 2, 0, 0)


async def test_messages_beyond_the_limit_are_left_for_the_next_run(
    broker: Broker, topic: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    produce(broker, topic, *map(value, range(10)))
    limited = await push(broker, topic, endpoint, tmp_path, "--limit", "4")
    assert limited.counts() == (4, 4, 0, 0)
    await push(broker, topic, endpoint, tmp_path)
    ids = [int(one["externalObjectId"]) for one in delivered(endpoint)]
    assert set(ids) == set(range(10))


async def test_a_poison_message_does_not_stop_its_partition(
    broker: Broker, topic: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    async def refuse_poison(request: Request) -> web.StreamResponse:
        if any("poison" in one["properties"] for one in request.messages):
            return refuse()
        return await accept(request)

    endpoint.answer = refuse_poison
    values = [value(n, properties={"poison": "1"} if n == 5 else {}) for n in range(20)]
    produce(broker, topic, *values)
    ended = await push(broker, topic, endpoint, tmp_path, "--batch-size", "4")
    assert ended.counts() == (20, 19, 1, 0)
    assert (await push(broker, topic, endpoint, tmp_path)).counts() == (0, 0, 0, 0)


async def test_dead_letters_go_to_a_topic(
    broker: Broker, topic: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    dead = broker.create_topic(name_of_a_topic(), 1)
    produce(broker, topic, value(1), b"no json")
    address = f"kafka://{broker.address}/{dead}"
    ended = await push(broker, topic, endpoint, tmp_path, "--dead-letters-topic", address)
    assert ended.report["dead_letters"] == address
    assert not (tmp_path / "dead.ndjson").exists()
    produce(broker, dead, b"{}")
    # A letter is no sync message, so pushing the topic of letters rejects each, and shows it.
    await push(broker, dead, endpoint, tmp_path)
    first = json.loads((tmp_path / "dead.ndjson").read_bytes().splitlines()[0])
    assert json.loads(first["record"])["record"] == "no json"


async def test_a_topic_of_dead_letters_must_exist_before_anything_is_sent(
    broker: Broker, topic: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    if not broker.is_real:
        pytest.skip("the mock cluster makes topics as they are named")
    address = f"kafka://{broker.address}/{name_of_a_topic()}"
    ended = await push(broker, topic, endpoint, tmp_path, "--dead-letters-topic", address)
    assert ended.code == 2
    assert "there is no such topic" in ended.err
    assert not endpoint.requests


async def test_a_bounded_run_ends_before_what_is_younger(
    kafka: Kafka, topic: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    produce(kafka, topic, value(1), timestamp=1_700_000_000_000)
    produce(kafka, topic, value(2), timestamp=1_700_000_100_000)
    ended = await push(kafka, topic, endpoint, tmp_path, "--until", "2023-11-14T22:14:00Z")
    assert ended.counts() == (1, 1, 0, 0)


async def test_topics_are_named_by_a_list_or_a_pattern(
    broker: Broker, endpoint: Endpoint, tmp_path: Path
) -> None:
    name = name_of_a_topic()
    for number in (1, 2):
        produce(broker, broker.create_topic(f"{name}-{number}", 1), value(number))
    listed = await push(broker, f"{name}-1,{name}-2", endpoint, tmp_path)
    pattern = await push(broker, f"^{name}-.*", endpoint, tmp_path)
    assert (listed.counts(), pattern.counts()) == ((2, 2, 0, 0), (2, 2, 0, 0))


async def test_sigterm_delivers_what_was_read_commits_and_leaves(
    broker: Broker, topic: str, tmp_path: Path
) -> None:
    workload = lines(3_000, seed=3, poison=0, undecodable=0)
    fill(broker, topic, workload)
    async with running_oracle("--latency-ms", 5, 20, "--at-once", 2) as oracle:
        group = Group(broker, topic, oracle, tmp_path, protocol=_protocol(broker))
        try:
            member = await group.join("--batch-size", "15")

            async def has_begun() -> bool:
                return bool((await oracle.record()).numbers)

            await until(has_begun, "the first message")
            member.signal(signal.SIGTERM)
            assert await member.ended() == 143
        finally:
            await group.end()
        record = await oracle.record()
    assert member.report["messages"]["pending"] == 0
    (committed,) = group.committed(1)
    assert committed == len(set(record.numbers))


async def test_a_topic_that_does_not_exist_is_a_usage_error(
    kafka: Kafka, endpoint: Endpoint, tmp_path: Path
) -> None:
    ended = await push(kafka, "no-such-topic", endpoint, tmp_path)
    assert ended.code == 2
    assert "has no topic no-such-topic" in ended.err


async def test_a_broker_that_does_not_let_us_in_stops_the_run_and_no_secret_is_shown(
    kafka: Kafka, topic: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "sasl").write_text(
        "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\n"
        "sasl.username=me\nsasl.password=hunter2\n"
    )
    ended = await push(kafka, topic, endpoint, tmp_path, "--kafka-config", "sasl")
    assert ended.code == 3
    assert "SASL" in ended.err
    assert "hunter2" not in ended.err + ended.out.decode()


async def test_an_offset_that_is_gone_stops_the_run_where_asked(
    kafka: Kafka, topic: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    produce(kafka, topic, value(1))
    (tmp_path / "strict").write_text("auto.offset.reset=error\n")
    ended = await push(kafka, topic, endpoint, tmp_path, "--kafka-config", "strict")
    assert ended.code == 3
    assert "what comes next is not there any more" in ended.err


async def test_a_fenced_member_says_who_has_its_name(
    kafka: Kafka, topic: str, tmp_path: Path
) -> None:
    async with running_oracle() as oracle:
        group = Group(kafka, topic, oracle, tmp_path)
        try:
            first = await group.join("--group-instance", "pod-0")
            await until(lambda: "assigned" in first.err, "the first member has joined")
            second = await group.join("--group-instance", "pod-0")
            await until(lambda: "assigned" in second.err, "the second member has joined")
            assert await first.ended() == 3
        finally:
            await group.end()
    assert "another member has the group instance 'pod-0'" in first.err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--phases",), "--phases is for files and pipes: a topic has no end"),
        (("--checkpoint", "ck"), "a group keeps its own offsets"),
        (("--until", "tomorrow"), "neither end nor a time"),
        (("--format", "kcat"), "is for files and pipes"),
        (("--kafka-config", "ours"), "group.id: the address names the group"),
    ],
)
async def test_options_that_do_not_go_with_topics_are_usage_errors(
    options: tuple[str, ...], complaint: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "ours").write_text("group.id=other\n")
    ended = await run(
        *("push", "kafka://127.0.0.1:9/t?group=g", "--url", endpoint.url, *options), cwd=tmp_path
    )
    assert ended.code == 2
    assert complaint in ended.err


async def test_commits_that_fail_are_tried_again_and_nothing_is_lost(tmp_path: Path) -> None:
    workload = lines(2_000, seed=4)
    with MockCluster() as mock:
        topic = mock.create_topic(name_of_a_topic(), 2)
        fill(mock, topic, workload)
        async with running_oracle("--latency-ms", 20, 40, "--at-once", 2) as oracle:
            group = Group(mock, topic, oracle, tmp_path, protocol="consumer")
            mock.push_errors(OFFSET_COMMIT, [NOT_COORDINATOR] * 2)
            try:
                member = await group.join("--until", "end", "--batch-size", "15")
                assert await member.ended() == 1
            finally:
                await group.end()
            record = await oracle.record()
        assert not judge(workload, record, group.letters()).protests
        assert group.committed(2) == group.ends(2)


@pytest.mark.timeout(120)
async def test_a_broker_that_is_started_anew_loses_nothing(tmp_path: Path, kafka: Kafka) -> None:
    del kafka  # It says that one can be run.
    workload = lines(10_000, seed=5)
    data = tmp_path / "data"
    async with running_oracle("--latency-ms", 5, 20, "--at-once", 2) as oracle:
        with running_kafka("--data", str(data)) as first:
            topic = first.create_topic(name_of_a_topic(), 3)
            await asyncio.to_thread(fill, first, topic, workload)
            group = Group(first, topic, oracle, tmp_path)
            member = await group.join("--until", "end", "--batch-size", "15")
            await until(lambda: _has(oracle, 1_000), "a tenth taken")
        try:
            port = first.address.rpartition(":")[2]
            with running_kafka("--data", str(data), "--port", port):
                assert await member.ended(90) == 1, member.err
                assert group.committed(3) == group.ends(3)
        finally:
            await group.end()
        record = await oracle.record()
    assert not judge(workload, record, group.letters()).protests


async def _has(oracle: Oracle, count: int) -> bool:
    return len((await oracle.record()).numbers) > count


def _protocol(broker: Broker) -> str:
    return "classic" if broker.is_real else "consumer"


async def test_metrics_health_and_readiness_are_served_while_the_endpoint_is_down(
    broker: Broker, topic: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    async def fail(request: Request) -> web.StreamResponse:
        del request
        return web.Response(status=503)

    endpoint.answer = fail
    produce(broker, topic, *map(value, range(7)))
    group = Group(
        broker,
        topic,
        Oracle(int(endpoint.url.rsplit(":", 1)[1])),
        tmp_path,
        protocol=_protocol(broker),
    )
    try:
        member = await group.join("--metrics-port", "0")
        await until(lambda: "metrics on " in member.err, "the port")
        url = member.err.split("metrics on ")[1].split("/metrics")[0]
        async with aiohttp.ClientSession() as session:

            async def told(path: str) -> tuple[int, str]:
                async with session.get(url + path) as answer:
                    return answer.status, await answer.text()

            async def lags() -> bool:
                partition = f'pusher_kafka_lag{{partition="0",topic="{topic}"}} 7.0'
                return partition in (await told("/metrics"))[1]

            await until(lags, "the lag is shown")
            _, metrics = await told("/metrics")
            assert "pusher_messages_pending 7.0" in metrics
            assert "pusher_request_latency_seconds_bucket" in metrics
            assert (await told("/healthz"))[0] == 200
            assert (await told("/readyz"))[0] == 200
    finally:
        await group.end()
