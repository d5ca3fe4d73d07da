"""Cut a stream of blocks into JSON objects, wherever their lines end: arrays, or one after another.

Brackets and commas between objects are passed over, so an array is never in memory as a whole. Each
object becomes one line; its number is its place in the input, from 1.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO

from pusher.errors import InputError
from pusher.model import Chunk
from pusher.sources.cutting import OVERSIZED_HEAD_BYTES, Place

__all__ = ["ObjectCutter"]

# A string ends with its line at the latest: none has a bare line end, so what is broken off does
# not swallow what follows.
_STRING_REST = re.compile(rb'(?:[^"\\\n]++|\\[^\n]|\\(?=\n))*+["\n]')
_NO_BRACKETS = re.compile(
    rb'(?:[^"{}\[\]]++|"(?:[^"\\\n]++|\\[^\n]|\\(?=\n))*+["\n])*+',
)
_SEPARATORS = b" \t\r\n,[]"
_QUOTE, _LINE_END = 0x22, 0x0A
_OPEN_BRACE, _CLOSE_BRACE, _OPEN_BRACKET, _CLOSE_BRACKET = 0x7B, 0x7D, 0x5B, 0x5D


@dataclass(slots=True)
class _Lines:
    """Values that ended in one block."""

    texts: list[bytes] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)


class ObjectCutter:
    """Keeps the unfinished object between two blocks, and the place in the source.

    Args:
        name: of the source.
        place: where it is.
        max_line_bytes: a longer object is passed on without being kept.
        is_array: the input has to end with the end of an array.
        is_indented: only whole objects begin at the margin.
    """

    def __init__(
        self,
        name: str,
        place: Place,
        max_line_bytes: int,
        *,
        is_array: bool = False,
        is_indented: bool = False,
    ) -> None:
        self._name = name
        self._place = place
        self._max_line_bytes = max_line_bytes
        self._tail = BytesIO()  # What came since the last object ended.
        self._tail_bytes = 0
        self._lost_bytes = 0  # What was not kept of it.
        self._head = b""  # The beginning of what was not kept.
        self._begin = -1  # Where in it an object has begun.
        self._depth = 0
        self._is_in_string = self._is_escaped = False
        self._is_after_line_end = True
        self._is_array = is_array
        self._is_indented = is_indented

    def feed(self, block: bytes) -> Iterator[Chunk]:
        """Take a block; yield the objects that end in it."""
        if not block:
            return
        done = 0
        lines = _Lines()
        for begin, end in self._scan(block):
            if begin is not None:
                self._begin = self._tail_bytes + self._lost_bytes + begin - done
            if end is None:
                continue
            size = self._tail_bytes + self._lost_bytes + end - done
            if self._lost_bytes or size - self._begin > self._max_line_bytes:
                yield from self._chunk(lines)
                lines = _Lines()
                yield from self._oversized(block[done:end], size)
            else:
                self._add(lines, self._take(block[done:end]))
            done, self._begin = end, -1
        yield from self._chunk(lines)
        self._keep(block[done:])
        self._is_after_line_end = block[-1] == _LINE_END

    def finish(self) -> Iterator[Chunk]:
        """Yield what is left.

        Raises:
            InputError: an array ends too early.
        """
        rest = self._tail.getvalue()
        if self._is_array and (self._begin >= 0 or not rest.rstrip().endswith(b"]")):
            raise InputError(f"{self._name}: the JSON array ends too early")
        if self._lost_bytes:
            yield from self._oversized(b"", self._tail_bytes + self._lost_bytes)
        elif self._begin >= 0 or rest.strip(_SEPARATORS):
            lines = _Lines()
            begin = self._begin if self._begin >= 0 else len(rest)
            self._begin = begin
            self._add(lines, self._take(b""))
            yield from self._chunk(lines)

    def _scan(self, block: bytes) -> Iterator[tuple[int | None, int | None]]:
        """Yield (where an object begins, None) and (None, where it ends)."""
        position = 0
        if self._is_in_string:
            start = 1 if self._is_escaped and block[0] != _LINE_END else 0
            rest = _STRING_REST.match(block, start)
            if rest is None:
                self._is_escaped = _is_escaping(block, start)
                return
            self._is_in_string, position = False, rest.end()
        while True:
            brackets = _NO_BRACKETS.match(block, position)
            position = brackets.end() if brackets else position
            if position == len(block):
                return
            mark = block[position]
            if mark == _QUOTE:
                self._is_in_string = True
                self._is_escaped = _is_escaping(block, position + 1)
                return
            if mark == _OPEN_BRACE and self._depth and self._begins_anew(block, position):
                yield None, position  # What came before was broken off.
                self._depth = 0
            if mark == _OPEN_BRACE or (mark == _OPEN_BRACKET and self._depth):
                if not self._depth:
                    yield position, None
                self._depth += 1
            elif mark == _CLOSE_BRACE and self._depth:
                self._depth -= 1
                if not self._depth:
                    yield None, position + 1
            elif mark == _CLOSE_BRACKET and self._depth > 1:
                self._depth -= 1
            position += 1

    def _begins_anew(self, block: bytes, position: int) -> bool:
        """Where objects are indented, a brace at the margin begins one."""
        if not self._is_indented:
            return False
        return block[position - 1] == _LINE_END if position else self._is_after_line_end

    def _keep(self, rest: bytes) -> None:
        self._tail_bytes += self._tail.write(rest)
        if self._tail_bytes <= self._max_line_bytes:
            return
        data = self._tail.getvalue()
        if self._begin < 0 and not self._lost_bytes and not data.strip(_SEPARATORS):
            self._pass(data)
            return
        if not self._lost_bytes:
            self._head = data[max(self._begin, 0) :][:OVERSIZED_HEAD_BYTES]
        self._place.pass_by(data)
        self._lost_bytes += len(data)
        self._tail, self._tail_bytes = BytesIO(), 0

    def _take(self, rest: bytes) -> bytes:
        if not self._tail_bytes:
            return rest
        self._tail.write(rest)
        data = self._tail.getvalue()
        self._tail, self._tail_bytes = BytesIO(), 0
        return data

    def _add(self, lines: _Lines, data: bytes) -> None:
        """Take in an object, and what stands before it, where that is more than separators."""
        between, value = data[: self._begin], data[self._begin :]
        if between.strip(_SEPARATORS):
            lines.texts.append(_flat(between.strip(_SEPARATORS)))
            lines.offsets.append(self._place.offset)
        if value:
            lines.texts.append(_flat(value))
            lines.offsets.append(self._place.offset + self._begin)
        self._place.pass_by(data)
        self._place.offset += len(data)

    def _pass(self, data: bytes) -> None:
        self._place.pass_by(data)
        self._place.offset += len(data)
        self._tail, self._tail_bytes = BytesIO(), 0

    def _chunk(self, lines: _Lines) -> Iterator[Chunk]:
        if not lines.texts:
            return
        place, count = self._place, len(lines.texts)
        numbers = range(place.line, place.line + count)
        place.line += count
        yield Chunk(
            b"\n".join(lines.texts),
            self._name,
            lines.offsets[0],
            numbers[0],
            count,
            end=place.position(),
            line_numbers=numbers,
            offsets=array("q", lines.offsets),
        )

    def _oversized(self, rest: bytes, size: int) -> Iterator[Chunk]:
        place, begin = self._place, max(self._begin, 0)
        data = self._take(rest)
        head = self._head if self._lost_bytes else data[begin:][:OVERSIZED_HEAD_BYTES]
        place.pass_by(data)
        chunk = Chunk(
            _flat(head),
            self._name,
            place.offset + begin,
            place.line,
            1,
            oversized_bytes=size - begin,
        )
        place.offset += size
        place.line += 1
        chunk.end = place.position()
        self._lost_bytes, self._head = 0, b""
        yield chunk


def _is_escaping(block: bytes, start: int) -> bool:
    """Whether a string that is not at its end goes on behind a backslash."""
    count = len(block) - max(start, len(block.rstrip(b"\\")))
    return count % 2 == 1


def _flat(value: bytes) -> bytes:
    """On one line: line ends are white space, as JSON has none inside of its strings."""
    if b"\n" not in value and b"\r" not in value:
        return value
    return value.replace(b"\r", b"").replace(b"\n", b" ")
