"""Imports: the webhook, pages, ends, the order of processing, and what survives a restart."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pusher.bridge import BridgeConfig
from pusher.bridge.config import Credentials
from pusher.bridge.imports import Imports
from pusher.bridge.webhook import can_be_called, signature

from .talk import BASE, DEADLINE_S, SETTINGS, Talk, contact, deal, talking, upsert
from .test_command import bridge

PAGE, END = f"{BASE}/imports/page", f"{BASE}/imports/end"
IMPORTS = "/_bridge/imports"
TYPES = ("CONTACT", "PRODUCT", "DEAL", "LINE_ITEM")
COUNTS = {"importCounts": [{"settingsId": number, "count": number * 10} for number in range(1, 5)]}


@dataclass
class Shop:
    """An application: it answers its webhook and remembers what it was asked."""

    url: str = ""
    status: int = 200
    answer: bytes = json.dumps(COUNTS).encode()
    delay_s: float = 0.0
    asked: list[tuple[str, Any, dict[str, str], bytes]] = field(default_factory=list)
    was_asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append((str(request.rel_url), json.loads(body), headers, body))
        self.was_asked.set()
        await asyncio.sleep(self.delay_s)
        headers = {"Location": f"{self.url}/elsewhere"} if self.status == 302 else {}
        return web.Response(
            status=self.status,
            body=self.answer,
            content_type="application/json",
            headers=headers,
        )


@contextlib.asynccontextmanager
async def shop() -> AsyncIterator[Shop]:
    """A shop that serves."""
    one = Shop()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", one.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield one
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def shop_and_bridge(**config: Any) -> AsyncIterator[tuple[Shop, Talk]]:
    async with shop() as one:
        settings = SETTINGS | {"webhookUri": f"{one.url}/import?a=b%20c"}
        async with talking(BridgeConfig(settings=settings, **config)) as talk:
            yield one, talk


async def state(talk: Talk, import_id: int, wanted: str) -> Any:
    """The import once it is in a state."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found = await talk.get(f"{IMPORTS}/{import_id}")
            if found["state"] == wanted:
                return found
            await asyncio.sleep(0.005)


async def started(talk: Talk, **body: Any) -> Any:
    """An import whose webhook has been answered."""
    answer = await talk.ask("POST", IMPORTS, {"storeId": "default", **body})
    assert answer.status == 201, answer
    return await state(talk, answer.body["id"], "RECEIVING")


def page(
    one: Any, object_type: str, number: int, *messages: dict[str, Any], **changes: Any
) -> dict[str, Any]:
    return {
        "importStartedAt": one["importStartedAt"],
        "storeId": one["storeId"],
        "objectType": object_type,
        "pageNumber": number,
        "messages": [
            {name: value for name, value in message.items() if name not in {"action", "changedAt"}}
            for message in messages
        ],
    } | changes


def end(one: Any, object_type: str, pages: int, items: int) -> dict[str, Any]:
    return {
        "importStartedAt": one["importStartedAt"],
        "storeId": one["storeId"],
        "objectType": object_type,
        "pageCount": pages,
        "itemCount": items,
    }


async def post(talk: Talk, path: str, body: Any, status: int = 204) -> Any:
    answer = await talk.ask("POST", path, body)
    assert answer.status == status, answer
    return answer.body


async def refused(talk: Talk, path: str, body: Any, where: str) -> str:
    """The message of a 400 that blames a field."""
    answer = await post(talk, path, body, 400)
    assert [error["in"] for error in answer["errors"]] == [where]
    return str(answer["message"])


async def end_all(talk: Talk, one: Any, **counts: tuple[int, int]) -> None:
    for object_type in TYPES:
        await post(talk, END, end(one, object_type, *counts.get(object_type, (0, 0))))


def of(found: Any, name: str) -> dict[str, Any]:
    return {object_type: found["types"][object_type][name] for object_type in TYPES}


async def test_the_webhook_has_the_body_that_applications_know() -> None:
    async with shop_and_bridge() as (application, talk):
        one = await started(talk)
        ((path, body, headers, _),) = application.asked
        assert path == "/import?a=b%20c"
        assert body.keys() == {"portalId", "storeId", "importStartedAt", "settingsToImport"}
        assert (body["portalId"], body["storeId"]) == (62515, "default")
        assert body["importStartedAt"] == one["importStartedAt"] > 1_600_000_000_000
        assert {item["objectType"] for item in body["settingsToImport"]} == set(TYPES)
        assert headers["content-type"] == "application/json"
        assert "x-hubspot-signature" not in headers
        expected = {i["objectType"]: i["settingsId"] * 10 for i in body["settingsToImport"]}
        assert of(one, "expected") == expected


def test_the_signature_is_that_of_hubspots_own_example() -> None:
    assert signature(
        "yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy",
        "POST",
        "https://www.example.com/webhook_uri",
        b'{"example_field":"example_value"}',
    ) == ("9569219f8ba981ffa6f6f16aa0f48637d35d728c7e4d93d0d52efaa512af7900")


async def test_with_a_client_secret_the_webhook_is_signed() -> None:
    async with shop_and_bridge(credentials=Credentials(client_secret="s3cret")) as (shop_, talk):
        await started(talk)
        ((path, _, headers, body),) = shop_.asked
        text = b"s3cretPOST" + (shop_.url + path).encode() + body
        assert headers["x-hubspot-signature"] == hashlib.sha256(text).hexdigest()
        assert headers["x-hubspot-signature-version"] == "v2"


async def test_an_import_is_processed_when_all_four_types_have_ended_and_in_dependency_order() -> (
    None
):
    # The line items wait for their deals although their own queue has no delay.
    delays = {"CONTACT": 0.1, "PRODUCT": 0.1, "DEAL": 0.2}
    async with shop_and_bridge(processing_delay_s=delays) as (_, talk):
        one = await started(talk)
        line = upsert("l", count=1) | {"associations": {"DEAL": ["d"], "PRODUCT": ["p"]}}
        await post(talk, PAGE, page(one, "LINE_ITEM", 0, line))
        await post(talk, END, end(one, "LINE_ITEM", 1, 1))
        await post(
            talk, PAGE, page(one, "DEAL", 0, deal("d") | {"associations": {"CONTACT": ["c"]}})
        )
        await post(talk, PAGE, page(one, "CONTACT", 1, contact("c")))
        await post(talk, PAGE, page(one, "CONTACT", 0, contact("a"), contact("b")))
        await post(talk, PAGE, page(one, "PRODUCT", 0, upsert("p", name="p")))
        for object_type, pages, items in (("DEAL", 1, 1), ("CONTACT", 2, 3)):
            await post(talk, END, end(one, object_type, pages, items))
        waiting = await talk.get(f"{IMPORTS}/{one['id']}")
        assert waiting["state"] == "RECEIVING"
        assert of(waiting, "received") == {"CONTACT": 3, "PRODUCT": 1, "DEAL": 1, "LINE_ITEM": 1}
        assert of(waiting, "ended")["PRODUCT"] is False
        assert (await talk.stats())["LINE_ITEM"]["accepted"] == 0
        await post(talk, END, end(one, "PRODUCT", 1, 1))
        done = await state(talk, one["id"], "DONE")
        assert of(done, "processed") == of(waiting, "received")
        assert of(done, "openErrors") == dict.fromkeys(TYPES, 0)
        assert done["finishedAt"] >= one["importStartedAt"]
        thing = await talk.thing("LINE_ITEM", "l")
        assert thing["associations"].keys() == {"DEAL", "PRODUCT"}
        # No changedAt in a page: the start of the import counts.
        assert thing["changedAt"] == one["importStartedAt"]


async def test_what_is_synced_during_an_import_is_not_overwritten_by_it() -> None:
    async with shop_and_bridge() as (_, talk):
        one = await started(talk)
        await post(talk, PAGE, page(one, "PRODUCT", 0, upsert("p", name="old")))
        await talk.sync("PRODUCT", upsert("p", one["importStartedAt"] + 1, name="new"))
        await end_all(talk, one, PRODUCT=(1, 1))
        await state(talk, one["id"], "DONE")
        assert (await talk.thing("PRODUCT", "p"))["properties"]["name"] == "new"


async def test_errors_of_an_import_are_counted_per_type_and_shown_by_the_api() -> None:
    async with shop_and_bridge() as (_, talk):
        await talk.sync("PRODUCT", upsert("before", price="1"))
        one = await started(talk)
        await post(talk, PAGE, page(one, "PRODUCT", 0, upsert("a", name="p"), upsert("b")))
        await end_all(talk, one, PRODUCT=(1, 2))
        done = await state(talk, one["id"], "DONE")
        assert of(done, "openErrors")["PRODUCT"] == 1
        assert (await talk.error("PRODUCT", "b"))["changedAt"] == one["importStartedAt"]
        await talk.sync("PRODUCT", upsert("after", price="1"))
        assert await talk.get(f"{IMPORTS}/{one['id']}") == done


async def test_an_import_of_nothing_is_done_at_once() -> None:
    async with shop_and_bridge() as (_, talk):
        one = await started(talk)
        await end_all(talk, one)
        await state(talk, one["id"], "DONE")


@pytest.mark.parametrize(
    ("status", "answer", "reason"),
    [
        (500, b"", "answered 500"),
        (302, b"", "answered 302"),
        (200, b"", "no importCounts"),
        (200, b"<html>", "no importCounts"),
        (200, b'{"importCounts": 5}', "no importCounts"),
        (200, b'{"importCounts": [{"settingsId": 1, "count": -1}]}', "no importCounts"),
        (200, b'"' + b"x" * (1 << 20) + b'"', "answered more than"),
    ],
    ids=["500", "redirect", "empty", "html", "shape", "negative", "huge"],
)
async def test_a_webhook_that_answers_otherwise_fails_the_import_with_the_reason(
    status: int, answer: bytes, reason: str
) -> None:
    async with shop_and_bridge() as (application, talk):
        application.status, application.answer = status, answer
        begun = await post(talk, IMPORTS, {"storeId": "default"}, 201)
        assert begun["state"] == "CALLING"
        failed = await state(talk, begun["id"], "FAILED")
        assert failed["error"].startswith("webhook: ")
        assert reason in failed["error"]
        assert len(application.asked) == 1  # A redirect is not followed.
        message = await refused(talk, PAGE, page(begun, "DEAL", 0), "importStartedAt")
        assert "FAILED" in message
        application.status, application.answer = 200, b'{"importCounts": []}'
        again = await started(talk)
        assert again["importStartedAt"] > begun["importStartedAt"]
        assert of(again, "expected") == dict.fromkeys(TYPES)


async def test_a_webhook_that_does_not_answer_in_time_fails_the_import() -> None:
    async with shop_and_bridge(webhook_timeout_s=0.1) as (application, talk):
        application.delay_s = 30
        begun = await post(talk, IMPORTS, {"storeId": "default"}, 201)
        assert "no answer within 0.1 s" in (await state(talk, begun["id"], "FAILED"))["error"]


async def test_a_webhook_that_nobody_serves_fails_the_import() -> None:
    settings = SETTINGS | {"webhookUri": "http://127.0.0.1:9/import"}
    async with talking(BridgeConfig(settings=settings)) as talk:
        begun = await post(talk, IMPORTS, {"storeId": "default"}, 201)
        assert "not reachable" in (await state(talk, begun["id"], "FAILED"))["error"]


async def test_an_application_that_sends_before_it_answers_is_not_stopped_by_the_timeout() -> None:
    async with shop_and_bridge(webhook_timeout_s=0.3) as (application, talk):
        application.delay_s = 30
        begun = await post(talk, IMPORTS, {"storeId": "default"}, 201)
        await post(talk, PAGE, page(begun, "PRODUCT", 0, upsert("p", name="p")))
        going_on = await state(talk, begun["id"], "RECEIVING")
        assert "no answer within" in going_on["error"]
        await end_all(talk, begun, PRODUCT=(1, 1))
        assert "no answer within" in (await state(talk, begun["id"], "DONE"))["error"]


@pytest.mark.parametrize("uri", [None, "shop.example/import", "ftp://shop.example/", "http:///x"])
async def test_without_an_address_that_can_be_called_no_import_starts(uri: str | None) -> None:
    async with talking(BridgeConfig(settings=SETTINGS | {"webhookUri": uri})) as talk:
        assert "webhookUri" in await refused(talk, IMPORTS, {"storeId": "default"}, "webhookUri")
        assert (await talk.get(IMPORTS)) == {"results": []}


@pytest.mark.parametrize("uri", ["http://[::1", "http://h:99999/", "http://h:x/", "//h/", ""])
def test_an_address_that_is_none_cannot_be_called(uri: str) -> None:
    assert not can_be_called(uri)


async def test_without_settings_no_import_starts() -> None:
    async with talking(BridgeConfig()) as talk:
        await refused(talk, IMPORTS, {"storeId": "default"}, "webhookUri")


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "storeId"),
        ({"storeId": "nowhere"}, "storeId"),
        ({"storeId": "default", "appId": 0}, "appId"),
        ({"storeId": "default", "appId": "x"}, "appId"),
    ],
)
async def test_a_start_that_makes_no_sense_is_refused(talk: Talk, body: Any, where: str) -> None:
    await refused(talk, IMPORTS, body, where)


async def test_one_import_at_a_time_for_an_application_and_store() -> None:
    async with shop_and_bridge() as (_, talk):
        await talk.ask("PUT", f"{BASE}/stores", {"id": "other", "label": "Other"})
        one = await started(talk)
        conflict = await post(talk, IMPORTS, {"storeId": "default"}, 409)
        assert conflict["category"] == "CONFLICT"
        await started(talk, storeId="other")
        await started(talk, appId=7)
        await end_all(talk, one)
        await state(talk, one["id"], "DONE")
        again = await started(talk)
        listed = (await talk.get(IMPORTS))["results"]
        assert listed[0]["id"] == again["id"]
        assert len(listed) == 4
        assert len((await talk.get(f"{IMPORTS}?limit=2"))["results"]) == 2


async def test_an_import_can_be_cancelled_until_it_is_processed() -> None:
    async with shop_and_bridge() as (_, talk):
        one = await started(talk)
        await post(talk, PAGE, page(one, "PRODUCT", 0, upsert("p", name="p")))
        assert (await talk.ask("DELETE", f"{IMPORTS}/{one['id']}")).status == 204
        assert (await talk.get(f"{IMPORTS}/{one['id']}"))["state"] == "CANCELLED"
        await refused(talk, PAGE, page(one, "PRODUCT", 1), "importStartedAt")
        assert (await talk.ask("DELETE", f"{IMPORTS}/{one['id']}")).status == 409
        again = await started(talk)
        await end_all(talk, again)
        await state(talk, again["id"], "DONE")
        assert (await talk.ask("DELETE", f"{IMPORTS}/{again['id']}")).status == 409


@pytest.mark.parametrize(("tail", "status"), [("99", 404), ("x", 400), ("0", 400)])
async def test_an_import_that_is_not_there(talk: Talk, tail: str, status: int) -> None:
    for method in ("GET", "DELETE"):
        assert (await talk.ask(method, f"{IMPORTS}/{tail}")).status == status


async def test_pages_of_an_import_that_was_not_started_are_refused() -> None:
    async with shop_and_bridge() as (_, talk):
        one = await started(talk)
        await talk.ask("PUT", f"{BASE}/stores", {"id": "other", "label": "Other"})
        for change in ({"importStartedAt": 5}, {"storeId": "other"}, {"storeId": "nowhere"}):
            for path, body in (
                (PAGE, page(one, "PRODUCT", 0)),
                (END, end(one, "PRODUCT", 0, 0)),
            ):
                message = await refused(talk, path, body | change, "importStartedAt")
                assert "was started" in message


async def test_a_repeated_page_replaces_the_first_until_the_type_has_ended() -> None:
    async with shop_and_bridge() as (_, talk):
        one = await started(talk)
        for name in ("first", "second", "second"):
            await post(talk, PAGE, page(one, "PRODUCT", 0, upsert("p", name=name)))
        assert of(await talk.get(f"{IMPORTS}/{one['id']}"), "received")["PRODUCT"] == 1
        await post(talk, END, end(one, "PRODUCT", 1, 1))
        # The same page once more is a retry, anything else comes too late.
        await post(talk, PAGE, page(one, "PRODUCT", 0, upsert("p", name="second")))
        late = page(one, "PRODUCT", 0, upsert("p", name="third"))
        assert "have ended" in await refused(talk, PAGE, late, "objectType")
        late = page(one, "PRODUCT", 1, upsert("q", name="q"))
        assert "have ended" in await refused(talk, PAGE, late, "objectType")
        for object_type in ("CONTACT", "DEAL", "LINE_ITEM"):
            await post(talk, END, end(one, object_type, 0, 0))
        await state(talk, one["id"], "DONE")
        assert (await talk.thing("PRODUCT", "p"))["properties"]["name"] == "second"
        # Also when all is done.
        await post(talk, PAGE, page(one, "PRODUCT", 0, upsert("p", name="second")))
        assert (await talk.stats())["PRODUCT"]["accepted"] == 1


async def test_a_repeated_end_is_taken_and_another_one_refused() -> None:
    async with shop_and_bridge() as (_, talk):
        one = await started(talk)
        await end_all(talk, one)
        await state(talk, one["id"], "DONE")
        await end_all(talk, one)
        message = await refused(talk, END, end(one, "DEAL", 1, 5), "pageCount")
        assert "has ended with 0 pages and 0 items" in message


@pytest.mark.parametrize(
    ("pages", "items", "where", "words"),
    [
        (4, 3, "pageCount", "3 pages have arrived; missing: 2"),
        (3, 3, "pageCount", "missing: 2"),
        (2, 2, "pageCount", "3 pages have arrived, up to number 3"),
        (0, 0, "pageCount", "3 pages have arrived, up to number 3"),
        (40, 3, "pageCount", "missing: 2, 4, 5, 6, 7, 8, 9, 10, 11, 12"),
    ],
)
async def test_an_end_with_pages_missing_is_refused_and_can_be_sent_again(
    pages: int, items: int, where: str, words: str
) -> None:
    async with shop_and_bridge() as (_, talk):
        one = await started(talk)
        for number in (0, 1, 3):
            await post(talk, PAGE, page(one, "PRODUCT", number, upsert(str(number), name="p")))
        assert words in await refused(talk, END, end(one, "PRODUCT", pages, items), where)
        await post(talk, PAGE, page(one, "PRODUCT", 2, upsert("2", name="p")))
        message = await refused(talk, END, end(one, "PRODUCT", 4, 5), "itemCount")
        assert "4 items have arrived" in message
        await end_all(talk, one, PRODUCT=(4, 4))
        await state(talk, one["id"], "DONE")
        assert (await talk.stats())["PRODUCT"]["objects"] == 4


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"messages": [{"externalObjectId": "x" * 101}]}, "messages[0].externalObjectId"),
        ({"messages": [{"externalObjectId": "a"}, {}]}, "messages[1].externalObjectId"),
        ({"messages": [{"externalObjectId": "a", "action": "DELETE"}]}, "messages[0].action"),
        ({"messages": [{"externalObjectId": str(n)} for n in range(201)]}, "messages"),
        ({"messages": None}, "messages"),
        ({"pageNumber": -1}, "pageNumber"),
        ({"pageNumber": "one"}, "pageNumber"),
        ({"pageNumber": None}, "pageNumber"),
        ({"importStartedAt": "now"}, "importStartedAt"),
        ({"objectType": "COMPANY"}, "objectType"),
        ({"storeId": None}, "storeId"),
    ],
)
async def test_a_page_that_is_none_is_refused(talk: Talk, change: Any, where: str) -> None:
    one = {"importStartedAt": 1, "storeId": "default"}
    await refused(talk, PAGE, page(one, "PRODUCT", 0) | change, where)


@pytest.mark.parametrize(
    "missing", ["importStartedAt", "storeId", "objectType", "pageCount", "itemCount"]
)
async def test_an_end_without_a_field_is_refused(talk: Talk, missing: str) -> None:
    body = end({"importStartedAt": 1, "storeId": "default"}, "PRODUCT", 0, 0)
    del body[missing]
    await refused(talk, END, body, missing)


async def test_loose_pages_of_real_clients_are_taken() -> None:
    async with shop_and_bridge() as (_, talk):
        one = await started(talk)
        loose = [
            {"externalObjectId": 7, "properties": {"name": 10**30, "price": 2.5}},
            {"externalObjectId": "8", "properties": {"name": "p"}, "associations": []},
            {"externalObjectId": "9", "properties": {"name": "p"}, "action": "UPSERT"},
            {"externalObjectId": "10", "properties": {"name": "p"}, "changedAt": "5"},
        ]
        body = page(one, "PRODUCT", 0) | {"messages": loose, "PS_version": "1.7"}
        body |= {"pageNumber": "0", "importStartedAt": str(one["importStartedAt"])}
        await post(talk, f"{PAGE}/?", body)
        await end_all(talk, one, PRODUCT=(1, 4))
        assert of(await state(talk, one["id"], "DONE"), "openErrors")["PRODUCT"] == 0
        assert (await talk.thing("PRODUCT", "7"))["properties"]["name"] == str(10**30)
        assert (await talk.thing("PRODUCT", "10"))["changedAt"] == 5


async def test_many_pages_at_once_are_all_kept() -> None:
    async with shop_and_bridge() as (_, talk):
        one = await started(talk)
        pages = [
            page(one, "PRODUCT", n, *(upsert(f"{n}-{i}", name="p") for i in range(50)))
            for n in range(40)
        ]
        await asyncio.gather(*(post(talk, PAGE, body) for body in reversed(pages)))
        await end_all(talk, one, PRODUCT=(40, 2000))
        assert of(await state(talk, one["id"], "DONE"), "processed")["PRODUCT"] == 2000
        assert (await talk.stats())["PRODUCT"]["objects"] == 2000


async def test_the_applications_own_settings_and_id_are_used() -> None:
    async with shop() as application, talking() as talk:
        of_app = SETTINGS | {"webhookUri": f"{application.url}/of-app-7"}
        await talk.ask("PUT", f"{BASE}/settings?appId=7", of_app)
        one = await started(talk, appId=7)
        assert application.asked[0][0] == "/of-app-7"
        assert one["appId"] == 7
        await post(talk, PAGE, page(one, "PRODUCT", 0, upsert("p", name="p")))
        await end_all(talk, one, PRODUCT=(1, 1))
        await state(talk, one["id"], "DONE")
        properties = (await talk.thing("PRODUCT", "p"))["properties"]
        assert properties["ip__ecomm_bridge__source_app_id"] == "7"


async def test_an_open_bridge_refuses_imports_with_an_api_key_too() -> None:
    async with shop_and_bridge() as (_, talk):
        one = await started(talk)
        answer = await post(talk, f"{PAGE}?hapikey=k", page(one, "DEAL", 0), 403)
        assert "only available for application development" in answer["message"]


def restart(path: Path, application: Shop, **config: Any) -> BridgeConfig:
    settings = SETTINGS | {"webhookUri": f"{application.url}/import"}
    return BridgeConfig(db=path, settings=settings, **config)


async def test_what_was_accepted_is_there_after_a_restart(tmp_path: Path) -> None:
    async with shop() as application:
        path = tmp_path / "bridge.db"
        async with talking(restart(path, application)) as talk:
            one = await started(talk)
            await post(talk, PAGE, page(one, "PRODUCT", 0, upsert("p", name="p")))
            await post(talk, END, end(one, "CONTACT", 0, 0))
            before = await talk.get(f"{IMPORTS}/{one['id']}")
        async with talking(restart(path, application)) as talk:
            assert await talk.get(f"{IMPORTS}/{one['id']}") == before
            await end_all(talk, one, PRODUCT=(1, 1))
            await state(talk, one["id"], "DONE")
            assert (await talk.stats())["PRODUCT"]["objects"] == 1
        assert len(application.asked) == 1


def a_full_disk(*_: Any) -> None:
    raise sqlite3.OperationalError("database or disk is full")


def not_yet(*_: Any) -> bool:
    return False


@pytest.mark.parametrize(
    ("method", "stand_in"), [("queued", a_full_disk), ("is_processed", not_yet)]
)
async def test_a_restart_in_the_middle_of_processing_goes_on_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, stand_in: Callable[..., Any]
) -> None:
    """`queued`: pages are in the queue and the import does not know it, as a kill can leave it."""
    async with shop() as application:
        path = tmp_path / "bridge.db"
        with monkeypatch.context() as patch:
            patch.setattr(Imports, method, stand_in)
            async with talking(restart(path, application)) as talk:
                one = await started(talk)
                products = (upsert(str(n), name="p") for n in range(150))
                line = upsert("l", count=1) | {"associations": {"DEAL": ["d"]}}
                await post(talk, PAGE, page(one, "PRODUCT", 0, *products))
                await post(talk, PAGE, page(one, "LINE_ITEM", 0, line))
                await post(talk, PAGE, page(one, "DEAL", 0, deal("d")))
                await end_all(talk, one, PRODUCT=(1, 150), LINE_ITEM=(1, 1), DEAL=(1, 1))
                await talk.until(lambda stats: stats["PRODUCT"]["accepted"] >= 150)
                assert (await talk.get(f"{IMPORTS}/{one['id']}"))["state"] == "PROCESSING"
        async with talking(restart(path, application)) as talk:
            done = await state(talk, one["id"], "DONE")
            assert of(done, "processed") == of(done, "received")
            assert of(done, "received") == {"CONTACT": 0, "PRODUCT": 150, "DEAL": 1, "LINE_ITEM": 1}
            assert of(done, "openErrors") == dict.fromkeys(TYPES, 0)
            assert (await talk.stats())["PRODUCT"]["objects"] == 150


async def test_a_kill_loses_no_accepted_page(tmp_path: Path) -> None:
    async with shop() as application:
        settings = tmp_path / "settings.json"
        settings.write_text(json.dumps(SETTINGS | {"webhookUri": f"{application.url}/import"}))
        arguments = ("--db", str(tmp_path / "b.db"), "--settings", str(settings))
        async with bridge(*arguments) as (process, talk):
            one = await started(talk)
            bodies = [
                page(one, "PRODUCT", n, *(upsert(f"{n}-{i}", name="p") for i in range(200)))
                for n in range(50)
            ]
            await asyncio.gather(*(post(talk, PAGE, body) for body in bodies[:25]))
            process.kill()
            await process.wait()
        async with bridge(*arguments) as (process, talk):
            assert of(await talk.get(f"{IMPORTS}/{one['id']}"), "received")["PRODUCT"] == 5000
            await asyncio.gather(*(post(talk, PAGE, body) for body in bodies[25:]))
            await end_all(talk, one, PRODUCT=(50, 10_000))
            process.kill()  # While it is being processed.
            await process.wait()
        async with bridge(*arguments) as (process, talk):
            done = await state(talk, one["id"], "DONE")
            assert of(done, "processed")["PRODUCT"] == 10_000
            assert (await talk.stats())["PRODUCT"]["objects"] == 10_000


async def test_a_call_that_a_restart_cut_off_is_made_again(tmp_path: Path) -> None:
    async with shop() as application:
        path = tmp_path / "bridge.db"
        application.delay_s = 30
        async with talking(restart(path, application)) as talk:
            begun = await post(talk, IMPORTS, {"storeId": "default"}, 201)
            async with asyncio.timeout(DEADLINE_S):
                await application.was_asked.wait()
        application.delay_s = 0
        async with talking(restart(path, application)) as talk:
            await state(talk, begun["id"], "RECEIVING")
        assert application.asked[0][1] == application.asked[1][1]
