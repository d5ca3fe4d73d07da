"""Settle what came back: ledger, counters, sample, dead letters, and the next turn of an object."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from pusher.batching import Batcher
from pusher.bookkeeping import Books
from pusher.dead_letters import DeadLetters
from pusher.errors import DiskError
from pusher.kafka_letters import TopicLetters
from pusher.model import (
    Batch,
    Chunk,
    Delivery,
    Halt,
    HaltKind,
    Parked,
    Refusal,
    Rejection,
    SyncMessage,
)
from pusher.sampling import Sample
from pusher.sender import Errand, Outcome
from pusher.stopping import Stopping
from pusher.tally import RejectedMax, Tally
from pusher.watermark import Ledger
from pusher.windows import Windows

__all__ = ["Settlement"]

_SHARE_FROM_READ = 1_000
"""A share of fewer messages says little while the run goes on."""

_SWEEP_FROM_SHARE = 4
"""Messages are copied out of their chunks where that lets go of a quarter of the budget."""

_SWEEP_EVERY_CHUNKS = 16

_COPIED_SHARE = 2
"""Copies may take half of what is let go of; they are made before that goes."""


class Settlement:
    """Takes off what is delivered, rejected, parked or skipped.

    Args:
        ledger: of the run.
        tally: of the run.
        batcher: told when objects are free again.
        sample: fed with deliveries.
        dead_letters: where rejections go; None in a rehearsal, which only counts them.
        stopping: told when a file cannot be written, or too much is rejected.
        books: where deliveries are written down.
        errand: told what became of its batches.
        rejected_max: more rejections stop the run; None is no limit.
        remembers_last: the sample is asked for the last messages of each lane.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        tally: Tally,
        batcher: Batcher,
        sample: Sample | Windows,
        dead_letters: DeadLetters | TopicLetters | None,
        stopping: Stopping,
        books: Books | None = None,
        errand: Errand | None = None,
        rejected_max: RejectedMax | None = None,
        remembers_last: bool = False,
    ) -> None:
        self._ledger = ledger
        self._tally = tally
        self._batcher = batcher
        self._sample = sample
        self._dead_letters = dead_letters
        self._stopping = stopping
        self._books = books
        self._errand = errand
        self._rejected_max = rejected_max
        self._remembers_last = remembers_last
        self._swept_at_chunk = 0

    async def settle_all(self, outcomes: AsyncIterator[Outcome]) -> None:
        """Settle outcomes as they come."""
        async with aclosing(outcomes) as each:  # type: ignore[type-var]
            async for outcome in each:
                await self.settle(outcome)

    async def reject(self, chunk: Chunk, rejections: list[Rejection]) -> None:
        """Settle lines of a chunk that are no messages; they stay pending when that fails."""
        if rejections and await self._write(rejections):
            self._ledger.settle_lines(chunk.number, len(rejections))

    def skip(self, batch: Batch, reason: str) -> None:
        """Settle a batch that is not sent by rule."""
        self._tally.skipped_by_reason[reason] += len(batch)
        self._tally.lane(batch.lane).batches += 1
        self._take_off(batch, batch.origins)

    def left_of(self, errand: Errand, batch: Batch) -> list[Batch]:
        """What is to be sent of a batch; the rest was settled by an earlier run."""
        try:
            parts = errand.left_of(batch)
        except DiskError as error:
            self._stop(error)
            return []
        left = {origin for part in parts for origin in part.origins}
        done = [origin for origin in batch.origins if origin not in left]
        self._tally.read -= len(done)
        self._tally.resumed += len(done)
        self._take_off(batch, done)
        return parts

    def copy_out(self, budget_bytes: int) -> None:
        """Let go of chunks that are held for a few messages: copy these messages out of them.

        Done only where it lets go of a good part of the budget, as it looks at all that is held.
        """
        if self._ledger.admitted < self._swept_at_chunk + _SWEEP_EVERY_CHUNKS:
            return
        sparse = self._ledger.sparse()
        sparse_bytes = sum(len(chunk.data) for chunk in sparse.values())
        if sparse_bytes * _SWEEP_FROM_SHARE < budget_bytes:
            return
        self._swept_at_chunk = self._ledger.admitted
        found = {
            number: indexes
            for number, indexes in self._batcher.find(sparse).items()
            if self._ledger.has_open(number, len(indexes))
        }
        numbers = list(found)
        gone_bytes = sum(len(sparse[number].data) for number in numbers)
        # A lane is copied from its beginning on, also out of chunks that stay: it may not pay.
        if self._batcher.to_copy_bytes(numbers) * _COPIED_SHARE > gone_bytes:
            return
        for number, indexes in found.items():
            lines = enumerate(sparse[number].lines())
            self._ledger.replace(number, {index: line for index, line in lines if index in indexes})
        self._batcher.copy_out(numbers)

    async def settle(self, outcome: Outcome) -> None:
        """Take off what an outcome is about, unless its dead letter cannot be written."""
        tally, batch = self._tally, outcome.batch
        lane, count = tally.lane(batch.lane), len(batch)
        if isinstance(outcome, Delivery):
            if self._books is not None and not self._note(self._books, outcome):
                return
            lane.delivered += count
            lane.batches += 1
            tally.delivered += count
            if tally.began_ms is None:
                tally.began_ms = outcome.accepted_at_ms
            self._sample.accept(outcome, time.monotonic(), remember_last=self._remembers_last)
        elif isinstance(outcome, Parked):
            lane.parked += count
            self._ledger.park(batch.origins)
            self._count_off(batch, count)
            return
        elif await self._write([self._rejection(outcome)]):
            lane.rejected += 1
        else:
            return
        self._take_off(batch, batch.origins)
        if self._errand is not None:
            try:
                self._errand.note(outcome)
            except DiskError as error:
                self._stop(error)

    def _note(self, books: Books, delivery: Delivery) -> bool:
        """Write a delivery down; false, and the run stops, when that fails.

        Its messages are pending then: a later run sends them again, and has a line of them.
        """
        try:
            books.note(delivery)
        except DiskError as error:
            self._stop(error)
            return False
        return True

    def _take_off(self, batch: Batch, origins: Sequence[int]) -> None:
        self._ledger.settle(origins)
        self._count_off(batch, len(origins))

    def _count_off(self, batch: Batch, count: int) -> None:
        """An object has its next turn when its whole batch is settled.

        Not before: parts of a split batch may share objects.
        """
        whole = batch.whole or batch
        whole.open_count -= count
        if not whole.open_count:
            self._batcher.release(whole)

    def _rejection(self, refusal: Refusal) -> Rejection:
        """Find the line that a refused message came from."""
        message: SyncMessage = refusal.batch.messages[0]
        source, (line_number, offset, line) = self._ledger.line_of(refusal.batch.origins[0])
        changed_at = message.changed_at
        return Rejection(
            refusal.reason,
            refusal.detail,
            source,
            line_number,
            offset,
            line,
            status=refusal.status,
            attempts=refusal.attempts,
            changed_at_ms=changed_at if isinstance(changed_at, int) else None,
        )

    async def _write(self, rejections: list[Rejection]) -> bool:
        """Write dead letters and count them; false, and the run stops, when that fails."""
        tally, rejected_max = self._tally, self._rejected_max
        tally.waits.writing += 1
        try:
            if self._dead_letters is not None:
                await self._dead_letters.write(rejections)
        except DiskError as error:
            self._stop(error)
            return False
        finally:
            tally.waits.writing -= 1
        tally.reject(rejections)
        if rejected_max is not None and (
            rejected_max.rate is None or tally.read >= _SHARE_FROM_READ
        ):
            self.check_rejected()
        return True

    def check_rejected(self) -> None:
        """Stop the run when more was rejected than allowed."""
        tally, rejected_max = self._tally, self._rejected_max
        if rejected_max is not None and rejected_max.is_passed(tally.rejected, tally.read):
            self._stop(
                f"{tally.rejected:,} of {tally.read:,} messages were rejected,"
                f" more than {rejected_max}"
            )

    def _stop(self, reason: object) -> None:
        self._stopping.end_sending(Halt(HaltKind.STOPPED, str(reason)))
