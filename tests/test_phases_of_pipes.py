"""Phases of what comes from a pipe: it is spooled, in any order, of any size, and goes on."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import zstandard
from aiohttp import web
from fakes.command import PUSHER, Ended, ended, files_in, letters_in, message, ndjson, run, starting
from fakes.endpoint import Endpoint, Request, accept, until

KINDS = ("LINE_ITEM", "DEAL", "CONTACT", "PRODUCT")
COUNT = 3_000
BAD = 700


def stream(count: int = COUNT, *, pad: str = "") -> bytes:
    """Messages of all types in no order, every third object changed once more, one bad line."""
    rng = random.Random(7)
    entries = [
        message(
            number,
            objectType=rng.choice(KINDS),
            externalObjectId=f"id{number if number % 3 else number // 2}",
            properties={"n": str(number), "pad": pad},
        )
        for number in range(count)
    ]
    lines = ndjson(entries).splitlines(keepends=True)
    lines.insert(BAD, b"junk\n")
    return b"".join(lines)


def pushing(endpoint: Endpoint, *more: str) -> tuple[str, ...]:
    return (
        *("push", "--phases", "--url", endpoint.url, "--spool-dir", "spool", "--report", "-"),
        *("--confirm", "0", "--progress", "never", *more),
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    (tmp_path / "spool").mkdir()
    return tmp_path


async def piped(endpoint: Endpoint, folder: Path, stdin: bytes, *more: str) -> Ended:
    return await run(*pushing(endpoint, *more), cwd=folder, stdin=stdin)


async def cut_off(
    endpoint: Endpoint,
    folder: Path,
    stdin: bytes,
    harm: Callable[[Process], None],
    *,
    when: Callable[[], bool],
) -> int:
    """Push, and do harm to the process once something has come true."""
    argv = (*PUSHER, *pushing(endpoint, "--checkpoint", "ck", "--concurrency", "2"))
    async with starting(*argv, cwd=folder, stdin=PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(stdin)
        with suppress(ConnectionError):
            await process.stdin.drain()
        process.stdin.close()
        await until(when)
        harm(process)
        await process.wait()
        assert process.returncode is not None
        return process.returncode


def expected(stdin: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdin.splitlines() if line.startswith(b"{")]


def changes(messages: list[dict[str, Any]]) -> dict[tuple[str, str], list[int]]:
    """The times of each object's messages, in the order of their first arrival."""
    found: dict[tuple[str, str], list[int]] = {}
    for one in messages:
        times = found.setdefault((one["objectType"], one["externalObjectId"]), [])
        if one["changedAt"] not in times:
            times.append(one["changedAt"])
    return found


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
async def test_all_of_a_pipe_is_delivered_in_phases_and_nothing_is_left_on_the_disk(
    compress: Callable[[bytes], bytes], endpoint: Endpoint, folder: Path
) -> None:
    stdin = stream()
    result = await piped(endpoint, folder, compress(stdin))
    assert result.counts() == (COUNT + 1, COUNT, 1, 0)
    assert changes(endpoint.delivered) == changes(expected(stdin))
    assert not endpoint.overlapping_objects
    ranks = [{"DEAL": 1, "LINE_ITEM": 2}.get(one.lane[1], 0) for one in endpoint.accepted]
    assert ranks == sorted(ranks)
    assert [letter["line"] for letter in letters_in(folder)] == [BAD + 1]
    assert files_in(folder / "spool") == []
    spool = result.report["spool"]
    assert spool["input_bytes"] == len(stdin)
    assert 0 < spool["disk_bytes"] < len(stdin) / 5
    assert spool["files"] == []


@pytest.mark.parametrize("kind", ["PRODUCT", "DEAL", "LINE_ITEM"])
async def test_kill_9_in_a_phase_loses_nothing_when_the_same_bytes_are_piped_again(
    kind: str, endpoint: Endpoint, folder: Path
) -> None:
    stdin = stream(pad="x" * 300)

    async def slowly(request: Request) -> web.StreamResponse:
        await asyncio.sleep(0.05)
        return await accept(request)

    endpoint.answer = slowly
    code = await cut_off(
        endpoint,
        folder,
        stdin,
        lambda process: process.kill(),
        when=lambda: (
            sum(one.lane[1] == kind for one in endpoint.accepted) > 2
            and (folder / "ck").stat().st_size > 0
        ),
    )
    assert code == -signal.SIGKILL
    assert files_in(folder / "spool") == []
    endpoint.answer = accept
    await until(lambda: not endpoint.in_flight)  # What the killed process still had under way.
    before = len(endpoint.accepted)
    if kind != "PRODUCT":  # Then all of it was read.
        other = stdin[:-100] + stdin[-100:].replace(b"x", b"y")
        for wrong, complaint in ((other, "is not the input that"), (stdin[:-900], "is shorter")):
            result = await piped(endpoint, folder, wrong, "--checkpoint", "ck")
            assert result.code == 2
            assert complaint in result.err
        assert len(endpoint.accepted) == before
    result = await piped(endpoint, folder, stdin, "--checkpoint", "ck")
    assert result.code == 1
    if kind != "PRODUCT":
        again = {one.lane[1] for one in endpoint.accepted[before:]}
        assert again <= {kind, "LINE_ITEM"}, "what is processed is not sent again"
    assert changes(endpoint.delivered) == changes(expected(stdin))
    assert len(letters_in(folder)) == 1
    assert (await piped(endpoint, folder, stdin, "--checkpoint", "ck")).report["messages"] == {
        **dict.fromkeys(("read", "delivered", "rejected", "skipped", "pending"), 0),
        "resumed": COUNT + 1,
    }


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_leaves_no_spool(
    signum: signal.Signals, endpoint: Endpoint, folder: Path
) -> None:
    code = await cut_off(
        endpoint,
        folder,
        stream(pad="x" * 300),
        lambda process: process.send_signal(signum),
        when=lambda: bool(endpoint.accepted),
    )
    assert code == 128 + signum
    assert files_in(folder / "spool") == []


async def test_a_spool_that_has_no_room_stops_the_run_which_can_go_on(
    endpoint: Endpoint, folder: Path
) -> None:
    stdin = stream(pad="x" * 300)
    result = await piped(endpoint, folder, stdin, "--spool-max", "1KiB", "--checkpoint", "ck")
    assert result.code == 3
    assert result.report["reason"] == "spool: the spool has reached --spool-max"
    result = await piped(endpoint, folder, stdin, "--checkpoint", "ck")
    assert result.code == 1
    assert changes(endpoint.delivered) == changes(expected(stdin))


async def test_a_full_disk_stops_the_run(endpoint: Endpoint, folder: Path) -> None:
    (folder / "in").write_bytes(stream(20_000))
    script = 'ulimit -f 8; cat in | "$@"'
    argv = ("bash", "-c", script, "bash", *PUSHER, *pushing(endpoint))
    async with starting(*argv, cwd=folder) as process:
        result = await ended(process, within_s=30)
    assert result.code == 3
    assert result.report["reason"] == "spool: spool: File too large"
    assert result.report["messages"]["pending"] == 0


async def test_a_kept_spool_is_the_input_compressed(endpoint: Endpoint, folder: Path) -> None:
    stdin = stream()
    result = await run(
        *("push", "--url", endpoint.url, "--keep-spool", "--spool-dir", "spool", "--report", "-"),
        *("--confirm", "0"),
        cwd=folder,
        stdin=stdin,
    )
    [name] = files_in(folder / "spool")
    assert name == f"pusher-{result.report['run_id']}.ndjson.zst"
    assert result.report["spool"]["files"] == [str(folder / "spool" / name)]
    with (folder / "spool" / name).open("rb") as file:
        assert zstandard.ZstdDecompressor().stream_reader(file).read() == stdin


async def test_what_was_added_to_a_file_between_phases_comes_in_the_next_run(
    endpoint: Endpoint, folder: Path
) -> None:
    """Its contacts would come too late for this run, and never in a later one."""
    entries = [message(number, objectType=KINDS[number % 3]) for number in range(3_000)]
    source = folder / "in"
    source.write_bytes(ndjson(entries))

    async def no_items(request: Request) -> web.StreamResponse:
        if request.lane[1] == "LINE_ITEM":
            await asyncio.sleep(60)
        return await accept(request)

    endpoint.answer = no_items
    arguments = (*pushing(endpoint, "--checkpoint", "ck"), "in")
    async with starting(*PUSHER, *arguments, cwd=folder) as process:
        await until(lambda: any(one.lane[1] == "LINE_ITEM" for one in endpoint.requests))
        process.kill()
        await process.wait()
    endpoint.answer = accept
    added = [message(number, objectType=KINDS[number % 3]) for number in range(3_000, 3_030)]
    with source.open("ab") as file:
        file.write(ndjson(added))
    assert (await run(*arguments, cwd=folder)).code == 0
    assert changes(endpoint.delivered) == changes(entries)
    assert (await run(*arguments, cwd=folder)).report["messages"]["delivered"] == 30
    assert changes(endpoint.delivered) == changes([*entries, *added])
