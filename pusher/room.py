"""Wait while more is held than allowed: the budget of memory, and how far reading may be ahead."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Protocol

from pusher.batching import LANE_BYTES, Batcher
from pusher.constraint import Constraint
from pusher.memory import Memory
from pusher.model import LONG_LINE_BYTES, Batch, Chunk, Halt, HaltKind, Lane
from pusher.report import why_parked
from pusher.settling import Settlement
from pusher.stopping import Stopping
from pusher.tally import Tally
from pusher.watermark import Ledger

__all__ = ["Outlet", "Room", "is_large"]

_LOOK_EVERY_CHUNKS = 4
"""Asking the system how much memory is taken takes as long as a hundred messages."""

COUNTED_LANE_BYTES = 450
"""What a lane's counters take, and that it is known to be taken."""


def is_large(chunk: Chunk) -> bool:
    """Room is to be made for it first; while it waits, no other one does."""
    return len(chunk.data) > LONG_LINE_BYTES or chunk.coming_bytes > 0


class Outlet(Protocol):
    """Where batches leave to: a dispatcher, or the counting of a plan."""

    bodies_bytes: int
    """What the encoded bodies take that are under way."""

    @property
    def under_way_max(self) -> int:
        """So many bodies may be under way."""
        ...

    @property
    def is_idle(self) -> bool:
        """Nothing is under way."""
        ...

    async def send_all(self, batches: Iterable[Batch]) -> None:
        """Let batches go."""
        ...

    async def next_settlement(self) -> None:
        """Wait until a batch is settled."""
        ...


class Room:
    """What a run holds, against what it may hold.

    Args:
        ledger: of the run.
        batcher: whose oldest lanes leave when memory is short.
        tally: of the run.
        settlement: copies messages out of chunks that are held for little.
        stopping: told when a parked lane keeps reading from going on.
        memory_bytes: of messages, decoded and encoded.
        batch_bytes: of the largest request.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        batcher: Batcher,
        tally: Tally,
        settlement: Settlement,
        stopping: Stopping,
        memory_bytes: int,
        batch_bytes: int,
    ) -> None:
        self._ledger = ledger
        self._batcher = batcher
        self._tally = tally
        self._settlement = settlement
        self._stopping = stopping
        self._memory_bytes = memory_bytes
        self._batch_bytes = batch_bytes
        self._large_bytes = 0  # What the largest message of a topic so far takes in all.
        self._memory = Memory()
        self._looked_at_chunk = 0
        self.max_lag_bytes: int | None = None
        """How far reading may be ahead of the oldest message not settled; None is no limit."""
        self.parked: Mapping[Lane, str] = {}
        """The lanes that are given up, and why."""

    def __repr__(self) -> str:
        return f"<Room of {self._memory_bytes} bytes, {self._ledger!r}>"

    async def make_for(self, chunk: Chunk, outlet: Outlet) -> None:
        """Wait until a large chunk fits, also one that is to come: encoded, it is held twice."""
        wanted_bytes = 2 * max(len(chunk.data), chunk.coming_bytes)
        if chunk.partition is not None:
            self._large_bytes = max(self._large_bytes, wanted_bytes)
        await self.make(outlet, wanted_bytes)
        self._memory.keep_within(self._memory_bytes - wanted_bytes)

    async def make(self, outlet: Outlet, wanted_bytes: int = 0) -> None:
        """Wait while more is held than allowed; let the oldest open lanes go meanwhile."""
        batcher = self._batcher
        if self._is_short(outlet, wanted_bytes):
            self._settlement.copy_out(self._memory_bytes)
        self._look_at_memory(outlet)
        waits = self._tally.waits
        while (is_short := self._is_short(outlet, wanted_bytes)) or self._is_behind():
            if self._stopping.is_sending_over:
                break
            waits.short_of = Constraint.MEMORY_BUDGET if is_short else Constraint.MAX_LAG
            await outlet.send_all(batcher.turns(time.monotonic()))
            if batcher.open_lane_count:
                await outlet.send_all(batcher.oldest())
            elif not outlet.is_idle:
                await outlet.next_settlement()
            elif not batcher.has_turns:
                if not is_short and self._ledger.parked:
                    why = why_parked(self.parked, self._ledger.parked)
                    halt = Halt(HaltKind.STOPPED, f"{why}; --max-lag is reached")
                    self._stopping.end_sending(halt)
                break
        waits.short_of = None

    def _look_at_memory(self, outlet: Outlet) -> None:
        """See to it that gaps between what is held do not take a good part of the budget besides.

        Where little is held, there is room for them.
        """
        if self._ledger.admitted < self._looked_at_chunk + _LOOK_EVERY_CHUNKS:
            return
        self._looked_at_chunk = self._ledger.admitted
        if self._held_bytes(outlet) > self._memory_bytes // 2:
            self._memory.keep_within(self._memory_bytes * 6 // 5)

    def _is_short(self, outlet: Outlet, wanted_bytes: int) -> bool:
        """With what is wanted, and the bodies that may be made, the budget does not suffice."""
        made_bytes = min(self._batch_bytes, self._memory_bytes // 4)
        wanted_bytes += max(made_bytes, self._batcher.to_come_bytes(outlet.under_way_max))
        # Where one came from a topic, the next one may be under way, out of sight of the ledger.
        wanted_bytes = max(wanted_bytes, min(self._large_bytes, self._memory_bytes // 2))
        return self._held_bytes(outlet) + wanted_bytes > self._memory_bytes

    def _held_bytes(self, outlet: Outlet) -> int:
        held_bytes = self._ledger.held_bytes + self._batcher.held_bytes + outlet.bodies_bytes
        held_bytes += self._batcher.lane_count * LANE_BYTES
        return held_bytes + len(self._tally.lanes) * COUNTED_LANE_BYTES

    def _is_behind(self) -> bool:
        """A rerun would have to repeat more than is allowed."""
        return self.max_lag_bytes is not None and self._ledger.lag_bytes > self.max_lag_bytes
