"""Going on where a run was cut off: positions, fingerprints, and what a checkpoint says."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pusher.decoding import Decoder
from pusher.errors import UsageError
from pusher.model import Chunk, Position
from pusher.resuming import CheckpointState, decode, encode
from pusher.sampling import SampleMemory
from pusher.sources import LineSource
from pusher.sources.cutting import cut_into_chunks

PACK: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstandard": zstandard.ZstdCompressor().compress,
}

lines_of_any_kind = st.lists(
    st.sampled_from(
        [b"{}\n", b"\n", b"\r\n", b'{"a":1}\r\n', b"x" * 30 + b"\n", b"y" * 200 + b"\n"]
    )
)


def blocks_of(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def seen(chunks: list[Chunk]) -> list[tuple[int, int, bytes]]:
    """Each line with its number and offset; of one that is too long, its beginning."""
    return [
        entry
        for chunk in chunks
        for entry in (
            [(chunk.first_line, chunk.offset, b"too long")]
            if chunk.oversized_bytes is not None
            else chunk.lines()
        )
    ]


@settings(deadline=None)
@given(
    lines_of_any_kind,
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.sampled_from([b"", b"{}", b"z" * 150]),
    st.integers(1, 80),
    st.integers(1, 80),
)
def test_from_the_end_of_any_chunk_exactly_the_rest_is_read(
    lines: list[bytes], mark: bytes, last: bytes, size: int, size_again: int
) -> None:
    data = mark + b"".join(lines) + last
    whole = list(cut_into_chunks(iter(blocks_of(data, size)), "in", 100, keeps_fingerprints=True))
    for number, chunk in enumerate(whole, 1):
        assert chunk.end is not None
        rest = cut_into_chunks(
            iter(blocks_of(data, size_again)), "in", 100, after=chunk.end, keeps_fingerprints=True
        )
        assert seen(list(rest)) == seen(whole[number:])


@settings(deadline=None)
@given(lines_of_any_kind, st.integers(1, 80), st.data())
def test_an_input_that_differs_before_the_position_is_found_out(
    lines: list[bytes], size: int, data: st.DataObject
) -> None:
    content = b"{}\n" + b"".join(lines)
    whole = list(cut_into_chunks(iter([content]), "in", keeps_fingerprints=True))
    end = whole[-1].end
    assert end is not None
    place = data.draw(st.integers(0, end.offset - 1))
    other = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    with pytest.raises(UsageError, match="not the input"):
        list(cut_into_chunks(iter(blocks_of(other, size)), "in", after=end))
    with pytest.raises(UsageError, match="shorter"):
        list(cut_into_chunks(iter(blocks_of(content[:-1], size)), "in", after=end))


def end_of(content: bytes) -> Position:
    end = list(cut_into_chunks(iter([content]), "in", keeps_fingerprints=True))[-1].end
    assert end is not None
    return end


def test_a_last_line_that_has_grown_since_is_read_again_as_a_whole() -> None:
    end = end_of(b'{"a":1}\n{"b"')
    rest = cut_into_chunks(iter([b'{"a":1}\n{"b":2}\n{"c":3}\n']), "in", after=end)
    assert seen(list(rest)) == [(2, 8, b'{"b":2}'), (3, 16, b'{"c":3}')]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_a_last_line_that_was_only_ended_since_is_not_read_again(line_end: bytes) -> None:
    end = end_of(b'{"a":1}\n{"b":2}')
    rest = cut_into_chunks(iter([b'{"a":1}\n{"b":2}' + line_end + b'{"c":3}\n']), "in", after=end)
    assert [(line, text) for line, _, text in seen(list(rest))] == [(3, b'{"c":3}')]


def test_without_being_told_no_fingerprints_are_kept() -> None:
    (chunk,) = cut_into_chunks(iter([b"{}\n"]), "in")
    assert chunk.end is None


async def read(source: LineSource) -> list[Chunk]:
    return [chunk async for chunk in source.chunks()]


def source_of(*paths: Path | str) -> LineSource:
    source = LineSource(list(paths))
    source.keep_fingerprints()
    return source


@pytest.mark.parametrize("packing", PACK)
async def test_a_file_goes_on_at_its_position_however_it_is_compressed(
    packing: str, tmp_path: Path
) -> None:
    content = b"".join(b'{"n":%d}\n' % number for number in range(100_000))
    path = tmp_path / "in"
    path.write_bytes(PACK[packing](content))
    whole = await read(source_of(path))
    assert len(whole) > 3
    again = source_of(path)
    assert whole[1].end is not None
    again.resume({str(path): whole[1].end})
    assert seen(await read(again)) == seen(whole[2:])
    assert seen(await read(again)) == seen(whole), "the next reading begins at the start"


async def test_a_pipe_goes_on_when_the_same_is_piped_again(tmp_path: Path) -> None:
    content = b"".join(b'{"n":%d}\n' % number for number in range(50_000))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def piped(source: LineSource) -> list[Chunk]:
        writing = asyncio.create_task(asyncio.to_thread(fifo.write_bytes, content))
        chunks = await read(source)
        await writing
        return chunks

    whole = await piped(source_of(fifo))
    again = source_of(fifo)
    assert whole[0].end is not None
    again.resume({str(fifo): whole[0].end})
    assert b"".join(c.data for c in await piped(again)) == content[whole[0].end.offset :]


async def test_of_several_files_none_is_read_before_all_are_checked(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"1\n")
    b.write_bytes(b"2\n3\n")
    ends = {chunk.source: chunk.end for chunk in await read(source_of(a, b)) if chunk.end}
    a.write_bytes(b"1\nnew\n")
    b.write_bytes(b"2\nX\n")
    again = source_of(a, b)
    again.resume(ends)
    with pytest.raises(UsageError, match="b: is not the input"):
        await anext(again.chunks())


async def test_a_new_file_beside_those_that_are_known_is_read_from_its_start(
    tmp_path: Path,
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"1\n")
    b.write_bytes(b"2\n")
    (chunk,) = await read(source_of(a))
    again = source_of(a, b)
    assert chunk.end is not None
    again.resume({str(a): chunk.end})
    assert [chunk.data for chunk in await read(again)] == [b"2\n"]


def test_a_file_that_is_not_read_any_more_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1\n")
    with pytest.raises(UsageError, match="also read gone"):
        source_of(tmp_path / "a").resume({"gone": Position(1, 1, "x")})


async def test_a_file_that_is_named_twice_has_two_positions(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1\n")
    assert [chunk.source for chunk in await read(source_of(path, path))] == [
        str(path),
        f"{path} (2)",
    ]


STATE = CheckpointState(
    run_id="r1",
    phase=2,
    start={"a": Position(1, 1, "00")},
    positions={"a": Position(10, 2, "ab")},
    settled=7,
    rejected_before=1,
    dead_letters="dead",
    dead_letters_from=300,
    sample=SampleMemory(seen=3, next_index=5),
    concurrency=12,
)


def test_a_checkpoint_says_what_was_put_into_it() -> None:
    data = encode(STATE)
    assert data.endswith(b"\n")
    assert decode(data, "ck") == STATE


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"{}", "is not a checkpoint"),
        (b"[1]", "is not a checkpoint"),
        (encode(STATE)[:-20], "is not a checkpoint"),
        (encode(STATE).replace(b'"settled":7', b'"settled":-7'), "is not a checkpoint"),
        (encode(STATE).replace(b'"version":2', b'"version":3'), "form 3"),
        (encode(STATE).replace(b'"version":2', b'"version":1'), "form 1, .* wrote it, or remove"),
        (b'\xff{"version":2}', "is not a checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_a_clear_error(data: bytes, complaint: str) -> None:
    with pytest.raises(UsageError, match=f"^ck: .*{complaint}"):
        decode(data, "ck")


def test_a_message_that_is_decoded_alone_is_what_it_was() -> None:
    """Copying it out of its chunk changes nothing that is sent."""
    line = b'{"storeId":"s","objectType":"DEAL","externalObjectId":"1","properties":{"a":"b"}}\n'
    (message,) = Decoder().decode(Chunk(line, "in", 0, 1, 1), 5).messages
    copied = message.properties.copy()
    assert bytes(copied) == bytes(message.properties)
