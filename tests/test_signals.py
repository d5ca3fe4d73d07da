"""What Ctrl-C and a polite kill do: nothing is lost, and nobody waits longer than they want to."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path

import pytest
from aiohttp import web
from fakes.command import (
    PUSHER,
    ended,
    letters_in,
    message,
    ndjson,
    northwind_bridge,
    starting,
)
from fakes.endpoint import Endpoint, Request, accept, until

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
PUSH = ("--confirm", "0", "--report", "-", "--concurrency", "16")


def lines(count: int) -> bytes:
    return ndjson(message(number) for number in range(count))


def is_waiting(process: Process) -> bool:
    """Whether a signal has been sent that the process has not taken yet."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    pending = [line.split()[1] for line in status.splitlines() if line.startswith("ShdPnd")]
    return any(int(mask, 16) for mask in pending)


async def interrupt(process: Process, signum: signal.Signals = signal.SIGINT) -> None:
    """Send a signal and wait until it is taken: two that wait at once would be one."""
    process.send_signal(signum)
    await until(lambda: process.returncode is not None or not is_waiting(process))


@pytest.mark.parametrize("signum", list(CODES))
async def test_the_first_signal_ends_reading_and_what_was_read_is_delivered(
    signum: signal.Signals, endpoint: Endpoint, tmp_path: Path
) -> None:
    async def be_slow(request: Request) -> web.StreamResponse:
        await asyncio.sleep(0.03)
        return await accept(request)

    endpoint.answer = be_slow
    total = 100_000
    (tmp_path / "in").write_bytes(lines(total))
    argv = (*PUSHER, "push", "in", "--url", endpoint.url, "--concurrency", "4", *PUSH)
    async with starting(*argv, cwd=tmp_path) as process:
        await until(lambda: len(endpoint.accepted) >= 8)
        process.send_signal(signum)
        result = await ended(process, within_s=20)
    report = result.report
    assert result.code == CODES[signum]
    assert report["outcome"] == "interrupted"
    assert signum.name in report["reason"]
    assert report["reason"] in result.err
    read, delivered, rejected, pending = result.counts()
    assert 0 < delivered == read < total
    assert rejected == pending == 0
    ids = [entry["externalObjectId"] for entry in endpoint.delivered]
    assert sorted(ids) == sorted(f"id{number}" for number in range(delivered))


async def test_what_is_reported_is_what_the_endpoint_took_also_when_it_is_difficult(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """Retries, splits and bad lines under way at the moment of the signal."""

    async def be_difficult(request: Request) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        if request.number % 5 == 1:
            return web.Response(status=503, headers={"Retry-After": "0"})
        if any(int(name[2:]) % 1000 == 7 for name in request.ids) and request.number > 3:
            return web.Response(status=400, text="no good")
        return await accept(request)

    endpoint.answer = be_difficult
    whole = lines(60_000).splitlines(keepends=True)
    whole[5000::5000] = [b"oops\n"] * len(whole[5000::5000])
    (tmp_path / "in").write_bytes(b"".join(whole))
    argv = (*PUSHER, "push", "in", "--url", endpoint.url, "--concurrency", "4", *PUSH)
    async with starting(*argv, cwd=tmp_path) as process:
        await until(lambda: len(endpoint.accepted) >= 8)
        await interrupt(process)
        result = await ended(process, within_s=30)
    assert result.code == 130
    _, delivered, rejected, pending = result.counts()
    assert pending == 0
    assert delivered == len(endpoint.delivered)
    letters = letters_in(tmp_path)
    assert rejected == len(letters) > 0
    assert {letter["reason"] for letter in letters} <= {"refused", "not_json"}


async def test_draining_ends_when_its_time_is_up(endpoint: Endpoint, tmp_path: Path) -> None:
    async def stall(request: Request) -> web.StreamResponse:
        if request.number < 3:
            return await accept(request)
        await asyncio.Event().wait()
        raise AssertionError

    endpoint.answer = stall
    (tmp_path / "in").write_bytes(lines(50_000))
    argv = (*PUSHER, "push", "in", "--url", endpoint.url, "--drain-timeout", "500ms", *PUSH)
    async with starting(*argv, cwd=tmp_path) as process:
        await until(lambda: endpoint.in_flight == 16)
        interrupted_s = time.monotonic()
        await interrupt(process)
        result = await ended(process, within_s=10)
        took_s = time.monotonic() - interrupted_s
    assert result.code == 130
    assert 0.45 < took_s < 2
    read, delivered, _, pending = result.counts()
    assert delivered == len(endpoint.delivered) == 600
    assert pending == read - 600 > 0
    assert "read but not settled" in result.err


@pytest.mark.parametrize("second", list(CODES))
async def test_the_second_signal_leaves_at_once_though_the_endpoint_is_stalled(
    second: signal.Signals, endpoint: Endpoint, tmp_path: Path
) -> None:
    async def stall(_: Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    endpoint.answer = stall
    (tmp_path / "in").write_bytes(lines(20_000))
    argv = (*PUSHER, "push", "in", "--url", endpoint.url, *PUSH)
    async with starting(*argv, cwd=tmp_path) as process:
        await until(lambda: endpoint.in_flight == 16)
        await interrupt(process)
        again_s = time.monotonic()
        await interrupt(process, second)
        result = await ended(process, within_s=10)
        assert time.monotonic() - again_s < 1
    assert result.code == 130, "the first signal decides"
    read, delivered, rejected, pending = result.counts()
    assert pending == read >= 16 * 200
    assert delivered == rejected == 0


async def test_a_signal_during_a_long_wait_for_a_retry_is_obeyed(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def ask_for_patience(request: Request) -> web.StreamResponse:
        del request
        return web.Response(status=503, headers={"Retry-After": "60"})

    endpoint.answer = ask_for_patience
    argv = (*PUSHER, "push", "--url", endpoint.url, *PUSH, "--drain-timeout", "200ms")
    async with starting(*argv, cwd=tmp_path, stdin=PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(lines(5))
        process.stdin.close()
        await until(lambda: len(endpoint.requests) == 1)
        interrupted_s = time.monotonic()
        await interrupt(process)
        result = await ended(process, within_s=10)
        assert time.monotonic() - interrupted_s < 1.5
    assert result.code == 130
    assert result.counts() == (5, 0, 0, 5)


@pytest.mark.parametrize("signum", list(CODES))
async def test_a_signal_while_confirming_is_unconfirmed_with_everything_delivered(
    signum: signal.Signals, endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.processed_at_ms = lambda _lane, external_id: (
        int(time.time() * 1000) if external_id == "id3" else None
    )
    (tmp_path / "in").write_bytes(lines(50))
    argv = (*PUSHER, "push", "in", "--url", endpoint.url, "--confirm", "100%", "--report", "-")
    async with starting(*argv, cwd=tmp_path) as process:
        await until(lambda: len(endpoint.status_requests) > 60)
        interrupted_s = time.monotonic()
        process.send_signal(signum)
        result = await ended(process, within_s=10)
        assert time.monotonic() - interrupted_s < 2
    assert result.code == 4
    assert result.report["outcome"] == "unconfirmed"
    assert result.report["reason"] is None
    assert result.counts() == (50, 50, 0, 0)
    confirmation = result.report["confirmation"]
    assert (confirmation["confirmed"], confirmation["unconfirmed"]) == (1, 49)


async def test_a_signal_at_the_gate_between_phases_is_an_interruption(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.processed_at_ms = lambda _lane, _id: None
    entries = [message(number) for number in range(5)]
    entries += [message(number, objectType="DEAL") for number in range(5)]
    (tmp_path / "in").write_bytes(ndjson(entries))
    argv = (*PUSHER, "push", "in", "--url", endpoint.url, "--phases", "--report", "-")
    async with starting(*argv, cwd=tmp_path) as process:
        await until(lambda: len(endpoint.status_requests) > 2)
        process.send_signal(signal.SIGINT)
        result = await ended(process, within_s=10)
    assert result.code == 130
    assert result.report["outcome"] == "interrupted"
    assert result.report["messages"]["delivered"] == 5
    assert {request.lane for request in endpoint.requests} == {("s1", "PRODUCT")}


@pytest.mark.parametrize("signum", list(CODES))
async def test_a_quiet_pipe_does_not_hold_up_a_signal(
    signum: signal.Signals, endpoint: Endpoint, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    try:
        os.write(writing, lines(3))
        argv = (*PUSHER, "push", "--url", endpoint.url, *PUSH)
        async with starting(*argv, cwd=tmp_path, stdin=reading) as process:
            await until(lambda: len(endpoint.delivered) == 3)
            interrupted_s = time.monotonic()
            process.send_signal(signum)
            result = await ended(process, within_s=10)
            assert time.monotonic() - interrupted_s < 1
    finally:
        os.close(reading)
        os.close(writing)
    assert result.code == CODES[signum]
    assert result.counts() == (3, 3, 0, 0)


async def test_lines_that_linger_are_still_delivered_after_a_signal(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """A fourth line waits in an open batch; it has been read, so it is delivered."""
    reading, writing = os.pipe()
    try:
        os.write(writing, lines(4))
        flags = ("--batch-size", "3", "--linger", "1h", "--max-age", "1h")
        argv = (*PUSHER, "push", "--url", endpoint.url, *flags, *PUSH)
        async with starting(*argv, cwd=tmp_path, stdin=reading) as process:
            await until(lambda: len(endpoint.delivered) == 3)
            process.send_signal(signal.SIGINT)
            result = await ended(process, within_s=5)
    finally:
        os.close(reading)
        os.close(writing)
    assert result.code == 130
    assert result.counts() == (4, 4, 0, 0)
    assert len(endpoint.delivered) == 4


async def test_a_signal_during_the_start_is_an_interruption_too(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """The command waits for its token, long before it has read anything."""
    fifo = tmp_path / "token"
    os.mkfifo(fifo)
    argv = (*PUSHER, "push", "--url", endpoint.url, "--token-file", fifo)
    async with starting(*argv, cwd=tmp_path) as process:
        await until(lambda: has_reader(fifo))
        process.send_signal(signal.SIGINT)
        result = await ended(process, within_s=5)
    assert result.code == 130
    assert endpoint.requests == []


def has_reader(fifo: Path) -> bool:
    """Whether somebody waits at the other end. It is left waiting: this opens, and never writes."""
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("signum", list(CODES))
async def test_a_bridge_in_the_background_is_not_what_a_signal_waits_for(
    signum: signal.Signals, tmp_path: Path
) -> None:
    """A real bridge with slow processing: the push is interrupted while it waits at a gate."""
    entries = [message(number, storeId="northwind-europe") for number in range(5)]
    (tmp_path / "in").write_bytes(ndjson(entries))
    async with northwind_bridge("--processing-delay", "600s", cwd=tmp_path) as url:
        argv = (*PUSHER, "push", "in", "--phases", "--url", url, "--report", "-", "-v")
        async with starting(*argv, cwd=tmp_path) as process:
            await until_waiting_at_the_gate(process)
            process.send_signal(signum)
            result = await ended(process, within_s=10)
    assert result.code == CODES[signum]
    assert result.counts() == (5, 5, 0, 0)


async def until_waiting_at_the_gate(process: Process) -> None:
    """A line of progress says so, within a few seconds."""
    assert process.stderr is not None
    async with asyncio.timeout(15):
        while True:
            line = await process.stderr.readline()
            assert line, "the push has ended"
            if b"waiting for processing" in line:
                return


async def test_generate_that_is_interrupted_leaves_without_a_traceback(tmp_path: Path) -> None:
    argv = (*PUSHER, "generate", "1000000000")
    async with starting(*argv, cwd=tmp_path, stdin=DEVNULL) as process:
        assert process.stdout is not None
        async with asyncio.timeout(10):
            assert await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        result = await ended(process, within_s=5)
    assert result.code == 130


async def test_a_demo_that_is_interrupted_leaves_without_a_traceback(tmp_path: Path) -> None:
    async with starting(*PUSHER, "demo", "--keep", cwd=tmp_path) as process:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            while not (line := await process.stdout.readline()).startswith(b"$ pusher push"):
                assert line
        process.send_signal(signal.SIGINT)
        result = await ended(process, within_s=10)
    assert result.code == 130
