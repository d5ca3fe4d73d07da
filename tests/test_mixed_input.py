"""One input in which some chunks have nothing to normalise and others have: all is as in one."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fakes.command import PUSHER, run, starting
from fakes.endpoint import Answer, Endpoint, Request, accept, refuse, until

from pusher import Report, SampleSize, Settings, open_source, push
from pusher.decoding import HAS_SCANNER, Decoder
from pusher.sources.handoff import CHUNK_BYTES

Key = tuple[str, str, str]

KINDS = ("LINE_ITEM", "DEAL", "CONTACT", "PRODUCT")
STORES = ("1", "s")
BLOCKS = 8
BLOCK_LINES = 400
PAD = "x" * (2 * CHUNK_BYTES // BLOCK_LINES)  # So each block has a chunk that is all its own.
REFUSED = "refused"


@dataclass(frozen=True)
class Line:
    """A line of the input, and what has to come of it: `reason` says why it is not delivered."""

    text: str
    number: int
    n: str = ""
    key: Key = ("", "", "")
    reason: str | None = None


def written_line(number: int, n: int, rng: random.Random, *, is_odd: bool) -> Line:
    """A canonical line, or now and then one that has to be normalised, or is no message."""
    store, kind, one = rng.choice(STORES), rng.choice(KINDS), str(rng.randrange(12))
    fields: dict[str, Any] = {
        "storeId": store,
        "objectType": kind,
        "action": "UPSERT",
        "externalObjectId": one,
        "changedAt": 1_600_000_000_000 + n,
        "properties": {"n": str(n), "pad": PAD},
    }
    reason = None
    if rng.random() < 0.003:
        fields["properties"]["verdict"] = reason = REFUSED
    elif is_odd and rng.random() < 0.1:
        oddity = rng.randrange(7)
        if oddity == 0:
            fields["externalObjectId"] = int(one)
        elif oddity == 1:
            del fields["changedAt"]
        elif oddity == 2:
            fields["changedAt"] = str(fields["changedAt"])
        elif oddity == 3:
            fields["action"] = None
            fields["associations"] = []
        elif oddity == 4:
            fields["storeId"] = int(store) if store == "1" else store
        elif oddity == 5:
            fields["objectType"], reason = "COMPANY", "unknown_type"
        else:
            return Line("oops", number, reason="not_json")
    return Line(json.dumps(fields), number, str(n), (store, kind, one), reason)


def mixed(seed: int = 3) -> list[Line]:
    """Blocks of more than a chunk, canonical ones and others by turns, some lines blank."""
    rng = random.Random(seed)
    lines: list[Line] = []
    number = 0
    for n in range(BLOCKS * BLOCK_LINES):
        number += 1 + (rng.random() < 0.02)  # A blank line before this one.
        lines.append(written_line(number, n, rng, is_odd=n // BLOCK_LINES % 2 == 1))
    return lines


def written(path: Path, lines: Iterable[Line]) -> Path:
    text = ""
    end = 0
    for line in lines:
        text += "\n" * (line.number - end - 1) + line.text + "\n"
        end = line.number
    path.write_text(text)
    return path


def settings_for(endpoint: Endpoint, tmp_path: Path, **more: Any) -> Settings:
    values: dict[str, Any] = {
        "confirm": SampleSize(count=0),
        "dead_letters": tmp_path / "dead.ndjson",
        "batch_size": 30,
        "seed": 1,
        **more,
    }
    return Settings(url=endpoint.url, **values)


def letters_in(path: Path) -> list[tuple[int, str, str]]:
    letters = map(json.loads, (path / "dead.ndjson").read_text().splitlines())
    return sorted((one["line"], one["reason"], one["record"]) for one in letters)


def letters_of(lines: Iterable[Line]) -> list[tuple[int, str, str]]:
    return [(line.number, line.reason, line.text) for line in lines if line.reason]


def numbers_by_object(lines: Iterable[Line]) -> dict[Key, list[str]]:
    found: dict[Key, list[str]] = {}
    for line in lines:
        if line.reason is None:
            found.setdefault(line.key, []).append(line.n)
    return found


def delivered_by_object(endpoint: Endpoint) -> dict[Key, list[str]]:
    """The numbers of each object's messages in the order of their first arrival."""
    found: dict[Key, dict[str, None]] = {}
    for one in endpoint.delivered:
        key = one["storeId"], one["objectType"], one["externalObjectId"]
        found.setdefault(key, {})[one["properties"]["n"]] = None
    return {key: list(numbers) for key, numbers in found.items()}


def counts_of(report: Report) -> tuple[int, int, int, int, int]:
    of = report.messages
    return of.read, of.delivered, of.rejected, of.skipped, of.pending


def refusing(delay_s: float = 0.0, *, failing: float = 0.0) -> Answer:
    """Refuses requests with a bad message, and now and then has a failure that passes."""
    rng = random.Random(9)

    async def answer(request: Request) -> web.StreamResponse:
        await asyncio.sleep(rng.random() * delay_s)
        if rng.random() < failing:
            return web.Response(status=503, headers={"Retry-After": "0"})
        if any("verdict" in one["properties"] for one in request.messages):
            return refuse()
        return await accept(request)

    return answer


LINES = mixed()
GOOD = sum(line.reason is None for line in LINES)
BAD = len(LINES) - GOOD
NO_MESSAGES = sum(line.reason not in {None, REFUSED} for line in LINES)


async def test_the_input_of_these_tests_has_chunks_of_both_kinds(tmp_path: Path) -> None:
    source = open_source([written(tmp_path / "in", LINES)])
    decoder = Decoder(takes_groups=True)
    kinds: Counter[str] = Counter()
    refused_in: set[str] = set()
    async for chunk in source.chunks():
        kind = "groups" if decoder.decode(chunk, 0).groups else "messages"
        kinds[kind] += 1
        if b"verdict" in chunk.data:
            refused_in.add(kind)
    assert kinds["messages"] >= 3
    if HAS_SCANNER:
        assert kinds["groups"] >= 3
        assert refused_in == {"groups", "messages"}


async def test_order_per_object_counts_and_letters_are_those_of_the_lines(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.answer = refusing(0.01, failing=0.1)
    report = await push(written(tmp_path / "in", LINES), settings_for(endpoint, tmp_path))
    assert counts_of(report) == (len(LINES), GOOD, BAD, 0, 0)
    assert delivered_by_object(endpoint) == numbers_by_object(LINES)
    assert len(endpoint.delivered) == GOOD
    assert not endpoint.overlapping_objects
    assert letters_in(tmp_path) == letters_of(LINES)
    assert report.rejected == Counter(line.reason for line in LINES if line.reason)


async def test_phases_send_each_type_in_its_turn_and_reject_each_line_once(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.answer = refusing(0.005)
    report = await push(
        written(tmp_path / "in", LINES), settings_for(endpoint, tmp_path, phases=True)
    )
    assert counts_of(report) == (len(LINES), GOOD, BAD, 0, 0)
    assert delivered_by_object(endpoint) == numbers_by_object(LINES)
    ranks = [{"DEAL": 1, "LINE_ITEM": 2}.get(one.lane[1], 0) for one in endpoint.accepted]
    assert ranks == sorted(ranks)
    assert letters_in(tmp_path) == letters_of(LINES)


async def test_what_is_not_of_the_chosen_stores_and_types_is_skipped_and_counted(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.answer = refusing(0.005)
    chosen = [line for line in LINES if line.key[0] == "1" and line.key[1] in {"DEAL", "CONTACT"}]
    # What is no message is of no store.
    chosen += [line for line in LINES if line.reason not in {None, REFUSED}]
    chosen = sorted(set(chosen), key=lambda line: line.number)
    bad = sum(line.reason is not None for line in chosen)
    report = await push(
        written(tmp_path / "in", LINES),
        settings_for(
            endpoint,
            tmp_path,
            only_stores=frozenset({"1"}),
            only_types=frozenset({"DEAL", "CONTACT"}),
        ),
    )
    skipped = len(LINES) - len(chosen)
    assert counts_of(report) == (len(LINES), len(chosen) - bad, bad, skipped, 0)
    others = [line for line in LINES if line.reason in {None, REFUSED} and line.key[0] == "s"]
    assert report.skipped == {"other_store": len(others), "other_type": skipped - len(others)}
    assert delivered_by_object(endpoint) == numbers_by_object(chosen)
    assert letters_in(tmp_path) == letters_of(chosen)


async def test_a_store_and_a_type_that_are_given_join_the_lanes_of_those_that_are_written(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """Their objects are the same: order is kept between them."""
    rng = random.Random(4)
    lines = []
    for line in LINES:
        text = line.text
        if line.key[:2] == ("s", "DEAL") and rng.random() < 0.5:
            fields = json.loads(text)
            fields.pop("storeId")
            if rng.random() < 0.5:
                fields.pop("objectType")
            text = json.dumps(fields)
        lines.append(Line(text, line.number, line.n, line.key, line.reason))
    endpoint.answer = refusing(0.005)
    report = await push(
        written(tmp_path / "in", lines),
        settings_for(endpoint, tmp_path, default_store="s", default_type="DEAL"),
    )
    assert counts_of(report) == (len(LINES), GOOD, BAD, 0, 0)
    assert delivered_by_object(endpoint) == numbers_by_object(lines)
    assert letters_in(tmp_path) == letters_of(lines)


@pytest.mark.parametrize("limit", [50, BLOCK_LINES + 77])
async def test_a_limit_sends_the_first_messages_of_the_input(
    endpoint: Endpoint, tmp_path: Path, limit: int
) -> None:
    messages = [line for line in LINES if line.reason in {None, REFUSED}][:limit]
    endpoint.answer = refusing()
    report = await push(
        written(tmp_path / "in", LINES), settings_for(endpoint, tmp_path, limit=limit)
    )
    assert delivered_by_object(endpoint) == numbers_by_object(messages)
    assert report.messages.delivered + report.rejected.get(REFUSED, 0) == limit
    assert report.messages.pending == 0


async def test_a_rehearsal_counts_the_same_and_sends_nothing(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    report = await push(
        written(tmp_path / "in", LINES), settings_for(endpoint, tmp_path, dry_run=True)
    )
    assert endpoint.requests == []
    assert counts_of(report) == (len(LINES), 0, NO_MESSAGES, len(LINES) - NO_MESSAGES, 0)
    assert report.skipped == {"dry_run": len(LINES) - NO_MESSAGES}


async def test_without_order_each_message_still_arrives_once(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.answer = refusing(0.01, failing=0.1)
    report = await push(
        written(tmp_path / "in", LINES), settings_for(endpoint, tmp_path, keep_order=False)
    )
    assert counts_of(report) == (len(LINES), GOOD, BAD, 0, 0)
    assert len(endpoint.delivered) == GOOD
    found = {key: set(numbers) for key, numbers in delivered_by_object(endpoint).items()}
    assert found == {key: set(numbers) for key, numbers in numbers_by_object(LINES).items()}
    assert letters_in(tmp_path) == letters_of(LINES)


async def test_bodies_stay_within_their_bytes_and_a_larger_message_goes_alone(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    lines = [
        Line(line.text.replace(PAD, PAD * 10), line.number, line.n, line.key)
        if index % 97 == 0 and line.reason is None
        else line
        for index, line in enumerate(LINES)
    ]
    endpoint.answer = refusing(0.005)
    report = await push(
        written(tmp_path / "in", lines), settings_for(endpoint, tmp_path, batch_bytes=3_000)
    )
    assert counts_of(report) == (len(LINES), GOOD, BAD, 0, 0)
    assert delivered_by_object(endpoint) == numbers_by_object(lines)
    for request in endpoint.requests:
        assert int(request.headers["Content-Length"]) <= 3_000 or len(request.messages) == 1


@pytest.mark.parametrize("after", [5, 30, 90])
async def test_kill_9_loses_nothing_and_writes_no_letter_twice(
    after: int, endpoint: Endpoint, tmp_path: Path
) -> None:
    written(tmp_path / "in", LINES)
    flags = (
        *("--url", endpoint.url, "--checkpoint", "ck", "--batch-size", "30", "--confirm", "0"),
        *("--dead-letters", "dead.ndjson", "--report", "-", "--progress", "never"),
    )
    is_killed = asyncio.Event()
    decide = refusing()

    async def hold_the_last(request: Request) -> web.StreamResponse:
        if request.number >= after:
            await is_killed.wait()
        return await decide(request)

    endpoint.answer = hold_the_last
    argv = (*PUSHER, "push", "in", *flags, "--concurrency", "3")
    async with starting(*argv, cwd=tmp_path) as process:
        await until(lambda: endpoint.in_flight == 3 and (tmp_path / "ck").stat().st_size > 0)
        process.kill()
        assert await process.wait() == -signal.SIGKILL
    is_killed.set()  # What was under way arrives, and nobody hears of it.
    await until(lambda: not endpoint.in_flight)
    result = await run("push", "in", *flags, cwd=tmp_path)
    assert result.code == 1
    assert delivered_by_object(endpoint) == numbers_by_object(LINES)
    assert letters_in(tmp_path) == letters_of(LINES)
    messages = result.report["messages"]
    assert messages["resumed"] + messages["read"] == len(LINES)
