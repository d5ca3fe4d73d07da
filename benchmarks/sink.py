"""A sink that is not the bottleneck: takes PUTs, counts what it accepted, answers 204.

A process of its own: `python -m benchmarks.sink`. It prints its port, serves until its standard
input ends, and then prints what arrived as one JSON object. By options it answers late, refuses a
share, speaks TLS, keeps a digest of the messages, or the time at which each was acknowledged.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import ssl
import sys
import time
from dataclasses import dataclass
from typing import cast

import uvloop

from benchmarks.digest import Digest

_ACCEPTED = b"HTTP/1.1 204 No Content\r\nDate: %b\r\n\r\n"
_REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nDate: %b\r\nContent-Length: 0\r\n\r\n"
_STATUS = (
    b"HTTP/1.1 200 OK\r\nDate: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
)
_MARK = b'"externalObjectId":'


@dataclass(frozen=True)
class Behaviour:
    """How the sink answers; times in seconds, the share in 0 to 1."""

    latency_s: float = 0.0
    jitter_s: float = 0.0
    refused_share: float = 0.0


class Arrivals:
    """What all connections have accepted."""

    def __init__(self, digest: Digest | None, acknowledged: dict[str, float] | None) -> None:
        self.requests = self.messages = self.body_bytes = self.refused = self.polls = 0
        self._digest = digest
        self._acknowledged = acknowledged

    def accept(self, body: bytes) -> None:
        """Count one body; look into it only where that was asked for."""
        self.requests += 1
        self.messages += body.count(_MARK)
        self.body_bytes += len(body)
        if self._digest is not None:
            self._digest.add(body)

    def acknowledge(self, body: bytes) -> None:
        """Note when the answer to a body was written, for each message in it."""
        if self._acknowledged is not None:
            now_s = time.monotonic()
            for message in json.loads(body)["messages"]:
                self._acknowledged[message["externalObjectId"]] = now_s

    def summary(self) -> dict[str, object]:
        """The counts, and what else was asked for."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        summary: dict[str, object] = {
            "requests": self.requests,
            "messages": self.messages,
            "body_bytes": self.body_bytes,
            "refused": self.refused,
            "polls": self.polls,
            "cpu_s": usage.ru_utime + usage.ru_stime,
        }
        if self._digest is not None:
            summary |= {"digest": self._digest.value, "out_of_order": self._digest.out_of_order}
        if self._acknowledged is not None:
            summary["acknowledged"] = self._acknowledged
        return summary


class _Connection(asyncio.Protocol):
    """Reads one request after the other; a body is kept only until it is counted."""

    def __init__(self, arrivals: Arrivals, behaviour: Behaviour, rng: random.Random) -> None:
        self._arrivals = arrivals
        self._behaviour = behaviour
        self._rng = rng
        self._buffer = bytearray()
        self._head = b""
        self._head_end = self._wanted = 0  # Of the request that is coming in.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have asyncio's methods, but not its base class.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._buffer:
            if not self._wanted:
                end = self._buffer.find(b"\r\n\r\n")
                if end < 0:
                    return
                self._head = bytes(self._buffer[:end]).lower()
                length = self._head.partition(b"content-length:")[2].split(b"\r\n")[0]
                self._head_end = end + 4
                self._wanted = self._head_end + int(length or 0)
                if b"\r\nexpect: 100-continue" in self._head:
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if len(self._buffer) < self._wanted:
                return
            body = bytes(memoryview(self._buffer)[self._head_end : self._wanted])
            del self._buffer[: self._wanted]
            self._wanted = 0
            behaviour = self._behaviour
            late_s = behaviour.latency_s + self._rng.random() * behaviour.jitter_s
            if late_s:
                asyncio.get_running_loop().call_later(late_s, self._answer, self._head, body)
            else:
                self._answer(self._head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if self._transport.is_closing():
            return
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()).encode()
        if not head.startswith(b"put "):
            self._arrivals.polls += 1
            now_ms = time.time_ns() // 1_000_000
            status = b'{"externalObjectId":"-","errors":[],"lastProcessedAt":%d}' % now_ms
            self._transport.write(_STATUS % (date, len(status), status))
        elif self._rng.random() < self._behaviour.refused_share:
            self._arrivals.refused += 1
            self._transport.write(_REFUSED % date)
        else:
            self._arrivals.accept(body)
            self._transport.write(_ACCEPTED % date)
            self._arrivals.acknowledge(body)


async def _serve(arguments: argparse.Namespace) -> None:
    digest = Digest() if arguments.digest else None
    arrivals = Arrivals(digest, {} if arguments.times else None)
    behaviour = Behaviour(
        arguments.latency_ms / 1000, arguments.jitter_ms / 1000, arguments.refused_share
    )
    rng = random.Random(1)
    context = None
    if arguments.certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(arguments.certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Connection(arrivals, behaviour, rng), "127.0.0.1", 0, ssl=context, backlog=4096
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()
    print(json.dumps(arrivals.summary()), flush=True)


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sink", description=__doc__)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--jitter-ms", type=float, default=0.0, help="up to so much more")
    parser.add_argument("--refused-share", type=float, default=0.0, help="answered with 503")
    parser.add_argument("--certificate", help="PEM file with key and certificate: speak TLS")
    parser.add_argument("--digest", action="store_true", help="parse and add up all messages")
    parser.add_argument("--times", action="store_true", help="keep when each was acknowledged")
    uvloop.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
