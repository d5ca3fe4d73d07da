"""What the oracle can do to a request instead of taking it. Pure: chance and time are passed in.

Each fault has a name, which the tests and the table of the README use.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from enum import Enum

__all__ = ["FAULTS", "TAKE", "WEB_PAGE", "Deed", "Manner", "answer_bytes", "plan"]

BURST_EVERY_S = 1.0
BURST_S = 0.3


class Manner(Enum):
    """How an answer travels."""

    WHOLE = "whole"
    DRIBBLED = "a byte at a time"
    CUT = "half of it, then the connection is closed"
    RESET = "none, the connection is reset"
    SILENCE = "none, and the connection stays open"


@dataclass(frozen=True, slots=True)
class Deed:
    """What happens to one request.

    `is_applied`: the messages are taken over before the answer, as a server does that dies late.
    """

    status: int = 204
    is_applied: bool = True
    manner: Manner = Manner.WHOLE
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


TAKE = Deed()

Fault = Callable[[random.Random, float, float], Deed | None]
"""Given chance, seconds since the first request, and epoch seconds: a deed, or None for none."""


def _now_and_then(share: float, deed: Deed) -> Fault:
    def fault(rng: random.Random, elapsed_s: float, now_s: float) -> Deed | None:
        del elapsed_s, now_s
        return deed if rng.random() < share else None

    return fault


def _too_many_until_a_date(rng: random.Random, elapsed_s: float, now_s: float) -> Deed | None:
    del elapsed_s
    if rng.random() >= 0.1:
        return None
    until = formatdate(now_s + 1, usegmt=True)
    return Deed(429, is_applied=False, headers=(("Retry-After", until),))


def _unavailable_in_bursts(rng: random.Random, elapsed_s: float, now_s: float) -> Deed | None:
    del rng, now_s
    return _UNAVAILABLE if elapsed_s % BURST_EVERY_S < BURST_S else None


_UNAVAILABLE = Deed(503, is_applied=False, body=b"<h1>Service Unavailable</h1>")
_TOO_MANY = Deed(429, is_applied=False, headers=(("Retry-After", "1"),), body=b'{"status":"error"}')
_JSON_TAKEN = Deed(200, body=b'{"status":"ok","padding":"' + b"x" * 200 + b'"}')

FAULTS: dict[str, Fault] = {
    "429-seconds": _now_and_then(0.1, _TOO_MANY),
    "429-date": _too_many_until_a_date,
    "503-bursts": _unavailable_in_bursts,
    "reset-before-work": _now_and_then(0.2, Deed(is_applied=False, manner=Manner.RESET)),
    "reset-after-work": _now_and_then(0.2, Deed(manner=Manner.RESET)),
    "slow-loris": _now_and_then(0.1, Deed(200, manner=Manner.DRIBBLED, body=b'{"ok":1}')),
    "truncated-answer": _now_and_then(0.2, Deed(200, manner=Manner.CUT, body=_JSON_TAKEN.body)),
    "accepted-then-timeout": _now_and_then(0.03, Deed(manner=Manner.SILENCE)),
}
"""What a run must live through. A web page instead of an answer ends it, and is not in here."""

WEB_PAGE = Deed(200, is_applied=False, body=b"<!doctype html><title>Sign in</title>")


def plan(names: list[str], rng: random.Random, elapsed_s: float, now_s: float) -> Deed:
    """Choose what happens to a request, which meets one of the faults of these names, or none."""
    return FAULTS[rng.choice(names)](rng, elapsed_s, now_s) or TAKE


def answer_bytes(deed: Deed) -> bytes:
    """The answer on the wire; a 204 has no body and no length."""
    head = [f"HTTP/1.1 {deed.status} Told", *(f"{name}: {value}" for name, value in deed.headers)]
    if deed.status != 204:
        head += ["Content-Type: application/json", f"Content-Length: {len(deed.body)}"]
    return "\r\n".join([*head, "", ""]).encode() + deed.body
