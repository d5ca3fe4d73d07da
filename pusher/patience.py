"""Doors that wait: for the next answer, which may be better, or for their turn.

They know no endpoint.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import anyio
from aiolimiter import AsyncLimiter

from pusher.model import Answer, Failure, Transport, Verdict
from pusher.protocol import retry_after_s, verdict_of
from pusher.retrying import RetryPolicy

__all__ = ["PacedTransport", "PatientTransport"]


class PatientTransport:
    """A transport whose requests may safely be repeated: reads, and what replaces itself.

    Args:
        transport: the door.
        policy: when to ask again.
        rng: for jitter.
        now_s: the time of day, epoch seconds.
    """

    def __init__(
        self,
        transport: Transport,
        policy: RetryPolicy,
        rng: random.Random,
        *,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._transport = transport
        self._policy = policy
        self._rng = rng
        self._now_s = now_s

    async def request(
        self, method: str, path: str, *, query: str = "", body: bytes | None = None
    ) -> Answer | Failure:
        """Send a request until its answer is a verdict, or patience ends (see `Transport`)."""
        attempt = 0
        while True:
            attempt += 1
            answer = await self._transport.request(method, path, query=query, body=body)
            asked_wait_s = 0.0
            if isinstance(answer, Answer):
                if verdict_of(answer, had_success=True) is not Verdict.RETRY:
                    return answer
                asked_wait_s = retry_after_s(answer, now_s=self._now_s())
            if self._policy.is_enough(attempt) or asked_wait_s > self._policy.longest_wait_s:
                return answer
            await anyio.sleep(self._policy.delay_s(attempt, asked_wait_s, self._rng))


class PacedTransport:
    """A transport that sends so many requests a second at most.

    Args:
        transport: the door.
        rate: requests a second, or None for no limit.
    """

    def __init__(self, transport: Transport, rate: float | None) -> None:
        self._transport = transport
        self._limiter = AsyncLimiter(1, 1 / rate) if rate else None

    async def request(
        self, method: str, path: str, *, query: str = "", body: bytes | None = None
    ) -> Answer | Failure:
        """Send a request when its turn has come (see `Transport`)."""
        if self._limiter is not None:
            await self._limiter.acquire()
        return await self._transport.request(method, path, query=query, body=body)
