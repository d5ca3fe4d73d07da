"""Tell a live source what is settled, and let go of partitions that are taken away.

A partition that is revoked goes in order: what was not sent is forgotten, as its next owner reads
it again; what is in flight is waited for; what is settled by then is committed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Self

import anyio

from pusher.batching import Batcher
from pusher.model import LiveSource, Revocation
from pusher.tally import Tally
from pusher.watermark import Ledger

__all__ = ["Committer"]

TELL_EVERY_S = 0.25
LOOK_EVERY_S = 0.02

_log = logging.getLogger("pusher")


class Committer:
    """Keeps a live source and the ledger of a run in step.

    Args:
        source: the topics.
        ledger: of the run.
        batcher: of the run.
        tally: of the run.
        drain_timeout_s: how long what is in flight of a revoked partition is waited for.
    """

    def __init__(
        self,
        source: LiveSource,
        ledger: Ledger,
        batcher: Batcher,
        tally: Tally,
        drain_timeout_s: float,
    ) -> None:
        self._source = source
        self._ledger = ledger
        self._batcher = batcher
        self._tally = tally
        self._drain_timeout_s = drain_timeout_s

    def __repr__(self) -> str:
        return f"<Committer of {self._source.name}>"

    @classmethod
    def of(
        cls,
        source: LiveSource | None,
        ledger: Ledger,
        batcher: Batcher,
        tally: Tally,
        drain_timeout_s: float,
    ) -> Self | None:
        """None where no topic is read."""
        return None if source is None else cls(source, ledger, batcher, tally, drain_timeout_s)

    async def keep(self) -> None:
        """Tell what is settled, and answer revocations, for ever: the caller cancels it."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._tell)
            while True:
                revocation = await self._source.next_revocation()
                await self._let_go(revocation)

    async def finish(self) -> str | None:
        """Commit what is settled, and leave the group. Why that failed, if it did."""
        self._source.commit(self._ledger.offsets)
        return await self._source.close()

    async def _tell(self) -> None:
        while True:
            await anyio.sleep(TELL_EVERY_S)
            self._source.commit(self._ledger.offsets)

    async def _let_go(self, revocation: Revocation) -> None:
        for partition in revocation.partitions:
            self.withdraw(self._batcher.withdraw(self._ledger.chunks_of(partition)))
        if not revocation.is_lost:
            left = 0
            with anyio.move_on_after(self._drain_timeout_s):
                while left := sum(map(self._ledger.open_in, revocation.partitions)):  # noqa: ASYNC110 - settling only counts
                    await anyio.sleep(LOOK_EVERY_S)
            if left:
                _log.warning("%s messages in flight are let go: others may repeat them", left)
            self._source.commit(self._ledger.offsets)
        for partition in revocation.partitions:
            self._ledger.forget(partition)
        if not revocation.is_lost:
            self._source.let_go()

    def withdraw(self, counts: Mapping[int, int]) -> None:
        """Forget what was read of lost partitions and is not on its way: by chunk number."""
        self._ledger.withdraw(counts)
        self._tally.read -= sum(counts.values())
        self._tally.withdrawn += sum(counts.values())
