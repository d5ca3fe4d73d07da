"""Ask the bridge for the status of one object at a time ("Get sync status").

It keeps to a rate limit of its own, and pauses where the endpoint asks for it or is gone. It does
not decide what a status means, nor whom to ask about.
"""

from __future__ import annotations

import enum
import math
import random
import time
from collections.abc import Callable

import msgspec
from aiolimiter import AsyncLimiter

from pusher.model import Answer, Failure, Lane, Transport, Verdict
from pusher.protocol import (
    SyncStatus,
    decode_status,
    error_text,
    retry_after_s,
    status_paths,
    verdict_of,
)

__all__ = ["Silence", "StatusPoller"]

POLLS_AT_ONCE = 32
"""More where more requests may be in flight."""

FAILURES_IN_A_ROW = 4
"""One failed poll says something about its object; so many in a row, about the endpoint."""

PAUSE_FIRST_S = 0.25
PAUSE_FACTOR = 2.0
PAUSE_MAX_S = 5.0

LATENCY_WEIGHT = 0.1
"""Of the last poll in the average."""

PAUSE_ON_429_S = 1.0
"""Where the endpoint asks for less and does not say for how long."""


class Silence(enum.Enum):
    """Why a poll has brought no status."""

    NOT_YET = "the bridge has none yet"
    NO_ANSWER = "the endpoint did not answer, or not with a status"


class StatusPoller:
    """Polls the sync status.

    Args:
        transport: the door.
        rate: polls a second at most, or None.
        rng: for jitter.
        in_flight: requests that the endpoint is used to, where somebody has said so.
        now_s: a monotonic clock.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        rate: float | None,
        rng: random.Random,
        in_flight: int | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self.rate = rate
        self._limiter = AsyncLimiter(1, 1 / rate) if rate else None
        self._rng = rng
        self._at_once = max(POLLS_AT_ONCE, in_flight or 0)
        self._now_s = now_s
        self._paused_until_s = 0.0
        self._failures = 0
        self._pauses = 0
        self._path_order: int | None = None
        self.polls = 0
        """Requests so far."""
        self.latency_s: float | None = None
        """How long one takes of late; None before the first."""
        self._failing_since_s: float | None = None
        self.trouble: str | None = None
        """Why nothing can be known, where the endpoint refuses to say."""

    def __repr__(self) -> str:
        return f"<StatusPoller, {self.polls} polls>"

    @property
    def at_once(self) -> int:
        """How many polls are worth to be under way, or to wait for their turn, at one time."""
        return self._at_once if self.rate is None else min(POLLS_AT_ONCE, math.ceil(2 * self.rate))

    @property
    def pause_s(self) -> float:
        """How long nothing is to be asked from now on; 0 for no pause."""
        return max(0.0, self._paused_until_s - self._now_s())

    @property
    def failing_s(self) -> float:
        """How long no answer has said anything; 0 where the last one did."""
        return 0.0 if self._failing_since_s is None else self._now_s() - self._failing_since_s

    async def turn(self) -> bool:
        """Wait for a turn under the rate limit; false when there is nothing to ask for now."""
        if self._limiter is not None:
            await self._limiter.acquire()
        return self.trouble is None and not self.pause_s

    async def ask(self, lane: Lane, external_id: str) -> SyncStatus | Silence:
        """The status of an object, or why there is none.

        Until one order of the path has answered 200, every 400 or 404 is asked again in the other.
        """
        paths = status_paths(lane, external_id)
        for order in (0, 1) if self._path_order is None else (self._path_order,):
            self.polls += 1
            asked_s = self._now_s()
            answer = await self._transport.request("GET", paths[order])
            took_s = self._now_s() - asked_s
            before_s = took_s if self.latency_s is None else self.latency_s
            self.latency_s = before_s + LATENCY_WEIGHT * (took_s - before_s)
            if isinstance(answer, Failure):
                self._failed()
                return Silence.NO_ANSWER
            if answer.status == 200:
                return self._read(answer, order)
            if answer.status in {401, 403}:
                self.trouble = f"the endpoint does not show sync status: {error_text(answer)}"
                return Silence.NO_ANSWER
            if answer.status not in {400, 404}:
                self._put_off(answer)
                return Silence.NO_ANSWER
            self._answered()
        return Silence.NOT_YET

    def _read(self, answer: Answer, order: int) -> SyncStatus | Silence:
        try:
            status = decode_status(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._failed()  # Whatever this is, it does not say that the object was processed.
            return Silence.NO_ANSWER
        self._path_order = order
        self._answered()
        return status

    def _answered(self) -> None:
        self._failures = self._pauses = 0
        self._failing_since_s = None

    def _put_off(self, answer: Answer) -> None:
        asked_s = 0.0
        self._begin_failing()
        if verdict_of(answer, had_success=True) is Verdict.RETRY:
            asked_s = retry_after_s(answer, now_s=time.time())
        if asked_s or answer.status == 429:  # A limit is for all polls, not for this object.
            self._pause(asked_s or PAUSE_ON_429_S)
        else:
            self._failed()

    def _failed(self) -> None:
        """A single failure costs its object a while; only a row of them costs the others."""
        self._begin_failing()
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW and not self.pause_s:
            pause_s = min(PAUSE_MAX_S, PAUSE_FIRST_S * PAUSE_FACTOR**self._pauses)
            self._pauses += 1
            self._pause(pause_s * self._rng.uniform(0.8, 1.2))

    def _begin_failing(self) -> None:
        if self._failing_since_s is None:
            self._failing_since_s = self._now_s()

    def _pause(self, pause_s: float) -> None:
        self._paused_until_s = max(self._paused_until_s, self._now_s() + pause_s)
