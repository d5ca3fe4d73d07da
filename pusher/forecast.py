"""When a run will have read its input, from how fast it went lately. Arithmetic only."""

from __future__ import annotations

from collections import deque

__all__ = ["Forecast"]

OVER_S = 60.0
EVERY_S = 1.0
FROM_S = 2.0
"""A shorter time says too little."""


class Forecast:
    """The time that is left, as the share that is done goes from 0 to 1."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque()
        self.left_s: float | None = None
        """Seconds; None where it cannot be told."""

    def __repr__(self) -> str:
        return f"<Forecast of {self.left_s} s>"

    def update(self, share: float | None, now_s: float) -> None:
        """Take in how much is done; None where that is not known.

        Of what is under way after the input has ended, nothing can be told.
        """
        if share is None or share >= 1:
            self.left_s = None
            return
        points = self._points
        if not points or now_s - points[-1][0] >= EVERY_S:
            points.append((now_s, share))
            while now_s - points[0][0] > OVER_S:
                points.popleft()
        first_s, first = points[0]
        if now_s - first_s >= FROM_S and share > first:
            self.left_s = (1.0 - share) * (now_s - first_s) / (share - first)
        else:
            self.left_s = None
