"""Who may send, and when: the limit on requests in flight, pauses, and probing a failing endpoint.

It holds the arithmetic of `pacing` against the clock and lets senders wait their turn. It knows no
request.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from pusher.pacing import START, ConcurrencyLimit, Outcome, RetryBudget

__all__ = ["Admission"]

_Turn = asyncio.Future[None]


class Admission:
    """A gate in front of the endpoint. A sender enters before each attempt and leaves after it.

    While the retry budget is empty, one probe at a time may pass; during a pause, nobody.

    Args:
        concurrency: requests in flight at most; None finds the best limit by itself.
        start: the limit that an earlier run has found; it begins there.
        now_s: a monotonic clock.
    """

    def __init__(
        self,
        concurrency: int | None,
        *,
        start: int | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fixed = concurrency
        self._auto = ConcurrencyLimit(max(START, start or 0))
        self._budget = RetryBudget()
        self._now_s = now_s
        self._entered = 0
        self._in_flight = 0
        self._paused_until_s = 0.0
        self._again: deque[_Turn] = deque()
        self._waiting: deque[_Turn] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.is_closed = False

    def __repr__(self) -> str:
        return f"<Admission of {self.limit}, {self._entered} entered>"

    @property
    def limit(self) -> int:
        """Requests in flight at most, at the moment."""
        return self._auto.limit if self._fixed is None else self._fixed

    @property
    def is_probing(self) -> bool:
        """So much failed lately that one request at a time is enough."""
        return self._budget.is_empty

    @property
    def is_full(self) -> bool:
        """Nobody else may send at the moment, pauses aside."""
        return not self._has_room

    @property
    def pause_s(self) -> float:
        """So much longer nobody is let in, as the endpoint has asked for it."""
        return max(0.0, self._pause_s)

    @property
    def entered(self) -> int:
        """How many have a turn: those in flight, and those that wait for the rate limit."""
        return self._entered

    async def enter(self) -> bool:
        """Wait for a turn with something new; false when the gate is closed."""
        return self._enters_at_once() or await self._wait_in(self._waiting)

    async def enter_again(self) -> bool:
        """Wait for a turn ahead of what is new; false when the gate is closed."""
        return self._enters_at_once() or await self._wait_in(self._again)

    def leave(self) -> None:
        """Give the turn back."""
        self._entered -= 1
        self._let_in()

    def began(self) -> float:
        """An attempt begins; returns when, for `ended`."""
        self._in_flight += 1
        now_s = self._now_s()
        if self._fixed is None:
            self._auto.sent(now_s, self._in_flight)
        return now_s

    def ended(self, began_s: float, outcome: Outcome) -> None:
        """An attempt has ended: learn from it."""
        self._in_flight -= 1
        if self._fixed is None:
            self._auto.ended(began_s, self._now_s(), outcome)
        if outcome is Outcome.ACCEPTED or outcome is Outcome.ANSWERED:
            self._budget.refund()
        else:
            self._budget.spend()

    def given_up(self) -> None:
        """An attempt was cut off from here: it says nothing of the endpoint."""
        self._in_flight -= 1

    def pause(self, pause_s: float) -> None:
        """Let nobody in for so long: the endpoint asks for it."""
        self._paused_until_s = max(self._paused_until_s, self._now_s() + pause_s)

    def close(self) -> None:
        """Let nobody in any more."""
        self.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for turn in (*self._again, *self._waiting):
            if not turn.done():
                turn.set_result(None)

    def _enters_at_once(self) -> bool:
        if self.is_closed or self._again or self._waiting or self._pause_s > 0:
            return False
        if not self._has_room:
            return False
        self._entered += 1
        return True

    async def _wait_in(self, queue: deque[_Turn]) -> bool:
        if self.is_closed:
            return False
        turn: _Turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        self._let_in()
        if turn.done():
            return True
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and not self.is_closed:
                self.leave()
            elif turn in queue:
                queue.remove(turn)
            raise
        return not self.is_closed

    def _let_in(self) -> None:
        """Let in as many as there is room for, or see to it that it is tried after the pause.

        The clock is asked once: if the pause ended between two looks, nobody would be let in.
        """
        if not (self._again or self._waiting):
            return
        wait_s = self._pause_s
        if wait_s > 0:
            if self._timer is None and not self.is_closed:
                self._timer = asyncio.get_running_loop().call_later(wait_s, self._pause_is_over)
            return
        while self._has_room and (queue := self._again or self._waiting):
            turn = queue.popleft()
            if not turn.done():  # One that was cancelled goes by itself.
                self._entered += 1
                turn.set_result(None)

    @property
    def _has_room(self) -> bool:
        return self._entered < (1 if self._budget.is_empty else self.limit)

    @property
    def _pause_s(self) -> float:
        """Negative where it is over; 0 where there was none, which needs no look at the clock."""
        return self._paused_until_s - self._now_s() if self._paused_until_s else 0.0

    def _pause_is_over(self) -> None:
        self._timer = None
        self._let_in()
