"""Group sync messages into batches that the API accepts. No clock, no I/O: the caller passes `now`.

Messages come as the scanner finds them, or decoded. Of the former, a lane notes where they are;
the latter are encoded for its next request right after they were read, while the processor has them
at hand. Where a batch has to be looked into, its messages are decoded again.

Keeps the order per object: a message waits while another batch carries its object.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress
from typing import TYPE_CHECKING

from msgspec import UNSET

from pusher.model import (
    Batch,
    Chunk,
    Groups,
    Lane,
    ObjectType,
    SyncMessage,
    ids_in,
    ids_text_of,
    origin_of,
    place_of,
)
from pusher.protocol import body_head, decode_piece, encode_messages, encode_piece

try:
    from pusher._scanner import OpenLanes

    LANE_BYTES = 650
    """What an open lane takes besides its messages; measured."""
except ImportError:  # No C compiler was there when pusher was installed.
    from pusher.plain import OpenLanes  # type: ignore[assignment]

    LANE_BYTES = 1_000
    """What an open lane takes besides its messages; measured."""

if TYPE_CHECKING:
    from pusher._scanner import OpenLane

__all__ = ["LANE_BYTES", "Batcher", "OpenLanes"]

_ANY_SIZE = 1 << 62

WAITING_OVERHEAD_BYTES = 500
"""What a waiting message takes besides its maps; measured."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """What waits in a lane, by object: what is open there came later.

    A message waits because its object is in flight; `freed` are the objects that came back since.
    """

    queues: dict[str, deque[tuple[int, SyncMessage]]] = field(default_factory=dict)
    freed: set[str] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class _Rest:
    """Messages of one lane that are on their way into it. `origins[i]` is of `messages[i]`."""

    store_id: str
    object_type: ObjectType
    messages: list[SyncMessage] = field(default_factory=list)
    origins: list[int] = field(default_factory=list)
    has_turn: bool = False
    """They have waited, so they go before what waits."""

    def __len__(self) -> int:
        return len(self.messages)

    def keep(self, stays: Sequence[bool]) -> None:
        """Forget the messages that do not stay."""
        self.messages = list(compress(self.messages, stays))
        self.origins = list(compress(self.origins, stays))

    def drop(self) -> int:
        """Forget all; say how many messages that was."""
        count = len(self.messages)
        self.keep([])
        return count


class Batcher:
    """Collects messages per lane and closes batches.

    Args:
        batch_size: messages in a full batch (the reference allows 200).
        batch_bytes: largest body; one larger message goes alone.
        keep_order: never two batches in flight with the same object.
        keeps_messages: batches come with their messages, for whoever sends another body.
    """

    def __init__(
        self,
        *,
        batch_size: int = 200,
        batch_bytes: int = 4 << 20,
        keep_order: bool = True,
        keeps_messages: bool = False,
    ) -> None:
        self._batch_size = batch_size
        self._batch_bytes = batch_bytes
        self._keep_order = keep_order
        self._keeps_messages = keeps_messages
        self._lanes = OpenLanes(_name_lane, batch_size, batch_bytes, keep_order)
        self._flying: dict[Batch, tuple[OpenLane, bytes]] = {}
        """Batches that are not settled, where order is kept: their lanes and marks."""
        self._with_freed: dict[OpenLane, None] = {}
        # The chunk that is being added, and how to drop what of it is still to come (which tells
        # how many messages that was).
        self._adding: tuple[int, Callable[[], int]] = (0, int)
        self._rest: _Rest | None = None  # What else is on its way into a lane.
        self.waiting_count = 0
        """Messages that wait because their object is in flight."""
        self._waiting_bytes = 0

    def __repr__(self) -> str:
        return f"<Batcher {self.open_lane_count} open lanes, {self.waiting_count} messages waiting>"

    def add(
        self, messages: list[SyncMessage], indexes: Iterable[int], chunk: Chunk, now_s: float
    ) -> Iterator[Batch]:
        """Add the messages of a chunk; yield each batch as it fills up.

        The store and type move from the message into the lane, so that they are not encoded again.
        """
        first_origin = origin_of(chunk.number, 0)
        origins: Sequence[int]
        if isinstance(indexes, range):  # All lines of the chunk: mostly.
            origins = range(first_origin + indexes.start, first_origin + indexes.stop)
        else:
            origins = [first_origin + index for index in indexes]
        rests = _by_lane(messages, origins)
        self._adding = chunk.number, lambda: sum(rest.drop() for rest in rests)
        for rest in rests:
            yield from self._pour(rest, now_s)
        self._adding = 0, int

    def add_groups(self, groups: Groups, chunk: Chunk, now_s: float) -> Iterator[Batch]:
        """Add the messages of a chunk that come by lane; yield each batch as it fills up."""
        self._adding = chunk.number, groups.drop
        while (lane := self._lanes.add(groups, now_s)) is not None:
            if lane.waiting is not None:
                yield from self._pour(self._decoded(groups, lane), now_s)
            else:
                yield from self._close(lane, is_last_call=not self._may_wait(lane))
        self._adding = 0, int  # The groups hold the data of the chunk.

    def expired(self, opened_before_s: float) -> Iterator[Batch]:
        """Close the lanes that have been open since before that moment."""
        while (lane := self._lanes.oldest) is not None and lane.opened_at_s <= opened_before_s:
            yield from self._close(lane, is_last_call=True)

    def oldest(self) -> Iterator[Batch]:
        """Close the lane that has been open longest, to let go of what it holds."""
        if (lane := self._lanes.oldest) is not None:
            yield from self._close(lane, is_last_call=True)

    def drain(self) -> Iterator[Batch]:
        """Close every open lane. What waits for its object's turn stays."""
        while (lane := self._lanes.oldest) is not None:
            yield from self._close(lane, is_last_call=True)

    def finish(self) -> Iterator[Batch]:
        """Close the open lanes that nothing more comes to, now that the input has ended.

        A lane with waiting messages stays open for them: one batch instead of many small ones.
        """
        for lane in self._lanes.open():
            if lane.waiting is None:
                yield from self._close(lane, is_last_call=True)

    def release(self, batch: Batch) -> None:
        """Take note that `batch` is settled: the objects in it have their next turn."""
        if not self._keep_order:
            return
        lane, marks = self._flying.pop(batch)
        self._lanes.land(lane, marks)
        waiting = _waiting_in(lane)
        if waiting is not None:
            freed = waiting.queues.keys() & batch.ids
            if freed:
                waiting.freed |= freed
                self._with_freed[lane] = None
        elif lane.is_idle:
            self._lanes.forget(lane)

    def turns(self, now_s: float) -> Iterator[Batch]:
        """Let messages go whose object's turn has come: they join what is open in their lane."""
        while self._with_freed:
            lane, _ = self._with_freed.popitem()
            while (waiting := _waiting_in(lane)) is not None and waiting.freed:
                yield from self._pour(self._take_freed(lane, waiting), now_s)
                waiting = _waiting_in(lane)
                if waiting is None or not lane.count:
                    continue
                if not waiting.queues.keys().isdisjoint(ids_in(self._lanes.ids(lane))):
                    # More of an object waits for what is open, which must not wait for it.
                    yield from self._close(lane, is_last_call=True)

    def find(self, chunk_numbers: Container[int]) -> dict[int, set[int]]:
        """Which messages are held here that came from these chunks: their indexes, by chunk."""
        found: dict[int, set[int]] = {}
        for lane in self._lanes.all():
            waiting = _waiting_in(lane)
            queues = waiting.queues.values() if waiting is not None else ()
            waiting_origins = (origin for origin, _ in chain.from_iterable(queues))
            for origin in chain(self._lanes.origins(lane), waiting_origins):
                number, index = place_of(origin)
                if number in chunk_numbers:
                    found.setdefault(number, set()).add(index)
        return found

    def to_copy_bytes(self, chunk_numbers: Sequence[int]) -> int:
        """What `copy_out` would copy, with messages of other chunks that are open before these."""
        return self._lanes.to_copy_bytes(chunk_numbers)

    def copy_out(self, chunk_numbers: Sequence[int]) -> None:
        """Keep hold of none of these chunks: copy what is open out of them."""
        self._lanes.copy_out(chunk_numbers)

    def to_come_bytes(self, count: int) -> int:
        """What so many bodies of what is open would take at most besides what is held."""
        return self._lanes.to_come_bytes(count)

    def withdraw(self, chunk_numbers: Container[int]) -> Counter[int]:
        """Forget the messages that came from these chunks and are not in a batch: how many.

        That includes those of a chunk that is being added: `add` then yields no more of it.
        """
        gone: Counter[int] = Counter()
        number, drop_rest = self._adding
        if number in chunk_numbers:
            gone[number] = drop_rest()

        def stays(origin: int) -> bool:
            number, _ = place_of(origin)
            gone[number] += number in chunk_numbers
            return number not in chunk_numbers

        if self._rest is not None:
            self._rest.keep([stays(origin) for origin in self._rest.origins])
        for lane in self._lanes.all():
            open_stay = [stays(origin) for origin in self._lanes.origins(lane)]
            if not all(open_stay):
                self._keep_open(lane, self._open_of(lane), open_stay)
            waiting = _waiting_in(lane)
            if waiting is not None:
                self._keep_waiting(waiting, stays)
                self._free_orphans(lane, waiting)
            self._forget_if_idle(lane)
        return +gone

    @property
    def has_turns(self) -> bool:
        """Some waiting messages can go now: `turns` will let them."""
        return bool(self._with_freed)

    @property
    def lane_count(self) -> int:
        """Lanes that hold something, or whose objects are in flight."""
        return self._lanes.lane_count

    @property
    def open_lane_count(self) -> int:
        """Lanes that hold messages for their next batch."""
        return self._lanes.open_count

    @property
    def held_bytes(self) -> int:
        """What open and waiting messages take, but for the chunks that they are in."""
        return self._lanes.held_bytes + self._waiting_bytes

    @property
    def oldest_opened_at_s(self) -> float | None:
        """When the lane that has been open longest got its first message."""
        lane = self._lanes.oldest
        return None if lane is None else lane.opened_at_s

    def _pour(self, rest: _Rest, now_s: float) -> Iterator[Batch]:
        """Encode messages into the body of their lane, and close that whenever it is full."""
        lanes, most = self._lanes, self._batch_size
        while rest:
            # While a batch was let go, the lane may have been forgotten.
            lane = lanes.lane(rest.store_id, rest.object_type)
            if lane.waiting is not None and not rest.has_turn:
                self._divert(rest, lane)
                if not rest:
                    break
            size = min(len(rest), self._batch_size - lane.count, most)
            if self._encode(lane, rest, size, now_s):
                if lane.count < self._batch_size and lane.body_bytes < self._batch_bytes:
                    continue
            elif size > 1:
                most = 1  # Some of them may fit.
                continue
            self._rest = rest
            yield from self._close(lane, is_last_call=not self._may_wait(lane))
            self._rest = None

    def _encode(self, lane: OpenLane, rest: _Rest, size: int, now_s: float) -> bool:
        """Move messages into what is open; false, and nothing is changed, where it is too large.

        One message alone always fits.
        """
        part, origins = rest.messages[:size], rest.origins[:size]
        ids = ids_text_of(part) if self._keep_order else ""
        if size == 1 and _size_of(part[0]) >= self._batch_bytes:
            if lane.count:
                return False
            self._lanes.put(lane, encode_messages(lane.name, part), ids, origins, now_s)
        else:
            piece = encode_piece(part)
            body_bytes = lane.body_bytes + (lane.count > 0) + len(piece)
            if body_bytes > self._batch_bytes and lane.count + size > 1:
                return False
            self._lanes.extend(lane, piece, ids, origins, now_s)
        del rest.messages[:size], rest.origins[:size]
        return True

    def _decoded(self, groups: Groups, lane: OpenLane) -> _Rest:
        """The next group, decoded: where messages wait, each one that comes is looked at."""
        taken = groups.first().take(_ANY_SIZE, _ANY_SIZE, True)
        if taken is None:
            raise AssertionError("any size fits")
        piece, _, origins = taken
        return _Rest(lane.name.store_id, lane.name.object_type, decode_piece(piece), origins)

    def _divert(self, rest: _Rest, lane: OpenLane) -> None:
        """Let messages that were just read wait, if others of their objects do."""
        waiting = _waiting_in(lane)
        if waiting is None:
            raise AssertionError("nothing waits")
        stays = []
        for message, origin in zip(rest.messages, rest.origins, strict=True):
            queue = waiting.queues.get(_id_of(message))
            stays.append(queue is None)
            if queue is not None:
                queue.append((origin, _own(message)))
                self._count_waiting(message, 1)
        rest.keep(stays)

    def _may_wait(self, lane: OpenLane) -> bool:
        """A lane is full of messages: if some have to be put aside, others may come."""
        return lane.count >= self._batch_size and lane.body_bytes < self._batch_bytes

    def _close(self, lane: OpenLane, *, is_last_call: bool) -> Iterator[Batch]:
        """Turn what is open into a batch.

        Messages whose object is in flight start to wait. The rest then stays open to fill up,
        unless this is its last call.
        """
        if not lane.count:  # It was emptied while another batch was let go, and perhaps forgotten.
            return
        has_waiters = self._lanes.meets_flying(lane) and self._set_aside(lane)
        if lane.count and (is_last_call or not has_waiters):
            yield self._take(lane)

    def _take(self, lane: OpenLane) -> Batch:
        """The batch of what is open. The lane is open no more."""
        body, ids_text, origins, marks = self._lanes.take(lane)
        batch = Batch(lane.name, None, origins, body, ids_text=ids_text)
        if self._keeps_messages:
            batch.keep_messages()
        if self._keep_order:
            self._flying[batch] = lane, marks
        else:  # Nobody waits for its release.
            self._lanes.forget(lane)
        return batch

    def _set_aside(self, lane: OpenLane) -> bool:
        """Move the open messages that must wait for their object; false if there is none."""
        flying = [batch.ids for batch, (of, _) in self._flying.items() if of is lane]
        in_flight = set(chain.from_iterable(flying))
        messages, origins = self._open_of(lane), self._lanes.origins(lane)
        rest = self._rest if self._rest is not None and self._rest.has_turn else None
        if rest is not None:  # It comes before what waits.
            messages, origins = messages + rest.messages, origins + rest.origins
        aside: dict[str, list[tuple[int, SyncMessage]]] = {}
        stays = []
        for message, origin in zip(messages, origins, strict=True):
            external_id = _id_of(message)
            stays.append(external_id not in in_flight)
            if external_id in in_flight:
                aside.setdefault(external_id, []).append((origin, _own(message)))
                self._count_waiting(message, 1)
        if not aside:
            return False
        waiting = _waiting_in(lane) or _Waiting()
        lane.waiting = waiting
        for external_id, entries in aside.items():
            # What of their object waits already came later.
            waiting.queues.setdefault(external_id, deque()).extendleft(reversed(entries))
        if rest is not None:
            rest.keep(stays[lane.count :])
        if not all(stays[: lane.count]):
            self._keep_open(lane, messages[: lane.count], stays[: lane.count])
        return True

    def _keep_open(
        self, lane: OpenLane, messages: list[SyncMessage], stays: Sequence[bool]
    ) -> None:
        """Leave in a lane only those of its open messages that stay."""
        opened_at_s = lane.opened_at_s
        kept = list(compress(messages, stays))
        origins = list(compress(self._lanes.origins(lane), stays))
        self._lanes.clear(lane)
        if kept:
            ids = ids_text_of(kept) if self._keep_order else ""
            self._lanes.extend(lane, encode_piece(kept), ids, origins, opened_at_s)

    def _keep_waiting(self, waiting: _Waiting, stays: Callable[[int], bool]) -> None:
        """Leave only those messages that stay among what waits."""
        for external_id, queue in list(waiting.queues.items()):
            kept = deque(entry for entry in queue if stays(entry[0]))
            if len(kept) == len(queue):
                continue
            for _, message in queue:
                self._count_waiting(message, -1)
            for _, message in kept:
                self._count_waiting(message, 1)
            waiting.queues[external_id] = kept
            if not kept:
                del waiting.queues[external_id]
                waiting.freed.discard(external_id)

    def _free_orphans(self, lane: OpenLane, waiting: _Waiting) -> None:
        """What waits for messages that were withdrawn has its turn."""
        orphans = waiting.queues.keys() - waiting.freed
        flying = (batch.ids for batch, (of, _) in self._flying.items() if of is lane)
        orphans.difference_update(ids_in(self._lanes.ids(lane)), *flying)
        if orphans:
            waiting.freed |= orphans
            self._with_freed[lane] = None

    def _take_freed(self, lane: OpenLane, waiting: _Waiting) -> _Rest:
        """Take the waiting messages of free objects, at most a full batch."""
        freed: list[tuple[int, SyncMessage]] = []
        while waiting.freed and len(freed) < self._batch_size:
            external_id = waiting.freed.pop()
            queue = waiting.queues[external_id]
            while queue and len(freed) < self._batch_size:
                freed.append(queue.popleft())
            if not queue:
                del waiting.queues[external_id]
        if not waiting.queues:
            lane.waiting = None
        for _, message in freed:
            self._count_waiting(message, -1)
        freed.sort(key=lambda entry: entry[0])
        origins, messages = [origin for origin, _ in freed], [message for _, message in freed]
        return _Rest(*lane.name, messages, origins, has_turn=True)

    def _open_of(self, lane: OpenLane) -> list[SyncMessage]:
        """The messages that are encoded in a lane."""
        return Batch(lane.name, None, (), self._lanes.body(lane)).messages

    def _forget_if_idle(self, lane: OpenLane) -> None:
        """An input may have very many lanes, and most of them rest."""
        waiting = _waiting_in(lane)
        if waiting is not None and not waiting.queues:
            lane.waiting = None
            self._with_freed.pop(lane, None)
        if lane.is_idle:
            self._lanes.forget(lane)

    def _count_waiting(self, message: SyncMessage, count: int) -> None:
        self.waiting_count += count
        self._waiting_bytes += count * (_size_of(message) + WAITING_OVERHEAD_BYTES)


def _name_lane(store_id: str, object_type: ObjectType) -> tuple[Lane, bytes]:
    """What a lane is called, and what its bodies have before the messages."""
    lane = Lane(store_id, object_type)
    return lane, body_head(lane)


def _by_lane(messages: list[SyncMessage], origins: Sequence[int]) -> list[_Rest]:
    """Part messages by their lanes, in the order in which these come; the names leave them."""
    by_type: dict[object, dict[object, _Rest]] = {}
    rests: list[_Rest] = []
    unset = UNSET
    for message, origin in zip(messages, origins, strict=True):
        try:
            rest = by_type[message.object_type][message.store_id]
        except KeyError:
            object_type, store_id = message.object_type, message.store_id
            if object_type is unset or not isinstance(store_id, str):
                raise TypeError("a message must have a store and a type to join a lane") from None
            rest = by_type.setdefault(object_type, {})[store_id] = _Rest(store_id, object_type)
            rests.append(rest)
        message.store_id = unset
        message.object_type = unset
        rest.messages.append(message)
        rest.origins.append(origin)
    return rests


def _waiting_in(lane: OpenLane) -> _Waiting | None:
    return lane.waiting  # type: ignore[return-value]


def _own(message: SyncMessage) -> SyncMessage:
    """Copy the maps of a message that waits, so that what they were cut from is not kept."""
    message.properties = message.properties.copy()
    message.associations = message.associations.copy()
    return message


def _id_of(message: SyncMessage) -> str:
    """An id is a string once a message is decoded."""
    return message.external_object_id  # type: ignore[return-value]


def _size_of(message: SyncMessage) -> int:
    return len(message.properties) + len(message.associations)
