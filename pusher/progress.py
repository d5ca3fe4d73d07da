"""Show how a run goes: a live bar on a terminal, a log line every few seconds elsewhere.

It only looks at the run's counters. Whatever happens to the terminal does not touch the run.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from dataclasses import dataclass

import anyio

from pusher.constraint import IN_WORDS, Accounting, Constraint
from pusher.model import LiveState, Source
from pusher.report import Confirmation
from pusher.tally import Tally
from pusher.watermark import Oldest

__all__ = [
    "Vitals",
    "Watched",
    "duration",
    "is_live_terminal",
    "outlook_of",
    "show_bar",
    "show_lines",
]

LINE_EVERY_S = 5.0
BAR_EVERY_S = 0.2
RATE_OVER_S = 5.0

WIDE_COLUMNS = 130
"""From here on the bar has all its words in one line."""

_log = logging.getLogger("pusher")


@dataclass(slots=True, eq=False)
class Watched:
    """What of a run is shown. `stage` is the pipeline's word for what it does at the moment."""

    tally: Tally
    source: Source
    stage: str = "starting"
    passes: int = 1
    """How often the input is read: once a phase."""
    limited_by: Constraint | None = None
    """What has bound the run in the last seconds, while it pushes."""
    left_s: float | None = None
    """How long it will go on reading, as it goes lately; None where that cannot be told."""

    @property
    def is_reading(self) -> bool:
        """The run is past its start, and not at its end."""
        return self.stage not in {"starting", "preflight", "done"}

    @property
    def is_pushing(self) -> bool:
        """Messages are read and sent, or will be when the bridge has processed earlier ones."""
        return self.is_reading and self.stage != "confirming"

    @property
    def share_done(self) -> float | None:
        """The part of the input that was taken in, where its size is known."""
        if not self.source.size_bytes:
            return None
        return min(1.0, self.source.handed_bytes / (self.source.size_bytes * self.passes))

    @property
    def share_read(self) -> float | None:
        """The part of the input that has been read, where its size is known."""
        if not self.source.size_bytes:
            return None
        return min(1.0, self.source.read_bytes / (self.source.size_bytes * self.passes))


@dataclass(frozen=True, slots=True)
class Vitals:
    """How a run is at one moment. `live` is None where files or pipes are read."""

    tally: Tally
    pending: int
    parked: int
    held_bytes: int
    in_flight_limit: int
    watermark_age_s: float
    """Since the oldest message was read that is not settled; 0 where all are."""
    pause_s: float
    """So much longer nothing is sent, as the endpoint has asked for it."""
    budget_bytes: int
    """What may be held."""
    lanes_open: int
    """Lanes that hold messages for their next batch."""
    oldest: Oldest | None
    """The oldest chunk that is not settled."""
    accounting: Accounting
    """How long each constraint has bound the run so far."""
    watched: Watched
    confirmation: Confirmation
    is_reading: bool
    live: LiveState | None


class _Rate:
    """Deliveries a second over the last few seconds."""

    def __init__(self) -> None:
        self._points = deque([(time.monotonic(), 0)])

    def update(self, delivered: int) -> float:
        now_s = time.monotonic()
        self._points.append((now_s, delivered))
        while len(self._points) > 2 and now_s - self._points[1][0] > RATE_OVER_S:
            self._points.popleft()
        first_s, first = self._points[0]
        return (delivered - first) / (now_s - first_s) if now_s > first_s else 0.0


def is_live_terminal() -> bool:
    """Whether stderr is a terminal on which a line can be drawn again."""
    try:
        return sys.stderr.isatty() and os.environ.get("TERM", "") not in {"", "dumb"}
    except (AttributeError, ValueError):
        return False


async def show_lines(watched: Watched) -> None:
    """Log a line every few seconds, for ever."""
    rate = _Rate()
    while True:
        await anyio.sleep(LINE_EVERY_S)
        tally = watched.tally
        per_s = rate.update(tally.delivered)
        share = watched.share_read
        read = "" if share is None else f"{share:.0%} of the input, "
        _log.info(
            "%s: %s%s%s",
            watched.stage,
            read,
            _counts(tally, per_s),
            "".join(f", {part}" for part in outlook_of(watched)),
            extra={
                "fields": {
                    "stage": watched.stage,
                    "share_read": share,
                    "read": tally.read,
                    "delivered": tally.delivered,
                    "rejected": tally.rejected,
                    "retried": tally.requests_retried,
                    "in_flight": tally.in_flight,
                    "messages_per_s": round(per_s, 1),
                    "limited_by": watched.limited_by,
                    "left_s": None if watched.left_s is None else round(watched.left_s, 1),
                }
            },
        )


def _counts(tally: Tally, per_s: float) -> str:
    parts = [f"{tally.delivered:,} delivered", f"{per_s:,.0f}/s", f"{tally.in_flight} in flight"]
    if tally.rejected:
        parts.append(f"{tally.rejected:,} rejected")
    if tally.requests_retried:
        parts.append(f"{tally.requests_retried:,} retried")
    return ", ".join(parts)


def outlook_of(watched: Watched) -> list[str]:
    """What binds the run at the moment, and how much longer it will go on."""
    parts = [] if watched.limited_by is None else [f"limited by {IN_WORDS[watched.limited_by]}"]
    if watched.left_s is not None:
        parts.append(f"{duration(watched.left_s)} left")
    return parts


def duration(seconds: float) -> str:
    """A time to come, about: 45 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


async def show_bar(watched: Watched) -> None:
    """Draw a bar on stderr, again and again; the bar is gone when this is cancelled."""
    # Loaded here: it takes longer than the rest of a short run, and pipes do without it.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn  # noqa: PLC0415

    rate = _Rate()
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[share]}"),
        TextColumn("{task.fields[counts]}"),
        console=Console(stderr=True),
        transient=True,
        auto_refresh=False,
    )
    try:
        with progress:
            task = progress.add_task(watched.stage, total=None, share="", counts="")
            while True:
                share, outlook = watched.share_read, ", ".join(outlook_of(watched))
                counts = _counts(watched.tally, rate.update(watched.tally.delivered))
                between = ", " if progress.console.width >= WIDE_COLUMNS else "\n"
                progress.update(
                    task,
                    description=watched.stage,
                    total=None if share is None else 1.0,
                    completed=share or 0.0,
                    share="" if share is None else f"{share:4.0%}",
                    counts=counts + (between + outlook if outlook else ""),
                )
                progress.refresh()
                await anyio.sleep(BAR_EVERY_S)
    except (OSError, ValueError):
        return  # The terminal is gone; the run goes on.
