"""What is free is given back where the process takes more memory than it may."""

from __future__ import annotations

import platform
import subprocess
import sys
from subprocess import PIPE

import pytest

from pusher import memory
from pusher.memory import Memory

MIB = 1 << 20
BLOCK_BYTES = 100 << 10
TAKEN_BYTES = 100 * MIB

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


@pytest.fixture
def taken() -> Memory:
    """With nothing to give back of what was there before."""
    library = memory._c_library()
    library.malloc_trim(0)
    return Memory()


def with_gaps() -> list[bytes]:
    """A small block behind each large one, so that what is free lies between what is used."""
    pairs = [(bytes(BLOCK_BYTES), bytes(1_000)) for _ in range(TAKEN_BYTES // BLOCK_BYTES)]
    return [small for _, small in pairs]


@needs_glibc
def test_gaps_are_given_back(taken: Memory) -> None:
    small = with_gaps()
    assert taken.taken_bytes() > TAKEN_BYTES // 2
    taken.keep_within(TAKEN_BYTES // 2)
    assert taken.taken_bytes() < TAKEN_BYTES // 4
    assert len(small) == TAKEN_BYTES // BLOCK_BYTES


@needs_glibc
def test_nothing_is_given_back_within_the_limit(taken: Memory) -> None:
    small = with_gaps()
    taken.keep_within(2 * TAKEN_BYTES)
    assert taken.taken_bytes() > TAKEN_BYTES // 2
    del small


LARGE_BLOCKS = """
from pusher.memory import Memory
taken = Memory()
for _ in range(5):
    block = b"x" * (20 << 20)
    with_it = taken.taken_bytes()
    del block
    print(with_it >> 20, taken.taken_bytes() >> 20)
"""


@needs_glibc
def test_large_blocks_are_given_back_as_soon_as_they_are_free() -> None:
    """In a process of its own: where there is a gap as large, it is used."""
    said = subprocess.run([sys.executable, "-c", LARGE_BLOCKS], stdout=PIPE, check=True)
    for line in said.stdout.splitlines():  # The allocator would begin to keep them.
        with_it_mib, without_it_mib = map(int, line.split())
        assert with_it_mib > 15
        assert without_it_mib < 5


@needs_glibc
def test_what_brings_nothing_is_not_tried_again(
    taken: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(taken, "_trim", calls.append)
    held = bytearray(b"x" * TAKEN_BYTES)
    for _ in range(3):
        taken.keep_within(MIB)
    assert calls == [0]
    held.extend(b"x" * TAKEN_BYTES)
    taken.keep_within(MIB)
    assert calls == [0, 0]


def test_where_the_allocator_cannot_be_asked_nothing_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "_c_library", lambda: None)
    taken = Memory()
    taken.keep_within(0)
    assert isinstance(taken.taken_bytes(), int)
