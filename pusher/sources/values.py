"""Make chunks of the values of a partition's messages. Pure."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import compress

from pusher.model import Chunk, Partition, Position
from pusher.sources.handoff import CHUNK_BYTES

__all__ = ["chunks_of_values", "empty_chunk"]

TOMBSTONE = "tombstone"
"""A message without a value: with nothing said of the object, there is nothing to send."""
EMPTY_VALUE = "empty_value"

OVERSIZED_HEAD_BYTES = 4 << 10
_LINES_MAX = 1 << 19
_CHUNK_BYTES = CHUNK_BYTES // 4
"""Smaller than a file's: what is not settled of it is repeated after a kill, per partition."""


def chunks_of_values(
    partition: Partition,
    values: Sequence[bytes | None],
    offsets: Sequence[int],
    times_ms: Sequence[int],
    *,
    first_line: int,
    max_line_bytes: int,
) -> Iterator[Chunk]:
    """Put values together, one a line.

    A line end inside a value becomes a space: in JSON that says the same. A value that is null or
    blank is left out, and counted.

    Args:
        partition: that all of them are of.
        values: in order, at least one.
        offsets: of the messages; there may be gaps.
        times_ms: when they were produced.
        first_line: how many messages of the partition were read before, plus one.
        max_line_bytes: a longer value is passed on without being kept.
    """
    count = len(values)
    sizes = [len(value) if value is not None else 0 for value in values]
    total_bytes = sum(sizes)
    if max(sizes) > max_line_bytes:
        step = 1
    else:
        pieces = max(total_bytes // _CHUNK_BYTES, count // _LINES_MAX) + 1
        step = -(-count // pieces)
    for start in range(0, count, step):
        piece = slice(start, start + step)
        yield _chunk(
            partition,
            values[piece],
            offsets[piece],
            times_ms[piece],
            first_line=first_line + start,
            max_line_bytes=max_line_bytes,
        )


def empty_chunk(partition: Partition, next_offset: int, line: int) -> Chunk:
    """What moves a partition's position on where there is no message: behind it, or at its end."""
    return Chunk(
        data=b"",
        source=str(partition),
        offset=next_offset,
        first_line=line,
        line_count=0,
        end=Position(next_offset, line - 1, ""),
        partition=partition,
        offsets=(),
        times_ms=(),
    )


def _chunk(
    partition: Partition,
    values: Sequence[bytes | None],
    offsets: Sequence[int],
    times_ms: Sequence[int],
    *,
    first_line: int,
    max_line_bytes: int,
) -> Chunk:
    chunk = empty_chunk(partition, offsets[-1] + 1, first_line)
    chunk.offset = offsets[0]
    chunk.end = Position(offsets[-1] + 1, first_line + len(values) - 1, "")
    if len(values) == 1 and values[0] is not None and len(values[0]) > max_line_bytes:
        chunk.data, chunk.line_count = values[0][:OVERSIZED_HEAD_BYTES], 1
        chunk.oversized_bytes = len(values[0])
        return chunk
    data = _joined(values)
    if data is None:
        skipped: Counter[str] = Counter()
        lines = [_line(value, skipped) for value in values]
        stays = [line is not None for line in lines]
        offsets, times_ms = list(compress(offsets, stays)), list(compress(times_ms, stays))
        values = list(compress(lines, stays))
        chunk.skipped = skipped
        data = b"\n".join(values)  # type: ignore[arg-type]
    chunk.data = data
    chunk.line_count = len(values)
    chunk.offsets, chunk.times_ms = array("q", offsets), array("q", times_ms)
    return chunk


def _joined(values: Sequence[bytes | None]) -> bytes | None:
    """The values as lines; None unless each begins with a brace, so that none is null or blank."""
    if None in values:
        return None
    data = b"\n".join(values)  # type: ignore[arg-type]
    is_plain = data[:1] == b"{" and data.count(b"\n{") == data.count(b"\n") == len(values) - 1
    return data if is_plain else None


def _line(value: bytes | None, skipped: Counter[str]) -> bytes | None:
    if value is None:
        skipped[TOMBSTONE] += 1
        return None
    line = value.replace(b"\n", b" ")
    if not line.strip(b" \t\r"):
        skipped[EMPTY_VALUE] += 1
        return None
    return line
