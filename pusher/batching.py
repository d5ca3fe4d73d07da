"""Group sync messages into batches that the API accepts. No clock, no I/O: the caller passes `now`.

What is open in a lane are pieces of the body of its next request: messages are encoded right after
they were decoded, while the processor has them at hand, and are let go of. Where a batch has to be
looked into, they are decoded again.

Keeps the order per object: a message waits while another batch carries its object.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress

from msgspec import UNSET

from pusher.model import (
    Batch,
    Chunk,
    Group,
    Lane,
    ObjectType,
    SyncMessage,
    ids_in,
    origin_of,
    piece_of_ids,
    place_of,
)
from pusher.protocol import (
    BODY_END,
    body_head,
    decode_piece,
    encode_messages,
    encode_piece,
    join_pieces,
)

__all__ = ["Batcher"]

_ANY_SIZE = 1 << 62

# Most lanes hold none of these; what is empty is shared, and never changed.
_NO_MESSAGES: list[SyncMessage] = []
_NO_BATCHES: list[Batch] = []
_NO_QUEUES: dict[str, deque[tuple[int, SyncMessage]]] = {}
_NO_IDS: set[str] = set()

WAITING_OVERHEAD_BYTES = 500
"""What a waiting message takes besides its maps; measured."""


@dataclass(slots=True, eq=False)
class _OpenLane:
    """What one lane holds: what is open grows into the next batch, `waiting` came before it.

    A message waits because its object is in flight; `freed` are the objects that came back since.
    """

    lane: Lane
    head: bytes
    """What a body has before its messages."""
    held: list[SyncMessage] = field(default_factory=lambda: _NO_MESSAGES)
    """Open messages of the chunk that is being added, not encoded yet."""
    pieces: list[bytes | memoryview] = field(default_factory=list)
    """All other open messages, encoded."""
    alone: SyncMessage | None = None
    """One of more bytes than a body may have, instead of pieces: it is encoded only once."""
    count: int = 0
    """How many these are."""
    size_bytes: int = 0
    """What a body of them takes."""
    room: int = 0
    """So many more of them fit into a batch."""
    origins: list[int] = field(default_factory=list)
    """Of all open messages."""
    id_pieces: list[str] = field(default_factory=list)
    """The ids of those in the pieces, where order is kept."""
    opened_at_s: float = 0.0
    flying: list[Batch] = field(default_factory=lambda: _NO_BATCHES)
    """Batches that are not settled, where order is kept."""
    in_flight: set[str] | None = None
    """All their ids, where that was asked for."""
    waiting: dict[str, deque[tuple[int, SyncMessage]]] = field(default_factory=lambda: _NO_QUEUES)
    freed: set[str] = field(default_factory=lambda: _NO_IDS)

    @property
    def body_bytes(self) -> int:
        """What a body of what is open takes, or of nothing."""
        return self.size_bytes or len(self.head) + len(BODY_END)

    @property
    def is_idle(self) -> bool:
        """Nothing is held that a new one would not have."""
        return not (self.count or self.held or self.flying or self.waiting)


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
        self._lanes: dict[ObjectType, dict[str, _OpenLane]] = {}
        # Lanes with open messages, oldest first. (A plain dict is slow to find its first entry
        # where many before it were taken out.)
        self._open: OrderedDict[Lane, _OpenLane] = OrderedDict()
        self._with_freed: dict[Lane, _OpenLane] = {}
        # The chunk that is being added, how to drop what of it is still to come (and tell how many
        # messages that was), and the lanes that hold some.
        self._adding: tuple[int, Callable[[], int]] = (0, int)
        self._touched: list[_OpenLane] = []
        self.lane_count = 0
        """Lanes that hold something, or whose objects are in flight."""
        self.waiting_count = 0
        """Messages that wait because their object is in flight."""
        self.held_bytes = 0
        """What open bodies and waiting messages take."""

    def __repr__(self) -> str:
        return f"<Batcher {len(self._open)} open lanes, {self.waiting_count} messages waiting>"

    def add(
        self, messages: list[SyncMessage], indexes: Iterable[int], chunk: Chunk, now_s: float
    ) -> Iterator[Batch]:
        """Add the messages of a chunk; yield each batch as it fills up.

        The store and type move from the message into the lane, so that they are not encoded again.
        """
        lanes, touched = self._lanes, self._touched
        first_origin = origin_of(chunk.number, 0)
        origins: Sequence[int]
        if isinstance(indexes, range):  # All lines of the chunk: mostly.
            origins = range(first_origin + indexes.start, first_origin + indexes.stop)
        else:
            origins = [first_origin + index for index in indexes]
        unset = UNSET
        rest = zip(messages, origins, strict=True)
        self._adding = chunk.number, lambda: sum(1 for _ in rest)
        for message, origin in rest:
            try:
                lane = lanes[message.object_type][message.store_id]  # type: ignore[index]
            except KeyError:
                lane = self._new_lane(message)
            message.store_id = unset
            message.object_type = unset
            held = lane.held
            if not held:
                held = lane.held = []
                touched.append(lane)
            held.append(message)
            lane.origins.append(origin)
            if len(held) >= lane.room:
                yield from self._encode_held(lane, now_s)
        for lane in touched:
            if lane.held:
                yield from self._encode_held(lane, now_s)
        touched.clear()

    def add_groups(self, groups: Sequence[Group], chunk: Chunk, now_s: float) -> Iterator[Batch]:
        """Add the messages of a chunk that come by lane; yield each batch as it fills up."""
        self._adding = chunk.number, lambda: sum(group.drop() for group in groups)
        for group in groups:
            while group:
                # While a batch was let go, its lane may have been forgotten.
                try:
                    lane = self._lanes[group.object_type][group.store_id]
                except KeyError:
                    lane = self._new_lane(group)
                if lane.waiting:
                    self._decode(group, lane)
                    yield from self._encode_held(lane, now_s)
                elif not self._move(group, lane, now_s) or lane.size_bytes >= self._batch_bytes:
                    yield from self._close(lane, is_last_call=True)
                elif not lane.room:
                    yield from self._close(lane)
        self._adding = 0, int  # The groups hold the data of the chunk.

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
            if not lane.waiting:
                yield from self._close(lane, is_last_call=True)

    def release(self, batch: Batch) -> None:
        """Take note that `batch` is settled: the objects in it have their next turn."""
        if not self._keep_order:
            return
        lane = self._lanes[batch.lane.object_type][batch.lane.store_id]
        lane.flying.remove(batch)
        if not lane.flying:
            lane.in_flight = None
        elif lane.in_flight is not None:
            lane.in_flight.difference_update(batch.ids)
        if lane.waiting:
            freed = lane.waiting.keys() & batch.ids
            if freed:
                lane.freed = lane.freed | freed
                self._with_freed[batch.lane] = lane
        elif lane.is_idle:
            self._forget(lane)

    def turns(self, now_s: float) -> Iterator[Batch]:
        """Let messages go whose object's turn has come: they join what is open in their lane."""
        while self._with_freed:
            _, lane = self._with_freed.popitem()
            while lane.freed:
                lane.held, origins = self._take_freed(lane)
                lane.origins.extend(origins)
                yield from self._encode_held(lane, now_s, is_of_turn=True)
                if lane.count and not lane.waiting.keys().isdisjoint(ids_in(lane.id_pieces)):
                    # More of an object waits for what is open, which must not wait for it.
                    yield from self._close(lane, is_last_call=True)

    def find(self, chunk_numbers: Container[int]) -> dict[int, set[int]]:
        """Which messages are held here that came from these chunks: their indexes, by chunk."""
        found: dict[int, set[int]] = {}
        for by_store in self._lanes.values():
            for lane in by_store.values():
                waiting = (origin for origin, _ in chain.from_iterable(lane.waiting.values()))
                for origin in chain(lane.origins, waiting):
                    number, index = place_of(origin)
                    if number in chunk_numbers:
                        found.setdefault(number, set()).add(index)
        return found

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

        for lane in [lane for by_store in self._lanes.values() for lane in by_store.values()]:
            self._keep_open(lane, [stays(origin) for origin in lane.origins])
            for external_id, queue in list(lane.waiting.items()):
                kept = deque(entry for entry in queue if stays(entry[0]))
                for _, message in queue if len(kept) < len(queue) else ():
                    self._count_waiting(message, -1)
                for _, message in kept if len(kept) < len(queue) else ():
                    self._count_waiting(message, 1)
                lane.waiting[external_id] = kept
                if not kept:
                    del lane.waiting[external_id]
                    lane.freed.discard(external_id)
            self._free_orphans(lane)
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

    def _new_lane(self, of: SyncMessage | Group) -> _OpenLane:
        object_type, store_id = of.object_type, of.store_id
        if object_type is UNSET or not isinstance(store_id, str):
            raise TypeError("a message must have a store and a type to join a lane")
        name = Lane(store_id, object_type)
        lane = _OpenLane(name, body_head(name), room=self._batch_size)
        self._lanes.setdefault(object_type, {})[store_id] = lane
        self.lane_count += 1
        return lane

    def _forget(self, lane: _OpenLane) -> None:
        """An input may have very many lanes, and most of them rest."""
        del self._lanes[lane.lane.object_type][lane.lane.store_id]
        self.lane_count -= 1

    def _move(self, group: Group, lane: _OpenLane, now_s: float) -> bool:
        """Move what fits from a group into the body of a lane; false where nothing does."""
        most_bytes = self._batch_bytes - lane.body_bytes - 1
        taken = group.take(lane.room, most_bytes, not lane.count)
        if taken is None:
            return False
        piece, ids, origins = taken
        lane.pieces.append(piece)
        lane.origins += origins
        self._count_in(lane, len(origins), len(piece) + 1, ids, now_s)
        return True

    def _decode(self, group: Group, lane: _OpenLane) -> None:
        """A lane that has messages waiting looks at each one that comes."""
        taken = group.take(len(group), _ANY_SIZE, True)
        if taken is not None:
            piece, _, origins = taken
            lane.held = lane.held + decode_piece(piece)
            lane.origins += origins

    def _encode_held(
        self, lane: _OpenLane, now_s: float, *, is_of_turn: bool = False
    ) -> Iterator[Batch]:
        """Move what a lane holds into its body, and close that whenever it is full."""
        if lane.waiting and not is_of_turn:
            self._divert(lane)
        most = self._batch_size
        while lane.held:
            size = min(len(lane.held), lane.room, most)
            part, lane.held = lane.held[:size], lane.held[size:]
            if not self._encode(lane, part, now_s):
                lane.held = part + lane.held
                if size > 1:
                    most = 1  # Some of them may fit.
                else:
                    yield from self._close(lane, is_last_call=True)
            elif lane.size_bytes >= self._batch_bytes:
                yield from self._close(lane, is_last_call=True)
            elif not lane.room:
                yield from self._close(lane)

    def _encode(self, lane: _OpenLane, part: list[SyncMessage], now_s: float) -> bool:
        """Add messages to what is open; false, and nothing is changed, where they are too large.

        One message alone always fits.
        """
        count, added = lane.count, len(part)
        before = lane.body_bytes
        if added == 1 and _size_of(part[0]) >= self._batch_bytes:
            if count:
                return False
            lane.alone, size = part[0], _size_of(part[0]) - before
        else:
            piece = encode_piece(part)
            size = len(piece) + 1
            if before + size > self._batch_bytes and count + added > 1:
                return False
            lane.pieces.append(piece)
        self._count_in(lane, added, size, piece_of_ids(part) if self._keep_order else "", now_s)
        return True

    def _count_in(self, lane: _OpenLane, added: int, size: int, ids: str, now_s: float) -> None:
        """Messages of so many bytes were added to what is open."""
        if not lane.count:
            size += lane.body_bytes
            lane.opened_at_s = now_s
            self._open[lane.lane] = lane
        if self._keep_order:
            lane.id_pieces.append(ids)
        lane.count += added
        lane.room -= added
        lane.size_bytes += size
        self.held_bytes += size

    def _divert(self, lane: _OpenLane) -> None:
        """Let messages that were just read wait, if others of their objects do."""
        messages, count = lane.held, lane.count
        origins = lane.origins[count:]
        lane.held = []
        del lane.origins[count:]
        for message, origin in zip(messages, origins, strict=True):
            queue = lane.waiting.get(_id_of(message))
            if queue is None:
                lane.held.append(message)
                lane.origins.append(origin)
            else:
                queue.append((origin, _own(message)))
                self._count_waiting(message, 1)

    def _close(self, lane: _OpenLane, *, is_last_call: bool = False) -> Iterator[Batch]:
        """Turn what is open into a batch.

        Messages whose object is in flight start to wait. The rest then stays open to fill up,
        unless this is its last call.
        """
        has_waiters = bool(lane.flying) and self._set_aside(lane)
        if lane.count and (is_last_call or not has_waiters):
            batch = self._take(lane)
            if lane.is_idle:  # Without order nobody waits for its release.
                self._forget(lane)
            yield batch

    def _take(self, lane: _OpenLane) -> Batch:
        """The batch of what is open. The lane is open no more."""
        origins, count = lane.origins, lane.count
        batch = Batch(
            lane.lane,
            None,
            origins[:count] if len(origins) > count else origins,
            _body_of(lane),
            id_pieces=lane.id_pieces,
        )
        if self._keeps_messages:
            batch.keep_messages()
        if self._keep_order:
            lane.flying = [*lane.flying, batch]
            if lane.in_flight is not None:
                lane.in_flight.update(batch.ids)
        self._empty(lane, origins[count:])
        return batch

    def _empty(self, lane: _OpenLane, origins: list[int]) -> None:
        """Nothing is encoded in a lane any more; the origins are those of what it holds."""
        self.held_bytes -= lane.size_bytes
        lane.count, lane.size_bytes, lane.room = 0, 0, self._batch_size
        lane.pieces, lane.alone = [], None
        lane.origins, lane.id_pieces = origins, []
        self._open.pop(lane.lane, None)

    def _set_aside(self, lane: _OpenLane) -> bool:
        """Move the open messages that must wait for their object; false if there is none."""
        if lane.in_flight is None:
            lane.in_flight = set(chain.from_iterable(batch.ids for batch in lane.flying))
        in_flight = lane.in_flight
        if in_flight.isdisjoint(ids_in(lane.id_pieces)):
            return False
        aside: dict[str, list[tuple[int, SyncMessage]]] = {}
        stays = []
        for message, origin in zip(_open_of(lane) + lane.held, lane.origins, strict=True):
            external_id = _id_of(message)
            stays.append(external_id not in in_flight)
            if external_id in in_flight:
                aside.setdefault(external_id, []).append((origin, _own(message)))
                self._count_waiting(message, 1)
        lane.waiting = lane.waiting or {}
        for external_id, entries in aside.items():
            # What of their object waits already came later.
            lane.waiting.setdefault(external_id, deque()).extendleft(reversed(entries))
        self._keep_open(lane, stays)
        return True

    def _keep_open(self, lane: _OpenLane, stays: list[bool]) -> None:
        """Leave in a lane only those of its open messages that stay."""
        if all(stays):
            return
        count, opened_at_s = lane.count, lane.opened_at_s
        lane.held = list(compress(lane.held, stays[count:]))
        origins = list(compress(lane.origins, stays))
        if all(stays[:count]):
            lane.origins = origins
            return
        kept = list(compress(_open_of(lane), stays))
        self._empty(lane, origins)
        if kept:
            self._encode(lane, kept, opened_at_s)

    def _free_orphans(self, lane: _OpenLane) -> None:
        """What waits for messages that were withdrawn has its turn."""
        orphans = lane.waiting.keys() - lane.freed
        orphans.difference_update(ids_in(lane.id_pieces), *(batch.ids for batch in lane.flying))
        if orphans:
            lane.freed = lane.freed | orphans
            self._with_freed[lane.lane] = lane

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
        for _, message in freed:
            self._count_waiting(message, -1)
        freed.sort(key=lambda entry: entry[0])
        return [message for _, message in freed], [origin for origin, _ in freed]

    def _count_waiting(self, message: SyncMessage, count: int) -> None:
        self.waiting_count += count
        self.held_bytes += count * (_size_of(message) + WAITING_OVERHEAD_BYTES)


def _body_of(lane: _OpenLane) -> bytes:
    if lane.alone is not None:
        return encode_messages(lane.lane, [lane.alone])
    return join_pieces(lane.head, lane.pieces)


def _open_of(lane: _OpenLane) -> list[SyncMessage]:
    """The messages that are encoded in a lane."""
    return Batch(lane.lane, None, lane.origins, _body_of(lane)).messages


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
