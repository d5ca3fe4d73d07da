"""How a refused batch is taken apart until the guilty are alone, and when others are to blame.

Pure: batches and refusals in, batches and refusals out. The parts of a batch go out one after the
other, in source order, so messages that share an object keep their order.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise

from pusher.model import Batch, Lane, Refusal

__all__ = ["SMALL_BATCH", "Quarantine", "Splitter"]

SMALL_BATCH = 4
"""A batch of so few messages says little about its lane: they may all be bad."""

DOUBTS_IN_A_BATCH = 3
"""So many messages refused alone in a lane that never had a success: its batch is held."""

_PARKED_AFTER = 2 * DOUBTS_IN_A_BATCH

_PARTS = 4
"""Quarters cost as few requests as halves for one guilty message, in half the round trips."""

_NAMING_ROUNDS = 8
"""An endpoint that names one message after the other, and takes none, is not believed longer."""

_SINGLES_ABOVE = 0.2
_SINGLES_AFTER = 12
"""Quarters cost more than single messages where over a fifth is bad; so many show it."""

_PROVEN_MAX = 50_000

_SYSTEMIC_BATCHES = 3
"""So many whole batches refused in a row, and nothing accepted between: it is the endpoint."""


class Splitter:
    """Takes one refused batch apart. Ask for the `next_part`, say what became of it, until None.

    Where the endpoint names the guilty, the others go out in one request; if they are accepted,
    the named ones are guilty. Otherwise the batch is cut in quarters, and those again.

    Args:
        refusal: of a batch of two or more messages, or of a single one.
    """

    def __init__(self, refusal: Refusal) -> None:
        self._refusal = refusal
        self._parts: list[Batch] = []  # In source order, the next one last.
        self._named: list[Refusal] = []
        self._named_in: Batch | None = None
        self._rounds = 0
        self._good = self._bad = 0
        self._splits = 0
        self.refused(refusal)

    def __repr__(self) -> str:
        return f"<Splitter of {self._refusal.batch}, {len(self._parts)} parts to go>"

    def next_part(self) -> Batch | None:
        """The part to send next, with no body yet; None when all is decided."""
        return self._parts.pop() if self._parts else None

    def accepted(self, part: Batch) -> list[Refusal]:
        """Take note of a success; return the messages that are guilty for that."""
        self._good += len(part)
        self._rounds = 0
        named, self._named, self._named_in = self._named, [], None
        self._bad += len(named)
        return named

    def refused(self, refusal: Refusal) -> list[Refusal]:
        """Take note of a refusal; return the message that was refused alone, if it was."""
        part = refusal.batch
        if 0 < len(refusal.named) < len(part) and self._rounds < _NAMING_ROUNDS:
            self._set_named_aside(refusal)
            return []
        if self._named_in is not None:
            # What was named cannot have been all of it: look at everything.
            part, self._named, self._named_in = self._named_in, [], None
        if len(part) == 1:
            self._bad += 1
            return [refusal]
        self._splits += 1
        self._parts += _cut(part, self._parts_of(part))[::-1]
        return []

    def take_splits(self) -> int:
        """How often a batch or part was cut since this was asked last."""
        splits, self._splits = self._splits, 0
        return splits

    def rest(self) -> list[Refusal]:
        """What is not decided, to be taken apart later, in source order."""
        parts = self._parts[::-1]
        if self._named_in is not None:
            parts[:0] = [self._named_in]
        self._parts, self._named, self._named_in = [], [], None
        return [replace(self._refusal, batch=part, named={}) for part in parts]

    def _set_named_aside(self, refusal: Refusal) -> None:
        part, named = refusal.batch, refusal.named
        if self._named_in is None:
            self._named_in = part
        self._splits += 1
        self._rounds += 1
        self._named += [
            replace(refusal, batch=part.part(index, index + 1), detail=detail, named={})
            for index, detail in sorted(named.items())
        ]
        self._parts.append(part.without(named))

    def _parts_of(self, part: Batch) -> int:
        known = self._good + self._bad
        if known >= _SINGLES_AFTER and self._bad > _SINGLES_ABOVE * known:
            return len(part)
        return min(_PARTS, len(part))


def _cut(batch: Batch, count: int) -> list[Batch]:
    """Cut a batch in parts of nearly equal size."""
    edges = [len(batch) * part // count for part in range(count + 1)]
    return [batch.part(start, stop) for start, stop in pairwise(edges)]


@dataclass(slots=True)
class _Held:
    singles: list[Refusal] = field(default_factory=list)
    batches: list[Refusal] = field(default_factory=list)
    is_doubted: bool = False
    """Only a success of this very lane shows that its messages are to blame."""


class Quarantine:
    """What refusals mean, judged over the run: a bad message, a bad lane, or a bad endpoint.

    Refusals are kept back until a later request is accepted: that shows that the endpoint takes
    messages. Without one, more and more of it is about the endpoint, and no message is rejected
    for that. A lane that never had a success, and has several messages refused alone in two
    batches, is parked: its store may be unknown to the bridge.

    Args:
        lanes_fail_alone: a lane may be refused while the endpoint is in order.
    """

    def __init__(self, *, lanes_fail_alone: bool = True) -> None:
        self._lanes_fail_alone = lanes_fail_alone
        self._held: dict[Lane, _Held] = {}
        self._proven: set[Lane] = set()
        self._refused_alone: Counter[Lane] = Counter()
        self._parked: dict[Lane, str] = {}
        self._in_a_row = 0

    def __repr__(self) -> str:
        return f"<Quarantine of {len(self._held)} lanes, {len(self._parked)} parked>"

    @property
    def is_empty(self) -> bool:
        """Nothing is kept back."""
        return not self._held

    @property
    def is_suspicious(self) -> bool:
        """A whole batch was refused, and nothing accepted since."""
        return self._in_a_row > 0

    @property
    def is_systemic(self) -> bool:
        """So much was refused in a row that the endpoint is to blame."""
        return self._in_a_row >= _SYSTEMIC_BATCHES

    @property
    def parked(self) -> dict[Lane, str]:
        """The parked lanes, and what the endpoint said of the first."""
        return self._parked

    def accepted(self, lane: Lane) -> None:
        """A request of that lane was accepted."""
        self._in_a_row = 0
        if lane not in self._proven:
            if len(self._proven) >= _PROVEN_MAX:
                self._proven.clear()  # They will prove themselves again.
            self._proven.add(lane)
            self._refused_alone.pop(lane, None)

    def refused_alone(self, refusal: Refusal) -> None:
        """One message was refused in a request of its own."""
        if not self.is_proven(refusal.batch.lane):
            self._refused_alone[refusal.batch.lane] += 1

    def is_proven(self, lane: Lane) -> bool:
        """The endpoint has taken messages of that lane, or need not be asked for each lane."""
        return lane in self._proven or not self._lanes_fail_alone

    def is_parked(self, lane: Lane) -> bool:
        """No request of that lane is to be sent any more."""
        return lane in self._parked

    def keep(
        self, lane: Lane, singles: list[Refusal], batches: list[Refusal], *, is_doubted: bool
    ) -> None:
        """Keep back what is left of a batch: messages refused alone, and parts not tried yet.

        With `is_doubted`, until the lane itself has a success; otherwise until any lane has.
        """
        held = self._held.setdefault(lane, _Held())
        held.singles += singles
        held.batches += batches
        held.is_doubted |= is_doubted
        self._in_a_row += 1

    def details(self) -> list[str]:
        """What the endpoint said of all that is kept back."""
        return [refusal.detail for held in self._held.values() for refusal in _all_of(held)]

    def statuses(self) -> set[int | None]:
        """How it answered."""
        return {refusal.status for held in self._held.values() for refusal in _all_of(held)}

    def to_release(self) -> list[Lane]:
        """The lanes whose refusals are about the messages after all."""
        if self._in_a_row or not self._held:
            return []
        return [
            lane for lane, held in self._held.items() if not held.is_doubted or self.is_proven(lane)
        ]

    def to_park(self) -> list[Lane]:
        """The lanes that have had their chance, and nothing was accepted."""
        return [
            lane
            for lane, count in self._refused_alone.items()
            if count >= _PARKED_AFTER and lane not in self._parked
        ]

    def doubted(self) -> list[Lane]:
        """The lanes that only a success of their own could clear."""
        return [
            lane
            for lane, held in self._held.items()
            if held.is_doubted and not self.is_proven(lane)
        ]

    def park(self, lane: Lane, detail: str) -> None:
        """Give a lane up for this run."""
        # What was said of the first is enough to name the reason; there may be very many.
        self._parked[lane] = "" if self._parked else detail

    def take(self, lane: Lane) -> tuple[list[Refusal], list[Refusal]]:
        """Give back what is kept of a lane: refused messages, and batches not taken apart yet."""
        held = self._held.pop(lane, None) or _Held()
        return held.singles, held.batches

    def clear_endpoint(self) -> None:
        """Nothing more can show who is to blame: take it that the messages are."""
        self._in_a_row = 0


def _all_of(held: _Held) -> list[Refusal]:
    return [*held.singles, *held.batches]
