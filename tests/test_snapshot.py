"""SIGUSR1: a run says how it is, and goes on as if nothing had been asked."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web
from fakes.command import PUSHER, ended, message, ndjson, running_bridge, starting
from fakes.endpoint import Endpoint, Request, accept, until

from pusher.constraint import Constraint

PUSH = ("--confirm", "0", "--report", "-", "--no-preflight", "--concurrency", "2")


class Held:
    """An endpoint that keeps its answers back until it is let go."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._event = asyncio.Event()
        endpoint.answer = self._answer

    async def _answer(self, request: Request) -> web.StreamResponse:
        await self._event.wait()
        return await accept(request)

    def let_go(self) -> None:
        self._event.set()

    async def until_busy(self) -> None:
        await until(lambda: self._endpoint.in_flight == 2, within_s=20)


@asynccontextmanager
async def pushing(endpoint: Endpoint, cwd: Path, *arguments: str) -> AsyncIterator[Process]:
    (cwd / "in.ndjson").write_bytes(ndjson(message(number) for number in range(2_000)))
    argv = (*PUSHER, "push", "in.ndjson", "--url", endpoint.url, *PUSH, *arguments)
    async with starting(*argv, cwd=cwd) as process:
        yield process


async def read_until(process: Process, start: str) -> list[str]:
    """The lines on stderr up to the first that begins so."""
    assert process.stderr is not None
    lines: list[str] = []
    async with asyncio.timeout(20):
        while not lines or not lines[-1].startswith(start):
            line = (await process.stderr.readline()).decode()
            assert line, lines
            lines.append(line.rstrip("\n"))
    return lines


async def test_a_snapshot_tells_what_is_under_way_and_the_run_goes_on(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    held = Held(endpoint)
    async with pushing(endpoint, tmp_path, "--quiet") as process:
        await held.until_busy()
        process.send_signal(signal.SIGUSR1)
        shown = await read_until(process, "  lanes:")
        assert shown[0].startswith("pusher: snapshot: pushing, 100% of the input")
        text = "\n".join(shown)
        counts = re.search(
            r"  messages: ([\d,]+) read, 0 delivered, 0 rejected, 0 skipped, ([\d,]+) pending", text
        )
        assert counts is not None
        assert counts[1] == counts[2]
        assert "  requests: 2 in flight of at most 2; 2 sent, 0 retried" in text
        assert " MiB held of 64 MiB" in text
        assert "  oldest unsettled: in.ndjson, from line 1 (byte 0) on, read " in text
        assert "  limited by: " in text
        held.let_go()
        result = await ended(process, within_s=20)
    assert result.counts() == (2_000, 2_000, 0, 0)
    assert result.code == 0


async def test_many_snapshots_disturb_nothing(endpoint: Endpoint, tmp_path: Path) -> None:
    held = Held(endpoint)
    async with pushing(endpoint, tmp_path, "--log-format", "json") as process:
        await held.until_busy()
        for _ in range(20):
            process.send_signal(signal.SIGUSR1)
        held.let_go()
        for _ in range(20):
            process.send_signal(signal.SIGUSR1)
        result = await ended(process, within_s=20)
    assert result.counts() == (2_000, 2_000, 0, 0)
    snapshots = [
        entry for line in result.err.splitlines() if "stage" in (entry := json.loads(line))
    ]
    assert snapshots[0]["message"] == "snapshot"
    assert snapshots[0]["level"] == "info"
    assert snapshots[0]["requests"]["limit"] == 2
    assert snapshots[0]["oldest_unsettled"]["source"] == "in.ndjson"
    messages = snapshots[0]["messages"]
    assert messages["pending"] + messages["delivered"] == messages["read"] >= 400


async def test_a_snapshot_without_anybody_to_read_it_does_no_harm(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    held = Held(endpoint)
    (tmp_path / "in.ndjson").write_bytes(ndjson(message(number) for number in range(2_000)))
    argv = (*PUSHER, "push", "in.ndjson", "--url", endpoint.url, *PUSH)
    async with starting("bash", "-c", 'exec "$@" 2>&-', "bash", *argv, cwd=tmp_path) as process:
        await held.until_busy()
        process.send_signal(signal.SIGUSR1)
        held.let_go()
        result = await ended(process, within_s=20)
    assert result.counts() == (2_000, 2_000, 0, 0)
    assert result.code == 0


async def test_a_reader_that_has_gone_does_no_harm_either(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    held = Held(endpoint)
    (tmp_path / "in.ndjson").write_bytes(ndjson(message(number) for number in range(2_000)))
    argv = (*PUSHER, "push", "in.ndjson", "--url", endpoint.url, *PUSH)
    reader, writer = os.pipe()
    async with starting(*argv, cwd=tmp_path, stderr=writer) as process:
        os.close(writer)
        os.close(reader)
        await held.until_busy()
        process.send_signal(signal.SIGUSR1)
        held.let_go()
        result = await ended(process, within_s=20)
    assert result.counts() == (2_000, 2_000, 0, 0)


async def test_the_metrics_have_the_seconds_of_each_limit(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    held = Held(endpoint)
    async with pushing(endpoint, tmp_path, "--metrics-port", "0") as process:
        (line,) = await read_until(process, "pusher: metrics on ")
        await held.until_busy()
        url = line.removeprefix("pusher: metrics on ")
        name = r'^pusher_limited_by_seconds_total\{constraint="(\w+)"\}'
        bound = re.compile(name + r" (\S+)$", re.MULTILINE)
        seconds: dict[str, float] = {}
        async with aiohttp.ClientSession() as session, asyncio.timeout(20):
            while seconds.get("endpoint", 0) < 0.1:
                async with session.get(url) as answer:
                    found = bound.findall(await answer.text())
                seconds = {name: float(value) for name, value in found}
        assert set(seconds) == {constraint.value for constraint in Constraint}
        held.let_go()
        assert (await ended(process, within_s=20)).code == 0


async def test_an_import_that_waits_to_be_asked_says_so(tmp_path: Path) -> None:
    (tmp_path / "in.ndjson").write_bytes(ndjson([message(1)]))
    async with running_bridge(cwd=tmp_path) as url:
        argv = (*PUSHER, "import", "in.ndjson", "--url", url, "--listen", "127.0.0.1:0")
        async with starting(*argv, cwd=tmp_path, stdin=PIPE) as process:
            await read_until(process, "pusher: the import webhook is served")
            process.send_signal(signal.SIGUSR1)
            assert (await read_until(process, "pusher: snapshot"))[-1].endswith(
                "nothing is sent yet"
            )
            process.send_signal(signal.SIGTERM)
            result = await ended(process, within_s=20)
    assert result.code == 143
