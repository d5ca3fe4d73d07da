"""Chunks that are held for a few messages are let go of, where that takes less than they did."""

from __future__ import annotations

import random

import orjson
import pytest
from fakes.scanner import needs_scanner

from pusher.batching import Batcher
from pusher.decoding import Decoder
from pusher.model import Chunk
from pusher.sampling import Sample, SampleSize
from pusher.settling import Settlement
from pusher.stopping import Stopping
from pusher.tally import Tally
from pusher.watermark import Ledger

CHUNKS = 20
"""More than pass between one look at what is held and the next."""


class Held:
    """A run whose batches are delivered as soon as they are full."""

    def __init__(self) -> None:
        self.ledger, self.batcher = Ledger(), Batcher(keep_order=False)
        self.settlement = Settlement(
            ledger=self.ledger,
            tally=Tally(),
            batcher=self.batcher,
            sample=Sample(SampleSize(0), random.Random(0)),
            dead_letters=None,
            stopping=Stopping(),
        )

    @property
    def held_bytes(self) -> int:
        return self.ledger.held_bytes + self.batcher.held_bytes

    def take_in(self, stores: list[str], size: int) -> None:
        """A chunk with a message of a size for each store."""
        lines = [
            orjson.dumps(
                {
                    "storeId": store,
                    "objectType": "DEAL",
                    "externalObjectId": str(number),
                    "changedAt": 1,
                    "properties": {"text": "x" * size},
                }
            )
            for number, store in enumerate(stores)
        ]
        chunk = Chunk(b"\n".join(lines) + b"\n", "in.ndjson", 0, 1, len(lines))
        self.ledger.admit(chunk)
        groups = Decoder(takes_groups=True).decode(chunk, 0).groups
        assert groups is not None
        self.ledger.expect(chunk, len(lines))
        for batch in self.batcher.add_groups(groups, chunk, 0.0):
            self.ledger.settle(batch.origins)


@needs_scanner
@pytest.mark.parametrize("is_behind_much", [False, True])
def test_copies_out_of_chunks_take_less_than_these_did(*, is_behind_much: bool) -> None:
    held = Held()
    if is_behind_much:  # All of this is open in the lane before what the sparse chunks have for it.
        held.take_in(["slow"] * 100, 8_000)
    for _ in range(CHUNKS):
        held.take_in(["hot"] * 40 + ["slow"] * 4, 1_000)
    sparse = held.ledger.sparse()
    assert len(sparse) == CHUNKS
    before_bytes, lines_bytes = held.held_bytes, held.ledger.held_bytes
    held.settlement.copy_out(1 << 20)
    if is_behind_much:
        assert held.held_bytes == before_bytes, "what is left is as it was, as copies take more"
        assert held.ledger.sparse() == sparse
    else:
        assert held.held_bytes < before_bytes / 2
        assert held.ledger.held_bytes < lines_bytes
        assert held.ledger.sparse() == {}
    (batch,) = held.batcher.drain()
    assert len(batch) == 4 * CHUNKS + 100 * is_behind_much
    held.ledger.settle(batch.origins)
    assert held.ledger.pending == held.batcher.held_bytes == held.ledger.chunk_bytes == 0
