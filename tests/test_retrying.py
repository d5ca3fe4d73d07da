"""When to try again, with full jitter and Retry-After as a floor, and when to give up."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from pusher.retrying import GiveUp, RetryPolicy


def delay_s(policy: RetryPolicy, attempt: int, retry_after_s: float = 0.0, seed: int = 1) -> float:
    return policy.delay_s(attempt, retry_after_s, random.Random(seed))


def test_eight_failures_are_enough_to_doubt_a_request() -> None:
    assert [RetryPolicy().is_enough(attempt) for attempt in range(6, 10)] == [
        *(False, False),
        *(True, True),
    ]


def test_the_bound_doubles_with_each_attempt_up_to_the_cap() -> None:
    policy = RetryPolicy(max_attempts=100, base_s=1.0, cap_s=10.0)
    for attempt, bound_s in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 10.0), (90, 10.0)):
        waits = [delay_s(policy, attempt, seed=seed) for seed in range(300)]
        assert 0 <= min(waits) < bound_s * 0.1
        assert bound_s * 0.9 < max(waits) <= bound_s


def test_jitter_is_full() -> None:
    waits = [delay_s(RetryPolicy(base_s=1.0), 1, seed=seed) for seed in range(1_000)]
    assert 0.45 < sum(waits) / len(waits) < 0.55


def test_retry_after_is_a_floor() -> None:
    policy = RetryPolicy(base_s=1.0)
    assert delay_s(policy, 1, 60.0) >= 60.0
    assert delay_s(policy, 1, 0.0) <= 1.0


@settings(deadline=None)
@given(
    st.integers(1, 10_000),
    st.floats(0, 1e9),
    st.integers(0, 1_000),
    st.floats(0.001, 10),
    st.floats(0.001, 100),
)
def test_a_wait_is_never_negative_nor_below_what_was_asked_for(
    attempt: int, asked_s: float, seed: int, base_s: float, cap_s: float
) -> None:
    policy = RetryPolicy(max_attempts=1_000, base_s=base_s, cap_s=cap_s)
    wait_s = policy.delay_s(attempt, asked_s, random.Random(seed))
    assert asked_s <= wait_s <= max(asked_s, cap_s)


def test_the_same_seed_gives_the_same_waits() -> None:
    assert delay_s(RetryPolicy(), 3, seed=7) == delay_s(RetryPolicy(), 3, seed=7)


def test_a_very_late_attempt_does_not_overflow() -> None:
    policy = RetryPolicy(max_attempts=10**6)
    assert delay_s(policy, 5_000) <= policy.cap_s


def test_it_is_given_up_when_nothing_has_succeeded_for_so_long() -> None:
    give_up = GiveUp(10.0)
    assert not give_up.failed(100.0)
    assert not give_up.failed(109.9)
    assert give_up.failed(110.0)


def test_a_success_begins_the_time_anew() -> None:
    give_up = GiveUp(10.0)
    give_up.failed(100.0)
    give_up.succeeded()
    assert not give_up.failed(200.0)
    assert not give_up.failed(209.0)


def test_a_quiet_time_is_no_failure() -> None:
    give_up = GiveUp(10.0)
    assert not give_up.failed(1_000_000.0)


def test_how_long_it_will_be_tried_is_known() -> None:
    give_up = GiveUp(10.0)
    assert give_up.left_s(5.0) == 10.0
    give_up.failed(100.0)
    assert give_up.left_s(104.0) == 6.0
    assert give_up.left_s(200.0) == 0.0
