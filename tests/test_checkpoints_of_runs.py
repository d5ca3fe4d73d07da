"""Runs that go on from one another: what is repeated, kept and counted."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fakes.endpoint import Endpoint, Request, accept, refuse

from pusher import Pipeline, Report, SampleSize, Settings, open_source, push
from pusher.errors import UsageError
from pusher.model import Halt, HaltKind

POISON = "id777"


def line(number: int, **more: Any) -> dict[str, Any]:
    return {
        "storeId": f"s{number % 3}",
        "objectType": "PRODUCT",
        "externalObjectId": f"id{number}",
        "changedAt": 1_600_000_000_000 + number,
        "properties": {"n": str(number), "pad": "x" * 200},
        **more,
    }


def written(path: Path, count: int, *, bad: tuple[int, ...] = ()) -> Path:
    texts = [json.dumps(line(number)) for number in range(count)]
    for place in bad:
        texts[place] = "oops"
    path.write_text("\n".join(texts) + "\n")
    return path


def settings_for(endpoint: Endpoint, tmp_path: Path, **more: Any) -> Settings:
    values: dict[str, Any] = {
        "confirm": SampleSize(count=0),
        "dead_letters": tmp_path / "dead.ndjson",
        "checkpoint": tmp_path / "ck",
        "concurrency": 4,
        "seed": 1,
        **more,
    }
    return Settings(url=endpoint.url, **values)


def letters_in(tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "dead.ndjson"
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


async def interrupted_after(
    requests: int, endpoint: Endpoint, source: Path, settings: Settings
) -> Report:
    """Run until so many requests have come, then leave as after a second Ctrl-C."""
    pipeline = Pipeline(open_source([source]), settings)
    answer = endpoint.answer
    came = 0

    async def count(request: Request) -> web.StreamResponse:
        nonlocal came
        came += 1
        if came == requests:
            pipeline.stopping.end_sending(Halt(HaltKind.INTERRUPTED, "enough", 2))
        if came >= requests:
            await asyncio.sleep(0.05)
        return await answer(request)

    endpoint.answer = count
    report = await pipeline.run()
    endpoint.answer = answer
    return report


async def test_a_run_that_was_cut_off_is_finished_by_the_next(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    source = written(tmp_path / "in", 9_000)
    settings = settings_for(endpoint, tmp_path)
    first = await interrupted_after(20, endpoint, source, settings)
    assert (first.outcome, first.exit_code) == ("interrupted", 130)
    assert first.checkpoint == str(tmp_path / "ck")
    second = await push(source, settings)
    assert second.outcome == "delivered"
    assert second.run_id == first.run_id
    assert second.messages.resumed > 0
    assert second.messages.resumed + second.messages.read == 9_000
    delivered = {message["externalObjectId"] for message in endpoint.delivered}
    assert len(delivered) == 9_000


async def test_a_run_that_was_finished_has_nothing_left_until_the_input_grows(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    source = written(tmp_path / "in", 500)
    settings = settings_for(endpoint, tmp_path)
    first = await push(source, settings)
    endpoint.requests.clear()
    again = await push(source, settings)
    assert (again.outcome, again.messages.read, again.messages.resumed) == ("delivered", 0, 500)
    assert again.run_id != first.run_id
    assert endpoint.requests == []
    with source.open("a") as file:
        file.write(json.dumps(line(9_999)) + "\n")
    third = await push(source, settings)
    assert (third.messages.read, third.messages.delivered) == (1, 1)
    assert [request.ids for request in endpoint.requests] == [["id9999"]]


async def test_a_run_that_has_nothing_left_to_do_ends_as_the_one_before(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """Who was killed between its last write and its end must not look better afterwards."""
    source = written(tmp_path / "in", 500, bad=(7,))
    settings = settings_for(endpoint, tmp_path, confirm=SampleSize(count=20))
    first = await push(source, settings)
    for _ in range(2):
        again = await push(source, settings)
        assert (again.messages.read, again.messages.rejected) == (0, 0)
        assert (
            (again.outcome, again.exit_code) == (first.outcome, first.exit_code) == ("rejected", 1)
        )
        assert again.confirmation.confirmed == first.confirmation.confirmed >= 20
    with source.open("a") as file:
        file.write(json.dumps(line(9_999)) + "\n")
    third = await push(source, settings)
    assert (third.outcome, third.confirmation.sampled) == ("delivered", 1)


async def test_a_run_that_could_not_begin_changes_nothing(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    source = written(tmp_path / "in", 9_000)
    settings = settings_for(endpoint, tmp_path)
    await interrupted_after(20, endpoint, source, settings)
    before = (tmp_path / "ck").read_bytes()
    gone = dataclasses.replace(settings, url="http://127.0.0.1:9")
    report = await push(source, gone)
    assert (report.exit_code, report.messages.read) == (3, 0)
    assert (tmp_path / "ck").read_bytes() == before


async def test_another_input_is_refused_before_anything_is_sent(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    source = written(tmp_path / "in", 500)
    settings = settings_for(endpoint, tmp_path)
    await push(source, settings)
    before = (tmp_path / "ck").read_bytes()
    endpoint.requests.clear()
    source.write_text(source.read_text().replace("id5", "idX"))
    with pytest.raises(UsageError, match="not the input that the checkpoint belongs to"):
        await push(source, settings)
    assert endpoint.requests == []
    assert (tmp_path / "ck").read_bytes() == before, "the checkpoint still holds for the old input"


async def test_another_input_with_a_long_line_is_refused_before_letters_are_taken_back(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    source = written(tmp_path / "in", 9_000, bad=(5,))
    settings = settings_for(endpoint, tmp_path)
    await interrupted_after(2, endpoint, source, settings)
    before = letters_in(tmp_path)
    assert before
    source.write_text(json.dumps({"long": "x" * 5_000_000}) + "\n")  # It is announced.
    with pytest.raises(UsageError):
        await push(source, settings)
    assert letters_in(tmp_path) == before


async def test_no_message_has_two_letters_after_a_run_was_cut_off(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def refuse_poison(request: Request) -> web.StreamResponse:
        return refuse() if POISON in request.ids else await accept(request)

    endpoint.answer = refuse_poison
    source = written(tmp_path / "in", 9_000, bad=(5, 4_000, 8_999))
    settings = settings_for(endpoint, tmp_path)
    await interrupted_after(25, endpoint, source, settings)
    report = await push(source, settings)
    assert (report.outcome, report.exit_code) == ("rejected", 1)
    lines = sorted(letter["line"] for letter in letters_in(tmp_path))
    assert lines == [6, 778, 4_001, 9_000]
    assert {letter["run_id"] for letter in letters_in(tmp_path)} == {report.run_id}


async def test_what_earlier_runs_rejected_still_shows_in_the_exit_code(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    source = written(tmp_path / "in", 9_000, bad=(5,))
    settings = settings_for(endpoint, tmp_path)
    first = await interrupted_after(30, endpoint, source, settings)
    assert first.messages.rejected == 1
    report = await push(source, settings)
    assert report.messages.rejected == 0
    assert (report.outcome, report.exit_code) == ("rejected", 1)


async def test_phases_go_on_in_the_phase_that_was_cut_off(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    kinds = ("CONTACT", "DEAL", "LINE_ITEM")
    entries = [line(number, objectType=kinds[number // 3 % 3]) for number in range(4_500)]
    source = tmp_path / "in"
    source.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    settings = settings_for(endpoint, tmp_path, phases=True)
    first = await interrupted_after(14, endpoint, source, settings)
    assert first.exit_code == 130
    contacts = sum(request.lane[1] == "CONTACT" for request in endpoint.accepted)
    assert contacts == 9, "the first phase is over"
    endpoint.accepted.clear()
    second = await push(source, settings)
    assert second.outcome == "delivered"
    assert not any(request.lane[1] == "CONTACT" for request in endpoint.accepted)
    delivered = {message["externalObjectId"] for message in endpoint.delivered}
    assert {f"id{n}" for n in range(4_500) if n // 3 % 3 == 2} <= delivered
    assert second.messages.resumed + second.messages.read >= 3_000
    third = await push(source, settings)
    assert (third.messages.read, third.outcome) == (0, "delivered")


async def test_the_sample_of_a_run_that_was_cut_off_is_confirmed_by_the_next(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    source = written(tmp_path / "in", 9_000)
    settings = settings_for(endpoint, tmp_path, confirm=SampleSize(count=50))
    await interrupted_after(30, endpoint, source, settings)
    sampled = len(json.loads((tmp_path / "ck").read_bytes())["sample"]["objects"])
    assert sampled >= 50
    report = await push(source, settings)
    assert report.confirmation.sampled >= 50
    assert report.confirmation.unconfirmed == 0


async def test_while_one_message_is_stuck_no_more_is_read_than_the_lag_allows(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    stuck = asyncio.Event()

    async def hold_the_first(request: Request) -> web.StreamResponse:
        if "id0" in request.ids:
            await stuck.wait()
        return await accept(request)

    endpoint.answer = hold_the_first
    source = written(tmp_path / "in", 20_000)
    pipeline = Pipeline(
        open_source([source]), settings_for(endpoint, tmp_path, max_lag_bytes=1 << 20)
    )

    async def release_when_quiet() -> int:
        read = -1
        while read != pipeline.tally.read or not read:
            read = pipeline.tally.read
            await asyncio.sleep(0.2)
        stuck.set()
        return read

    report, read = await asyncio.gather(pipeline.run(), release_when_quiet())
    assert report.outcome == "delivered"
    line_bytes = source.stat().st_size / 20_000
    assert read * line_bytes < (1 << 20) + 3 * (256 << 10)


async def test_a_checkpoint_that_is_none_is_a_usage_error(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "ck").write_text("my shopping list")
    with pytest.raises(UsageError, match="is not a checkpoint"):
        await push(written(tmp_path / "in", 5), settings_for(endpoint, tmp_path))
    assert (tmp_path / "ck").read_text() == "my shopping list"


async def test_the_limit_that_was_found_is_where_the_next_run_begins(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def take_time(request: Request) -> web.StreamResponse:
        await asyncio.sleep(0.03)
        return await accept(request)

    endpoint.answer = take_time
    source = written(tmp_path / "in", 20_000)
    settings = settings_for(endpoint, tmp_path, concurrency=None)
    first = await push(source, settings)
    assert first.in_flight.limit > 4
    second = await push(source, settings)
    assert second.in_flight.limit == first.in_flight.limit
