"""The thread that owns the Kafka client: it fetches, commits, and answers rebalances.

All of the client is called from this thread, and so are its callbacks. The event loop only sets
what is to be committed and reads the state.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pusher.changes import Converter, change_format_of
from pusher.errors import InputError, PusherError, UsageError
from pusher.model import Chunk, LiveState, Partition, Revocation
from pusher.records import Record
from pusher.sources.client import (
    METADATA_S,
    Plan,
    consumer_properties,
    load_client,
    text_of,
    topics_of,
)
from pusher.sources.handoff import Handoff
from pusher.sources.topics import TopicAddress, redacted
from pusher.sources.until import Bound
from pusher.sources.values import chunks_of_records, chunks_of_values, empty_chunk

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

__all__ = ["Consuming"]

FETCH_MAX = 4_000
POLL_S = 0.1
PAUSE_AFTER_S = 1.0
"""So long without room, and fetching is paused: then the client can be asked without reading."""
COMMIT_EVERY_S = 1.0
LAG_EVERY_S = 1.0
CONNECT_S = 30.0
LAST_COMMIT_S = 10.0
LET_GO_SLACK_S = 5.0

_log = logging.getLogger("pusher")

Key = tuple[str, int]


class Consuming:
    """The work of the thread: `run`. Everything else is called in the event loop.

    Args:
        address: brokers, topics and group.
        plan: how they are read.
        state: kept up to date.
        handoff: where chunks go; errors, and the end, too.
        revoke: told that partitions go; then `let_go` is waited for.
    """

    def __init__(
        self,
        address: TopicAddress,
        plan: Plan,
        state: LiveState,
        handoff: Handoff,
        revoke: Callable[[Revocation], None],
    ) -> None:
        self.settled: Mapping[Partition, int] = {}
        """Up to where each partition is settled; replaced as a whole."""
        self.rested_after = 0
        """So many of the chunks handed over are dealt with; what else there is, waits for more."""
        self.let_go = threading.Event()
        self.commit_trouble: str | None = None
        self._address = address
        self._plan = plan
        self._state = state
        self._handoff = handoff
        self._revoke = revoke
        self._reset = consumer_properties(address, plan)["auto.offset.reset"]
        self._kafka: Any = None
        self._consumer: Any = None
        self._held: dict[Key, Partition] = {}
        self._next: dict[Partition, int] = {}  # What comes behind the last message read.
        self._lines: dict[Partition, int] = {}
        self._committed: dict[Partition, int] = {}
        self._epoch = 0
        self._bound: Bound | None = None
        self._converter = Converter(change=plan.formats.change, mapping=plan.formats.mapping)
        self._handed = 0  # Chunks.
        self._fatal: str | None = None
        self._reads = True
        self._ends = threading.Event()
        self._refusal: str | None = None  # Why the brokers do not let us in.
        self._last_error = ""
        self._paused: set[Partition] = set()
        self._slipped: list[Message] = []  # Messages that came although their partition is paused.
        self._is_committing = False
        self._committed_at_s = self._looked_at_s = 0.0

    def holds(self, partition: Partition) -> bool:
        """The partition is still ours, in the same epoch."""
        return self._held.get((partition.topic, partition.number)) is partition

    def stop_reading(self) -> None:
        """Fetch nothing more; partitions are kept, and commits go on."""
        self._reads = False

    def end(self) -> None:
        """Commit a last time, leave the group, and end the thread."""
        self._ends.set()

    def run(self) -> None:
        """Read until it is told to end."""
        try:
            self._start()
            while not self._ends.is_set():
                self._turn()
        except PusherError as error:
            self._handoff.put(error)
        except Exception as error:  # noqa: BLE001 - whatever the client raises ends the run
            self._handoff.put(InputError(self._redacted(f"Kafka: {error}")))
        finally:
            self._leave()

    # -- starting

    def _start(self) -> None:
        self._kafka = kafka = load_client()
        try:
            settings = consumer_properties(self._address, self._plan)
            settings |= {"on_commit": self._on_commit, "error_cb": self._on_error}
            self._consumer = kafka.Consumer(settings, logger=logging.getLogger("pusher.kafka"))
        except (kafka.KafkaException, ValueError, TypeError) as error:
            raise UsageError(self._redacted(f"--kafka-config: {text_of(error)}")) from error
        topics = self._find_topics()
        if self._plan.until is not None:
            self._bound = Bound(self._plan.until, self._consumer, topics)
        if self._plan.joins:
            self._consumer.subscribe(
                list(self._address.topics),
                on_assign=lambda _, parts: self._on_assign(parts),
                on_revoke=lambda _, parts: self._on_revoke(parts),
                on_lost=lambda _, parts: self._on_lost(parts),
            )
        else:
            self._take_all(topics)

    def _find_topics(self) -> dict[str, list[int]]:
        """The partitions of the topics that are meant, by name, once a broker answers."""
        deadline_s = time.monotonic() + CONNECT_S
        while True:
            self._state.polled_at_s = time.monotonic()
            try:
                return topics_of(self._consumer, self._address)
            except self._kafka.KafkaException as error:
                self._consumer.poll(0)  # Lets the client say what is wrong.
                why = self._refusal or self._last_error or text_of(error)
                if self._refusal or time.monotonic() > deadline_s or self._ends.is_set():
                    brokers = self._address.brokers
                    raise InputError(self._redacted(f"Kafka at {brokers}: {why}")) from error

    def _take_all(self, topics: Mapping[str, Iterable[int]]) -> None:
        """Read all partitions from where the group is, without joining it."""
        parts = [
            self._kafka.TopicPartition(name, number)
            for name, numbers in topics.items()
            for number in numbers
        ]
        self._on_assign(parts)
        starts = []
        for part in parts:
            partition = self._held[part.topic, part.partition]
            offset = self._committed.get(partition, self._kafka.OFFSET_INVALID)
            starts.append(self._kafka.TopicPartition(part.topic, part.partition, offset))
        self._consumer.assign(starts)

    # -- reading

    def _turn(self) -> None:
        now_s = self._state.polled_at_s = time.monotonic()
        if self._fatal is not None:
            raise InputError(self._fatal)
        if now_s - self._committed_at_s >= COMMIT_EVERY_S:
            self._committed_at_s = now_s
            self._commit()
        if now_s - self._looked_at_s >= LAG_EVERY_S:
            self._looked_at_s = now_s
            self._state.lags = self._lags()
        if not self._reads:
            self._serve()
            return
        if self._bound is not None and self._is_over(self._bound):
            self._reads = False
            self._handoff.put(None)
            return
        if not self._handoff.has_room(PAUSE_AFTER_S):
            self._wait_for_room()
            return
        if self._state.is_paused:
            self._resume()
        messages, held = self._fetch()
        for chunk in self._chunks(messages, held):
            if not self._offer(chunk):
                return

    def _fetch(self) -> tuple[list[Message], Mapping[Key, Partition]]:
        """What there is, at most so much, and whose it is; waits a little for the first message.

        `consume` alone would wait for all of them, or for its whole timeout.
        """
        if self._slipped:
            slipped, self._slipped = self._slipped, []
            return slipped, dict(self._held)
        first = self._consumer.poll(POLL_S)
        if first is None:  # A message with an empty value is false.
            return [], {}
        held = dict(self._held)
        rest = self._consumer.consume(FETCH_MAX - 1, 0)
        for key, partition in held.items():
            if self._held.get(key, partition) is not partition:
                raise InputError(f"{partition}: it was taken away and came back in one fetch")
        return [first, *rest], {**self._held, **held}  # What went is not held any more.

    def _offer(self, chunk: Chunk) -> bool:
        """Hand a chunk over when there is room; false when nobody wants it."""
        if not self._handoff.has_room(PAUSE_AFTER_S, chunk):
            self._wait_for_room(chunk)
        if chunk.partition is not None and not self.holds(chunk.partition):
            return True  # It was taken away meanwhile: somebody else reads that again.
        self._handed += 1
        return self._handoff.put(chunk)

    def _wait_for_room(self, chunk: Chunk | None = None) -> None:
        """Nothing is taken from us: keep our place in the group, and read nothing meanwhile."""
        while self._reads and not self._ends.is_set() and not self._handoff.has_room(0, chunk):
            if self._fatal is not None:
                raise InputError(self._fatal)
            self._serve()
            self._commit_if_due()

    def _commit_if_due(self) -> None:
        now_s = time.monotonic()
        if now_s - self._committed_at_s >= COMMIT_EVERY_S:
            self._committed_at_s = now_s
            self._commit()
            self._state.lags = self._lags()

    def _serve(self) -> None:
        """Let the client do its work without reading: rebalances, commits, the poll interval."""
        self._state.polled_at_s = time.monotonic()
        self._pause()
        message = self._consumer.poll(POLL_S)
        if message is not None:  # It was on its way when its partition was paused; or an error.
            self._slipped.append(message)

    def _pause(self) -> None:
        """Pause what is not paused yet: partitions may have come since."""
        news = [one for one in self._held.values() if one not in self._paused]
        if news:
            self._consumer.pause([self._part(partition) for partition in news])
            self._paused.update(news)
        self._state.is_paused = True

    def _resume(self) -> None:
        if self._paused:
            self._consumer.resume([self._part(partition) for partition in self._paused])
        self._paused.clear()
        self._state.is_paused = False

    def _part(self, partition: Partition, offset: int | None = None) -> Any:
        if offset is None:
            return self._kafka.TopicPartition(partition.topic, partition.number)
        return self._kafka.TopicPartition(partition.topic, partition.number, offset)

    def _chunks(self, messages: list[Message], held: Mapping[Key, Partition]) -> Iterable[Chunk]:
        """Put messages together by partition, each in order.

        While a chunk waits for room, a partition may go, and come back to begin elsewhere. So all
        is taken to be of the partitions that were ours when it was fetched.
        """
        by_partition: dict[Key, list[Message]] = {}
        others: list[Message] = []
        for message in messages:
            if message.error() is None:
                key: Key = (message.topic(), message.partition())  # type: ignore[assignment]
                try:
                    by_partition[key].append(message)
                except KeyError:
                    by_partition[key] = [message]
            else:
                others.append(message)
        for key, some in by_partition.items():
            if key in held:
                yield from self._chunks_of(held[key], some)
        for message in others:  # After the messages: an end must not be settled before them.
            yield from self._note(message, held)

    def _chunks_of(self, partition: Partition, messages: list[Message]) -> Iterable[Chunk]:
        if self._bound is not None:
            messages = self._bound.before_end(messages)
            if not messages:
                return
        offsets: list[int] = [m.offset() for m in messages]  # type: ignore[misc]
        first_line = self._lines.get(partition, 0) + 1
        self._lines[partition] = first_line + len(messages) - 1
        self._next[partition] = offsets[-1] + 1
        yield from self._converted(partition, messages, offsets, first_line)

    def _converted(
        self, partition: Partition, messages: list[Message], offsets: list[int], first_line: int
    ) -> Iterable[Chunk]:
        """Sync messages as they are, in one go; all else record by record."""
        values: list[bytes | None] = [m.value() for m in messages]
        times_ms = [m.timestamp()[1] for m in messages]
        converter, limit_bytes = self._converter, self._plan.max_line_bytes
        if converter.change is None:
            self._detect(values)
        is_canonical = converter.change == "canonical" and self._plan.formats.mapping is None
        if is_canonical:
            chunks = chunks_of_values(
                *(partition, values, offsets, times_ms),
                first_line=first_line,
                max_line_bytes=limit_bytes,
            )
            if chunks is not None:
                return chunks
        records = [
            Record(value, m.key(), partition.topic, partition.number, offset, time_ms or None)
            for m, value, offset, time_ms in zip(messages, values, offsets, times_ms, strict=True)
        ]
        return chunks_of_records(
            *(partition, records, converter),
            first_line=first_line,
            max_line_bytes=limit_bytes,
            stamps=not is_canonical,
        )

    def _detect(self, values: Iterable[bytes | None]) -> None:
        """Tell what the values hold from the first that shows it, and keep to that."""
        for value in values:
            change = change_format_of(value) if value is not None else None
            if change is not None:
                self._converter.change = change
                if change != "canonical":
                    _log.info("the values are %s; --format says otherwise", change)
                return

    def _note(self, message: Message, held: Mapping[Key, Partition]) -> Iterable[Chunk]:
        """Something that is no message: an end, or an error.

        Raises:
            InputError: reading cannot go on.
        """
        error = message.error()
        codes = self._kafka.KafkaError
        if error is None:
            return []
        where = f"{message.topic()}[{message.partition()}]"
        if error.code() == codes._PARTITION_EOF:  # noqa: SLF001 - that is its public name
            return self._at_end(message, held)
        if error.code() == codes._AUTO_OFFSET_RESET:  # noqa: SLF001
            raise InputError(f"{where}: what comes next is not there any more: {error.str()}")
        if error.code() == codes.UNKNOWN_TOPIC_OR_PART:
            raise InputError(f"topic {message.topic()} is gone")
        if error.code() in {
            codes.TOPIC_AUTHORIZATION_FAILED,
            codes.GROUP_AUTHORIZATION_FAILED,
            codes.CLUSTER_AUTHORIZATION_FAILED,
        }:
            raise InputError(self._redacted(f"Kafka does not let us read: {error.str()}"))
        if error.fatal() or error.code() == codes._FATAL:  # noqa: SLF001
            self._fatal = self._fatal_text(error)
            raise InputError(self._fatal)
        _log.warning("Kafka: %s", self._redacted(error.str()))
        return []

    def _at_end(self, message: Message, held: Mapping[Key, Partition]) -> Iterable[Chunk]:
        """A partition's end was reached; what lies before it may be no message of ours."""
        partition = held.get((message.topic(), message.partition()))  # type: ignore[arg-type]
        offset = message.offset()
        if partition is None or offset is None or offset < 0:
            return []
        if offset <= self._next.get(partition, -1):
            return []
        self._next[partition] = offset
        if offset == self._committed.get(partition):
            return []
        return [empty_chunk(partition, offset, self._lines.get(partition, 0) + 1)]

    def _is_over(self, bound: Bound) -> bool:
        """Whether the whole group has got to where this run is to end.

        What we have read must be dealt with: until then a partition may go, and come back.
        """
        if self.rested_after != self._handed:
            return False
        own = {key: self._next.get(partition) for key, partition in self._held.items()}
        return self._state.has_joined and bound.is_reached(own, time.time())

    # -- rebalances; these are called by the client inside of poll, consume and close

    def _on_assign(self, parts: list[Any]) -> None:
        self._state.has_joined = True
        if not parts:
            return
        self._epoch += 1
        self._state.rebalances += 1
        self._state.assigned += len(parts)
        for part in parts:
            partition = Partition(part.topic, part.partition, self._epoch)
            self._held[part.topic, part.partition] = partition
        positions = self._positions(parts)
        shown = ", ".join(f"{name} from {offset}" for name, offset in positions[:20])
        more = f" and {len(positions) - 20} more" if len(positions) > 20 else ""
        _log.info("assigned %s%s", shown, more)

    def _positions(self, parts: list[Any]) -> list[tuple[str, int | str]]:
        """Where reading begins; says so where messages were deleted before they were read."""
        try:
            return self._known_positions(parts)
        except self._kafka.KafkaException as error:
            if not self._plan.joins:
                raise
            # The client goes on asking by itself: a broker may just be about to start.
            _log.info("Kafka: where reading begins is not known yet: %s", text_of(error))
            return [(f"{part.topic}[{part.partition}]", "where the group is") for part in parts]

    def _known_positions(self, parts: list[Any]) -> list[tuple[str, int | str]]:
        found: list[tuple[str, int | str]] = []
        for part in self._consumer.committed(parts, timeout=CONNECT_S):
            partition = self._held[part.topic, part.partition]
            if part.error is not None or part.offset < 0:
                found.append((str(partition), self._reset))
                continue
            self._committed[partition] = part.offset
            found.append((str(partition), part.offset))
            bare = self._kafka.TopicPartition(part.topic, part.partition)
            low, _ = self._consumer.get_watermark_offsets(bare, timeout=METADATA_S) or (0, 0)
            if low > part.offset:
                _log.warning(
                    "%s: the offsets %d to %d were deleted before they were read",
                    *(partition, part.offset, low - 1),
                )
        return found

    def _on_revoke(self, parts: list[Any]) -> None:
        partitions = self._given_up(parts)
        self._state.revoked += len(partitions)
        self._state.rebalances += bool(partitions)
        if not partitions or self._ends.is_set():
            return
        _log.info("revoked %s: waiting for what is in flight", _names(partitions))
        self.let_go.clear()
        self._revoke(Revocation(partitions, is_lost=False))
        deadline_s = time.monotonic() + self._plan.drain_timeout_s + LET_GO_SLACK_S
        while not self.let_go.wait(POLL_S) and time.monotonic() < deadline_s:
            self._state.polled_at_s = time.monotonic()
        self._commit(partitions, waits=True)
        self._forget(partitions)

    def _on_lost(self, parts: list[Any]) -> None:
        partitions = self._given_up(parts)
        self._state.lost += len(partitions)
        if partitions:
            self._state.rebalances += 1
            _log.warning("lost %s: others may repeat what was delivered", _names(partitions))
            self._revoke(Revocation(partitions, is_lost=True))
            self._forget(partitions)

    def _given_up(self, parts: list[Any]) -> list[Partition]:
        gone = {(part.topic, part.partition) for part in parts}
        found = [self._held.pop(key, None) for key in gone]
        self._slipped = [m for m in self._slipped if (m.topic(), m.partition()) not in gone]
        self._paused.difference_update(partition for partition in found if partition is not None)
        return [partition for partition in found if partition is not None]

    def _forget(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            for memory in (self._next, self._lines, self._committed):
                memory.pop(partition, None)

    # -- committing

    def _due(self, partitions: Iterable[Partition]) -> list[Any]:
        settled = self.settled
        return [
            self._part(partition, settled[partition])
            for partition in partitions
            if partition in settled and settled[partition] != self._committed.get(partition)
        ]

    def _commit(self, partitions: Iterable[Partition] = (), *, waits: bool = False) -> bool:
        """Commit what is settled and not committed yet; whether that worked, where it waits."""
        due = self._due(partitions or list(self._held.values())) if self._plan.joins else []
        if not due:
            return True
        if not waits and self._is_committing:
            return True
        try:
            self._is_committing = not waits
            done = self._consumer.commit(offsets=due, asynchronous=not waits)
            if done is None:
                return True
        except self._kafka.KafkaException as error:
            self._is_committing = False
            self._commit_failed(text_of(error))
            return False
        return self._committed_now(done)

    def _on_commit(self, error: KafkaError | None, parts: list[Any]) -> None:
        self._is_committing = False
        if error is None:
            self._committed_now(parts)
        elif error.code() != self._kafka.KafkaError._NO_OFFSET:  # noqa: SLF001
            self._commit_failed(error.str())

    def _committed_now(self, parts: list[Any]) -> bool:
        self._state.commits += 1
        for part in parts:
            partition = self._held.get((part.topic, part.partition))
            if part.error is not None:
                self._commit_failed(part.error.str())
                return False
            if partition is not None:
                self._committed[partition] = part.offset
        return True

    def _commit_failed(self, why: str) -> None:
        """It is tried again: what is not committed stays due."""
        self._state.commits_failed += 1
        self._last_error = self._redacted(why)
        _log.warning("Kafka: a commit failed, and is tried again: %s", self._last_error)

    def _lags(self) -> dict[Key, int]:
        lags: dict[Key, int] = {}
        for key, partition in self._held.items():
            low, high = self._consumer.get_watermark_offsets(self._part(partition), cached=True)
            at = self._committed.get(partition, low)
            if high >= 0:
                lags[key] = max(0, high - max(at, low, 0))
        return lags

    # -- ending

    def _leave(self) -> None:
        consumer = self._consumer
        if consumer is None:
            return
        try:
            # An error that ends the run still lets what is in flight be settled.
            while not self._ends.wait(POLL_S):
                self._state.polled_at_s = time.monotonic()
            self._commit_last()
        finally:
            if self._fatal is None:  # Otherwise it waits for an answer that does not come.
                consumer.close()

    def _commit_last(self) -> None:
        deadline_s = time.monotonic() + LAST_COMMIT_S
        # One that is under way may be tried again by the client, and would undo a later one.
        while self._is_committing and time.monotonic() < deadline_s and not self._fatal:
            self._serve()
        while self._plan.joins and not self._fatal and self._due(list(self._held.values())):
            if self._commit(waits=True):
                continue
            if time.monotonic() > deadline_s:
                self.commit_trouble = f"the last commit failed: {self._last_error}"
                return
            self._serve()

    # -- what the client says

    def _on_error(self, error: KafkaError) -> None:
        """The client's own troubles. It goes on by itself, unless it is not let in at the start."""
        codes = self._kafka.KafkaError
        self._last_error = self._redacted(error.str())
        if error.code() in {codes._AUTHENTICATION, codes._SSL, codes.SASL_AUTHENTICATION_FAILED}:  # noqa: SLF001
            self._refusal = self._last_error
        if error.fatal() or error.code() in {codes._FATAL, codes.FENCED_INSTANCE_ID}:  # noqa: SLF001
            self._fatal = self._last_error = self._fatal_text(error)
        _log.warning("Kafka: %s", self._last_error)

    def _fatal_text(self, error: KafkaError) -> str:
        codes = self._kafka.KafkaError
        fenced = {codes.FENCED_INSTANCE_ID, getattr(codes, "UNRELEASED_INSTANCE_ID", 111)}
        text = self._redacted(error.str())
        if error.code() in fenced or "instance" in text:
            return f"another member has the group instance {self._plan.group_instance!r}: {text}"
        return f"Kafka: {text}"

    def _redacted(self, text: str) -> str:
        return redacted(text, self._plan.properties)


def _names(partitions: Iterable[Partition]) -> str:
    return ", ".join(map(str, partitions))
