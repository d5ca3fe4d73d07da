"""The ledger: the watermark never passes a message that is not settled."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pusher.model import Chunk
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
    ledger.settle([(2, 2), (3, 1)])
    assert (ledger.watermark, ledger.pending) == (0, 3)
    ledger.settle([(1, 2)])
    assert (ledger.watermark, ledger.pending) == (2, 1)
    ledger.settle([(3, 1)])
    assert (ledger.watermark, ledger.pending, ledger.held_bytes) == (3, 0, 0)


def test_a_chunk_is_found_by_its_number_while_it_is_open() -> None:
    ledger = Ledger()
    chunk = admitted(ledger, 1)
    assert ledger.chunk(chunk.number) is chunk
    ledger.settle([(chunk.number, 1)])
    with pytest.raises(KeyError):
        ledger.chunk(chunk.number)


def test_settling_more_than_was_read_is_an_error() -> None:
    ledger = Ledger()
    admitted(ledger, 1)
    with pytest.raises(AssertionError, match="more often"):
        ledger.settle([(1, 2)])


class LedgerMachine(RuleBasedStateMachine):
    """The ledger against a list of what is open in each chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.chunks: list[Chunk] = []
        self.open_counts: list[int] = []

    @rule(message_count=st.integers(0, 5), size=st.integers(0, 1_000))
    def read(self, message_count: int, size: int) -> None:
        self.chunks.append(admitted(self.ledger, message_count, size))
        self.open_counts.append(message_count)

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
        self.ledger.settle(counts)

    @invariant()
    def agrees_with_the_model(self) -> None:
        is_open = [place for place, count in enumerate(self.open_counts) if count]
        first_open = is_open[0] if is_open else len(self.open_counts)
        assert self.ledger.watermark == first_open
        assert self.ledger.pending == sum(self.open_counts)
        held = sum(len(self.chunks[place].data) for place in is_open)
        held += MESSAGE_OVERHEAD_BYTES * self.ledger.pending
        assert held <= self.ledger.held_bytes <= held + 4_096 * len(is_open)
        for place in is_open:
            assert self.ledger.chunk(self.chunks[place].number) is self.chunks[place]


LedgerMachine.TestCase.settings = settings(deadline=None, max_examples=100)
TestAnySequence = LedgerMachine.TestCase
