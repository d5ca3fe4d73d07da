"""The pipeline against a real HTTP server on loopback, and what it promises there."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from fakes.endpoint import Endpoint, Request, accept, refuse, until

from pusher import Pipeline, Report, SampleSize, Settings, open_source, push
from pusher.errors import UsageError
from pusher.model import Halt, HaltKind
from pusher.sender import DOUBTFUL_REFUSALS

NO_SAMPLE = SampleSize(count=0)


def line(number: int, store: str = "s1", kind: str = "PRODUCT", **more: Any) -> dict[str, Any]:
    return {
        "storeId": store,
        "objectType": kind,
        "externalObjectId": f"id{number}",
        "changedAt": 1_600_000_000_000 + number,
        "properties": {"n": str(number)},
        **more,
    }


def written(path: Path, lines: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    return path


def settings_for(endpoint: Endpoint, tmp_path: Path, **more: Any) -> Settings:
    values = {"confirm": NO_SAMPLE, "dead_letters": tmp_path / "dead.ndjson", "seed": 1, **more}
    return Settings(url=endpoint.url, **values)


def is_conserved(report: Report) -> bool:
    messages = report.messages
    return messages.read == (
        messages.delivered + messages.rejected + messages.skipped + messages.pending
    )


def letters_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


async def test_every_line_arrives_once_in_batches_of_one_lane(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    lanes = [(store, kind) for store in ("a", "b", "c") for kind in ("CONTACT", "DEAL")]
    lines = [line(number, *lanes[number % 6]) for number in range(3_000)]
    report = await push(written(tmp_path / "in", lines), settings_for(endpoint, tmp_path))
    sent = sorted(json.dumps(message, sort_keys=True) for message in endpoint.delivered)
    wanted = sorted(
        json.dumps({"action": "UPSERT", "associations": {}, **entry}, sort_keys=True)
        for entry in lines
    )
    assert sent == wanted
    assert report.messages.delivered == report.messages.read == 3_000
    assert max(len(request.messages) for request in endpoint.requests) == 200
    assert report.requests.sent == len(endpoint.requests) == 6 * 3
    assert {(lane.store_id, lane.object_type) for lane in report.lanes} == set(lanes)
    assert all(lane.delivered == 500 for lane in report.lanes)
    assert report.outcome == "delivered"
    assert report.exit_code == 0
    assert not (tmp_path / "dead.ndjson").exists()


async def test_requests_in_flight_reach_the_limit_and_never_pass_it(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def wait_for_company(request: Request) -> web.StreamResponse:
        if request.number < 5:
            await until(lambda: endpoint.in_flight_max == 5)
        return await accept(request)

    endpoint.answer = wait_for_company
    lines = [line(number) for number in range(4_000)]
    report = await push(
        written(tmp_path / "in", lines), settings_for(endpoint, tmp_path, concurrency=5)
    )
    assert endpoint.in_flight_max == report.in_flight.max == report.in_flight.limit == 5


async def test_messages_of_one_object_keep_their_order_through_retries_and_splits(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """Judged by first acceptances; and no object is ever in two requests at a time."""
    rng = random.Random(5)
    poison = {f"id{number}" for number in range(0, 50, 7)}

    async def be_difficult(request: Request) -> web.StreamResponse:
        await asyncio.sleep(rng.random() * 0.01)
        if rng.random() < 0.2:
            return web.Response(status=503, headers={"Retry-After": "0"})
        if rng.random() < 0.3 and any(
            message["properties"]["n"] == "bad" for message in request.messages
        ):
            return refuse(422)
        if any(message["properties"]["n"] == "bad" for message in request.messages):
            return refuse(400)
        return await accept(request)

    endpoint.answer = be_difficult
    lines = []
    for number in range(3_000):
        entry = line(rng.randrange(50), changedAt=1_600_000_000_000 + number)
        if entry["externalObjectId"] in poison and rng.random() < 0.05:
            entry["properties"] = {"n": "bad"}
        lines.append(entry)
    report = await push(
        written(tmp_path / "in", lines), settings_for(endpoint, tmp_path, batch_size=40)
    )
    bad = sum(entry["properties"]["n"] == "bad" for entry in lines)
    assert report.messages.rejected == bad > 0
    assert report.messages.delivered == 3_000 - bad
    assert not endpoint.overlapping_objects
    seen: dict[str, list[int]] = defaultdict(list)
    for message in endpoint.delivered:
        seen[message["externalObjectId"]].append(message["changedAt"])
    assert all(times == sorted(times) for times in seen.values())
    assert sum(map(len, seen.values())) == 3_000 - bad


@pytest.mark.parametrize("status", [408, 425, 429, 423, 477, 500, 502, 503, 504, 521])
async def test_a_passing_failure_is_tried_again(
    endpoint: Endpoint, tmp_path: Path, status: int
) -> None:
    async def fail_first(request: Request) -> web.StreamResponse:
        return web.Response(status=status) if request.number == 0 else await accept(request)

    endpoint.answer = fail_first
    report = await push(written(tmp_path / "in", [line(1)]), settings_for(endpoint, tmp_path))
    assert report.messages.delivered == 1
    assert (report.requests.sent, report.requests.retried) == (2, 1)
    assert report.requests.by_status == {"204": 1, str(status): 1}


async def test_retry_after_is_waited_for(endpoint: Endpoint, tmp_path: Path) -> None:
    async def ask_for_a_second(request: Request) -> web.StreamResponse:
        if request.number == 0:
            return web.Response(status=429, headers={"Retry-After": "1"})
        return await accept(request)

    endpoint.answer = ask_for_a_second
    await push(written(tmp_path / "in", [line(1)]), settings_for(endpoint, tmp_path))
    first, second = endpoint.requests
    assert second.at_s - first.at_s >= 1.0


async def test_a_poison_message_costs_one_message(endpoint: Endpoint, tmp_path: Path) -> None:
    async def dislike_one(request: Request) -> web.StreamResponse:
        return refuse(400, "id777 is bad") if "id777" in request.ids else await accept(request)

    endpoint.answer = dislike_one
    lines = [line(number) for number in range(1_000)]
    report = await push(written(tmp_path / "in", lines), settings_for(endpoint, tmp_path))
    assert (report.messages.delivered, report.messages.rejected) == (999, 1)
    assert report.rejected == {"refused": 1}
    assert report.exit_code == 1
    assert report.requests.sent <= 5 + 17
    (letter,) = letters_in(tmp_path / "dead.ndjson")
    assert json.loads(letter["record"]) == lines[777]
    assert letter["line"] == 778
    assert letter["status"] == 400
    assert "id777 is bad" in letter["detail"]
    assert letter["changed_at"] == lines[777]["changedAt"]
    assert report.dead_letters == str(tmp_path / "dead.ndjson")


async def test_a_refused_message_is_named_by_its_own_line_among_blank_ones(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def dislike_one(request: Request) -> web.StreamResponse:
        return refuse() if "id3" in request.ids else await accept(request)

    endpoint.answer = dislike_one
    source = tmp_path / "in"
    texts = [json.dumps(line(number)) for number in range(6)]
    source.write_text("\n\n".join(texts) + "\nnot json\n")
    report = await push(source, settings_for(endpoint, tmp_path))
    letters = {letter["reason"]: letter for letter in letters_in(tmp_path / "dead.ndjson")}
    assert letters["refused"]["record"] == texts[3]
    assert letters["refused"]["line"] == 7
    assert source.read_bytes()[letters["refused"]["offset"] :].startswith(texts[3].encode())
    assert letters["not_json"]["record"] == "not json"
    assert is_conserved(report)


@pytest.mark.parametrize("status", [401, 403, 405, 410, 415, 501, 505, 302])
async def test_a_refusal_for_good_stops_the_run_at_once(
    endpoint: Endpoint, tmp_path: Path, status: int
) -> None:
    async def refuse_all(request: Request) -> web.StreamResponse:
        del request
        return refuse(status, "no")

    endpoint.answer = refuse_all
    lines = [line(number) for number in range(10_000)]
    report = await push(
        written(tmp_path / "in", lines), settings_for(endpoint, tmp_path, concurrency=4)
    )
    assert (report.outcome, report.exit_code) == ("stopped", 3)
    assert report.reason
    assert str(status) in report.reason
    assert report.messages.pending == report.messages.read > 0
    assert len(endpoint.requests) <= 4
    assert not (tmp_path / "dead.ndjson").exists()


async def test_a_page_that_answers_200_is_no_delivery(endpoint: Endpoint, tmp_path: Path) -> None:
    async def login_page(request: Request) -> web.StreamResponse:
        del request
        return web.Response(text="<html>Sign in</html>", content_type="text/html")

    endpoint.answer = login_page
    report = await push(written(tmp_path / "in", [line(1)]), settings_for(endpoint, tmp_path))
    assert report.outcome == "stopped"
    assert report.messages.delivered == 0
    assert report.reason
    assert "HTML" in report.reason


async def test_an_endpoint_that_refuses_everything_is_not_given_up_to_dead_letters(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def refuse_all(request: Request) -> web.StreamResponse:
        del request
        return refuse(400, "settings?")

    endpoint.answer = refuse_all
    lines = [line(number) for number in range(2_000)]
    report = await push(written(tmp_path / "in", lines), settings_for(endpoint, tmp_path))
    assert (report.outcome, report.messages.rejected) == ("stopped", 0)
    assert report.messages.pending == report.messages.read
    assert len(endpoint.requests) < 400
    assert not (tmp_path / "dead.ndjson").exists()


async def test_a_403_after_success_is_about_the_message(endpoint: Endpoint, tmp_path: Path) -> None:
    async def firewall(request: Request) -> web.StreamResponse:
        if request.number > 0 and "id350" in request.ids:
            return web.Response(status=403, text="<html>blocked</html>", content_type="text/html")
        return await accept(request)

    endpoint.answer = firewall
    lines = [line(number) for number in range(600)]
    report = await push(
        written(tmp_path / "in", lines), settings_for(endpoint, tmp_path, concurrency=1)
    )
    assert (report.messages.delivered, report.messages.rejected) == (599, 1)


@pytest.mark.parametrize("status", [400, 403, 404])
async def test_an_endpoint_that_begins_to_refuse_everything_stops_the_run(
    endpoint: Endpoint, tmp_path: Path, status: int
) -> None:
    """A revoked token or changed settings are no reason to reject good messages."""

    async def refuse_after_ten(request: Request) -> web.StreamResponse:
        return await accept(request) if request.number < 10 else refuse(status, "no more")

    endpoint.answer = refuse_after_ten
    lines = [line(number, store=f"s{number % 3}") for number in range(20_000)]
    settings = settings_for(endpoint, tmp_path, concurrency=16)
    report = await push(written(tmp_path / "in", lines), settings)
    assert (report.outcome, report.exit_code) == ("stopped", 3)
    assert report.messages.delivered == 2_000
    assert report.messages.rejected == 0
    assert report.reason
    assert "no more" in report.reason
    # One batch is taken apart, down to its 200 messages; the others wait for it after a few parts.
    whole_batch, others = 200 + 50, 15 * DOUBTFUL_REFUSALS
    assert len(endpoint.requests) <= 10 + whole_batch + others
    assert is_conserved(report)
    assert not (tmp_path / "dead.ndjson").exists()


async def test_a_bad_first_message_on_a_quiet_pipe_costs_one_message(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def dislike_one(request: Request) -> web.StreamResponse:
        return refuse() if "id0" in request.ids else await accept(request)

    endpoint.answer = dislike_one
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reports: list[Report] = []
    pipeline = Pipeline(open_source([pipe]), settings_for(endpoint, tmp_path, linger_s=0.05))

    async def run() -> None:
        reports.append(await pipeline.run())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        descriptor = await asyncio.to_thread(os.open, pipe, os.O_WRONLY)
        os.write(descriptor, (json.dumps(line(0)) + "\n").encode())
        await until(lambda: len(endpoint.requests) == 1 and endpoint.in_flight == 0)
        again = line(0, changedAt=1_700_000_000_000)
        for entry in (line(1), again, line(2)):
            os.write(descriptor, (json.dumps(entry) + "\n").encode())
        await until(lambda: len(endpoint.accepted) >= 1)
        os.close(descriptor)
    (report,) = reports
    assert (report.messages.delivered, report.messages.rejected) == (2, 2)
    assert report.exit_code == 1


async def test_only_bad_messages_leave_everything_pending(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def refuse_all(request: Request) -> web.StreamResponse:
        del request
        return refuse()

    endpoint.answer = refuse_all
    report = await push(written(tmp_path / "in", [line(1)]), settings_for(endpoint, tmp_path))
    assert (report.outcome, report.messages.pending) == ("stopped", 1)


@pytest.mark.parametrize("concurrency", [1, 16])
@pytest.mark.parametrize("bad_first", [True, False])
async def test_a_refused_store_among_good_ones_is_left_out_and_stays_pending(
    endpoint: Endpoint, tmp_path: Path, concurrency: int, *, bad_first: bool
) -> None:
    async def know_no_bad_store(request: Request) -> web.StreamResponse:
        return refuse(400, "unknown store") if request.lane[0] == "bad" else await accept(request)

    endpoint.answer = know_no_bad_store
    bad = [line(number, store="bad") for number in range(300)]
    good = [line(number, store=f"s{number % 5}") for number in range(1_000)]
    lines = bad + good if bad_first else good + bad
    report = await push(
        written(tmp_path / "in", lines), settings_for(endpoint, tmp_path, concurrency=concurrency)
    )
    assert report.messages.delivered == 1_000
    assert report.messages.rejected == 0
    assert (report.messages.pending, report.exit_code) == (300, 3)
    assert report.reason
    assert "bad PRODUCT" in report.reason
    assert "unknown store" in report.reason
    assert [lane.parked for lane in report.lanes if lane.store_id == "bad"] == [300]
    assert len(endpoint.requests) < 60


async def test_an_outage_rejects_nothing(endpoint: Endpoint, tmp_path: Path) -> None:
    async def break_down(request: Request) -> web.StreamResponse:
        await asyncio.sleep(0.01 + request.number % 3 * 0.01)
        return await accept(request) if request.number < 60 else web.Response(status=503)

    endpoint.answer = break_down
    lines = [line(number) for number in range(2_000)]
    report = await push(
        written(tmp_path / "in", lines),
        settings_for(endpoint, tmp_path, batch_size=1, max_attempts=3, give_up_after_s=1.0),
    )
    assert (report.outcome, report.exit_code) == ("stopped", 3)
    assert report.messages.rejected == 0
    assert report.messages.delivered == len(endpoint.delivered)


async def test_a_batch_that_keeps_failing_while_others_succeed_is_isolated(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def choke_on_one(request: Request) -> web.StreamResponse:
        if "id5" in request.ids:
            return web.Response(status=500)
        return await accept(request)

    endpoint.answer = choke_on_one
    lines = [line(number, store=f"s{number // 10}") for number in range(100)]
    lines += [line(1_000 + number, store="busy") for number in range(2_000)]
    report = await push(
        written(tmp_path / "in", lines),
        settings_for(endpoint, tmp_path, max_attempts=2, batch_size=10, concurrency=2),
    )
    assert report.rejected == {"retries_exhausted": 1}
    assert report.messages.delivered == 2_099


async def test_a_dead_endpoint_stops_the_run_with_everything_pending(tmp_path: Path) -> None:
    lines = [line(number) for number in range(500)]
    settings = Settings(
        url="http://127.0.0.1:9",
        confirm=NO_SAMPLE,
        give_up_after_s=0.5,
        preflight=False,
        dead_letters=tmp_path / "d",
    )
    report = await push(written(tmp_path / "in", lines), settings)
    assert (report.outcome, report.exit_code) == ("stopped", 3)
    assert report.requests.failures["connect"] == report.requests.sent
    assert report.requests.ambiguous == 0
    assert report.messages.pending == 500


async def test_a_connection_that_breaks_after_the_request_is_ambiguous_and_tried_again(
    tmp_path: Path,
) -> None:
    bodies: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        size = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        bodies.append(await reader.readexactly(size))
        if len(bodies) == 1:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        else:
            writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        settings = Settings(
            preflight=False,
            url=f"http://127.0.0.1:{port}",
            confirm=NO_SAMPLE,
            dead_letters=tmp_path / "d",
        )
        report = await push(written(tmp_path / "in", [line(1)]), settings)
    assert report.messages.delivered == 1
    assert report.requests.ambiguous == 1
    assert bodies[0] == bodies[1]


async def test_dead_letters_that_cannot_be_written_leave_their_messages_pending(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.write_text("not json\n" + json.dumps(line(1)) + "\n")
    report = await push(source, settings_for(endpoint, tmp_path, dead_letters=Path("/dev/full")))
    assert (report.outcome, report.exit_code) == ("stopped", 3)
    assert report.messages.rejected == 0
    assert report.messages.pending == 2
    assert report.reason
    assert "/dev/full" in report.reason


async def test_a_stalled_endpoint_stops_the_reading_of_a_pipe(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """Backpressure: what is not sent is not read into memory."""
    release = asyncio.Event()

    async def stall(request: Request) -> web.StreamResponse:
        await release.wait()
        return await accept(request)

    endpoint.answer = stall
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = (json.dumps(line(1, properties={"text": "x" * 1_000})) + "\n").encode() * 1_000
    written_bytes = 0
    total_bytes = 300 << 20
    is_over = threading.Event()

    def write() -> None:
        nonlocal written_bytes
        with pipe.open("wb", buffering=0) as file:
            while written_bytes < total_bytes and not is_over.is_set():
                written_bytes += file.write(text)

    writer = threading.Thread(target=write)
    writer.start()
    pipeline = Pipeline(open_source([pipe]), settings_for(endpoint, tmp_path, concurrency=4))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run)
        await until(lambda: endpoint.in_flight >= 1)
        before = -1
        while before != written_bytes:  # Until the writer stands still.
            before = written_bytes
            await asyncio.sleep(0.3)
        assert written_bytes < 100 << 20
        is_over.set()
        release.set()
    writer.join()
    assert pipeline.tally.read == written_bytes // (len(text) // 1_000)
    assert pipeline.tally.delivered == pipeline.tally.read


async def test_a_quiet_pipe_does_not_hold_back_what_it_gave(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    pipeline = None
    async with anyio.create_task_group() as tasks:
        settings = settings_for(endpoint, tmp_path, linger_s=0.2)
        pipeline = Pipeline(open_source([pipe]), settings)
        tasks.start_soon(pipeline.run)
        descriptor = await asyncio.to_thread(os.open, pipe, os.O_WRONLY)
        for number in range(3):
            os.write(descriptor, (json.dumps(line(number, f"s{number}")) + "\n").encode())
        started_s = time.monotonic()
        await until(lambda: len(endpoint.accepted) == 3)
        assert time.monotonic() - started_s < 0.2 + 0.5
        os.write(descriptor, json.dumps(line(4)).encode())
        os.close(descriptor)
    assert [len(request.messages) for request in endpoint.accepted] == [1, 1, 1, 1]


async def test_a_busy_pipe_lets_a_rare_lane_go_after_its_age(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with anyio.create_task_group() as tasks:
        settings = settings_for(endpoint, tmp_path, linger_s=60.0, max_age_s=0.3)
        tasks.start_soon(Pipeline(open_source([pipe]), settings).run)
        descriptor = await asyncio.to_thread(os.open, pipe, os.O_WRONLY)
        os.write(descriptor, (json.dumps(line(0, "rare")) + "\n").encode())
        for number in itertools.count(1):
            os.write(descriptor, (json.dumps(line(number, "busy")) + "\n").encode())
            if any(request.lane[0] == "rare" for request in endpoint.accepted):
                break
            await asyncio.sleep(0.01)
        os.close(descriptor)


async def test_a_later_change_of_an_object_in_flight_waits_for_its_turn_on_a_quiet_pipe(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    first_may_go = asyncio.Event()

    async def hold_first(request: Request) -> web.StreamResponse:
        if request.number == 0:
            await first_may_go.wait()
        return await accept(request)

    endpoint.answer = hold_first
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with anyio.create_task_group() as tasks:
        settings = settings_for(endpoint, tmp_path, linger_s=0.1)
        pipeline = Pipeline(open_source([pipe]), settings)
        tasks.start_soon(pipeline.run)
        descriptor = await asyncio.to_thread(os.open, pipe, os.O_WRONLY)
        os.write(descriptor, (json.dumps(line(1)) + "\n").encode())
        await until(lambda: len(endpoint.requests) == 1)
        os.write(descriptor, (json.dumps(line(1)) + "\n" + json.dumps(line(2)) + "\n").encode())
        await until(lambda: len(endpoint.requests) == 2)
        assert endpoint.requests[1].ids == ["id2"]
        first_may_go.set()
        await until(lambda: len(endpoint.accepted) == 3)
        os.close(descriptor)
    assert not endpoint.overlapping_objects


async def test_an_interrupted_run_delivers_what_it_has_read(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    pipeline = Pipeline(open_source([pipe]), settings_for(endpoint, tmp_path, linger_s=60.0))
    reports: list[Report] = []

    async def run() -> None:
        reports.append(await pipeline.run())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        descriptor = await asyncio.to_thread(os.open, pipe, os.O_WRONLY)
        for number in range(10):
            os.write(descriptor, (json.dumps(line(number)) + "\n").encode())
        await until(lambda: pipeline.tally.read == 10)
        pipeline.stopping.end_reading(Halt(HaltKind.INTERRUPTED, "interrupted", 15))
    os.close(descriptor)
    (report,) = reports
    assert (report.outcome, report.exit_code) == ("interrupted", 143)
    assert report.messages.delivered == report.messages.read == 10


async def test_an_interrupted_run_does_not_drain_for_ever(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def stall(request: Request) -> web.StreamResponse:
        del request
        await asyncio.sleep(3600)
        raise AssertionError

    endpoint.answer = stall
    lines = [line(number) for number in range(1_000)]
    pipeline = Pipeline(
        open_source([written(tmp_path / "in", lines)]),
        settings_for(endpoint, tmp_path, drain_timeout_s=0.2),
    )
    reports: list[Report] = []

    async def run() -> None:
        reports.append(await pipeline.run())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until(lambda: endpoint.in_flight > 0)
        pipeline.stopping.end_reading(Halt(HaltKind.INTERRUPTED, "interrupted", 2))
    (report,) = reports
    assert report.exit_code == 130
    assert report.messages.pending == report.messages.read == 1_000


async def test_a_damaged_archive_is_reported_after_all_before_it_was_delivered(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    import gzip  # noqa: PLC0415

    rng = random.Random(3)
    lines = [line(number, properties={"x": rng.randbytes(50).hex()}) for number in range(5_000)]
    data = gzip.compress("".join(json.dumps(entry) + "\n" for entry in lines).encode())
    source = tmp_path / "in.ndjson.gz"
    source.write_bytes(data[: len(data) // 2])
    report = await push(source, settings_for(endpoint, tmp_path))
    assert (report.outcome, report.exit_code) == ("stopped", 3)
    assert report.reason
    assert "ends too early" in report.reason
    assert 2_000 < report.messages.delivered == report.messages.read < 3_000
    assert is_conserved(report)


async def test_phases_wait_until_the_phase_before_was_processed(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    processed: dict[tuple[tuple[str, str], str], int] = {}
    order: list[str] = []

    async def process_later(request: Request) -> web.StreamResponse:
        order.append(request.lane[1])

        def process() -> None:
            order.append(f"{request.lane[1]} processed")
            for external_id in request.ids:
                processed[request.lane, external_id] = int(time.time() * 1000)

        asyncio.get_running_loop().call_later(0.4, process)
        return await accept(request)

    endpoint.answer = process_later
    endpoint.processed_at_ms = lambda lane, external_id: processed.get((lane, external_id))
    kinds = ("LINE_ITEM", "DEAL", "CONTACT", "PRODUCT")
    lines = [line(number, kind=kinds[number % 4]) for number in range(400)]
    report = await push(
        written(tmp_path / "in", lines),
        settings_for(endpoint, tmp_path, phases=True, confirm=SampleSize(50)),
    )
    assert report.outcome == "delivered"
    assert order.index("DEAL") > order.index("CONTACT processed")
    assert order.index("DEAL") > order.index("PRODUCT processed")
    assert order.index("LINE_ITEM") > order.index("DEAL processed")
    assert report.messages.delivered == report.messages.read == 400
    assert [phase.delivered for phase in report.phases] == [200, 100, 100]
    assert [phase.processed for phase in report.phases] == [True, True, None]
    assert report.confirmation.confirmed == report.confirmation.sampled >= 50


async def test_a_phase_that_is_never_processed_does_not_stop_the_run_but_is_told(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.processed_at_ms = lambda lane, _: None if lane[1] == "CONTACT" else 1 << 60
    lines = [line(1, kind="CONTACT"), line(2, kind="DEAL")]
    report = await push(
        written(tmp_path / "in", lines),
        settings_for(
            endpoint, tmp_path, phases=True, confirm=SampleSize(10), confirm_timeout_s=0.3
        ),
    )
    assert report.messages.delivered == 2
    assert report.phases[0].processed is False
    assert any("not seen processed" in warning for warning in report.warnings)
    assert (report.outcome, report.exit_code) == ("unconfirmed", 4)


async def test_bad_lines_are_counted_once_though_phases_read_them_thrice(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.write_text("junk\n" + "".join(json.dumps(line(n, kind="DEAL")) + "\n" for n in range(9)))
    report = await push(source, settings_for(endpoint, tmp_path, phases=True))
    assert (report.messages.read, report.messages.rejected) == (10, 1)
    assert len(letters_in(tmp_path / "dead.ndjson")) == 1


async def test_phases_of_a_pipe_need_a_place_for_it_before_anything_is_sent(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    settings = settings_for(endpoint, tmp_path, phases=True, spool_dir=tmp_path / "nowhere")
    with pytest.raises(UsageError, match="--spool-dir"):
        await push(pipe, settings)
    assert not endpoint.requests


async def test_failures_that_the_bridge_shows_later_fail_the_run(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    def errors(lane: tuple[str, str], external_id: str) -> list[dict[str, Any]]:
        del lane
        if int(external_id[2:]) % 10:
            return []
        return [
            {
                "type": "INVALID_ASSOCIATION_PROPERTY",
                "details": "Do those objects exist?",
                "status": "OPEN",
                "changedAt": 1_600_000_000_000 + int(external_id[2:]),
                "erroredAt": int(time.time() * 1000),
            }
        ]

    endpoint.errors = errors
    lines = [line(number) for number in range(1_000)]
    report = await push(
        written(tmp_path / "in", lines),
        settings_for(endpoint, tmp_path, confirm=SampleSize(200)),
    )
    confirmation = report.confirmation
    assert (report.outcome, report.exit_code) == ("failed", 1)
    assert confirmation.sampled == confirmation.confirmed + confirmation.failed
    assert 5 <= confirmation.failed <= 45
    assert confirmation.errors == {"INVALID_ASSOCIATION_PROPERTY": confirmation.failed}
    assert confirmation.failure_rate_upper_bound_95
    assert confirmation.failed / 201 < confirmation.failure_rate_upper_bound_95 < 0.35


async def test_an_account_that_already_holds_the_objects_cannot_fool_the_confirmation(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    an_hour_ago_ms = int(time.time() * 1000) - 3_600_000
    endpoint.processed_at_ms = lambda _lane, _id: an_hour_ago_ms
    report = await push(
        written(tmp_path / "in", [line(number) for number in range(10)]),
        settings_for(endpoint, tmp_path, confirm=SampleSize(5), confirm_timeout_s=0.3),
    )
    assert (report.outcome, report.exit_code) == ("unconfirmed", 4)
    assert report.confirmation.confirmed == 0
    assert report.confirmation.failure_rate_upper_bound_95 == 1.0


@pytest.mark.parametrize("served", ["reference", "clients"])
async def test_either_order_of_the_status_path_is_found(
    endpoint: Endpoint, tmp_path: Path, served: str
) -> None:
    endpoint.statuses_accepted = (served,)
    report = await push(
        written(tmp_path / "in", [line(number) for number in range(50)]),
        settings_for(endpoint, tmp_path, confirm=SampleSize(20)),
    )
    assert report.confirmation.confirmed == report.confirmation.sampled > 0
    assert report.exit_code == 0


async def test_status_polls_keep_to_their_rate_while_the_push_does_not(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    started_s = time.monotonic()
    report = await push(
        written(tmp_path / "in", [line(number) for number in range(4_000)]),
        settings_for(endpoint, tmp_path, confirm=SampleSize(30), confirm_rate=20.0),
    )
    elapsed_s = time.monotonic() - started_s
    assert report.confirmation.confirmed == report.confirmation.sampled >= 30
    assert len(endpoint.status_requests) <= 20 * elapsed_s + 2


@pytest.mark.parametrize("status", [401, 403])
async def test_an_endpoint_that_hides_its_status_leaves_the_sample_unconfirmed(
    endpoint: Endpoint, tmp_path: Path, status: int
) -> None:
    endpoint.status_refusal = status
    report = await push(
        written(tmp_path / "in", [line(number) for number in range(2_000)]),
        settings_for(endpoint, tmp_path, confirm=SampleSize(1_000)),
    )
    assert report.exit_code == 4
    assert report.messages.delivered == 2_000
    assert report.confirmation.unconfirmed == report.confirmation.sampled
    assert report.confirmation.detail
    assert "scope missing" in report.confirmation.detail
    assert len(endpoint.status_requests) <= 100  # It gives up at once, not after its time.


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_status_endpoint_that_is_busy_is_asked_again(
    endpoint: Endpoint, tmp_path: Path, status: int
) -> None:
    endpoint.status_refusal = status

    async def recover() -> None:
        await until(lambda: len(endpoint.status_requests) > 0)
        endpoint.status_refusal = None

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recover)
        report = await push(
            written(tmp_path / "in", [line(1)]),
            settings_for(endpoint, tmp_path, confirm=SampleSize(5)),
        )
    assert report.exit_code == 0
    assert report.confirmation.confirmed == 1


async def test_a_body_over_the_byte_limit_is_sent_in_several(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    lines = [line(number, properties={"x": "y" * 30_000}) for number in range(100)]
    report = await push(
        written(tmp_path / "in", lines), settings_for(endpoint, tmp_path, batch_bytes=200_000)
    )
    sizes = [int(request.headers["Content-Length"]) for request in endpoint.requests]
    assert max(sizes) <= 200_000
    assert report.messages.delivered == 100
    assert len(endpoint.requests) <= 100 // 5


async def test_one_message_over_the_byte_limit_goes_alone(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    lines = [line(number) for number in range(10)]
    lines[4]["properties"] = {"x": "y" * 50_000}
    report = await push(
        written(tmp_path / "in", lines), settings_for(endpoint, tmp_path, batch_bytes=20_000)
    )
    assert report.messages.delivered == 10
    (alone,) = [request for request in endpoint.requests if "id4" in request.ids]
    assert alone.ids == ["id4"]


async def test_a_filled_in_changed_at_is_kept_through_retries(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def fail_first(request: Request) -> web.StreamResponse:
        return web.Response(status=503) if request.number == 0 else await accept(request)

    endpoint.answer = fail_first
    bare = {"storeId": "s", "objectType": "DEAL", "externalObjectId": "1"}
    report = await push(written(tmp_path / "in", [bare, bare]), settings_for(endpoint, tmp_path))
    first, second = endpoint.requests
    assert first.messages == second.messages
    times = [message["changedAt"] for message in second.messages]
    assert times[0] < times[1]
    assert report.messages.delivered == 2
