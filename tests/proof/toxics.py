"""A real toxiproxy between pusher and the oracle: built once with Go, driven over its HTTP API."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

__all__ = ["Toxiproxy", "build_toxiproxy", "running_toxiproxy"]

MODULE = "github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0"
BUILD_S = 300.0
START_S = 10.0


def build_toxiproxy() -> Path | None:
    """The program, from the cache or built now; None where there is no Go."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    program = cache / "pusher-tests" / MODULE.rpartition("@")[2] / "server"
    if program.exists():
        return program
    go = shutil.which("go")
    if go is None:
        return None
    program.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [go, "install", MODULE],
        env={**os.environ, "GOBIN": str(program.parent)},
        check=True,
        timeout=BUILD_S,
    )
    return program


@dataclass(frozen=True)
class Toxiproxy:
    """A running toxiproxy with one proxy in it, named `oracle`."""

    session: aiohttp.ClientSession
    api: str
    url: str

    async def add(self, kind: str, stream: str, attributes: dict[str, int], share: float) -> None:
        """Add a toxic to that share of the connections. `stream`: upstream or downstream."""
        toxic = {
            "type": kind,
            "stream": stream,
            "toxicity": share,
            "attributes": attributes,
        }
        await self.post("/proxies/oracle/toxics", toxic)

    async def switch(self, *, is_on: bool) -> None:
        """Close all connections and refuse new ones, or take them again."""
        await self.post("/proxies/oracle", {"enabled": is_on})

    async def post(self, path: str, body: dict[str, Any]) -> None:
        """Call the API; anything but success fails the test."""
        async with self.session.post(self.api + path, json=body) as answer:
            assert answer.status in {200, 201}, await answer.text()


@asynccontextmanager
async def running_toxiproxy(program: Path, upstream_port: int) -> AsyncIterator[Toxiproxy]:
    """Toxiproxy before a port of loopback."""
    api_port, port = _free_port(), _free_port()
    process = await asyncio.create_subprocess_exec(
        *(program, "-host", "127.0.0.1", "-port", str(api_port)), stdout=DEVNULL, stderr=DEVNULL
    )
    try:
        async with aiohttp.ClientSession() as session:
            api = f"http://127.0.0.1:{api_port}"
            await _answers(session, f"{api}/version")
            proxy = Toxiproxy(session, api, f"http://127.0.0.1:{port}")
            await proxy.post(
                "/proxies",
                {
                    "name": "oracle",
                    "listen": f"127.0.0.1:{port}",
                    "upstream": f"127.0.0.1:{upstream_port}",
                },
            )
            yield proxy
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


async def _answers(session: aiohttp.ClientSession, url: str) -> None:
    async with asyncio.timeout(START_S):
        while True:
            with suppress(aiohttp.ClientError):
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.02)
