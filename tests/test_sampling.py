"""Which objects are asked about, and what the bridge's answers say of all the others."""

from __future__ import annotations

import math
import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pusher.model import Batch, Delivery, Lane, SyncMessage
from pusher.protocol import SyncError, SyncStatus
from pusher.sampling import (
    Accepted,
    Sample,
    SampledObject,
    SampleMemory,
    SampleSize,
    SampleState,
    upper_bound_95,
)

LANE = Lane("s", "DEAL")
ACCEPTED_MS = 1_700_000_000_000
CHANGED_MS = 1_600_000_000_000


def delivery_of(
    ids: list[str],
    *,
    lane: Lane = LANE,
    accepted_at_ms: int = ACCEPTED_MS,
    changed_at: int = CHANGED_MS,
) -> Delivery:
    messages = [SyncMessage(one, changed_at=changed_at + n) for n, one in enumerate(ids)]
    return Delivery(Batch(lane, messages, list(range(len(ids)))), accepted_at_ms, 0.01)


def sample_of(size: SampleSize, seed: int = 1) -> Sample:
    return Sample(size, random.Random(seed))


def fed(size: SampleSize, count: int, *, seed: int = 1, batch: int = 200) -> Sample:
    """A sample that has seen `count` messages of different objects of one lane."""
    sample = sample_of(size, seed)
    for start in range(0, count, batch):
        ids = [str(number) for number in range(start, min(count, start + batch))]
        sample.accept(delivery_of(ids), 0.0, remember_last=False)
    return sample


def reservoir_ids(sample: Sample) -> list[str]:
    return [member.accepted.external_id for member in sample._slots]


# The reservoir


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(0, 300), st.integers(0, 99), st.integers(1, 200))
def test_the_reservoir_has_as_many_messages_as_wanted_or_all(
    wanted: int, count: int, seed: int, batch: int
) -> None:
    sample = fed(SampleSize(wanted), count, seed=seed, batch=batch)
    assert sample.reservoir_size == min(wanted, count)
    ids = reservoir_ids(sample)
    assert len(set(ids)) == len(ids)
    assert {member.accepted.external_id for member in sample.objects()} >= set(ids)


def test_four_hundred_messages_are_the_default() -> None:
    assert fed(SampleSize(), 2_000).reservoir_size == 400


def test_every_message_is_as_likely_as_every_other() -> None:
    """Chi-square over many runs, with a bound that a fair choice exceeds once in a million."""
    runs, count, wanted = 3_000, 40, 8
    hits: Counter[str] = Counter()
    for seed in range(runs):
        hits.update(reservoir_ids(fed(SampleSize(wanted), count, seed=seed, batch=7)))
    assert hits.total() == runs * wanted
    expected = runs * wanted / count
    chi_square = sum((hits[str(n)] - expected) ** 2 / expected for n in range(count))
    degrees = count - 1
    assert chi_square < degrees + 6 * math.sqrt(2 * degrees)


def test_late_messages_are_as_likely_as_early_ones_in_a_long_stream() -> None:
    halves: Counter[bool] = Counter()
    for seed in range(60):
        ids = reservoir_ids(fed(SampleSize(50), 20_000, seed=seed))
        halves.update(int(one) < 10_000 for one in ids)
    assert 0.45 < halves[True] / halves.total() < 0.55


def test_the_same_seed_gives_the_same_sample() -> None:
    assert reservoir_ids(fed(SampleSize(10), 500, seed=3)) == reservoir_ids(
        fed(SampleSize(10), 500, seed=3)
    )


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_a_rate_takes_its_share(rate: float) -> None:
    count = 20_000
    size = fed(SampleSize(rate=rate), count).reservoir_size
    assert abs(size - count * rate) < 6 * math.sqrt(count * rate * (1 - rate))


def test_a_rate_of_one_takes_all() -> None:
    assert fed(SampleSize(rate=1.0), 1_234).reservoir_size == 1_234


@pytest.mark.parametrize("size", [SampleSize(0), SampleSize(rate=0.0)])
def test_nothing_wanted_is_nothing_sampled(size: SampleSize) -> None:
    assert size.is_none
    sample = fed(size, 500)
    assert list(sample.objects()) == []
    assert sample.failure_rate_upper_bound() is None


@pytest.mark.parametrize("size", [SampleSize(1), SampleSize(rate=0.01), SampleSize()])
def test_something_wanted_is_not_nothing(size: SampleSize) -> None:
    assert not size.is_none


def test_a_tiny_rate_still_asks_for_one_message_of_the_lane() -> None:
    assert len(list(fed(SampleSize(rate=1e-9), 100).objects())) == 1


class _ZeroDraws(random.Random):
    """Draws the smallest number that a generator may draw."""

    def random(self) -> float:
        return 0.0


def test_the_smallest_draw_is_taken_too() -> None:
    sample = Sample(SampleSize(2), _ZeroDraws())
    sample.accept(delivery_of(["a", "b", "c", "d"]), 0.0, remember_last=False)
    assert sample.reservoir_size == 2


# One message of each lane


def test_every_lane_is_asked_about_even_with_a_small_reservoir() -> None:
    sample = sample_of(SampleSize(1))
    for number in range(100):
        sample.accept(
            delivery_of(["a", "b"], lane=Lane(f"s{number}", "DEAL")), 0.0, remember_last=False
        )
    assert {member.accepted.lane.store_id for member in sample.objects()} == {
        f"s{n}" for n in range(100)
    }


def test_no_more_than_four_hundred_lanes_are_represented() -> None:
    sample = sample_of(SampleSize(1))
    for number in range(1_000):
        sample.accept(delivery_of(["a"], lane=Lane(f"s{number}", "DEAL")), 0.0, remember_last=False)
    assert 400 <= len(list(sample.objects())) <= 401


def test_a_lane_is_represented_once() -> None:
    sample = sample_of(SampleSize(1))
    for start in range(0, 1_000, 10):
        ids = [str(number) for number in range(start, start + 10)]
        sample.accept(delivery_of(ids), 0.0, remember_last=False)
    assert 1 <= len(list(sample.objects())) <= 2


def test_the_bound_comes_from_the_reservoir_alone() -> None:
    """A lane's own representative says nothing of the failure rate."""
    sample = sample_of(SampleSize(2), seed=5)
    for number in range(50):
        sample.accept(delivery_of(["a"], lane=Lane(f"s{number}", "DEAL")), 0.0, remember_last=False)
    for member in sample.objects():
        if member in sample._slots:
            member.state = SampleState.CONFIRMED
    assert sample.failure_rate_upper_bound() == pytest.approx(upper_bound_95(0, 2))


def test_what_is_not_confirmed_counts_as_failed_in_the_bound() -> None:
    sample = fed(SampleSize(10), 10)
    members = list(sample.objects())
    for member in members[:7]:
        member.state = SampleState.CONFIRMED
    members[7].state = SampleState.FAILED
    assert sample.failure_rate_upper_bound() == pytest.approx(upper_bound_95(3, 10))


# An object stands for its last accepted message


def test_an_object_stands_for_its_last_accepted_message() -> None:
    sample = sample_of(SampleSize(10))
    sample.accept(delivery_of(["a"]), 1.0, remember_last=False)
    (member,) = sample.objects()
    member.state = SampleState.CONFIRMED
    later = delivery_of(["b", "a"], accepted_at_ms=ACCEPTED_MS + 5_000, changed_at=CHANGED_MS + 99)
    sample.accept(later, 6.0, remember_last=False)
    assert member.accepted.changed_at_ms == CHANGED_MS + 100
    assert member.accepted.bridge_ms == ACCEPTED_MS + 5_000
    assert member.accepted.at_s == 6.0
    assert member.state is SampleState.PENDING
    assert member.next_poll_s >= 6.0


def test_within_a_batch_the_last_message_of_the_object_counts() -> None:
    for seed in range(20):
        sample = sample_of(SampleSize(1), seed)
        sample.accept(delivery_of(["a", "a", "a"]), 0.0, remember_last=False)
        (member,) = sample.objects()
        assert member.accepted.changed_at_ms == CHANGED_MS + 2


def test_the_same_id_in_another_lane_is_another_object() -> None:
    sample = sample_of(SampleSize(10))
    sample.accept(delivery_of(["a"]), 1.0, remember_last=False)
    sample.accept(delivery_of(["a"], lane=Lane("t", "DEAL")), 2.0, remember_last=False)
    assert len(list(sample.objects())) == 2
    assert sorted(member.accepted.at_s for member in sample.objects()) == [1.0, 2.0]


@settings(deadline=None)
@given(
    st.integers(1, 6),
    st.lists(st.lists(st.sampled_from("abcde"), min_size=1, max_size=6), min_size=1, max_size=12),
    st.integers(0, 99),
)
def test_members_always_know_the_last_message_of_their_object(
    wanted: int, batches: list[list[str]], seed: int
) -> None:
    sample = sample_of(SampleSize(wanted), seed)
    last: dict[str, tuple[int, int]] = {}
    for number, ids in enumerate(batches):
        accepted_ms = ACCEPTED_MS + number * 1_000
        base = CHANGED_MS + number * 100
        delivery = delivery_of(ids, accepted_at_ms=accepted_ms, changed_at=base)
        sample.accept(delivery, float(number), remember_last=False)
        last.update({one: (base + place, accepted_ms) for place, one in enumerate(ids)})
    assert sample.reservoir_size == min(wanted, sum(map(len, batches)))
    members = list(sample.objects())
    assert sum(member.slots for member in members) == sample.reservoir_size
    assert len({member.accepted.external_id for member in members}) == len(members)
    for member in members:
        assert (member.accepted.changed_at_ms, member.accepted.bridge_ms) == last[
            member.accepted.external_id
        ]


# What a phase waits for


def test_the_last_accepted_message_of_every_lane_can_be_kept() -> None:
    sample = sample_of(SampleSize(0))
    for store in ("s", "t"):
        for ids in (["a", "b"], ["c", "d"]):
            sample.accept(delivery_of(ids, lane=Lane(store, "DEAL")), 0.0, remember_last=True)
    sample.keep_last()
    found = {
        (member.accepted.lane.store_id, member.accepted.external_id) for member in sample.pending()
    }
    assert found >= {("s", "d"), ("t", "d")}
    assert not {one for _, one in found} & {"a", "b"}


def test_a_cleared_sample_holds_nothing() -> None:
    sample = fed(SampleSize(5), 100)
    sample.clear()
    assert list(sample.objects()) == []
    assert sample.reservoir_size == 0


# What a status means


def member_of() -> SampledObject:
    return SampledObject(Accepted(LANE, "1", CHANGED_MS, ACCEPTED_MS, 0.0))


def error_of(
    *, changed_at: int | str = 1, errored_at: int | str = 1, status: str = "OPEN"
) -> SyncError:
    return SyncError(
        "INVALID_EMAIL_ADDRESS", changed_at=changed_at, errored_at=errored_at, status=status
    )


BEFORE, AFTER, LATER = ACCEPTED_MS - 60_000, ACCEPTED_MS + 500, ACCEPTED_MS + 900
PENDING, CONFIRMED, FAILED = SampleState.PENDING, SampleState.CONFIRMED, SampleState.FAILED


@pytest.mark.parametrize(
    ("name", "processed_at", "errors", "expected"),
    [
        ("nothing is known", None, [], PENDING),
        ("an old success", BEFORE, [], PENDING),
        ("a success after the 2xx", AFTER, [], CONFIRMED),
        ("a success within the slack of the clocks", ACCEPTED_MS - 1_000, [], CONFIRMED),
        ("a success as a digit string", str(AFTER), [], CONFIRMED),
        ("an old success as a digit string", str(BEFORE), [], PENDING),
        ("an old error", None, [error_of(errored_at=BEFORE)], PENDING),
        (
            "an old error of a message with the same changedAt",
            None,
            [error_of(changed_at=CHANGED_MS, errored_at=BEFORE)],
            PENDING,
        ),
        ("an old error and a new success", AFTER, [error_of(errored_at=BEFORE)], CONFIRMED),
        (
            "an old error of the same changedAt and a new success",
            AFTER,
            [error_of(changed_at=CHANGED_MS, errored_at=BEFORE)],
            CONFIRMED,
        ),
        ("our error", None, [error_of(changed_at=CHANGED_MS, errored_at=AFTER)], FAILED),
        (
            "our error in digit strings",
            None,
            [error_of(changed_at=str(CHANGED_MS), errored_at=str(AFTER))],
            FAILED,
        ),
        (
            "our error, though the object was processed before",
            BEFORE,
            [error_of(changed_at=CHANGED_MS, errored_at=AFTER)],
            FAILED,
        ),
        (
            "our error, then the success of another message",
            LATER,
            [error_of(changed_at=CHANGED_MS, errored_at=AFTER)],
            FAILED,
        ),
        (
            "our error, resolved since",
            LATER,
            [error_of(changed_at=CHANGED_MS, errored_at=AFTER, status="RESOLVED")],
            CONFIRMED,
        ),
        ("another's error after the 2xx", None, [error_of(errored_at=AFTER)], FAILED),
        ("another's error after the success", AFTER, [error_of(errored_at=LATER)], FAILED),
        ("another's error with the success", AFTER, [error_of(errored_at=AFTER)], FAILED),
        ("another's error before the success", LATER, [error_of(errored_at=AFTER)], CONFIRMED),
        (
            "the guilty error is not the first",
            None,
            [error_of(errored_at=BEFORE), error_of(changed_at=CHANGED_MS, errored_at=AFTER)],
            FAILED,
        ),
        ("a time that is no number", "yesterday", [], PENDING),
    ],
)
def test_a_status_is_judged_by_what_happened_after_the_2xx(
    name: str, processed_at: int | str | None, errors: list[SyncError], expected: SampleState
) -> None:
    member = member_of()
    assert member.judge(SyncStatus(processed_at, errors=errors), 60.0) is expected, name
    assert member.state is expected


@pytest.mark.parametrize(
    ("status", "later"),
    [
        (SyncStatus(ACCEPTED_MS - 1), CONFIRMED),
        (
            SyncStatus(None, errors=[error_of(changed_at=CHANGED_MS, errored_at=ACCEPTED_MS - 1)]),
            FAILED,
        ),
    ],
)
def test_what_is_dated_just_before_the_2xx_is_doubted_for_a_while(
    status: SyncStatus, later: SampleState
) -> None:
    """It may be of a push of the same messages a second ago: these are not processed yet."""
    member = member_of()
    assert member.judge(status, 4.9) is PENDING
    assert member.judge(status, 5.0) is later


def test_an_error_just_before_the_2xx_does_not_hide_the_success_that_follows() -> None:
    member = member_of()
    old = error_of(changed_at=CHANGED_MS, errored_at=ACCEPTED_MS - 500)
    assert member.judge(SyncStatus(ACCEPTED_MS - 900, errors=[old]), 0.1) is PENDING
    resolved = error_of(changed_at=CHANGED_MS, errored_at=ACCEPTED_MS - 500, status="RESOLVED")
    assert member.judge(SyncStatus(AFTER, errors=[resolved]), 0.2) is CONFIRMED


def test_in_the_second_of_the_2xx_an_early_error_is_doubted_and_a_success_is_not() -> None:
    """The place in that second is a guess by another clock, which must not make all wait."""
    member = SampledObject(Accepted(LANE, "1", CHANGED_MS, ACCEPTED_MS + 500, 0.0))
    early = error_of(changed_at=CHANGED_MS, errored_at=ACCEPTED_MS + 400)
    assert member.judge(SyncStatus(None, errors=[early]), 1.0) is PENDING
    late = error_of(changed_at=CHANGED_MS, errored_at=ACCEPTED_MS + 500)
    assert member.judge(SyncStatus(None, errors=[late]), 1.0) is FAILED
    member.state = PENDING
    assert member.judge(SyncStatus(ACCEPTED_MS), 1.0) is CONFIRMED


def test_a_failed_object_keeps_its_error() -> None:
    member = member_of()
    guilty = error_of(changed_at=CHANGED_MS, errored_at=AFTER)
    member.judge(SyncStatus(None, errors=[error_of(errored_at=BEFORE), guilty]), 1.0)
    assert member.error is guilty


def test_an_absurd_time_is_no_confirmation_and_no_crash() -> None:
    assert member_of().judge(SyncStatus("x" * 5_000), 1.0) is PENDING
    member_of().judge(SyncStatus("9" * 5_000), 1.0)


# The bound


@pytest.mark.parametrize(
    ("failed", "sampled", "expected"),
    [
        (0, 1, 0.95),
        (0, 10, 0.2589),
        (0, 300, 0.00994),
        (0, 400, 0.00746),
        (1, 10, 0.3942),
        (1, 100, 0.0466),
        (5, 100, 0.1023),
        (50, 100, 0.5863),
        (99, 100, 0.99949),
        (1, 1, 1.0),
        (100, 100, 1.0),
    ],
)
def test_the_bound_is_clopper_and_pearsons(failed: int, sampled: int, expected: float) -> None:
    assert upper_bound_95(failed, sampled) == pytest.approx(expected, rel=0.003)


@settings(deadline=None)
@given(st.integers(1, 2_000), st.data())
def test_the_bound_covers_the_rate_and_rises_with_the_failures(
    sampled: int, data: st.DataObject
) -> None:
    failed = data.draw(st.integers(0, sampled))
    bound = upper_bound_95(failed, sampled)
    assert failed / sampled <= bound <= 1.0
    if failed:
        assert upper_bound_95(failed - 1, sampled) < bound
    assert upper_bound_95(failed, sampled + 1) <= bound


@pytest.mark.parametrize(("failed", "sampled"), [(3, 50), (0, 20), (17, 60)])
def test_so_few_failures_have_a_chance_of_five_percent_at_the_bound(
    failed: int, sampled: int
) -> None:
    rate = upper_bound_95(failed, sampled)
    chance = sum(
        math.comb(sampled, k) * rate**k * (1 - rate) ** (sampled - k) for k in range(failed + 1)
    )
    assert chance == pytest.approx(0.05, rel=1e-6)


def test_the_bound_holds_for_a_hundred_thousand_samples() -> None:
    assert upper_bound_95(0, 100_000) == pytest.approx(3 / 100_000, rel=0.01)
    assert 0.5 < upper_bound_95(50_000, 100_000) < 0.504


# Going on from an earlier run


@pytest.mark.parametrize("size", [SampleSize(20), SampleSize(rate=0.1)])
def test_a_sample_that_went_through_a_checkpoint_goes_on_as_if_nothing_had_been(
    size: SampleSize,
) -> None:
    whole, first = fed(size, 1_000, seed=3), fed(size, 400, seed=3)
    memory = msgspec.json.decode(msgspec.json.encode(first.memory()), type=SampleMemory)
    again = Sample(size, first._rng)
    again.restore(memory, 0.0)
    for start in range(400, 1_000, 200):
        ids = [str(number) for number in range(start, start + 200)]
        again.accept(delivery_of(ids), 0.0, remember_last=False)
    assert again.memory().seen == whole.memory().seen == 1_000
    assert len(again.memory().objects) == len(set(reservoir_ids(again)) | {kept_id(again)})
    if size.rate is None:
        assert again.reservoir_size == 20
    else:
        assert 60 <= again.reservoir_size <= 140


def kept_id(sample: Sample) -> str:
    """The object that stands for the lane."""
    return next(one.accepted.external_id for one in sample.objects() if one.is_kept)


def test_early_and_late_messages_are_as_likely_when_the_run_was_cut_off_between() -> None:
    late = 0
    for seed in range(200):
        first = fed(SampleSize(10), 500, seed=seed, batch=100)
        again = Sample(SampleSize(10), first._rng)
        again.restore(first.memory(), 0.0)
        for start in range(500, 1_000, 100):
            ids = [str(number) for number in range(start, start + 100)]
            again.accept(delivery_of(ids), 0.0, remember_last=False)
        late += sum(int(one) >= 500 for one in reservoir_ids(again))
    assert 900 <= late <= 1_100


def test_what_was_confirmed_or_failed_stays_so_through_a_checkpoint() -> None:
    sample = fed(SampleSize(5), 5)
    one, other, *_ = sample.objects()
    one.state = SampleState.CONFIRMED
    other.state, other.error = SampleState.FAILED, SyncError(type="X", details="why")
    again = sample_of(SampleSize(5))
    again.restore(sample.memory(), 0.0)
    states = {member.accepted.external_id: member for member in again.objects()}
    assert states[one.accepted.external_id].state is SampleState.CONFIRMED
    failed = states[other.accepted.external_id]
    assert (failed.state, failed.error) == (SampleState.FAILED, other.error)
    assert len(again.pending()) == len(sample.pending())


def test_who_wants_no_sample_gets_none_from_a_checkpoint() -> None:
    again = sample_of(SampleSize(0))
    again.restore(fed(SampleSize(5), 5).memory(), 0.0)
    assert list(again.objects()) == []
