"""Which delivered objects to ask the bridge about, and what their answers say of all the others.

Two samples: a uniform reservoir over accepted messages, from which the bound comes, and one message
of each lane, so that a lane that fails as a whole is seen. Pure: time and randomness are passed in.
"""

from __future__ import annotations

import enum
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from pusher.model import Delivery, Lane, ObjectType
from pusher.protocol import SyncError, SyncStatus, as_ms

__all__ = [
    "CLOCK_SLACK_MS",
    "DOUBT_S",
    "Accepted",
    "Sample",
    "SampleMemory",
    "SampleSize",
    "SampleState",
    "SampledObject",
    "upper_bound_95",
]

LANES_MAX = 400
MEMBERS_MAX = 100_000

CLOCK_SLACK_MS = 2_000
"""The Date header has whole seconds, and the clocks behind one endpoint do not agree quite."""

DOUBT_S = 5.0
"""What is dated before the 2xx, within the slack, may be of an earlier push of the same messages:
for so long after the 2xx, nothing is concluded from it, and the object is asked about again."""

LASTING_S = 5.0
"""In a run of unknown length, an object has a chance to stay once it has stayed for so long."""

GATE_PICKS = 4
"""Objects of a lane's last batch that a phase waits for: more than one, because an object that
was processed before may have its next change still queued."""


@dataclass(frozen=True, slots=True)
class SampleSize:
    """How many messages to confirm: `count`, or where it is set the share `rate` (0 to 1)."""

    count: int = 400
    rate: float | None = None
    is_all: bool = False
    """Every delivered object is to be confirmed, and not only a sample; which is taken as well."""

    @property
    def is_none(self) -> bool:
        """Nothing is to be confirmed."""
        return self.rate == 0 or (self.rate is None and self.count == 0)


class SampleState(enum.Enum):
    """What is known of a sampled object's last accepted message."""

    PENDING = "unconfirmed"
    CONFIRMED = "confirmed"
    FAILED = "failed"


class Accepted(NamedTuple):
    """The last message of an object in an accepted batch."""

    lane: Lane
    external_id: str
    changed_at_ms: int
    bridge_ms: int
    """The bridge's clock at the 2xx; its place in the second is a guess by ours."""
    at_s: float
    """Our monotonic clock at the 2xx."""


class _Named:
    """Names the objects of one delivery."""

    def __init__(self, delivery: Delivery, now_s: float) -> None:
        self.changes = delivery.batch.changes()
        self._delivery = delivery
        self._now_s = now_s

    def accepted(self, index: int) -> Accepted:
        """The object of a message, with the last message that the batch has of it."""
        delivery, external_id = self._delivery, self.changes[index].external_object_id
        last = next(c for c in reversed(self.changes) if c.external_object_id == external_id)
        if not isinstance(last.changed_at, int):
            raise TypeError("a delivered message has an integer changed_at")
        return Accepted(
            delivery.batch.lane,
            str(external_id),
            last.changed_at,
            delivery.accepted_at_ms,
            self._now_s,
        )


@dataclass(slots=True, eq=False)
class SampledObject:
    """An object of the sample; it stands for its last accepted message."""

    accepted: Accepted
    slots: int = 0
    """How many places of the reservoir it has."""
    is_kept: bool = False
    """It stands for a lane, or a phase waits for it."""
    state: SampleState = SampleState.PENDING
    error: SyncError | None = None
    polls: int = 0
    next_poll_s: float = 0.0
    since_s: float = 0.0
    """Our monotonic clock when it became a part of the sample."""

    @property
    def is_member(self) -> bool:
        """It has not been dropped since."""
        return self.is_kept or self.slots > 0

    def judge(self, status: SyncStatus, now_s: float) -> SampleState:
        """Say what a status means for the last accepted message ("Get sync status").

        Only what the bridge did after its 2xx counts, so an account that already holds the object
        cannot fool us: neither its older errors, which are never removed, nor its older success.

        Args:
            status: what the bridge says of the object.
            now_s: the clock of the acceptance (`Accepted.at_s`) now.
        """
        bridge_ms = self.accepted.bridge_ms
        success_since_ms = error_since_ms = bridge_ms - CLOCK_SLACK_MS
        if now_s < self.accepted.at_s + DOUBT_S:
            # Another clock chose the place in the second: not to be waited for in the usual case.
            success_since_ms, error_since_ms = bridge_ms // 1000 * 1000 - 1, bridge_ms - 1
        processed_ms = as_ms(status.last_processed_at) or 0
        for error in status.errors:
            errored_ms = as_ms(error.errored_at) or 0
            is_ours = (
                as_ms(error.changed_at) == self.accepted.changed_at_ms
                and error.status != "RESOLVED"
            )
            if errored_ms > error_since_ms and (is_ours or errored_ms >= processed_ms):
                self.state, self.error = SampleState.FAILED, error
                return self.state
        if processed_ms > success_since_ms:
            self.state = SampleState.CONFIRMED
        return self.state

    def blame(self, error: SyncError, now_s: float) -> SampleState:
        """Say what an error means that was found without the object's status ("Get sync errors").

        Nobody knows what was processed after it: it has to be about the last accepted message.

        Args:
            error: one of the object's.
            now_s: the clock of the acceptance (`Accepted.at_s`) now.
        """
        if as_ms(error.changed_at) == self.accepted.changed_at_ms and error.status != "RESOLVED":
            self.judge(SyncStatus(None, errors=[error]), now_s)
        return self.state


class RememberedObject(msgspec.Struct, frozen=True, array_like=True):
    """A sampled object as a checkpoint keeps it."""

    store_id: str
    object_type: ObjectType
    external_id: str
    changed_at_ms: int
    bridge_ms: int
    slots: int
    is_kept: bool
    state: SampleState
    error: SyncError | None


class SampleMemory(msgspec.Struct, frozen=True):
    """A sample as a checkpoint keeps it."""

    seen: int = 0
    next_index: int = 0
    weight: float = 0.0
    objects: list[RememberedObject] = []


class Sample:
    """Both samples of a run, fed with every delivery.

    Args:
        size: of the reservoir.
        rng: where its choices come from.
        first_poll_after_s: how long to leave an accepted message alone before asking.
    """

    def __init__(
        self, size: SampleSize, rng: random.Random, *, first_poll_after_s: float = 0.5
    ) -> None:
        self._size = size
        self._is_none = size.is_none
        self._rng = rng
        self._first_poll_after_s = first_poll_after_s
        self._objects: dict[Lane, dict[str, SampledObject]] = {}
        self._slots: list[SampledObject] = []
        self._last_accepted: dict[Lane, list[Accepted]] = {}
        self._lanes_represented: set[Lane] = set()
        self._seen = 0
        self._weight = 0.0
        self._next_index = 0
        if size.rate is not None:
            self._next_index = self._bernoulli_skip()

    def __repr__(self) -> str:
        return f"<Sample of {len(self._slots)} from {self._seen} accepted messages>"

    def accept(self, delivery: Delivery, now_s: float, *, remember_last: bool) -> None:
        """Take note of a delivered batch; with `remember_last`, for `keep_last` as well."""
        if self._is_none and not remember_last:
            return
        batch, lanes = delivery.batch, self._lanes_represented
        known, count = self._objects.get(batch.lane), len(batch)
        is_new_lane = len(lanes) < LANES_MAX and batch.lane not in lanes
        has_picks = not self._is_none and (
            is_new_lane
            or self._next_index < self._seen + count
            or (known is not None and batch.names_any(known.keys()))
        )
        if has_picks or remember_last:  # Mostly not: then nothing has to be looked into.
            named = _Named(delivery, now_s)
            if remember_last:
                self._last_accepted[batch.lane] = self._picks(named)
            if has_picks:
                self._choose(named, batch.lane, known or {}, is_new_lane=is_new_lane)
        if not self._is_none:
            self._seen += count

    def accept_again(self, delivery: Delivery, errored_ms: Mapping[str, int], now_s: float) -> None:
        """Objects of the samples were sent again: they now stand for that.

        Args:
            delivery: of what was sent again; it does not count as a further message.
            errored_ms: when each object failed, epoch ms: an error up to then says nothing more.
            now_s: our monotonic clock.
        """
        named = _Named(delivery, now_s)
        known = self._objects.get(delivery.batch.lane, {})
        undated = {c.external_object_id for c in named.changes if not isinstance(c.changed_at, int)}
        for index, change in enumerate(named.changes if known else ()):
            external_id = str(change.external_object_id)
            if external_id in known and external_id not in undated:
                accepted = named.accepted(index)
                since_ms = errored_ms.get(external_id, 0) + CLOCK_SLACK_MS
                bridge_ms = max(accepted.bridge_ms, since_ms)
                # The error's time parts them from what was before: there is no doubt about it.
                at_s = accepted.at_s - DOUBT_S
                member = self._member(accepted._replace(bridge_ms=bridge_ms, at_s=at_s))
                member.next_poll_s = accepted.at_s + self._first_poll_after_s

    def _choose(
        self, named: _Named, lane: Lane, known: dict[str, SampledObject], *, is_new_lane: bool
    ) -> None:
        """Bring the samples up to a delivery."""
        self._refresh(known, named)
        if is_new_lane:
            self._lanes_represented.add(lane)
            index = self._rng.randrange(len(named.changes))
            self._member(named.accepted(index)).is_kept = True
        while self._next_index < self._seen + len(named.changes):
            self._take(self._member(named.accepted(self._next_index - self._seen)))

    def keep_last(self) -> None:
        """Add objects of the last accepted batch of each lane: a phase waits for them."""
        for picks in self._last_accepted.values():
            for accepted in picks:
                self._member(accepted).is_kept = True
        self._last_accepted.clear()

    def clear(self) -> None:
        """Forget all objects: the caller wanted none, and phases no longer wait for them."""
        self._objects.clear()
        self._slots.clear()

    def memory(self) -> SampleMemory:
        """What a later run needs to go on with this sample."""
        objects = [
            RememberedObject(
                *member.accepted.lane,
                member.accepted.external_id,
                member.accepted.changed_at_ms,
                member.accepted.bridge_ms,
                member.slots,
                member.is_kept,
                member.state,
                member.error,
            )
            for member in self.objects()
        ]
        return SampleMemory(self._seen, self._next_index, self._weight, objects)

    def restore(self, memory: SampleMemory, now_s: float) -> None:
        """Go on with the sample of an earlier run, unless none is wanted.

        What was accepted after its last checkpoint is accepted again, and then counts twice.
        """
        if self._is_none or not memory.seen:
            return
        self._seen, self._weight = memory.seen, memory.weight
        self._next_index = memory.next_index
        for one in memory.objects:
            lane = Lane(one.store_id, one.object_type)
            accepted = Accepted(lane, one.external_id, one.changed_at_ms, one.bridge_ms, now_s)
            member = self._member(accepted)
            member.slots, member.is_kept = one.slots, one.is_kept
            member.state, member.error = one.state, one.error
            self._slots += [member] * one.slots
            if one.is_kept:
                self._lanes_represented.add(lane)

    def objects(self) -> Iterator[SampledObject]:
        """Every object of the samples, once."""
        for by_id in self._objects.values():
            yield from by_id.values()

    def pending(self) -> list[SampledObject]:
        """The objects that are neither confirmed nor failed yet."""
        return [member for member in self.objects() if member.state is SampleState.PENDING]

    def lasting(self, started_s: float, now_s: float, *, is_endless: bool) -> list[SampledObject]:
        """The pending objects that are sure or likely to be in the sample at the end of the run.

        Those that stand for a lane are. Where nobody knows how long the run will be, so is an
        object once the run is twice as old as it was when the object came.

        Args:
            started_s: when the run began.
            now_s: the same clock now.
            is_endless: the run's length is not known.
        """

        def is_likely(member: SampledObject) -> bool:
            age_s = now_s - member.since_s
            is_old = is_endless and age_s >= max(LASTING_S, member.since_s - started_s)
            return member.is_kept or is_old

        return [member for member in self.pending() if is_likely(member)]

    @property
    def messages_seen(self) -> int:
        """How many accepted messages the reservoir was taken from."""
        return self._seen

    @property
    def reservoir_size(self) -> int:
        """How many accepted messages the reservoir stands on."""
        return len(self._slots)

    def failure_rate_upper_bound(self) -> float | None:
        """The 95 % upper bound of the failure rate; what is not confirmed counts as failed."""
        slots, bad = self.reservoir_counts()
        return upper_bound_95(bad, slots) if slots else None

    def reservoir_counts(self) -> tuple[int, int]:
        """The places of the reservoir, and how many of them are not confirmed."""
        bad = sum(member.state is not SampleState.CONFIRMED for member in self._slots)
        return len(self._slots), bad

    def _picks(self, named: _Named) -> list[Accepted]:
        """The last message of a batch, and a few others."""
        count = len(named.changes)
        indexes = {count - 1, *(self._rng.randrange(count) for _ in range(GATE_PICKS - 1))}
        return [named.accepted(index) for index in indexes]

    def _refresh(self, known: dict[str, SampledObject], named: _Named) -> None:
        """A later message of a sampled object was accepted: the object now stands for that one."""
        seen: set[str | int] = set()
        for index, change in enumerate(named.changes if known else ()):
            external_id = change.external_object_id
            if external_id in known and external_id not in seen:
                seen.add(external_id)
                self._member(named.accepted(index))

    def _member(self, accepted: Accepted) -> SampledObject:
        """The sampled object of an accepted message, brought up to that message."""
        by_id = self._objects.setdefault(accepted.lane, {})
        member = by_id.get(accepted.external_id)
        if member is None:
            member = SampledObject(accepted, since_s=accepted.at_s)
            by_id[accepted.external_id] = member
        elif member.accepted == accepted:
            return member
        member.accepted = accepted
        member.state, member.error, member.polls = SampleState.PENDING, None, 0
        member.next_poll_s = accepted.at_s + self._first_poll_after_s
        return member

    def _take(self, member: SampledObject) -> None:
        """Give a message its place in the reservoir, and choose the next message to take."""
        member.slots += 1
        if self._size.rate is not None and len(self._slots) < MEMBERS_MAX:
            self._slots.append(member)
            self._next_index += 1 + self._bernoulli_skip()
            if len(self._slots) == MEMBERS_MAX:
                # From here on the share cannot be kept: go on as a reservoir of this size.
                rest = self._next_index - MEMBERS_MAX + 1
                self._weight = self._rng.betavariate(MEMBERS_MAX, max(1, rest))
            return
        capacity = MEMBERS_MAX if self._size.rate is not None else self._size.count
        if len(self._slots) < capacity:
            self._slots.append(member)
            if len(self._slots) < capacity:
                self._next_index += 1
                return
            self._weight = 1.0
        else:
            place = self._rng.randrange(capacity)
            self._drop(self._slots[place])
            self._slots[place] = member
        # Li's algorithm L: how many messages pass by before the next one that is taken.
        self._weight *= math.exp(math.log(1.0 - self._rng.random()) / capacity)
        self._weight = min(self._weight, 1 - 1e-12)
        skip = math.log(1.0 - self._rng.random()) / math.log1p(-self._weight)
        self._next_index += int(skip) + 1

    def _drop(self, member: SampledObject) -> None:
        member.slots -= 1
        if member.slots == 0 and not member.is_kept:
            lane, external_id = member.accepted.lane, member.accepted.external_id
            del self._objects[lane][external_id]
            if not self._objects[lane]:
                del self._objects[lane]

    def _bernoulli_skip(self) -> int:
        """How many messages pass by before one that is taken with probability `rate`."""
        rate = self._size.rate or 0.0
        if rate >= 1:
            return 0
        if rate <= 0:
            return 1 << 62
        return int(math.log(1.0 - self._rng.random()) / math.log1p(-rate))


def upper_bound_95(failed: int, sampled: int) -> float:
    """The one-sided 95 % upper bound of a failure rate (Clopper and Pearson).

    With no failure among n it is close to 3/n.
    """
    if failed >= sampled:
        return 1.0
    low, high = failed / sampled, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _binomial_cdf(failed, sampled, middle) > 0.05:
            low = middle
        else:
            high = middle
    return high


def _binomial_cdf(failed: int, sampled: int, rate: float) -> float:
    """Probability of at most `failed` failures, summed downwards; `rate` is inside (0, 1)."""
    log_term = (
        math.lgamma(sampled + 1)
        - math.lgamma(failed + 1)
        - math.lgamma(sampled - failed + 1)
        + failed * math.log(rate)
        + (sampled - failed) * math.log1p(-rate)
    )
    total = term = 1.0
    for k in range(failed, 0, -1):
        term *= k / (sampled - k + 1) * (1 - rate) / rate
        total += term
        if term < total * 1e-15:
            break
    return math.exp(log_term) * total
