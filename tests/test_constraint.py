"""What binds a run: the rule for one moment, and the account over time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pusher.constraint import IN_WORDS, Accounting, Constraint, Moment, Waits, binding, largest

IDLE = Moment(
    waits=Waits(), busy_share=0.1, is_paused=False, is_full=False, in_flight=0, awaiting_rate=0
)


def moment(waits: Waits | None = None, **facts: Any) -> Moment:
    return replace(IDLE, waits=waits or Waits(), **facts)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (moment(Waits(is_hungry=True)), Constraint.INPUT),
        (moment(Waits(is_hungry=True), in_flight=3), Constraint.INPUT),
        (moment(busy_share=0.95, in_flight=4, is_full=True), Constraint.CPU),
        (moment(Waits(is_hungry=True), busy_share=0.95), Constraint.CPU),
        (moment(in_flight=4, is_full=True), Constraint.ENDPOINT),
        (moment(Waits(is_draining=True), in_flight=1), Constraint.ENDPOINT),
        (moment(in_flight=1, awaiting_rate=3, is_full=True), Constraint.RATE_LIMIT),
        (moment(is_paused=True, in_flight=2), Constraint.RETRY_PAUSE),
        (moment(Waits(backing_off=1, is_draining=True)), Constraint.RETRY_PAUSE),
        (moment(Waits(backing_off=30), in_flight=1), Constraint.RETRY_PAUSE),
        (moment(Waits(short_of=Constraint.MEMORY_BUDGET), in_flight=2), Constraint.MEMORY_BUDGET),
        (moment(Waits(short_of=Constraint.MAX_LAG), in_flight=2), Constraint.MAX_LAG),
        (moment(Waits(writing=1)), Constraint.DISK),
        (moment(Waits(is_processing=True), busy_share=0.95), Constraint.PROCESSING),
        (moment(), Constraint.CPU),
    ],
)
def test_what_the_run_waits_for_binds_it(seen: Moment, expected: Constraint) -> None:
    assert binding(seen) is expected


def test_memory_does_not_bind_while_the_endpoint_is_as_busy_as_it_may_be() -> None:
    short = Waits(short_of=Constraint.MEMORY_BUDGET)
    assert binding(moment(short, in_flight=4, is_full=True)) is Constraint.ENDPOINT


def test_memory_does_not_bind_while_all_that_is_held_waits_for_another_attempt() -> None:
    short = Waits(short_of=Constraint.MEMORY_BUDGET, backing_off=4)
    assert binding(moment(short)) is Constraint.RETRY_PAUSE


def test_the_shares_are_those_of_the_time_and_make_up_a_whole() -> None:
    account = Accounting()
    account.observe(Constraint.CPU, 10.0)
    account.observe(Constraint.ENDPOINT, 13.0)
    account.observe(Constraint.INPUT, 14.0)
    shares = account.shares()
    assert shares["endpoint"] == 0.75
    assert shares["input"] == 0.25
    assert shares["cpu"] == 0
    assert set(shares) == {constraint.value for constraint in Constraint}
    assert largest(shares) == "endpoint"


def test_time_outside_of_the_push_counts_for_nothing() -> None:
    account = Accounting()
    account.observe(None, 0.0)
    account.observe(None, 5.0)
    account.observe(Constraint.INPUT, 6.0)
    account.observe(None, 60.0)
    assert account.seconds[Constraint.INPUT] == 1.0
    assert sum(account.seconds.values()) == 1.0


def test_before_anything_was_seen_nothing_binds() -> None:
    account = Accounting()
    assert account.lately is None
    assert largest(account.shares()) is None
    assert set(account.shares().values()) == {0.0}


def test_what_binds_lately_may_be_something_else_than_in_all() -> None:
    account = Accounting()
    for second in range(101):
        account.observe(Constraint.ENDPOINT if second <= 80 else Constraint.INPUT, float(second))
    assert account.lately is Constraint.INPUT
    assert largest(account.shares()) == "endpoint"
    assert account.shares_lately()["endpoint"] == 0


def test_a_clock_that_stands_still_does_no_harm() -> None:
    account = Accounting()
    account.observe(Constraint.CPU, 1.0)
    account.observe(Constraint.CPU, 1.0)
    assert account.shares()["cpu"] == 0


def test_every_constraint_has_words_for_people() -> None:
    from pusher.page import _MEANINGS, NAMES  # noqa: PLC0415

    assert set(IN_WORDS) == set(NAMES) == set(_MEANINGS) == set(Constraint)
