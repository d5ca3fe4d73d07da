"""The ledger: the watermark never passes a message that is not settled."""

from __future__ import annotations

import pytest
from fakes.origins import origins_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pusher.model import Chunk, Partition, Position, origin_of
from pusher.watermark import MESSAGE_OVERHEAD_BYTES, Ledger


def chunk_of(size: int = 10) -> Chunk:
    return Chunk(b"x" * size, "in", 0, 1, 1)


def admitted(ledger: Ledger, message_count: int, size: int = 10) -> Chunk:
    chunk = chunk_of(size)
    ledger.admit(chunk)
    ledger.expect(chunk, message_count)
    return chunk


def test_nothing_read_is_watermark_zero() -> None:
    ledger = Ledger()
    assert (ledger.watermark, ledger.pending, ledger.held_bytes) == (0, 0, 0)


def test_chunks_are_numbered_from_one() -> None:
    ledger = Ledger()
    assert [admitted(ledger, 1).number for _ in range(3)] == [1, 2, 3]


def test_a_chunk_without_messages_is_done_at_once() -> None:
    ledger = Ledger()
    admitted(ledger, 0)
    assert (ledger.watermark, ledger.pending, ledger.held_bytes) == (1, 0, 0)


def test_a_chunk_that_is_not_counted_yet_holds_the_watermark() -> None:
    ledger = Ledger()
    ledger.admit(chunk_of())
    assert ledger.watermark == 0
    assert ledger.held_bytes >= 10


def test_the_watermark_waits_for_the_gap() -> None:
    ledger = Ledger()
    for _ in range(3):
        admitted(ledger, 2)
    ledger.settle(origins_of([(2, 2), (3, 1)]))
    assert (ledger.watermark, ledger.pending) == (0, 3)
    ledger.settle(origins_of([(1, 2)]))
    assert (ledger.watermark, ledger.pending) == (2, 1)
    ledger.settle(origins_of([(3, 1)]))
    assert (ledger.watermark, ledger.pending, ledger.held_bytes) == (3, 0, 0)


def test_a_message_is_found_by_its_origin_while_it_is_open() -> None:
    ledger = Ledger()
    chunk = Chunk(b"{1}\n\n{2}\n", "in", 100, 7, 3)
    ledger.admit(chunk)
    ledger.expect(chunk, 2)
    assert ledger.line_of(origin_of(chunk.number, 1)) == ("in", (9, 105, b"{2}"))


def test_lines_that_are_copied_out_let_go_of_their_chunk() -> None:
    ledger = Ledger()
    chunk = Chunk(b"{1}\n" * 1_000, "in", 0, 1, 1_000)
    ledger.admit(chunk)
    ledger.expect(chunk, 2)
    assert ledger.sparse() == {chunk.number: chunk}
    lines = {5: (6, 20, b"{1}"), 900: (901, 3_600, b"{1}")}
    assert not ledger.replace(chunk.number, {5: lines[5]}), "one of two is not all"
    before = ledger.held_bytes
    assert ledger.replace(chunk.number, lines)
    assert ledger.held_bytes < before - 3_000
    assert ledger.sparse() == {}
    assert ledger.line_of(origin_of(chunk.number, 900)) == ("in", lines[900])
    ledger.settle(origins_of([(chunk.number, 2)]))
    assert (ledger.held_bytes, ledger.watermark) == (0, 1)


def test_a_chunk_that_is_still_full_is_not_taken_apart() -> None:
    ledger = Ledger()
    chunk = Chunk(b"{1}\n" * 100, "in", 0, 1, 100)
    ledger.admit(chunk)
    ledger.expect(chunk, 60)
    assert ledger.sparse() == {}


def test_what_is_parked_stays_pending_and_holds_the_watermark_but_no_memory() -> None:
    ledger = Ledger()
    admitted(ledger, 3)
    admitted(ledger, 1)
    ledger.park(origins_of([(1, 2)]))
    ledger.settle(origins_of([(1, 1), (2, 1)]))
    assert (ledger.pending, ledger.parked, ledger.watermark) == (2, 2, 0)
    assert ledger.held_bytes == 0
    assert ledger.lag_bytes == 20


def test_a_chunk_that_was_not_read_to_its_end_holds_the_watermark() -> None:
    ledger = Ledger()
    chunk = chunk_of()
    ledger.admit(chunk)
    ledger.expect(chunk, 1, is_whole=False)
    ledger.settle(origins_of([(1, 1)]))
    assert (ledger.pending, ledger.watermark) == (0, 0)


def positioned(ledger: Ledger, source: str, end: int, count: int, skipped: int = 0) -> Chunk:
    chunk = Chunk(b"x" * 10, source, end - 10, 1, 1, end=Position(end, end, f"{source}{end}"))
    ledger.admit(chunk)
    ledger.expect(chunk, count, skipped=skipped)
    return chunk


def test_each_source_is_settled_up_to_its_last_chunk_without_a_gap_before_it() -> None:
    ledger = Ledger()
    positioned(ledger, "a", 10, 1)
    positioned(ledger, "a", 20, 2, skipped=5)
    positioned(ledger, "b", 10, 1)
    ledger.settle(origins_of([(1, 1), (3, 1)]))
    assert ledger.positions == {"a": Position(10, 10, "a10")}
    assert ledger.settled == 1
    ledger.settle(origins_of([(2, 2)]))
    assert ledger.positions == {"a": Position(20, 20, "a20"), "b": Position(10, 10, "b10")}
    assert ledger.settled == 9


def test_what_an_earlier_run_has_settled_counts_on() -> None:
    ledger = Ledger()
    ledger.resume({"a": Position(10, 10, "a10")}, 7)
    positioned(ledger, "b", 10, 1)
    ledger.settle(origins_of([(1, 1)]))
    assert ledger.positions.keys() == {"a", "b"}
    assert ledger.settled == 8
    ledger.start_pass({})
    assert (ledger.positions, ledger.settled) == ({}, 8)


def test_settling_more_than_was_read_is_an_error() -> None:
    ledger = Ledger()
    admitted(ledger, 1)
    with pytest.raises(AssertionError, match="more often"):
        ledger.settle(origins_of([(1, 2)]))


class LedgerMachine(RuleBasedStateMachine):
    """The ledger against a list of what is open in each chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.chunks: list[Chunk] = []
        self.open_counts: list[int] = []
        self.parked: list[int] = []

    @rule(message_count=st.integers(0, 5), size=st.integers(0, 1_000))
    def read(self, message_count: int, size: int) -> None:
        self.chunks.append(admitted(self.ledger, message_count, size))
        self.open_counts.append(message_count)
        self.parked.append(0)

    @precondition(lambda self: any(self.open_counts))
    @rule(data=st.data())
    def park(self, data: st.DataObject) -> None:
        open_places = [place for place, count in enumerate(self.open_counts) if count]
        place = data.draw(st.sampled_from(open_places))
        count = data.draw(st.integers(1, self.open_counts[place]))
        self.open_counts[place] -= count
        self.parked[place] += count
        self.ledger.park(origins_of([(self.chunks[place].number, count)]))

    @precondition(lambda self: any(self.open_counts))
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        open_places = [place for place, count in enumerate(self.open_counts) if count]
        places = data.draw(st.lists(st.sampled_from(open_places), unique=True, min_size=1))
        counts = []
        for place in places:
            count = data.draw(st.integers(1, self.open_counts[place]))
            self.open_counts[place] -= count
            counts.append((self.chunks[place].number, count))
        self.ledger.settle(origins_of(counts))

    @invariant()
    def agrees_with_the_model(self) -> None:
        is_open = [place for place, count in enumerate(self.open_counts) if count]
        gaps = [
            place for place, count in enumerate(self.open_counts) if count or self.parked[place]
        ]
        first_open = gaps[0] if gaps else len(self.open_counts)
        assert self.ledger.watermark == first_open
        assert self.ledger.pending == sum(self.open_counts) + sum(self.parked)
        held = sum(len(self.chunks[place].data) for place in is_open)
        held += MESSAGE_OVERHEAD_BYTES * sum(self.open_counts)
        assert held <= self.ledger.held_bytes <= held + 4_096 * len(is_open)
        for place in is_open:
            origin = origin_of(self.chunks[place].number, 0)
            if self.chunks[place].data:
                assert self.ledger.line_of(origin)[1][2] == self.chunks[place].data
        assert self.ledger.lag_bytes == sum(len(one.data) for one in self.chunks[first_open:])
        assert self.ledger.parked == sum(self.parked)


LedgerMachine.TestCase.settings = settings(deadline=None, max_examples=100)
TestAnySequence = LedgerMachine.TestCase


# Where messages came from.


@pytest.mark.parametrize("is_copied_out", [False, True])
def test_lines_are_found_by_their_number_and_those_of_topics_by_their_offset(
    is_copied_out: object,
) -> None:
    ledger = Ledger()
    file = Chunk(b"{1}\n\n{2}\n \r\n{3}", "in", 0, 10, 5)
    topic = Chunk(b"{1}\n{2}", "kafka", 0, 1, 2, partition=Partition("orders", 3), offsets=[40, 47])
    for chunk, count in ((file, 3), (topic, 2)):
        ledger.admit(chunk)
        ledger.expect(chunk, count)
    origins = [origin_of(chunk.number, index) for chunk, index in ((file, 1), (file, 2))]
    origins += [origin_of(topic.number, 1)]
    if is_copied_out:
        ledger.settle(origins_of([(file.number, 1), (topic.number, 1)]))
        assert ledger.replace(file.number, dict(list(enumerate(file.lines()))[1:]))
        assert ledger.replace(topic.number, dict(list(enumerate(topic.lines()))[1:]))
    assert ledger.places_of(origins) == {"in": [12, 14], "orders[3]": [47]}
