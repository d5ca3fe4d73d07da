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

from pusher.errors import InputError, PusherError, UsageError
from pusher.model import Chunk, LiveState, Partition, Revocation
from pusher.showing import Examples
from pusher.sources.client import (
    METADATA_S,
    Plan,
    consumer_properties,
    load_client,
    text_of,
    topics_of,
)
from pusher.sources.converting import Conversion
from pusher.sources.handoff import Handoff
from pusher.sources.offsets import Key, Offsets
from pusher.sources.topics import TopicAddress, redacted
from pusher.sources.until import Bound
from pusher.sources.values import empty_chunk

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

__all__ = ["Consuming"]

FETCH_MAX = 4_000
POLL_S = 0.1
PAUSE_AFTER_S = 1.0
"""So long without room, and fetching is paused: then the client can be asked without reading."""
CONNECT_S = 30.0
FIRST_ASK_S = 1.0
"""Short, as a client that is not let in waits for as long; a slow broker has more each time."""
LAST_COMMIT_S = 10.0
LET_GO_SLACK_S = 5.0

_log = logging.getLogger("pusher")


class Consuming:
    """The work of the thread: `run`. Everything else is called in the event loop.

    Args:
        address: brokers, topics and group.
        plan: how they are read.
        state: kept up to date.
        handoff: where chunks go; errors, and the end, too.
        revoke: told that partitions go; then `let_go` is waited for.
        examples: take note of what is made of messages; None is not wanted.
    """

    def __init__(
        self,
        address: TopicAddress,
        plan: Plan,
        state: LiveState,
        handoff: Handoff,
        revoke: Callable[[Revocation], None],
        *,
        examples: Examples | None = None,
    ) -> None:
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
        self._offsets = Offsets(state, self._held, commits=plan.joins, shown=self._redacted)
        self._conversion = Conversion(plan.formats, plan.max_line_bytes, examples)
        self._epoch = 0
        self._bound: Bound | None = None
        self._handed = 0  # Chunks.
        self._fatal: str | None = None
        self._reads = True
        self._ends = threading.Event()
        self._refusal: str | None = None  # Why the brokers do not let us in.
        self._last_error = ""
        self._paused: set[Partition] = set()
        self._slipped: list[Message] = []  # Messages that came although their partition is paused.
        self._gone: set[Key] = set()  # Partitions that went during a fetch,
        self._returned: set[Key] = set()  # and those of them that came back in it.

    def holds(self, partition: Partition) -> bool:
        """The partition is still ours, in the same epoch."""
        return self._held.get((partition.topic, partition.number)) is partition

    def settle(self, offsets: Mapping[Partition, int]) -> None:
        """Everything before these offsets is settled; it is committed soon."""
        self._offsets.settled = offsets

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
            self._handoff.add(error)
        except Exception as error:  # noqa: BLE001 - whatever the client raises ends the run
            self._handoff.add(InputError(self._redacted(f"Kafka: {error}")))
        finally:
            self._leave()

    # -- starting

    def _start(self) -> None:
        self._kafka = kafka = load_client()
        try:
            settings = consumer_properties(self._address, self._plan)
            settings |= {"on_commit": self._offsets.on_commit, "error_cb": self._on_error}
            self._consumer = kafka.Consumer(settings, logger=logging.getLogger("pusher.kafka"))
            self._offsets.attach(kafka, self._consumer)
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
        patience_s = FIRST_ASK_S
        while True:
            self._state.polled_at_s = time.monotonic()
            try:
                return topics_of(self._consumer, self._address, patience_s)
            except self._kafka.KafkaException as error:
                self._consumer.poll(0)  # Lets the client say what is wrong.
                patience_s = min(2 * patience_s, CONNECT_S / 2)
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
            offset = self._offsets.committed.get(partition, self._kafka.OFFSET_INVALID)
            starts.append(self._offsets.part(partition, offset))
        self._consumer.assign(starts)

    # -- reading

    def _turn(self) -> None:
        now_s = self._state.polled_at_s = time.monotonic()
        if self._fatal is not None:
            raise InputError(self._fatal)
        self._offsets.commit_if_due(now_s)
        if not self._reads:
            self._serve()
            return
        if self._bound is not None and self._is_over(self._bound):
            self._reads = False
            self._handoff.add(None)
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
        self._gone.clear()
        self._returned.clear()
        messages = [first, *self._consumer.consume(FETCH_MAX - 1, 0)]
        if self._returned:
            messages = self._without_returned(messages)
        return messages, {**self._held, **held}  # What went is not held any more.

    def _without_returned(self, messages: list[Message]) -> list[Message]:
        """Leave out what is of partitions that went and came back in this fetch, and read it again.

        Which of their messages are of the time before cannot be told.
        """
        kept: list[Message] = []
        lowest: dict[Key, int] = {}
        for message in messages:
            key: Key = (message.topic(), message.partition())  # type: ignore[assignment]
            if key not in self._returned:
                kept.append(message)
            elif message.error() is None:
                offset: int = message.offset()  # type: ignore[assignment]
                lowest[key] = min(offset, lowest.get(key, offset))
        for key in self._returned & self._held.keys():
            _log.info("%s[%d] went and came back in one fetch: it is read again", *key)
            self._read_again(self._held[key], lowest.get(key))
        return kept

    def _read_again(self, partition: Partition, lowest: int | None) -> None:
        """Go back to where the group is, or else to where it would begin.

        Raises:
            KafkaException: that cannot be done.
        """
        offset = self._offsets.committed.get(partition)
        if offset is None:  # None is committed, or no broker has told.
            offset = self._committed_offset(partition)
        if offset < 0 and self._reset in {"latest", "largest", "end", "error"}:
            if lowest is None:
                return
            offset = lowest
        elif offset < 0:
            offset = self._kafka.OFFSET_BEGINNING
        try:
            self._consumer.seek(self._offsets.part(partition, offset))
        except self._kafka.KafkaException as error:
            if error.args[0].code() != self._kafka.KafkaError._STATE:  # noqa: SLF001
                raise
            # Fetching has not begun again, so what was left out is all of the time before.

    def _committed_offset(self, partition: Partition) -> int:
        """As the brokers tell it, below zero where there is none; they may just change places.

        Raises:
            KafkaException: they do not tell for so long.
        """
        deadline_s = time.monotonic() + CONNECT_S
        while True:
            self._state.polled_at_s = time.monotonic()
            try:
                asked = [self._offsets.part(partition)]
                (part,) = self._consumer.committed(asked, timeout=METADATA_S)
            except self._kafka.KafkaException:
                if time.monotonic() > deadline_s or self._ends.wait(POLL_S):
                    raise
            else:
                return int(part.offset)

    def _offer(self, chunk: Chunk) -> bool:
        """Hand a chunk over when there is room; false when nobody wants it."""
        if not self._handoff.has_room(PAUSE_AFTER_S, chunk):
            self._wait_for_room(chunk)
        if chunk.partition is not None and not self.holds(chunk.partition):
            return True  # It was taken away meanwhile: somebody else reads that again.
        if not self._reads or self._ends.is_set():
            return False
        self._handed += 1
        if not self._handoff.add(chunk):
            return False
        if self._handoff.is_filled_by(chunk) and not self._handoff.has_room(PAUSE_AFTER_S):
            self._wait_for_room()  # Before the next one is even put together: it may be as large.
        return True

    def _wait_for_room(self, chunk: Chunk | None = None) -> None:
        """Nothing is taken from us: keep our place in the group, and read nothing meanwhile."""
        while self._reads and not self._ends.is_set() and not self._handoff.has_room(0, chunk):
            if self._fatal is not None:
                raise InputError(self._fatal)
            self._serve()
            self._offsets.commit_if_due(time.monotonic())

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
            self._consumer.pause([self._offsets.part(partition) for partition in news])
            self._paused.update(news)
        self._state.is_paused = True

    def _resume(self) -> None:
        if self._paused:
            self._consumer.resume([self._offsets.part(partition) for partition in self._paused])
        self._paused.clear()
        self._state.is_paused = False

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
        yield from self._conversion.chunks(partition, messages)

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
        known = self._conversion.next_of(partition)
        if known is not None and offset <= known:
            return []
        line = self._conversion.pass_to(partition, offset)
        if offset == self._offsets.committed.get(partition):
            return []
        return [empty_chunk(partition, offset, line)]

    def _is_over(self, bound: Bound) -> bool:
        """Whether the whole group has got to where this run is to end.

        What we have read must be dealt with: until then a partition may go, and come back.
        """
        if self.rested_after != self._handed:
            return False
        own = {key: self._conversion.next_of(partition) for key, partition in self._held.items()}
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
            if (part.topic, part.partition) in self._gone:
                self._returned.add((part.topic, part.partition))
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
            self._offsets.committed[partition] = part.offset
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
        self._offsets.commit(partitions, waits=True)
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
        self._gone |= gone
        found = [self._held.pop(key, None) for key in gone]
        self._slipped = [m for m in self._slipped if (m.topic(), m.partition()) not in gone]
        self._paused.difference_update(partition for partition in found if partition is not None)
        return [partition for partition in found if partition is not None]

    def _forget(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            self._conversion.forget(partition)
            self._offsets.forget(partition)

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
        offsets = self._offsets
        # One that is under way may be tried again by the client, and would undo a later one.
        while offsets.is_committing and time.monotonic() < deadline_s and not self._fatal:
            self._serve()
        while not self._fatal and offsets.has_due:
            if offsets.commit(waits=True):
                continue
            if time.monotonic() > deadline_s:
                self.commit_trouble = f"the last commit failed: {offsets.last_error}"
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
