"""Decompress a stream of blocks as they arrive: gzip and zstandard, known by their first bytes.

It must not wait for more input than one block, or a live pipe would stand still; and one block may
not grow without bound. It knows nothing of lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

import zstandard
from isal import igzip_lib, isal_zlib

from pusher.errors import InputError

__all__ = ["MAGIC_BYTES", "decompressed"]

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE_MAGIC = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
MAGIC_BYTES = 4

_OUTPUT_BYTES_MAX = 1 << 20
_GZIP_INPUT_BYTES = 1 << 12
_ZSTD_INPUT_BYTES_MIN, _ZSTD_INPUT_BYTES_MAX = 1 << 8, 1 << 12


def decompressed(blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Pass blocks through, decompressed where their first bytes say so.

    Raises:
        InputError: the stream is damaged or ends too early. All before that has been yielded, but
            for the last few KiB before a damage.
    """
    first = b""
    for block in blocks:
        first += block
        if len(first) >= MAGIC_BYTES:
            break
    if first.startswith(_GZIP_MAGIC):
        yield from _gunzip(chain((first,), blocks), name)
    elif first.startswith(_ZSTD_MAGIC) or _ZSTD_SKIPPABLE_MAGIC.match(first):
        yield from _unzstd(chain((first,), blocks), name)
    else:
        yield from chain((first,), blocks)


def _sliced(blocks: Iterator[bytes], slice_bytes: int) -> Iterator[bytes]:
    for block in blocks:
        for start in range(0, len(block), slice_bytes):
            yield block[start : start + slice_bytes]


def _gunzip(blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Decompress gzip: several members, and the zero bytes that tape-minded tools append."""
    member = isal_zlib.decompressobj(wbits=31)
    try:
        for piece in _sliced(blocks, _GZIP_INPUT_BYTES):
            rest = piece
            while rest:
                if member.eof:
                    rest = rest.lstrip(b"\0")
                    if not rest:
                        break
                    member = isal_zlib.decompressobj(wbits=31)
                yield (output := member.decompress(rest, _OUTPUT_BYTES_MAX))
                while not member.eof and len(output) == _OUTPUT_BYTES_MAX:
                    rest = member.unconsumed_tail
                    yield (output := member.decompress(rest, _OUTPUT_BYTES_MAX))
                rest = member.unused_data if member.eof else member.unconsumed_tail
    except igzip_lib.IsalError as error:  # type: ignore[misc]  # its stub has no base
        raise InputError(f"{name}: damaged gzip data: {error}") from error
    if not member.eof:
        raise InputError(f"{name}: the gzip data ends too early")


def _unzstd(blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Decompress zstandard, several frames; in slices, as one slice can grow a thousandfold."""
    decompressor = zstandard.ZstdDecompressor()
    frame = decompressor.decompressobj()
    slice_bytes = 1 << 10
    try:
        for block in blocks:
            position = 0
            while position < len(block):
                if frame.eof:
                    frame = decompressor.decompressobj()
                piece = block[position : position + slice_bytes]
                yield (output := frame.decompress(piece))
                position += len(piece) - len(frame.unused_data if frame.eof else b"")
                if len(output) > _OUTPUT_BYTES_MAX:
                    slice_bytes = max(_ZSTD_INPUT_BYTES_MIN, slice_bytes // 4)
                elif len(output) < _OUTPUT_BYTES_MAX // 4:
                    slice_bytes = min(_ZSTD_INPUT_BYTES_MAX, slice_bytes * 2)
    except zstandard.ZstdError as error:
        raise InputError(f"{name}: damaged zstandard data: {error}") from error
    if not frame.eof:
        raise InputError(f"{name}: the zstandard data ends too early")
