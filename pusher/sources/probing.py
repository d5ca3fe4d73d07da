"""Look at the beginning of an input: how it is cut, and which format its records have."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

import msgspec

from pusher.detecting import Detected, Detector
from pusher.sources.cutting import BOM, FEED_BYTES, Cutter, LineCutter, Place
from pusher.sources.objects import ObjectCutter

__all__ = ["MakeCutter", "Probe", "probe"]

MakeCutter = Callable[[str, Place, int], Cutter]

_INDENTED = re.compile(rb"(?:\[\s*)?\{[ \t]*\r?\n[ \t]+")
_is_json = msgspec.json.Decoder(msgspec.Raw).decode


@dataclass(frozen=True, slots=True)
class Probe:
    """What the beginning of an input says.

    Attributes:
        make_cutter: how it is cut; None at line ends.
        detected: its format; None where it is unknown, or was not asked for.
        blocks: the input, from its beginning.
    """

    make_cutter: MakeCutter | None
    detected: Detected | None
    blocks: Iterator[bytes]


def probe(
    blocks: Iterator[bytes],
    detector: Detector | None,
    max_line_bytes: int,
    *,
    is_of_sink: bool = False,
) -> Probe:
    """Read as much as it takes, which is the first record where that is a good one.

    Args:
        blocks: the input, decompressed.
        detector: asked for the format; None where that is known.
        max_line_bytes: of a record; no more is read of one that is longer.
        is_of_sink: the input is named as the files of a Confluent sink are.
    """
    head, shape = _Head(blocks, max_line_bytes), None
    while shape is None:
        has_more = head.is_all or head.read_on()
        shape = _shape_of(head.data, is_all=head.is_all) if has_more else _Shape()
    detected = None
    if detector is not None:
        for record in _records(head, shape, max_line_bytes):
            detected = detector.look(record, is_of_sink=is_of_sink)
            if detected is not None or detector.is_at_a_loss:
                break
    return Probe(shape.make_cutter, detected, chain((head.data,), blocks))


class _Head:
    """The beginning of an input, as far as it was read; not much longer than one record may be."""

    def __init__(self, blocks: Iterator[bytes], max_bytes: int) -> None:
        self.data = b""
        self.is_all = False
        self._blocks = blocks
        self._max_bytes = max_bytes

    def read_on(self) -> bool:
        """Read a block; False where enough was read already."""
        if len(self.data) > self._max_bytes:
            return False
        block = next(self._blocks, None)
        if block is None:
            self.is_all = True
        else:
            self.data += block
        return True


def _records(head: _Head, shape: _Shape, max_line_bytes: int) -> Iterator[bytes]:
    """The records at the beginning of an input, reading on as they are wanted."""
    cutter = (shape.make_cutter or LineCutter)("", Place(), max_line_bytes)
    fed = len(BOM) if head.data.startswith(BOM) else 0
    while True:
        if fed < len(head.data):
            chunks = cutter.feed(head.data[fed : fed + FEED_BYTES])
            fed = min(len(head.data), fed + FEED_BYTES)
        elif not head.is_all:
            if not head.read_on():
                return
            continue
        elif shape.is_array:
            return  # That it is not closed is found when it is read.
        else:
            chunks = cutter.finish()
            yield from (line for chunk in chunks for _, _, line in chunk.lines())
            return
        yield from (line for chunk in chunks for _, _, line in chunk.lines())


@dataclass(frozen=True, slots=True)
class _Shape:
    """Lines; or values, wherever their lines end."""

    is_values: bool = False
    is_array: bool = False
    is_indented: bool = False

    @property
    def make_cutter(self) -> MakeCutter | None:
        if not self.is_values:
            return None
        return partial(ObjectCutter, is_array=self.is_array, is_indented=self.is_indented)


def _shape_of(head: bytes, *, is_all: bool) -> _Shape | None:
    """Tell it from what was read so far; None where that is not enough."""
    body = head.removeprefix(BOM).lstrip()
    if body[:1] == b"[":
        return _shape_of_array(body, is_all=is_all)
    if body[:1] != b"{":
        return _Shape() if body or is_all else None
    line, _, rest = body.partition(b"\n")
    if len(line) == len(body) and not is_all:
        return None
    line = line.strip()
    if not _is_whole(line):
        if not rest and not is_all:
            return None
        if line == b"{" or (not line.endswith(b"}") and rest[:1] in (b" ", b"\t")):
            return _Shape(is_values=True, is_indented=_INDENTED.match(body) is not None)
        if _holds_several(line):
            return _Shape(is_values=True)
    return _Shape()


def _shape_of_array(body: bytes, *, is_all: bool) -> _Shape | None:
    inner = body[1:].lstrip()
    if inner[:1] == b"{":
        if len(inner) < 3 and not is_all:
            return None
        return _Shape(is_values=True, is_array=True, is_indented=_INDENTED.match(body) is not None)
    if inner[:1] == b"]" and not inner[1:].strip():
        return _Shape(is_values=True, is_array=True) if is_all else None
    return _Shape() if inner or is_all else None


def _is_whole(line: bytes) -> bool:
    try:
        _is_json(line)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _holds_several(line: bytes) -> bool:
    """Objects one after another, with nothing between."""
    count = 0
    for chunk in ObjectCutter("", Place(), len(line)).feed(line):
        count += chunk.line_count
        if not all(_is_whole(text) and text[:1] == b"{" for _, _, text in chunk.lines() if text):
            return False
    return count > 1
