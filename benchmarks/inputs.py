"""The streams that are pushed: the same bytes for the same seed, on every machine."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from pathlib import Path

import orjson

from pusher.generating import generate

__all__ = ["Stream", "first_lines", "write"]

_SEED = 1
_TYPES = ("CONTACT", "PRODUCT", "DEAL", "LINE_ITEM")
_FIRST_CHANGE_MS = 1_600_000_000_000
_BLOCK_LINES = 1_000
_WORDS = b"green dried smoked whole organic fresh roasted spiced plain tea rice cheese honey "


@dataclass(frozen=True)
class Stream:
    """What a file of input holds.

    Without `line_bytes` it is what `pusher generate` makes for ten shops: 40 lanes, lines of 236
    bytes in the mean. `zipf` is the exponent by which the sizes of the lanes fall; 0 makes them
    alike. The lanes come in random order. With `in_kcat` each is the payload of a record that
    `kcat -J` has written.
    """

    messages: int
    lanes: int = 40
    line_bytes: int | None = None
    zipf: float = 0.0
    compression: str = ""
    in_kcat: bool = False

    @property
    def name(self) -> str:
        """The name of its file."""
        size = f"-{self.line_bytes}b" if self.line_bytes else ""
        zipf = f"-zipf{self.zipf:g}" if self.zipf else ""
        suffix = f".{self.compression}" if self.compression else ""
        kcat = "-kcat" if self.in_kcat else ""
        return f"{self.messages}-{self.lanes}lanes{size}{zipf}{kcat}.ndjson{suffix}"


def write(stream: Stream, directory: Path) -> Path:
    """Write the stream's file where it does not exist yet; return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / stream.name
    if path.exists():
        return path
    if stream.compression:
        plain = write(replace(stream, compression=""), directory)
        program = {"gz": ["gzip", "-6", "-c"], "zst": ["zstd", "-3", "-q", "-c"]}
        unfinished = path.with_name(f"{path.name}.part")
        with unfinished.open("wb") as file:
            subprocess.run([*program[stream.compression], str(plain)], stdout=file, check=True)
    else:
        unfinished = path.with_name(f"{path.name}.part")
        with unfinished.open("wb") as file:
            file.writelines(_blocks(stream))
    unfinished.rename(path)
    return path


def _blocks(stream: Stream) -> Iterator[bytes]:
    if stream.in_kcat:
        return _in_kcat(_blocks(replace(stream, in_kcat=False)))
    if stream.line_bytes is None:
        return generate(stream.messages, stores=stream.lanes // len(_TYPES), seed=_SEED)
    return _lines_of_one_size(stream, stream.line_bytes)


def _lines_of_one_size(stream: Stream, line_bytes: int) -> Iterator[bytes]:
    """New objects, each line padded to `line_bytes`, the lanes drawn at random."""
    rng = random.Random(_SEED)
    types = _TYPES if stream.lanes >= len(_TYPES) else ("PRODUCT",)
    heads = [
        b'{"storeId":"store-%05d","objectType":"%b","action":"UPSERT","changedAt":'
        % (lane // len(types) + 1, types[lane % len(types)].encode())
        for lane in range(stream.lanes)
    ]
    # Where the large lanes are says nothing: the weights are not in the order of the names.
    rng.shuffle(heads)
    shares = list(accumulate((rank + 1) ** -stream.zipf for rank in range(stream.lanes)))
    text = _WORDS * (line_bytes // len(_WORDS) + 2)
    number = 0
    while number < stream.messages:
        count = min(_BLOCK_LINES, stream.messages - number)
        lines = []
        for head in rng.choices(heads, cum_weights=shares, k=count):
            front = b'%b%d,"externalObjectId":"o%d","properties":{"name":"%d","description":"' % (
                head,
                _FIRST_CHANGE_MS + number,
                number,
                number,
            )
            start = number % len(_WORDS)
            room = max(line_bytes - len(front) - len(b'"}}\n'), 0)
            lines.append(b'%b%b"}}\n' % (front, text[start : start + room]))
            number += 1
        yield b"".join(lines)


def _in_kcat(blocks: Iterator[bytes]) -> Iterator[bytes]:
    offset = 0
    for block in blocks:
        for line in block.splitlines():
            record = {
                "topic": "changes",
                "partition": 0,
                "offset": offset,
                "tstype": "create",
                "ts": _FIRST_CHANGE_MS + offset,
                "broker": 1,
                "key": None,
                "payload": line.decode(),
            }
            yield orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
            offset += 1


def first_lines(path: Path, count: int, into: Path) -> Path:
    """Write the first lines of an uncompressed file to another; return its path."""
    if not into.exists():
        with path.open("rb") as source, into.open("wb") as file:
            file.writelines(islice(source, count))
    return into
