"""Confirming later, and confirming all: `--sample-out`, `pusher confirm` and `--confirm all`."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import random
import signal
import time
from asyncio.subprocess import DEVNULL
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fakes.command import (
    NORTHWIND,
    PUSHER,
    Ended,
    ended,
    files_in,
    message,
    ndjson,
    northwind_bridge,
    run,
    starting,
)
from fakes.endpoint import Endpoint, Lane, Request, accept, until

from pusher import SampleSize, Settings, push

ALL = SampleSize(is_all=True)
PUSH = ("--report", "-", "--progress", "never")


def entries_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def known_in(path: Path) -> dict[tuple[str, str, str], str | None]:
    """What a sample file says of each object."""
    states: dict[tuple[str, str, str], str | None] = {}
    for entry in entries_in(path)[1:]:
        key = entry["store_id"], entry["object_type"], entry["external_object_id"]
        states[key] = entry.get("state")
    return states


def settled_in(checkpoint: Path) -> int:
    """How many messages a later run will not send again."""
    data = checkpoint.read_bytes() if checkpoint.exists() else b""
    settled: int = json.loads(data)["settled"] if data else 0  # It begins as an empty file.
    return settled


def written(path: Path, count: int, *, pad: int = 0) -> Path:
    """With a pad of 900, a chunk has some 230 messages, and the watermark moves early."""
    properties = {"pad": "x" * pad}
    path.write_bytes(ndjson(message(number, properties=properties) for number in range(count)))
    return path


async def push_command(endpoint_url: str, cwd: Path, *arguments: str | Path) -> Ended:
    return await run("push", "in.ndjson", "--url", endpoint_url, *PUSH, *arguments, cwd=cwd)


async def confirm(url: str, cwd: Path, *arguments: str | Path, file: str = "sample") -> Ended:
    return await run("confirm", file, "--url", url, "--report", "-", *arguments, cwd=cwd)


async def pushed(endpoint: Endpoint, cwd: Path, count: int, **settings: Any) -> Ended:
    """Push so many messages in this process, with a sample that is written to `sample`."""
    values: dict[str, Any] = {"sample_out": cwd / "sample", "dead_letters": cwd / "dead"}
    wanted = Settings(**{"url": endpoint.url, **values, **settings})
    report = await push(written(cwd / "in.ndjson", count), wanted)
    return Ended(report.exit_code, report.to_json(), "")


def report_of(result: Ended) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(result.out)
    assert report["exit_code"] == result.code
    counts = report["confirmation"]
    assert counts["sampled"] == counts["confirmed"] + counts["failed"] + counts["unconfirmed"]
    return report


# A sample that is confirmed later.


async def test_what_a_run_could_not_confirm_is_confirmed_later_and_only_once(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.processed_at_ms = lambda _lane, _id: None
    first = await pushed(endpoint, tmp_path, 1_000, confirm_timeout_s=0)
    assert (first.code, first.report["outcome"]) == (4, "unconfirmed")
    assert first.report["sample_out"] == str(tmp_path / "sample")
    head, *entries = entries_in(tmp_path / "sample")
    assert head == {"sample_of": first.report["run_id"], "kind": "random", "messages": 1_000}
    assert len(entries) == first.report["confirmation"]["sampled"] >= 400
    assert sum(entry.get("places", 0) for entry in entries) == 400
    assert sum(entry.get("lane", False) for entry in entries) == 1
    for entry in entries:
        number = int(entry["external_object_id"].removeprefix("id"))
        assert entry["changed_at"] == 1_600_000_000_000 + number
        assert abs(entry["accepted_at"] - time.time() * 1000) < 60_000
        assert "state" not in entry

    endpoint.processed_at_ms = lambda _lane, _id: int(time.time() * 1000)
    endpoint.status_requests.clear()
    second = await confirm(endpoint.url, tmp_path)
    report = report_of(second)
    assert (second.code, report["outcome"]) == (0, "confirmed")
    assert report["run_id"] == head["sample_of"]
    assert report["confirmation"]["confirmed"] == len(entries)
    assert report["confirmation"]["failure_rate_upper_bound_95"] < 0.01
    assert len(endpoint.status_requests) == report["polls"] == len(entries)
    assert set(known_in(tmp_path / "sample").values()) == {"confirmed"}

    endpoint.status_requests.clear()
    third = await confirm(endpoint.url, tmp_path)
    assert endpoint.status_requests == []
    assert report_of(third)["confirmation"] == report["confirmation"]
    assert third.code == 0


async def test_a_sample_that_was_confirmed_at_once_has_its_states_in_it(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.errors = lambda _lane, external_id: (
        [{"type": "INVALID_DEAL_STAGE", "details": "no such", "erroredAt": "9" * 13}]
        if external_id.endswith("7")
        else []
    )
    first = await pushed(endpoint, tmp_path, 500)
    endpoint.status_requests.clear()
    second = await confirm(endpoint.url, tmp_path)
    assert first.code == second.code == 1
    assert endpoint.status_requests == []
    ours, theirs = report_of(second)["confirmation"], first.report["confirmation"]
    for name in ("sampled", "confirmed", "failed", "errors", "failure_rate_upper_bound_95"):
        assert ours[name] == theirs[name]
    assert ours["failed"] > 0
    assert ours["examples"][0]["details"] == "no such"
    failed = [one for one in entries_in(tmp_path / "sample")[1:] if one.get("state") == "failed"]
    assert {one["error"] for one in failed} == {"INVALID_DEAL_STAGE"}


async def test_what_is_still_not_known_in_time_is_exit_4_and_stays_to_be_asked(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    def half(_lane: Lane, external_id: str) -> int | None:
        return int(time.time() * 1000) if int(external_id[2:]) % 2 else None

    endpoint.processed_at_ms = half
    await pushed(endpoint, tmp_path, 300, confirm_timeout_s=0)
    result = await confirm(endpoint.url, tmp_path, "--wait", "500ms")
    report = report_of(result)
    assert (result.code, report["outcome"]) == (4, "unconfirmed")
    assert report["confirmation"]["unconfirmed"] == 150
    endpoint.processed_at_ms = lambda _lane, _id: int(time.time() * 1000)
    endpoint.status_requests.clear()
    assert (await confirm(endpoint.url, tmp_path)).code == 0
    assert len(endpoint.status_requests) == 150


async def test_the_status_is_asked_for_no_faster_than_its_rate(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    await pushed(endpoint, tmp_path, 20, confirm_timeout_s=0)
    assert None in known_in(tmp_path / "sample").values()
    began_s = time.monotonic()
    assert (await confirm(endpoint.url, tmp_path, "--confirm-rate", "20", "--wait", "0")).code == 0
    assert time.monotonic() - began_s > 19 / 20


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
async def test_a_confirmation_that_was_cut_off_goes_on_where_it_was(
    signum: signal.Signals, endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.processed_at_ms = lambda _lane, _id: None
    await pushed(endpoint, tmp_path, 600, confirm_timeout_s=0, confirm=SampleSize(600))
    endpoint.processed_at_ms = lambda _lane, _id: int(time.time() * 1000)
    endpoint.status_requests.clear()
    command = ("confirm", "sample", "--url", endpoint.url, "--confirm-rate", "200")
    async with starting(*PUSHER, *command, "--report", "report", cwd=tmp_path) as process:
        await until(lambda: len(endpoint.status_requests) >= 100)
        process.send_signal(signum)
        result = await ended(process, within_s=20)
    if signum is signal.SIGINT:
        assert result.code == 4
        counts = json.loads((tmp_path / "report").read_bytes())["confirmation"]
        assert 90 <= counts["confirmed"] < 600 == counts["sampled"]
    asked = len(endpoint.status_requests)
    assert asked < 500
    assert (await confirm(endpoint.url, tmp_path)).code == 0
    # What was under way when it was cut off is asked for again.
    assert 600 <= len(endpoint.status_requests) <= 600 + 40
    assert len(known_in(tmp_path / "sample")) == 600


async def cut_off(endpoint: Endpoint, folder: Path, *options: str) -> tuple[str, ...]:
    """Kill a push of 3,000 messages once it has settled some; the command that goes on with it."""
    written(folder / "in.ndjson", 3_000, pad=900)

    async def slowly(request: Request) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        return await accept(request)

    endpoint.answer = slowly
    argv = (
        *("push", "in.ndjson", "--url", endpoint.url, *PUSH),
        *("--checkpoint", "ck", "--concurrency", "2", "--batch-size", "50", *options),
    )
    async with starting(*PUSHER, *argv, cwd=folder, stdout=DEVNULL, stderr=DEVNULL) as process:
        await until(lambda: settled_in(folder / "ck") > 0)
        process.kill()
        await process.wait()
    return argv


async def test_the_sample_of_a_run_that_was_cut_off_is_written_by_the_one_that_ends(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    argv = await cut_off(endpoint, tmp_path, "--sample-out", "sample")
    assert not (tmp_path / "sample").exists()
    result = await run(*argv, cwd=tmp_path)
    assert result.code == 0
    assert result.report["messages"]["resumed"] > 0
    head, *entries = entries_in(tmp_path / "sample")
    assert head["sample_of"] == result.report["run_id"]
    assert sum(entry.get("places", 0) for entry in entries) == 400
    assert set(known_in(tmp_path / "sample").values()) == {"confirmed"}


async def test_a_run_that_could_not_begin_leaves_an_earlier_sample_alone(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    await pushed(endpoint, tmp_path, 10)
    before = (tmp_path / "sample").read_bytes()
    result = await pushed(endpoint, tmp_path, 10, url="http://127.0.0.1:9")
    assert result.code == 3
    assert (tmp_path / "sample").read_bytes() == before


# What cannot be confirmed.


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "there is no such file"),
        (b"", "holds no sample of a run"),
        (b'{"storeId": "s1"}\n', "holds something else"),
        (b'{"sample_of":"a","kind":"some"}\n', "holds no sample of a run"),
        (b'{"sample_of":"a","kind":"all","version":2}\n', "holds no sample of a run"),
        (b'{"sample_of":"a","kind":"all"}\n{"store_id":1}\n', "line 2: is damaged"),
        (b'{"sample_of":"a","kind":"all"}\noops\n', "line 2: is damaged"),
    ],
)
async def test_a_file_that_is_no_sample_is_a_usage_error_and_left_alone(
    content: bytes | None, complaint: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "sample").write_bytes(content)
    result = await run("confirm", "sample", "--url", endpoint.url, cwd=tmp_path)
    assert result.code == 2
    assert complaint in result.err
    assert content is None or (tmp_path / "sample").read_bytes() == content
    assert not endpoint.status_requests


@pytest.mark.parametrize("status", [401, 403])
async def test_credentials_that_are_not_accepted_are_exit_4_or_3_with_the_reason(
    status: int, endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.processed_at_ms = lambda _lane, _id: None
    await pushed(endpoint, tmp_path, 10, confirm_timeout_s=0)
    endpoint.status_refusal = status
    result = await confirm(endpoint.url, tmp_path)
    report = report_of(result)
    assert result.code == 4
    assert "does not show sync status" in report["confirmation"]["detail"]


async def test_an_endpoint_that_is_gone_is_exit_3(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.processed_at_ms = lambda _lane, _id: None
    await pushed(endpoint, tmp_path, 10, confirm_timeout_s=0)
    result = await confirm("http://127.0.0.1:9", tmp_path)
    report = report_of(result)
    assert (result.code, report["outcome"]) == (3, "stopped")
    assert "connect" in report["reason"]


async def test_a_disk_that_fills_up_ends_a_confirmation_with_whole_lines(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.processed_at_ms = lambda _lane, _id: None
    await pushed(endpoint, tmp_path, 50, confirm_timeout_s=0)
    endpoint.processed_at_ms = lambda _lane, _id: int(time.time() * 1000)
    blocks = (tmp_path / "sample").stat().st_size // 1024 + 2
    argv = (*PUSHER, "confirm", "sample", "--url", endpoint.url)
    limited = ("bash", "-c", f'ulimit -f {blocks}; exec "$@"', "bash", *argv)
    async with starting(*limited, cwd=tmp_path) as process:
        result = await ended(process, within_s=20)
    assert result.code == 3
    assert "File too large" in result.err
    states = list(known_in(tmp_path / "sample").values())
    assert 0 < states.count("confirmed") < len(states)
    assert (await confirm(endpoint.url, tmp_path)).code == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--confirm", "0", "--sample-out", "s"), "has nothing to write"),
        (("--sample-out", "nowhere/s"), "nowhere is not a directory"),
        (("--sample-out", "in.ndjson"), "needs a file of its own"),
        (("--confirm", "all", "--checkpoint", "pusher.sample.ndjson"), "needs a file of its own"),
        (("--confirm", "many"), "or all"),
        (("--max-rejected", "all"), "is not a number of messages"),
        (("--confirm", "all", "--expect", "9999999", "--confirm-rate", "9"), "309 h; give --yes"),
    ],
)
async def test_what_makes_no_sense_is_said_before_anything_is_sent(
    arguments: tuple[str, ...], complaint: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    written(tmp_path / "in.ndjson", 3)
    result = await run("push", "in.ndjson", "--url", endpoint.url, *arguments, cwd=tmp_path)
    assert result.code == 2
    assert complaint in result.err
    assert not endpoint.requests
    assert files_in(tmp_path) == ["in.ndjson"]


# All of it.


async def test_all_objects_of_northwind_are_accounted_for(tmp_path: Path) -> None:
    """The bridge itself knows how many line items came too early: all of them are found."""
    delay = ("--processing-delay", "DEAL=1s,LINE_ITEM=0")
    argv = ("--confirm", "all", "--sample-out", "all")
    async with northwind_bridge(*delay, cwd=tmp_path) as url:
        result = await run("push", NORTHWIND, "--url", url, *PUSH, *argv, cwd=tmp_path)
        errors = await run("errors", "--url", url, "--json", cwd=tmp_path)
        again = await run("confirm", "all", "--url", url, "--report", "-", cwd=tmp_path)
    wrong = {
        (one["storeId"], one["objectType"], one["externalObjectId"])
        for one in map(json.loads, errors.out.splitlines())
    }
    confirmation = result.report["confirmation"]
    assert (result.code, result.report["outcome"]) == (1, "failed")
    assert confirmation["of_all"]
    assert confirmation["failed"] == sum(confirmation["errors"].values()) == len(wrong) > 1_000
    assert confirmation["unconfirmed"] == 0
    assert confirmation["failure_rate_upper_bound_95"] == pytest.approx(
        confirmation["failed"] / confirmation["sampled"]
    )
    states = known_in(tmp_path / "all")
    assert {key for key, state in states.items() if state == "failed"} == wrong
    assert len(states) == confirmation["sampled"]
    assert report_of(again)["confirmation"] == confirmation
    assert report_of(again)["polls"] == 0


async def test_in_phases_all_objects_are_confirmed(tmp_path: Path) -> None:
    async with northwind_bridge(cwd=tmp_path) as url:
        argv = ("push", NORTHWIND, "--phases", "--url", url, *PUSH, "--confirm", "all")
        result = await run(*argv, cwd=tmp_path)
    assert result.code == 0, result.err
    confirmation = result.report["confirmation"]
    assert confirmation["confirmed"] == confirmation["sampled"] > 3_000
    assert "delivered objects confirmed" in result.err
    assert result.report["sample_out"] == "pusher.sample.ndjson"


def sync_error(number: int, **more: Any) -> dict[str, Any]:
    return {
        "storeId": "s1",
        "objectType": "PRODUCT",
        "externalObjectId": f"id{number}",
        "changedAt": str(1_600_000_000_000 + number),
        "erroredAt": int(time.time() * 1000) + 60_000,
        "type": "INVALID_DEAL_STAGE",
        "details": "no such stage",
        "status": "OPEN",
        **more,
    }


async def test_the_sweep_spares_a_poll_for_each_object_that_it_shows(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """It pays attention to errors of the last message alone, and ends where they are older."""
    old = [sync_error(number, erroredAt=5_000) for number in range(700, 1_000)]
    endpoint.sync_errors = [
        *(sync_error(number) for number in range(450)),
        *(sync_error(number, changedAt=5) for number in range(450, 500)),
        *(sync_error(number, status="RESOLVED") for number in range(500, 550)),
        *(sync_error(number, storeId="other") for number in range(550, 600)),
        *old,
        *(sync_error(number, erroredAt=4_000) for number in range(5_000)),
    ]
    endpoint.processed_at_ms = lambda _lane, _id: None
    first = await pushed(endpoint, tmp_path, 1_000, confirm=ALL, confirm_timeout_s=0)
    assert first.report["confirmation"]["failed"] == 450
    assert len(endpoint.errors_requests) <= 6
    assert {query["limit"] for query in endpoint.errors_requests} == {"200"}
    assert {query["path"] for query in endpoint.errors_requests} == {
        "/extensions/ecomm/v2/sync/errors"
    }
    endpoint.processed_at_ms = lambda _lane, _id: int(time.time() * 1000)
    endpoint.status_requests.clear()
    second = await confirm(endpoint.url, tmp_path, "--api-key", "k")
    counts = report_of(second)["confirmation"]
    assert (counts["confirmed"], counts["failed"]) == (550, 450)
    assert counts["errors"] == {"INVALID_DEAL_STAGE": 450}
    assert len(endpoint.status_requests) == 550
    assert endpoint.errors_requests[-1]["path"].endswith("/errors/portal")


async def test_without_sync_errors_each_object_is_asked_for(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    written(tmp_path / "in.ndjson", 300)
    endpoint.errors_refusal = 403
    result = await push_command(endpoint.url, tmp_path, "--confirm", "all")
    assert result.code == 0
    assert result.report["confirmation"]["confirmed"] == 300
    assert "the sync errors cannot be swept, so each object is asked for" in result.err


async def test_failures_of_the_endpoint_do_not_spoil_the_accounting(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    rng = random.Random(4)

    def now_and_then(_lane: Lane, _external_id: str) -> int | None:
        if rng.random() < 0.2:
            raise web.HTTPServiceUnavailable
        return int(time.time() * 1000) if rng.random() < 0.95 else None

    endpoint.processed_at_ms = now_and_then
    result = await pushed(endpoint, tmp_path, 1_000, confirm=ALL)
    assert result.code == 0
    assert result.report["confirmation"]["confirmed"] == 1_000


async def test_an_object_that_changed_again_stands_for_its_last_message(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    lines = [message(number % 100, changedAt=1_600_000_000_000 + number) for number in range(1_000)]
    (tmp_path / "in.ndjson").write_bytes(ndjson(lines))
    result = await push_command(endpoint.url, tmp_path, "--confirm", "all", "--batch-size", "30")
    assert result.code == 0
    assert result.report["confirmation"]["sampled"] == 100
    last = {
        entry["external_object_id"]: entry["changed_at"]
        for entry in entries_in(tmp_path / "pusher.sample.ndjson")[1:]
        if "state" in entry
    }
    assert sorted(last.values()) == [1_600_000_000_900 + number for number in range(100)]


async def test_what_takes_too_long_is_left_for_later_with_a_sample_confirmed(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """1,500 objects at 2 a second take 12 minutes: nobody has agreed to that."""
    written(tmp_path / "in.ndjson", 1_500)
    argv = ("--confirm", "all", "--confirm-rate", "2", "--confirm-timeout", "0")
    async with starting(
        *PUSHER, "push", "in.ndjson", "--url", endpoint.url, *PUSH, *argv, cwd=tmp_path
    ) as process:
        await until(lambda: len(endpoint.status_requests) > 2)
        process.send_signal(signal.SIGINT)
        result = await ended(process, within_s=20)
    assert (result.code, result.report["outcome"]) == (4, "unconfirmed")
    confirmation = result.report["confirmation"]
    assert confirmation["sampled"] == 1_500
    assert confirmation["confirmed"] >= 2
    assert "1,500 objects, at 2 a second, take 12 min" in confirmation["detail"]
    assert "`pusher confirm pusher.sample.ndjson` does it later" in result.err
    assert not endpoint.errors_requests
    refused = await confirm(
        endpoint.url, tmp_path, "--confirm-rate", "2", file="pusher.sample.ndjson"
    )
    assert refused.code == 2
    assert "give --yes where nobody can be asked" in refused.err
    later = await confirm(endpoint.url, tmp_path, file="pusher.sample.ndjson")
    assert later.code == 0
    assert report_of(later)["confirmation"]["confirmed"] == 1_500


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("answer", ["y\n", "n\n", "\x04"])
async def test_on_a_terminal_a_person_is_asked(
    answer: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    """Beforehand, where the number is known; a no sends nothing."""
    written(tmp_path / "in.ndjson", 3)
    argv = ("--confirm", "all", "--confirm-rate", "100", "--expect", "80000", *PUSH)
    with terminal() as (ours, theirs):
        command = (*PUSHER, "push", "in.ndjson", "--url", endpoint.url, *argv)
        async with starting(*command, cwd=tmp_path, stdin=theirs) as process:
            assert process.stderr is not None
            async with asyncio.timeout(20):
                question = await process.stderr.readuntil(b"[y/N]: ")
            assert b"80,000 objects, at 100 a second, take 13 min" in question
            os.write(ours, answer.encode())
            result = await ended(process, within_s=20)
    if answer == "y\n":
        assert result.code == 3  # Not as many messages as expected.
        assert len(endpoint.delivered) == 3
    else:
        assert result.code == 2
        assert not endpoint.requests


@pytest.mark.parametrize("answer", ["y", "n"])
async def test_on_a_terminal_a_person_is_asked_once_the_number_is_known(
    answer: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    written(tmp_path / "in.ndjson", 1_500)
    argv = ("--confirm", "all", "--confirm-rate", "2", "--confirm-timeout", "0", *PUSH)
    endpoint.status_refusal = None
    with terminal() as (ours, theirs):
        command = (*PUSHER, "push", "in.ndjson", "--url", endpoint.url, *argv)
        async with starting(*command, cwd=tmp_path, stdin=theirs) as process:
            await until(lambda: len(endpoint.status_requests) > 0)
            process.send_signal(signal.SIGINT)  # The sample is not waited for.
            assert process.stderr is not None
            async with asyncio.timeout(20):
                question = await process.stderr.readuntil(b"[y/N]: ")
            assert b"1,500 objects, at 2 a second, take 12 min" in question
            endpoint.status_refusal = 403  # It would take 12 minutes.
            os.write(ours, f"{answer}\n".encode())
            result = await ended(process, within_s=20)
    assert result.code == 4
    detail = result.report["confirmation"]["detail"]
    assert ("does not show sync status" in detail) is (answer == "y")
    assert bool(endpoint.errors_requests) is (answer == "y")


async def test_after_a_kill_all_objects_of_both_runs_are_accounted_for(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    argv = await cut_off(endpoint, tmp_path, "--confirm", "all")
    result = await run(*argv, cwd=tmp_path)
    assert result.code == 0, result.err
    assert result.report["messages"]["resumed"] > 0
    assert result.report["confirmation"]["confirmed"] == 3_000
    assert len(entries_in(tmp_path / "pusher.sample.ndjson")) > 6_000
    # With nothing to add, it still holds; and without the file nobody can say that it does.
    endpoint.status_requests.clear()
    again = await run(*argv, cwd=tmp_path)
    assert again.code == 0
    assert again.report["confirmation"]["confirmed"] == 3_000
    assert endpoint.status_requests == []
    (tmp_path / "pusher.sample.ndjson").unlink()
    without = await run(*argv, cwd=tmp_path)
    assert without.code == 4
    assert "does not hold what earlier runs have delivered" in without.err


async def test_what_cannot_be_accounted_for_any_more_is_said_before_anything_is_sent(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    written(tmp_path / "in.ndjson", 3_000, pad=900)

    async def slowly(request: Request) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        return await accept(request)

    endpoint.answer = slowly
    argv: tuple[str, ...] = ("push", "in.ndjson", "--url", endpoint.url, *PUSH)
    argv = (*argv, "--checkpoint", "ck", "--concurrency", "2", "--batch-size", "50")
    async with starting(*PUSHER, *argv, cwd=tmp_path, stdout=DEVNULL, stderr=DEVNULL) as process:
        await until(lambda: settled_in(tmp_path / "ck") > 0)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        await process.wait()
    asked = len(endpoint.requests)
    result = await run(*argv, "--confirm", "all", cwd=tmp_path)
    assert result.code == 2
    assert "does not hold what the run to go on from has delivered" in result.err
    assert len(endpoint.requests) == asked


async def test_a_rehearsal_of_confirming_all_writes_nothing(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    written(tmp_path / "in.ndjson", 10)
    argv = ("--confirm", "all", "--sample-out", "s", "--dry-run")
    result = await push_command(endpoint.url, tmp_path, *argv)
    assert result.code == 0
    assert files_in(tmp_path) == ["in.ndjson"]
