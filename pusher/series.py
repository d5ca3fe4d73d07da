"""How a run went over time, in a bounded number of points. No clock, no I/O.

Points lie on a grid; when there are too many, it becomes twice as wide and neighbours are merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from pusher.tally import LatencyHistogram

__all__ = ["POINTS_MAX", "Look", "Series", "SeriesReport"]

POINTS_MAX = 600
WIDTH_S = 0.25

_LATENCY_BITS = 6
"""Latencies of a point are kept to 3 %."""


class SeriesReport(msgspec.Struct, frozen=True):
    """A run over time, in columns of the same length. Values of a point are of `width_s` seconds.

    Attributes:
        width_s: between two points; a point may be missing where nothing was looked at.
        at_s: the end of each point, in seconds since the start of the run.
        messages_per_s: delivered.
        rejected: messages.
        retried: requests.
        in_flight: requests, on the average.
        in_flight_limit: as many might have been at the end of the point.
        held_bytes: what was held at most.
        p50_ms: of the accepted requests that ended in the point; None where none did.
        p99_ms: the same.
        max_ms: the same.
        constraint: which one bound most of the time; None outside of the push.
    """

    width_s: float
    at_s: list[float]
    messages_per_s: list[float]
    rejected: list[int]
    retried: list[int]
    in_flight: list[float]
    in_flight_limit: list[int]
    held_bytes: list[int]
    p50_ms: list[float | None]
    p99_ms: list[float | None]
    max_ms: list[float | None]
    constraint: list[str | None]


@dataclass(frozen=True, slots=True)
class Look:
    """What is seen of a run at one moment. Counts are since the start.

    Attributes:
        at_s: seconds since the start of the run.
        delivered: messages.
        rejected: messages.
        retried: requests.
        in_flight: requests.
        in_flight_limit: as many might be.
        held_bytes: of messages that are not settled.
        latencies_s: of the requests that were accepted since the last look.
        constraint: which one binds; None outside of the push.
    """

    at_s: float
    delivered: int
    rejected: int
    retried: int
    in_flight: int
    in_flight_limit: int
    held_bytes: int
    latencies_s: Sequence[float]
    constraint: str | None


@dataclass(slots=True, eq=False)
class _Point:
    at_s: float = 0.0
    span_s: float = 0.0
    delivered: int = 0
    rejected: int = 0
    retried: int = 0
    in_flight_s: float = 0.0
    in_flight_limit: int = 0
    held_bytes: int = 0
    latency: LatencyHistogram = field(default_factory=lambda: LatencyHistogram(bits=_LATENCY_BITS))
    constraint_s: dict[str, float] = field(default_factory=dict)

    def absorb(self, later: _Point) -> None:
        self.at_s = later.at_s
        self.span_s += later.span_s
        self.delivered += later.delivered
        self.rejected += later.rejected
        self.retried += later.retried
        self.in_flight_s += later.in_flight_s
        self.in_flight_limit = later.in_flight_limit
        self.held_bytes = max(self.held_bytes, later.held_bytes)
        self.latency.absorb(later.latency)
        for constraint, span_s in later.constraint_s.items():
            self.constraint_s[constraint] = self.constraint_s.get(constraint, 0.0) + span_s


class Series:
    """The points of a run.

    Args:
        points_max: as many are kept at most.
        width_s: between two of them at the start.
    """

    def __init__(self, points_max: int = POINTS_MAX, width_s: float = WIDTH_S) -> None:
        self._points_max = points_max
        self.width_s = width_s
        """Between two points at the moment."""
        self._points: dict[int, _Point] = {}
        self._last = Look(0.0, 0, 0, 0, 0, 0, 0, (), None)

    def __repr__(self) -> str:
        return f"<Series of {len(self)} points of {self.width_s:g} s>"

    def __len__(self) -> int:
        return len(self._points)

    def add(self, look: Look) -> None:
        """Add what was seen; looks come in the order of their time."""
        last, self._last = self._last, look
        span_s = max(0.0, look.at_s - last.at_s)
        point = _Point(
            at_s=look.at_s,
            span_s=span_s,
            delivered=look.delivered - last.delivered,
            rejected=look.rejected - last.rejected,
            retried=look.retried - last.retried,
            in_flight_s=look.in_flight * span_s,
            in_flight_limit=look.in_flight_limit,
            held_bytes=look.held_bytes,
        )
        for latency_s in look.latencies_s:
            point.latency.add(latency_s)
        if look.constraint is not None:
            point.constraint_s[look.constraint] = span_s
        while (place := int(look.at_s / self.width_s)) >= self._points_max:
            self._halve()
        self._put(place, point)

    def report(self) -> SeriesReport:
        """The points as columns."""
        points = list(self._points.values())
        if len(points) > 1 and points[-1].span_s < self.width_s / 2:
            # One batch in a few ms would look like a peak.
            last = _Point()
            last.absorb(points[-2])
            last.absorb(points[-1])
            points[-2:] = [last]
        return SeriesReport(
            width_s=self.width_s,
            at_s=[round(point.at_s, 3) for point in points],
            messages_per_s=[round(_rate(point.delivered, point.span_s), 1) for point in points],
            rejected=[point.rejected for point in points],
            retried=[point.retried for point in points],
            in_flight=[round(_rate(point.in_flight_s, point.span_s), 1) for point in points],
            in_flight_limit=[point.in_flight_limit for point in points],
            held_bytes=[point.held_bytes for point in points],
            p50_ms=[point.latency.percentile_ms(50) for point in points],
            p99_ms=[point.latency.percentile_ms(99) for point in points],
            max_ms=[point.latency.max_ms for point in points],
            constraint=[
                max(point.constraint_s, key=point.constraint_s.__getitem__, default=None)
                for point in points
            ],
        )

    def _put(self, place: int, point: _Point) -> None:
        if place in self._points:
            self._points[place].absorb(point)
        else:
            self._points[place] = point

    def _halve(self) -> None:
        """Make the grid twice as wide."""
        points, self._points = self._points, {}
        self.width_s *= 2
        for place, point in points.items():
            self._put(place // 2, point)


def _rate(amount: float, span_s: float) -> float:
    return amount / span_s if span_s else 0.0
