"""How a refused batch is taken apart until the guilty are alone, and who is to blame."""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pusher.isolating import Quarantine, Splitter
from pusher.model import Batch, Lane, Refusal, SyncMessage, origin_of


def batch_of(count: int) -> Batch:
    messages = [SyncMessage(f"o{number}", changed_at=number) for number in range(count)]
    origins = [origin_of(1, number) for number in range(count)]
    return Batch(Lane("s", "DEAL"), messages, origins, b"the whole body")


def refusal_of(batch: Batch, named: dict[int, str] | None = None) -> Refusal:
    return Refusal(batch, "refused", "bad", 400, 1, named or {})


def numbers_of(part: Batch) -> list[int]:
    return [message.changed_at for message in part.messages]  # type: ignore[misc]


Names = Callable[[list[int]], dict[int, str]]
"""Which messages of a refused batch the endpoint names, by the places of the guilty ones."""


def names_nobody(places: list[int]) -> dict[int, str]:
    del places
    return {}


def names_all(places: list[int]) -> dict[int, str]:
    return dict.fromkeys(places, "this one")


def names_the_first(places: list[int]) -> dict[int, str]:
    return {places[0]: "this one"}


def isolate(count: int, guilty: set[int], names: Names = names_nobody) -> tuple[int, list[int]]:
    """Ask as the sender does, part after part; the first request is the whole batch.

    Returns the number of requests, and who was found guilty.
    """
    sent: list[list[int]] = []

    def answer_to(part: Batch) -> Refusal | None:
        sent.append(numbers_of(part))
        places = [place for place, number in enumerate(sent[-1]) if number in guilty]
        return refusal_of(part, names(places)) if places else None

    refusal = answer_to(batch_of(count))
    if refusal is None:
        return 1, []
    splitter, alone = Splitter(refusal), []
    while (part := splitter.next_part()) is not None:
        answer = answer_to(part)
        alone += splitter.accepted(part) if answer is None else splitter.refused(answer)
    return len(sent), [number for one in alone for number in numbers_of(one.batch)]


@settings(deadline=None)
@given(st.integers(2, 200), st.data(), st.sampled_from([names_nobody, names_all, names_the_first]))
def test_all_the_guilty_are_found_and_nobody_else(
    count: int, data: st.DataObject, names: Names
) -> None:
    guilty = data.draw(st.sets(st.integers(0, count - 1)))
    _, alone = isolate(count, guilty, names)
    assert sorted(alone) == sorted(guilty)


@settings(deadline=None)
@given(st.integers(2, 200), st.data())
def test_the_accepted_parts_go_out_in_source_order(count: int, data: st.DataObject) -> None:
    guilty = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    splitter = Splitter(refusal_of(batch_of(count)))
    accepted: list[int] = []
    while (part := splitter.next_part()) is not None:
        if guilty.isdisjoint(numbers_of(part)):
            accepted += numbers_of(part)
            splitter.accepted(part)
        else:
            splitter.refused(refusal_of(part))
    assert accepted == [number for number in range(count) if number not in guilty]


def test_a_part_does_not_carry_the_whole_body() -> None:
    part = Splitter(refusal_of(batch_of(5))).next_part()
    assert part is not None
    assert part.body != b"the whole body"


@pytest.mark.parametrize("poison", range(0, 200, 7))
def test_one_poison_among_two_hundred_takes_at_most_seventeen_requests(poison: int) -> None:
    requests, alone = isolate(200, {poison})
    assert alone == [poison]
    assert requests <= 17


@pytest.mark.parametrize(("bad", "requests"), [(1, 16.3), (3, 36), (10, 85), (25, 146), (40, 187)])
def test_isolation_takes_hardly_more_requests_than_the_best_way_known(
    bad: int, requests: float
) -> None:
    """Quarters, and single messages where over a fifth is bad, by a simulation of their own."""
    rng = random.Random(bad)
    needed = [isolate(200, set(rng.sample(range(200), bad)))[0] for _ in range(200)]
    assert fmean(needed) <= 1.1 * requests


def test_a_batch_that_is_all_bad_costs_little_more_than_its_messages() -> None:
    assert isolate(200, set(range(200)))[0] <= 220


@pytest.mark.parametrize("bad", [1, 10, 150])
def test_an_endpoint_that_names_the_guilty_is_asked_twice(bad: int) -> None:
    guilty = set(random.Random(bad).sample(range(200), bad))
    assert isolate(200, guilty, names_all)[0] == 2


def test_one_that_names_the_wrong_ones_is_found_out() -> None:
    def names_a_neighbour(places: list[int]) -> dict[int, str]:
        return {places[0] + 1: "this one"}

    requests, alone = isolate(200, {50}, names_a_neighbour)
    assert alone == [50]
    assert requests <= 40


def test_one_that_names_one_after_the_other_is_not_believed_for_ever() -> None:
    requests, alone = isolate(200, set(range(0, 200, 2)), names_the_first)
    assert sorted(alone) == list(range(0, 200, 2))
    assert requests <= 300


def test_what_is_not_decided_can_be_kept_for_later_in_its_order() -> None:
    splitter = Splitter(refusal_of(batch_of(100)))
    first = splitter.next_part()
    assert first is not None
    splitter.refused(refusal_of(first))
    rest = splitter.rest()
    assert [number for one in rest for number in numbers_of(one.batch)] == list(range(100))
    assert splitter.next_part() is None


def test_cuts_are_counted_once() -> None:
    splitter = Splitter(refusal_of(batch_of(8)))
    assert (splitter.take_splits(), splitter.take_splits()) == (1, 0)


LANE, OTHER = Lane("s", "DEAL"), Lane("other", "DEAL")


def single(number: int, lane: Lane = LANE) -> Refusal:
    message = SyncMessage(external_object_id=str(number))
    return Refusal(Batch(lane, [message], [number]), "refused", f"no {number}", 400, 1)


def keep(quarantine: Quarantine, *singles: Refusal, is_doubted: bool = False) -> None:
    quarantine.keep(singles[0].batch.lane, list(singles), [], is_doubted=is_doubted)


def test_what_is_kept_back_is_given_back_once_something_is_accepted() -> None:
    quarantine = Quarantine()
    keep(quarantine, single(1), single(2))
    assert quarantine.to_release() == []
    quarantine.accepted(OTHER)
    assert quarantine.to_release() == [LANE]
    singles, batches = quarantine.take(LANE)
    assert [refusal.detail for refusal in singles] == ["no 1", "no 2"]
    assert batches == []
    assert quarantine.is_empty
    assert not quarantine.is_suspicious


def test_three_batches_refused_in_a_row_are_the_endpoints_doing() -> None:
    quarantine = Quarantine()
    seen = []
    for number in range(3):
        keep(quarantine, single(number))
        seen.append((quarantine.is_suspicious, quarantine.is_systemic))
    assert seen == [(True, False), (True, False), (True, True)]


def test_an_acceptance_between_refusals_clears_the_endpoint() -> None:
    quarantine = Quarantine()
    for number in range(10):
        keep(quarantine, single(number))
        quarantine.accepted(LANE)
        assert not quarantine.is_suspicious
    assert not quarantine.is_systemic
    assert len(quarantine.take(LANE)[0]) == 10


def test_a_doubted_lane_is_cleared_by_its_own_success_only() -> None:
    quarantine = Quarantine()
    keep(quarantine, single(1), is_doubted=True)
    quarantine.accepted(OTHER)
    assert quarantine.to_release() == []
    assert quarantine.doubted() == [LANE]
    quarantine.accepted(LANE)
    assert quarantine.to_release() == [LANE]
    assert quarantine.doubted() == []


def test_a_lane_that_only_ever_is_refused_is_parked() -> None:
    quarantine = Quarantine()
    for number in range(6):
        assert quarantine.to_park() == []
        quarantine.refused_alone(single(number))
    assert quarantine.to_park() == [LANE]
    quarantine.park(LANE, "unknown store")
    assert quarantine.is_parked(LANE)
    assert quarantine.parked == {LANE: "unknown store"}
    assert quarantine.to_park() == []


def test_a_lane_that_had_a_success_is_never_parked() -> None:
    quarantine = Quarantine()
    quarantine.accepted(LANE)
    for number in range(50):
        quarantine.refused_alone(single(number))
    assert quarantine.to_park() == []


def test_where_lanes_do_not_fail_alone_none_is_doubted() -> None:
    quarantine = Quarantine(lanes_fail_alone=False)
    assert quarantine.is_proven(LANE)
    keep(quarantine, single(1), is_doubted=True)
    assert quarantine.doubted() == []
    quarantine.accepted(OTHER)
    assert quarantine.to_release() == [LANE]


def test_what_was_said_of_all_that_is_kept_back_is_known() -> None:
    quarantine = Quarantine()
    keep(quarantine, single(1), single(2, OTHER))
    assert quarantine.details() == ["no 1", "no 2"]
    assert quarantine.statuses() == {400}


class IsolationMachine(RuleBasedStateMachine):
    """Several batches are taken apart at the same time, by an endpoint that may fail meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.quarantine = Quarantine()
        self.is_up = True
        self.count = 0
        self.bad: set[int] = set()
        self.splitters: list[tuple[Lane, Splitter]] = []
        self.open: list[set[int]] = []
        self.accepted: list[list[int]] = []
        self.refused_alone: list[int] = []
        self.kept: dict[int, bool] = {}
        """Numbers that are kept back, and whether the endpoint was up when they were refused."""

    def refuses(self, batch: Batch) -> bool:
        return not self.is_up or not self.bad.isdisjoint(numbers_of(batch))

    @rule(size=st.integers(1, 40), data=st.data(), lane=st.sampled_from([LANE, OTHER]))
    def send_a_batch(self, size: int, data: st.DataObject, lane: Lane) -> None:
        numbers = range(self.count, self.count + size)
        self.count += size
        self.bad |= data.draw(st.sets(st.sampled_from(numbers)))
        messages = [SyncMessage(str(number), changed_at=number) for number in numbers]
        batch = Batch(lane, messages, [origin_of(1, number) for number in numbers])
        if not self.refuses(batch):
            self.quarantine.accepted(lane)
        elif size > 1:
            self.splitters.append((lane, Splitter(refusal_of(batch))))
            self.open.append(set(numbers))
            self.accepted.append([])

    @precondition(lambda self: self.splitters)
    @rule(data=st.data())
    def send_a_part(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(range(len(self.splitters))))
        lane, splitter = self.splitters[place]
        part = splitter.next_part()
        if part is None:
            assert not self.open[place], "a splitter that has ended has decided all"
            return
        if self.refuses(part):
            for one in splitter.refused(refusal_of(part)):
                (number,) = numbers_of(one.batch)
                self.open[place].remove(number)
                self.refused_alone.append(number)
                self.quarantine.refused_alone(one)
                self.quarantine.keep(
                    lane, [one], [], is_doubted=not self.quarantine.is_proven(lane)
                )
                self.kept[number] = self.is_up
        else:
            numbers = numbers_of(part)
            self.open[place] -= set(numbers)
            self.accepted[place] += numbers
            assert splitter.accepted(part) == []
            self.quarantine.accepted(lane)

    @precondition(lambda self: self.splitters)
    @rule(data=st.data())
    def keep_the_rest_for_later(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(range(len(self.splitters))))
        lane, splitter = self.splitters[place]
        rest = splitter.rest()
        if rest:
            self.quarantine.keep(lane, [], rest, is_doubted=False)
            numbers = [number for one in rest for number in numbers_of(one.batch)]
            assert numbers == sorted(self.open[place])
            self.open[place] = set()

    @rule()
    def release(self) -> None:
        for lane in self.quarantine.to_release():
            assert not self.quarantine.is_suspicious
            singles, batches = self.quarantine.take(lane)
            for one in singles:
                self.kept.pop(numbers_of(one.batch)[0])
            for one in batches:
                if len(one.batch) > 1:
                    self.splitters.append((lane, Splitter(one)))
                    self.open.append(set(numbers_of(one.batch)))
                    self.accepted.append([])

    @rule()
    def fail_or_come_back(self) -> None:
        self.is_up = not self.is_up

    @invariant()
    def each_is_decided_once_and_the_innocent_only_by_a_failing_endpoint(self) -> None:
        assert len(set(self.refused_alone)) == len(self.refused_alone)
        assert all(number in self.bad for number, was_up in self.kept.items() if was_up)
        for accepted in self.accepted:
            assert accepted == sorted(accepted)
            assert self.bad.isdisjoint(accepted)

    @invariant()
    def nothing_is_given_back_while_nothing_is_accepted(self) -> None:
        if self.quarantine.is_suspicious:
            assert self.quarantine.to_release() == []


IsolationMachine.TestCase.settings = settings(deadline=None, max_examples=100)
TestAnySequence = IsolationMachine.TestCase
