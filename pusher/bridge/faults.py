"""Which request goes wrong, and how: a seeded plan, values in, values out. It knows no HTTP server.

The plan is written as `seed=7,429=2%,reset-after=0.5%,slow=1%:2s,retry-after=date:3s`. The nth
request to the API meets the same fault whenever the seed and the rates are the same.
"""

from __future__ import annotations

import enum
import random
import re
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s)", re.ASCII)
_SHARE: Final = re.compile(r"\d+(\.\d+)?%", re.ASCII)
_WHOLE: Final = 100.0
_MAX_S: Final = 86_400.0  # A date must still be one, and a request end at some time.


class FaultKind(enum.Enum):
    """What can go wrong, named as in the plan. Those with a number are answers without any work."""

    TOO_MANY = "429"
    INTERNAL = "500"
    BAD_GATEWAY = "502"
    UNAVAILABLE = "503"
    GATEWAY_TIMEOUT = "504"
    RESET_BEFORE = "reset-before"  # The connection ends before any work is done.
    RESET_AFTER = "reset-after"  # The work is done, the answer never comes.
    SLOW = "slow"  # The right answer, late.
    TRUNCATED = "truncated"  # The work is done, the answer breaks off in the middle.
    HTML = "html"  # A proxy's page with status 502; no work is done.

    @property
    def status(self) -> int | None:
        """The status of an answer that comes instead of the bridge's."""
        if self is FaultKind.HTML:
            return 502
        return int(self.value) if self.value.isdigit() else None


class RetryAfter(enum.Enum):
    """How 429 and 503 say when to come back."""

    SECONDS = "seconds"
    DATE = "date"
    BOTH = "both"  # One or the other, by chance.
    NONE = "none"


class FaultPlanError(ValueError):
    """The text is no plan; the message says why."""


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """How often which fault happens, in percent of the requests. Together at most 100."""

    rates: tuple[tuple[FaultKind, float], ...] = ()
    seed: int = 0
    slow_s: float = 1.0
    retry_after: RetryAfter = RetryAfter.BOTH
    retry_after_s: float = 1.0

    def fault(self, number: int) -> FaultKind | None:
        """What happens to the request of this number, counted from 0."""
        point = self._draw(number).random() * _WHOLE
        for kind, percent in self.rates:
            if point < percent:
                return kind
            point -= percent
        return None

    def retry_after_header(self, number: int, now_s: float) -> str | None:
        """The header's value in a 429 or 503 at this time, None for none."""
        form = self.retry_after
        if form is RetryAfter.BOTH:
            draw = self._draw(number)
            draw.random()  # That one has decided on the fault.
            form = draw.choice((RetryAfter.SECONDS, RetryAfter.DATE))
        if form is RetryAfter.NONE:
            return None
        # Whole seconds in both forms: rounded up, so that nobody is called back too early.
        if form is RetryAfter.SECONDS:
            return str(_ceil(self.retry_after_s))
        return formatdate(_ceil(now_s + self.retry_after_s), usegmt=True)

    def _draw(self, number: int) -> random.Random:
        # By number and not in sequence: concurrent requests do not shift each other's luck.
        return random.Random(self.seed * 2**40 + number)


def parse_faults(text: str) -> FaultPlan:
    """A plan from its text, or FaultPlanError."""
    rates: dict[FaultKind, float] = {}
    options: dict[str, int | float | RetryAfter] = {}
    seen: set[str] = set()
    kinds = {kind.value: kind for kind in FaultKind}
    for part in text.split(","):
        name, has_value, value = (piece.strip() for piece in part.partition("="))
        if not has_value or name in seen:
            raise FaultPlanError(f"{part.strip()!r} is not NAME=VALUE, or its name comes twice")
        seen.add(name)
        if name in kinds:
            rate, has_duration, duration = value.partition(":")
            rates[kinds[name]] = _percent(name, rate)
            if has_duration and name != "slow":
                raise FaultPlanError(f"{name} takes no duration")
            if has_duration:
                options["slow_s"] = _seconds(duration)
        elif name == "seed":
            options["seed"] = _seed(value)
        elif name == "retry-after":
            form, has_duration, duration = value.partition(":")
            options["retry_after"] = _retry_after(form)
            if has_duration:
                options["retry_after_s"] = _seconds(duration)
        else:
            known = ", ".join([*kinds, "seed", "retry-after"])
            raise FaultPlanError(f"{name!r} is not one of {known}")
    if sum(rates.values()) > _WHOLE:
        raise FaultPlanError("the rates are more than 100% together")
    # In the order of FaultKind, so that the order of writing does not change what happens.
    ordered = tuple((kind, rates[kind]) for kind in FaultKind if rates.get(kind))
    return FaultPlan(ordered, **options)  # type: ignore[arg-type]  # Each value has its type.


def _percent(name: str, text: str) -> float:
    if not _SHARE.fullmatch(text) or float(text[:-1]) > _WHOLE:
        raise FaultPlanError(f"{name}: {text!r} is not a share from 0% to 100%")
    return float(text[:-1])


def _seconds(text: str) -> float:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise FaultPlanError(f"{text!r} is not a duration such as 500ms or 2s")
    seconds = float(match[1]) * (0.001 if match[2] == "ms" else 1.0)
    if seconds > _MAX_S:
        raise FaultPlanError(f"{text!r} is longer than a day, {_MAX_S:.0f}s")
    return seconds


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise FaultPlanError(f"seed: {text!r} is not a number of at most 18 digits")
    return int(text)


def _retry_after(text: str) -> RetryAfter:
    try:
        return RetryAfter(text)
    except ValueError:
        known = ", ".join(form.value for form in RetryAfter)
        raise FaultPlanError(f"retry-after: {text!r} is not one of {known}") from None


def _ceil(seconds: float) -> int:
    return -int(-seconds // 1)
