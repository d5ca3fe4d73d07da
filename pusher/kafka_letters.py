"""Write dead letters to a topic: where many machines work, none has a file that is kept.

A letter counts once the brokers have acknowledged it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.to_thread

from pusher.dead_letters import letter_of
from pusher.errors import DiskError, UsageError
from pusher.model import Rejection
from pusher.sources import TopicAddress, load_client, redacted

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

__all__ = ["TopicLetters"]

ACKNOWLEDGED_WITHIN_S = 60.0
METADATA_S = 15.0
KEPT_BYTES = 4 << 10
"""What is kept of a message whose letter the brokers do not take; the message itself is theirs."""


class TopicLetters:
    """A topic of dead letters. Letters are as in a file, one a message.

    Args:
        address: brokers and topic.
        properties: of librdkafka, for SASL and TLS.
        run_id: written into each letter.
        now_s: the time of day, epoch seconds.

    Raises:
        UsageError: the address names a group, or not one topic; or there is no client.
    """

    def __init__(
        self,
        address: TopicAddress,
        properties: Mapping[str, str],
        run_id: str,
        now_s: Callable[[], float],
    ) -> None:
        if address.group is not None or len(address.topics) != 1 or address.topics[0][0] == "^":
            raise UsageError("--dead-letters-topic must be kafka://HOST:PORT/TOPIC")
        self.name = f"kafka://{address.brokers}/{address.name}"
        self.written = 0
        self.run_id = run_id
        self._topic = address.topics[0]
        self._properties = properties
        self._now_s = now_s
        self._kafka = load_client()
        settings = {
            "client.id": "pusher",
            "message.timeout.ms": int(ACKNOWLEDGED_WITHIN_S * 1000),
            "log_level": 3,  # It warns of what only consumers understand.
            **properties,
            "bootstrap.servers": address.brokers,
            "acks": "all",
            "enable.idempotence": True,
        }
        try:
            self._producer: Any = self._kafka.Producer(settings)
        except (self._kafka.KafkaException, ValueError, TypeError) as error:
            raise UsageError(f"--dead-letters-topic: {self._text(error)}") from error
        self._turn = anyio.Lock()

    def __repr__(self) -> str:
        return f"<TopicLetters in {self.name}, {self.written} written>"

    @classmethod
    def of(
        cls,
        address: TopicAddress | None,
        properties: Mapping[str, str],
        run_id: str,
        now_s: Callable[[], float],
    ) -> Self | None:
        """None where no topic is meant."""
        return None if address is None else cls(address, properties, run_id, now_s)

    async def check(self) -> None:
        """See to it that letters can be written, before one has to be.

        Raises:
            UsageError: there is no such topic.
            DiskError: the brokers cannot be reached, or do not let us in.
        """
        await anyio.to_thread.run_sync(self._check)

    async def write(self, rejections: Sequence[Rejection]) -> None:
        """Write letters and wait until they are acknowledged.

        Raises:
            DiskError: not all of them were; those that were may be there.
        """
        async with self._turn:
            await anyio.to_thread.run_sync(self._write, rejections)
        self.written += len(rejections)

    def close(self) -> None:
        """Nothing is left to do: every letter was waited for."""

    def _check(self) -> None:
        codes = self._kafka.KafkaError
        try:
            topics = self._producer.list_topics(timeout=METADATA_S).topics
        except self._kafka.KafkaException as error:
            raise DiskError(f"{self.name}: dead letters: {self._text(error)}") from error
        found = topics.get(self._topic)
        if found is None or (
            found.error is not None and found.error.code() == codes.UNKNOWN_TOPIC_OR_PART
        ):
            raise UsageError(f"--dead-letters-topic: {self.name}: there is no such topic")

    def _write(self, rejections: Sequence[Rejection]) -> None:
        at = datetime.fromtimestamp(self._now_s(), UTC).isoformat(timespec="milliseconds")
        too_large = self._produce(rejections, at)
        if too_large and self._produce([_shortened(one) for one in too_large], at):
            raise DiskError(f"{self.name}: dead letters: too large, even without their message")

    def _produce(self, rejections: Sequence[Rejection], at: str) -> list[Rejection]:
        """Write letters; return those of whom the brokers do not take so much."""
        kafka, producer = self._kafka, self._producer
        too_large: list[Rejection] = []
        failed: list[KafkaError] = []

        def noting(rejection: Rejection) -> Callable[[KafkaError | None, Message], None]:
            def note(error: KafkaError | None, message: Message) -> None:
                del message
                if error is not None and error.code() == kafka.KafkaError.MSG_SIZE_TOO_LARGE:
                    too_large.append(rejection)
                elif error is not None:
                    failed.append(error)

            return note

        for rejection in rejections:
            letter = letter_of(rejection, at, self.run_id).rstrip(b"\n")
            try:
                self._put(letter, noting(rejection))
            except kafka.KafkaException as error:
                if error.args[0].code() != kafka.KafkaError.MSG_SIZE_TOO_LARGE:
                    failed.append(error.args[0])
                    break
                too_large.append(rejection)
        left = producer.flush(ACKNOWLEDGED_WITHIN_S + 5)
        if failed or left:
            why = self._text(failed[0]) if failed else f"{left} not acknowledged in time"
            raise DiskError(f"{self.name}: dead letters: {why}")
        return too_large

    def _put(self, letter: bytes, note: Callable[[KafkaError | None, Message], None]) -> None:
        while True:
            try:
                self._producer.produce(self._topic, letter, on_delivery=note)
            except BufferError:  # Its queue is full.
                self._producer.poll(0.1)
            else:
                return

    def _text(self, error: Any) -> str:
        inner = error.args[0] if isinstance(error, Exception) and error.args else error
        text = inner.str() if hasattr(inner, "str") else str(inner)
        return redacted(text, self._properties)


def _shortened(rejection: Rejection) -> Rejection:
    size = len(rejection.record)
    extra = {"line_bytes": size, **rejection.extra}
    return replace(rejection, record=rejection.record[:KEPT_BYTES], extra=extra)
