"""A door that asks again where the next answer may be better. It knows no endpoint."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import anyio
from aiolimiter import AsyncLimiter

from pusher.model import Answer, Failure, Transport, Verdict
from pusher.protocol import retry_after_s, verdict_of
from pusher.retrying import RetryPolicy

__all__ = ["PatientTransport"]


class PatientTransport:
    """A transport whose requests may safely be repeated: reads, and what replaces itself.

    Args:
        transport: the door.
        policy: when to ask again.
        rng: for jitter.
        limiter: of requests a second, or None.
        now_s: the time of day, epoch seconds.
    """

    def __init__(
        self,
        transport: Transport,
        policy: RetryPolicy,
        rng: random.Random,
        *,
        limiter: AsyncLimiter | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._transport = transport
        self._limiter = limiter
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
            if self._limiter is not None:
                await self._limiter.acquire()
            answer = await self._transport.request(method, path, query=query, body=body)
            asked_wait_s = 0.0
            if isinstance(answer, Answer):
                if verdict_of(answer, had_success=True) is not Verdict.RETRY:
                    return answer
                asked_wait_s = retry_after_s(answer, now_s=self._now_s())
            if self._policy.is_enough(attempt) or asked_wait_s > self._policy.longest_wait_s:
                return answer
            await anyio.sleep(self._policy.delay_s(attempt, asked_wait_s, self._rng))
