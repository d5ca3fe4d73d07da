"""The counters of a run: messages, requests, bytes, latency. No clock, no I/O."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from pusher.constraint import Waits
from pusher.model import Lane, Rejection

__all__ = ["LaneTally", "LatencyHistogram", "RejectedMax", "Tally"]

LANES_MAX = 50_000
"""So many lanes are counted each by itself; beyond it the smallest are forgotten."""

LATELY_MAX = 10_000
"""So many latencies at most wait for whoever looks at the run."""

_NEW_MAX = 100

EXAMPLES_MAX = 3
REASONS_MAX = 50


class LatencyHistogram:
    """Latencies in buckets no wider than 0.1 % of their value, in bounded memory.

    Args:
        bits: of a latency in us that are kept; 11 are those 0.1 %, each one less twice as much.
    """

    def __init__(self, bits: int = 11) -> None:
        self._bits = bits
        self._counts: Counter[int] = Counter()
        self._total = 0
        self._sum_s = 0.0
        self._max_s = 0.0
        self._new_s: list[float] = []  # Not in the buckets yet: many at once are half the work.

    def add(self, latency_s: float) -> None:
        """Count one latency."""
        self._new_s.append(latency_s)
        if len(self._new_s) >= _NEW_MAX:
            self._sort_in()

    def absorb(self, other: LatencyHistogram) -> None:
        """Add what another histogram has counted."""
        self._sort_in()
        other._sort_in()
        self._counts.update(other._counts)
        self._total += other._total
        self._sum_s += other._sum_s
        self._max_s = max(self._max_s, other._max_s)

    def percentile_ms(self, percent: float) -> float | None:
        """The latency that `percent` of all do not exceed, in ms; None where none was counted."""
        self._sort_in()
        if not self._total:
            return None
        wanted = max(1, -(-self._total * percent // 100))
        seen = 0
        for value_us in sorted(self._counts):
            seen += self._counts[value_us]
            if seen >= wanted:
                return round(min(value_us / 1e3, self._max_s * 1e3), 3)
        return round(self._max_s * 1e3, 3)

    def up_to(self, bounds_s: Sequence[float]) -> list[int]:
        """How many latencies lie at or below each of these ascending bounds, to 0.1 %."""
        self._sort_in()
        bounds_us = [bound_s * 1e6 for bound_s in bounds_s]
        counts = [0] * (len(bounds_us) + 1)
        for value_us, count in self._counts.items():
            counts[bisect_left(bounds_us, value_us)] += count
        return list(accumulate(counts))[:-1]

    @property
    def count(self) -> int:
        """How many latencies were counted."""
        return self._total + len(self._new_s)

    @property
    def sum_s(self) -> float:
        """All latencies together."""
        self._sort_in()
        return self._sum_s

    @property
    def max_ms(self) -> float | None:
        """The largest latency, in ms."""
        self._sort_in()
        return round(self._max_s * 1e3, 3) if self._total else None

    def _sort_in(self) -> None:
        """Put what is new into its buckets."""
        new_s, counts, bits = self._new_s, self._counts, self._bits
        if not new_s:
            return
        for latency_s in new_s:
            value_us = int(latency_s * 1e6)
            shift = value_us.bit_length() - bits
            if shift > 0:
                value_us = value_us >> shift << shift
            counts[value_us] = counts.get(value_us, 0) + 1
        self._total += len(new_s)
        self._sum_s += sum(new_s)
        self._max_s = max(self._max_s, *new_s)
        new_s.clear()


@dataclass(frozen=True, slots=True)
class RejectedMax:
    """How many messages may be rejected: `count`, or where it is set the share `rate` (0 to 1)."""

    count: int = 0
    rate: float | None = None

    def is_passed(self, rejected: int, read: int) -> bool:
        """Whether it is more than that."""
        allowed = self.count if self.rate is None else self.rate * read
        return rejected > allowed

    def __str__(self) -> str:
        return f"{self.count:,} messages" if self.rate is None else f"{self.rate * 100:g} %"


@dataclass(slots=True)
class LaneTally:
    """What became of one lane's messages."""

    delivered: int = 0
    rejected: int = 0
    parked: int = 0
    batches: int = 0

    @property
    def messages(self) -> int:
        """Those that something became of."""
        return self.delivered + self.rejected + self.parked


@dataclass(slots=True)
class Tally:
    """All counters of a run. `read` counts lines that are not blank."""

    read: int = 0
    delivered: int = 0
    rejected: int = 0
    resumed: int = 0
    """Messages that an earlier run had settled; they are not in `read`."""
    withdrawn: int = 0
    """Messages that were read and given back, as their partition was taken away; not in `read`."""
    began_ms: int | None = None
    """The bridge's clock at the first 2xx, epoch ms; of the first of a chain of runs."""
    rejected_by_reason: Counter[str] = field(default_factory=Counter)
    skipped_by_reason: Counter[str] = field(default_factory=Counter)
    lanes: dict[Lane, LaneTally] = field(default_factory=dict)
    lanes_forgotten: int = 0

    requests_sent: int = 0
    requests_accepted: int = 0
    requests_retried: int = 0
    requests_split: int = 0
    requests_ambiguous: int = 0
    by_status: Counter[int] = field(default_factory=Counter)
    failures_by_kind: Counter[str] = field(default_factory=Counter)
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)

    bytes_sent: int = 0
    in_flight: int = 0
    in_flight_max: int = 0
    waits: Waits = field(default_factory=Waits)
    rejected_examples: dict[str, list[Rejection]] = field(default_factory=dict)
    """The first few of each reason, without their lines."""
    _latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=LATELY_MAX))

    def accepted(self, latency_s: float) -> None:
        """A request was accepted."""
        self.requests_accepted += 1
        self.latency.add(latency_s)
        self._latencies_s.append(latency_s)

    def take_latencies(self) -> list[float]:
        """The latencies of the requests that were accepted since this was asked last."""
        taken = list(self._latencies_s)
        self._latencies_s.clear()
        return taken

    def reject(self, rejections: Sequence[Rejection]) -> None:
        """Count messages whose dead letters are written."""
        self.rejected += len(rejections)
        for rejection in rejections:
            reason = rejection.reason
            self.rejected_by_reason[reason] += 1
            examples = self.rejected_examples.get(reason)
            if examples is None and len(self.rejected_examples) < REASONS_MAX:
                examples = self.rejected_examples[reason] = []
            if examples is not None and len(examples) < EXAMPLES_MAX:
                examples.append(replace(rejection, record=b"", extra={}))

    def lane(self, lane: Lane) -> LaneTally:
        """The counters of a lane."""
        tally = self.lanes.get(lane)
        if tally is None:
            if len(self.lanes) >= LANES_MAX:
                self._forget_small_lanes()
            tally = self.lanes[lane] = LaneTally()
        return tally

    @property
    def lanes_total(self) -> int:
        """How many lanes there were; one that was forgotten and came again counts twice."""
        return len(self.lanes) + self.lanes_forgotten

    def _forget_small_lanes(self) -> None:
        largest = sorted(self.lanes.items(), key=lambda item: item[1].messages, reverse=True)
        self.lanes = dict(largest[: LANES_MAX // 2])
        self.lanes_forgotten += len(largest) - len(self.lanes)

    @property
    def skipped(self) -> int:
        """Messages with nothing to send, by rule."""
        return self.skipped_by_reason.total()
