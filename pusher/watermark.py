"""Which chunks are settled: the highest position with no gap before it, and what is still held.

Acknowledging is counting: a chunk is done when it was read to its end and none of its messages is
open. No clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pusher.model import Chunk

__all__ = ["MESSAGE_OVERHEAD_BYTES", "Ledger"]

_CHUNK_OVERHEAD_BYTES = 1024
MESSAGE_OVERHEAD_BYTES = 400
"""A decoded message, its id, its two raw maps and its origin; measured."""


@dataclass(slots=True, eq=False)
class _OpenChunk:
    chunk: Chunk
    open_count: int


class Ledger:
    """Every message that was read and is not settled yet, counted per chunk."""

    def __init__(self) -> None:
        self._open: dict[int, _OpenChunk] = {}
        self._next_number = 1
        self.pending = 0
        """Messages that were read and are neither delivered nor rejected nor skipped."""
        self._chunk_bytes = 0

    def __repr__(self) -> str:
        return f"<Ledger {self.pending} pending in {len(self._open)} chunks>"

    def admit(self, chunk: Chunk) -> None:
        """Number a chunk that was just read; it stays open at least until `expect` is called."""
        chunk.number = self._next_number
        self._next_number += 1
        self._open[chunk.number] = _OpenChunk(chunk, 0)
        self._chunk_bytes += len(chunk.data) + _CHUNK_OVERHEAD_BYTES

    def expect(self, chunk: Chunk, message_count: int) -> None:
        """Say how many messages of the chunk have to be settled before it is done."""
        if message_count:
            self._open[chunk.number].open_count = message_count
            self.pending += message_count
        else:
            self._close(chunk.number)

    def settle(self, counts: Iterable[tuple[int, int]]) -> None:
        """Take off messages that are delivered, rejected or skipped: (chunk number, count)."""
        for number, count in counts:
            entry = self._open[number]
            entry.open_count -= count
            self.pending -= count
            if entry.open_count == 0:
                self._close(number)
            elif entry.open_count < 0:
                raise AssertionError(f"chunk {number} was settled more often than it was read")

    def chunk(self, number: int) -> Chunk:
        """The chunk of that number; it must still have open messages."""
        return self._open[number].chunk

    @property
    def held_bytes(self) -> int:
        """What open messages take: the chunks that they point into, and themselves, decoded."""
        return self._chunk_bytes + self.pending * MESSAGE_OVERHEAD_BYTES

    @property
    def watermark(self) -> int:
        """The number of the last chunk that is done with all before it; 0 at the start."""
        return next(iter(self._open), self._next_number) - 1

    def _close(self, number: int) -> None:
        entry = self._open.pop(number)
        self._chunk_bytes -= len(entry.chunk.data) + _CHUNK_OVERHEAD_BYTES
