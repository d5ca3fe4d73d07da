"""Confirm a run that does not end, a window of time after the other.

Each window has a sample of its own, and the next window's time to be confirmed in. Then it is
counted, and its objects are forgotten.
"""

from __future__ import annotations

import logging
import random
from collections import Counter

import anyio

from pusher.model import Delivery
from pusher.report import Confirmation
from pusher.report import confirmation_of as confirmation_of_sample
from pusher.sampling import Sample, SampledObject, SampleSize, upper_bound_95

__all__ = ["Windows", "confirmation_of"]

EXAMPLES_MAX = 5

_log = logging.getLogger("pusher")


class Windows:
    """The samples of a run, by time. It is fed and asked as a single sample is.

    Args:
        size: of each window's sample.
        rng: where their choices come from.
        window_s: how long a window is.
    """

    def __init__(self, size: SampleSize, rng: random.Random, window_s: float) -> None:
        self._size = size
        self._rng = rng
        self._window_s = window_s
        self._current = Sample(size, rng)
        self._previous: Sample | None = None
        self._counts: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._examples: list[dict[str, str | None]] = []

    def __repr__(self) -> str:
        return f"<Windows of {self._window_s} s, {self._current!r}>"

    async def keep(self) -> None:
        """Begin a new window again and again, for ever: the caller cancels it."""
        while True:
            await anyio.sleep(self._window_s)
            self.turn()

    def turn(self) -> None:
        """Count the window before this one, and begin the next one."""
        if self._previous is not None:
            self._count(self._previous)
        self._previous, self._current = self._current, Sample(self._size, self._rng)

    def accept(self, delivery: Delivery, now_s: float, *, remember_last: bool) -> None:
        """Take note of a delivered batch."""
        self._current.accept(delivery, now_s, remember_last=remember_last)

    def pending(self) -> list[SampledObject]:
        """The objects of the windows not counted yet that are neither confirmed nor failed."""
        return [member for sample in self._open() for member in sample.pending()]

    def confirmation(self, detail: str | None) -> Confirmation:
        """What was confirmed so far. The bound is of all windows, each with its sample's weight."""
        parts = [confirmation_of_sample(sample, None) for sample in self._open()]
        counts = self._counts.copy()
        errors = self._errors.copy()
        examples = list(self._examples)
        for sample, part in zip(self._open(), parts, strict=True):
            counts += _counts_of(sample, part)
            errors.update(part.errors)
            examples += part.examples
        slots = counts["slots"]
        return Confirmation(
            sampled=counts["sampled"],
            confirmed=counts["confirmed"],
            failed=counts["failed"],
            unconfirmed=counts["unconfirmed"],
            failure_rate_upper_bound_95=upper_bound_95(counts["bad"], slots) if slots else None,
            errors=dict(errors),
            examples=examples[:EXAMPLES_MAX],
            detail=detail,
        )

    def _open(self) -> list[Sample]:
        return [self._current] if self._previous is None else [self._previous, self._current]

    def _count(self, sample: Sample) -> None:
        part = confirmation_of_sample(sample, None)
        if not part.sampled:
            return
        self._counts += _counts_of(sample, part)
        self._errors.update(part.errors)
        self._examples = (self._examples + part.examples)[:EXAMPLES_MAX]
        _log.log(
            logging.WARNING if part.failed else logging.INFO,
            "confirmation of %g s: %d of %d sampled objects confirmed, %d failed, %d unconfirmed",
            *(self._window_s, part.confirmed, part.sampled, part.failed, part.unconfirmed),
        )


def confirmation_of(sample: Sample | Windows, detail: str | None) -> Confirmation:
    """What is known of a sample, or of the samples of all windows."""
    if isinstance(sample, Windows):
        return sample.confirmation(detail)
    return confirmation_of_sample(sample, detail)


def _counts_of(sample: Sample, part: Confirmation) -> Counter[str]:
    slots, bad = sample.reservoir_counts()
    return Counter(
        sampled=part.sampled,
        confirmed=part.confirmed,
        failed=part.failed,
        unconfirmed=part.unconfirmed,
        slots=slots,
        bad=bad,
    )
