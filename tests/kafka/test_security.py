"""SASL over TLS against a real Apache Kafka with an authority of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from fakes.command import Ended, run
from fakes.endpoint import Endpoint

from kafka.broker import Kafka, missing_for_kafka, running_kafka
from kafka.members import name_of_a_topic

pytestmark = pytest.mark.timeout(60, func_only=True)


@dataclass(frozen=True)
class Secure:
    """A broker, and the properties that open its door."""

    kafka: Kafka
    properties: dict[str, str]

    @property
    def password(self) -> str:
        return self.properties["sasl.password"]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    missing = missing_for_kafka()
    if missing is not None:
        pytest.skip(f"needs Apache Kafka, which cannot be run without {missing}")
    folder = tmp_path_factory.mktemp("secure")
    with running_kafka("--secure", str(folder)) as kafka:
        lines = (folder / "client.properties").read_text().splitlines()
        yield Secure(kafka, dict(line.split("=", 1) for line in lines))


def filled(secure: Secure, count: int) -> str:
    topic = secure.kafka.create_topic(name_of_a_topic(), 1)
    producer = Producer({"bootstrap.servers": secure.kafka.address})
    for number in range(count):
        message = {"storeId": "s", "objectType": "DEAL", "externalObjectId": str(number)}
        producer.produce(topic, json.dumps(message))
    producer.produce(topic, b"no json")
    assert producer.flush(20) == 0
    return topic


async def push(
    secure: Secure, topic: str, endpoint: Endpoint, cwd: Path, *options: str, **changed: str | None
) -> Ended:
    """Push with the right properties, but for those that are changed; None leaves one out."""
    given = {name.replace("_", "."): value for name, value in changed.items()}
    properties = {**secure.properties, **given}
    lines = [f"{name}={value}" for name, value in properties.items() if value is not None]
    (cwd / "client.properties").write_text("\n".join(lines))
    return await run(
        *("push", f"kafka://{secure.kafka.secure_address}/{topic}?group=g-{topic}"),
        *("--url", endpoint.url, "--no-preflight", "--confirm", "0", "--report", "-"),
        *("--until", "end", "--linger", "50ms", "--kafka-config", "client.properties", *options),
        cwd=cwd,
    )


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
async def test_a_topic_is_read_and_letters_are_written_with_sasl_over_tls(
    secure: Secure, endpoint: Endpoint, tmp_path: Path, mechanism: str
) -> None:
    topic, dead = filled(secure, 20), secure.kafka.create_topic(name_of_a_topic(), 1)
    letters = f"kafka://{secure.kafka.secure_address}/{dead}"
    options = ("--dead-letters-topic", letters, "-v")
    ended = await push(secure, topic, endpoint, tmp_path, *options, sasl_mechanism=mechanism)
    assert ended.code == 1, ended.err
    assert ended.counts() == (21, 20, 1, 0)
    assert first_value(secure.kafka, dead)["record"] == "no json"
    assert secure.password not in ended.err + ended.out.decode()
    again = await push(secure, topic, endpoint, tmp_path, sasl_mechanism=mechanism)
    assert again.counts() == (0, 0, 0, 0)


def first_value(kafka: Kafka, topic: str) -> dict[str, str]:
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.address,
            "group.id": f"look-{topic}",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([topic])
    message = consumer.poll(20)
    consumer.close()
    assert message is not None
    value: dict[str, str] = json.loads(message.value() or b"")
    return value


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
async def test_a_wrong_password_stops_the_run_with_the_reason_and_without_the_password(
    secure: Secure, endpoint: Endpoint, tmp_path: Path, mechanism: str
) -> None:
    wrong = {"sasl_password": "hunter2hunter2", "sasl_mechanism": mechanism}
    ended = await push(secure, filled(secure, 1), endpoint, tmp_path, "-v", **wrong)
    assert ended.code == 3
    assert "uthentication failed" in str(ended.report["reason"]), ended.report["reason"]
    assert "hunter2" not in ended.err + ended.out.decode()
    assert not endpoint.requests


async def test_a_broker_whose_authority_is_not_trusted_stops_the_run_with_the_reason(
    secure: Secure, endpoint: Endpoint, tmp_path: Path
) -> None:
    ended = await push(secure, filled(secure, 1), endpoint, tmp_path, ssl_ca_location=None)
    assert ended.code == 3
    assert "certificate" in str(ended.report["reason"]), ended.report["reason"]
    assert secure.password not in ended.err + ended.out.decode()
    assert not endpoint.requests
