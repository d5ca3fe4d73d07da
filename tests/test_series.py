"""A run over time: how points are made, merged and bounded; and when it will end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pusher.forecast import Forecast
from pusher.series import Look, Series
from pusher.tally import LATELY_MAX, LatencyHistogram, Tally


def look(at_s: float, delivered: int = 0, **facts: Any) -> Look:
    given: dict[str, Any] = {
        "rejected": 0,
        "retried": 0,
        "in_flight": 0,
        "in_flight_limit": 4,
        "held_bytes": 0,
        "latencies_s": (),
        "constraint": "cpu",
        **facts,
    }
    return Look(at_s=at_s, delivered=delivered, **given)


def test_rates_are_those_of_the_time_that_was_looked_at() -> None:
    series = Series(width_s=1.0)
    for tenth in range(1, 21):
        series.add(look(tenth / 10, delivered=tenth * 50))
    columns = series.report()
    assert columns.at_s == [0.9, 2.0]
    assert columns.messages_per_s == [500.0, 500.0]


def test_a_last_moment_makes_no_peak() -> None:
    series = Series(width_s=1.0)
    series.add(look(0.9, delivered=90))
    series.add(look(1.9, delivered=190))
    series.add(look(2.01, delivered=390))
    assert series.report().messages_per_s == [100.0, pytest.approx(300 / 1.11, abs=0.1)]
    assert len(series) == 3


def test_a_time_in_which_nobody_looked_makes_no_peak() -> None:
    series = Series(width_s=1.0)
    series.add(look(0.5, delivered=50))
    series.add(look(10.5, delivered=1_050))
    assert series.report().messages_per_s == [100.0, 100.0]


def test_a_point_has_means_maxima_and_percentiles() -> None:
    series = Series(width_s=1.0)
    series.add(look(0.25, in_flight=4, held_bytes=10, latencies_s=[0.1] * 99, rejected=1))
    series.add(look(0.75, in_flight=1, held_bytes=7, latencies_s=[0.9] * 2, rejected=3, retried=2))
    columns = series.report()
    assert columns.in_flight == [2.0]
    assert columns.held_bytes == [10]
    assert columns.p50_ms == [pytest.approx(100, rel=0.03)]
    assert columns.p99_ms == [pytest.approx(900, rel=0.03)]
    assert columns.max_ms == [900.0]
    assert columns.rejected == [3]
    assert columns.retried == [2]


def test_without_an_answer_there_is_no_latency() -> None:
    series = Series()
    series.add(look(0.1))
    assert series.report().p50_ms == [None]


def test_a_point_has_the_constraint_that_bound_longest() -> None:
    series = Series(width_s=1.0)
    series.add(look(0.1, constraint="cpu"))
    series.add(look(0.6, constraint="endpoint"))
    series.add(look(0.9, constraint=None))
    series.add(look(1.5, constraint=None))
    assert series.report().constraint == ["endpoint", None]


def test_points_are_merged_when_there_are_too_many() -> None:
    series = Series(points_max=10, width_s=1.0)
    for second in range(1, 101):
        series.add(look(float(second), delivered=second * 10, held_bytes=second))
    columns = series.report()
    assert series.width_s == 16.0
    assert len(series) == 7
    assert len(columns.at_s) == 6  # The last one had begun only just.
    assert columns.at_s[-1] == 100.0
    assert set(columns.messages_per_s) == {10.0}
    assert columns.held_bytes[-1] == 100


@given(
    steps=st.lists(st.floats(0.001, 5_000), min_size=1, max_size=200),
    points_max=st.integers(2, 50),
)
def test_however_long_a_run_is_its_points_are_bounded_and_lose_nothing(
    steps: list[float], points_max: int
) -> None:
    series, at_s, delivered = Series(points_max=points_max), 0.0, 0
    for step_s in steps:
        at_s += step_s
        delivered += 7
        series.add(look(at_s, delivered=delivered, latencies_s=[step_s]))
    columns = series.report()
    assert 1 <= len(series) <= points_max
    assert sum(point.delivered for point in series._points.values()) == delivered
    assert sum(point.latency.count for point in series._points.values()) == len(steps)
    assert columns.at_s == sorted(columns.at_s)
    assert len({len(getattr(columns, name)) for name in columns.__struct_fields__[1:]}) == 1


def test_histograms_add_up() -> None:
    one, other = LatencyHistogram(bits=6), LatencyHistogram(bits=6)
    for number in range(100):
        (one if number % 2 else other).add(number / 100)
    one.absorb(other)
    assert one.count == 100
    assert one.percentile_ms(50) == pytest.approx(490, rel=0.04)
    assert one.max_ms == 990.0


def test_latencies_are_taken_once_and_do_not_pile_up_where_nobody_takes_them() -> None:
    tally = Tally()
    for _ in range(LATELY_MAX + 5):
        tally.accepted(0.1)
    assert len(tally.take_latencies()) == LATELY_MAX
    assert tally.take_latencies() == []
    assert tally.requests_accepted == tally.latency.count == LATELY_MAX + 5


def test_what_is_left_follows_from_how_fast_it_went_lately() -> None:
    forecast = Forecast()
    for second in range(101):
        forecast.update(second * 0.002, float(second))
    assert forecast.left_s == pytest.approx(0.8 / 0.002)
    for second in range(101, 200):
        forecast.update(0.2 + (second - 100) * 0.004, float(second))
    assert forecast.left_s == pytest.approx((1 - 0.596) / 0.004)


@pytest.mark.parametrize("shares", [[0.0, 0.1], [0.5, 0.5, 0.5, 0.5], [None] * 5, [0.5, 0.9, 1.0]])
def test_nothing_is_forecast_that_cannot_be_known(shares: list[float | None]) -> None:
    forecast = Forecast()
    for second, share in enumerate(shares):
        forecast.update(share, float(second))
    assert forecast.left_s is None
