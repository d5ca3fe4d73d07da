"""What a group has committed of the partitions that are ours, and what is committed next.

All of it is called from the thread that owns the client; only `settled` is set in the event loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pusher.model import LiveState, Partition
from pusher.sources.client import text_of

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

__all__ = ["Key", "Offsets"]

COMMIT_EVERY_S = 1.0

_log = logging.getLogger("pusher")

Key = tuple[str, int]
"""A topic, and the number of one of its partitions."""


class Offsets:
    """The offsets of one member.

    Args:
        state: kept up to date.
        held: the partitions that are ours.
        commits: whether anything is to be committed at all.
        shown: takes secrets out of what the client says.
    """

    def __init__(
        self,
        state: LiveState,
        held: Mapping[Key, Partition],
        *,
        commits: bool,
        shown: Callable[[str], str],
    ) -> None:
        self.settled: Mapping[Partition, int] = {}
        """Up to where each partition is settled; replaced as a whole."""
        self.committed: dict[Partition, int] = {}
        self.is_committing = False
        self.last_error = ""
        self._state = state
        self._held = held
        self._commits = commits
        self._shown = shown
        self._kafka: Any = None
        self._consumer: Any = None
        self._at_s = 0.0

    def __repr__(self) -> str:
        return f"<Offsets of {len(self._held)} partitions>"

    def attach(self, kafka: Any, consumer: Any) -> None:
        """Use this client library and this client."""
        self._kafka, self._consumer = kafka, consumer

    def part(self, partition: Partition, offset: int | None = None) -> Any:
        """A partition, perhaps with an offset, as the client names it."""
        if offset is None:
            return self._kafka.TopicPartition(partition.topic, partition.number)
        return self._kafka.TopicPartition(partition.topic, partition.number, offset)

    @property
    def has_due(self) -> bool:
        """Something is settled and not committed yet."""
        return self._commits and bool(self._due(self._held.values()))

    def commit_if_due(self, now_s: float) -> None:
        """Commit, and look at the lags, when it is time."""
        if now_s - self._at_s >= COMMIT_EVERY_S:
            self._at_s = now_s
            self.commit()
            self._state.lags = self._lags()

    def commit(self, partitions: Iterable[Partition] = (), *, waits: bool = False) -> bool:
        """Commit what is settled and not committed yet; whether that worked, where it waits."""
        due = self._due(partitions or list(self._held.values())) if self._commits else []
        if not due:
            return True
        if not waits and self.is_committing:
            return True
        try:
            self.is_committing = not waits
            done = self._consumer.commit(offsets=due, asynchronous=not waits)
            if done is None:
                return True
        except self._kafka.KafkaException as error:
            self.is_committing = False
            self._failed(text_of(error))
            return False
        return self._done(done)

    def on_commit(self, error: KafkaError | None, parts: list[Any]) -> None:
        """What became of a commit; the client calls this."""
        self.is_committing = False
        if error is None:
            self._done(parts)
        elif error.code() != self._kafka.KafkaError._NO_OFFSET:  # noqa: SLF001 - its public name
            self._failed(error.str())

    def forget(self, partition: Partition) -> None:
        """It is not ours any more."""
        self.committed.pop(partition, None)

    def _due(self, partitions: Iterable[Partition]) -> list[Any]:
        settled = self.settled
        return [
            self.part(partition, settled[partition])
            for partition in partitions
            if partition in settled and settled[partition] != self.committed.get(partition)
        ]

    def _done(self, parts: list[Any]) -> bool:
        self._state.commits += 1
        for part in parts:
            partition = self._held.get((part.topic, part.partition))
            if part.error is not None:
                self._failed(part.error.str())
                return False
            if partition is not None:
                self.committed[partition] = part.offset
        return True

    def _failed(self, why: str) -> None:
        """It is tried again: what is not committed stays due."""
        self._state.commits_failed += 1
        self.last_error = self._shown(why)
        _log.warning("Kafka: a commit failed, and is tried again: %s", self.last_error)

    def _lags(self) -> dict[Key, int]:
        lags: dict[Key, int] = {}
        for key, partition in self._held.items():
            low, high = self._consumer.get_watermark_offsets(self.part(partition), cached=True)
            at = self.committed.get(partition, low)
            if high >= 0:
                lags[key] = max(0, high - max(at, low, 0))
        return lags
