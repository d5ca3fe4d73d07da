"""Draw values over time as SVG, by text alone: it needs no script, and prints. No I/O.

Colours and sizes of letters are the style sheet's: what is drawn has classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

__all__ = ["Line", "Span", "bar_of_shares", "count_label", "line_plot", "strip", "time_label"]

WIDTH = 520
HEIGHT = 190
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 12, 26
STRIP_HEIGHT = 54

_PLOT_WIDTH = WIDTH - LEFT - RIGHT
_PLOT_HEIGHT = HEIGHT - TOP - BOTTOM
_TIME_STEPS_S = (
    *(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30),
    *(60, 120, 300, 600, 900, 1_800),
    *(3_600, 7_200, 10_800, 21_600, 43_200, 86_400),
)


@dataclass(frozen=True, slots=True)
class Line:
    """Values of a plot, None where there is none. `kind` is its class: how it looks."""

    name: str
    kind: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Span:
    """A time in which one thing was the case. `kind` is its class, `name` what is said of it."""

    start_s: float
    end_s: float
    kind: str
    name: str


def line_plot(title: str, at_s: Sequence[float], lines: Sequence[Line], *, end_s: float) -> str:
    """A plot of lines that begins at 0.

    Args:
        title: what is read out instead of it.
        at_s: the time of each value.
        lines: the values.
        end_s: the end of the time axis.
    """
    values = [value for line in lines for value in line.values if value is not None]
    are_counts = all(value == int(value) for value in values)
    ticks = _ticks(max(values, default=0.0), least_step=1.0 if are_counts else 0.0)
    top = ticks[-1]

    def x(seconds: float) -> float:
        return LEFT + _PLOT_WIDTH * seconds / end_s

    def y(value: float) -> float:
        return TOP + _PLOT_HEIGHT * (1 - value / top)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        *(
            f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}"/>'
            f'<text class="tick end" x="{LEFT - 6}" y="{y(tick) + 4:.1f}">'
            f"{count_label(tick)}</text>"
            for tick in ticks
        ),
        *_time_axis(end_s, HEIGHT),
    ]
    for line in lines:
        runs = list(_runs([(x(s), value) for s, value in zip(at_s, line.values, strict=True)]))
        path = "".join(
            "M" + "L".join(f"{px:.1f} {y(value):.1f}" for px, value in run) for run in runs
        )
        if path:
            parts.append(f'<path class="line {line.kind}" d="{path}"/>')
        parts += [
            f'<circle class="dot {line.kind}" cx="{run[0][0]:.1f}" cy="{y(run[0][1]):.1f}" r="2"/>'
            for run in runs
            if len(run) == 1
        ]
    return "\n".join([*parts, "</svg>"])


def strip(title: str, spans: Sequence[Span], *, end_s: float) -> str:
    """What was the case when, as a band."""
    height = STRIP_HEIGHT
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">']
    for span in spans:
        x = LEFT + _PLOT_WIDTH * span.start_s / end_s
        width = max(0.5, _PLOT_WIDTH * (span.end_s - span.start_s) / end_s)
        told = f"{span.name}, {time_label(span.start_s)} to {time_label(span.end_s)}"
        parts.append(
            f'<rect class="fill {span.kind}" x="{x:.1f}" y="4" width="{width:.1f}"'
            f' height="{height - BOTTOM - 4}"><title>{escape(told)}</title></rect>'
        )
    return "\n".join([*parts, *_time_axis(end_s, height), "</svg>"])


def bar_of_shares(title: str, shares: Sequence[tuple[str, str, float]]) -> str:
    """Shares that make up a whole, as one bar: (class, name, share)."""
    label = f'role="img" aria-label="{escape(title)}"'
    parts = [f'<svg class="shares" viewBox="0 0 1000 36" preserveAspectRatio="none" {label}>']
    x = 0.0
    for kind, name, share in shares:
        width = 1_000 * share
        parts.append(
            f'<rect class="fill {kind}" x="{x:.1f}" y="0" width="{width:.1f}" height="36">'
            f"<title>{escape(name)}, {share:.1%}</title></rect>"
        )
        x += width
    return "\n".join([*parts, "</svg>"])


def count_label(value: float) -> str:
    """A number in few characters: 950, 1.5k, 20M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def time_label(seconds: float) -> str:
    """A time since the start: 2.5 s, 10:30 for minutes, 2:05 h for hours."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02} h" if hours else f"{minutes}:{rest:02}"


def _time_axis(end_s: float, height: int) -> Iterator[str]:
    y = height - BOTTOM
    yield f'<path class="axis" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>'
    step_s = next((step for step in _TIME_STEPS_S if end_s / step <= 6), 0.0)
    if not step_s:
        step_s = 86_400.0 * ceil(end_s / 86_400 / 6)
    for number in range(floor(end_s / step_s + 1e-9) + 1):
        x = LEFT + _PLOT_WIDTH * number * step_s / end_s
        yield f'<path class="axis" d="M{x:.1f} {y}v4"/>'
        # The last one would be cut off by the edge.
        place = " end" if x > WIDTH - 40 else " middle" if number else ""
        yield (
            f'<text class="tick{place}" x="{x:.1f}" y="{y + 18}">'
            f"{time_label(number * step_s) if number else '0'}</text>"
        )


def _ticks(largest: float, *, least_step: float) -> list[float]:
    """Two to six round numbers from 0 to no less than the largest value."""
    if largest <= 0:
        return [0.0, 1.0]
    exact = largest / 4
    size = 10.0 ** floor(log10(exact))
    step = next(size * one for one in (1, 2, 2.5, 5, 10) if size * one >= exact * 0.999)
    step = max(step, least_step)
    return [step * number for number in range(ceil(largest / step * 0.999) + 1)]


def _runs(points: Sequence[tuple[float, float | None]]) -> Iterator[list[tuple[float, float]]]:
    """Points one after the other that have a value."""
    run: list[tuple[float, float]] = []
    for x, value in points:
        if value is not None:
            run.append((x, value))
        elif run:
            yield run
            run = []
    if run:
        yield run
