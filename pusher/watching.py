"""Look at a run a few times a second: what binds it, how it goes over time, when it will end.

It reads counters that are kept anyway, so that no message costs more for it.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Self

import anyio

from pusher.admission import Admission
from pusher.constraint import Accounting, Constraint, Moment, binding
from pusher.forecast import Forecast
from pusher.progress import Watched
from pusher.series import Look, Series
from pusher.tally import Tally
from pusher.watermark import Ledger

__all__ = ["Watcher"]

LOOK_EVERY_S = 0.05
BUSY_OVER_S = 0.5


class Watcher:
    """Keeps the account of constraints, the series, and what of both is shown meanwhile.

    Args:
        watched: told what binds, and how much time is left.
        tally: of the run.
        ledger: of the run.
        is_rate_limited: the run has a --rate.
    """

    def __init__(
        self, watched: Watched, tally: Tally, ledger: Ledger, *, is_rate_limited: bool
    ) -> None:
        self.accounting = Accounting()
        self.series = Series()
        self._watched = watched
        self._tally = tally
        self._ledger = ledger
        self._is_rate_limited = is_rate_limited
        self._forecast = Forecast()

    def __repr__(self) -> str:
        return f"<Watcher with {self.accounting!r}, {self.series!r}>"

    async def keep(self, admission: Admission, started_s: float) -> None:
        """Look again and again, until this is cancelled; then once more.

        Args:
            admission: of the run.
            started_s: when the run began, on the monotonic clock.
        """
        with _WorkClock() as clock:
            try:
                while True:
                    self._look(admission, started_s, clock)
                    await anyio.sleep(LOOK_EVERY_S)
            finally:
                self._look(admission, started_s, clock)

    def _look(self, admission: Admission, started_s: float, clock: _WorkClock) -> None:
        tally, watched, now_s = self._tally, self._watched, time.monotonic()
        busy_share = clock.busy_share(now_s)
        constraint: Constraint | None = None
        if watched.is_pushing:
            awaiting_rate = admission.entered - tally.in_flight if self._is_rate_limited else 0
            constraint = binding(
                Moment(
                    waits=tally.waits,
                    busy_share=busy_share,
                    is_paused=admission.pause_s > 0,
                    is_full=admission.is_full,
                    in_flight=tally.in_flight,
                    awaiting_rate=awaiting_rate,
                )
            )
        self.accounting.observe(constraint, now_s)
        is_underway = watched.is_pushing and not tally.waits.is_processing
        self._forecast.update(watched.share_done if is_underway else None, now_s)
        watched.limited_by = self.accounting.lately if watched.is_pushing else None
        watched.left_s = self._forecast.left_s
        self.series.add(
            Look(
                at_s=now_s - started_s,
                delivered=tally.delivered,
                rejected=tally.rejected,
                retried=tally.requests_retried,
                in_flight=tally.in_flight,
                in_flight_limit=admission.limit,
                held_bytes=self._ledger.held_bytes,
                latencies_s=tally.take_latencies(),
                constraint=constraint,
            )
        )


class _WorkClock:
    """How long this thread has worked, or was ready to while others had the processor."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._points: deque[tuple[float, float]] = deque()

    def __enter__(self) -> Self:
        """Begin with this thread."""
        with suppress(OSError):  # Linux tells how long a thread waits for a processor.
            self._descriptor = os.open(
                f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY
            )
        self._points.append((time.monotonic(), self._worked_s()))
        return self

    def __exit__(self, *error: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def busy_share(self, now_s: float) -> float:
        """The share of the last moments. Answers may come in waves, and so may the work."""
        points, worked_s = self._points, self._worked_s()
        points.append((now_s, worked_s))
        while len(points) > 2 and now_s - points[1][0] >= BUSY_OVER_S:
            points.popleft()
        since_s, before_s = points[0]
        return (worked_s - before_s) / (now_s - since_s) if now_s > since_s else 0.0

    def _worked_s(self) -> float:
        worked_s = time.thread_time()
        if self._descriptor is not None:
            with suppress(OSError, ValueError):
                on_ns, ready_ns, _ = os.pread(self._descriptor, 100, 0).split()
                # Some kernels have the file, but only zeros in it.
                worked_s = max(worked_s, (int(on_ns) + int(ready_ns)) / 1e9)
        return worked_s
