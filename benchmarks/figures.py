"""Arithmetic on measured figures: medians, spread, ratios with intervals. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Ratio", "percentile", "ratio"]

_RESAMPLES = 4_000


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians, and the interval that holds 95 % of the bootstrap's ratios."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> Ratio:
    """Median of `ours` by median of `theirs`; both are resampled, so both spreads count."""
    rng = random.Random(seed)
    drawn = sorted(
        median(rng.choices(ours, k=len(ours))) / median(rng.choices(theirs, k=len(theirs)))
        for _ in range(_RESAMPLES)
    )
    return Ratio(median(ours) / median(theirs), percentile(drawn, 2.5), percentile(drawn, 97.5))


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The value below which `percent` of the sorted values lie, the nearest that was measured."""
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]
