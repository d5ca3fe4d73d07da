"""PUT /sync/messages at the door: what is taken and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from pusher.bridge import BridgeConfig

from .talk import BASE, SETTINGS, Talk, contact, deal, talking, upsert

MESSAGES = f"{BASE}/sync/messages"


def batch(*messages: Any, **changes: Any) -> dict[str, Any]:
    return {"storeId": "default", "objectType": "PRODUCT", "messages": list(messages)} | changes


async def test_a_batch_of_200_is_taken_and_processed(talk: Talk) -> None:
    await talk.sync("PRODUCT", *(upsert(str(n), name=f"p{n}") for n in range(200)))
    assert (await talk.stats())["PRODUCT"] == {
        "accepted": 200,
        "queued": 0,
        "processed": 200,
        "objects": 200,
        "openErrors": 0,
        "lagMs": 0,
    }


async def test_a_batch_of_201_is_refused_whole(talk: Talk) -> None:
    body = batch(*(upsert(str(n), name="p") for n in range(201)))
    answer = await talk.ask("PUT", MESSAGES, body)
    assert answer.status == 400
    assert answer.body["errors"][0]["in"] == "messages"
    assert (await talk.stats())["PRODUCT"]["accepted"] == 0


async def test_the_error_body_has_hubspots_fields_and_names_the_guilty_message(talk: Talk) -> None:
    answer = await talk.ask("PUT", MESSAGES, batch(upsert("1", name="p"), upsert("é", name="p")))
    assert answer.status == 400
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.body.keys() == {"status", "message", "correlationId", "category", "errors"}
    assert answer.body["status"] == "error"
    assert answer.body["category"] == "VALIDATION_ERROR"
    assert [error["in"] for error in answer.body["errors"]] == ["messages[1].externalObjectId"]


@pytest.mark.parametrize(
    "loose",
    [
        {"externalObjectId": 7},
        {"changedAt": "1542092841947"},
        {"changedAt": 0},
        {"changedAt": None},
        {"associations": []},
        {"associations": {}},
        {"associations": None},
        {"associations": {"CONTACT": [], "DEAL": []}},
        {"properties": {"name": "p", "price": 2.5}},
        {"properties": {"name": "p", "price": 3}},
        {"properties": {"name": True}},
        {"properties": {"name": "p", "price": None}},
        {"properties": {"name": "p"}, "PS_version": "1.7"},
    ],
)
async def test_loose_messages_of_real_clients_are_taken_and_processed(
    talk: Talk, loose: dict[str, Any]
) -> None:
    await talk.sync("PRODUCT", upsert("7", name="p") | loose)
    status = await talk.status("PRODUCT", "7")
    assert status["errors"] == []
    assert status["hubspotId"] is not None


@pytest.mark.parametrize("missing", ["changedAt", "associations"])
async def test_optional_fields_may_be_missing(talk: Talk, missing: str) -> None:
    message = upsert("7", name="p") | {"associations": {}}
    del message[missing]
    await talk.sync("PRODUCT", message)
    assert (await talk.status("PRODUCT", "7"))["errors"] == []


@pytest.mark.parametrize("properties", [[], {}, None])
async def test_an_empty_map_of_properties_is_taken_in_each_form(
    talk: Talk, properties: Any
) -> None:
    await talk.sync("LINE_ITEM", upsert("7") | {"properties": properties})
    assert (await talk.status("LINE_ITEM", "7"))["errors"] == []


async def test_unknown_top_level_keys_are_passed_over(talk: Talk) -> None:
    answer = await talk.ask("PUT", MESSAGES, batch(upsert("7", name="p"), PS_version="1.7"))
    assert answer.status == 204


async def test_an_empty_batch_is_taken(talk: Talk) -> None:
    assert (await talk.ask("PUT", MESSAGES, batch())).status == 204


@pytest.mark.parametrize("suffix", ["?", "/", "/?"])
async def test_a_bare_question_mark_and_a_trailing_slash_are_taken(talk: Talk, suffix: str) -> None:
    answer = await talk.ask("PUT", MESSAGES + suffix, batch(upsert("7", name="p")))
    assert answer.status == 204


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"externalObjectId": ""}, "messages[0].externalObjectId"),
        ({"externalObjectId": "x" * 101}, "messages[0].externalObjectId"),
        ({"externalObjectId": None}, "messages[0].externalObjectId"),
        ({"externalObjectId": 1.5}, "messages[0].externalObjectId"),
        ({"action": "upsert"}, "messages[0].action"),
        ({"action": None}, "messages[0].action"),
        ({"changedAt": -1}, "messages[0].changedAt"),
        ({"changedAt": 1.5}, "messages[0].changedAt"),
        ({"changedAt": "soon"}, "messages[0].changedAt"),
        ({"changedAt": "9" * 19}, "messages[0].changedAt"),
        ({"changedAt": "9" * 5000}, "messages[0].changedAt"),
        ({"changedAt": 2**63}, "messages[0].changedAt"),
        ({"changedAt": True}, "messages[0].changedAt"),
        ({"properties": ["a"]}, "messages[0].properties"),
        ({"properties": {"a": {}}}, "messages[0].properties[...]"),
        ({"associations": ["a"]}, "messages[0].associations"),
        ({"associations": {"COMPANY": ["1"]}}, "messages[0].associations"),
        ({"associations": {"DEAL": "1"}}, "messages[0].associations[...]"),
    ],
)
async def test_a_message_that_can_never_be_processed_is_refused(
    talk: Talk, change: dict[str, Any], where: str
) -> None:
    answer = await talk.ask("PUT", MESSAGES, batch(upsert("7", name="p") | change))
    assert answer.status == 400
    assert answer.body["errors"][0]["in"] == where


@pytest.mark.parametrize("field", ["externalObjectId", "action"])
async def test_a_message_without_a_required_field_is_refused(talk: Talk, field: str) -> None:
    message = upsert("7", name="p")
    del message[field]
    answer = await talk.ask("PUT", MESSAGES, batch(message))
    assert answer.status == 400
    assert answer.body["errors"][0]["in"] == f"messages[0].{field}"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"objectType": "COMPANY"}, "objectType"),
        ({"objectType": None}, "objectType"),
        ({"storeId": None}, "storeId"),
        ({"messages": {}}, "messages"),
        ({"messages": [5]}, "messages[0]"),
    ],
)
async def test_a_batch_that_is_not_one_is_refused(
    talk: Talk, change: dict[str, Any], where: str
) -> None:
    answer = await talk.ask("PUT", MESSAGES, batch(**change))
    assert answer.status == 400
    assert answer.body["errors"][0]["in"] == where


@pytest.mark.parametrize("field", ["storeId", "objectType", "messages"])
async def test_a_batch_without_a_required_field_is_refused(talk: Talk, field: str) -> None:
    body = batch()
    del body[field]
    answer = await talk.ask("PUT", MESSAGES, body)
    assert answer.status == 400
    assert answer.body["errors"][0]["in"] == field


async def test_an_unknown_store_is_refused_by_name(talk: Talk) -> None:
    answer = await talk.ask("PUT", MESSAGES, batch(upsert("7", name="p"), storeId="nowhere"))
    assert answer.status == 400
    assert answer.body["category"] == "VALIDATION_ERROR"
    assert "nowhere" in answer.body["message"]
    assert answer.body["errors"][0]["in"] == "storeId"


HEAD = b'{"storeId":"default","objectType":"PRODUCT","messages":['


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xef\xbb\xbf{}",
        b"\x00",
        HEAD + b'{"externalObjectId":"\xff","action":"UPSERT"}]}',
        HEAD + b'{"externalObjectId":"\\ud800","action":"UPSERT"}]}',
        HEAD + b'{"externalObjectId":"a","action":"UPSERT","changedAt":NaN}]}',
        HEAD + b'{"externalObjectId":"a","action":"UPSERT","properties":{"n":Infinity}}]}',
        HEAD + b'{"externalObjectId":"a","action":"UPSERT","properties":{"n":1e999}}]}',
        HEAD + b'{"externalObjectId":' + b"9" * 5000 + b',"action":"UPSERT"}]}',
        HEAD + b'{"externalObjectId":"a","action":"UPSERT","x":' + b"[" * 100_000 + b"}]}",
        b"[" * 100_000,
    ],
    ids=range(15),
)
async def test_a_malformed_body_is_a_400_with_the_json_body(talk: Talk, data: bytes) -> None:
    answer = await talk.ask("PUT", MESSAGES, data=data)
    assert answer.status == 400
    assert answer.body["category"] == "VALIDATION_ERROR"


@pytest.mark.parametrize("path", [f"{BASE}/settings", f"{BASE}/stores", "/_bridge/properties"])
@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
async def test_other_endpoints_refuse_malformed_bodies_too(
    talk: Talk, path: str, data: bytes
) -> None:
    answer = await talk.ask("PUT", path, data=data)
    assert answer.status == 400
    assert answer.body["category"] == "VALIDATION_ERROR"


async def test_a_body_over_the_limit_is_a_413_with_the_json_body() -> None:
    config = BridgeConfig(settings=SETTINGS, max_body_bytes=1000)
    async with talking(config) as talk:
        answer = await talk.ask("PUT", MESSAGES, data=b" " * 1001)
        assert answer.status == 413
        assert answer.body["status"] == "error"
        assert (await talk.ask("PUT", MESSAGES, batch(upsert("7", name="p")))).status == 204


async def test_a_body_that_cannot_be_unpacked_is_a_400_with_the_json_body(talk: Talk) -> None:
    headers = {"Content-Encoding": "gzip"}
    answer = await talk.ask("PUT", MESSAGES, data=b"no gzip", headers=headers)
    assert answer.status == 400
    assert answer.body["category"] == "VALIDATION_ERROR"


async def test_unknown_paths_and_methods_get_the_json_body_too(talk: Talk) -> None:
    unknown = await talk.ask("GET", f"{BASE}/nothing")
    assert (unknown.status, unknown.body["status"]) == (404, "error")
    wrong = await talk.ask("POST", MESSAGES)
    assert (wrong.status, wrong.body["status"]) == (405, "error")
    assert wrong.headers["Allow"] == "PUT"


async def test_answers_carry_a_date(talk: Talk) -> None:
    answer = await talk.ask("PUT", MESSAGES, batch(upsert("7", name="p")))
    assert answer.headers["Date"].endswith("GMT")


async def test_nul_bytes_and_odd_characters_in_values_survive(talk: Talk) -> None:
    odd = "a\x00b \u2028 <script> \U0001f600"
    await talk.sync("CONTACT", contact("a\x00b", first=odd))
    thing = await talk.thing("CONTACT", "a%00b")
    assert thing["externalObjectId"] == "a\x00b"
    assert thing["properties"]["firstname"] == odd


async def test_a_number_is_kept_as_text(talk: Talk) -> None:
    await talk.sync("DEAL", deal("1", text=10**30, amount=2.5), deal("2", text=True, amount=2.0))
    assert (await talk.thing("DEAL", "1"))["properties"]["description"] == str(10**30)
    assert (await talk.thing("DEAL", "1"))["properties"]["amount"] == "2.5"
    assert (await talk.thing("DEAL", "2"))["properties"]["description"] == "true"
    assert (await talk.thing("DEAL", "2"))["properties"]["amount"] == "2"
