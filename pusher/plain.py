"""What the compiled scanner has besides itself, in plain Python: used where it was not compiled.

Open lanes are the bodies that messages grow into, here in pieces, and know which objects are in
flight. No clock, no I/O.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pusher.model import ID_SEPARATOR, Lane, ObjectType, chunk_counts, ids_in
from pusher.protocol import BODY_END, join_pieces

__all__ = ["OpenLane", "OpenLanes", "take_off"]


@dataclass(slots=True, eq=False)
class OpenLane:
    """What one lane holds."""

    name: Lane
    head: bytes
    """What a body has before its messages."""
    pieces: list[bytes | memoryview] = field(default_factory=list)
    """The open messages, encoded."""
    whole: bytes | None = None
    """The body of all open messages, instead of pieces."""
    count: int = 0
    """How many messages are open."""
    body_bytes: int = 0
    """What a body of what is open takes."""
    origins: list[int] = field(default_factory=list)
    id_pieces: list[str] = field(default_factory=list)
    """The ids of what is open, where order is kept."""
    opened_at_s: float = 0.0
    """When the first of them came."""
    in_flight: list[str] = field(default_factory=list)
    """The ids of each batch that is in flight."""
    ids_in_flight: set[str] | None = None
    """All of these, once that was asked for."""
    waiting: object | None = None
    """What the batcher knows of messages that wait."""

    def __post_init__(self) -> None:
        """Nothing is open: a body would have no messages."""
        self.body_bytes = len(self.head) + len(BODY_END)

    @property
    def flying(self) -> int:
        """How many batches of it are in flight."""
        return len(self.in_flight)

    @property
    def is_idle(self) -> bool:
        """Nothing is held that a new one would not have."""
        return not (self.count or self.in_flight or self.waiting)


class OpenLanes:
    """The lanes of a run, and the bodies that are open in them.

    Args:
        name_lane: gives a lane of this store and type its name, and what its bodies begin with.
        batch_size: messages in a full batch.
        batch_bytes: of the largest body.
        keeps_order: which objects are in flight is of interest.
    """

    def __init__(
        self,
        name_lane: Callable[[str, ObjectType], tuple[Lane, bytes]],
        batch_size: int,
        batch_bytes: int,
        keeps_order: bool,  # noqa: FBT001 - as in the compiled one
    ) -> None:
        del batch_size, batch_bytes  # Only the compiled one takes messages out of groups itself.
        self._name_lane = name_lane
        self._keeps_order = keeps_order
        self._lanes: dict[ObjectType, dict[str, OpenLane]] = {}
        # A plain dict is slow to find its first entry where many before it were taken out.
        self._open: OrderedDict[Lane, OpenLane] = OrderedDict()
        self.lane_count = 0
        """Lanes that are known."""
        self.held_bytes = 0
        """What the open bodies take."""

    def __repr__(self) -> str:
        return f"<OpenLanes, {self.lane_count}, {self.open_count} of them with open messages>"

    @property
    def open_count(self) -> int:
        """Lanes with open messages."""
        return len(self._open)

    @property
    def oldest(self) -> OpenLane | None:
        """The lane that has been open longest, or None."""
        return next(iter(self._open.values()), None)

    def lane(self, store_id: str, object_type: ObjectType) -> OpenLane:
        """The lane of a store and a type."""
        try:
            return self._lanes[object_type][store_id]
        except KeyError:
            lane = OpenLane(*self._name_lane(store_id, object_type))
            self._lanes.setdefault(object_type, {})[store_id] = lane
            self.lane_count += 1
            return lane

    def all(self) -> list[OpenLane]:
        """All lanes."""
        return [lane for by_store in self._lanes.values() for lane in by_store.values()]

    def open(self) -> list[OpenLane]:
        """The lanes with open messages, oldest first."""
        return list(self._open.values())

    def extend(
        self, lane: OpenLane, piece: bytes | memoryview, ids: str, origins: list[int], now_s: float
    ) -> None:
        """Add messages to what is open in a lane: a piece of a body, and as `ids_text_of`."""
        if lane.whole is not None:
            lane.pieces = [lane.whole.removeprefix(lane.head).removesuffix(BODY_END)]
            lane.whole = None
        lane.pieces.append(piece)
        self._count_in(lane, len(piece) + (lane.count > 0), ids, origins, now_s)

    def put(self, lane: OpenLane, body: bytes, ids: str, origins: list[int], now_s: float) -> None:
        """Let a whole body be what is open in a lane where nothing is; it is not copied."""
        if lane.count:
            raise ValueError("a body is put where nothing is open")
        lane.whole = body
        self._count_in(lane, len(body) - lane.body_bytes, ids, origins, now_s)

    def take(self, lane: OpenLane) -> tuple[bytes, str, list[int], str]:
        """Take out what is open in a lane: (body, ids, origins, marks).

        Where order is kept, these objects are in flight until `land` is called with the marks.
        """
        if not lane.count:
            raise ValueError("nothing is open")
        body, ids, origins = self.body(lane), self.ids(lane), lane.origins
        if self._keeps_order:
            lane.in_flight.append(ids)
            if lane.ids_in_flight is not None:
                lane.ids_in_flight.update(ids_in(ids))
        self.clear(lane)
        return body, ids, origins, ids

    def body(self, lane: OpenLane) -> bytes:
        """The body of what is open in a lane."""
        if lane.whole is not None:
            return lane.whole
        return join_pieces(lane.head, lane.pieces) if lane.pieces else lane.head + BODY_END

    def to_come_bytes(self, count: int) -> int:
        """What so many bodies would take at most besides what is held: they are made of that."""
        del count
        return 0

    def to_copy_bytes(self, chunk_numbers: Sequence[int], /) -> int:
        """What `copy_out` would copy: nothing."""
        del chunk_numbers
        return 0

    def copy_out(self, chunk_numbers: Sequence[int]) -> None:
        """Keep hold of none of these chunks: pieces are copies already."""

    def origins(self, lane: OpenLane) -> list[int]:
        """The origins of what is open in a lane."""
        return lane.origins.copy()

    def ids(self, lane: OpenLane) -> str:
        """The ids of what is open in a lane, in one string; none where no order is kept."""
        return ID_SEPARATOR.join(lane.id_pieces)

    def meets_flying(self, lane: OpenLane) -> bool:
        """Whether an object of what is open in a lane may be in flight; false: none is."""
        if not lane.in_flight:
            return False
        if lane.ids_in_flight is None:
            lane.ids_in_flight = {one for ids in lane.in_flight for one in ids_in(ids)}
        return not lane.ids_in_flight.isdisjoint(ids_in(self.ids(lane)))

    def clear(self, lane: OpenLane) -> None:
        """Forget what is open in a lane."""
        if lane.count:
            del self._open[lane.name]
            self.held_bytes -= lane.body_bytes
        lane.count, lane.body_bytes = 0, len(lane.head) + len(BODY_END)
        lane.pieces, lane.whole, lane.origins, lane.id_pieces = [], None, [], []

    def land(self, lane: OpenLane, marks: str) -> None:
        """The objects of a batch that `take` gave are in flight no more."""
        lane.in_flight = [one for one in lane.in_flight if one is not marks]
        if not lane.in_flight:
            lane.ids_in_flight = None
        elif lane.ids_in_flight is not None:
            lane.ids_in_flight.difference_update(ids_in(marks))

    def forget(self, lane: OpenLane) -> None:
        """Forget a lane that holds nothing."""
        if not lane.is_idle:
            raise ValueError("only a known lane that holds nothing is forgotten")
        del self._lanes[lane.name.object_type][lane.name.store_id]
        self.lane_count -= 1

    def _count_in(
        self, lane: OpenLane, size: int, ids: str, origins: list[int], now_s: float
    ) -> None:
        if not lane.count:
            size_before = 0
            lane.opened_at_s = now_s
            self._open[lane.name] = lane
        else:
            size_before = lane.body_bytes
        if self._keeps_order:
            lane.id_pieces.append(ids)
        lane.origins += origins
        lane.count += len(origins)
        lane.body_bytes += size
        self.held_bytes += lane.body_bytes - size_before


def take_off(counts: array[int], first_chunk: int, origins: Sequence[int]) -> list[int]:
    """Subtract messages from the counts of their chunks.

    Args:
        counts: those of the chunks from `first_chunk` on.
        first_chunk: its number.
        origins: where the messages came from.

    Returns:
        the numbers of the chunks whose counts have become 0.
    """
    emptied = []
    for number, count in chunk_counts(origins):
        place = number - first_chunk
        if not 0 <= place < len(counts) or counts[place] < count:
            raise AssertionError(f"chunk {number} was settled more often than it was read")
        counts[place] -= count
        if counts[place] == 0:
            emptied.append(number)
    return emptied
