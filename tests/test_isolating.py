"""How a refused batch is split until the guilty are alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pusher.isolating import Quarantine, split
from pusher.model import Batch, Lane, Refusal, SyncMessage, origin_of


def batch_of(count: int) -> Batch:
    messages = [SyncMessage(f"o{number}", changed_at=number) for number in range(count)]
    origins = [origin_of(1, number) for number in range(count)]
    return Batch(Lane("s", "DEAL"), messages, origins, b"the whole body")


@settings(deadline=None)
@given(st.integers(2, 200))
def test_the_parts_cover_the_batch_in_order(count: int) -> None:
    batch = batch_of(count)
    parts = split(batch)
    assert [message for part in parts for message in part.messages] == batch.messages
    assert [origin for part in parts for origin in part.origins] == batch.origins
    assert {part.lane for part in parts} == {batch.lane}


@settings(deadline=None)
@given(st.integers(2, 200))
def test_the_parts_are_smaller_and_of_nearly_equal_size(count: int) -> None:
    sizes = [len(part) for part in split(batch_of(count))]
    assert len(sizes) >= 2
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


def test_a_part_does_not_carry_the_whole_body() -> None:
    assert all(part.body != b"the whole body" for part in split(batch_of(5)))


def requests_to_isolate(batch: Batch, guilty: set[int]) -> tuple[int, list[int]]:
    """Ask as the sender does, part after part; the first request is the whole batch."""
    requests, alone = 0, []
    parts = [batch]
    while parts:
        part = parts.pop(0)
        requests += 1
        numbers = [message.changed_at for message in part.messages]
        if guilty.isdisjoint(numbers):
            continue
        if len(part) == 1:
            alone += numbers
        else:
            parts[:0] = split(part)
    return requests, alone  # type: ignore[return-value]


@pytest.mark.parametrize("poison", [0, 1, 57, 99, 100, 150, 198, 199])
def test_one_poison_among_two_hundred_takes_at_most_seventeen_requests(poison: int) -> None:
    requests, alone = requests_to_isolate(batch_of(200), {poison})
    assert alone == [poison]
    assert requests <= 17


def test_wherever_the_poison_is_seventeen_requests_are_enough() -> None:
    batch = batch_of(200)
    assert max(requests_to_isolate(batch, {poison})[0] for poison in range(200)) <= 17


@settings(deadline=None)
@given(st.integers(1, 200), st.data())
def test_all_the_guilty_are_found_and_nobody_else(count: int, data: st.DataObject) -> None:
    guilty = data.draw(st.sets(st.integers(0, count - 1)))
    _, alone = requests_to_isolate(batch_of(count), guilty)
    assert alone == sorted(guilty)


def refusal_of(number: int, store: str = "s") -> Refusal:
    message = SyncMessage(external_object_id=str(number))
    batch = Batch(Lane(store, "DEAL"), [message], [number])
    return Refusal(batch, "refused", f"no {number}", 400, 1)


def test_what_is_kept_back_comes_out_whole_and_in_order() -> None:
    quarantine = Quarantine()
    quarantine.keep([refusal_of(1), refusal_of(2)], [refusal_of(4), refusal_of(3)])
    assert quarantine.lanes() == {Lane("s", "DEAL")}
    singles, batches = quarantine.release()
    assert [refusal.detail for refusal in singles] == ["no 1", "no 2"]
    assert [refusal.detail for refusal in batches] == ["no 3", "no 4"]  # The stack's top is last.
    assert quarantine.is_empty
    assert not quarantine.is_suspicious


def test_three_batches_refused_in_a_row_are_the_endpoints_doing() -> None:
    quarantine = Quarantine()
    seen = []
    for number in range(3):
        quarantine.keep([refusal_of(number)], [])
        seen.append((quarantine.is_suspicious, quarantine.is_systemic))
    assert seen == [(True, False), (True, False), (True, True)]


def test_an_acceptance_between_refusals_clears_the_endpoint() -> None:
    quarantine = Quarantine()
    for number in range(10):
        quarantine.keep([refusal_of(number)], [])
        quarantine.accepted()
        assert not quarantine.is_suspicious
    assert not quarantine.is_systemic
    assert len(quarantine.release()[0]) == 10
