"""When to try again: full jitter, Retry-After as a floor, an end after so many attempts."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from pusher.retrying import RetryPolicy


def delay_s(policy: RetryPolicy, attempt: int, retry_after_s: float = 0.0, seed: int = 1) -> float:
    delay = policy.delay_s(attempt, retry_after_s, random.Random(seed))
    assert delay is not None
    return delay


def test_the_last_attempt_is_the_last() -> None:
    policy = RetryPolicy(max_attempts=3)
    rng = random.Random(1)
    assert policy.delay_s(2, 0.0, rng) is not None
    assert policy.delay_s(3, 0.0, rng) is None
    assert policy.delay_s(4, 0.0, rng) is None


def test_eight_attempts_are_the_default() -> None:
    rng = random.Random(1)
    delays = [RetryPolicy().delay_s(attempt, 0.0, rng) for attempt in range(1, 9)]
    assert [delay is None for delay in delays] == [False] * 7 + [True]


def test_one_attempt_means_no_retry() -> None:
    assert RetryPolicy(max_attempts=1).delay_s(1, 5.0, random.Random(1)) is None


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
    if attempt >= 1_000:
        assert wait_s is None
    else:
        assert wait_s is not None
        assert asked_s <= wait_s <= max(asked_s, cap_s)


def test_the_same_seed_gives_the_same_waits() -> None:
    assert delay_s(RetryPolicy(), 3, seed=7) == delay_s(RetryPolicy(), 3, seed=7)


def test_a_very_late_attempt_does_not_overflow() -> None:
    policy = RetryPolicy(max_attempts=10**6)
    assert delay_s(policy, 5_000) <= policy.cap_s
