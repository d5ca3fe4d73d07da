"""GET /sync/status and the three paths of /sync/errors."""

from __future__ import annotations

from typing import Any

import pytest

from .talk import BASE, Talk, contact, deal, upsert

STATUS = f"{BASE}/sync/status"
ERRORS = f"{BASE}/sync/errors"


async def ids(talk: Talk, query: str, path: str = ERRORS) -> list[str]:
    return [error["externalObjectId"] for error in (await talk.get(path + query))["results"]]


async def fail(talk: Talk, *external_ids: str) -> None:
    """One MISSING_REQUIRED_PROPERTY error per product, in this order."""
    await talk.sync("PRODUCT", *(upsert(external_id, price="1") for external_id in external_ids))


async def test_both_orders_of_the_path_give_the_same_status(talk: Talk) -> None:
    await talk.sync("PRODUCT", upsert("1", name="p"))
    first = await talk.get(f"{STATUS}/PRODUCT/default/1")
    assert first == await talk.get(f"{STATUS}/default/PRODUCT/1")
    assert first.keys() == {
        "storeId",
        "objectType",
        "externalObjectId",
        "hubspotId",
        "lastProcessedAt",
        "errors",
    }
    assert isinstance(first["lastProcessedAt"], int)


async def test_a_store_named_like_a_type_is_read_in_the_references_order(talk: Talk) -> None:
    await talk.ask("PUT", f"{BASE}/stores", {"id": "DEAL", "label": "Deal"})
    await talk.sync("PRODUCT", upsert("1", name="p"), store="DEAL")
    assert (await talk.get(f"{STATUS}/PRODUCT/DEAL/1"))["objectType"] == "PRODUCT"
    assert (await talk.ask("GET", f"{STATUS}/DEAL/PRODUCT/1")).status == 400


@pytest.mark.parametrize(
    ("external_id", "path"),
    [
        ("a/b", "a%2Fb"),
        ("a/b", "a/b"),
        ("a//b/c", "a//b/c"),
        ("a b+c", "a%20b+c"),
        ("a%b?c#d", "a%25b%3Fc%23d"),
        ("ann@example.com", "ann@example.com"),
        ("ann@example.com", "ann%40example.com"),
        ("../1", "..%2F1"),
        ("a/", "a%2F"),
    ],
)
async def test_ids_are_percent_decoded_and_extra_segments_belong_to_them(
    talk: Talk, external_id: str, path: str
) -> None:
    await talk.sync("PRODUCT", upsert(external_id, name="p"))
    for tail in (path, path + "/", path + "?"):
        status = await talk.get(f"{STATUS}/default/PRODUCT/{tail}")
        assert status["externalObjectId"] == external_id


async def test_an_object_that_has_not_been_processed_is_a_400(talk: Talk) -> None:
    answer = await talk.ask("GET", f"{STATUS}/PRODUCT/default/1")
    assert answer.status == 400
    assert answer.body["category"] == "VALIDATION_ERROR"


@pytest.mark.parametrize("tail", ["COMPANY/default/1", "default/COMPANY/1", "PRODUCT/default/%ff"])
async def test_a_status_path_without_a_type_or_in_no_utf8_is_a_400(talk: Talk, tail: str) -> None:
    assert (await talk.ask("GET", f"{STATUS}/{tail}")).status == 400


@pytest.mark.parametrize("tail", ["", "PRODUCT", "PRODUCT/default", "PRODUCT/default/"])
async def test_an_unfinished_status_path_is_a_404(talk: Talk, tail: str) -> None:
    answer = await talk.ask("GET", f"{STATUS}/{tail}")
    assert (answer.status, answer.body["status"]) == (404, "error")


async def test_a_sync_error_has_the_fields_of_the_reference(talk: Talk) -> None:
    await talk.sync("PRODUCT", upsert("1", 1234, price="1"))
    (error,) = (await talk.get(ERRORS))["results"]
    details, errored_at = error.pop("details"), error.pop("erroredAt")
    assert error == {
        "portalId": 62515,
        "storeId": "default",
        "objectType": "PRODUCT",
        "externalObjectId": "1",
        "changedAt": 1234,
        "type": "MISSING_REQUIRED_PROPERTY",
        "status": "OPEN",
    }
    assert "name" in details
    assert errored_at > 1_600_000_000_000


@pytest.mark.parametrize("path", ["", "/", "/portal", "/portal/"])
async def test_errors_come_newest_first_on_the_account_paths(talk: Talk, path: str) -> None:
    await fail(talk, "a", "b")
    await fail(talk, "c")
    assert await ids(talk, "", ERRORS + path) == ["c", "b", "a"]


async def test_only_the_latest_error_of_an_object_is_kept_and_it_moves_to_the_top(
    talk: Talk,
) -> None:
    await fail(talk, "a", "b")
    await talk.sync("PRODUCT", upsert("a", 2000, colour="red"))
    results = (await talk.get(ERRORS))["results"]
    assert [(error["externalObjectId"], error["type"]) for error in results] == [
        ("a", "NO_MAPPINGS_DEFINED"),
        ("b", "MISSING_REQUIRED_PROPERTY"),
    ]


@pytest.mark.parametrize("name", ["includeResolved", "showResolvedErrors"])
async def test_resolved_errors_are_shown_on_demand_by_both_names(talk: Talk, name: str) -> None:
    await fail(talk, "a", "b")
    await talk.sync("PRODUCT", upsert("a", name="p"))
    assert await ids(talk, "") == ["b"]
    assert await ids(talk, f"?{name}=false") == ["b"]
    shown = (await talk.get(f"{ERRORS}?{name}=true"))["results"]
    assert [(e["externalObjectId"], e["status"]) for e in shown] == [
        ("b", "OPEN"),
        ("a", "RESOLVED"),
    ]
    assert (await talk.stats())["PRODUCT"]["openErrors"] == 1


async def test_errors_are_filtered_by_type_of_object_and_of_error(talk: Talk) -> None:
    await fail(talk, "a")
    await talk.sync("PRODUCT", upsert("b", colour="red"))
    await talk.sync("CONTACT", contact("c", mail="x"))
    assert await ids(talk, "?objectType=PRODUCT") == ["b", "a"]
    assert await ids(talk, "?errorType=INVALID_EMAIL_ADDRESS") == ["c"]
    assert await ids(talk, "?objectType=PRODUCT&errorType=NO_MAPPINGS_DEFINED") == ["b"]
    assert await ids(talk, "?objectType=DEAL") == []
    assert await ids(talk, "?objectType=&errorType=&limit=&page=&includeResolved=") == [
        "c",
        "b",
        "a",
    ]


async def test_page_is_the_number_of_a_record_from_1_and_offset_one_from_0(talk: Talk) -> None:
    await fail(talk, "a", "b", "c", "d")
    assert await ids(talk, "?limit=2&page=1") == ["d", "c"]
    assert await ids(talk, "?limit=2&page=2") == ["c", "b"]
    assert await ids(talk, "?limit=2&page=3") == ["b", "a"]
    assert await ids(talk, "?limit=2&offset=0") == ["d", "c"]
    assert await ids(talk, "?limit=2&offset=1") == ["c", "b"]
    assert await ids(talk, "?limit=2&page=3&offset=2") == ["b", "a"]
    assert await ids(talk, "?offset=9") == []


async def test_paging_is_there_only_if_more_follow_and_leads_through_all(talk: Talk) -> None:
    await fail(talk, *"abcde")
    collected, page = [], "1"
    while True:
        body = await talk.get(f"{ERRORS}?limit=2&page={page}&hapikey=secret")
        collected += [error["externalObjectId"] for error in body["results"]]
        if "paging" not in body:
            break
        page = body["paging"]["next"]["page"]
        assert f"page={page}" in body["paging"]["next"]["link"]
        assert "secret" not in body["paging"]["next"]["link"]
    assert collected == list("edcba")
    assert "paging" not in await talk.get(f"{ERRORS}?limit=5")


async def test_450_errors_arrive_in_steps_of_200(talk: Talk) -> None:
    for start in (0, 200, 400):
        count = min(200, 450 - start)
        await fail(talk, *(str(start + n) for n in range(count)))
    pages = [await ids(talk, f"?limit=200&page={page}") for page in (1, 201, 401)]
    assert [len(page) for page in pages] == [200, 200, 50]
    assert len({external_id for page in pages for external_id in page}) == 450
    assert len(await ids(talk, "")) == 200


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=x",
        "page=0",
        "page=-1",
        "page=" + "9" * 30,
        "offset=-1",
        "offset=9223372036854775807",
        "includeResolved=maybe",
        "objectType=COMPANY",
        "errorType=BAD",
    ],
)
async def test_a_parameter_out_of_its_range_is_a_400(talk: Talk, query: str) -> None:
    answer = await talk.ask("GET", f"{ERRORS}?{query}")
    assert answer.status == 400
    assert answer.body["errors"][0]["in"] == query.split("=", maxsplit=1)[0]


async def test_errors_of_an_application_are_those_of_its_messages(talk: Talk) -> None:
    await fail(talk, "account")
    body: dict[str, Any] = {
        "storeId": "default",
        "objectType": "PRODUCT",
        "messages": [upsert("app", price="1")],
    }
    bearer = {"Authorization": "Bearer any"}
    answer = await talk.ask("PUT", f"{BASE}/sync/messages", body, headers=bearer)
    assert answer.status == 204
    await talk.settled()
    assert await ids(talk, "", f"{ERRORS}/app/1") == ["app"]
    assert await ids(talk, "", f"{ERRORS}/app/2/") == []
    assert await ids(talk, "", f"{ERRORS}/portal") == ["app", "account"]
    own = await talk.ask("GET", ERRORS, headers=bearer)
    assert [error["externalObjectId"] for error in own.body["results"]] == ["app"]
    assert (await talk.ask("GET", f"{ERRORS}/app/x")).status == 400


async def test_failure_and_success_can_be_told_apart_by_their_timestamps(talk: Talk) -> None:
    for changed_at in range(1000, 1020, 2):
        await talk.send("DEAL", deal("1", changed_at, stage="nowhere"))
        await talk.send("DEAL", deal("1", changed_at + 1))
    await talk.settled()
    status = await talk.status("DEAL", "1")
    assert status["lastProcessedAt"] > status["errors"][0]["erroredAt"]
    # In one batch they are processed in the same millisecond.
    await talk.sync("DEAL", deal("2", 1000, stage="nowhere"), deal("2", 1001))
    status = await talk.status("DEAL", "2")
    assert status["lastProcessedAt"] > status["errors"][0]["erroredAt"]
    assert status["errors"][0]["status"] == "RESOLVED"
    await talk.sync("DEAL", deal("1", 2000, stage="nowhere"))
    status = await talk.status("DEAL", "1")
    assert status["lastProcessedAt"] == status["errors"][0]["erroredAt"]


async def test_objects_are_listed_by_pages(talk: Talk) -> None:
    await talk.ask("PUT", f"{BASE}/stores", {"id": "other", "label": "Other"})
    await talk.sync("PRODUCT", *(upsert(str(n), name="p") for n in range(5)))
    await talk.sync("PRODUCT", upsert("5", name="p"), store="other")
    seen, after = [], ""
    while True:
        page = await talk.get(f"/_bridge/objects/PRODUCT?limit=2&after={after}")
        seen += [(thing["storeId"], thing["externalObjectId"]) for thing in page["results"]]
        if "paging" not in page:
            break
        after = page["paging"]["next"]["after"]
    assert seen == [*(("default", str(n)) for n in range(5)), ("other", "5")]
    assert (await talk.ask("GET", "/_bridge/objects/PRODUCT?after=x")).status == 400
    assert (await talk.ask("GET", "/_bridge/objects/COMPANY")).status == 400
