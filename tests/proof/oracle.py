"""`python -m proof.oracle`: an endpoint that remembers what it took and owes, and misbehaves.

It is no bridge and shares no code with one, nor with pusher: it reads HTTP by itself, so that it
can break off anywhere. It runs in a process of its own, and says on its first line where.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import ssl
import struct
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvloop

from proof.faults import TAKE, WEB_PAGE, Deed, Manner, answer_bytes, plan
from proof.workload import digest_of, number_of

__all__ = ["main"]

MESSAGES = "/extensions/ecomm/v2/sync/messages"
STORES = "/extensions/ecomm/v2/stores"
MESSAGES_MAX = 200
DRIBBLE_S = 0.01
TLS_HELLO = b"\x16"
"""The first byte of a TLS connection."""


@dataclass(slots=True)
class Memory:
    """All that happened, in order. Times are of the clock that all processes share, in seconds."""

    numbers: list[int] = field(default_factory=list)
    """The line of each message that was taken, repeats too."""
    digests: list[int] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)
    refused_alone: list[tuple[int, float]] = field(default_factory=list)
    """Poison that came in a request of its own, and when, each time."""
    protests: list[str] = field(default_factory=list)
    """What no correct client sends."""
    requests: int = 0
    deeds: dict[str, int] = field(default_factory=dict)

    def take(self, lane: tuple[str, str], messages: list[dict[str, Any]]) -> None:
        """The work."""
        now_s = time.monotonic()
        for message in messages:
            number = number_of(message)
            if number is None:
                self.protests.append(f"a message of no line: {str(message)[:200]}")
                continue
            self.numbers.append(number)
            self.digests.append(digest_of((*lane, message["externalObjectId"]), message))
            self.at_s.append(now_s)

    def told(self) -> bytes:
        """As JSON."""
        return orjson.dumps(
            {
                "numbers": self.numbers,
                "digests": self.digests,
                "at_s": self.at_s,
                "refused_alone": self.refused_alone,
                "protests": self.protests,
                "requests": self.requests,
                "deeds": self.deeds,
            }
        )


class Oracle:
    """Answers requests as its arguments say, and keeps the memory."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.memory = Memory()
        self._arguments = arguments
        self._rng = random.Random(arguments.seed)
        self._began_s: float | None = None
        self._room = asyncio.Semaphore(arguments.at_once)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: requests one after the other until either side ends it."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._one(reader, writer):
                pass
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if (first := await reader.readexactly(1)) == TLS_HELLO:
            await _answer(Deed(400, body=b"this port speaks plain HTTP"), writer)
            return False
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ", 2)
        fields = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
        body = await reader.readexactly(int(fields.get("content-length", "0")))
        path = target.partition("?")[0]
        if (method, path) == ("GET", "/oracle/record"):
            deed = Deed(200, body=self.memory.told())
        elif (method, path) == ("GET", STORES):
            deed = Deed(200, body=b"[]")
        elif (method, path) == ("PUT", MESSAGES):
            deed = await self._messages(body)
        else:
            self.memory.protests.append(f"{method} {path}")
            deed = Deed(404, body=b"{}")
        return await _answer(deed, writer)

    async def _messages(self, body: bytes) -> Deed:
        memory = self.memory
        now_s = time.monotonic()
        if self._began_s is None:
            self._began_s = now_s
        memory.requests += 1
        batch = orjson.loads(body)
        lane, messages = (batch["storeId"], batch["objectType"]), batch["messages"]
        if not 0 < len(messages) <= MESSAGES_MAX:
            memory.protests.append(f"{len(messages)} messages in a request")
        deed = self._deed(messages, now_s)
        name = f"{deed.status} {deed.manner.name.lower()}"
        memory.deeds[name] = memory.deeds.get(name, 0) + 1
        await self._work(memory.requests, now_s)
        if deed.is_applied:
            memory.take(lane, messages)
        return deed

    def _deed(self, messages: list[dict[str, Any]], now_s: float) -> Deed:
        """Faults come first; what would take poison over, refuses it."""
        if self.memory.requests == self._arguments.web_page_at:
            return WEB_PAGE
        assert self._began_s is not None
        deed = TAKE
        if self._arguments.faults:
            deed = plan(self._arguments.faults, self._rng, now_s - self._began_s, time.time())
        guilty = [i for i, one in enumerate(messages) if "poison" in one["properties"]]
        if not guilty or not deed.is_applied:
            return deed
        if len(messages) == 1:
            number = number_of(messages[0])
            assert number is not None
            self.memory.refused_alone.append((number, now_s))
        return _refusal(guilty if self._arguments.names_the_guilty else [])

    async def _work(self, number: int, now_s: float) -> None:
        """The time that the work takes; with a stall, all requests after some wait for its end."""
        arguments = self._arguments
        assert self._began_s is not None
        if arguments.stall_after and number > arguments.stall_after:
            await asyncio.sleep(max(0.0, self._began_s + arguments.stall_s - now_s))
        low_ms, high_ms = arguments.latency_ms
        if high_ms:
            async with self._room:
                await asyncio.sleep(self._rng.uniform(low_ms, high_ms) / 1000)


def _refusal(guilty: list[int]) -> Deed:
    body: dict[str, Any] = {"status": "error", "message": "Invalid input JSON"}
    if guilty:
        body["errors"] = [{"index": index, "message": "this one is poison"} for index in guilty]
    return Deed(400, is_applied=False, body=orjson.dumps(body))


async def _answer(deed: Deed, writer: asyncio.StreamWriter) -> bool:
    """Send an answer in its manner; whether the connection can go on."""
    data = answer_bytes(deed)
    if deed.manner is Manner.SILENCE:
        await asyncio.sleep(3600)
    if deed.manner is Manner.RESET:
        # With no time to linger, closing sends a reset instead of an end.
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        writer.transport.abort()
        return False
    if deed.manner is Manner.DRIBBLED:
        for at in range(len(data)):
            writer.write(data[at : at + 1])
            await asyncio.sleep(DRIBBLE_S)
        return True
    is_cut = deed.manner is Manner.CUT
    writer.write(data[: len(data) - len(deed.body) // 2 - 1] if is_cut else data)
    await writer.drain()
    return not is_cut


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m proof.oracle")
    parser.add_argument("--fault", dest="faults", action="append", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, nargs=2, default=(0.0, 0.0))
    parser.add_argument("--at-once", type=int, default=1_000, help="requests; others wait")
    parser.add_argument("--names-the-guilty", action="store_true")
    parser.add_argument("--web-page-at", type=int, default=0, help="number of one request")
    parser.add_argument("--stall-after", type=int, default=0, help="requests")
    parser.add_argument("--stall-s", type=float, default=0.0)
    parser.add_argument("--tls", nargs=2, help="certificate and key")
    return parser.parse_args()


async def _serve(arguments: argparse.Namespace) -> None:
    tls = None
    if arguments.tls:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*arguments.tls)
    oracle = Oracle(arguments)
    server = await asyncio.start_server(oracle.serve, "127.0.0.1", 0, limit=1 << 20, ssl=tls)
    print(f"listening on {server.sockets[0].getsockname()[1]}", flush=True)  # noqa: T201
    await server.serve_forever()


def main() -> None:
    """Serve until killed."""
    with suppress(KeyboardInterrupt):
        uvloop.run(_serve(_arguments()))


if __name__ == "__main__":
    main()
