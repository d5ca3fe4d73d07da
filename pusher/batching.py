"""Group sync messages into batches that the API accepts. No clock, no I/O: the caller passes `now`.

Keeps the order per object: a message waits while another batch carries its object.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress

from msgspec import UNSET

from pusher.model import Batch, Chunk, Lane, ObjectType, SyncMessage, origin_of, place_of

__all__ = ["Batcher"]


@dataclass(slots=True, eq=False)
class _OpenLane:
    """What one lane holds: `messages` grow into the next batch, `waiting` came before them.

    A message waits because its object is in flight; `freed` are the objects that came back since.
    """

    lane: Lane
    messages: list[SyncMessage] = field(default_factory=list)
    origins: list[int] = field(default_factory=list)
    opened_at_s: float = 0.0
    counted_bytes: int = 0
    in_flight: set[str | int] = field(default_factory=set)
    is_borrowed: bool = False
    """`in_flight` is the very set of the one batch that is in flight."""
    waiting: dict[str | int, deque[tuple[int, SyncMessage]]] = field(default_factory=dict)
    freed: set[str | int] = field(default_factory=set)

    @property
    def is_idle(self) -> bool:
        """Nothing is held that a new one would not have."""
        return not (self.messages or self.in_flight or self.waiting)


class Batcher:
    """Collects messages per lane and closes batches.

    Args:
        encode: builds the request body of a batch; its size is held against `batch_bytes`.
        batch_size: messages in a full batch (the reference allows 200).
        batch_bytes: largest body; one larger message goes alone.
        keep_order: never two batches in flight with the same object.
        bodies_tell_all: a body has all that its messages have, so that they need not be kept.
    """

    def __init__(
        self,
        encode: Callable[[Lane, list[SyncMessage]], bytes],
        *,
        batch_size: int = 200,
        batch_bytes: int = 4 << 20,
        keep_order: bool = True,
        bodies_tell_all: bool = True,
    ) -> None:
        self._encode = encode
        self._batch_size = batch_size
        self._batch_bytes = batch_bytes
        self._keep_order = keep_order
        self._bodies_tell_all = bodies_tell_all
        self._lanes: dict[ObjectType, dict[str, _OpenLane]] = {}
        # Lanes with open messages, oldest first: dicts keep their order.
        self._open: dict[Lane, _OpenLane] = {}
        self._with_freed: dict[Lane, _OpenLane] = {}
        # The chunk that is being added, and what of it is still to come.
        self._adding: tuple[int, Iterator[object]] = (0, iter(()))
        self.lane_count = 0
        """Lanes that hold something, or whose objects are in flight."""
        self.waiting_count = 0
        """Messages that wait because their object is in flight."""

    def __repr__(self) -> str:
        return f"<Batcher {len(self._open)} open lanes, {self.waiting_count} messages waiting>"

    def add(
        self, messages: list[SyncMessage], indexes: Iterable[int], chunk: Chunk, now_s: float
    ) -> Iterator[Batch]:
        """Add the messages of a chunk; yield each batch as it fills up.

        The store and type move from the message into the lane, so that they are not encoded again.
        """
        lanes, batch_size, batch_bytes = self._lanes, self._batch_size, self._batch_bytes
        first_origin = origin_of(chunk.number, 0)
        origins: Sequence[int]
        if isinstance(indexes, range):  # All lines of the chunk: mostly.
            origins = range(first_origin + indexes.start, first_origin + indexes.stop)
        else:
            origins = [first_origin + index for index in indexes]
        # Sizes are counted only where a full batch of this chunk's messages might not fit;
        # the exact size is known, and kept, when a batch is encoded.
        counts_bytes = len(chunk.data) * batch_size > batch_bytes * len(messages)
        unset = UNSET
        rest = zip(messages, origins, strict=True)
        self._adding = chunk.number, rest
        for message, origin in rest:
            try:
                lane = lanes[message.object_type][message.store_id]  # type: ignore[index]
            except KeyError:
                lane = self._new_lane(message)
            message.store_id = unset
            message.object_type = unset
            held = lane.messages
            if not held:
                lane.opened_at_s = now_s
                self._open[lane.lane] = lane
            held.append(message)
            lane.origins.append(origin)
            if counts_bytes:
                lane.counted_bytes += _size_of(message)
                if lane.counted_bytes >= batch_bytes:
                    yield from self._close(lane)
                    continue
            if len(held) >= batch_size:
                yield from self._close(lane)

    def expired(self, opened_before_s: float) -> Iterator[Batch]:
        """Close the lanes that have been open since before that moment."""
        while self._open:
            lane = next(iter(self._open.values()))
            if lane.opened_at_s > opened_before_s:
                return
            yield from self._close(lane, is_last_call=True)

    def oldest(self) -> Iterator[Batch]:
        """Close the lane that has been open longest, to let go of what it holds."""
        if self._open:
            yield from self._close(next(iter(self._open.values())), is_last_call=True)

    def drain(self) -> Iterator[Batch]:
        """Close every open lane. What waits for its object's turn stays."""
        while self._open:
            yield from self._close(next(iter(self._open.values())), is_last_call=True)

    def finish(self) -> Iterator[Batch]:
        """Close the open lanes that nothing more comes to, now that the input has ended.

        A lane with waiting messages stays open for them: one batch instead of many small ones.
        """
        for lane in list(self._open.values()):
            while lane.messages and not lane.waiting:
                yield from self._close(lane, is_last_call=True)

    def release(self, batch: Batch) -> None:
        """Take note that `batch` is settled: the objects in it have their next turn."""
        if not self._keep_order:
            return
        lane = self._lanes[batch.lane.object_type][batch.lane.store_id]
        ids = batch.ids
        if len(lane.in_flight) == len(ids):
            lane.in_flight = set()
        else:
            lane.in_flight -= ids
        if lane.is_idle:
            self._forget(lane)
        if not lane.waiting or lane.waiting.keys().isdisjoint(ids):
            return
        lane.freed |= lane.waiting.keys() & ids
        self._with_freed[batch.lane] = lane

    def turns(self, now_s: float) -> Iterator[Batch]:
        """Let messages go whose object's turn has come: as full batches, or into the open lane."""
        while self._with_freed:
            _, lane = self._with_freed.popitem()
            while lane.freed:
                messages, origins = self._take_freed(lane)
                if len(messages) < self._batch_size:
                    # Their objects have nothing else waiting, and what is open came later.
                    if not lane.messages:
                        lane.opened_at_s = now_s
                        self._open[lane.lane] = lane
                    lane.messages = messages + lane.messages
                    lane.origins = origins + lane.origins
                    if len(lane.messages) >= self._batch_size:
                        yield from self._close(lane)
                else:
                    yield self._batch_of_freed(lane, messages, origins)

    def find(self, chunk_numbers: Container[int]) -> dict[int, dict[int, SyncMessage]]:
        """The messages held here that came from these chunks: by chunk, and by index in it."""
        found: dict[int, dict[int, SyncMessage]] = {}
        for by_store in self._lanes.values():
            for lane in by_store.values():
                held = chain(zip(lane.origins, lane.messages, strict=True), *lane.waiting.values())
                for origin, message in held:
                    number, index = place_of(origin)
                    if number in chunk_numbers:
                        found.setdefault(number, {})[index] = message
        return found

    def withdraw(self, chunk_numbers: Container[int]) -> Counter[int]:
        """Forget the messages that came from these chunks and are not in a batch: how many.

        That includes those of a chunk that is being added: `add` then yields no more of it.
        """
        gone: Counter[int] = Counter()
        number, rest = self._adding
        if number in chunk_numbers:
            gone[number] = sum(1 for _ in rest)

        def stays(origin: int) -> bool:
            number, _ = place_of(origin)
            gone[number] += number in chunk_numbers
            return number not in chunk_numbers

        for lane in [lane for by_store in self._lanes.values() for lane in by_store.values()]:
            held = [stays(origin) for origin in lane.origins]
            if not all(held):
                lane.messages = list(compress(lane.messages, held))
                lane.origins = list(compress(lane.origins, held))
                lane.counted_bytes = sum(map(_size_of, lane.messages)) if lane.counted_bytes else 0
                if not lane.messages:
                    self._open.pop(lane.lane, None)
            for external_id, queue in list(lane.waiting.items()):
                kept = deque(entry for entry in queue if stays(entry[0]))
                self.waiting_count -= len(queue) - len(kept)
                lane.waiting[external_id] = kept
                if not kept:
                    del lane.waiting[external_id]
                    lane.freed.discard(external_id)
            if lane.is_idle:
                self._forget(lane)
        return +gone

    @property
    def has_turns(self) -> bool:
        """Some waiting messages can go now: `turns` will let them."""
        return bool(self._with_freed)

    @property
    def open_lane_count(self) -> int:
        """Lanes that hold messages for their next batch."""
        return len(self._open)

    @property
    def oldest_opened_at_s(self) -> float | None:
        """When the lane that has been open longest got its first message."""
        return next((lane.opened_at_s for lane in self._open.values()), None)

    def _new_lane(self, message: SyncMessage) -> _OpenLane:
        object_type, store_id = message.object_type, message.store_id
        if object_type is UNSET or not isinstance(store_id, str):
            raise TypeError("a message must have a store and a type to join a lane")
        lane = _OpenLane(Lane(store_id, object_type))
        self._lanes.setdefault(object_type, {})[store_id] = lane
        self.lane_count += 1
        return lane

    def _forget(self, lane: _OpenLane) -> None:
        """An input may have very many lanes, and most of them rest."""
        del self._lanes[lane.lane.object_type][lane.lane.store_id]
        self.lane_count -= 1

    def _close(self, lane: _OpenLane, *, is_last_call: bool = False) -> Iterator[Batch]:
        """Turn the open messages into a batch, or several if they are large.

        Messages whose object is in flight start to wait. The rest then stays open to fill up,
        unless this is its last call.
        """
        while lane.messages:
            has_waiters = self._set_aside(lane)
            if not lane.messages or (has_waiters and not is_last_call):
                break
            batch, rest_bytes = self._cut(lane)
            yield batch
            if rest_bytes < self._batch_bytes:
                break
        if not lane.messages:
            self._open.pop(lane.lane, None)
            if not self._keep_order:
                self._forget(lane)

    def _set_aside(self, lane: _OpenLane) -> bool:
        """Move the open messages that must wait for their object; false if there is none."""
        if not (lane.in_flight or lane.waiting):
            return False  # Mostly, with more lanes than requests in flight.
        ids = _ids_of(lane.messages)
        if lane.in_flight.isdisjoint(ids) and lane.waiting.keys().isdisjoint(ids):
            return False
        messages, origins = lane.messages, lane.origins
        lane.messages, lane.origins = [], []
        for message, origin in zip(messages, origins, strict=True):
            external_id = message.external_object_id
            if external_id in lane.waiting:
                lane.waiting[external_id].append((origin, message))
            elif external_id in lane.in_flight:
                lane.waiting[external_id] = deque([(origin, message)])
            else:
                lane.messages.append(message)
                lane.origins.append(origin)
        self.waiting_count += len(messages) - len(lane.messages)
        if lane.counted_bytes:
            lane.counted_bytes = sum(map(_size_of, lane.messages))
        return True

    def _cut(self, lane: _OpenLane) -> tuple[Batch, int]:
        """Take as many of the open messages as fit; return the size of the rest as well."""
        messages, origins, most = lane.messages, lane.origins, self._batch_size
        taken = messages if len(messages) <= most else messages[:most]
        size, body, surplus_bytes = self._fit(lane.lane, taken)
        if size == len(messages):  # Mostly: then nothing is copied.
            batch = Batch(lane.lane, messages, origins, body)
            lane.messages, lane.origins = [], []
        else:
            batch = Batch(lane.lane, messages[:size], origins[:size], body)
            lane.messages, lane.origins = messages[size:], origins[size:]
        lane.counted_bytes = surplus_bytes
        self._send_off(lane, batch)
        return batch, surplus_bytes

    def _send_off(self, lane: _OpenLane, batch: Batch) -> None:
        """Take note that a batch with its body is on its way."""
        if self._keep_order:
            # Encoding has just read the ids: they are still at hand for the processor.
            batch.ids = _ids_of(batch.messages)
            if not lane.in_flight:
                lane.in_flight, lane.is_borrowed = batch.ids, True
            elif lane.is_borrowed:
                lane.in_flight, lane.is_borrowed = lane.in_flight | batch.ids, False
            else:
                lane.in_flight |= batch.ids
        if self._bodies_tell_all:
            batch.let_go()

    def _fit(self, lane: Lane, messages: list[SyncMessage]) -> tuple[int, bytes, int]:
        """How many of the messages fit, the body with them, and the size of the others."""
        size = len(messages)
        body = self._encode(lane, messages)
        full_bytes = len(body)
        while len(body) > self._batch_bytes and size > 1:
            # Aim a little low, so that one guess is mostly enough.
            size = max(1, min(size - 1, int(size * self._batch_bytes / len(body) * 0.95)))
            body = self._encode(lane, messages[:size])
        return size, body, full_bytes - len(body)

    def _take_freed(self, lane: _OpenLane) -> tuple[list[SyncMessage], list[int]]:
        """Take the waiting messages of free objects, at most a full batch."""
        freed: list[tuple[int, SyncMessage]] = []
        while lane.freed and len(freed) < self._batch_size:
            external_id = lane.freed.pop()
            queue = lane.waiting[external_id]
            while queue and len(freed) < self._batch_size:
                freed.append(queue.popleft())
            if not queue:
                del lane.waiting[external_id]
        self.waiting_count -= len(freed)
        freed.sort(key=lambda entry: entry[0])
        return [message for _, message in freed], [origin for origin, _ in freed]

    def _batch_of_freed(
        self, lane: _OpenLane, messages: list[SyncMessage], origins: list[int]
    ) -> Batch:
        """Make a batch of waiting messages; those that do not fit go on waiting, in front."""
        size, body, _ = self._fit(lane.lane, messages)
        batch = Batch(lane.lane, messages[:size], origins[:size], body)
        self._send_off(lane, batch)
        for message, origin in zip(
            reversed(messages[size:]), reversed(origins[size:]), strict=True
        ):
            queue = lane.waiting.setdefault(message.external_object_id, deque())
            queue.appendleft((origin, message))
            self.waiting_count += 1
        if size < len(messages):
            lane.freed |= lane.waiting.keys() - lane.in_flight
        return batch


def _ids_of(messages: list[SyncMessage]) -> set[str | int]:
    return {message.external_object_id for message in messages}


def _size_of(message: SyncMessage) -> int:
    return len(message.properties) + len(message.associations) + 100
