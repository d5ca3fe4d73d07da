"""When to try again, and how long to wait before. Arithmetic: the caller sleeps."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["RetryPolicy"]

_DOUBLINGS_MAX = 60


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Full jitter: a wait drawn from 0 up to a bound that doubles with each attempt.

    Attributes:
        max_attempts: how often one request is sent at most.
        base_s: bound of the first wait.
        cap_s: largest bound.
        longest_wait_s: an endpoint that asks to be left alone for longer ends the run.
    """

    max_attempts: int = 8
    base_s: float = 0.5
    cap_s: float = 30.0
    longest_wait_s: float = 900.0

    def delay_s(self, attempt: int, retry_after_s: float, rng: random.Random) -> float | None:
        """Seconds to wait after the `attempt`-th failure (from 1), or None to give up.

        Retry-After is a floor: the endpoint knows when it is ready, but not that others wait too.
        """
        if attempt >= self.max_attempts:
            return None
        bound_s = min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, _DOUBLINGS_MAX))
        return max(rng.uniform(0, bound_s), retry_after_s)
