"""Settings and stores: PUT replaces, GET is symmetric, DELETE forgets."""

from __future__ import annotations

from typing import Any

import pytest

from pusher.bridge import BridgeConfig

from .talk import BASE, SETTINGS, Talk, talking, upsert

PATH = f"{BASE}/settings"
STORES = f"{BASE}/stores"


def mapping(name: str, data_type: str | None = None) -> dict[str, str]:
    chosen = {"dataType": data_type} if data_type else {}
    return {"externalPropertyName": name, "hubspotPropertyName": name, **chosen}


def settings(object_type: str, *mappings: dict[str, str]) -> dict[str, Any]:
    return {
        "enabled": True,
        "webhookUri": None,
        "mappings": {object_type: {"properties": list(mappings)}},
    }


async def test_put_echoes_replaces_and_get_is_symmetric(talk: Talk) -> None:
    first = settings("PRODUCT", mapping("name", "STRING"), mapping("price"))
    first["webhookUri"] = "https://shop.example/import?x=1"
    answer = await talk.ask("PUT", PATH, first)
    assert (answer.status, answer.body) == (200, first)
    second = settings("DEAL", mapping("hubspot_owner_id\t"))
    await talk.ask("PUT", PATH, second)
    assert await talk.get(PATH) == second
    assert (await talk.ask("PUT", PATH, await talk.get(PATH))).body == second


async def test_settings_of_an_application_and_of_the_account_are_kept_apart(talk: Talk) -> None:
    of_app = settings("PRODUCT", mapping("name"))
    await talk.ask("PUT", f"{PATH}?appId=7", of_app)
    assert await talk.get(f"{PATH}?appId=7") == of_app
    assert await talk.get(PATH) == SETTINGS
    assert (await talk.ask("GET", f"{PATH}?appId=8")).status == 404


async def test_an_applications_messages_follow_its_settings_and_others_the_accounts(
    talk: Talk,
) -> None:
    await talk.ask("PUT", f"{PATH}?appId=1", settings("PRODUCT", mapping("name"), mapping("title")))
    body = {"storeId": "default", "objectType": "PRODUCT"}
    messages = {"messages": [upsert("1", name="p", price="5")]}
    bearer = {"Authorization": "Bearer any"}
    await talk.ask("PUT", f"{BASE}/sync/messages", body | messages, headers=bearer)
    await talk.sync("PRODUCT", upsert("2", name="p", price="5"))
    of_app = (await talk.thing("PRODUCT", "1"))["properties"]
    assert "price" not in of_app
    assert of_app["ip__ecomm_bridge__source_app_id"] == "1"
    of_account = (await talk.thing("PRODUCT", "2"))["properties"]
    assert of_account["price"] == "5"
    assert "ip__ecomm_bridge__source_app_id" not in of_account


async def test_where_one_application_alone_has_settings_they_serve_all() -> None:
    async with talking(BridgeConfig()) as talk:
        await talk.ask("PUT", f"{PATH}?appId=7", settings("PRODUCT", mapping("name")))
        await talk.sync("PRODUCT", upsert("1", name="p"))
        assert (await talk.status("PRODUCT", "1"))["errors"] == []


async def test_show_provided_mappings_adds_the_three_to_every_type_on_put_and_get(
    talk: Talk,
) -> None:
    query = f"{PATH}?showProvidedMappings=true"
    put = await talk.ask("PUT", query, settings("PRODUCT", mapping("name")))
    assert put.body == await talk.get(query)
    assert put.body["mappings"].keys() == {"CONTACT", "PRODUCT", "DEAL", "LINE_ITEM"}
    for object_type, of_type in put.body["mappings"].items():
        names = [m["hubspotPropertyName"] for m in of_type["properties"]]
        assert names == [
            *(["name"] if object_type == "PRODUCT" else []),
            "ip__ecomm_bridge__ecomm_synced",
            "ip__ecomm_bridge__source_app_id",
            "ip__ecomm_bridge__source_store_id",
        ]
    plain = settings("PRODUCT", mapping("name"))
    assert await talk.get(f"{PATH}?showProvidedMappings=false") == plain
    # "These required mappings are not editable": put back, they do not become one's own.
    await talk.ask("PUT", PATH, put.body)
    assert (await talk.get(PATH))["mappings"]["PRODUCT"] == plain["mappings"]["PRODUCT"]


async def test_one_avatar_image_is_taken_on_products(talk: Talk) -> None:
    wanted = settings("PRODUCT", mapping("picture", "AVATAR_IMAGE"))
    assert (await talk.ask("PUT", PATH, wanted)).body == wanted


@pytest.mark.parametrize(
    "wrong",
    [
        settings("CONTACT", mapping("picture", "AVATAR_IMAGE")),
        settings("PRODUCT", mapping("a", "AVATAR_IMAGE"), mapping("b", "AVATAR_IMAGE")),
        settings("PRODUCT", mapping("a", "PICTURE")),
        settings("COMPANY", mapping("a")),
        settings("PRODUCT", {"externalPropertyName": "a"}),
        {"mappings": {}},
        {"enabled": "yes", "mappings": {}},
        {"enabled": True, "mappings": ["a"]},
        {"enabled": True, "mappings": {"CONTACT": ["a"]}},
        {"enabled": True, "mappings": {"CONTACT": {"properties": {}}}},
        {"enabled": True, "mappings": {}, "webhookUri": "not a uri"},
        {"enabled": True, "webhookUri": "https://user:pw@shop.example/import"},
        {"enabled": True, "webhookUri": "http://user@shop.example"},
        {"enabled": True, "webhookUri": "//@shop.example"},
    ],
)
async def test_settings_that_break_a_rule_are_refused_and_change_nothing(
    talk: Talk, wrong: dict[str, Any]
) -> None:
    answer = await talk.ask("PUT", PATH, wrong)
    assert answer.status == 400
    assert answer.body["category"] == "VALIDATION_ERROR"
    assert await talk.get(PATH) == SETTINGS


@pytest.mark.parametrize("mappings", [{}, [], None])
async def test_settings_without_mappings_and_with_unknown_fields_are_taken(
    talk: Talk, mappings: Any
) -> None:
    body = {"enabled": True, "mappings": mappings, "importOnInstall": False}
    answer = await talk.ask("PUT", PATH, body)
    assert (answer.status, answer.body) == (
        200,
        {"enabled": True, "webhookUri": None, "mappings": {}},
    )


@pytest.mark.parametrize("of_type", [[], None, {}, {"properties": None}, {"properties": []}])
async def test_a_type_without_mappings_is_taken_in_every_form_that_clients_write(
    talk: Talk, of_type: Any
) -> None:
    body = {"enabled": True, "mappings": {"CONTACT": of_type}}
    answer = await talk.ask("PUT", PATH, body)
    assert answer.status == 200
    assert answer.body["mappings"] == {"CONTACT": {"properties": []}}
    assert await talk.get(PATH) == answer.body


@pytest.mark.parametrize("blank", ["", "  "])
async def test_a_blank_webhook_address_clears_it(talk: Talk, blank: str) -> None:
    uri = "https://shop.example/import/@me?to=a@b.example"
    await talk.ask("PUT", PATH, SETTINGS | {"webhookUri": uri})
    assert (await talk.get(PATH))["webhookUri"] == uri
    answer = await talk.ask("PUT", PATH, SETTINGS | {"webhookUri": blank})
    assert (answer.status, answer.body["webhookUri"]) == (200, None)


async def test_a_refused_webhook_address_names_the_field_and_not_the_password(talk: Talk) -> None:
    answer = await talk.ask("PUT", PATH, SETTINGS | {"webhookUri": "https://u:s3cret@a.example"})
    assert answer.status == 400
    assert answer.body["errors"][0]["in"] == "webhookUri"
    assert "s3cret" not in str(answer.body)


async def test_deleted_settings_are_gone(talk: Talk) -> None:
    assert (await talk.ask("DELETE", PATH)).status == 204
    assert (await talk.ask("GET", PATH)).status == 404
    assert (await talk.ask("DELETE", PATH)).status == 404
    await talk.sync("PRODUCT", upsert("1", name="p"))
    assert (await talk.error("PRODUCT", "1"))["type"] == "NO_SYNC_SETTINGS"


@pytest.mark.parametrize("query", ["appId=0", "appId=x", "appId=-1", "showProvidedMappings=2"])
async def test_a_settings_parameter_out_of_its_range_is_a_400(talk: Talk, query: str) -> None:
    assert (await talk.ask("GET", f"{PATH}?{query}")).status == 400
    assert (await talk.ask("PUT", f"{PATH}?{query}", SETTINGS)).status == 400


async def test_the_default_store_exists_from_the_start(talk: Talk) -> None:
    assert [store["id"] for store in (await talk.get(STORES))["results"]] == ["default"]
    assert (await talk.get(f"{STORES}/default"))["id"] == "default"


async def test_a_store_is_put_replaced_listed_and_deleted(talk: Talk) -> None:
    store = {"id": "my shop/1", "label": "Shop", "adminUri": "shop.example/admin"}
    answer = await talk.ask("PUT", STORES, store)
    assert (answer.status, answer.body) == (200, store)
    assert await talk.get(f"{STORES}/my%20shop%2F1") == store
    replaced = {"id": "my shop/1", "label": "Shop 2"}
    shown = replaced | {"adminUri": None}
    assert (await talk.ask("PUT", STORES, replaced)).body == shown
    assert shown in (await talk.get(STORES))["results"]
    assert (await talk.ask("PUT", STORES, await talk.get(f"{STORES}/my%20shop%2F1"))).body == shown
    assert (await talk.ask("DELETE", f"{STORES}/my%20shop%2F1")).status == 204
    assert (await talk.ask("GET", f"{STORES}/my%20shop%2F1")).status == 404
    assert (await talk.ask("DELETE", f"{STORES}/my%20shop%2F1")).status == 404


@pytest.mark.parametrize(
    ("store_id", "path"),
    [
        ("a/b", "a/b"),
        ("a/b", "a%2Fb/"),
        ("a/b/", "a/b%2F"),
        ("a//b", "a//b"),
        ("ü 1", "%C3%BC%201"),
        ("a%2Fb", "a%252Fb"),
    ],
)
async def test_slashes_in_the_path_belong_to_the_store_id(
    talk: Talk, store_id: str, path: str
) -> None:
    await talk.ask("PUT", STORES, {"id": store_id, "label": "Shop"})
    assert (await talk.get(f"{STORES}/{path}"))["id"] == store_id
    assert (await talk.ask("DELETE", f"{STORES}/{path}")).status == 204
    answer = await talk.ask("GET", f"{STORES}/{path}")
    assert answer.status == 404
    assert repr(store_id) in answer.body["message"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_store_id_in_the_path_that_is_not_utf_8_is_a_400(talk: Talk, method: str) -> None:
    answer = await talk.ask(method, f"{STORES}/a%FFb")
    assert answer.status == 400
    assert answer.body["errors"] == [{"message": "is not UTF-8", "in": "storeId"}]


async def test_deleting_a_store_keeps_its_data_and_ends_its_syncs(talk: Talk) -> None:
    await talk.ask("PUT", STORES, {"id": "shop", "label": "Shop"})
    await talk.sync("PRODUCT", upsert("1", name="p"), store="shop")
    await talk.ask("DELETE", f"{STORES}/shop")
    assert (await talk.thing("PRODUCT", "1", "shop"))["properties"]["name"] == "p"
    assert (await talk.status("PRODUCT", "1", "shop"))["hubspotId"] is not None
    body = {"storeId": "shop", "objectType": "PRODUCT", "messages": [upsert("1", name="q")]}
    assert (await talk.ask("PUT", f"{BASE}/sync/messages", body)).status == 400


@pytest.mark.parametrize(
    "store",
    [
        {"id": "", "label": "x"},
        {"id": "x", "label": ""},
        {"id": "x"},
        {"label": "x"},
        {"id": "x", "label": "x", "adminUri": "not a uri"},
        {"id": "x", "label": 5},
    ],
)
async def test_a_store_that_is_none_is_refused(talk: Talk, store: dict[str, Any]) -> None:
    assert (await talk.ask("PUT", STORES, store)).status == 400
    assert len((await talk.get(STORES))["results"]) == 1


@pytest.mark.parametrize("path", [PATH, STORES, f"{STORES}/default", "/_bridge/portal"])
async def test_a_trailing_slash_and_a_bare_question_mark_make_no_difference(
    talk: Talk, path: str
) -> None:
    assert await talk.get(path) == await talk.get(path + "/") == await talk.get(path + "?")


@pytest.mark.parametrize(
    ("data_type", "value", "reason"),
    [
        ("STRING", "anything", None),
        (None, "anything", None),
        ("NUMBER", "anything", "INVALID_DOUBLE"),
        ("NUMBER", "-2.5", None),
        ("DATETIME", "2018-11-13", "INVALID_LONG"),
        ("DATETIME", "1542092841947", None),
    ],
)
async def test_the_data_type_of_a_mapping_is_checked_where_the_property_is_a_text(
    talk: Talk, data_type: str | None, value: str, reason: str | None
) -> None:
    mappings = (mapping("name"), mapping("description", data_type))
    await talk.ask("PUT", PATH, settings("PRODUCT", *mappings))
    await talk.sync("PRODUCT", upsert("1", name="p", description=value))
    if reason is None:
        assert (await talk.thing("PRODUCT", "1"))["properties"]["description"] == value
    else:
        error = await talk.error("PRODUCT", "1")
        assert error["type"] == "UNKNOWN_ERROR"
        assert reason in error["details"]
