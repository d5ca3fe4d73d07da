"""What a run ends with: the report, the outcome and the exit code, all from counters. No I/O."""

from __future__ import annotations

import builtins
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice

import msgspec

from pusher.model import Halt, HaltKind, Lane
from pusher.protocol import printable
from pusher.repairing import Casebook, Counts
from pusher.sampling import Sample, SampledObject, SampleState
from pusher.series import SeriesReport
from pusher.tally import Tally

__all__ = [
    "Bytes",
    "ConfirmReport",
    "Confirmation",
    "InFlight",
    "LaneReport",
    "Latency",
    "Messages",
    "PhaseReport",
    "RejectedExample",
    "RepairReport",
    "Report",
    "Requests",
    "RunFacts",
    "SpoolReport",
    "compose_report",
    "confirmation_of",
    "failure_examples",
    "lanes_of",
    "latency_of",
    "outcome_of",
    "rejected_examples_of",
    "requests_of",
    "why_parked",
]

LANES_MAX = 1_000
DETAIL_MAX = 300
EXAMPLES_MAX = 5
REPAIR_EXAMPLES_MAX = 20

EXIT_CODES = {"delivered": 0, "rejected": 1, "failed": 1, "stopped": 3, "unconfirmed": 4}


class Messages(msgspec.Struct, frozen=True):
    """Where each message is. `read = delivered + rejected + skipped + pending`, at every exit."""

    read: int
    delivered: int
    rejected: int
    skipped: int
    pending: int
    resumed: int


class Requests(msgspec.Struct, frozen=True):
    """Requests to `PUT /sync/messages`.

    `failures` got no answer; `ambiguous` of them may have been applied all the same, which
    `changedAt` and the order per object make harmless.
    """

    sent: int
    accepted: int
    retried: int
    split: int
    ambiguous: int
    by_status: dict[str, int]
    failures: dict[str, int]


class Bytes(msgspec.Struct, frozen=True):
    """Input as read (compressed where it is), and request bodies as sent."""

    read: int
    sent: int


class Latency(msgspec.Struct, frozen=True):
    """Accepted requests, from the first byte out to the answer, in ms.

    The time in our own queue is not in it: when the endpoint stalls, fewer requests are sent, and
    fewer slow ones are seen (coordinated omission).
    """

    p50: float | None
    p90: float | None
    p99: float | None
    p999: float | None
    max: float | None


class InFlight(msgspec.Struct, frozen=True):
    """Requests under way at one time: the most that were, and the most that might have been."""

    max: int
    limit: int


class LaneReport(msgspec.Struct, frozen=True):
    """One store and type."""

    store_id: str
    object_type: str
    delivered: int
    rejected: int
    parked: int
    batches: int


class Confirmation(msgspec.Struct, frozen=True):
    """What the bridge says of the sampled objects, or of all that were delivered.

    The bound is of the uniform sample alone. Where all were asked for, it is the exact share of
    those that are not confirmed.
    """

    sampled: int
    confirmed: int
    failed: int
    unconfirmed: int
    failure_rate_upper_bound_95: float | None
    errors: dict[str, int]
    examples: list[dict[str, str | None]]
    """Up to five failed objects with the bridge's own words."""
    detail: str | None
    of_all: bool = False
    """It counts all delivered objects, and not only a sample."""


class PhaseReport(msgspec.Struct, frozen=True):
    """One phase: its types, and whether it was seen processed before the next one began."""

    object_types: list[str]
    delivered: int
    processed: bool | None
    waited_s: float


class SpoolReport(msgspec.Struct, frozen=True):
    """What was kept of pipes: decompressed, and on the disk. `files` are those that are left."""

    input_bytes: int
    disk_bytes: int
    files: list[str]


class RepairReport(msgspec.Struct, frozen=True):
    """What became of sync errors. `errors` is by type: {"found", "healed", "left"} objects."""

    looked: bool
    """The errors could be listed."""
    rounds: int
    resent: int
    """Messages that were sent again; they count nowhere else."""
    errors: dict[str, Counts]
    of_others: int
    """Objects with an error that no message of the input can have caused."""
    examples: list[dict[str, str]]
    """The first objects that are left, with the bridge's own words."""
    detail: str | None

    @classmethod
    def of(
        cls, cases: Casebook, *, has_looked: bool, rounds: int, resent: int, detail: str | None
    ) -> RepairReport:
        """Count what became of failed objects."""
        examples = [
            {
                "store_id": case.lane.store_id,
                "object_type": case.lane.object_type,
                "external_object_id": case.external_id,
                "type": case.failure.type,
                "details": case.failure.details,
            }
            for case in cases.open()[:REPAIR_EXAMPLES_MAX]
        ]
        errors = cases.counts()
        return cls(has_looked, rounds, resent, errors, cases.foreign, examples, detail)

    @property
    def left(self) -> int:
        """Objects that the bridge could not process."""
        return sum(one.left for one in self.errors.values())


class RejectedExample(msgspec.Struct, frozen=True):
    """One dead letter, without its line."""

    reason: str
    detail: str
    status: int | None
    source: str
    line: int


class RunFacts(msgspec.Struct, frozen=True):
    """What was run, and when. There are no secrets in it.

    Attributes:
        started_at: ISO 8601, UTC.
        pushed_s: until the last message was settled; what comes then is the confirmation.
        version: of pusher.
        command: the command line; None where the library was called.
        settings: by their names; True where a secret is set.
    """

    started_at: str = ""
    pushed_s: float = 0.0
    version: str = ""
    command: str | None = None
    settings: dict[str, str | int | float | bool | list[str] | None] = {}


class Report(msgspec.Struct, frozen=True):
    """The outcome of a run."""

    outcome: str
    exit_code: int
    reason: str | None
    run_id: str
    messages: Messages
    skipped: dict[str, int]
    rejected: dict[str, int]
    requests: Requests
    bytes: Bytes
    elapsed_s: float
    messages_per_s: float
    latency_ms: Latency
    in_flight: InFlight
    lanes: list[LaneReport]
    lanes_total: int
    confirmation: Confirmation
    phases: list[PhaseReport]
    warnings: list[str]
    dead_letters: str | None
    checkpoint: str | None
    ledger: str | None = None
    sample_out: str | None = None
    spool: SpoolReport | None = None
    repair: RepairReport | None = None
    inputs: list[str] | None = None
    """The files to read for a later repair; None where something cannot be read again."""
    began_ms: int | None = None
    """The bridge's clock at the first 2xx, epoch ms."""
    rejected_examples: list[RejectedExample] = []
    """The first dead letters of each reason."""
    constraint: dict[str, float] = {}
    """The part of the time of the push that each constraint was the binding one."""
    run: RunFacts = RunFacts()
    series: SeriesReport | None = None

    def to_json(self) -> builtins.bytes:
        """The report as one indented JSON object with a line end; each column is a line."""
        fields = msgspec.to_builtins(self)
        columns = fields.pop("series")
        text = msgspec.json.format(msgspec.json.encode(fields), indent=2)
        if columns is None:
            return text + b"\n"
        lines = (
            msgspec.json.encode(name) + b": " + msgspec.json.encode(column)
            for name, column in columns.items()
        )
        series = b",\n    ".join(lines)
        return text.removesuffix(b"\n}") + b',\n  "series": {\n    ' + series + b"\n  }\n}\n"

    @classmethod
    def from_json(cls, data: builtins.bytes) -> Report:
        """Read a report that a run has written.

        Raises:
            ValueError: it is none; the message says where.
        """
        return msgspec.json.decode(data, type=cls)


class ConfirmReport(msgspec.Struct, frozen=True):
    """The outcome of a later confirmation. Its keys mean what those of a `Report` mean."""

    outcome: str
    exit_code: int
    reason: str | None
    run_id: str
    elapsed_s: float
    polls: int
    confirmation: Confirmation
    sample: str

    def to_json(self) -> builtins.bytes:
        """The report as one indented JSON object with a line end."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def outcome_of(
    halt: Halt | None, *, is_complete: bool, rejected: int, failed: int, unconfirmed: int
) -> tuple[str, int]:
    """The outcome and the exit code: the first that applies of 3, 130 or 143, 1, 4, 0.

    Args:
        halt: why the run was to end early, if it was.
        is_complete: all input was read, and everything settled, before that.
        rejected: dead letters.
        failed: sampled objects that the bridge failed to process.
        unconfirmed: sampled objects that nothing is known of.
    """
    if halt is not None and not is_complete:
        if halt.kind is HaltKind.INTERRUPTED:
            return "interrupted", 128 + (halt.signal_number or 2)
        return "stopped", EXIT_CODES["stopped"]
    if failed:
        outcome = "failed"
    elif rejected:
        outcome = "rejected"
    elif unconfirmed:
        outcome = "unconfirmed"
    else:
        outcome = "delivered"
    return outcome, EXIT_CODES[outcome]


def why_parked(lanes: Mapping[Lane, str], count: int) -> str:
    """Say which messages are given up.

    Args:
        lanes: those that nothing is accepted of; the first with what the endpoint said.
        count: their messages.
    """
    lane = next(iter(lanes))
    which = f"{printable(lane.store_id)} {lane.object_type}"
    if len(lanes) > 1:
        which += f" and {len(lanes) - 1:,} more"
    return (
        f"{count:,} messages of {which} are left out,"
        f" as nothing of that store and type is accepted: {lanes[lane]}"
    )


def confirmation_of(sample: Sample, detail: str | None) -> Confirmation:
    """Count the samples' states."""
    counts: Counter[SampleState] = Counter()
    errors: Counter[str] = Counter()
    failed: list[SampledObject] = []
    for member in sample.objects():
        counts[member.state] += 1
        if member.state is SampleState.FAILED and member.error is not None:
            errors[member.error.type] += 1
            failed.append(member)
    return Confirmation(
        sampled=counts.total(),
        confirmed=counts[SampleState.CONFIRMED],
        failed=counts[SampleState.FAILED],
        unconfirmed=counts[SampleState.PENDING],
        failure_rate_upper_bound_95=sample.failure_rate_upper_bound(),
        errors=dict(errors),
        examples=failure_examples(failed),
        detail=detail,
    )


def failure_examples(failed: Iterable[SampledObject]) -> list[dict[str, str | None]]:
    """The first few failed objects, with the bridge's own words."""
    return [
        {
            "store_id": member.accepted.lane.store_id,
            "object_type": member.accepted.lane.object_type,
            "external_object_id": member.accepted.external_id,
            "type": member.error.type,
            "details": member.error.details,
        }
        for member in islice(failed, EXAMPLES_MAX)
        if member.error is not None
    ]


def requests_of(tally: Tally) -> Requests:
    """The request counters."""
    return Requests(
        sent=tally.requests_sent,
        accepted=tally.requests_accepted,
        retried=tally.requests_retried,
        split=tally.requests_split,
        ambiguous=tally.requests_ambiguous,
        by_status={str(status): count for status, count in sorted(tally.by_status.items())},
        failures=dict(sorted(tally.failures_by_kind.items())),
    )


def latency_of(tally: Tally) -> Latency:
    """The percentiles of accepted requests."""
    histogram = tally.latency
    return Latency(
        p50=histogram.percentile_ms(50),
        p90=histogram.percentile_ms(90),
        p99=histogram.percentile_ms(99),
        p999=histogram.percentile_ms(99.9),
        max=histogram.max_ms,
    )


def lanes_of(tally: Tally) -> list[LaneReport]:
    """The largest lanes first, as many as a report holds."""
    lanes = [
        LaneReport(
            lane.store_id,
            lane.object_type,
            one.delivered,
            one.rejected,
            one.parked,
            one.batches,
        )
        for lane, one in tally.lanes.items()
    ]
    lanes.sort(
        key=lambda lane: (
            -lane.delivered - lane.rejected - lane.parked,
            lane.store_id,
            lane.object_type,
        )
    )
    return lanes[:LANES_MAX]


def rejected_examples_of(tally: Tally) -> list[RejectedExample]:
    """A few rejected messages of each reason, those of the most frequent one first."""
    return [
        RejectedExample(
            reason=rejection.reason,
            detail=_shortened(rejection.detail),
            status=rejection.status,
            source=printable(rejection.source),
            line=rejection.line,
        )
        for reason, _ in tally.rejected_by_reason.most_common()
        for rejection in tally.rejected_examples.get(reason, ())
    ]


def _shortened(text: str) -> str:
    return text if len(text) <= DETAIL_MAX else text[: DETAIL_MAX - 3] + "..."


def compose_report(
    *,
    run_id: str,
    tally: Tally,
    pending: int,
    confirmation: Confirmation,
    halt: Halt | None,
    rejected_earlier: int,
    bytes_read: int,
    elapsed_s: float,
    in_flight_limit: int,
    phases: list[PhaseReport],
    warnings: list[str],
    dead_letters: str | None,
    checkpoint: str | None,
    constraint: dict[str, float],
    run: RunFacts,
    series: SeriesReport,
    ledger: str | None = None,
    sample_out: str | None = None,
    spool: SpoolReport | None = None,
    repair: RepairReport | None = None,
    is_repair_asked: bool = False,
    left_earlier: int = 0,
    inputs: list[str] | None = None,
) -> Report:
    """Put the report of a run together.

    Args:
        run_id: of the run.
        tally: its counters.
        pending: messages that were read and are not settled.
        confirmation: of the sample.
        halt: why the run counts as stopped or interrupted.
        rejected_earlier: by the runs that this one goes on from.
        bytes_read: input bytes.
        elapsed_s: of the whole run.
        in_flight_limit: requests in flight at most.
        phases: what became of each.
        warnings: as they were logged.
        dead_letters: the file of the dead letters, where any were written.
        checkpoint: the file from which a later run can go on.
        constraint: shares of the time of the push.
        run: what was run.
        series: the run over time.
        ledger: the file of the accepted requests.
        sample_out: the file of what was to be confirmed.
        spool: what was kept of pipes.
        repair: what became of sync errors.
        is_repair_asked: it counts as unconfirmed when nothing could be looked at.
        left_earlier: objects that the run of which nothing was left to do could not repair.
        inputs: the files that can be read again.
    """
    is_repair_missing = is_repair_asked and repair is not None and not repair.looked
    outcome, exit_code = outcome_of(
        halt,
        is_complete=halt is None,
        rejected=tally.rejected + rejected_earlier,
        failed=confirmation.failed + left_earlier + (repair.left if repair else 0),
        unconfirmed=confirmation.unconfirmed + is_repair_missing,
    )
    return Report(
        outcome=outcome,
        exit_code=exit_code,
        reason=halt.reason if halt else None,
        run_id=run_id,
        messages=Messages(
            read=tally.read,
            delivered=tally.delivered,
            rejected=tally.rejected,
            skipped=tally.skipped,
            pending=pending,
            resumed=tally.resumed,
        ),
        skipped=dict(tally.skipped_by_reason),
        rejected=dict(tally.rejected_by_reason),
        requests=requests_of(tally),
        bytes=Bytes(read=bytes_read, sent=tally.bytes_sent),
        elapsed_s=round(elapsed_s, 3),
        messages_per_s=round(tally.delivered / run.pushed_s, 1) if run.pushed_s else 0.0,
        latency_ms=latency_of(tally),
        in_flight=InFlight(max=tally.in_flight_max, limit=in_flight_limit),
        lanes=lanes_of(tally),
        lanes_total=tally.lanes_total,
        confirmation=confirmation,
        phases=phases,
        warnings=warnings,
        dead_letters=dead_letters,
        checkpoint=checkpoint,
        rejected_examples=rejected_examples_of(tally),
        constraint=constraint,
        run=run,
        series=series,
        ledger=ledger,
        sample_out=sample_out,
        spool=spool,
        repair=repair,
        inputs=inputs,
        began_ms=tally.began_ms,
    )
