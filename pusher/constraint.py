"""Which constraint binds a run: what it waits for, or the CPU. Arithmetic: `now` is passed in.

A run that is looked at often enough shows where its time goes. While the event loop has no time to
spare, it is the CPU; otherwise it is what the one task waits for that takes messages in: as long
as that has to wait, nothing else could make the run faster.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["IN_WORDS", "Accounting", "Constraint", "Moment", "Waits", "binding", "largest"]

BUSY = 0.9
"""From this share of its time on, an event loop that works keeps everything else waiting."""

LATELY_S = 10.0


class Constraint(enum.StrEnum):
    """What limits how fast a run goes."""

    INPUT = "input"
    """It has read all there is so far."""
    CPU = "cpu"
    RATE_LIMIT = "rate_limit"
    """--rate."""
    ENDPOINT = "endpoint"
    """As many requests are in flight as may be, and their answers take their time."""
    RETRY_PAUSE = "retry_pause"
    """Retry-After, or the wait before another attempt."""
    MEMORY_BUDGET = "memory_budget"
    """--memory is used up, though more requests might be in flight."""
    MAX_LAG = "max_lag"
    """The oldest message that is not settled is --max-lag behind."""
    DISK = "disk"
    """Dead letters are written and synced."""
    PROCESSING = "processing"
    """The next phase waits until the bridge has processed the one before."""


IN_WORDS = {
    Constraint.INPUT: "the input",
    Constraint.CPU: "the CPU",
    Constraint.RATE_LIMIT: "--rate",
    Constraint.ENDPOINT: "the endpoint",
    Constraint.RETRY_PAUSE: "pauses before retries",
    Constraint.MEMORY_BUDGET: "--memory",
    Constraint.MAX_LAG: "--max-lag",
    Constraint.DISK: "the disk",
    Constraint.PROCESSING: "processing at the bridge",
}
"""What follows "limited by"."""


@dataclass(slots=True, eq=False)
class Waits:
    """What the rooms of a run wait for at the moment. Each sets its own."""

    is_hungry: bool = False
    """The task that takes messages in waits for the source."""
    is_draining: bool = False
    """The input has ended; what is left is under way."""
    short_of: Constraint | None = None
    """Reading waits for memory, or for the watermark."""
    writing: int = 0
    """Writes of dead letters under way."""
    backing_off: int = 0
    """Requests that wait before another attempt."""
    is_processing: bool = False
    """The bridge is waited for, between two phases."""


@dataclass(frozen=True, slots=True)
class Moment:
    """How a run is at one moment.

    Attributes:
        waits: what its rooms wait for.
        busy_share: of the time since the last look, the part that the event loop worked, or was
            ready to.
        is_paused: the endpoint has asked for a pause.
        is_full: nobody else may send.
        in_flight: requests that an answer is waited for.
        awaiting_rate: requests that only wait for the rate limit.
    """

    waits: Waits
    busy_share: float
    is_paused: bool
    is_full: bool
    in_flight: int
    awaiting_rate: int


def binding(moment: Moment) -> Constraint:
    """The constraint that binds at this moment."""
    waits = moment.waits
    if waits.is_processing:
        return Constraint.PROCESSING
    if moment.busy_share >= BUSY:
        return Constraint.CPU
    if waits.is_hungry:
        return Constraint.INPUT
    return _binding_beyond_the_input(moment)


def _binding_beyond_the_input(moment: Moment) -> Constraint:
    waits = moment.waits
    if moment.is_paused or (waits.backing_off and not moment.in_flight):
        return Constraint.RETRY_PAUSE
    if moment.awaiting_rate:
        return Constraint.RATE_LIMIT
    if not moment.is_full:
        if waits.short_of is not None:
            return waits.short_of
        if waits.writing:
            return Constraint.DISK
    if moment.in_flight and (moment.is_full or waits.is_draining):
        return Constraint.ENDPOINT
    # So many wait before another attempt that nothing new is begun.
    return Constraint.RETRY_PAUSE if waits.backing_off else Constraint.CPU


def largest(shares: Mapping[str, float]) -> str | None:
    """The constraint with the largest share; None where there is none."""
    name = max(shares, key=lambda name: shares[name], default=None)
    return name if name is not None and shares[name] > 0 else None


class Accounting:
    """How long each constraint was the binding one."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(Constraint, 0.0)
        self._seen_at_s: float | None = None
        self._lately: deque[tuple[float, Constraint, float]] = deque()

    def __repr__(self) -> str:
        return f"<Accounting of {sum(self.seconds.values()):.1f} s, lately {self.lately}>"

    def observe(self, constraint: Constraint | None, now_s: float) -> float:
        """Put the time since the last look down to a constraint, or with None to nothing.

        Returns:
            The seconds that were put down.
        """
        since_s, self._seen_at_s = self._seen_at_s, now_s
        if constraint is None or since_s is None:
            return 0.0
        span_s = max(0.0, now_s - since_s)
        self.seconds[constraint] += span_s
        self._lately.append((now_s, constraint, span_s))
        while now_s - self._lately[0][0] > LATELY_S:
            self._lately.popleft()
        return span_s

    def shares(self) -> dict[str, float]:
        """The part of the time that each constraint was the binding one; all 0 at the start."""
        return _shares_of(self.seconds)

    def shares_lately(self) -> dict[str, float]:
        """The same of the last seconds."""
        seconds = dict.fromkeys(Constraint, 0.0)
        for _, constraint, span_s in self._lately:
            seconds[constraint] += span_s
        return _shares_of(seconds)

    @property
    def lately(self) -> Constraint | None:
        """The binding constraint of the last seconds."""
        name = largest(self.shares_lately())
        return Constraint(name) if name else None


def _shares_of(seconds: Mapping[Constraint, float]) -> dict[str, float]:
    total_s = sum(seconds.values())
    return {
        constraint.value: round(one_s / total_s, 4) if total_s else 0.0
        for constraint, one_s in seconds.items()
    }
