"""The arithmetic of a plan: how long requests and polls take, and what decides that."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pusher.coverage import Mappings
from pusher.errors import UsageError
from pusher.findings import LINES_MAX, OTHERS, SUBJECTS_MAX, Finding, Findings, place_at
from pusher.model import Lane
from pusher.planning import Assumptions, Survey, compose_plan, estimated, polls_of
from pusher.sampling import SampleSize
from pusher.tally import LANES_MAX


@pytest.mark.parametrize(
    ("batches", "concurrency", "rate", "reading_s", "seconds", "bound_by"),
    [
        (0, 8, None, 0.0, 0.0, "latency"),
        (1, 8, None, 0.0, 0.1, "latency"),
        (8, 8, None, 0.0, 0.1, "latency"),
        (9, 8, None, 0.0, 0.2, "latency"),
        (10_000, 1, None, 1.0, 1_000.0, "latency"),
        (10_000, 32, 10.0, 1.0, 1_000.0, "rate"),
        (10_000, 256, None, 60.0, 60.1, "reading"),
    ],
)
def test_the_slowest_of_latency_rate_and_reading_decides(
    *,
    batches: int,
    concurrency: int,
    rate: float | None,
    reading_s: float,
    seconds: float,
    bound_by: str,
) -> None:
    estimate = estimated(batches, concurrency, 0.1, rate=rate, reading_s=reading_s)
    assert estimate.seconds == pytest.approx(seconds, abs=0.001)
    assert estimate.bound_by == bound_by


@given(
    batches=st.integers(1, 10**6),
    concurrency=st.integers(1, 256),
    latency_s=st.floats(0.001, 10),
    rate=st.none() | st.floats(0.1, 10_000),
    reading_s=st.floats(0, 1_000),
    chain=st.integers(0, 1_000),
)
def test_no_estimate_is_below_any_of_its_bounds_nor_gets_better_with_less(
    *,
    batches: int,
    concurrency: int,
    latency_s: float,
    rate: float | None,
    reading_s: float,
    chain: int,
) -> None:
    estimate = partial(estimated, batches, rate=rate, reading_s=reading_s, chain=chain)
    seconds = estimate(concurrency, latency_s).seconds + 0.001
    assert seconds >= chain * latency_s
    assert seconds >= reading_s
    assert seconds >= batches / concurrency * latency_s
    assert seconds >= latency_s
    if rate is not None:
        assert seconds >= (batches - 1) / rate
    fewer = estimate(max(1, concurrency - 1), latency_s).seconds
    assert fewer + 0.002 + latency_s >= seconds


def test_an_object_with_very_many_messages_holds_up_the_rest() -> None:
    survey = Survey()
    survey.objects.most = 10_001
    for _ in range(100):
        survey.add_batch(Lane("s", "DEAL"), 200, 1)
    plan = compose_plan(survey, [], Assumptions(concurrency=32), mappings_from="x")
    (estimate,) = plan.estimates
    assert (estimate.seconds, estimate.bound_by) == (5.1, "order")
    assert "one object has 10,001 messages" in plan.hints[0]


@pytest.mark.parametrize(
    ("messages", "lanes", "sample", "count"),
    [
        (1_000_000, 8, SampleSize(400), 408),
        (1_000_000, 5_000, SampleSize(400), 800),
        (100, 8, SampleSize(400), 100),
        (2_000_000, 200, SampleSize(rate=1.0), 2_000_000),
        (2_000_000, 200, SampleSize(rate=0.01), 20_200),
        (2_000_000, 200, SampleSize(0), 0),
    ],
)
def test_polls_are_of_the_sample_and_of_each_lane(
    messages: int, lanes: int, sample: SampleSize, count: int
) -> None:
    assert polls_of(messages, lanes, sample, 9.0).count == count


def test_two_million_polls_at_nine_a_second_are_62_hours() -> None:
    polls = polls_of(2_000_000, 200, SampleSize(rate=1.0), 9.0)
    assert polls.seconds == pytest.approx(61.7 * 3600, rel=0.01)
    assert polls_of(2_000_000, 200, SampleSize(rate=1.0), None).seconds == 0


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_rates_that_are_none_are_usage_errors(rate: float) -> None:
    with pytest.raises(UsageError, match="--rate"):
        Assumptions(rate=rate)
    with pytest.raises(UsageError, match="--confirm-rate"):
        Assumptions(poll_rate=rate)


def finding(kind: str, severity: str = "fails") -> Finding:
    return Finding(kind, "", severity, 1, "", [])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("findings", "allowed", "outcome", "exit_code"),
    [
        ([], (), "ready", 0),
        ([finding("stale", "warns"), finding("undated", "notes")], (), "ready", 0),
        ([finding("bad_email")], (), "findings", 1),
        ([finding("bad_email")], ("bad_email",), "ready", 0),
        ([finding("bad_email"), finding("bad_time")], ("bad_email",), "findings", 1),
    ],
)
def test_only_what_would_fail_and_is_not_allowed_is_exit_1(
    findings: list[Finding], allowed: tuple[str, ...], outcome: str, exit_code: int
) -> None:
    plan = compose_plan(Survey(), findings, Assumptions(), mappings_from="x", allowed=allowed)
    assert (plan.outcome, plan.exit_code) == (outcome, exit_code)


def test_an_input_that_broke_is_worse_than_what_was_found() -> None:
    halt = ("stopped", 3, "in.gz: damaged")
    plan = compose_plan(
        Survey(), [finding("bad_email")], Assumptions(), mappings_from=None, halt=halt
    )
    assert (plan.outcome, plan.exit_code, plan.reason) == halt


def test_beyond_50_000_lanes_the_totals_stay_exact_and_the_plan_says_so() -> None:
    survey = Survey()
    for number in range(LANES_MAX + 1):
        survey.add_batch(Lane(f"s{number}", "DEAL"), 2, 100)
    plan = compose_plan(survey, [], Assumptions(), mappings_from=None)
    assert plan.messages.to_send == 2 * (LANES_MAX + 1)
    assert plan.batches == plan.lanes_total == LANES_MAX + 1
    assert plan.lanes_are_exact is False
    assert plan.stores_total <= LANES_MAX


def test_a_finding_keeps_the_first_lines_whatever_their_order() -> None:
    findings = Findings()
    for line in (9, 3, 8, 1, 7, 2, 6, 4, 5):
        findings.add("seconds", "", [place_at(0, line)])
    (found,) = findings.listed(["in"])
    assert found.count == 9
    assert found.lines == [f"in:{line}" for line in range(1, LINES_MAX + 1)]


def test_subjects_without_end_are_counted_together_in_the_end() -> None:
    findings = Findings()
    for number in range(SUBJECTS_MAX + 10):
        findings.add("unmapped_property", f"DEAL.p{number}", [place_at(0, number + 1)])
    listed = findings.listed(["in"])
    assert len(listed) == SUBJECTS_MAX + 1
    assert listed[0].of == OTHERS
    assert listed[0].count == 10


def test_a_name_as_long_as_a_line_is_not_kept_whole() -> None:
    findings = Findings()
    for line in (1, 2):
        findings.add("unmapped_property", "x" * 10**6, [place_at(0, line)])
    (found,) = findings.listed(["in"])
    assert (len(found.of), found.count) == (200, 2)


@pytest.mark.parametrize(
    "settings",
    [
        {"enabled": "yes"},
        {"mappings": "none"},
        {"mappings": {"DEAL": {"properties": [{"externalPropertyName": "a"}]}}},
        {"mappings": {"DEAL": {"properties": {"a": "b"}}}},
    ],
)
def test_what_is_no_settings_is_a_usage_error(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="no settings"):
        Mappings.of(settings)


@pytest.mark.parametrize("mappings", [None, [], {}, {"DEAL": {"properties": []}}, {"DEAL": None}])
def test_settings_may_map_nothing(mappings: object) -> None:
    assert Mappings.of({"enabled": True, "mappings": mappings}).types == {}
