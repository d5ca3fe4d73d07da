"""How many requests an endpoint can take at a time, and whether it takes any. Arithmetic only.

The limit is judged once a round trip, by requests that were sent after the last judgement: earlier
ones tell of the limit before.
"""

from __future__ import annotations

import enum
from math import sqrt

__all__ = ["CEILING", "START", "ConcurrencyLimit", "Outcome", "RetryBudget"]

START = 4
CEILING = 256

_CLEAR = 1.1
"""Up to so many times the base, a latency shows no queue: the limit doubles."""

_CLEAR_AT_START = 1.25
"""The same as long as the base is known from few requests only."""

_SAMPLES_MIN = 5
_SAMPLES_MAX = 32

_BUSY = 1.35
"""Up to so many times the base, a short queue keeps the endpoint busy: the limit grows by one."""

_QUEUE_KEPT = 1.15
"""A cut leaves that much of what the endpoint can work on at a time."""

_CUTS_IN_VAIN = 2
_UNCHANGED = 0.9
"""A latency that is still that much of what it was, after so many cuts, is no queue."""

_PROBE_EVERY_ROUNDS = 40
"""So often half the limit shows what the latency is without a queue."""

_WEIGHT_DOWN = 0.3
_WEIGHT_UP = 0.03
"""A latency that is a little higher may be a queue that has to go: it is hardly believed."""

_CUT_MAX = 0.25
_CUT_ON_FAILURES = 0.7
_FAILED_SHARE_MAX = 0.1
_HOLD_ROUNDS = 8
_HOLD_ROUNDS_MAX = 512


class Outcome(enum.Enum):
    """What an attempt says of the endpoint's load."""

    ACCEPTED = "accepted"
    ANSWERED = "answered"
    """Refused for its content: the endpoint is well."""
    OVERLOADED = "overloaded"
    """It asks for less: 429, or 503 with Retry-After."""
    FAILED = "failed"


class ConcurrencyLimit:
    """Finds the number of requests in flight that keeps an endpoint busy without a long queue.

    It doubles once a round trip until the latency rises, then grows by one, and is cut to what the
    latency says that the endpoint works on. A latency that does not fall after a cut is no queue:
    it becomes the new base, and the cut is taken back.

    Args:
        start: the limit to begin with.
        ceiling: the highest.
    """

    def __init__(self, start: int = START, ceiling: int = CEILING) -> None:
        self.limit = min(start, ceiling)
        """Requests in flight at most."""
        self._ceiling = ceiling
        self._base_s: float | None = None
        self._rounds_since_probe = 0
        self._limit_before_probe: int | None = None
        self._cuts = 0  # In a row, for a latency that did not fall.
        self._limit_before, self._latency_before_s = self.limit, 0.0
        self._last_latency_s = 0.0
        self._is_slow_start = True
        self._hold_rounds = 0
        self._next_hold_rounds = _HOLD_ROUNDS
        self._refused_at = ceiling + 1
        self._round_began_s = self._sampled_until_s = 0.0
        self._sample_size = self._sent = self._ended = self._overloaded = self._failed = 0
        self._latencies_s: list[float] = []  # In the order of their length.
        self._is_reached = False
        self._begin_round(0.0)

    def __repr__(self) -> str:
        return f"<ConcurrencyLimit {self.limit}, base latency {self._base_s} s>"

    def sent(self, now_s: float, in_flight: int) -> None:
        """An attempt begins; `in_flight` counts it."""
        self._is_reached = self._is_reached or in_flight >= self.limit
        if self._sent < self._sample_size:
            # The first that are sent, not the first that return: these are the lucky ones.
            self._sent += 1
            self._sampled_until_s = now_s

    def ended(self, sent_s: float, now_s: float, outcome: Outcome) -> None:
        """An attempt that began at `sent_s` has ended."""
        if sent_s <= self._round_began_s:
            return
        if outcome is Outcome.OVERLOADED:
            self._overloaded += 1
        if sent_s > self._sampled_until_s:
            return
        self._ended += 1
        if outcome is Outcome.FAILED:
            self._failed += 1
        elif outcome is not Outcome.OVERLOADED:
            self._latencies_s.append(now_s - sent_s)
        if 2 * self._ended > self._sample_size:
            self._judge()
            self._begin_round(now_s)

    def _begin_round(self, now_s: float) -> None:
        self._round_began_s = self._sampled_until_s = now_s
        self._sample_size = min(max(self.limit // 2, _SAMPLES_MIN), 2 * self.limit, _SAMPLES_MAX)
        self._sent = self._ended = self._overloaded = self._failed = 0
        self._latencies_s = []
        self._is_reached = False

    def _judge(self) -> None:
        """Change the limit by what one round has shown."""
        self._hold_rounds = max(0, self._hold_rounds - 1)
        if self._overloaded or self._failed >= 2:
            self._limit_before_probe = None
        if self._overloaded:
            self._refused(self._overloaded / (self._overloaded + self._ended))
        elif self._failed >= 2 and self._failed > _FAILED_SHARE_MAX * self._ended:
            self._set(self.limit * _CUT_ON_FAILURES)
            self._cuts = 0
        elif self._latencies_s:
            # Those that have not ended yet take longer: this is the median of all in the sample.
            self._by_latency(self._latencies_s[-1])

    def _refused(self, share: float) -> None:
        """Cut by what was refused, and stay below that for a while, longer each time."""
        self._refused_at = self.limit
        self._hold_rounds = self._next_hold_rounds
        self._next_hold_rounds = min(2 * self._next_hold_rounds, _HOLD_ROUNDS_MAX)
        self._set(self.limit * max(0.5, min(0.9, 1 - share)))
        self._cuts = 0

    def _by_latency(self, latency_s: float) -> None:
        if self._limit_before_probe is not None:
            self._base_s = latency_s
            self._set(self._limit_before_probe)
            self._limit_before_probe = None
            return
        base_s = self._updated_base_s(latency_s)
        clear = _CLEAR_AT_START if self._is_slow_start else _CLEAR
        has_fallen = latency_s < _UNCHANGED * self._last_latency_s
        self._last_latency_s = latency_s
        if latency_s > _BUSY * base_s * (1 + 0.5 / sqrt(self._sample_size)):
            self._is_slow_start = False
            self._cut_by_latency(latency_s, base_s)
            return
        self._cuts = 0
        if not self._is_reached:
            return
        self._rounds_since_probe += 1
        if self._rounds_since_probe >= _PROBE_EVERY_ROUNDS and self.limit > START:
            self._rounds_since_probe = 0
            self._limit_before_probe = self.limit
            self._set(max(START, self.limit // 2))
        elif not self._hold_rounds:
            self._is_slow_start = self._is_slow_start and latency_s <= clear * base_s
            has_room = (
                latency_s <= clear * base_s or has_fallen
            ) and self.limit + 1 < self._refused_at
            self._set(min(2 * self.limit, self._refused_at - 1) if has_room else self.limit + 1)
            if self.limit > self._refused_at:
                # What it refused once it takes now.
                self._refused_at, self._next_hold_rounds = self._ceiling + 1, _HOLD_ROUNDS

    def _cut_by_latency(self, latency_s: float, base_s: float) -> None:
        if self._cuts and latency_s > _UNCHANGED * self._latency_before_s:
            self._cuts += 1
        else:
            self._cuts, self._limit_before = 1, self.limit
        self._latency_before_s = latency_s
        if self._cuts > _CUTS_IN_VAIN:
            self._base_s, self._cuts = latency_s, 0
            self._set(self._limit_before)
        else:
            self._last_latency_s = 0.0  # It falls now because of the cut.
            self._set(-(-self.limit * max(_CUT_MAX, _QUEUE_KEPT * base_s / latency_s) // 1))

    def _updated_base_s(self, latency_s: float) -> float:
        """The latency without a queue: a low one, but no single round's chance."""
        base_s = self._base_s
        if base_s is None:
            base_s = latency_s
        elif latency_s < _CLEAR_AT_START * base_s:
            weight = min(1.0, self._sample_size / _SAMPLES_MAX)
            if not self._is_slow_start:
                weight *= _WEIGHT_DOWN if latency_s < base_s else _WEIGHT_UP
            base_s += weight * (latency_s - base_s)
        self._base_s = base_s
        return base_s

    def _set(self, limit: float) -> None:
        self.limit = max(1, min(self._ceiling, int(limit)))


class RetryBudget:
    """Tokens for failed attempts. When they are used up, one probe at a time is enough.

    Args:
        capacity: how many failures in a row it takes.
    """

    def __init__(self, capacity: float = 50.0) -> None:
        self._capacity = capacity
        self._tokens = capacity

    def __repr__(self) -> str:
        return f"<RetryBudget {self._tokens:g} of {self._capacity:g}>"

    @property
    def is_empty(self) -> bool:
        """So much has failed that sending more at a time would only do harm."""
        return self._tokens < 1

    def spend(self) -> None:
        """An attempt has failed."""
        self._tokens = max(0.0, self._tokens - 1)

    def refund(self) -> None:
        """An attempt has succeeded; a probe that does so gives others their turn, too."""
        if self._tokens < self._capacity:
            self._tokens = min(self._capacity, self._tokens + (10 if self.is_empty else 0.2))
