"""Let batches go to the endpoint as their turn comes, and settle what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import anyio
from anyio.abc import TaskGroup

from pusher.admission import Admission
from pusher.model import Batch, Refusal
from pusher.sender import Errand, Sender
from pusher.settling import Settlement
from pusher.stopping import Stopping, cancel_after

__all__ = ["Dispatcher"]

UNDER_WAY_MIN = 16
"""So many batches may be in flight or wait to be sent again; more where the limit is higher."""


class Dispatcher:
    """Runs one delivery for each batch, in one pass over the input. `close` when no more comes.

    A task that has delivered its batch waits for another one: to start a task costs more.

    Args:
        sender: delivers a batch.
        settlement: takes off what came of it.
        admission: who may send.
        stopping: asked whether sending is over.
        tasks: where deliveries run.
        errand: leaves out of a batch what an earlier run has settled.
        is_rehearsal: nothing is sent; batches are counted as skipped.
    """

    def __init__(
        self,
        sender: Sender,
        settlement: Settlement,
        admission: Admission,
        stopping: Stopping,
        tasks: TaskGroup,
        *,
        errand: Errand | None,
        is_rehearsal: bool,
    ) -> None:
        self._sender = sender
        self._settlement = settlement
        self._admission = admission
        self._stopping = stopping
        self._tasks = tasks
        self._errand = errand
        self._is_rehearsal = is_rehearsal
        self._settled: anyio.Event | None = None  # Set for whoever waits for a settlement.
        self._idle: list[asyncio.Future[Batch | None]] = []  # What idle tasks wait for.
        self._is_closed = False
        self._under_way = 0  # Batches that wait for an answer, or to be sent again.
        self.bodies_bytes = 0
        """What their encoded bodies take."""

    def __repr__(self) -> str:
        return f"<Dispatcher with {self._under_way} batches under way>"

    @property
    def is_idle(self) -> bool:
        """No batch is under way, and no refusal is kept back."""
        return not self._under_way and not self._sender.keeps_back

    @property
    def only_keeps_back(self) -> bool:
        """Refusals are kept back, and nothing is under way that could show who is to blame."""
        return not self._under_way and self._sender.keeps_back

    @property
    def under_way_max(self) -> int:
        """So many batches may be under way; in a rehearsal, each is gone before the next comes."""
        return 1 if self._is_rehearsal else max(UNDER_WAY_MIN, 2 * self._admission.limit)

    async def send_all(self, batches: Iterable[Batch]) -> None:
        """Let batches go; each waits here for its turn, and so does all that comes after it.

        What has no turn any more, as sending is over, stays pending. Then nothing more is asked of
        a batcher either, which is amid its work.
        """
        if self._stopping.is_sending_over:
            return
        for batch in batches:
            if self._is_rehearsal:
                self._settlement.skip(batch, "dry_run")
                continue
            self.bodies_bytes += len(batch.body)
            while self._under_way >= self.under_way_max and not self._stopping.is_sending_over:
                await self.next_settlement()
            if not await self._admission.enter():
                return
            self._under_way += 1
            if self._idle:
                self._idle.pop().set_result(batch)
            else:
                self._tasks.start_soon(self._work, batch)

    def close(self) -> None:
        """Let the tasks end that wait for a batch, and the others with what they deliver."""
        self._is_closed = True
        for turn in self._idle:
            if not turn.done():
                turn.set_result(None)

    async def next_settlement(self) -> None:
        """Wait until a batch is settled, or sending is over.

        With nothing under way, nothing more can show who is to blame for what was refused.
        """
        if not self._under_way:
            if self._sender.keeps_back:
                await self._settlement.settle_all(self._sender.judge())
            return
        settled = self._settled = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_after, self._stopping.sending_ended, tasks.cancel_scope)
            await settled.wait()
            tasks.cancel_scope.cancel()
        self._settled = None

    async def _work(self, batch: Batch | None) -> None:
        create_future = asyncio.get_running_loop().create_future
        while batch is not None:
            await self._deliver(batch)
            if self._is_closed:
                return
            turn = create_future()
            self._idle.append(turn)
            batch = await turn

    async def _deliver(self, batch: Batch) -> None:
        body_bytes = len(batch.body)
        has_turn = True
        parts = [batch]
        if self._errand is not None:
            parts = self._settlement.left_of(self._errand, batch)
        for part in parts:
            if not has_turn and not await self._admission.enter_again():
                break
            has_turn = False
            outcome = await self._sender.deliver(part)
            refusal = outcome if isinstance(outcome, Refusal) else None
            if outcome is not None and refusal is None:
                await self._settlement.settle(outcome)
            if refusal is not None or self._sender.keeps_back:
                await self._settlement.settle_all(self._sender.isolate(refusal))
        if has_turn:
            self._admission.leave()
        batch.drop_body()
        self.bodies_bytes -= body_bytes
        self._under_way -= 1
        if self._settled is not None:
            self._settled.set()
