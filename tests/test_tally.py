"""The counters: percentiles are exact to a thousandth, in bounded memory."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pusher.model import Lane
from pusher.tally import LatencyHistogram, RejectedMax, Tally


def histogram_of(latencies_s: list[float]) -> LatencyHistogram:
    histogram = LatencyHistogram()
    for latency_s in latencies_s:
        histogram.add(latency_s)
    return histogram


def exact_ms(latencies_s: list[float], percent: float) -> float:
    """The smallest value that `percent` of all do not exceed."""
    values = sorted(latencies_s)
    per_mille = round(percent * 10)
    rank = max(1, -(-len(values) * per_mille // 1_000))
    return values[rank - 1] * 1_000


def test_without_latencies_there_is_no_percentile() -> None:
    assert LatencyHistogram().percentile_ms(50) is None
    assert LatencyHistogram().max_ms is None


def test_one_latency_is_every_percentile() -> None:
    histogram = histogram_of([0.0125])
    for percent in (50, 90, 99, 99.9):
        assert histogram.percentile_ms(percent) == pytest.approx(12.5, rel=0.001)
    assert histogram.max_ms == 12.5


@pytest.mark.parametrize("percent", [50, 90, 99, 99.9])
@pytest.mark.parametrize("spread", ["even", "skewed", "tiny", "huge"])
def test_percentiles_are_within_a_thousandth_of_the_exact_ones(percent: float, spread: str) -> None:
    rng = random.Random(7)
    latencies_s = {
        "even": [rng.uniform(0.001, 0.2) for _ in range(20_000)],
        "skewed": [rng.lognormvariate(-4, 1.5) for _ in range(20_000)],
        "tiny": [rng.uniform(0.0001, 0.0009) for _ in range(20_000)],
        "huge": [rng.uniform(10, 4_000) for _ in range(20_000)],
    }[spread]
    found_ms = histogram_of(latencies_s).percentile_ms(percent)
    expected_ms = exact_ms(latencies_s, percent)
    assert found_ms == pytest.approx(expected_ms, rel=0.001, abs=0.002)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1_000), min_size=1), st.sampled_from([1, 50, 90, 99, 99.9, 100]))
def test_a_percentile_lies_between_the_smallest_and_the_largest(
    latencies_s: list[float], percent: float
) -> None:
    histogram = histogram_of(latencies_s)
    found_ms = histogram.percentile_ms(percent)
    assert found_ms is not None
    assert min(latencies_s) * 999 - 0.002 <= found_ms <= max(latencies_s) * 1_000 + 0.001
    assert found_ms == pytest.approx(exact_ms(latencies_s, percent), rel=0.001, abs=0.002)


def test_percentiles_rise_with_the_percentage() -> None:
    rng = random.Random(3)
    histogram = histogram_of([rng.expovariate(10) for _ in range(5_000)])
    found = [histogram.percentile_ms(percent) or 0 for percent in (50, 90, 99, 99.9)]
    assert found == sorted(found)
    assert found[-1] <= (histogram.max_ms or 0)


def test_memory_is_bounded_however_many_latencies_there_are() -> None:
    rng = random.Random(5)
    histogram = histogram_of([rng.uniform(0, 60) for _ in range(200_000)])
    assert len(histogram._counts) < 30_000


def test_each_lane_has_its_own_counters() -> None:
    tally = Tally()
    tally.lane(Lane("s", "DEAL")).delivered += 3
    tally.lane(Lane("s", "CONTACT")).delivered += 1
    tally.lane(Lane("s", "DEAL")).delivered += 1
    assert {lane: one.delivered for lane, one in tally.lanes.items()} == {
        Lane("s", "DEAL"): 4,
        Lane("s", "CONTACT"): 1,
    }


def test_skipped_is_the_sum_over_reasons() -> None:
    tally = Tally()
    assert tally.skipped == 0
    tally.skipped_by_reason.update({"ddl": 2, "tombstone": 3})
    assert tally.skipped == 5


def test_very_many_lanes_keep_the_largest_and_the_count_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pusher.tally.LANES_MAX", 100)
    tally = Tally()
    tally.lane(Lane("large", "DEAL")).delivered = 1_000
    for number in range(1_000):
        tally.lane(Lane(f"s{number}", "DEAL")).delivered += 1
    assert len(tally.lanes) <= 100
    assert tally.lanes_total == 1_001
    assert tally.lanes[Lane("large", "DEAL")].messages == 1_000


@pytest.mark.parametrize(
    ("allowed", "rejected", "read", "is_passed"),
    [
        (RejectedMax(0), 0, 10, False),
        (RejectedMax(0), 1, 10, True),
        (RejectedMax(5), 5, 10, False),
        (RejectedMax(rate=0.5), 5, 10, False),
        (RejectedMax(rate=0.5), 6, 10, True),
        (RejectedMax(rate=0.0), 0, 0, False),
    ],
)
def test_as_many_as_allowed_is_not_too_many(
    allowed: RejectedMax, rejected: int, read: int, *, is_passed: bool
) -> None:
    assert allowed.is_passed(rejected, read) == is_passed


def test_what_is_allowed_reads_well() -> None:
    assert str(RejectedMax(1_000)) == "1,000 messages"
    assert str(RejectedMax(rate=0.005)) == "0.5 %"
