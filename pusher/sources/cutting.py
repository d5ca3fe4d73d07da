"""Cut a stream of blocks into chunks of whole lines, and keep fingerprints of what was passed.

A fingerprint covers all bytes of an input up to the end of a chunk: it shows, when the same input
is read again, that what is passed over is what was settled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain
from typing import Any, Protocol

import xxhash

from pusher.errors import InputError, UsageError
from pusher.model import LONG_LINE_BYTES, Chunk, Position

__all__ = [
    "BOM",
    "OVERSIZED_HEAD_BYTES",
    "Cutter",
    "LineCutter",
    "Place",
    "cut_into_chunks",
    "pass_over",
    "up_to",
]

OVERSIZED_HEAD_BYTES = 4 << 10

FEED_BYTES = 1 << 20
UNCOPIED_BYTES = 248 << 10
"""A block of whole lines is passed on as it is: those of files mostly have so much. What a pipe
gives is often less, and leaves a hole in memory where there was room for more."""

BOM = b"\xef\xbb\xbf"
_CLOSING = b" \t\r\n]"
"""What may stand behind the last line, or behind the last value of an array."""


@dataclass(slots=True)
class Place:
    """A place in an input, and the running hash of all before it."""

    offset: int = 0
    line: int = 1
    digest: Any = None
    """None where no fingerprints are kept."""
    ahead: bytes = b""
    """What was read beyond it already."""

    def pass_by(self, data: bytes) -> None:
        """Hash bytes that are passed."""
        if self.digest is not None:
            self.digest.update(data)

    def position(self) -> Position | None:
        """It as a checkpoint keeps it; None where no fingerprints are kept."""
        if self.digest is None:
            return None
        return Position(self.offset, self.line - 1, self.digest.hexdigest())


def cut_into_chunks(
    blocks: Iterator[bytes],
    name: str,
    max_line_bytes: int = 32 << 20,
    *,
    after: Position | None = None,
    keeps_fingerprints: bool = False,
    make_cutter: Callable[[str, Place, int], Cutter] | None = None,
) -> Iterator[Chunk]:
    """Cut blocks at line ends, or as another cutter does; a byte-order mark is passed over.

    A last line without an end counts as a line.

    Args:
        blocks: the input from its beginning, decompressed.
        name: of the input.
        max_line_bytes: a longer line is passed on without being kept.
        after: begin there.
        keeps_fingerprints: say with each chunk where it ends.
        make_cutter: how the input is cut; at line ends where none is given.

    Raises:
        UsageError: the input does not begin as it did when it was read up to `after`.
    """
    if after is not None:
        is_of_lines = make_cutter is None
        place = pass_over(blocks, after, name, max_line_bytes, is_of_lines=is_of_lines)
    else:
        place = after_mark(blocks, keeps_fingerprints=keeps_fingerprints)
    cutter = (make_cutter or LineCutter)(name, place, max_line_bytes)
    for block in chain((place.ahead,), blocks):
        # A decompressed block may be large, and a chunk must not be.
        for start in range(0, len(block), FEED_BYTES):
            yield from cutter.feed(block[start : start + FEED_BYTES])
    yield from cutter.finish()


def up_to(blocks: Iterator[bytes], end: int, name: str) -> Iterator[bytes]:
    """Yield the first `end` bytes of an input, and what closes them, but nothing that was added.

    Raises:
        InputError: it has fewer.
    """
    left = end
    for block in blocks:
        added = block[left:]
        if added.strip(_CLOSING):
            yield block[:left]
            return
        left -= len(block) - len(added)
        yield block
    if left:
        raise InputError(f"{name}: it is shorter than when it was read first")


def after_mark(blocks: Iterator[bytes], *, keeps_fingerprints: bool) -> Place:
    place = Place(digest=_new_digest() if keeps_fingerprints else None)
    for block in blocks:
        place.ahead += block
        if len(place.ahead) >= len(BOM):
            break
    if place.ahead.startswith(BOM):
        place.pass_by(BOM)
        place.offset, place.ahead = len(BOM), place.ahead[len(BOM) :]
    return place


def _new_digest() -> Any:
    return xxhash.xxh3_128()  # It guards against mistakes, and takes no time.


def pass_over(
    blocks: Iterator[bytes],
    position: Position,
    name: str,
    max_line_bytes: int = 32 << 20,
    *,
    is_of_lines: bool = True,
) -> Place:
    """Read up to a position, and check that the input is still the same up to there.

    Where it is cut into lines, a last line that had no end may have become a longer one.

    Raises:
        UsageError: it is shorter, or it differs.
    """
    ended = _Ended(max_line_bytes)
    left = position.offset
    rest = b""
    for block in blocks:
        ended.pass_by(block[:left])
        rest = block[left:]
        left -= min(left, len(block))
        if not left:
            break
    if left:
        raise UsageError(
            f"{name}: is shorter than the checkpoint says: it is not the input that it belongs to"
        )
    if ended.hexdigest() != position.digest:
        raise UsageError(f"{name}: is not the input that the checkpoint belongs to")
    line = position.lines + 1
    if not is_of_lines:
        ended.settle()
    if not ended.open_line:
        return Place(position.offset, line, ended.digest, rest)
    # The last line had no end when it was read. It may have got one, or be longer by now.
    for block in blocks:
        rest += block
        if len(rest) >= len(b"\r\n"):
            break
    line_end = next((end for end in (b"\n", b"\r\n") if rest.startswith(end)), None)
    if rest and line_end is None:
        # What was read then was a part of a line: read it again as a whole.
        open_line = b"".join(ended.open_line)
        return Place(position.offset - len(open_line), line - 1, ended.digest, open_line + rest)
    ended.settle()
    line_end = line_end or b""
    ended.digest.update(line_end)
    return Place(position.offset + len(line_end), line, ended.digest, rest[len(line_end) :])


@dataclass(slots=True)
class _Ended:
    """The running hash of all lines that have ended, and what has come of the next one."""

    line_bytes_max: int
    digest: Any = field(default_factory=_new_digest)
    open_line: list[bytes] = field(default_factory=list)
    open_bytes: int = 0

    def pass_by(self, data: bytes) -> None:
        cut = data.rfind(b"\n") + 1
        if cut:
            self.settle()
            self.digest.update(data[:cut])
        if cut < len(data):
            self.open_line.append(data[cut:])
            self.open_bytes += len(data) - cut
            if self.open_bytes > self.line_bytes_max:
                self.settle()

    def settle(self) -> None:
        for part in self.open_line:
            self.digest.update(part)
        self.open_line, self.open_bytes = [], 0

    def hexdigest(self) -> str:
        digest = self.digest.copy()
        for part in self.open_line:
            digest.update(part)
        return str(digest.hexdigest())


class Cutter(Protocol):
    """Cuts an input, block by block."""

    def feed(self, block: bytes) -> Iterator[Chunk]:
        """Take a block; yield what ends in it."""
        ...

    def finish(self) -> Iterator[Chunk]:
        """Yield what has no end."""
        ...


class LineCutter:
    """Keeps the unfinished line between two blocks, and the place in the source."""

    def __init__(self, name: str, place: Place, max_line_bytes: int) -> None:
        self._name = name
        self._place = place
        self._max_line_bytes = max_line_bytes
        # It hands out what it holds without a copy, so that a long line is in memory once.
        self._tail = BytesIO()
        self._tail_bytes = 0
        self._skipped_bytes = 0
        self._skipped_head = b""

    def feed(self, block: bytes) -> Iterator[Chunk]:
        """Take a block; yield the lines that end in it."""
        start = 0
        if self._skipped_bytes:
            end = block.find(b"\n")
            if end < 0:
                self._skipped_bytes += len(block)
                self._place.pass_by(block)
                return
            start = end + 1
            self._place.pass_by(block[:start])
            yield self._oversized(self._skipped_head, self._skipped_bytes + end)
            self._skipped_bytes = 0
        elif self._tail_bytes > LONG_LINE_BYTES:
            start = block.find(b"\n") + 1
            if start:
                self._tail.write(memoryview(block)[:start])
                yield from self._whole_lines(self._take_tail())
        cut = block.rfind(b"\n", start) + 1
        if cut == len(block) >= UNCOPIED_BYTES and not start and not self._tail_bytes:
            yield from self._whole_lines(block)
        elif cut:
            self._tail.write(memoryview(block)[start:cut])
            yield from self._whole_lines(self._take_tail())
        else:
            cut = start
        if cut < len(block):
            self._tail_bytes += self._tail.write(memoryview(block)[cut:])
            if self._tail_bytes > self._max_line_bytes:
                self._skipped_bytes = self._tail_bytes
                line = self._take_tail()
                self._place.pass_by(line)
                self._skipped_head = line[:OVERSIZED_HEAD_BYTES]

    def _take_tail(self) -> bytes:
        data = self._tail.getvalue()
        self._tail, self._tail_bytes = BytesIO(), 0
        return data

    def finish(self) -> Iterator[Chunk]:
        """Yield the last line, where it has no end."""
        if self._skipped_bytes:
            yield self._oversized(self._skipped_head, self._skipped_bytes, has_end=False)
        elif self._tail_bytes:
            yield from self._whole_lines(self._take_tail())

    def _whole_lines(self, data: bytes) -> Iterator[Chunk]:
        if len(data) <= self._max_line_bytes:
            yield self._chunk(data)
            return
        start = position = 0
        while position < len(data):
            end = data.find(b"\n", position) + 1 or len(data)
            has_end = data.endswith(b"\n", position, end)
            line_bytes = end - position - has_end
            if line_bytes > self._max_line_bytes:
                if start < position:
                    yield self._chunk(data[start:position])
                head = data[position : position + min(line_bytes, OVERSIZED_HEAD_BYTES)]
                self._place.pass_by(data[position:end])
                yield self._oversized(head, line_bytes, has_end=has_end)
                start = end
            position = end
        if start < len(data):
            yield self._chunk(data[start:])

    def _chunk(self, data: bytes) -> Chunk:
        place = self._place
        line_count = _line_ends(data) + (not data.endswith(b"\n"))
        chunk = Chunk(data, self._name, place.offset, place.line, line_count)
        place.pass_by(data)
        place.offset += len(data)
        place.line += line_count
        chunk.end = place.position()
        return chunk

    def _oversized(self, head: bytes, line_bytes: int, *, has_end: bool = True) -> Chunk:
        place = self._place
        chunk = Chunk(head, self._name, place.offset, place.line, 1, oversized_bytes=line_bytes)
        place.offset += line_bytes + has_end
        place.line += 1
        chunk.end = place.position()
        return chunk


def _line_ends(data: bytes) -> int:
    """Count line ends. bytes.replace finds them four times as fast as bytes.count, for a copy."""
    if len(data) > FEED_BYTES:
        return data.count(b"\n")
    return len(data) - len(data.replace(b"\n", b""))
