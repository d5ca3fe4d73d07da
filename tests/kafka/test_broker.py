"""The brokers of these tests are what they should be."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from confluent_kafka import Producer

from kafka.broker import Broker, Kafka, MockCluster, running_kafka


def produce(broker: Broker, topic: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": broker.address})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(20) == 0


def test_the_broker_takes_messages(broker: Broker) -> None:
    topic = broker.create_topic(f"taken-{uuid.uuid4().hex}", 3)
    produce(broker, topic, [b"one", b"two"])


def test_kafka_brings_its_own_console_consumer(kafka: Kafka) -> None:
    topic = kafka.create_topic(f"shown-{uuid.uuid4().hex}", 1)
    produce(kafka, topic, [b"one", b"two"])
    shown = kafka.tool(
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        *("--topic", topic, "--from-beginning", "--max-messages", "2"),
    )
    assert shown == b"one\ntwo\n"


@pytest.mark.usefixtures("kafka")
def test_a_stopped_kafka_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with running_kafka() as other:
        assert list(tmp_path.iterdir())
        other.process.terminate()
        assert other.process.wait(30) == 0
    assert not list(tmp_path.iterdir())


def test_the_mock_cluster_takes_messages_too() -> None:
    with MockCluster() as mock:
        produce(mock, mock.create_topic("taken", 2), [b"one"])
