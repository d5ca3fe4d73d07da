"""`pusher import`: the webhook, the pages, the ends, and another run after a kill."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import socket
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from fakes.command import (
    DATA,
    NORTHWIND,
    PUSHER,
    Ended,
    ended,
    letters_in,
    message,
    ndjson,
    run,
    running_bridge,
    starting,
)
from fakes.endpoint import Endpoint, Request, accept, refuse, until

from pusher.errors import DiskError
from pusher.protocol import ImportRequest
from pusher.webhook import Webhook, signature_v2

STARTED_AT = 1552678940201
TYPES = ("PRODUCT", "CONTACT", "LINE_ITEM", "DEAL")
SETTINGS = [
    {"settingsId": number, "objectType": name} for number, name in enumerate(TYPES, start=1)
]
SECRET = "client-s3cret"


@dataclass
class Running:
    """An import command that serves its webhook."""

    process: Process
    url: str
    said: str

    async def ask(
        self, store: str = "s1", started_at: int = STARTED_AT, **more: Any
    ) -> tuple[int, Any]:
        body = {
            "portalId": 62515,
            "storeId": store,
            "importStartedAt": started_at,
            "settingsToImport": SETTINGS,
            **more,
        }
        return await self.post(json.dumps(body).encode())

    async def post(self, body: bytes, path: str = "/hook", **headers: str) -> tuple[int, Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.url + path, data=body, headers=headers) as answer,
        ):
            return answer.status, await answer.json()

    async def end(self) -> Ended:
        done = await ended(self.process, within_s=40)
        return Ended(done.code, done.out, self.said + done.err)


@asynccontextmanager
async def importing(source: Path, url: str, *more: str | Path, cwd: Path) -> AsyncIterator[Running]:
    """`pusher import`, once it serves the webhook."""
    argv = (*PUSHER, "import", source, "--url", url, "--listen", "127.0.0.1:0", "--report", "-")
    async with starting(*argv, *more, cwd=cwd, stderr=PIPE) as process:
        assert process.stderr is not None
        said = ""
        async with asyncio.timeout(40):
            while "the import webhook is served at" not in said:
                line = (await process.stderr.readline()).decode()
                assert line, said
                said += line
        yield Running(process, said.split()[-1], said)


def things(count: int, kind: str = "DEAL", store: str = "s1", **more: Any) -> list[dict[str, Any]]:
    return [message(number, objectType=kind, storeId=store, **more) for number in range(count)]


def written(folder: Path, *groups: list[dict[str, Any]]) -> Path:
    path = folder / "input.ndjson"
    path.write_bytes(ndjson([entry for group in groups for entry in group]))
    return path


def ends_of(endpoint: Endpoint) -> dict[str, tuple[int, int]]:
    return {
        end.body["objectType"]: (end.body["pageCount"], end.body["itemCount"])
        for end in endpoint.ends
    }


def pages_of(endpoint: Endpoint) -> dict[tuple[str, int], list[str]]:
    """The ids of each page, as it was accepted last."""
    return {
        (request.lane[1], request.body["pageNumber"]): request.ids for request in endpoint.accepted
    }


def assert_is_complete(endpoint: Endpoint, wanted: dict[str, set[str]]) -> None:
    """All four types have ended, with pages from 0 without a gap, that hold what is wanted."""
    pages = pages_of(endpoint)
    assert sorted(end.body["objectType"] for end in endpoint.ends) == sorted(TYPES)
    for name, (page_count, item_count) in ends_of(endpoint).items():
        numbers = sorted(number for kind, number in pages if kind == name)
        assert numbers == list(range(page_count)), name
        ids = [one for kind, number in pages for one in pages[kind, number] if kind == name]
        assert len(ids) == item_count, name
        assert Counter(ids) == Counter(wanted.get(name, set())), name


def ids_of(entries: list[dict[str, Any]]) -> set[str]:
    return {entry["externalObjectId"] for entry in entries}


async def test_the_webhook_is_answered_with_counts_and_all_pages_and_ends_are_sent(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    deals, contacts = things(450, associations={"CONTACT": ["id1"]}), things(3, "CONTACT")
    others = things(5, "DEAL", "s2")
    source = written(tmp_path, contacts, deals, others)
    async with importing(source, endpoint.url, "--token", "t0k", cwd=tmp_path) as command:
        assert await command.ask() == (
            200,
            {
                "importCounts": [
                    {"settingsId": 1, "count": 0},
                    {"settingsId": 2, "count": 3},
                    {"settingsId": 3, "count": 0},
                    {"settingsId": 4, "count": 450},
                ]
            },
        )
        done = await command.end()
    assert done.code == 0, done.err
    assert_is_complete(endpoint, {"DEAL": ids_of(deals), "CONTACT": ids_of(contacts)})
    assert ends_of(endpoint)["DEAL"] == (3, 450)
    for request in (*endpoint.requests, *endpoint.ends):
        assert request.body["importStartedAt"] == STARTED_AT
        assert request.body["storeId"] == "s1"
        assert request.headers["Authorization"] == "Bearer t0k"
        assert len(request.messages) <= 200
    first = next(one for one in endpoint.delivered if one["objectType"] == "DEAL")
    assert first == {
        "storeId": "s1",
        "objectType": "DEAL",
        "externalObjectId": first["externalObjectId"],
        "properties": {"n": first["externalObjectId"].removeprefix("id")},
        "associations": {"CONTACT": ["id1"]},
    }
    report = done.report
    assert report["messages"] == {
        "read": 458,
        "delivered": 453,
        "rejected": 0,
        "skipped": 5,
        "pending": 0,
        "resumed": 0,
    }
    assert report["skipped"] == {"other_store": 5}
    assert (report["import"]["store_id"], report["import"]["import_started_at"]) == (
        "s1",
        STARTED_AT,
    )
    (deal,) = (one for one in report["import"]["types"] if one["object_type"] == "DEAL")
    assert deal == {
        "object_type": "DEAL",
        "counted": 450,
        "pages": 3,
        "items": 450,
        "ended": True,
    }


async def test_what_cannot_be_imported_is_skipped_or_rejected_with_its_reason(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    entries = [
        *things(3),
        message(7, objectType="DEAL", action="DELETE"),
        message(8, objectType="PRODUCT"),
        message(9, objectType="DEAL", externalObjectId="ä"),
    ]
    async with importing(written(tmp_path, entries), endpoint.url, cwd=tmp_path) as command:
        wanted = [{"settingsId": 9, "objectType": "DEAL"}, {"settingsId": 5, "objectType": "X"}]
        assert await command.ask(settingsToImport=wanted) == (
            200,
            {"importCounts": [{"settingsId": 9, "count": 3}, {"settingsId": 5, "count": 0}]},
        )
        done = await command.end()
    assert done.code == 1
    report = done.report
    assert report["skipped"] == {"delete": 1, "type_not_asked_for": 1}
    assert report["rejected"] == {"bad_id": 1}
    assert [letter["reason"] for letter in letters_in(tmp_path)] == ["bad_id"]
    assert "2 skipped by rule (" in done.err
    assert_is_complete(endpoint, {"DEAL": ids_of(things(3))})


async def test_only_what_the_application_signed_is_answered(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    more = ("--client-secret-file", "secret")
    async with importing(written(tmp_path), endpoint.url, *more, cwd=tmp_path) as command:
        body = json.dumps(
            {"storeId": "s1", "importStartedAt": 5, "settingsToImport": SETTINGS}
        ).encode()
        good = signature_v2(SECRET, "POST", command.url + "/hook?a=1", body)
        for wrong in (
            {},
            {"X-HubSpot-Signature": ""},
            {"X-HubSpot-Signature": "0" * 64},
            {"X-HubSpot-Signature": good, "X-HubSpot-Signature-Version": "v1"},
            {"X-HubSpot-Signature": signature_v2("x", "POST", command.url + "/hook?a=1", body)},
            {"X-HubSpot-Signature": signature_v2(SECRET, "POST", command.url + "/hook", body)},
        ):
            status, _ = await command.post(body, "/hook?a=1", **wrong)
            assert status == 401, wrong
        status, _ = await command.post(body + b" ", "/hook?a=1", **{"X-HubSpot-Signature": good})
        assert status == 401
        assert not endpoint.ends
        headers = {"X-HubSpot-Signature": good, "X-HubSpot-Signature-Version": "v2"}
        status, _ = await command.post(body, "/hook?a=1", **headers)
        assert status == 200
        done = await command.end()
    assert done.code == 0
    assert SECRET not in done.err


async def test_behind_a_proxy_the_public_address_is_what_is_signed(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    public = "https://shop.example/import"
    more = ("--client-secret", SECRET, "--webhook-uri", public)
    async with importing(written(tmp_path), endpoint.url, *more, cwd=tmp_path) as command:
        body = json.dumps({"storeId": "s1", "importStartedAt": 5}).encode()
        signed = {"X-HubSpot-Signature": signature_v2(SECRET, "POST", public, body)}
        status, _ = await command.post(body, "/inside", **signed)
        assert status == 200
        assert (await command.end()).code == 0


def test_the_signature_is_hubspots() -> None:
    """The vector of HubSpot's own page on request validation."""
    found = signature_v2(
        "yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy",
        "POST",
        "https://www.example.com/webhook_uri",
        b'{"example_field":"example_value"}',
    )
    assert found == "9569219f8ba981ffa6f6f16aa0f48637d35d728c7e4d93d0d52efaa512af7900"


async def test_what_is_no_import_request_is_refused(endpoint: Endpoint, tmp_path: Path) -> None:
    async with importing(written(tmp_path), endpoint.url, cwd=tmp_path) as command:
        for body in (b"", b"{}", b"[]", b"\xff", b"[" * 10_000, b'{"storeId":"","x":1}'):
            status, answer = await command.post(body)
            assert (status, answer["status"]) == (400, "error")
        async with aiohttp.ClientSession() as session:
            async with session.get(command.url) as answer_to_get:
                assert answer_to_get.status == 405
            async with session.post(
                command.url, data=io.BytesIO(b" " * (2 << 20))
            ) as answer_to_much:
                assert answer_to_much.status == 413
        assert (await command.ask())[0] == 200
        assert (await command.end()).code == 0


@pytest.mark.parametrize("header", ["Origin", "Sec-Fetch-Site"])
async def test_a_web_page_cannot_begin_an_import(
    header: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    source = written(tmp_path, things(3))
    async with importing(source, endpoint.url, "--token", "t0k", cwd=tmp_path) as command:
        body = {"portalId": 1, "storeId": "s1", "importStartedAt": 1, "settingsToImport": SETTINGS}
        code, _ = await command.post(json.dumps(body).encode(), **{header: "https://evil.example"})
        assert code == 403
        assert (await command.ask())[0] == 200
        done = await command.end()
    assert done.code == 0


async def test_an_import_that_is_cancelled_under_way_stops_and_rejects_nothing(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def cancel_after_three(request: Request) -> web.StreamResponse:
        if request.number < 3:
            return await accept(request)
        return refuse(400, "the import is CANCELLED")

    endpoint.answer = cancel_after_three
    source = written(tmp_path, things(300), things(2_000, "CONTACT"), things(2_000, "PRODUCT"))
    options = ("--token", "t0k", "--concurrency", "2")
    async with importing(source, endpoint.url, *options, cwd=tmp_path) as command:
        assert (await command.ask())[0] == 200
        done = await command.end()
    assert done.code == 3
    assert "CANCELLED" in done.err
    assert letters_in(tmp_path) == []
    assert len(endpoint.requests) < 500


async def test_an_import_that_cannot_be_noted_is_not_begun() -> None:
    def full(asked: ImportRequest) -> dict[str, int]:
        del asked
        raise DiskError("state: No space left on device")

    async with (
        Webhook("127.0.0.1", 0, full) as webhook,
        aiohttp.ClientSession() as session,
        session.post(webhook.url, data=b'{"storeId":"s","importStartedAt":1}') as answer,
    ):
        assert answer.status == 503


async def test_a_repeated_request_is_answered_again_and_another_one_is_not(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    may_go = asyncio.Event()

    async def hold(request: Request) -> web.StreamResponse:
        await may_go.wait()
        return await accept(request)

    endpoint.answer = hold
    async with importing(written(tmp_path, things(3)), endpoint.url, cwd=tmp_path) as command:
        first = await command.ask()
        await until(lambda: endpoint.in_flight == 1)
        assert await command.ask() == first
        status, _ = await command.ask(started_at=STARTED_AT + 1)
        assert status == 409
        may_go.set()
        assert (await command.end()).code == 0
    assert len(endpoint.requests) == 1
    assert len(endpoint.ends) == 4


async def test_pages_and_ends_are_sent_again_after_a_passing_trouble(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    seen: Counter[tuple[str, Any]] = Counter()

    async def fail_first(request: Request) -> web.StreamResponse:
        key = (request.lane[1], request.body.get("pageNumber"))
        seen[key] += 1
        return refuse(503, "busy") if seen[key] == 1 else await accept(request)

    endpoint.answer = fail_first
    entries = things(500)
    async with importing(written(tmp_path, entries), endpoint.url, cwd=tmp_path) as command:
        await command.ask()
        done = await command.end()
    assert done.code == 0, done.err
    assert set(seen.values()) == {2}
    assert_is_complete(endpoint, {"DEAL": ids_of(entries)})
    bodies = {json.dumps(request.body) for request in endpoint.requests}
    assert len(bodies) == 3


async def test_a_bad_message_costs_one_message_and_leaves_no_gap_in_the_pages(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    bad = {"id7", "id250", "id499"}

    async def dislike(request: Request) -> web.StreamResponse:
        if request.number >= 0 and bad & set(request.ids):
            return refuse(400, "bad object")
        return await accept(request)

    endpoint.answer = dislike
    entries = [*things(800), *things(1, "PRODUCT")]
    async with importing(written(tmp_path, entries), endpoint.url, cwd=tmp_path) as command:
        await command.ask()
        done = await command.end()
    assert done.code == 1, done.err
    report = done.report
    assert report["rejected"] == {"refused": 3}
    assert {json.loads(one["record"])["externalObjectId"] for one in letters_in(tmp_path)} == bad
    good = ids_of(things(800)) - bad
    assert_is_complete(endpoint, {"DEAL": good, "PRODUCT": {"id0"}})
    contents: dict[tuple[str, int], set[str]] = {}
    for request in endpoint.requests:
        if request.messages:
            key = (request.lane[1], request.body["pageNumber"])
            contents.setdefault(key, set()).add(json.dumps(request.ids))
    assert all(len(one) == 1 for one in contents.values())


async def test_a_killed_import_is_continued_where_it_was(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    entries = [*things(6_000), *things(300, "CONTACT"), *things(10, "PRODUCT", "s2")]
    source = written(tmp_path, entries)
    more = ("--state", "import.state", "--concurrency", "4")
    bad = {"id77"}

    async def slow(request: Request) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        is_page_of_deals = request.number >= 0 and request.lane[1] == "DEAL"
        if is_page_of_deals and bad & set(request.ids):
            return refuse(400, "bad object")
        return await accept(request)

    endpoint.answer = slow
    async with importing(source, endpoint.url, *more, cwd=tmp_path) as command:
        await command.ask()
        await until(lambda: len(endpoint.accepted) >= 8)
        command.process.kill()
        await command.process.wait()
    accepted_before = len(endpoint.accepted)
    assert accepted_before < 30
    argv = ("import", source, "--url", endpoint.url, "--report", "-", "--listen", "127.0.0.1:0")
    refused = await run(*argv, *more, cwd=tmp_path)
    assert refused.code == 2
    assert "--resume" in refused.err
    done = await run(*argv, *more, "--resume", cwd=tmp_path)
    assert done.code in {0, 1}, done.err  # The bad message may have been settled before the kill.
    report = done.report
    assert report["messages"]["resumed"] > 0
    assert report["messages"]["read"] + report["messages"]["resumed"] == 6_310
    assert_is_complete(
        endpoint, {"DEAL": ids_of(things(6_000)) - bad, "CONTACT": ids_of(things(300, "CONTACT"))}
    )
    contents: dict[tuple[str, int], set[str]] = {}
    for request in endpoint.requests:
        key = (request.lane[1], request.body["pageNumber"])
        if request.messages:
            contents.setdefault(key, set()).add(json.dumps(request.ids))
    assert all(len(one) == 1 for one in contents.values()), "a page number had two contents"
    # All but what was under way at the kill went out once.
    assert len(endpoint.accepted) - len(pages_of(endpoint)) <= 4

    requests = len(endpoint.requests)
    again = await run(*argv, *more, "--resume", cwd=tmp_path)
    assert again.code == 0
    assert again.report["messages"]["delivered"] == 0
    assert (len(endpoint.requests), len(endpoint.ends)) == (requests, 4)


async def test_another_input_does_not_continue_an_import(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    more = ("--state", "import.state")
    source = written(tmp_path, things(3))
    async with importing(source, endpoint.url, *more, cwd=tmp_path) as command:
        await command.ask()
        assert (await command.end()).code == 0
    written(tmp_path, things(4))
    argv = ("import", source, "--url", endpoint.url, "--listen", "127.0.0.1:0", *more, "--resume")
    done = await run(*argv, cwd=tmp_path)
    assert done.code == 2
    assert "the input is not the one" in done.err
    assert len(endpoint.requests) == 1


async def test_an_end_that_is_refused_stops_the_run_and_can_be_sent_later(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def refuse_an_end(request: Request) -> web.StreamResponse:
        is_end = request.number < 0
        if is_end and request.lane[1] == "DEAL":
            return refuse(400, "pages are missing")
        return await accept(request)

    endpoint.answer = refuse_an_end
    source, state = written(tmp_path, things(3)), ("--state", "st")
    async with importing(source, endpoint.url, *state, cwd=tmp_path) as command:
        await command.ask()
        done = await command.end()
    assert done.code == 3
    assert done.report["reason"] == "the end of DEAL: HTTP 400: pages are missing"
    assert done.report["outcome"] == "stopped"
    endpoint.answer = accept
    argv = ("import", source, "--url", endpoint.url, "--listen", "127.0.0.1:0", *state, "--resume")
    assert (await run(*argv, cwd=tmp_path)).code == 0
    assert len(endpoint.requests) == 1
    assert sorted(ends_of(endpoint)) == sorted(TYPES)


async def test_refused_credentials_stop_the_run(endpoint: Endpoint, tmp_path: Path) -> None:
    async def unknown(request: Request) -> web.StreamResponse:
        del request
        return refuse(401, "who are you?")

    endpoint.answer = unknown
    more = ("--token", "t0k-secret")
    async with importing(written(tmp_path, things(3)), endpoint.url, *more, cwd=tmp_path) as run_:
        await run_.ask()
        done = await run_.end()
    assert done.code == 3
    assert "credentials" in done.report["reason"]
    assert done.report["messages"]["pending"] == 3
    assert "t0k-secret" not in done.err
    assert not endpoint.ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_while_nothing_is_wanted_ends_it(
    number: signal.Signals, endpoint: Endpoint, tmp_path: Path
) -> None:
    async with importing(written(tmp_path), endpoint.url, cwd=tmp_path) as command:
        command.process.send_signal(number)
        done = await command.end()
    assert (done.code, done.out) == (128 + number, b"")


async def test_an_interrupted_import_says_so_and_sends_no_end(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def stall(request: Request) -> web.StreamResponse:
        del request
        await asyncio.sleep(3600)
        raise AssertionError

    endpoint.answer = stall
    more = ("--drain-timeout", "100ms")
    async with importing(
        written(tmp_path, things(300)), endpoint.url, *more, cwd=tmp_path
    ) as command:
        await command.ask()
        await until(lambda: endpoint.in_flight > 0)
        command.process.send_signal(signal.SIGINT)
        done = await command.end()
    assert done.code == 130
    assert done.report["outcome"] == "interrupted"
    assert not endpoint.ends


async def test_imports_can_be_served_one_after_the_other(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    source = written(tmp_path, things(3), things(2, "DEAL", "s2"))
    async with importing(source, endpoint.url, "--keep-serving", cwd=tmp_path) as command:
        assert (await command.ask())[0] == 200
        await until(lambda: len(endpoint.ends) == 4)
        async with asyncio.timeout(10):
            while (await command.ask("s2", STARTED_AT + 1))[0] != 200:  # noqa: ASYNC110 - a process
                await asyncio.sleep(0.02)
        await until(lambda: len(endpoint.ends) == 8)
        async with asyncio.timeout(10):
            assert command.process.stderr is not None
            for _ in range(4):  # Both imports have been reported, two lines each.
                await command.process.stderr.readline()
        command.process.send_signal(signal.SIGINT)
        done = await command.end()
    assert done.code == 0
    assert done.report["import"]["store_id"] == "s2"


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--api-key", "k"), "not an API key"),
        (("--api-key-file", "missing"), "not an API key"),
        (("--listen", "0.0.0.0:0"), "--client-secret"),
        (("--listen", "nowhere"), "HOST:PORT"),
        (("--resume",), "--state"),
        (("--resume", "--state", "missing"), "--state"),
        (("--state", "no/where"), "--state"),
        (("--dead-letters", "no/where"), "--dead-letters"),
        (("--report", "no/where"), "--report"),
        (("--batch-size", "201"), "--batch-size"),
        (("--url", "ftp://h"), "http://"),
    ],
)
async def test_a_wrong_option_is_the_callers_error(
    more: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    source = written(tmp_path, things(1))
    done = await run("import", source, "--url", "http://127.0.0.1:9", *more, cwd=tmp_path)
    assert (done.code, done.out) == (2, b"")
    assert why in done.err


async def test_a_pipe_cannot_be_imported(tmp_path: Path) -> None:
    done = await run(
        "import", "-", "--url", "http://127.0.0.1:9", cwd=tmp_path, stdin=ndjson(things(1))
    )
    assert done.code == 2
    assert "not a pipe" in done.err


async def test_a_port_that_is_taken_is_the_callers_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        argv = ("--url", "http://127.0.0.1:9", "--listen", f"127.0.0.1:{port}")
        done = await run("import", written(tmp_path), *argv, cwd=tmp_path)
    assert done.code == 2
    assert "--listen" in done.err


async def test_a_damaged_input_ends_with_3(tmp_path: Path) -> None:
    (tmp_path / "in.ndjson.gz").write_bytes(NORTHWIND.read_bytes()[:20_000])
    argv = ("--url", "http://127.0.0.1:9", "--listen", "127.0.0.1:0")
    done = await run("import", "in.ndjson.gz", *argv, cwd=tmp_path)
    assert done.code == 3
    assert "ends too early" in done.err


# The real thing


async def test_a_whole_store_is_imported_into_a_bridge_that_asks_for_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = json.loads((DATA / "northwind-settings.json").read_bytes())
    settings["webhookUri"] = f"http://127.0.0.1:{port}/import?shop=1"
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    given = ("--settings", "settings.json", "--stores", DATA / "northwind-stores.json")
    auth = {"Authorization": "Bearer t0k"}
    secrets = ("--token", "t0k", "--client-secret", SECRET)
    async with running_bridge(*given, *secrets, cwd=tmp_path) as url:
        more = (*secrets, "--listen", f"127.0.0.1:{port}")
        async with (
            importing(NORTHWIND, url, *more, cwd=tmp_path) as command,
            aiohttp.ClientSession(headers=auth) as session,
        ):
            body = {"storeId": "northwind-europe"}
            async with session.post(f"{url}/_bridge/imports", json=body) as answer:
                assert 200 <= answer.status < 300
                started = await answer.json()
            done = await command.end()
            assert done.code == 0, done.err
            async with asyncio.timeout(30):
                while True:
                    path = f"{url}/_bridge/imports/{started['id']}"
                    async with session.get(path) as answer:
                        seen = await answer.json()
                    if seen["state"] in {"DONE", "FAILED"}:
                        break
                    await asyncio.sleep(0.05)
    assert (seen["state"], seen["error"]) == ("DONE", None)
    for one in done.report["import"]["types"]:
        there = seen["types"][one["object_type"]]
        assert there["expected"] == there["received"] == there["processed"] == one["items"]
        assert there["openErrors"] == 0
    assert done.report["messages"]["delivered"] == sum(
        one["items"] for one in done.report["import"]["types"]
    )
    assert done.report["messages"]["delivered"] > 2_000


MAP = """
[topics."shop.*"]
type = "CONTACT"
store = "s1"
id = "id"
properties = ["mail"]
"""


async def test_an_export_of_a_topic_is_imported_as_what_its_records_are(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "map.toml").write_text(MAP)
    lines = []
    for number in range(250):
        row = {"id": number, "mail": f"{number}@example.com"}
        source = {"db": "shop", "table": "customers", "ts_ms": 5}
        change = {"before": None, "after": row, "source": source, "op": "c"}
        lines.append(kcat_line(number, json.dumps(change)))
    gone = {"before": {"id": 900}, "after": None, "source": {"db": "shop"}, "op": "d"}
    lines += [kcat_line(250, json.dumps(gone)), kcat_line(251, None), kcat_line(252, "no json")]
    source_file = tmp_path / "export.json"
    source_file.write_text("".join(lines))
    more = ("--token", "t0k", "--map", "map.toml")
    async with importing(source_file, endpoint.url, *more, cwd=tmp_path) as command:
        status, answer = await command.ask()
        assert status == 200
        counts = {one["settingsId"]: one["count"] for one in answer["importCounts"]}
        assert counts[TYPES.index("CONTACT") + 1] == 250
        done = await command.end()
    assert done.code == 1, done.err  # One record is no change: a dead letter.
    assert "detected kcat (kcat -J) with debezium values" in done.err
    assert_is_complete(endpoint, {"CONTACT": {str(number) for number in range(250)}})
    assert done.report["skipped"] == {"delete": 1, "tombstone_of_pair": 1}
    assert [one["record"] for one in letters_in(tmp_path)] == [kcat_line(252, "no json").strip()]


def kcat_line(offset: int, payload: str | None) -> str:
    place = {"topic": "shop.customers", "partition": 0, "offset": offset, "tstype": "create"}
    return json.dumps({**place, "ts": STARTED_AT, "key": "k", "payload": payload}) + "\n"


async def test_a_live_topic_cannot_be_imported_and_the_error_says_what_can(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    done = await run(
        *("import", "kafka://me:s3cret@broker:9092/orders?group=g", "--url", endpoint.url),
        *("--token", "t0k"),
        cwd=tmp_path,
    )
    assert done.code == 2
    assert "live topics are read by `pusher push` alone" in done.err
    assert "kcat -C -J" in done.err
    assert "s3cret" not in done.err
