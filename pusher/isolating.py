"""How a refused batch is split until the guilty are alone, and when the endpoint is to blame.

Pure: batches and refusals in, batches and refusals out. The parts go out one after the other, in
source order, so messages that share an object keep their order.
"""

from __future__ import annotations

from itertools import pairwise

from pusher.model import Batch, Lane, Refusal

__all__ = ["Quarantine", "split"]

_PARTS = 4
"""Quarters cost as few requests as halves for one guilty message, in half the round trips."""

_SYSTEMIC_BATCHES = 3
"""So many whole batches refused in a row, and nothing accepted between: it is the endpoint."""


def split(batch: Batch) -> list[Batch]:
    """Split a batch of two or more messages into up to four parts of nearly equal size."""
    count = len(batch)
    parts = min(_PARTS, count)
    edges = [count * part // parts for part in range(parts + 1)]
    return [batch.part(start, stop) for start, stop in pairwise(edges)]


class Quarantine:
    """What was refused to the last message, kept back until a later request is accepted.

    An acceptance shows that the endpoint takes messages: what was kept back is then about its
    messages after all. Without one, more and more of it is about the endpoint, and no message is
    rejected for that.
    """

    def __init__(self) -> None:
        self._singles: list[Refusal] = []
        self._batches: list[Refusal] = []
        self._in_a_row = 0

    def __repr__(self) -> str:
        return f"<Quarantine of {len(self._singles)} messages, {len(self._batches)} batches>"

    @property
    def is_empty(self) -> bool:
        """Nothing is kept back."""
        return not self._singles and not self._batches

    @property
    def is_suspicious(self) -> bool:
        """A whole batch was refused, and nothing accepted since."""
        return self._in_a_row > 0

    @property
    def is_systemic(self) -> bool:
        """So much was refused in a row that the endpoint is to blame."""
        return self._in_a_row >= _SYSTEMIC_BATCHES

    def accepted(self) -> None:
        """A request was accepted."""
        self._in_a_row = 0

    def keep(self, messages: list[Refusal], batches: list[Refusal]) -> None:
        """Keep back what is left of a batch: messages refused alone, and parts not tried yet."""
        self._singles += messages
        self._batches += reversed(batches)
        self._in_a_row += 1

    def lanes(self) -> set[Lane]:
        """Whose messages are kept back."""
        return {refusal.batch.lane for refusal in (*self._singles, *self._batches)}

    def details(self) -> list[str]:
        """What the endpoint said of them."""
        return [refusal.detail for refusal in (*self._singles, *self._batches)]

    def statuses(self) -> set[int | None]:
        """How it answered."""
        return {refusal.status for refusal in (*self._singles, *self._batches)}

    def release(self) -> tuple[list[Refusal], list[Refusal]]:
        """Give everything back: refused messages, and refused batches that are not split yet."""
        singles, batches = self._singles, self._batches
        self._singles, self._batches, self._in_a_row = [], [], 0
        return singles, batches
