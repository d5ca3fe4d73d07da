"""Lines: bytes in whatever blocks become chunks of whole lines, and each knows where it was."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import random
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pusher.errors import InputError, UsageError
from pusher.model import Chunk
from pusher.sources.cutting import cut_into_chunks, up_to
from pusher.sources.decompressing import decompressed
from pusher.sources.handoff import CHUNK_BYTES
from pusher.sources.lines import ANNOUNCED_STEP_BYTES, LineSource

BOM = b"\xef\xbb\xbf"
DEADLINE_S = 10.0
HEAD_BYTES = 4 << 10


def cut(blocks: list[bytes], max_line_bytes: int = 1 << 20) -> list[Chunk]:
    return list(cut_into_chunks(iter(blocks), "in", max_line_bytes))


def in_blocks(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut at these sizes, again and again."""
    blocks, start, turn = [], 0, 0
    while start < len(data):
        blocks.append(data[start : start + sizes[turn % len(sizes)]])
        start += sizes[turn % len(sizes)]
        turn += 1
    return blocks


async def read(source: LineSource) -> list[Chunk]:
    async with aclosing(chunks_of(source)) as chunks:
        return [chunk async for chunk in chunks]


def chunks_of(source: LineSource) -> AsyncGenerator[Chunk, None]:
    """The chunks, as something that can be closed."""
    return cast("AsyncGenerator[Chunk, None]", source.chunks())


async def read_until_it_breaks(path: Path) -> tuple[bytes, str]:
    """What came before the error, and the error."""
    found = b""
    try:
        async for chunk in LineSource([path]).chunks():
            found += chunk.data
    except InputError as error:
        return found, str(error)
    pytest.fail("the input did not break")


async def content(*inputs: Path) -> bytes:
    return b"".join(chunk.data for chunk in await read(LineSource(inputs)))


def lines_of(chunks: list[Chunk]) -> list[bytes]:
    return [line for chunk in chunks for _, _, line in chunk.lines()]


# Cutting

block_sizes = st.lists(st.integers(1, 40), min_size=1, max_size=6)
texts = st.lists(st.sampled_from([b"\n", b"\r\n", b"a", b" ", b"{}", b"\xff", BOM, b"\0"])).map(
    b"".join
)


@settings(deadline=None)
@given(texts | st.binary(max_size=300), block_sizes)
@example(b"", [1])
@example(BOM, [1])
@example(BOM + b"\n" + BOM, [2])
@example(b"\n\n\n", [1])
def test_wherever_blocks_are_cut_the_lines_are_the_inputs(data: bytes, sizes: list[int]) -> None:
    chunks = cut(in_blocks(data, sizes))
    start = len(BOM) if data.startswith(BOM) else 0
    assert b"".join(chunk.data for chunk in chunks) == data[start:]
    line_number = 1
    for chunk in chunks:
        assert chunk.data == data[chunk.offset : chunk.offset + len(chunk.data)]
        assert chunk.first_line == line_number
        assert chunk.line_count == len(chunk.data.removesuffix(b"\n").split(b"\n"))
        assert chunk.oversized_bytes is None
        line_number += chunk.line_count
        for number, offset, line in chunk.lines():
            assert data[start:].split(b"\n")[number - 1].rstrip(b"\r") == line
            assert data[offset : offset + len(line)] == line
    assert all(chunk.data.endswith(b"\n") for chunk in chunks[:-1])
    assert all(chunk.data for chunk in chunks)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.integers(0, 30), max_size=12),
    st.booleans(),
    block_sizes,
    st.integers(1, 12),
)
@example([12], False, [5], 12)
@example([13], False, [5], 12)
@example([13], True, [14], 12)
@example([3, 13, 3], True, [40], 12)
def test_lines_over_the_limit_are_passed_on_alone_and_unread(
    lengths: list[int],
    has_last_end: bool,  # noqa: FBT001
    sizes: list[int],
    limit: int,
) -> None:
    lines = [bytes([97 + place % 26]) * length for place, length in enumerate(lengths)]
    data = b"\n".join(lines) + (b"\n" if has_last_end and lines else b"")
    offsets = [sum(lengths[:place]) + place for place in range(len(lines))]
    found: list[tuple[int, int, int, bytes]] = []
    for chunk in cut(in_blocks(data, sizes), limit):
        if chunk.oversized_bytes is not None:
            assert chunk.line_count == 1
            assert len(chunk.data) >= limit
            line = lines[chunk.first_line - 1]
            assert line.startswith(chunk.data)
            found.append((chunk.first_line, chunk.offset, chunk.oversized_bytes, line))
        else:
            found += [(number, at, len(line), line) for number, at, line in chunk.lines()]
    assert found == [
        (number, at, len(line), line)
        for number, (at, line) in enumerate(zip(offsets, lines, strict=True), 1)
        if line
    ]


@pytest.mark.parametrize("block_bytes", [1 << 10, 100_000, 10 << 20])
@pytest.mark.parametrize("end", [b"", b"\n", b"\nafter", b"\nafter\n"])
def test_the_first_four_kib_of_a_line_over_the_limit_are_kept(block_bytes: int, end: bytes) -> None:
    line = bytes(range(97, 122)) * 20_000
    data = b"before\n" + line + end
    before, large, *after = cut(in_blocks(data, [block_bytes]), 50_000)
    assert lines_of([before]) == [b"before"]
    assert large.data == line[:HEAD_BYTES]
    assert large.oversized_bytes == len(line)
    assert (large.first_line, large.offset) == (2, 7)
    assert lines_of(after) == ([b"after"] if b"after" in end else [])
    for chunk in after:
        assert (chunk.first_line, chunk.offset) == (3, 7 + len(line) + 1)


def test_a_line_of_exactly_the_limit_is_kept() -> None:
    chunks = cut([b"x" * 100 + b"\n" + b"y" * 100], 100)
    assert lines_of(chunks) == [b"x" * 100, b"y" * 100]
    assert [chunk.oversized_bytes for chunk in chunks] == [None] * len(chunks)


def test_a_line_over_the_limit_is_not_held_in_memory() -> None:
    """10 GB without a line end must not be read into memory."""

    def blocks() -> Iterator[bytes]:
        block = b"x" * (1 << 20)
        for _ in range(2_000):
            yield block

    (chunk,) = cut_into_chunks(blocks(), "in", 1 << 20)
    assert chunk.oversized_bytes == 2_000 << 20
    assert len(chunk.data) == HEAD_BYTES


# Files


async def test_a_file_is_read_with_its_name_and_positions(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b'{"a":1}\n{"a":2}')
    source = LineSource([path])
    chunks = await read(source)
    assert {chunk.source for chunk in chunks} == {str(path)}
    found = [place for chunk in chunks for place in chunk.lines()]
    assert found == [(1, 0, b'{"a":1}'), (2, 8, b'{"a":2}')]
    assert source.size_bytes == source.read_bytes == 15
    assert source.can_be_read_again


async def test_an_empty_file_has_no_chunks(tmp_path: Path) -> None:
    path = tmp_path / "empty.ndjson"
    path.touch()
    assert await read(LineSource([path])) == []


async def test_a_bom_is_passed_over_in_each_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(BOM + name.encode())
    chunks = await read(LineSource([tmp_path / "a", tmp_path / "b"]))
    assert [chunk.data for chunk in chunks] == [b"a", b"b"]
    assert [chunk.offset for chunk in chunks] == [3, 3]


async def test_a_last_line_without_an_end_does_not_join_the_next_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1\n2")
    (tmp_path / "b").write_bytes(b"3\n")
    chunks = await read(LineSource([tmp_path / "a", tmp_path / "b"]))
    assert lines_of(chunks) == [b"1", b"2", b"3"]
    assert [Path(chunk.source).name for chunk in chunks] == ["a", "a", "b"]


async def test_a_large_file_comes_in_chunks_of_about_256_kib(tmp_path: Path) -> None:
    path = tmp_path / "large"
    data = b"".join(b"%d," % number + b"x" * 90 + b"\n" for number in range(50_000))
    path.write_bytes(data)
    chunks = await read(LineSource([path]))
    assert b"".join(chunk.data for chunk in chunks) == data
    assert max(len(chunk.data) for chunk in chunks) <= 300_000
    assert all(chunk.data.endswith(b"\n") for chunk in chunks)


async def test_a_line_of_20_mb_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"a\n" + b"x" * 20_000_000 + b"\nb\n")
    lines = lines_of(await read(LineSource([path])))
    assert [len(line) for line in lines] == [1, 20_000_000, 1]


@pytest.mark.parametrize("has_last_end", [True, False])
async def test_lines_of_any_length_are_read_from_a_file_as_they_are(
    tmp_path: Path, *, has_last_end: bool
) -> None:
    """Shorter and longer than what is looked at of a block, and than a block."""
    rng = random.Random(7)
    lengths = [rng.choice((0, 3, 900, 4_095, 4_096, 9_000, 262_143, 300_000)) for _ in range(400)]
    data = b"\n".join(b"x" * length for length in lengths) + b"\n" * has_last_end
    path = tmp_path / "lines"
    path.write_bytes(data)
    chunks = await read(LineSource([path]))
    assert b"".join(chunk.data for chunk in chunks) == data
    assert all(chunk.data.endswith(b"\n") for chunk in chunks[:-1])
    assert max(len(chunk.data) for chunk in chunks) < 600_000


@pytest.mark.parametrize("block_bytes", [100, 64 << 10, 9_000_000])
def test_a_line_of_megabytes_comes_alone(block_bytes: int) -> None:
    long_line, lines = b"y" * 3_000_000 + b"\n", b"x\n" * 40_000
    data = lines + long_line + lines + long_line
    chunks = cut(in_blocks(data, [block_bytes]), len(long_line))
    assert b"".join(chunk.data for chunk in chunks) == data
    large = [chunk for chunk in chunks if len(chunk.data) > 2_000_000]
    assert [chunk.data for chunk in large] == [long_line, long_line]
    assert sum(chunk.line_count for chunk in chunks) == 80_002


@pytest.mark.parametrize("name", ["missing", "directory", "directory/", "a\0b", "x" * 300])
def test_what_cannot_be_read_is_the_callers_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(UsageError) as error:
        LineSource([f"{tmp_path}/{name}"])
    assert len(str(error.value).splitlines()) == 1


def test_an_unreadable_file_is_the_callers_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The superuser may read everything, so the answer of the system is made up."""
    path = tmp_path / "secret"
    path.write_bytes(b"x")
    path.chmod(0)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    with pytest.raises(UsageError, match="Permission denied"):
        LineSource([path])


async def test_a_file_that_vanishes_before_it_is_read_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x\n")
    source = LineSource([path])
    path.unlink()
    with pytest.raises(InputError, match="No such file"):
        await read(source)


async def test_the_lines_before_an_error_are_yielded(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1\n2\n")
    (tmp_path / "b").write_bytes(b"3\n")
    source = LineSource([tmp_path / "a", tmp_path / "b"])
    (tmp_path / "b").unlink()
    chunks = chunks_of(source)
    assert (await next_chunk(chunks)).data == b"1\n2\n"
    with pytest.raises(InputError):
        await next_chunk(chunks)


# Long lines


def announced(chunks: list[Chunk]) -> list[int]:
    return [chunk.coming_bytes for chunk in chunks if chunk.coming_bytes]


@pytest.mark.parametrize("ending", [b"\n", b""])
async def test_a_long_line_is_announced_in_steps(tmp_path: Path, ending: bytes) -> None:
    (tmp_path / "in").write_bytes(b"x\n" * 300_000 + b"y" * 17_000_000 + ending)
    chunks = await read(LineSource([tmp_path / "in"]))
    coming = announced(chunks)
    steps = [two - one for one, two in pairwise(coming)]
    assert all(0 < step <= ANNOUNCED_STEP_BYTES + CHUNK_BYTES for step in steps)
    assert 5 < len(coming) < 9
    assert coming[-2] < 17_000_000 <= coming[-1]
    assert (chunks[-2].data, chunks[-2].coming_bytes) == (b"", coming[-1])
    assert chunks[-1].data == b"y" * 17_000_000 + ending
    assert {chunk.line_count for chunk in chunks if chunk.coming_bytes} == {0}


async def test_ordinary_lines_are_not_announced(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes((b"x" * 700_000 + b"\n") * 9 + b"y\n" * 900_000)
    assert announced(await read(LineSource([tmp_path / "in"]))) == []


async def test_a_line_that_will_not_be_kept_is_announced_up_to_what_is_kept(
    tmp_path: Path,
) -> None:
    (tmp_path / "in").write_bytes(b"y" * 20_000_000)
    chunks = await read(LineSource([tmp_path / "in"], max_line_bytes=3_000_000))
    assert announced(chunks)[-1] == 3_000_000
    assert chunks[-1].oversized_bytes == 20_000_000


async def test_what_is_passed_over_is_not_announced(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"y" * 5_000_000 + b"\n" + b"z" * 1_500_000 + b"\n")
    source = LineSource([path])
    source.keep_fingerprints()
    (first,) = [one for one in await read(source) if one.data.startswith(b"y")]
    assert first.end is not None
    source.resume({first.source: first.end})
    chunks = await read(source)
    assert len(announced(chunks)) == 1
    assert [chunk.data for chunk in chunks if chunk.data] == [b"z" * 1_500_000 + b"\n"]


async def test_reading_waits_until_an_announcement_was_taken_in(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"y" * 20_000_000 + b"\n")
    source = LineSource([tmp_path / "in"])
    async with aclosing(chunks_of(source)) as chunks:
        async for chunk in chunks:
            if chunk.coming_bytes:
                await asyncio.sleep(0.05)  # Whoever did not wait would have read more by then.
                assert source.read_bytes <= chunk.coming_bytes
    assert source.read_bytes == 20_000_001


async def test_who_does_not_want_an_announced_line_does_not_wait_for_it(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"y" * 20_000_000 + b"\n")
    async with aclosing(chunks_of(LineSource([tmp_path / "in"]))) as chunks:
        assert (await next_chunk(chunks)).coming_bytes
    readers = [one for one in threading.enumerate() if one.name == "pusher-reader"]
    for reader in readers:
        await asyncio.to_thread(reader.join, DEADLINE_S)
    assert not any(reader.is_alive() for reader in readers)


async def test_a_reading_that_was_given_up_does_not_count_in_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").write_bytes(b"x\n" * 150_000 + b"y" * 3_000_000)
    source, read_one = LineSource([tmp_path / "in"]), os.read
    is_held, goes_on = threading.Event(), threading.Event()
    held: list[threading.Thread] = []

    def read_slowly(descriptor: int, wanted: int) -> bytes:
        reader = threading.current_thread()
        if reader.name == "pusher-reader" and source.read_bytes > 900_000 and not held:
            held.append(reader)
            is_held.set()
            goes_on.wait(DEADLINE_S)
        return read_one(descriptor, wanted)

    monkeypatch.setattr(os, "read", read_slowly)
    async with aclosing(chunks_of(source)) as chunks:
        assert (await next_chunk(chunks)).line_count
        assert await asyncio.to_thread(is_held.wait, DEADLINE_S)
    async with aclosing(chunks_of(source)) as chunks:
        assert (await next_chunk(chunks)).line_count
        goes_on.set()  # The first one comes to the announcement of the long line.
        await asyncio.to_thread(held[0].join, DEADLINE_S)
        assert not held[0].is_alive()
        async for _ in chunks:
            pass
    assert source.handed_bytes == source.read_bytes


# Reading again


async def test_a_second_reading_ends_where_the_first_one_did(tmp_path: Path) -> None:
    path = tmp_path / "grows"
    path.write_bytes(b"1\n2\n")
    source = LineSource([path])
    assert lines_of(await read(source)) == [b"1", b"2"]
    with path.open("ab") as file:
        file.write(b"3\n" * 200_000)
    assert lines_of(await read(source)) == [b"1", b"2"]


async def test_a_second_reading_of_a_file_that_shrank_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "shrinks"
    path.write_bytes(b"1\n2\n3\n")
    source = LineSource([path])
    await read(source)
    path.write_bytes(b"1\n")
    with pytest.raises(InputError, match="shorter"):
        await read(source)


async def test_a_second_reading_of_a_compressed_file_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"1\n2\n"))
    source = LineSource([path])
    assert lines_of(await read(source)) == lines_of(await read(source)) == [b"1", b"2"]


# Compression


def gz(data: bytes) -> bytes:
    return gzip.compress(data)


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


TEXT = b"".join(b'{"line":%d}\n' % number for number in range(20_000))
PACKED = {
    "gzip": gz(TEXT),
    "gzip members": b"".join(gz(TEXT[at : at + 50_000]) for at in range(0, len(TEXT), 50_000)),
    "gzip with zeros behind": gz(TEXT) + bytes(1_000),
    "gzip with zeros between": gz(TEXT[:1_000]) + bytes(512) + gz(TEXT[1_000:]),
    "gzip with an empty member": gz(b"") + gz(TEXT) + gz(b""),
    "zstandard": zst(TEXT),
    "zstandard frames": b"".join(zst(TEXT[at : at + 50_000]) for at in range(0, len(TEXT), 50_000)),
    "zstandard with an empty frame": zst(b"") + zst(TEXT) + zst(b""),
    "zstandard with a skippable frame": b"\x50\x2a\x4d\x18\x04\0\0\0meta" + zst(TEXT),
    "zstandard, then a skippable frame": zst(TEXT) + b"\x50\x2a\x4d\x18\x04\0\0\0meta",
}


@pytest.mark.parametrize("kind", PACKED)
async def test_compression_is_known_by_its_first_bytes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "no-suffix"
    path.write_bytes(PACKED[kind])
    assert await content(path) == TEXT


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("block_bytes", [1, 7, 1_000])
def test_compressed_input_may_come_in_any_blocks(kind: str, block_bytes: int) -> None:
    blocks = in_blocks(PACKED[kind], [block_bytes])
    assert b"".join(decompressed(iter(blocks), "in")) == TEXT


@pytest.mark.parametrize("data", [b"", b"a", b"\x1f", b"\x1f\x8b"[:1] + b"\n", b"\x28\xb5\n"])
def test_a_short_input_is_not_taken_for_a_compressed_one(data: bytes) -> None:
    assert b"".join(decompressed(iter(in_blocks(data, [1])), "in")) == data


def test_a_bom_inside_a_compressed_file_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gz(BOM + b"1\n"))
    assert asyncio.run(content(path)) == b"1\n"


@pytest.mark.parametrize("kind", ["gzip", "zstandard"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.999])
async def test_a_truncated_archive_is_an_input_error_after_its_lines(
    tmp_path: Path, kind: str, part: float
) -> None:
    """All whole lines before the break come first, and the half line does not."""
    flushed = flushed_pieces(kind, 40)
    whole = b"".join(flushed)
    path = tmp_path / "cut"
    path.write_bytes(whole[: int(len(whole) * part)])
    expected_pieces = sum(
        len(b"".join(flushed[: count + 1])) <= int(len(whole) * part) for count in range(40)
    )
    found, why = await read_until_it_breaks(path)
    assert "too early" in why
    assert TEXT.startswith(found)
    assert len(found.splitlines()) >= expected_pieces * 500
    assert found.endswith(b"}\n")


@pytest.mark.parametrize("kind", ["gzip", "zstandard"])
async def test_a_damaged_archive_is_an_input_error_after_its_lines(
    tmp_path: Path, kind: str
) -> None:
    flushed = flushed_pieces(kind, 40)
    damaged = b"".join(flushed[:20]) + b"\xff" * 100 + b"".join(flushed[20:])
    path = tmp_path / "damaged"
    path.write_bytes(damaged)
    found, why = await read_until_it_breaks(path)
    assert "damaged" in why
    assert str(path) in why
    # What was in the last 4 KiB before the damage may be missing, and no more.
    whole_pieces = sum(sum(map(len, flushed[number:20])) > (4 << 10) for number in range(20))
    lines = found.splitlines()
    assert len(lines) >= (whole_pieces - 1) * 500 > 0
    assert TEXT.startswith(b"\n".join(lines[: 20 * 500]))


@pytest.mark.parametrize("junk", [b"junk", b"\xff" * 100, b"{}\n"])
@pytest.mark.parametrize("kind", ["gzip", "zstandard"])
async def test_junk_behind_an_archive_is_an_input_error(
    tmp_path: Path, kind: str, junk: bytes
) -> None:
    path = tmp_path / "junk"
    path.write_bytes(PACKED[kind] + junk)
    found, why = await read_until_it_breaks(path)
    assert str(path) in why
    assert found == TEXT


def flushed_pieces(kind: str, count: int) -> list[bytes]:
    """TEXT compressed in pieces of 500 lines, each flushed so that it can be read alone."""
    lines = TEXT.splitlines(keepends=True)
    pieces = [b"".join(lines[at * 500 : (at + 1) * 500]) for at in range(count)]
    if kind == "gzip":
        packer = zlib.compressobj(wbits=31)
        packed = [packer.compress(one) + packer.flush(zlib.Z_SYNC_FLUSH) for one in pieces]
        return [*packed, packer.flush()]
    writer = zstandard.ZstdCompressor().compressobj()
    flush_block = zstandard.COMPRESSOBJ_FLUSH_BLOCK
    packed = [writer.compress(one) + writer.flush(flush_block) for one in pieces]
    return [*packed, writer.flush()]


@pytest.mark.parametrize("pattern", [b"1\n", b'{"externalObjectId":1}\n'])
@pytest.mark.parametrize("kind", ["gzip", "zstandard"])
def test_input_that_grows_a_thousandfold_still_comes_in_small_chunks(
    kind: str, pattern: bytes
) -> None:
    """A chunk is about 256 KiB, and has fewer than 2**20 lines: positions rely on it."""
    data = pattern * ((64 << 20) // len(pattern))
    packed = gzip.compress(data, 6) if kind == "gzip" else zst(data)
    blocks = iter(in_blocks(packed, [256 << 10]))
    total = 0
    for chunk in cut_into_chunks(decompressed(blocks, "in"), "in"):
        assert len(chunk.data) <= 2 << 20
        assert chunk.line_count < 1 << 20
        total += len(chunk.data)
    assert total == len(data)


# Pipes


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A pipe with a name, and its open writing end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    keeper = os.open(path, os.O_RDWR)  # Lets both ends open without waiting.
    writer = os.open(path, os.O_WRONLY)
    try:
        yield path, writer
    finally:
        with contextlib.suppress(OSError):
            os.close(writer)
        os.close(keeper)


async def next_chunk(chunks: AsyncIterator[Chunk]) -> Chunk:
    async with asyncio.timeout(DEADLINE_S):
        return await anext(chunks)


def live_pieces(kind: str) -> list[bytes]:
    if kind == "plain":
        lines = TEXT.splitlines(keepends=True)
        return [b"".join(lines[at * 500 : (at + 1) * 500]) for at in range(3)]
    return flushed_pieces(kind, 3)[:3]


@pytest.mark.parametrize("kind", ["plain", "gzip", "zstandard"])
async def test_a_live_pipe_is_not_held_back(pipe: tuple[Path, int], kind: str) -> None:
    """What a writer has flushed arrives, though the writer goes on."""
    path, writer = pipe
    source = LineSource([path])
    assert not source.can_be_read_again
    chunks = chunks_of(source)
    seen = 0
    for number, piece in enumerate(live_pieces(kind), 1):
        os.write(writer, piece)
        while seen < number * 500:
            seen += (await next_chunk(chunks)).line_count
        assert seen == number * 500
    await chunks.aclose()
    os.write(writer, b"\n")


async def test_half_a_line_waits_for_its_end(pipe: tuple[Path, int]) -> None:
    path, writer = pipe
    chunks = chunks_of(LineSource([path]))
    os.write(writer, b'{"a":1}\n{"a"')
    assert (await next_chunk(chunks)).data == b'{"a":1}\n'
    os.write(writer, b":2}\n")
    assert (await next_chunk(chunks)).data == b'{"a":2}\n'
    await chunks.aclose()
    os.write(writer, b"\n")


async def test_closing_a_source_that_waits_on_a_quiet_pipe_does_not_hang(
    pipe: tuple[Path, int],
) -> None:
    path, writer = pipe
    chunks = chunks_of(LineSource([path]))
    os.write(writer, b'{"a":1}\n')
    await next_chunk(chunks)
    started_s = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(chunks)
    await chunks.aclose()
    assert time.monotonic() - started_s < DEADLINE_S / 2
    os.write(writer, b"2\n")
    await reader_threads_ended()


async def test_closing_early_ends_the_thread_that_reads_ahead(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * 99 + b"\n")
    path.write_bytes(path.read_bytes() * 200_000)
    chunks = chunks_of(LineSource([path]))
    await next_chunk(chunks)
    await chunks.aclose()
    await reader_threads_ended()


async def test_reading_stops_when_nobody_takes_the_chunks(tmp_path: Path) -> None:
    """Backpressure: a slow reader does not make us read the file into memory."""
    path = tmp_path / "large"
    path.write_bytes((b"x" * 99 + b"\n") * 300_000)
    source = LineSource([path])
    chunks = chunks_of(source)
    await next_chunk(chunks)
    settled = -1
    while settled != source.read_bytes:
        settled = source.read_bytes
        await asyncio.sleep(0.1)
    assert source.read_bytes < 4 << 20
    await chunks.aclose()
    await reader_threads_ended()


async def reader_threads_ended() -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while any(thread.name == "pusher-reader" for thread in threading.enumerate()):
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)


STDIN_PROGRAM = """
import asyncio, sys
from pusher.sources.lines import LineSource
source = LineSource(["-"])
async def main():
    count = 0
    async for chunk in source.chunks():
        count += chunk.line_count
        if "first" in sys.argv:
            break
    print(source.name, source.can_be_read_again, count)
asyncio.run(main())
"""


def test_a_program_ends_although_its_standard_input_is_quiet() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STDIN_PROGRAM, "first"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(b"1\n2\n")
        program.stdin.flush()
        assert program.wait(DEADLINE_S * 3) == 0
        assert program.stdout.read() == b"stdin False 2\n"


def test_standard_input_from_a_file_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"skipped\n1\n2\n")
    with path.open("rb") as file:
        os.lseek(file.fileno(), 8, os.SEEK_SET)
        done = subprocess.run(
            [sys.executable, "-c", STDIN_PROGRAM], stdin=file, capture_output=True, check=True
        )
    assert done.stdout == b"stdin True 2\n"


def test_a_closed_standard_input_is_the_callers_error() -> None:
    command = f"exec {sys.executable} -c '{STDIN_PROGRAM}' <&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert done.returncode != 0
    assert b"UsageError: standard input is closed" in done.stderr


async def test_the_end_of_a_pipe_is_the_end(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)

    def write() -> None:
        with path.open("wb") as file:
            file.write(b"1\n2")

    thread = threading.Thread(target=write)
    thread.start()
    assert lines_of(await read(LineSource([path]))) == [b"1", b"2"]
    thread.join()


@pytest.mark.parametrize(
    ("blocks", "end", "passed"),
    [
        ([b"a\nb\n", b"c\n"], 4, b"a\nb\n"),
        ([b"a\nb\nc", b"\n"], 4, b"a\nb\n"),
        ([b"a\nb\n"], 4, b"a\nb\n"),
        ([b"a\nb\n", b"\n \n"], 4, b"a\nb\n\n \n"),
        ([b'[{"a":1}', b"]\n"], 8, b'[{"a":1}]\n'),
        ([b"added\n"], 0, b""),
        ([], 0, b""),
    ],
)
def test_of_an_input_that_has_grown_nothing_is_read_that_was_added(
    blocks: list[bytes], end: int, passed: bytes
) -> None:
    assert b"".join(up_to(iter(blocks), end, "in")) == passed


def test_an_input_that_has_shrunk_is_damaged() -> None:
    with pytest.raises(InputError, match="in: it is shorter than when it was read first"):
        list(up_to(iter([b"a\n"]), 3, "in"))
