"""What a push of an input would do, and how long it would take: the plan, from counts. No I/O."""

from __future__ import annotations

import builtins
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from pusher.crosschecking import ObjectCounts
from pusher.errors import UsageError
from pusher.findings import Finding
from pusher.model import ASSOCIATION_ORDER, OBJECT_TYPES, Lane, ObjectType
from pusher.sampling import LANES_MAX as SAMPLED_LANES_MAX
from pusher.sampling import SampleSize
from pusher.tally import LANES_MAX

__all__ = [
    "Assumptions",
    "Estimate",
    "LaneCounts",
    "Plan",
    "Polls",
    "Survey",
    "TypeCounts",
    "compose_plan",
    "estimated",
    "polls_of",
]

LANES_SHOWN_MAX = 1_000

RATE_MAX = 1_000_000

MANY_MESSAGES = 200
"""So many of one object fit into a request; with more, order per object takes time."""

CONCURRENCIES = (1, 8, 32)
"""In flight, where the number is found while a run goes on."""


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What cannot be known of a run that has not been.

    Attributes:
        latency_s: of one request, from its first byte to the answer.
        concurrency: requests in flight; None where a run finds it by itself.
        rate: requests a second at most.
        batch_size: messages in a request at most.
        sample: how many messages are confirmed.
        poll_rate: status polls a second; None is no limit.

    Raises:
        UsageError: a value is out of its range.
    """

    latency_s: float = 0.1
    concurrency: int | None = None
    rate: float | None = None
    batch_size: int = 200
    sample: SampleSize = field(default_factory=SampleSize)
    poll_rate: float | None = 9.0

    def __post_init__(self) -> None:
        if self.concurrency is not None and self.concurrency < 1:
            raise UsageError("--concurrency must be at least 1")
        for name, rate in (("--rate", self.rate), ("--confirm-rate", self.poll_rate)):
            if rate is not None and not 0 < rate <= RATE_MAX:
                raise UsageError(f"{name} must be more than 0, and at most {RATE_MAX:,}")


@dataclass(slots=True, eq=False)
class LaneCounts:
    """What goes to one store and type."""

    messages: int = 0
    batches: int = 0
    body_bytes: int = 0


@dataclass(slots=True, eq=False)
class Survey:
    """What was counted while an input was read."""

    read: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    lanes: dict[Lane, LaneCounts] = field(default_factory=dict)
    lanes_forgotten: int = 0
    totals: dict[ObjectType, LaneCounts] = field(
        default_factory=lambda: {object_type: LaneCounts() for object_type in OBJECT_TYPES}
    )
    deletes: Counter[ObjectType] = field(default_factory=Counter)
    objects: ObjectCounts = field(default_factory=ObjectCounts)
    read_bytes: int = 0
    spooled_bytes: int = 0
    elapsed_s: float = 0.0

    @property
    def to_send(self) -> int:
        """Messages that go into requests."""
        return sum(one.messages for one in self.totals.values())

    def add_batch(self, lane: Lane, messages: int, body_bytes: int) -> None:
        """Count a request."""
        counts = self.lanes.get(lane)
        if counts is None:
            if len(self.lanes) >= LANES_MAX:
                self._forget_small_lanes()
            counts = self.lanes[lane] = LaneCounts()
        for one in (counts, self.totals[lane.object_type]):
            one.messages += messages
            one.batches += 1
            one.body_bytes += body_bytes

    def _forget_small_lanes(self) -> None:
        """As a run does (see `Tally`): the totals still have them."""
        largest = sorted(self.lanes.items(), key=lambda item: item[1].messages, reverse=True)
        self.lanes = dict(largest[: LANES_MAX // 2])
        self.lanes_forgotten += len(largest) - len(self.lanes)


class Estimate(msgspec.Struct, frozen=True):
    """How long the requests take at so many in flight, and what decides that."""

    concurrency: int
    latency_s: float
    seconds: float
    bound_by: str
    """"latency"; "rate"; "order": messages of one object are never in two requests at a time; or
    "reading": as fast as the input could be read here and now."""


class Polls(msgspec.Struct, frozen=True):
    """Status polls of the confirmation, if each object needs one; and how long they take."""

    count: int
    per_s: float | None
    seconds: float


class TypeCounts(msgspec.Struct, frozen=True):
    """One type, over all stores. `changed_again`: objects with more than one message."""

    object_type: str
    messages: int
    deletes: int
    objects: int
    changed_again: int
    batches: int
    body_bytes: int


class PlannedLane(msgspec.Struct, frozen=True):
    """One store and type."""

    store_id: str
    object_type: str
    messages: int
    batches: int
    body_bytes: int


class PlannedPhase(msgspec.Struct, frozen=True):
    """What a run with `--phases` sends before it waits for it to be processed."""

    object_types: list[str]
    messages: int
    batches: int


class PlannedMessages(msgspec.Struct, frozen=True):
    """`read = to_send + rejected + skipped`."""

    read: int
    to_send: int
    rejected: int
    skipped: int


class PlannedBytes(msgspec.Struct, frozen=True):
    """Input as read (compressed where it is), request bodies, and the temporary file."""

    read: int
    bodies: int
    spooled: int


class Plan(msgspec.Struct, frozen=True):
    """The plan of a push."""

    outcome: str
    """"ready", "findings", "stopped" (the input broke) or "interrupted"."""
    exit_code: int
    reason: str | None
    messages: PlannedMessages
    rejected: dict[str, int]
    skipped: dict[str, int]
    batches: int
    bytes: PlannedBytes
    types: list[TypeCounts]
    lanes: list[PlannedLane]
    lanes_total: int
    stores_total: int
    lanes_are_exact: bool
    """False beyond 50,000 lanes: then there are at least so many stores, and at most so many lanes.
    All other figures are exact."""
    associations: int
    most_messages_of_an_object: int
    phases: list[PlannedPhase]
    estimates: list[Estimate]
    polls: Polls
    mappings_from: str | None
    """Where the settings came from; None where properties were not held against any."""
    findings: list[Finding]
    allowed: list[str]
    """Kinds of findings that do not count."""
    hints: list[str]
    elapsed_s: float
    messages_per_s: float

    def to_json(self) -> builtins.bytes:
        """The plan as one indented JSON object with a line end."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def estimated(
    batches: int,
    concurrency: int,
    latency_s: float,
    *,
    rate: float | None = None,
    reading_s: float = 0.0,
    chain: int = 0,
) -> Estimate:
    """How long so many requests take: the slowest of what bounds them.

    Args:
        batches: requests.
        concurrency: in flight.
        latency_s: of one.
        rate: a second at most; None is no limit.
        reading_s: how long reading takes.
        chain: so many requests have messages of the same object, and go one after the other.
    """
    rounds = -(-batches // concurrency)
    bounds = {
        "latency": rounds * latency_s,
        "order": chain * latency_s,
        "rate": max(0, batches - 1) / rate if rate else 0.0,
        "reading": reading_s,
    }
    bound_by = max(bounds, key=lambda name: bounds[name])
    is_of_answers = bound_by in {"latency", "order"}
    # The last request has to be answered whatever decides when it is sent.
    seconds = bounds[bound_by] + (0.0 if is_of_answers or not batches else latency_s)
    return Estimate(concurrency, latency_s, round(seconds, 3), bound_by)


def polls_of(messages: int, lanes: int, sample: SampleSize, per_s: float | None) -> Polls:
    """The polls of the two samples: of the messages, and one of each lane."""
    if sample.is_none:
        return Polls(0, per_s, 0.0)
    wanted = sample.count if sample.rate is None else math.ceil(messages * sample.rate)
    count = min(messages, wanted + min(lanes, SAMPLED_LANES_MAX))
    return Polls(count, per_s, round(count / per_s, 1) if per_s else 0.0)


def compose_plan(
    survey: Survey,
    findings: Sequence[Finding],
    assumptions: Assumptions,
    *,
    mappings_from: str | None,
    allowed: Collection[str] = (),
    halt: tuple[str, int, str] | None = None,
) -> Plan:
    """Put a plan together.

    Args:
        survey: what was counted.
        findings: what was found.
        assumptions: for the estimates.
        mappings_from: where the settings came from.
        allowed: kinds of findings that are known to be harmless, and do not count.
        halt: (outcome, exit code, reason) where the input was not read to its end.
    """
    to_send = survey.to_send
    batches = sum(one.batches for one in survey.totals.values())
    lanes_total = len(survey.lanes) + survey.lanes_forgotten
    fails = any(one.severity == "fails" and one.kind not in allowed for one in findings)
    outcome, exit_code, reason = halt or (("findings", 1) if fails else ("ready", 0)) + (None,)
    concurrencies = CONCURRENCIES if assumptions.concurrency is None else (assumptions.concurrency,)
    return Plan(
        outcome=outcome,
        exit_code=exit_code,
        reason=reason,
        messages=PlannedMessages(
            survey.read, to_send, survey.rejected.total(), survey.skipped.total()
        ),
        rejected=dict(survey.rejected),
        skipped=dict(survey.skipped),
        batches=batches,
        bytes=PlannedBytes(
            survey.read_bytes,
            sum(one.body_bytes for one in survey.totals.values()),
            survey.spooled_bytes,
        ),
        types=_types_of(survey),
        lanes=_lanes_of(survey.lanes),
        lanes_total=lanes_total,
        stores_total=len({lane.store_id for lane in survey.lanes}),
        lanes_are_exact=not survey.lanes_forgotten,
        associations=survey.objects.associations,
        most_messages_of_an_object=max(survey.objects.most, 1 if to_send else 0),
        phases=[
            PlannedPhase(
                [name for name in OBJECT_TYPES if name in types],
                sum(survey.totals[name].messages for name in types),
                sum(survey.totals[name].batches for name in types),
            )
            for types in ASSOCIATION_ORDER
        ],
        estimates=[
            estimated(
                batches,
                concurrency,
                assumptions.latency_s,
                rate=assumptions.rate,
                reading_s=survey.elapsed_s,
                chain=-(-survey.objects.most // assumptions.batch_size),
            )
            for concurrency in concurrencies
        ],
        polls=polls_of(to_send, lanes_total, assumptions.sample, assumptions.poll_rate),
        mappings_from=mappings_from,
        findings=list(findings),
        allowed=sorted(allowed),
        hints=_hints(survey, findings, mappings_from),
        elapsed_s=round(survey.elapsed_s, 3),
        messages_per_s=round(survey.read / survey.elapsed_s, 1) if survey.elapsed_s else 0.0,
    )


def _types_of(survey: Survey) -> list[TypeCounts]:
    return [
        TypeCounts(
            object_type,
            counts.messages,
            survey.deletes[object_type],
            survey.objects.distinct[object_type],
            survey.objects.again[object_type],
            counts.batches,
            counts.body_bytes,
        )
        for object_type, counts in survey.totals.items()
        if counts.messages
    ]


def _lanes_of(lanes: Mapping[Lane, LaneCounts]) -> list[PlannedLane]:
    """The largest first, as many as a plan holds."""
    largest = sorted(lanes.items(), key=lambda item: (-item[1].messages, item[0]))
    return [
        PlannedLane(lane.store_id, lane.object_type, one.messages, one.batches, one.body_bytes)
        for lane, one in largest[:LANES_SHOWN_MAX]
    ]


def _hints(survey: Survey, findings: Sequence[Finding], mappings_from: str | None) -> list[str]:
    """What to do about it."""
    kinds = {one.kind for one in findings}
    later = sorted(one.of for one in findings if one.kind == "later_target")
    hints: list[str] = []
    requests = " + ".join(
        f"{sum(survey.totals[name].batches for name in types):,}" for types in ASSOCIATION_ORDER
    )
    phases = f"push with --phases ({requests} requests)"
    if later:
        hints.append(f"some objects come before what they point at ({', '.join(later)}): {phases}")
    elif survey.objects.associations:
        hints.append(
            "a bridge processes each type by itself, so even in this order what points at an"
            f" object can overtake it: {phases}"
        )
    if "dangling_association" in kinds:
        hints.append(
            "dangling_association: fine where the account has these objects already; then"
            " --allow dangling_association"
        )
        if not survey.skipped.keys().isdisjoint({"other_store", "other_type"}):
            hints.append("dangling_association: what --only-type and --only-store leave out counts")
    if survey.objects.most > MANY_MESSAGES:
        hints.append(
            f"one object has {survey.objects.most:,} messages: messages of an object are never in"
            " two requests at a time"
        )
    if mappings_from is None:
        hints.append("properties were not held against mappings: give --url, or --settings FILE")
    return hints
