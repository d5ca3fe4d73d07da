"""Decoding in one process, sending from another: what that could bring at most.

`python -m benchmarks.apart decode FILE | python -m benchmarks.apart send URL CONCURRENCY`. Neither
keeps the order of objects, tries again, or accounts for anything: a real one would have more to do.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
from pathlib import Path

import uvloop

from benchmarks.measuring import BenchmarkError
from pusher.batching import Batcher
from pusher.decoding import Decoder
from pusher.protocol import MESSAGES_PATH
from pusher.sources.cutting import cut_into_chunks
from pusher.sources.handoff import CHUNK_BYTES
from pusher.transport import HttpTransport

_LENGTH = struct.Struct("<I")


def _decode(path: Path) -> None:
    """Write the bodies of all requests to stdout, each after its length."""
    decoder, batcher = Decoder(), Batcher(keep_order=False)
    with path.open("rb", buffering=0) as file, os.fdopen(1, "wb", buffering=1 << 20) as pipe:
        blocks = iter(lambda: file.read(CHUNK_BYTES), b"")
        for number, chunk in enumerate(cut_into_chunks(blocks, path.name), 1):
            chunk.number = number
            decoded = decoder.decode(chunk, 1)
            for batch in batcher.add(decoded.messages, decoded.indexes, chunk, 0.0):
                pipe.write(_LENGTH.pack(len(batch.body)) + batch.body)
        for batch in batcher.drain():
            pipe.write(_LENGTH.pack(len(batch.body)) + batch.body)


async def _send(url: str, concurrency: int) -> None:
    reader = asyncio.StreamReader(limit=1 << 20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    bodies: asyncio.Queue[bytes | None] = asyncio.Queue(concurrency)

    async def send_all(transport: HttpTransport) -> None:
        while (body := await bodies.get()) is not None:
            answer = await transport.request("PUT", MESSAGES_PATH, body=body)
            if getattr(answer, "status", 0) != 204:
                raise BenchmarkError(f"{answer} instead of 204")

    async with HttpTransport(url) as transport, asyncio.TaskGroup() as tasks:
        for _ in range(concurrency):
            tasks.create_task(send_all(transport))
        while head := await reader.read(_LENGTH.size):
            if len(head) < _LENGTH.size:
                head += await reader.readexactly(_LENGTH.size - len(head))
            await bodies.put(await reader.readexactly(_LENGTH.unpack(head)[0]))
        for _ in range(concurrency):
            await bodies.put(None)


def main() -> None:
    """Run one of the two processes."""
    if sys.argv[1] == "decode":
        _decode(Path(sys.argv[2]))
    else:
        uvloop.run(_send(sys.argv[2], int(sys.argv[3])))


if __name__ == "__main__":
    main()
