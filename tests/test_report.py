"""The report: fixed keys, one outcome, one exit code."""

from __future__ import annotations

import json
import random

import msgspec
import pytest

from pusher.model import Batch, Delivery, Halt, HaltKind, Lane, SyncMessage
from pusher.protocol import SyncError
from pusher.report import (
    Bytes,
    Confirmation,
    InFlight,
    Latency,
    Messages,
    Report,
    Requests,
    confirmation_of,
    lanes_of,
    latency_of,
    outcome_of,
    requests_of,
)
from pusher.sampling import Sample, SampleSize, SampleState, upper_bound_95
from pusher.tally import Tally

STOPPED = Halt(HaltKind.STOPPED, "the endpoint is gone")
CTRL_C = Halt(HaltKind.INTERRUPTED, "Ctrl-C", 2)
TERMINATED = Halt(HaltKind.INTERRUPTED, "SIGTERM", 15)


@pytest.mark.parametrize(
    ("halt", "is_complete", "counts", "expected"),
    [
        (None, True, (0, 0, 0), ("delivered", 0)),
        (None, True, (0, 0, 3), ("unconfirmed", 4)),
        (None, True, (3, 0, 0), ("rejected", 1)),
        (None, True, (3, 0, 3), ("rejected", 1)),
        (None, True, (0, 3, 0), ("failed", 1)),
        (None, True, (0, 3, 3), ("failed", 1)),
        (STOPPED, False, (0, 0, 0), ("stopped", 3)),
        (STOPPED, False, (3, 3, 3), ("stopped", 3)),
        (CTRL_C, False, (0, 0, 0), ("interrupted", 130)),
        (CTRL_C, False, (3, 3, 3), ("interrupted", 130)),
        (TERMINATED, False, (0, 0, 0), ("interrupted", 143)),
        # The user only stopped waiting for the confirmation.
        (CTRL_C, True, (0, 0, 3), ("unconfirmed", 4)),
        (CTRL_C, True, (0, 0, 0), ("delivered", 0)),
        (CTRL_C, True, (3, 0, 3), ("rejected", 1)),
    ],
)
def test_the_first_that_applies_is_the_outcome(
    halt: Halt | None,
    is_complete: bool,  # noqa: FBT001
    counts: tuple[int, int, int],
    expected: tuple[str, int],
) -> None:
    rejected, failed, unconfirmed = counts
    found = outcome_of(
        halt, is_complete=is_complete, rejected=rejected, failed=failed, unconfirmed=unconfirmed
    )
    assert found == expected


def test_rejections_and_failures_are_both_exit_code_one() -> None:
    outcome, code = outcome_of(None, is_complete=True, rejected=1, failed=1, unconfirmed=0)
    assert code == 1
    assert outcome in {"rejected", "failed"}


def some_report() -> Report:
    tally = Tally()
    sample = Sample(SampleSize(), random.Random(1))
    return Report(
        outcome="delivered",
        exit_code=0,
        reason=None,
        run_id="r",
        messages=Messages(5, 2, 1, 1, 1, 0),
        skipped={"ddl": 1},
        rejected={"not_json": 1},
        requests=requests_of(tally),
        bytes=Bytes(1, 2),
        elapsed_s=1.5,
        messages_per_s=2.0,
        latency_ms=latency_of(tally),
        in_flight=InFlight(3, 16),
        lanes=[],
        lanes_total=0,
        confirmation=confirmation_of(sample, None),
        phases=[],
        warnings=[],
        dead_letters=None,
        checkpoint=None,
    )


FIXED_KEYS = {
    "": (
        "outcome exit_code reason run_id messages skipped rejected requests bytes elapsed_s "
        "messages_per_s latency_ms in_flight lanes lanes_total confirmation dead_letters checkpoint"
    ),
    "messages": "read delivered rejected skipped pending resumed",
    "requests": "sent accepted retried split ambiguous by_status",
    "bytes": "read sent",
    "latency_ms": "p50 p90 p99 p999 max",
    "in_flight": "max limit",
    "confirmation": "sampled confirmed failed unconfirmed failure_rate_upper_bound_95 errors",
}


@pytest.mark.parametrize("place", FIXED_KEYS)
def test_the_json_has_the_keys_that_the_design_fixes(place: str) -> None:
    report = json.loads(some_report().to_json())
    assert set(FIXED_KEYS[place].split()) <= set(report[place] if place else report)


def test_the_json_is_one_object_with_a_line_end() -> None:
    text = some_report().to_json()
    assert text.endswith(b"}\n")
    assert isinstance(json.loads(text), dict)


def test_lanes_have_the_keys_that_the_design_fixes() -> None:
    tally = Tally()
    tally.lane(Lane("s", "DEAL")).delivered = 1
    (lane,) = json.loads(msgspec.json.encode(lanes_of(tally)))
    assert set(lane) >= {"store_id", "object_type", "delivered", "rejected", "batches"}


def test_the_thousand_largest_lanes_are_shown() -> None:
    tally = Tally()
    for number in range(1_500):
        tally.lane(Lane(f"s{number}", "DEAL")).delivered = number
    shown = lanes_of(tally)
    assert [lane.delivered for lane in shown] == list(range(1_499, 499, -1))


def test_rejected_messages_make_a_lane_large_too() -> None:
    tally = Tally()
    tally.lane(Lane("small", "DEAL")).delivered = 5
    tally.lane(Lane("large", "DEAL")).rejected = 9
    assert [lane.store_id for lane in lanes_of(tally)] == ["large", "small"]


def test_requests_are_counted_by_status() -> None:
    tally = Tally(requests_sent=4, requests_accepted=2, requests_retried=1, requests_split=1)
    tally.by_status.update([204, 503, 204])
    requests = requests_of(tally)
    assert requests.by_status == {"204": 2, "503": 1}
    assert (requests.sent, requests.accepted, requests.retried, requests.split) == (4, 2, 1, 1)


def test_without_a_request_there_is_no_latency() -> None:
    assert latency_of(Tally()) == Latency(None, None, None, None, None)


def test_latencies_are_in_milliseconds() -> None:
    tally = Tally()
    for latency_ms in range(1, 1_001):
        tally.latency.add(latency_ms / 1_000)
    latency = latency_of(tally)
    assert latency.p50 == pytest.approx(500, rel=0.001)
    assert latency.p90 == pytest.approx(900, rel=0.001)
    assert latency.p99 == pytest.approx(990, rel=0.001)
    assert latency.p999 == pytest.approx(999, rel=0.001)
    assert latency.max == pytest.approx(1_000)


def test_the_confirmation_counts_states_and_error_types() -> None:
    sample = Sample(SampleSize(), random.Random(1))
    messages = [SyncMessage(f"o{number}", changed_at=1) for number in range(20)]
    delivery = Delivery(Batch(Lane("s", "DEAL"), messages, list(range(20))), 1, 0.1)
    sample.accept(delivery, 0.0, remember_last=False)
    members = list(sample.objects())
    for member in members[:10]:
        member.state = SampleState.CONFIRMED
    for member in members[10:17]:
        member.state = SampleState.FAILED
        member.error = SyncError("INVALID_DEAL_STAGE", details="no such stage")
    confirmation = confirmation_of(sample, "a word")
    assert isinstance(confirmation, Confirmation)
    assert (confirmation.sampled, confirmation.confirmed) == (20, 10)
    assert (confirmation.failed, confirmation.unconfirmed) == (7, 3)
    assert confirmation.errors == {"INVALID_DEAL_STAGE": 7}
    assert confirmation.failure_rate_upper_bound_95 == pytest.approx(upper_bound_95(10, 20))
    assert len(confirmation.examples) == 5
    assert confirmation.examples[0]["details"] == "no such stage"
    assert confirmation.detail == "a word"


def test_an_empty_sample_has_no_bound() -> None:
    sample = Sample(SampleSize(), random.Random(1))
    assert confirmation_of(sample, None).failure_rate_upper_bound_95 is None


def test_requests_have_no_more_than_was_counted() -> None:
    assert isinstance(requests_of(Tally()), Requests)
