"""Draw results as one SVG: the rates of all contenders, scenario by scenario. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

__all__ = ["drawn"]

PANELS = ("no latency", "20 ms", "100 ms", "300 ms")

_WIDTH, _LEFT, _RIGHT = 860, 200, 96
_ROW, _GAP, _HEAD = 22, 40, 56
_OURS, _THEIRS, _CEILING = "#1f6feb", "#8c959f", "#d0d7de"
_COLOURS = {"pusher": _OURS, "pusher, bare": "#6ea8fe", "bare loop": _CEILING, "wrk": _CEILING}


@dataclass(frozen=True)
class _Scale:
    """Messages per second on a logarithmic axis."""

    low: int
    high: int

    def x(self, rate: float) -> float:
        share = (math.log10(rate) - self.low) / (self.high - self.low)
        return _LEFT + max(0.0, share) * (_WIDTH - _LEFT - _RIGHT)


def drawn(results: Mapping[str, Any]) -> str:
    """The SVG document. A bar ends at the median; its whisker spans all rounds."""
    panels = [
        (name, _ordered(found["contenders"]), found["most_per_s"])
        for name in PANELS
        if (found := results["scenarios"].get(name))
    ] or [(name, _ordered(s["contenders"]), None) for name, s in results["scenarios"].items()]
    rates = [edge for _, rows, _ in panels for _, row in rows for edge in row["spread"]]
    scale = _Scale(math.floor(math.log10(min(rates))), math.ceil(math.log10(max(rates))))
    body: list[str] = []
    top = _HEAD
    for name, rows, most in panels:
        body += _panel(name, rows, most, scale, top)
        top += _GAP + _ROW * len(rows)
    env = results["environment"]
    title = "Messages per second, on a logarithmic scale: longer is better"
    under = f"{env['at']}, {env['cpu']}, {env['cores']} cores, the sink on the same machine"
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + 8}"'
                ' font-family="system-ui, sans-serif" font-size="13" role="img">'
            ),
            f"<title>{escape(title)}</title>",
            f'<rect width="{_WIDTH}" height="{top + 8}" fill="#ffffff"/>',
            _text(16, 24, title, weight="bold", size=15),
            _text(16, 42, under, fill="#57606a", size=11),
            *body,
            "</svg>",
            "",
        ]
    )


def _ordered(contenders: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return sorted(contenders.items(), key=lambda item: -item[1]["messages_per_s"])


def _panel(
    name: str,
    rows: list[tuple[str, Mapping[str, Any]]],
    most: float | None,
    scale: _Scale,
    top: int,
) -> Iterator[str]:
    said = f"{name}: at most {most:,.0f}/s with so many requests in flight" if most else name
    yield _text(16, top + 18, said, weight="bold")
    bottom = top + 26 + _ROW * len(rows)
    for power in range(scale.low, scale.high + 1):
        x = scale.x(10**power)
        yield f'<path d="M{x:.1f} {top + 26}V{bottom}" stroke="#eaeef2"/>'
        yield _text(x, top + 22, _short(10**power), anchor="middle", size=10, fill="#8c959f")
    for number, (who, row) in enumerate(rows):
        y = top + 28 + _ROW * number
        rate, (low, high) = row["messages_per_s"], row["spread"]
        colour = _COLOURS.get(who, _THEIRS)
        width = scale.x(rate) - _LEFT
        yield f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="16" fill="{colour}"/>'
        yield (
            f'<path d="M{scale.x(low):.1f} {y + 8}H{scale.x(high):.1f}"'
            ' stroke="#24292f" stroke-width="1.5"/>'
        )
        yield _text(_LEFT - 8, y + 13, who, anchor="end")
        yield _text(max(scale.x(rate), scale.x(high)) + 6, y + 13, f"{rate:,}")


def _short(number: int) -> str:
    return f"{number // 1_000_000} M" if number >= 1_000_000 else f"{number:,}"


def _text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    weight: str = "normal",
    size: int = 13,
    fill: str = "#24292f",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}"'
        f' font-size="{size}" fill="{fill}">{escape(words)}</text>'
    )
