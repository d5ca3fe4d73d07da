"""The client: each endpoint of the reference as a method, and its errors as exceptions."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs

import pytest

from pusher import BridgeApiError, BridgeClient, EndpointError, Lane, PusherError, UsageError
from pusher.model import Answer, Failure

ROOT = "/extensions/ecomm/v2"
LANE = Lane("my store", "DEAL")
SETTINGS: dict[str, Any] = {"enabled": True, "webhookUri": None, "mappings": {}}
STORE = {"id": "a/b", "label": "A", "adminUri": "a.example"}


@dataclass
class Script:
    """A transport that gives these answers, one after the other."""

    answers: list[Answer | Failure]
    asked: list[tuple[str, str, dict[str, list[str]], Any]] = field(default_factory=list)

    async def request(
        self, method: str, path: str, *, query: str = "", body: bytes | None = None
    ) -> Answer | Failure:
        parsed = None if body is None else json.loads(body)
        self.asked.append((method, path, parse_qs(query), parsed))
        return self.answers.pop(0)


def client_of(*answers: Answer | Failure) -> tuple[BridgeClient, Script]:
    script = Script(list(answers))
    return BridgeClient("http://h", transport=script), script


def ok(value: Any) -> Answer:
    return Answer(200, json.dumps(value).encode())


Call = Callable[[BridgeClient], Awaitable[Any]]
CALLS: list[tuple[str, Call, Answer, tuple[str, str, dict[str, list[str]], Any], Any]] = [
    (
        "get_settings",
        lambda client: client.get_settings(),
        ok(SETTINGS),
        ("GET", "/settings", {}, None),
        SETTINGS,
    ),
    (
        "get_settings of an app, with the provided ones",
        lambda client: client.get_settings(app_id=7, show_provided_mappings=True),
        ok(SETTINGS),
        ("GET", "/settings", {"appId": ["7"], "showProvidedMappings": ["true"]}, None),
        SETTINGS,
    ),
    (
        "put_settings",
        lambda client: client.put_settings(SETTINGS, app_id=7),
        ok(SETTINGS),
        ("PUT", "/settings", {"appId": ["7"]}, SETTINGS),
        SETTINGS,
    ),
    (
        "delete_settings",
        lambda client: client.delete_settings(app_id=0),
        Answer(204),
        ("DELETE", "/settings", {"appId": ["0"]}, None),
        None,
    ),
    (
        "list_stores",
        lambda client: client.list_stores(),
        ok({"results": [STORE]}),
        ("GET", "/stores", {}, None),
        [STORE],
    ),
    (
        "get_store",
        lambda client: client.get_store("a/b ä"),
        ok(STORE),
        ("GET", "/stores/a%2Fb%20%C3%A4", {}, None),
        STORE,
    ),
    (
        "put_store",
        lambda client: client.put_store(STORE),
        ok(STORE),
        ("PUT", "/stores", {}, STORE),
        STORE,
    ),
    (
        "delete_store",
        lambda client: client.delete_store("a/b"),
        Answer(204),
        ("DELETE", "/stores/a%2Fb", {}, None),
        None,
    ),
    (
        "put_messages",
        lambda client: client.put_messages(LANE, ({"externalObjectId": "1"},)),
        Answer(204),
        (
            "PUT",
            "/sync/messages",
            {},
            {
                "storeId": "my store",
                "objectType": "DEAL",
                "messages": [{"externalObjectId": "1"}],
            },
        ),
        None,
    ),
]


@pytest.mark.parametrize(
    ("call", "answer", "asked", "expected"),
    [case[1:] for case in CALLS],
    ids=[case[0] for case in CALLS],
)
async def test_each_method_asks_as_the_reference_says(
    call: Call, answer: Answer, asked: tuple[str, str, dict[str, list[str]], Any], expected: Any
) -> None:
    client, script = client_of(answer)
    async with client:
        assert await call(client) == expected
    method, path, query, body = asked
    assert script.asked == [(method, ROOT + path, query, body)]


async def test_errors_are_asked_for_in_both_families_and_come_as_records() -> None:
    error = {"type": "NEW_TYPE", "externalObjectId": "1", "erroredAt": "5", "status": "OPEN"}
    client, script = client_of(ok({"results": [error]}))
    (found,) = await client.get_errors(
        object_type="DEAL", error_type="NEW_TYPE", show_resolved=True, limit=10, offset=30
    )
    assert (found.type, found.external_object_id, found.errored_at) == ("NEW_TYPE", "1", "5")
    assert script.asked == [
        (
            "GET",
            f"{ROOT}/sync/errors",
            {
                "objectType": ["DEAL"],
                "errorType": ["NEW_TYPE"],
                "showResolvedErrors": ["true"],
                "includeResolved": ["true"],
                "limit": ["10"],
                "offset": ["30"],
                "page": ["31"],
            },
            None,
        )
    ]


# The status and its two paths

REFERENCE_PATH = f"{ROOT}/sync/status/DEAL/my%20store/1"
CLIENTS_PATH = f"{ROOT}/sync/status/my%20store/DEAL/1"
STATUS = ok({"lastProcessedAt": "1542094119555", "hubspotId": 5402, "errors": []})


def paths(script: Script) -> list[str]:
    return [path for _, path, _, _ in script.asked]


async def test_the_references_order_is_asked_first() -> None:
    client, script = client_of(STATUS)
    status = await client.get_status(LANE, "1")
    assert status is not None
    assert status.hubspot_id == 5402
    assert paths(script) == [REFERENCE_PATH]


@pytest.mark.parametrize("refusal", [400, 404])
async def test_a_refusal_is_asked_again_in_the_other_order_which_is_then_kept(
    refusal: int,
) -> None:
    client, script = client_of(Answer(refusal), STATUS, STATUS, Answer(404))
    assert await client.get_status(LANE, "1") is not None
    assert await client.get_status(LANE, "1") is not None
    assert await client.get_status(LANE, "1") is None
    assert paths(script) == [REFERENCE_PATH, CLIENTS_PATH, CLIENTS_PATH, CLIENTS_PATH]


async def test_until_one_order_has_answered_every_refusal_is_asked_again() -> None:
    client, script = client_of(*[Answer(404)] * 4)
    assert await client.get_status(LANE, "1") is None
    assert await client.get_status(LANE, "1") is None
    assert paths(script) == [REFERENCE_PATH, CLIENTS_PATH] * 2


async def test_once_the_references_order_has_answered_it_alone_is_asked() -> None:
    client, script = client_of(STATUS, Answer(404))
    await client.get_status(LANE, "1")
    assert await client.get_status(LANE, "1") is None
    assert paths(script) == [REFERENCE_PATH] * 2


@pytest.mark.parametrize("status", [401, 403, 429, 500])
async def test_another_answer_to_a_status_is_an_error(status: int) -> None:
    client, _ = client_of(Answer(status))
    with pytest.raises(BridgeApiError) as error:
        await client.get_status(LANE, "1")
    assert error.value.status == status


# Errors


@pytest.mark.parametrize("status", [302, 400, 401, 404, 409, 500])
@pytest.mark.parametrize("call", [case[1] for case in CALLS], ids=[case[0] for case in CALLS])
async def test_an_error_carries_the_status_the_message_and_the_correlation_id(
    call: Call, status: int
) -> None:
    body = b'{"status":"error","message":"No such thing","correlationId":"c-1"}'
    client, _ = client_of(Answer(status, body))
    with pytest.raises(BridgeApiError, match="No such thing") as error:
        await call(client)
    assert (error.value.status, error.value.correlation_id) == (status, "c-1")
    assert isinstance(error.value, PusherError)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"correlationId":5}', b"\xff"])
async def test_an_error_without_hubspots_body_is_an_error_too(body: bytes) -> None:
    client, _ = client_of(Answer(500, body))
    with pytest.raises(BridgeApiError) as error:
        await client.get_settings()
    assert error.value.correlation_id is None


@pytest.mark.parametrize(
    "body", [b"", b"<html>log in</html>", b"[1]", b'"x"', b"null", b"\xff", b"[" * 100_000]
)
@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.get_settings(),
        lambda client: client.put_store(STORE),
        lambda client: client.list_stores(),
        lambda client: client.get_errors(),
        lambda client: client.get_status(LANE, "1"),
    ],
    ids=["get_settings", "put_store", "list_stores", "get_errors", "get_status"],
)
async def test_an_answer_that_is_not_the_bridges_is_an_error(call: Call, body: bytes) -> None:
    client, _ = client_of(Answer(200, body))
    with pytest.raises(BridgeApiError, match="not the bridge's"):
        await call(client)


@pytest.mark.parametrize("body", [b"{}", b'{"stores":[]}', b'{"results":null}', b'{"results":{}}'])
async def test_a_list_of_stores_without_a_list_is_an_error(body: bytes) -> None:
    client, _ = client_of(Answer(200, body))
    with pytest.raises(BridgeApiError, match="not the bridge's"):
        await client.list_stores()


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"OK"])
async def test_messages_are_not_delivered_by_a_login_page(body: bytes) -> None:
    """A 2xx with a body that is not JSON delivers nothing (design: answers of the endpoint)."""
    client, _ = client_of(Answer(200, body))
    with pytest.raises(EndpointError):
        await client.put_messages(LANE, [{"externalObjectId": "1"}])


@pytest.mark.parametrize("kind", ["connect", "timeout", "reset", "protocol", "tls"])
async def test_no_answer_is_an_endpoint_error(
    kind: Literal["connect", "timeout", "reset", "protocol", "tls"],
) -> None:
    client, _ = client_of(Failure(kind, "nobody there", ambiguous=False))
    with pytest.raises(EndpointError, match=f"{kind}: nobody there") as error:
        await client.get_settings()
    assert not isinstance(error.value, BridgeApiError)


def test_an_address_that_cannot_be_used_is_the_callers_error() -> None:
    with pytest.raises(UsageError):
        BridgeClient("no address")


async def test_a_client_of_its_own_door_closes_it() -> None:
    client = BridgeClient("http://127.0.0.1:9", token="t")
    async with client:
        with pytest.raises(EndpointError):
            await client.get_settings()
    assert client._own is not None
    assert client._own._session is not None
    assert client._own._session.closed


# Imports


async def test_a_page_of_an_import_is_posted() -> None:
    client, script = client_of(Answer(204))
    await client.post_import_page(
        LANE, [{"externalObjectId": "1"}], import_started_at=77, page_number=3
    )
    body = {
        "importStartedAt": 77,
        "pageNumber": 3,
        "storeId": "my store",
        "objectType": "DEAL",
        "messages": [{"externalObjectId": "1"}],
    }
    assert script.asked == [("POST", f"{ROOT}/imports/page", {}, body)]


async def test_the_end_of_an_import_is_posted_with_its_counts() -> None:
    client, script = client_of(Answer(204))
    await client.end_import(LANE, import_started_at=77, page_count=4, item_count=700)
    body = {
        "importStartedAt": 77,
        "pageCount": 4,
        "itemCount": 700,
        "storeId": "my store",
        "objectType": "DEAL",
    }
    assert script.asked == [("POST", f"{ROOT}/imports/end", {}, body)]


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.post_import_page(LANE, [], import_started_at=1, page_number=0),
        lambda client: client.end_import(LANE, import_started_at=1, page_count=0, item_count=0),
    ],
    ids=["page", "end"],
)
async def test_an_import_that_is_refused_is_an_error(call: Call) -> None:
    client, _ = client_of(Answer(400, b'{"message":"pages are missing","correlationId":"c"}'))
    with pytest.raises(BridgeApiError, match="pages are missing"):
        await call(client)
    client, _ = client_of(Answer(200, b"<html>"))
    with pytest.raises(BridgeApiError, match="not the bridge's"):
        await call(client)


# Errors of all kinds, in pages


def sync_error(number: int) -> dict[str, Any]:
    return {"type": "X", "storeId": "s", "externalObjectId": str(number), "erroredAt": number}


def page_of(numbers: range, **more: Any) -> Answer:
    return ok({"results": [sync_error(number) for number in numbers], **more})


def offsets(script: Script) -> list[str]:
    return [query["offset"][0] for _, _, query, _ in script.asked]


async def found(client: BridgeClient, **how: Any) -> list[int]:
    return [int(error.external_object_id or 0) async for error in client.all_errors(**how)]


@pytest.mark.parametrize(
    ("how", "path"),
    [
        ({}, "/sync/errors"),
        ({"of_portal": True}, "/sync/errors/portal"),
        ({"app_id": 7}, "/sync/errors/app/7"),
    ],
)
async def test_all_errors_are_asked_for_on_the_path_of_their_scope(
    how: dict[str, Any], path: str
) -> None:
    client, script = client_of(page_of(range(3)))
    assert await found(client, object_type="DEAL", show_resolved=True, **how) == [0, 1, 2]
    ((_, asked, query, _),) = script.asked
    assert asked == ROOT + path
    assert (query["objectType"], query["includeResolved"], query["showResolvedErrors"]) == (
        ["DEAL"],
        ["true"],
        ["true"],
    )


async def test_one_page_can_be_had_from_each_path() -> None:
    client, script = client_of(*[page_of(range(1))] * 2)
    await client.get_portal_errors(limit=5, offset=10)
    await client.get_app_errors(7, error_type="X")
    assert paths(script) == [f"{ROOT}/sync/errors/portal", f"{ROOT}/sync/errors/app/7"]
    assert (script.asked[0][2]["limit"], script.asked[0][2]["page"]) == (["5"], ["11"])
    assert script.asked[1][2]["errorType"] == ["X"]


async def test_pages_are_read_until_one_is_short() -> None:
    client, script = client_of(
        page_of(range(200)), page_of(range(200, 400)), page_of(range(400, 450))
    )
    assert await found(client) == list(range(450))
    assert offsets(script) == ["0", "200", "400"]
    assert [query["page"] for _, _, query, _ in script.asked] == [["1"], ["201"], ["401"]]


async def test_an_empty_page_after_a_full_one_is_the_end() -> None:
    client, _ = client_of(page_of(range(200)), page_of(range(0)))
    assert len(await found(client)) == 200


async def test_a_server_that_repeats_its_page_for_ever_is_left() -> None:
    client, script = client_of(page_of(range(200)), page_of(range(200)))
    assert await found(client) == list(range(200))
    assert len(script.asked) == 2


async def test_errors_that_come_meanwhile_do_not_show_others_twice() -> None:
    client, _ = client_of(page_of(range(200)), page_of(range(195, 395)), page_of(range(395, 400)))
    assert await found(client) == list(range(400))


async def test_a_short_page_that_names_a_next_one_is_not_the_last() -> None:
    client, script = client_of(
        page_of(range(100), paging={"next": {"page": "101"}}), page_of(range(100, 150))
    )
    assert await found(client) == list(range(150))
    assert offsets(script) == ["0", "100"]


async def test_a_limit_is_kept_and_no_page_too_many_is_read() -> None:
    client, script = client_of(page_of(range(200)), page_of(range(200, 400)))
    assert await found(client, limit=250) == list(range(250))
    assert len(script.asked) == 2
    client, script = client_of(page_of(range(7)))
    assert await found(client, limit=7) == list(range(7))
    assert script.asked[0][2]["limit"] == ["7"]


async def test_an_error_on_a_later_page_is_raised_after_what_came_before() -> None:
    client, _ = client_of(page_of(range(200)), Answer(500, b'{"message":"oh"}'))
    errors = client.all_errors()
    assert [(await anext(errors)).external_object_id for _ in range(200)][-1] == "199"
    with pytest.raises(BridgeApiError, match="oh"):
        await anext(errors)


@pytest.mark.parametrize("method", ["get_store", "delete_store"])
async def test_a_store_without_an_id_is_not_asked_for(method: str) -> None:
    """Its address would be that of all stores."""
    client, script = client_of()
    with pytest.raises(UsageError, match="empty"):
        await getattr(client, method)("")
    assert not script.asked
