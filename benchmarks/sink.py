"""A sink that is not the bottleneck: takes PUTs, counts what arrived, answers 204 after a latency.

Run as a process of its own: `python -m benchmarks.sink LATENCY_S`. It prints its port, and when its
standard input ends the counts as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import cast

import uvloop

_ANSWER = b"HTTP/1.1 204 No Content\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n"
_MARK = b'"externalObjectId":'


class Counts:
    """What arrived at all connections."""

    requests = 0
    messages = 0
    body_bytes = 0


class _Connection(asyncio.Protocol):
    """Reads one request after the other; the body is kept only until it is counted."""

    def __init__(self, counts: Counts, latency_s: float) -> None:
        self._counts = counts
        self._latency_s = latency_s
        self._buffer = bytearray()
        self._wanted = 0  # Length of head and body of the request that is coming in.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have asyncio's methods, but not its base class.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._buffer:
            if not self._wanted:
                head_end = self._buffer.find(b"\r\n\r\n")
                if head_end < 0:
                    return
                head = bytes(self._buffer[:head_end]).lower()
                length = head.partition(b"content-length:")[2].split(b"\r\n")[0]
                self._wanted = head_end + 4 + int(length or 0)
            if len(self._buffer) < self._wanted:
                return
            self._counts.requests += 1
            self._counts.messages += self._buffer.count(_MARK, 0, self._wanted)
            self._counts.body_bytes += self._wanted
            del self._buffer[: self._wanted]
            self._wanted = 0
            if self._latency_s:
                asyncio.get_running_loop().call_later(self._latency_s, self._answer)
            else:
                self._answer()

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(_ANSWER)


async def _serve(latency_s: float) -> None:
    counts = Counts()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(counts, latency_s), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()
    print(json.dumps({"requests": counts.requests, "messages": counts.messages}), flush=True)


if __name__ == "__main__":
    uvloop.run(_serve(float(sys.argv[1]) if len(sys.argv) > 1 else 0.0))
