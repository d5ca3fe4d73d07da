"""Ask the bridge what became of the sampled objects, while the push runs and after it.

Which objects are asked about and what an answer means, the sample decides; how one is asked about
is the poller's.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence

import anyio

from pusher.model import Transport
from pusher.polling import StatusPoller
from pusher.protocol import SyncStatus
from pusher.sampling import Sample, SampledObject
from pusher.stopping import Stopping, cancel_after
from pusher.windows import Windows

__all__ = ["Confirmer"]

BACKOFF_FIRST_S = 0.2
BACKOFF_FACTOR = 1.6
BACKOFF_MAX_S = 5.0
IDLE_S = 0.1

POLLED_EARLY_FROM_SHARE = 0.5
"""A place of the reservoir is kept to the end with as much chance as the input is accepted. From
here on most are, and what is polled now has not to be waited for at the end."""

POLLED_EARLY_UNLIMITED_FROM_SHARE = 0.92
"""The same without a rate limit: a round of polls is short then, and begins as late as it may."""

ROUND_SLACK = 1.5
"""It begins this much earlier than it needs to."""


class Confirmer:
    """Polls the sampled objects until each is confirmed or failed.

    Args:
        transport: the door.
        sample: whose objects are polled; their state changes.
        rate: polls a second at most, or None.
        rng: for jitter.
        in_flight: requests that the endpoint is used to, where somebody has said so.
        now_s: a monotonic clock.
    """

    def __init__(
        self,
        transport: Transport,
        sample: Sample | Windows,
        *,
        rate: float | None,
        rng: random.Random,
        in_flight: int | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sample = sample
        self._poller = StatusPoller(transport, rate=rate, rng=rng, in_flight=in_flight, now_s=now_s)
        self._rng = rng
        self._now_s = now_s

    @property
    def trouble(self) -> str | None:
        """Why nothing can be confirmed, where the endpoint refuses to say."""
        return self._poller.trouble

    @property
    def polls(self) -> int:
        """Requests so far."""
        return self._poller.polls

    async def watch(self, share_accepted: Callable[[], float | None]) -> None:
        """Poll what is due, for ever: runs beside the push, which cancels it.

        Args:
            share_accepted: how much of the input is, 0 to 1; None where that is not known.
        """
        started_s = self._now_s()
        while self.trouble is None:
            await self._poll_due(self._likely_to_stay(started_s, share_accepted()), deadline_s=None)
            await anyio.sleep(IDLE_S)

    async def finish_unless(self, stopping: Stopping, timeout_s: float) -> bool:
        """The same as `finish`, but false as well when the run is to end meanwhile."""
        is_finished = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_after, stopping.reading_ended, tasks.cancel_scope)
            is_finished = await self.finish(timeout_s)
            tasks.cancel_scope.cancel()
        return is_finished

    async def finish(self, timeout_s: float) -> bool:
        """Poll until nothing is pending; false when the time was too short.

        The rate limit may need longer than that for one round: the round is then given its time.
        """
        pending = self._sample.pending()
        now_s, rate = self._now_s(), self._poller.rate
        deadline_s = now_s + timeout_s + (len(pending) / rate if rate else 0.0)
        for member in pending:
            member.next_poll_s = min(member.next_poll_s, now_s)
        while (pending := self._sample.pending()) and self.trouble is None:
            if self._now_s() >= deadline_s:
                return False
            await self._poll_due(pending, deadline_s)
            await anyio.sleep(min(IDLE_S, max(0.0, deadline_s - self._now_s())))
        return self.trouble is None

    def _likely_to_stay(self, started_s: float, share: float | None) -> list[SampledObject]:
        """The pending objects of which most will still be in the sample at the end."""
        if isinstance(self._sample, Windows):
            return self._sample.pending()
        if share is not None and self._poller.rate and share >= POLLED_EARLY_FROM_SHARE:
            return self._sample.pending()
        if share is not None and share >= POLLED_EARLY_UNLIMITED_FROM_SHARE:
            pending = self._sample.pending()
            left_s = (self._now_s() - started_s) * (1 / share - 1)
            if left_s <= self._round_s(len(pending)) * ROUND_SLACK:
                return pending
        return self._sample.lasting(started_s, self._now_s(), is_endless=share is None)

    def _round_s(self, polls: int) -> float:
        """How long so many polls take without a rate limit, and until the next look."""
        return polls / self._poller.at_once * (self._poller.latency_s or 0.0) + IDLE_S

    async def _poll_due(self, members: Sequence[SampledObject], deadline_s: float | None) -> None:
        now_s = self._now_s()
        if self._poller.pause_s:
            return
        due = [member for member in members if member.next_poll_s <= now_s]
        due.sort(key=lambda member: member.next_poll_s)
        queue = iter(due)
        async with anyio.create_task_group() as tasks:
            for _ in range(min(self._poller.at_once, len(due))):
                tasks.start_soon(self._poll_each, queue, deadline_s)

    async def _poll_each(self, queue: Iterator[SampledObject], deadline_s: float | None) -> None:
        for member in queue:
            has_turn = await self._poller.turn()
            is_over = deadline_s is not None and self._now_s() >= deadline_s
            if not has_turn or is_over:
                return
            if member.is_member:  # It may have lost its place while it waited.
                await self._poll(member)

    async def _poll(self, member: SampledObject) -> None:
        accepted = member.accepted
        backoff_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * BACKOFF_FACTOR**member.polls)
        member.polls += 1
        member.next_poll_s = self._now_s() + backoff_s * self._rng.uniform(0.8, 1.2)
        status = await self._poller.ask(accepted.lane, accepted.external_id)
        if isinstance(status, SyncStatus) and member.accepted == accepted:
            # Otherwise a later message of the object was accepted meanwhile.
            member.judge(status, self._now_s())
