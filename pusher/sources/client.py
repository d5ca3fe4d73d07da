"""The Kafka client: how it is set up, and what there is to read with it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pusher.errors import InputError, UsageError
from pusher.sources.exports import Formats
from pusher.sources.topics import TopicAddress
from pusher.sources.until import Until

__all__ = ["METADATA_S", "Plan", "consumer_properties", "load_client", "text_of", "topics_of"]

METADATA_S = 5.0

_INSTALL = "pip install 'ecomm-pusher[kafka]'"

_log = logging.getLogger("pusher")


@dataclass(frozen=True, slots=True)
class Plan:
    """How topics are read.

    Attributes:
        properties: of librdkafka, besides those that the address gives.
        group_protocol: "classic", or "consumer" (KIP-848).
        group_instance: the member's fixed name, for static membership.
        until: where to end; None is never.
        drain_timeout_s: how long a revoked partition may wait for what is in flight.
        max_line_bytes: a longer value is not kept.
        formats: what the values hold, and what rows are.
        joins: join the group; otherwise all partitions are read, from where the group is.
    """

    properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    group_protocol: str = "classic"
    group_instance: str | None = None
    until: Until | None = None
    drain_timeout_s: float = 30.0
    max_line_bytes: int = 32 << 20
    formats: Formats = field(default_factory=Formats)
    joins: bool = True


def load_client() -> Any:
    """The client library.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import confluent_kafka  # noqa: PLC0415 - only who reads a topic needs it
    except ImportError as error:
        raise UsageError(f"kafka://...: the Kafka client is not installed: {_INSTALL}") from error
    return confluent_kafka


def consumer_properties(address: TopicAddress, plan: Plan) -> dict[str, Any]:
    """The properties of a consumer; those of the plan come before our own defaults."""
    properties: dict[str, Any] = {
        "client.id": "pusher",
        "auto.offset.reset": "earliest",
        # What the client reads ahead by itself is not in --memory, so it is kept small.
        "queued.min.messages": 20_000,
        "queued.max.messages.kbytes": 16_384,
        "fetch.queue.backoff.ms": 50,
    }
    if plan.group_protocol == "classic":
        properties["partition.assignment.strategy"] = "cooperative-sticky"
    properties |= plan.properties
    if plan.group_instance is not None:
        properties["group.instance.id"] = plan.group_instance
    return properties | {
        "bootstrap.servers": address.brokers,
        "group.id": address.group,
        "group.protocol": plan.group_protocol,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
    }


def topics_of(consumer: Any, address: TopicAddress, timeout_s: float) -> dict[str, list[int]]:
    """The partitions of the topics that are meant, by name.

    Args:
        consumer: the client, to ask.
        address: brokers and topics.
        timeout_s: how long to wait for an answer.

    Raises:
        UsageError: one does not exist.
        InputError: one cannot be read.
        KafkaException: no broker answers in time.
    """
    topics = consumer.list_topics(timeout=timeout_s).topics
    for name in address.topics:
        if not name.startswith("^"):
            _check_topic(address.brokers, name, topics.get(name))
    found = {name: sorted(one.partitions) for name, one in topics.items() if address.matches(name)}
    if not found:
        _log.warning("no topic matches %s yet", address.name)
    return found


def _check_topic(brokers: str, name: str, topic: Any) -> None:
    unknown = load_client().KafkaError.UNKNOWN_TOPIC_OR_PART
    if topic is None or (topic.error is not None and topic.error.code() == unknown):
        raise UsageError(f"Kafka at {brokers} has no topic {name}, or does not show it to us")
    if topic.error is not None:
        raise InputError(f"Kafka at {brokers}: topic {name}: {topic.error.str()}")


def text_of(error: Exception) -> str:
    """What a KafkaException wraps says more than it does itself."""
    inner = error.args[0] if error.args else error
    text = getattr(inner, "str", None)
    return str(text()) if callable(text) else str(inner)
