"""Runs that are slow for one reason each: the report and the progress line name it."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from fakes.command import PUSHER, Ended, ended, message, ndjson, run, starting
from fakes.endpoint import Endpoint, Request, accept, until

from pusher import Settings, push
from pusher.dead_letters import DeadLetters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pusher.report import Report

PUSH = ("--confirm", "0", "--report", "-", "--no-preflight")
ROOT = Path(__file__).parents[1]


def lines(count: int, padding: int = 0) -> bytes:
    pad = {"pad": "x" * padding} if padding else {}
    return ndjson(message(number, properties={"n": "1", **pad}) for number in range(count))


async def pushed(endpoint: Endpoint, stdin: bytes, cwd: Path, *arguments: str) -> Ended:
    return await run("push", "--url", endpoint.url, *PUSH, *arguments, cwd=cwd, stdin=stdin)


def binds(ended: Ended) -> tuple[str, float]:
    """The constraint that bound most of the time, and its share."""
    shares: dict[str, float] = ended.report["constraint"]
    assert sum(shares.values()) == pytest.approx(1, abs=0.002)
    name = max(shares, key=shares.__getitem__)
    return name, shares[name]


def answering_after(delay_s: float) -> object:
    async def answer(request: Request) -> web.StreamResponse:
        await asyncio.sleep(delay_s)
        return await accept(request)

    return answer


@asynccontextmanager
async def running_sink() -> AsyncIterator[str]:
    """The sink of the benchmarks: a process of its own that is faster than we are."""
    argv = (sys.executable, "-m", "benchmarks.sink")
    async with starting(*argv, cwd=ROOT, stdin=PIPE) as process:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            port = int(await process.stdout.readline())
        yield f"http://127.0.0.1:{port}"


async def test_a_slow_pipe_is_limited_by_the_input(endpoint: Endpoint, tmp_path: Path) -> None:
    argv = (*PUSHER, "push", "--url", endpoint.url, *PUSH)
    async with starting(*argv, cwd=tmp_path, stdin=PIPE) as process:
        assert process.stdin is not None
        for number in range(4):
            process.stdin.write(lines(200))
            await process.stdin.drain()
            await until(lambda: len(endpoint.accepted) > number)  # noqa: B023
            await asyncio.sleep(0.4)  # That is what makes it slow.
        result = await ended(process, within_s=20)
    name, share = binds(result)
    assert name == "input"
    assert share > 0.8


async def test_a_sink_without_latency_leaves_the_cpu_as_the_limit(tmp_path: Path) -> None:
    (tmp_path / "in.ndjson").write_bytes(lines(2_000) * 160)
    async with running_sink() as url:
        arguments = (
            "push",
            "in.ndjson",
            "--url",
            url,
            *PUSH,
            "--order",
            "none",
            "--concurrency",
            "64",
        )
        result = await run(*arguments, cwd=tmp_path)
    assert binds(result)[0] == "cpu"


async def test_a_rate_is_named_as_the_limit(endpoint: Endpoint, tmp_path: Path) -> None:
    result = await pushed(endpoint, lines(3_000), tmp_path, "--rate", "10")
    name, share = binds(result)
    assert name == "rate_limit"
    assert share > 0.7
    assert "limited by --rate (" in result.err


async def test_latency_and_few_requests_at_a_time_are_the_endpoints(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.answer = answering_after(0.2)  # type: ignore[assignment]
    result = await pushed(endpoint, lines(1_600), tmp_path, "--concurrency", "1")
    name, share = binds(result)
    assert name == "endpoint"
    assert share > 0.8


async def test_a_pause_that_the_endpoint_asks_for_is_named(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def answer(request: Request) -> web.StreamResponse:
        if request.number == 0:
            return web.Response(status=429, headers={"Retry-After": "2"})
        return await accept(request)

    endpoint.answer = answer
    result = await pushed(endpoint, lines(400), tmp_path, "--concurrency", "1")
    name, share = binds(result)
    assert name == "retry_pause"
    assert share > 0.8


async def test_failures_without_a_pause_are_waited_for_too(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def answer(request: Request) -> web.StreamResponse:
        status = 502 if request.number < 3 else 204
        return web.Response(status=status)

    endpoint.answer = answer
    result = await pushed(endpoint, lines(10), tmp_path)
    assert binds(result)[0] == "retry_pause"


async def test_a_small_memory_budget_is_named(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = answering_after(0.2)  # type: ignore[assignment]
    arguments = ("--memory", "1MiB", "--concurrency", "200")
    result = await pushed(endpoint, lines(4_000, padding=1_000), tmp_path, *arguments)
    name, share = binds(result)
    assert name == "memory_budget"
    assert share > 0.7


async def test_a_small_lag_is_named(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = answering_after(0.3)  # type: ignore[assignment]
    (tmp_path / "in.ndjson").write_bytes(lines(2_000, padding=400))
    arguments = ("--checkpoint", "ck", "--max-lag", "1", "--concurrency", "200")
    argv = ("push", "in.ndjson", "--url", endpoint.url, *PUSH, *arguments)
    result = await run(*argv, cwd=tmp_path)
    name, share = binds(result)
    assert name == "max_lag"
    assert share > 0.6


async def pushed_here(path: Path, settings: Settings) -> Report:
    return await push(path, settings)


async def test_a_slow_disk_is_named(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = DeadLetters._append

    def slowly(letters: DeadLetters, data: bytes) -> None:
        time.sleep(0.4)
        append(letters, data)

    monkeypatch.setattr(DeadLetters, "_append", slowly)
    (tmp_path / "in.ndjson").write_bytes((b"{broken\n" + lines(300, padding=1_000)) * 3)
    settings = Settings(url=endpoint.url, dead_letters=tmp_path / "dead", preflight=False)
    report = await pushed_here(tmp_path / "in.ndjson", settings)
    assert report.messages.rejected == 3
    assert max(report.constraint, key=report.constraint.__getitem__) == "disk"


async def test_a_phase_that_waits_for_the_bridge_is_named(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    began_s = time.monotonic()

    def processed_at_ms(lane: tuple[str, str], external_id: str) -> int | None:
        del lane, external_id
        return int(time.time() * 1000) if time.monotonic() - began_s > 1.0 else None

    endpoint.processed_at_ms = processed_at_ms
    (tmp_path / "in.ndjson").write_bytes(lines(3) + ndjson([message(9, objectType="DEAL")]))
    settings = Settings(url=endpoint.url, dead_letters=tmp_path / "dead", phases=True)
    report = await pushed_here(tmp_path / "in.ndjson", settings)
    assert report.outcome == "delivered"
    assert max(report.constraint, key=report.constraint.__getitem__) == "processing"


async def test_the_progress_line_names_the_limit_and_the_time_that_is_left(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "in.ndjson").write_bytes(lines(40_000, padding=100))
    arguments = ("--rate", "20", "--log-format", "json", "--drain-timeout", "0s")
    argv = (*PUSHER, "push", "in.ndjson", "--url", endpoint.url, *PUSH, *arguments)
    async with starting(*argv, cwd=tmp_path, stdin=DEVNULL) as process:
        assert process.stderr is not None
        async with asyncio.timeout(20):
            line = json.loads(await process.stderr.readline())
        assert line["limited_by"] == "rate_limit"
        # 200 requests at 20 a second are 10 s; it is said after 5.
        assert 2 < line["left_s"] < 8
        assert "limited by --rate, " in line["message"]
        assert line["message"].endswith(" s left")
        process.terminate()
        result = await ended(process, within_s=20)
    assert result.code == 143
    series = result.report["series"]
    assert series["constraint"].count("rate_limit") > 10
    assert 2_000 < max(series["messages_per_s"]) < 10_000
