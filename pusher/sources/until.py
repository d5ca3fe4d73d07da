"""Where a bounded run over live topics ends: at what was there when it began, or at a time."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pusher.errors import UsageError

if TYPE_CHECKING:
    from confluent_kafka import Message

__all__ = ["Bound", "Until"]

ASK_S = 30.0
LOOK_EVERY_S = 0.5

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Until:
    """`at_ms`: messages that are older, epoch ms; None is what is there at the start."""

    at_ms: int | None = None

    @classmethod
    def parse(cls, text: str) -> Until:
        """From `end`, or an ISO 8601 time with its zone.

        Raises:
            UsageError: it is neither.
        """
        if text == "end":
            return cls()
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            at = None
        if at is None or at.tzinfo is None:
            raise UsageError(
                f"--until: {text!r} is neither end nor a time with its zone, as 2026-01-31T00:00Z"
            )
        return cls(int(at.timestamp() * 1000))


class Bound:
    """The offsets at which a run ends; known at its start, or when its time has come.

    Args:
        until: what was asked for.
        consumer: the client, to ask.
        topics: the partitions of each topic.
    """

    def __init__(self, until: Until, consumer: Any, topics: Mapping[str, Iterable[int]]) -> None:
        self._until = until
        self._consumer = consumer
        self._keys = [(name, number) for name, numbers in topics.items() for number in numbers]
        self._ends: dict[Key, int] | None = None
        self._starts: dict[Key, int] = {}
        self._looked_at_s = 0.0
        if until.at_ms is None or until.at_ms <= time.time() * 1000:
            self._resolve()

    def before_end(self, messages: list[Message]) -> list[Message]:
        """Those of one partition's messages that are to be read."""
        if self._ends is None:
            return messages
        first = messages[0]
        end = self._ends.get((first.topic(), first.partition()), 0)  # type: ignore[arg-type]
        if messages[-1].offset() < end:  # type: ignore[operator]
            return messages
        return messages[: bisect_left([m.offset() for m in messages], end)]  # type: ignore[type-var]

    def is_reached(self, own: Mapping[Key, int | None], now_s: float) -> bool:
        """Whether all partitions were read to their ends: ours by us, the others by the group.

        While no broker can tell, they were not: it is asked again.

        Args:
            own: how far each partition is that is ours; None where nothing is known yet.
            now_s: the time of day.

        Raises:
            KafkaException: the brokers do not let us ask.
        """
        from confluent_kafka import KafkaError, KafkaException  # noqa: PLC0415 - loaded by now

        try:
            return self._is_reached(own, now_s)
        except KafkaException as error:
            if error.args[0].code() in {
                KafkaError.GROUP_AUTHORIZATION_FAILED,
                KafkaError.TOPIC_AUTHORIZATION_FAILED,
            }:
                raise
            return False

    def _is_reached(self, own: Mapping[Key, int | None], now_s: float) -> bool:
        if self._ends is None:
            is_due = self._until.at_ms is not None and now_s * 1000 >= self._until.at_ms
            if not is_due or now_s - self._looked_at_s < LOOK_EVERY_S:
                return False
            self._looked_at_s = now_s
            self._resolve()
            self._looked_at_s = 0.0
        ends = self._ends or {}
        left = {
            key
            for key, end in ends.items()
            if end > self._starts[key] and (own.get(key) or 0) < end
        }
        if not left:
            return True
        if left & own.keys() or now_s - self._looked_at_s < LOOK_EVERY_S:
            return False
        self._looked_at_s = now_s
        from confluent_kafka import TopicPartition  # noqa: PLC0415 - it is loaded by now

        parts = [TopicPartition(*key) for key in left]
        return all(
            part.offset >= ends[part.topic, part.partition]
            for part in self._consumer.committed(parts, timeout=ASK_S)
        )

    def _resolve(self) -> None:
        from confluent_kafka import TopicPartition  # noqa: PLC0415

        ends: dict[Key, int] = {}
        for key in self._keys:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(*key), timeout=ASK_S)
            self._starts[key], ends[key] = low, high
        if self._until.at_ms is not None and self._keys:
            parts = [TopicPartition(*key, self._until.at_ms) for key in self._keys]
            for part in self._consumer.offsets_for_times(parts, timeout=ASK_S):
                if part.offset >= 0:  # Otherwise no message is as young as that.
                    ends[part.topic, part.partition] = part.offset
        self._ends = ends
