"""The ceiling for a Python tool: decode, group, encode, PUT, with nothing else.

No order, no retries, no accounting, no dead letters:
`python -m benchmarks.bare FILE URL CONCURRENCY`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import aiohttp
import msgspec
import uvloop
from msgspec import UNSET, Raw, UnsetType

_CHUNK_BYTES = 256 << 10


class _Message(msgspec.Struct, gc=False, rename="camel"):
    external_object_id: str
    store_id: str | UnsetType = UNSET
    object_type: str | UnsetType = UNSET
    action: str = "UPSERT"
    changed_at: int | UnsetType = UNSET
    properties: Raw = Raw(b"{}")
    associations: Raw = Raw(b"{}")


class _Body(msgspec.Struct, rename="camel"):
    store_id: str
    object_type: str
    messages: list[_Message]


async def _push(path: Path, url: str, concurrency: int) -> None:
    decode_lines = msgspec.json.Decoder(_Message).decode_lines
    encode = msgspec.json.Encoder().encode
    lanes: dict[tuple[str, str], list[_Message]] = {}
    bodies: asyncio.Queue[bytes | None] = asyncio.Queue(concurrency)
    target = f"{url}/extensions/ecomm/v2/sync/messages"

    async def send(session: aiohttp.ClientSession) -> None:
        while (body := await bodies.get()) is not None:
            async with session.put(target, data=body) as response:
                await response.read()

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), headers={"Content-Type": "application/json"}
    ) as session:
        senders = [asyncio.create_task(send(session)) for _ in range(concurrency)]
        tail = b""
        with path.open("rb", buffering=0) as file:
            while block := file.read(_CHUNK_BYTES):
                cut = block.rfind(b"\n") + 1
                data, tail = tail + block[:cut], block[cut:]
                for message in decode_lines(data):
                    key = (str(message.store_id), str(message.object_type))
                    lane = lanes.setdefault(key, [])
                    message.store_id = message.object_type = UNSET
                    lane.append(message)
                    if len(lane) == 200:
                        await bodies.put(encode(_Body(*key, lane)))
                        lanes[key] = []
        for key, lane in lanes.items():
            if lane:
                await bodies.put(encode(_Body(*key, lane)))
        for _ in senders:
            await bodies.put(None)
        await asyncio.gather(*senders)


if __name__ == "__main__":
    uvloop.run(_push(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
