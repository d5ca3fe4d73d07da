"""When to try again, and how long to wait before. Arithmetic: the caller sleeps."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["GiveUp", "RetryPolicy"]

_DOUBLINGS_MAX = 60


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Full jitter: a wait drawn from 0 up to a bound that doubles with each attempt.

    Attributes:
        max_attempts: so many failures of one request are enough to doubt the request.
        base_s: bound of the first wait.
        cap_s: largest bound.
        longest_wait_s: an endpoint that asks to be left alone for longer is given up.
    """

    max_attempts: int = 8
    base_s: float = 0.5
    cap_s: float = 30.0
    longest_wait_s: float = 900.0

    def delay_s(self, attempt: int, retry_after_s: float, rng: random.Random) -> float:
        """Seconds to wait after the `attempt`-th failure (from 1).

        Retry-After is a floor: the endpoint knows when it is ready, but not that others wait too.
        """
        bound_s = min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, _DOUBLINGS_MAX))
        return max(rng.uniform(0, bound_s), retry_after_s)

    def is_enough(self, attempt: int) -> bool:
        """So many failures, the request itself may be to blame."""
        return attempt >= self.max_attempts


class GiveUp:
    """How long nothing has succeeded. A quiet time without requests does not count.

    Args:
        after_s: so long is too long.
    """

    def __init__(self, after_s: float) -> None:
        self.after_s = after_s
        self._failing_since_s: float | None = None

    def __repr__(self) -> str:
        return f"<GiveUp after {self.after_s:g} s, failing since {self._failing_since_s}>"

    def succeeded(self) -> None:
        """A request was accepted."""
        self._failing_since_s = None

    def failed(self, now_s: float) -> bool:
        """A request failed; true when it is time to give up."""
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        return now_s - self._failing_since_s >= self.after_s

    def left_s(self, now_s: float) -> float:
        """How much longer to try."""
        since_s = now_s if self._failing_since_s is None else self._failing_since_s
        return max(0.0, since_s + self.after_s - now_s)
