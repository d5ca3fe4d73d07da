"""Which chunks are settled: the highest position with no gap before it, and what is still held.

Acknowledging is counting: a chunk is done when it was read to its end and none of its messages is
open. Each partition of a live topic has a watermark of its own. No clock, no I/O.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from pusher.model import Chunk, Partition, Position, chunk_counts, place_of

try:
    from pusher._scanner import take_off

    MESSAGE_OVERHEAD_BYTES = 60
    """Its place while it is open; its origin and its id while it is in flight. Measured."""
except ImportError:  # No C compiler was there when pusher was installed.
    from pusher.plain import take_off

    MESSAGE_OVERHEAD_BYTES = 160
    """Its origin, its id, and what a piece of a body of one message takes besides it; measured."""

__all__ = ["MESSAGE_OVERHEAD_BYTES", "Ledger", "Line", "Oldest"]

_CHUNK_OVERHEAD_BYTES = 1024
_LINE_OVERHEAD_BYTES = 300
_COUNTS_MIN = 4096

_SPARSE_BELOW = 0.25
"""A chunk of which less than this part is open is worth to be taken apart."""

Line = tuple[int, int, bytes]
"""Line number, offset, and the line without its end."""


@dataclass(frozen=True, slots=True)
class Oldest:
    """Where the oldest chunk begins that is not settled. `read_at_s` is as in `admit`."""

    source: str
    partition: Partition | None
    line: int
    offset: int
    read_at_s: float


@dataclass(slots=True, eq=False)
class _Entry:
    """A chunk beyond the watermark. `chunk` is None when nothing points into it any more."""

    number: int
    chunk: Chunk | None
    source: str
    end: Position | None
    read_bytes: int
    read_at_s: float
    queue: _Queue
    line: int
    offset: int
    message_count: int = 0
    parked_count: int = 0
    is_whole: bool = False
    """It was read to its end."""
    is_closed: bool = False
    """None of its messages is open."""
    numbers: Sequence[int] | None = None
    """Where the lines that are not blank are in the source; found when it is asked for."""
    lines: dict[int, Line] = field(default_factory=dict)
    """What was copied out of it: the lines of its open messages, by their index."""

    @property
    def is_done(self) -> bool:
        return self.is_whole and self.is_closed and not self.parked_count

    @property
    def held_bytes(self) -> int:
        if self.chunk is not None:
            return len(self.chunk.data) + _CHUNK_OVERHEAD_BYTES
        return sum(len(line) + _LINE_OVERHEAD_BYTES for _, _, line in self.lines.values())


@dataclass(slots=True, eq=False)
class _Queue:
    """The chunks of one sequence, from its watermark on."""

    partition: Partition | None
    entries: deque[_Entry] = field(default_factory=deque)


class Ledger:
    """Every message that was read and is not settled yet, counted per chunk."""

    def __init__(self) -> None:
        self._queues: dict[Partition | None, _Queue] = {}
        self._beyond = 0  # Chunks beyond their watermark.
        self._open: dict[int, _Entry] = {}
        self._next_number = 1
        # Open messages of the chunks from `_first_number` on, and how many counts are too many.
        self._counts = array("q")
        self._first_number = 1
        self._counts_max = _COUNTS_MIN
        self.pending = 0
        """Messages that were read and are neither delivered nor rejected nor skipped."""
        self.parked = 0
        """Those of them that are given up for this run; nothing is held of them."""
        self.positions: dict[str, Position] = {}
        """How far each source is settled without a gap."""
        self.offsets: dict[Partition, int] = {}
        """The same of live topics: the first offset of each partition that is not settled."""
        self.settled = 0
        """Messages before these positions, also of earlier runs."""
        self.lag_bytes = 0
        """Input that was read beyond the watermark."""
        self._chunk_bytes = 0

    def __repr__(self) -> str:
        return f"<Ledger {self.pending} pending in {len(self._open)} chunks>"

    def admit(self, chunk: Chunk, read_at_s: float = 0.0) -> None:
        """Number a chunk that was just read; it stays open at least until `expect` is called."""
        chunk.number = self._next_number
        self._next_number += 1
        size = len(chunk.data)
        queue = self._queues.get(chunk.partition)
        if queue is None:
            queue = self._queues[chunk.partition] = _Queue(chunk.partition)
        offset = chunk.offsets[0] if chunk.offsets else chunk.offset
        entry = _Entry(
            chunk.number,
            chunk,
            chunk.source,
            chunk.end,
            size,
            read_at_s,
            queue,
            chunk.first_line,
            offset,
        )
        self._open[chunk.number] = entry
        self._counts.append(0)
        queue.entries.append(entry)
        self._beyond += 1
        self.lag_bytes += size
        self._chunk_bytes += entry.held_bytes

    def expect(
        self, chunk: Chunk, open_count: int, *, skipped: int = 0, is_whole: bool = True
    ) -> None:
        """Say what is in a chunk.

        Args:
            chunk: that was admitted.
            open_count: messages that have to be settled before it is done.
            skipped: messages that are settled by rule.
            is_whole: the chunk is read to its end; otherwise the watermark never passes it.
        """
        entry = self._open[chunk.number]
        entry.message_count = open_count + skipped
        self._counts[chunk.number - self._first_number] = open_count
        entry.is_whole = is_whole
        self.pending += open_count
        if not open_count:
            self._close(chunk.number)

    def settle(self, origins: Sequence[int]) -> None:
        """Take off messages that are delivered, rejected or skipped."""
        self.pending -= len(origins)
        for number in take_off(self._counts, self._first_number, origins):
            self._close(number)

    def settle_lines(self, chunk_number: int, count: int) -> None:
        """Take off lines of a chunk that are no messages."""
        self.pending -= count
        self._subtract(chunk_number, count)

    def park(self, origins: Sequence[int]) -> None:
        """Let go of messages that stay pending."""
        for number, count in chunk_counts(origins):
            self._open[number].parked_count += count
            self.parked += count
            self._subtract(number, count)

    def line_of(self, origin: int) -> tuple[str, Line]:
        """The source, and the line, that an open message came from."""
        number, index = place_of(origin)
        entry = self._open[number]
        if entry.chunk is None:
            return entry.source, entry.lines[index]
        return entry.source, next(islice(entry.chunk.lines(), index, None))

    def places_of(self, origins: Sequence[int]) -> dict[str, list[int]]:
        """The sources, and the numbers of the lines, that open messages came from.

        Of a live topic: the partitions, and the offsets.

        Args:
            origins: ascending.
        """
        places: dict[str, list[int]] = {}
        start = 0
        for chunk_number, count in chunk_counts(origins):
            entry = self._open[chunk_number]
            partition = entry.queue.partition
            found = places.setdefault(entry.source if partition is None else str(partition), [])
            indexes = [place_of(origin)[1] for origin in origins[start : start + count]]
            start += count
            if entry.chunk is None:
                lines = [entry.lines[index] for index in indexes]
                found += [offset if partition else number for number, offset, _ in lines]
                continue
            if entry.numbers is None:
                entry.numbers = _numbers_of(entry.chunk)
            numbers = entry.numbers
            found += [numbers[index] for index in indexes]
        return places

    def sparse(self) -> dict[int, Chunk]:
        """The chunks that are kept for a small part of their messages, by their number."""
        return {
            number: entry.chunk
            for number, entry in self._open.items()
            if entry.chunk is not None
            and entry.is_whole
            and self._open_count(number) < _SPARSE_BELOW * entry.chunk.line_count
        }

    def has_open(self, number: int, count: int) -> bool:
        """So many messages of a chunk are open, and no more."""
        return self._open_count(number) == count

    def replace(self, number: int, lines: dict[int, Line]) -> bool:
        """Keep these lines of a chunk instead of all of it, if all its open messages are there."""
        entry = self._open[number]
        if not self.has_open(number, len(lines)):
            return False
        self._chunk_bytes -= entry.held_bytes
        entry.chunk, entry.lines, entry.numbers = None, lines, None
        self._chunk_bytes += entry.held_bytes
        return True

    @property
    def chunk_bytes(self) -> int:
        """What the chunks take that open messages point into, and lines copied out of chunks."""
        return self._chunk_bytes

    @property
    def held_bytes(self) -> int:
        """What open messages take: the chunks that they came from, and what is known of each."""
        return self._chunk_bytes + (self.pending - self.parked) * MESSAGE_OVERHEAD_BYTES

    @property
    def admitted(self) -> int:
        """How many chunks were read."""
        return self._next_number - 1

    @property
    def watermark(self) -> int:
        """The number of the last chunk that is done with all before it; 0 at the start."""
        return self.admitted - self._beyond

    @property
    def oldest_read_at_s(self) -> float | None:
        """When the oldest chunk was read that is not settled; None when all are."""
        oldest = self.oldest
        return None if oldest is None else oldest.read_at_s

    @property
    def oldest(self) -> Oldest | None:
        """The oldest chunk that is not settled; None when all are."""
        first = (queue.entries[0] for queue in self._queues.values() if queue.entries)
        entry = min(first, key=lambda entry: entry.read_at_s, default=None)
        if entry is None:
            return None
        return Oldest(
            entry.source, entry.queue.partition, entry.line, entry.offset, entry.read_at_s
        )

    def chunks_of(self, partition: Partition) -> set[int]:
        """The numbers of the chunks of a partition with open messages."""
        return {
            number
            for number, entry in self._open.items()
            if entry.queue.partition == partition and self._open_count(number)
        }

    def open_in(self, partition: Partition) -> int:
        """How many messages of a partition are open, those that are given up aside."""
        queue = self._queues.get(partition)
        entries = queue.entries if queue is not None else ()
        return sum(self._open_count(one.number) for one in entries if not one.is_closed)

    def withdraw(self, counts: Mapping[int, int]) -> None:
        """Take off messages that somebody else will read again: by chunk number.

        The watermark never passes these chunks.
        """
        for number, count in counts.items():
            entry = self._open[number]
            entry.message_count -= count
            entry.is_whole = False
            self.pending -= count
            self._subtract(number, count)

    def forget(self, partition: Partition) -> None:
        """A partition is somebody else's: what is settled of it from now on moves no watermark."""
        queue = self._queues.pop(partition, None)
        self.offsets.pop(partition, None)
        if queue is not None:
            self._beyond -= len(queue.entries)
            self.lag_bytes -= sum(entry.read_bytes for entry in queue.entries)
            queue.entries.clear()

    def resume(self, positions: Mapping[str, Position], settled: int) -> None:
        """Go on from where an earlier run has settled so many messages."""
        self.positions, self.settled = dict(positions), settled

    def start_pass(self, positions: Mapping[str, Position]) -> None:
        """The input is read again, from these positions; all of the pass before is settled."""
        self.positions = dict(positions)

    def _open_count(self, number: int) -> int:
        return self._counts[number - self._first_number]

    def _subtract(self, number: int, count: int) -> None:
        place = number - self._first_number
        self._counts[place] -= count
        if self._counts[place] < 0:
            raise AssertionError(f"chunk {number} was settled more often than it was read")
        if self._counts[place] == 0:
            self._close(number)

    def _close(self, number: int) -> None:
        entry = self._open.pop(number)
        entry.is_closed = True
        if len(self._counts) > self._counts_max:
            first = min(self._open, default=self._next_number)
            del self._counts[: first - self._first_number]
            self._first_number = first
            self._counts_max = 2 * len(self._counts) + _COUNTS_MIN
        self._chunk_bytes -= entry.held_bytes
        entry.chunk, entry.lines, entry.numbers = None, {}, None
        queue = entry.queue
        while queue.entries and queue.entries[0].is_done:
            done = queue.entries.popleft()
            self._beyond -= 1
            self.lag_bytes -= done.read_bytes
            self.settled += done.message_count
            if done.end is not None:
                if queue.partition is None:
                    self.positions[done.source] = done.end
                else:
                    self.offsets[queue.partition] = done.end.offset


def _numbers_of(chunk: Chunk) -> Sequence[int]:
    """The number of each line that is not blank: in its file, or as an offset of its partition."""
    if chunk.partition is not None and chunk.offsets is not None:
        return chunk.offsets
    if chunk.line_numbers is not None:
        return chunk.line_numbers
    numbers = range(chunk.first_line, chunk.first_line + chunk.line_count)
    data = chunk.data
    if chunk.offsets is not None or data.startswith(b"{") + data.count(b"\n{") == len(numbers):
        return numbers
    return [number for number, _, _ in chunk.lines()]
