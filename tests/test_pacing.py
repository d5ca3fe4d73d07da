"""The limit on requests in flight, against simulated servers on virtual time."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pusher.pacing import CEILING, ConcurrencyLimit, Outcome, RetryBudget

SEEDS = range(10)


@dataclass
class Server:
    """Works on `knee(now)` requests at a time, each for `base_s(now)`; others queue or are refused.

    Events are (time, number, sent at, outcome). The client keeps as many requests in flight as the
    limit allows, or as it has (`supply`).
    """

    knee: Callable[[float], int]
    base_s: Callable[[float], float]
    refuses: bool = False
    jitter: float = 0.05
    outliers: float = 0.0
    failing: float = 0.0
    supply: int = CEILING
    seed: int = 0
    now_s: float = 0.0
    done_at_s: list[float] = field(default_factory=list)
    limits: list[tuple[float, int]] = field(default_factory=list)

    def run(self, limit: ConcurrencyLimit, until_s: float) -> Server:
        self._rng = random.Random(self.seed)
        self._events: list[tuple[float, int, float, Outcome]] = []
        self._waiting: deque[tuple[int, float]] = deque()
        self._in_flight = self._working = self._sent = 0
        self._fill(limit)
        while self._events and self.now_s < until_s:
            self.now_s, _, sent_s, outcome = heapq.heappop(self._events)
            self._in_flight -= 1
            if outcome is not Outcome.OVERLOADED:
                self._working -= 1
            self._work_on()
            if outcome is Outcome.ACCEPTED:
                self.done_at_s.append(self.now_s)
            limit.ended(sent_s, self.now_s, outcome)
            self.limits.append((self.now_s, limit.limit))
            self._fill(limit)
        return self

    def rate(self, begin_s: float, end_s: float) -> float:
        return sum(begin_s <= at_s < end_s for at_s in self.done_at_s) / (end_s - begin_s)

    def _fill(self, limit: ConcurrencyLimit) -> None:
        while self._in_flight < min(limit.limit, self.supply):
            self.now_s += 1e-7
            self._in_flight += 1
            self._sent += 1
            limit.sent(self.now_s, self._in_flight)
            if self.refuses and self._working >= self.knee(self.now_s):
                back_s = self.now_s + self.base_s(self.now_s) / 2
                event = (back_s, self._sent, self.now_s, Outcome.OVERLOADED)
                heapq.heappush(self._events, event)
            else:
                self._waiting.append((self._sent, self.now_s))
            self._work_on()

    def _work_on(self) -> None:
        while self._waiting and self._working < self.knee(self.now_s):
            number, sent_s = self._waiting.popleft()
            self._working += 1
            took_s = self.base_s(self.now_s) * (1 + self._rng.uniform(-self.jitter, self.jitter))
            if self._rng.random() < self.outliers:
                took_s *= 5
            is_failed = self._rng.random() < self.failing
            outcome = Outcome.FAILED if is_failed else Outcome.ACCEPTED
            heapq.heappush(self._events, (self.now_s + took_s, number, sent_s, outcome))


def always(value: float) -> Callable[[float], float]:
    return lambda _now_s: value


def a_knee_of(count: int) -> Callable[[float], int]:
    return lambda _now_s: count


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("knee", [4, 16, 40, 64, 200, 256])
def test_two_seconds_at_200_ms_are_enough_for_nine_tenths_of_the_best(knee: int, seed: int) -> None:
    server = Server(a_knee_of(knee), always(0.2), seed=seed).run(ConcurrencyLimit(), 3.2)
    assert server.rate(2.0, 3.0) >= 0.9 * knee / 0.2


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("factor", [4, 2, 0.5, 0.25])
@pytest.mark.parametrize("knee", [16, 40, 64])
def test_three_round_trips_after_the_knee_moved_the_new_best_is_near(
    knee: int, factor: float, seed: int
) -> None:
    base_s, moved_s = 0.2, 6.0 + seed * 0.03
    new_knee = int(knee * factor)
    server = Server(
        lambda now_s: knee if now_s < moved_s else new_knee, always(base_s), seed=seed
    ).run(ConcurrencyLimit(), moved_s + 2.5)
    # A round trip takes a little more than the base, as the endpoint is kept busy.
    after_s = moved_s + 3 * 1.3 * base_s
    assert server.rate(after_s, after_s + 1) >= 0.75 * new_knee / base_s


@pytest.mark.parametrize("base_s", [0.001, 0.02, 0.2, 2.0])
@pytest.mark.parametrize("knee", [4, 16, 64, 200])
def test_a_noisy_server_is_kept_busy_without_a_long_queue(knee: int, base_s: float) -> None:
    server = Server(a_knee_of(knee), always(base_s), jitter=0.2, outliers=0.01, seed=5)
    server.run(ConcurrencyLimit(), 60 * base_s)
    assert server.rate(20 * base_s, 60 * base_s) >= 0.85 * knee / base_s
    late = [limit for at_s, limit in server.limits if at_s > 30 * base_s]
    assert sum(late) / len(late) <= max(3 * knee, 8)


@pytest.mark.parametrize(("knee", "share"), [(16, 0.7), (64, 0.75)])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_server_that_refuses_what_is_too_much_is_used_well(
    knee: int, share: float, seed: int
) -> None:
    server = Server(a_knee_of(knee), always(0.05), refuses=True, jitter=0.2, seed=seed)
    server.run(ConcurrencyLimit(), 20.0)
    assert server.rate(2.0, 20.0) >= share * knee / 0.05


def test_one_failure_in_a_hundred_does_not_hold_it_down() -> None:
    server = Server(a_knee_of(64), always(0.1), failing=0.01, seed=1)
    server.run(ConcurrencyLimit(), 20.0)
    assert server.rate(5.0, 20.0) >= 0.9 * 64 / 0.1


def test_when_half_fails_the_limit_falls() -> None:
    server = Server(a_knee_of(64), always(0.1), failing=0.5, seed=1)
    server.run(ConcurrencyLimit(), 20.0)
    assert server.limits[-1][1] <= 24


def test_a_limit_that_is_not_reached_does_not_grow() -> None:
    server = Server(a_knee_of(64), always(0.1), supply=10, seed=1)
    server.run(ConcurrencyLimit(), 20.0)
    assert server.limits[-1][1] <= 20


@pytest.mark.parametrize("seed", SEEDS)
def test_a_route_that_is_longer_for_good_is_no_queue(seed: int) -> None:
    server = Server(a_knee_of(64), lambda now_s: 0.1 if now_s < 10 else 0.3, seed=seed)
    server.run(ConcurrencyLimit(), 40.0)
    assert server.rate(20.0, 40.0) >= 0.85 * 64 / 0.3


@pytest.mark.parametrize("refuses", [True, False])
def test_it_is_cut_at_most_once_in_a_round_trip(*, refuses: bool) -> None:
    server = Server(lambda now_s: 64 if now_s < 5 else 16, always(0.1), refuses=refuses, seed=2)
    server.run(ConcurrencyLimit(), 10.0)
    cuts = [at_s for (_, before), (at_s, after) in pairwise(server.limits) if after < before]
    assert cuts
    gaps = [later - earlier for earlier, later in pairwise(cuts)]
    assert all(gap >= (0.04 if refuses else 0.09) for gap in gaps)


def test_what_an_earlier_run_found_is_where_it_begins() -> None:
    assert ConcurrencyLimit(start=90).limit == 90
    assert ConcurrencyLimit(start=9_000).limit == CEILING


@given(
    st.lists(
        st.tuples(st.sampled_from(list(Outcome)), st.floats(1e-4, 10), st.integers(1, 300)),
        max_size=400,
    )
)
def test_the_limit_stays_in_its_range_whatever_comes(
    attempts: list[tuple[Outcome, float, int]],
) -> None:
    limit = ConcurrencyLimit()
    now_s = 1.0
    for outcome, took_s, in_flight in attempts:
        now_s += 1e-3
        limit.sent(now_s, in_flight)
        limit.ended(now_s, now_s + took_s, outcome)
        assert 1 <= limit.limit <= CEILING


def test_so_many_failures_empty_the_budget() -> None:
    budget = RetryBudget(capacity=3)
    assert not budget.is_empty
    for _ in range(3):
        budget.spend()
    assert budget.is_empty


def test_successes_refill_the_budget_slowly() -> None:
    budget = RetryBudget(capacity=3)
    for _ in range(2):
        budget.spend()
    for _ in range(6):
        budget.refund()
    budget.spend()
    assert not budget.is_empty
    budget.spend()
    assert budget.is_empty


def test_a_probe_that_succeeds_lets_ten_more_go() -> None:
    budget = RetryBudget()
    for _ in range(200):
        budget.spend()
    budget.refund()
    for _ in range(9):
        budget.spend()
        assert not budget.is_empty
    budget.spend()
    assert budget.is_empty
