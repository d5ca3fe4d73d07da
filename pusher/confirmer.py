"""Ask the bridge what became of the sampled objects ("Get sync status").

It polls under a rate limit of its own, with backoff, while the push runs and after it. It never
decides what a status means: the sample does.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import anyio
import msgspec
from aiolimiter import AsyncLimiter

from pusher.model import Failure, Transport
from pusher.protocol import decode_status, error_text, retry_after_s, status_paths
from pusher.sampling import Sample, SampledObject
from pusher.stopping import Stopping
from pusher.windows import Windows

__all__ = ["Confirmer"]

POLLS_AT_ONCE = 32
BACKOFF_FIRST_S = 0.2
BACKOFF_FACTOR = 1.6
BACKOFF_MAX_S = 5.0
PAUSE_ON_ERROR_S = 2.0
IDLE_S = 0.1


class Confirmer:
    """Polls the sampled objects until each is confirmed or failed.

    Args:
        transport: the door.
        sample: whose objects are polled; their state changes.
        rate: polls a second at most, or None.
        rng: for jitter.
        now_s: a monotonic clock.
    """

    def __init__(
        self,
        transport: Transport,
        sample: Sample | Windows,
        *,
        rate: float | None,
        rng: random.Random,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._sample = sample
        self._rate = rate
        self._limiter = AsyncLimiter(1, 1 / rate) if rate else None
        self._rng = rng
        self._now_s = now_s
        self._paused_until_s = 0.0
        self._path_order: int | None = None
        self.trouble: str | None = None
        """Why nothing can be confirmed, where the endpoint refuses to say."""

    async def watch(self) -> None:
        """Poll what is due, for ever: runs beside the push, which cancels it."""
        while self.trouble is None:
            await self._poll_due(deadline_s=None)
            await anyio.sleep(IDLE_S)

    async def finish_unless(self, stopping: Stopping, timeout_s: float) -> bool:
        """The same as `finish`, but false as well when the run is to end meanwhile."""
        is_finished = False

        async def give_up(waiting: anyio.CancelScope) -> None:
            await stopping.reading_ended()
            waiting.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(give_up, tasks.cancel_scope)
            is_finished = await self.finish(timeout_s)
            tasks.cancel_scope.cancel()
        return is_finished

    async def finish(self, timeout_s: float) -> bool:
        """Poll until nothing is pending; false when the time was too short.

        The rate limit may need longer than that for one round: the round is then given its time.
        """
        pending = self._sample.pending()
        now_s = self._now_s()
        deadline_s = now_s + timeout_s + (len(pending) / self._rate if self._rate else 0.0)
        for member in pending:
            member.next_poll_s = min(member.next_poll_s, now_s)
        while self._sample.pending() and self.trouble is None:
            if self._now_s() >= deadline_s:
                return False
            await self._poll_due(deadline_s)
            await anyio.sleep(min(IDLE_S, max(0.0, deadline_s - self._now_s())))
        return self.trouble is None

    async def _poll_due(self, deadline_s: float | None) -> None:
        now_s = self._now_s()
        if now_s < self._paused_until_s:
            return
        due = [member for member in self._sample.pending() if member.next_poll_s <= now_s]
        due.sort(key=lambda member: member.next_poll_s)
        queue = iter(due)
        async with anyio.create_task_group() as tasks:
            for _ in range(min(POLLS_AT_ONCE, len(due))):
                tasks.start_soon(self._poll_each, queue, deadline_s)

    async def _poll_each(self, queue: Iterator[SampledObject], deadline_s: float | None) -> None:
        for member in queue:
            if self._limiter is not None:
                await self._limiter.acquire()
            now_s = self._now_s()
            is_over = deadline_s is not None and now_s >= deadline_s
            if is_over or self.trouble is not None or now_s < self._paused_until_s:
                return
            await self._poll(member)

    async def _poll(self, member: SampledObject) -> None:
        accepted = member.accepted
        backoff_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * BACKOFF_FACTOR**member.polls)
        member.polls += 1
        member.next_poll_s = self._now_s() + backoff_s * self._rng.uniform(0.8, 1.2)
        body = await self._ask(member)
        if body is None or member.accepted != accepted:
            return  # Not known yet, or a later message of the object was accepted meanwhile.
        try:
            status = decode_status(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return  # Whatever this is, it does not say that the object was processed.
        member.judge(status)

    async def _ask(self, member: SampledObject) -> bytes | None:
        """The status of an object, or None as long as the bridge has none.

        Until one order of the path has answered 200, every 400 or 404 is asked again in the other.
        """
        paths = status_paths(member.accepted.lane, member.accepted.external_id)
        orders = (0, 1) if self._path_order is None else (self._path_order,)
        for order in orders:
            answer = await self._transport.request("GET", paths[order])
            if isinstance(answer, Failure):
                self._pause(PAUSE_ON_ERROR_S)
                return None
            if answer.status == 200:
                self._path_order = order
                return answer.body
            if answer.status in {401, 403}:
                self.trouble = f"the endpoint does not show sync status: {error_text(answer)}"
                return None
            if answer.status not in {400, 404}:
                asked_s = retry_after_s(answer, now_s=time.time())
                self._pause(max(asked_s, PAUSE_ON_ERROR_S))
                return None
        return None

    def _pause(self, pause_s: float) -> None:
        self._paused_until_s = max(self._paused_until_s, self._now_s() + pause_s)
