"""`python -m benchmarks.load URL FIRST COUNT`: PUT new objects, from outside the bridge.

It prints what it took as JSON. The objects are those of a shop: 10 % contacts, 10 % products, 30 %
deals, 50 % line items; what they point at is made by `--anchors`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from collections.abc import Iterator
from typing import cast
from urllib.parse import urlsplit

import uvloop

BATCH_SIZE = 200
STORE = "default"
ANCHORS = 1000
#: Ten batches of every twenty are line items, and so on.
_MIX = ("CONTACT", "PRODUCT", *("DEAL",) * 3, *("LINE_ITEM",) * 5)


def _message(object_type: str, external_id: str, number: int) -> str:
    head = f'{{"action":"UPSERT","changedAt":{1_600_000_000_000 + number},"externalObjectId":'
    anchor = number * 7919 % ANCHORS
    if object_type == "CONTACT":
        rest = (
            f'{{"firstname":"Ana","familyname":"Berg {number}",'
            f'"customer_email":"{external_id}@shop.example","phone_number":"+49 30 {number}"}}'
        )
    elif object_type == "PRODUCT":
        rest = (
            f'{{"product_name":"dried tea {number}","price":"12.5",'
            f'"product_description":"dried tea {number}, by the dozen"}}'
        )
    elif object_type == "DEAL":
        rest = (
            f'{{"name":"Order {number}","stage":"processed","purchase_date":"1600000000000"}},'
            f'"associations":{{"CONTACT":["anchor-{anchor}"]}}'
        )
    else:
        rest = (
            '{"num_items":"3","price":"12.5","discount_amount":"0"},"associations":'
            f'{{"DEAL":["anchor-{anchor}"],"PRODUCT":["anchor-{anchor}"]}}'
        )
    return f'{head}"{external_id}","properties":{rest}}}'


def _body(object_type: str, messages: list[str]) -> bytes:
    head = f'{{"storeId":"{STORE}","objectType":"{object_type}","messages":['
    return f"{head}{','.join(messages)}]}}".encode()


def anchors() -> Iterator[bytes]:
    """The objects that the others point at, in an order in which they can be processed."""
    for object_type in ("CONTACT", "PRODUCT", "DEAL"):
        for start in range(0, ANCHORS, BATCH_SIZE):
            numbers = range(start, start + BATCH_SIZE)
            yield _body(object_type, [_message(object_type, f"anchor-{n}", n) for n in numbers])


def objects(first: int, count: int) -> Iterator[bytes]:
    """New objects, numbered from `first`."""
    for start in range(first, first + count, BATCH_SIZE):
        object_type = _MIX[start // BATCH_SIZE % len(_MIX)]
        numbers = range(start, min(start + BATCH_SIZE, first + count))
        yield _body(object_type, [_message(object_type, f"o{n}", n) for n in numbers])


class _Connection(asyncio.Protocol):
    """Sends one request after the other until there are none."""

    def __init__(self, bodies: Iterator[bytes], token: str, done: asyncio.Future[None]) -> None:
        self._bodies = bodies
        self._head = (
            "PUT /extensions/ecomm/v2/sync/messages HTTP/1.1\r\nHost: b\r\n"
            f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: "
        ).encode()
        self._done = done
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        body = next(self._bodies, None)
        if body is None:
            self._transport.close()
            return
        self._transport.write(self._head + b"%d\r\n\r\n" % len(body) + body)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if b"\r\n\r\n" not in self._answer:
            return
        if not self._answer.startswith(b"HTTP/1.1 204 "):
            self._done.set_exception(RuntimeError(self._answer.decode(errors="replace")))
            self._transport.abort()
            return
        self._answer = b""
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc) if exc else self._done.set_result(None)


async def _send_all(url: str, bodies: Iterator[bytes], connections: int) -> None:
    address = urlsplit(url)
    loop = asyncio.get_running_loop()
    ends = [loop.create_future() for _ in range(connections)]
    for done in ends:
        await loop.create_connection(
            lambda done=done: _Connection(bodies, "benchmark", done),  # type: ignore[misc]
            address.hostname or "127.0.0.1",
            address.port or 80,
        )
    await asyncio.gather(*ends)


def main() -> None:
    """Send, and say how long it took."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--anchors", action="store_true", help="send the anchors instead")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--prepared", action="store_true", help="make all bodies before the start")
    arguments = parser.parse_args()
    bodies = anchors() if arguments.anchors else objects(arguments.first, arguments.count)
    if arguments.prepared:
        bodies = iter(list(bodies))
    before = resource.getrusage(resource.RUSAGE_SELF)
    started_s = time.perf_counter()
    # The anchors go one after the other: each type is processed before the next is sent.
    connections = 1 if arguments.anchors else arguments.connections
    uvloop.run(_send_all(arguments.url, bodies, connections))
    wall_s = time.perf_counter() - started_s
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"wall_s": round(wall_s, 3), "cpu_s": round(cpu_s, 3)}))


if __name__ == "__main__":
    main()
