"""`python -m benchmarks.stages`: where the time of a message and of a request goes.

Each stage runs by itself, over and over, and its best time counts: what it costs when nothing else
is in the processor's caches. The pipeline as a whole shows what is lost between the stages.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import anyio
import uvloop

from benchmarks.inputs import Stream, write
from benchmarks.measuring import sink
from pusher import decoding
from pusher.batching import Batcher
from pusher.cli.push import GC_THRESHOLD
from pusher.config import Settings
from pusher.decoding import HAS_SCANNER, Decoder
from pusher.model import Answer, Batch, Chunk, Groups
from pusher.pipeline import Pipeline
from pusher.protocol import MESSAGES_PATH
from pusher.sampling import SampleSize
from pusher.sources import lines, open_source
from pusher.sources.cutting import cut_into_chunks
from pusher.transport import HttpTransport

_STREAM = Stream(400_000)
_CUT_MESSAGES = 40_000
_ROUNDS = 7
_REQUESTS = 1_000


class _AtOnce:
    """A transport that takes everything as soon as others had their turn."""

    async def request(
        self, method: str, path: str, *, query: str = "", body: bytes | None = None
    ) -> Answer:
        """Answer 204."""
        del method, path, query, body
        await asyncio.sleep(0)
        return Answer(204, b"", None, "Wed, 25 Nov 2026 12:00:00 GMT")


def _best_ns(work: Callable[[], object], messages: int) -> int:
    best_s = min(_seconds(work) for _ in range(_ROUNDS))
    return round(best_s / messages * 1e9)


def _seconds(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def _stages(path: Path) -> Iterator[tuple[str, int]]:
    blocks = _blocks(path)
    chunks = list(cut_into_chunks(iter(blocks), "stages"))
    messages = sum(chunk.line_count for chunk in chunks)
    yield "cut into chunks", _best_ns(lambda: list(cut_into_chunks(iter(blocks), "s")), messages)

    def decode() -> None:
        decoder = Decoder()
        for chunk in chunks:
            decoder.decode(chunk, 1)

    yield "decode and check", _best_ns(decode, messages)

    def batch() -> list[Batch]:
        """It takes the stores out of the messages, so they have to be decoded anew."""
        decoder, batcher, made = Decoder(), Batcher(), []
        for number, chunk in zip(count(1), chunks, strict=False):
            fresh = Chunk(chunk.data, "s", chunk.offset, chunk.first_line, chunk.line_count)
            fresh.number = number
            decoded = decoder.decode(fresh, 1)
            for one in batcher.add(decoded.messages, decoded.indexes, fresh, 0.0):
                batcher.release(one)
                made.append(one)
        return made

    yield "decode, check, batch, encode", _best_ns(batch, messages)
    if not HAS_SCANNER:
        return

    def scan() -> None:
        decoder = Decoder(takes_groups=True)
        for chunk in chunks:
            decoder.decode(chunk, 1)

    yield "scan", _best_ns(scan, messages)

    def scan_and_batch() -> None:
        decoder, batcher = Decoder(takes_groups=True), Batcher()
        for chunk in chunks:
            for one in batcher.add_groups(_groups_of(chunk, decoder), chunk, 0.0):
                batcher.release(one)

    yield "scan, batch", _best_ns(scan_and_batch, messages)


def _groups_of(chunk: Chunk, decoder: Decoder) -> Groups:
    groups = decoder.decode(chunk, 1).groups
    if groups is None:
        raise AssertionError("the scanner takes every chunk of this input")
    return groups


def _blocks(path: Path) -> list[bytes]:
    data = b"".join(path.read_bytes().splitlines(keepends=True)[:_CUT_MESSAGES])
    size = getattr(lines, "CHUNK_BYTES", 128 << 10)
    return [data[start : start + size] for start in range(0, len(data), size)]


def _pipeline_ns(path: Path) -> int:
    def push() -> None:
        with tempfile.TemporaryDirectory() as name:
            settings = Settings(
                url="http://127.0.0.1:1",
                confirm=SampleSize(0),
                preflight=False,
                concurrency=16,
                dead_letters=Path(name) / "dead",
            )
            pipeline = Pipeline(open_source([path]), settings, transport=_AtOnce())
            anyio.run(pipeline.run, backend_options={"use_uvloop": True})

    return _best_ns(push, _STREAM.messages)


async def _request_us(body: bytes) -> float:
    with sink() as target:
        async with HttpTransport(target.url) as transport:
            best_s = 1e9
            for _ in range(_ROUNDS):
                started_s = time.process_time()
                for _ in range(_REQUESTS):
                    await transport.request("PUT", MESSAGES_PATH, body=body)
                best_s = min(best_s, time.process_time() - started_s)
    return round(best_s / _REQUESTS * 1e6, 1)


def main() -> None:
    """Print one JSON object: nanoseconds a message, and microseconds of CPU a request."""
    path = write(_STREAM, Path(".benchmarks") / "inputs")
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    found: dict[str, float] = dict(_stages(path))
    found["all without HTTP"] = _pipeline_ns(path)
    if HAS_SCANNER:
        decoding.HAS_SCANNER = False
        found["all without HTTP, without the scanner"] = _pipeline_ns(path)
    lines_of_200 = path.read_bytes().splitlines()[:200]
    body = b'{"storeId":"s","objectType":"DEAL","messages":[%b]}' % b",".join(lines_of_200)
    found["request of 200, us"] = uvloop.run(_request_us(body))
    json.dump(found, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
