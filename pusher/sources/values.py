"""Make chunks of a partition's records. Pure."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from pusher.changes import Outcome
from pusher.model import Chunk, Partition, Position, Problem, Rejection
from pusher.records import Record, Skipped

__all__ = ["chunks_of_records", "chunks_of_values", "empty_chunk"]

EMPTY_VALUE = "empty_value"

OVERSIZED_HEAD_BYTES = 4 << 10
_LINES_MAX = 1 << 19
_CHUNK_BYTES = 64 << 10
"""Smaller than a file's: what is not settled of it is repeated after a kill, per partition."""


def chunks_of_values(
    partition: Partition,
    values: Sequence[bytes | None],
    offsets: Sequence[int],
    times_ms: Sequence[int],
    *,
    first_line: int,
    max_line_bytes: int,
) -> list[Chunk] | None:
    """Put values that are sync messages together, one a line, without looking into them.

    Args:
        partition: that all of them are of.
        values: in order, at least one.
        offsets: of the messages; there may be gaps.
        times_ms: when they were produced.
        first_line: how many messages of the partition were read before, plus one.
        max_line_bytes: of the longest value.

    Returns:
        None where some value is no line that begins with a brace, or is too long: then
        `chunks_of_records` looks at each.
    """
    if None in values:
        return None
    data = b"\n".join(values)  # type: ignore[arg-type]
    count = len(values)
    is_plain = data[:1] == b"{" and data.count(b"\n{") == data.count(b"\n") == count - 1
    if not is_plain or (len(data) > max_line_bytes and max(map(len, values)) > max_line_bytes):  # type: ignore[arg-type]
        return None
    pieces = max(len(data) // _CHUNK_BYTES, count // _LINES_MAX) + 1
    step = -(-count // pieces)
    chunks = []
    for start in range(0, count, step):
        piece = slice(start, start + step)
        chunk = empty_chunk(partition, offsets[piece][-1] + 1, first_line + start)
        chunk.data = data if step >= count else b"\n".join(values[piece])  # type: ignore[arg-type]
        chunk.offset = offsets[start]
        chunk.line_count = len(offsets[piece])
        chunk.offsets = array("q", offsets[piece])
        chunk.times_ms = array("q", times_ms[piece])
        chunks.append(chunk)
    return chunks


def chunks_of_records(
    partition: Partition,
    records: Sequence[Record],
    convert: Callable[[Record], Outcome],
    *,
    first_line: int,
    max_line_bytes: int,
    stamps: bool = True,
) -> Iterator[Chunk]:
    """Make sync messages of records, one a line; count what has nothing to send.

    Args:
        partition: that all of them are of.
        records: in order, with their offsets.
        convert: makes the messages.
        first_line: how many messages of the partition were read before, plus one.
        max_line_bytes: a longer value is passed on without being kept.
        stamps: `convert` is told the times; sync messages stay as they are without.
    """
    making = _Making(partition, first_line)
    for line_number, record in enumerate(records, first_line):
        offset, value = record.offset or 0, record.value
        if value is not None and len(value) > max_line_bytes:
            if making.has_any:
                yield making.chunk()
            chunk = empty_chunk(partition, offset + 1, line_number)
            chunk.data, chunk.line_count = value[:OVERSIZED_HEAD_BYTES], 1
            chunk.offset, chunk.offsets, chunk.times_ms = offset, None, None
            chunk.oversized_bytes = len(value)
            yield chunk
            making = _Making(partition, line_number + 1)
            continue
        making.add(line_number, record, convert, stamps=stamps)
        if making.size_bytes >= _CHUNK_BYTES:
            yield making.chunk()
            making = _Making(partition, line_number + 1)
    if making.has_any:
        yield making.chunk()


class _Making:
    """A chunk under way."""

    def __init__(self, partition: Partition, first_line: int) -> None:
        self.size_bytes = 0
        self._partition = partition
        self._first_line = first_line
        self._lines: list[bytes] = []
        self._numbers: list[int] = []
        self._offsets: list[int] = []
        self._times_ms: list[int] = []
        self._skipped: Counter[str] = Counter()
        self._rejected: list[Rejection] = []
        self._next_offset: int | None = None

    @property
    def has_any(self) -> bool:
        return self._next_offset is not None

    def add(
        self,
        line_number: int,
        record: Record,
        convert: Callable[[Record], Outcome],
        *,
        stamps: bool,
    ) -> None:
        offset, value = record.offset or 0, record.value or b""
        self._next_offset = offset + 1
        self.size_bytes += len(value)
        if record.value is not None and not value.strip():
            self._skipped[EMPTY_VALUE] += 1
            return
        outcome = convert(record if stamps else record._replace(timestamp_ms=None))
        if isinstance(outcome, Skipped):
            self._skipped[outcome.reason] += 1
        elif isinstance(outcome, Problem):
            self._rejected.append(_rejection(self._partition, line_number, record, outcome))
        else:
            self._lines.append(outcome)
            self._numbers.append(line_number)
            self._offsets.append(offset)
            self._times_ms.append(record.timestamp_ms or 0)

    def chunk(self) -> Chunk:
        chunk = empty_chunk(self._partition, self._next_offset or 0, self._first_line)
        chunk.data = b"\n".join(self._lines)
        chunk.line_count = len(self._lines)
        chunk.offsets, chunk.line_numbers = self._offsets, self._numbers
        chunk.times_ms = self._times_ms
        chunk.skipped, chunk.rejected = self._skipped, self._rejected
        return chunk


def _rejection(
    partition: Partition, line_number: int, record: Record, problem: Problem
) -> Rejection:
    """With all that it takes to convert the record again, when a mapping was mended."""
    extra: dict[str, int | str] = {"format": "ndjson", "timestamp_ms": record.timestamp_ms or 0}
    if record.key is not None:
        extra["key"] = record.key.decode("utf-8", "replace")
    value = b"null" if record.value is None else record.value
    return Rejection(
        problem.reason,
        problem.detail,
        str(partition),
        line_number,
        record.offset or 0,
        value,
        extra=extra,
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
