"""What a processed message does to objects, and each error type of the reference."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pusher.bridge import BridgeConfig

from .talk import BASE, SETTINGS, Talk, contact, deal, delete, talking, upsert

PROPERTIES = "/_bridge/properties"


def with_associations(message: dict[str, Any], **associations: list[Any]) -> dict[str, Any]:
    return message | {"associations": associations}


async def test_mappings_give_values_their_hubspot_names_and_the_rest_is_dropped(talk: Talk) -> None:
    await talk.sync("CONTACT", contact("ann", first="Ann", freight="5", odd="x"))
    assert (await talk.thing("CONTACT", "ann"))["properties"] == {
        "email": "ann@example.com",
        "firstname": "Ann",
        "ip__ecomm_bridge__ecomm_synced": "true",
        "ip__ecomm_bridge__source_store_id": "default",
    }


async def test_the_newest_changed_at_wins_whatever_arrives_last(talk: Talk) -> None:
    await talk.sync("PRODUCT", upsert("1", 2000, name="new"))
    await talk.sync("PRODUCT", upsert("1", 1999, name="old", price="1"))
    thing = await talk.thing("PRODUCT", "1")
    assert thing["properties"]["name"] == "new"
    assert "price" not in thing["properties"]
    assert thing["changedAt"] == 2000


async def test_within_one_batch_the_newest_changed_at_wins_too(talk: Talk) -> None:
    await talk.sync("PRODUCT", upsert("1", 2000, name="new"), upsert("1", 1000, name="old"))
    assert (await talk.thing("PRODUCT", "1"))["properties"]["name"] == "new"


async def test_with_equal_changed_at_the_later_arrival_wins(talk: Talk) -> None:
    await talk.sync("PRODUCT", upsert("1", 2000, name="first"), upsert("1", 2000, name="second"))
    assert (await talk.thing("PRODUCT", "1"))["properties"]["name"] == "second"
    await talk.sync("PRODUCT", upsert("1", 2000, name="third"))
    assert (await talk.thing("PRODUCT", "1"))["properties"]["name"] == "third"


async def test_a_stale_message_is_no_error_and_moves_last_processed_at(talk: Talk) -> None:
    await talk.sync("PRODUCT", upsert("1", 2000, name="new"))
    before = (await talk.status("PRODUCT", "1"))["lastProcessedAt"]
    await talk.sync("PRODUCT", upsert("1", 1000, name="old"))
    after = await talk.status("PRODUCT", "1")
    assert after["errors"] == []
    assert after["lastProcessedAt"] >= before


async def test_a_message_without_changed_at_counts_as_changed_when_it_was_received(
    talk: Talk,
) -> None:
    message = upsert("1", name="p")
    del message["changedAt"]
    await talk.sync("PRODUCT", message)
    thing = await talk.thing("PRODUCT", "1")
    assert 0 <= thing["lastProcessedAt"] - thing["changedAt"] < 20_000


async def test_an_update_keeps_what_it_does_not_name(talk: Talk) -> None:
    await talk.sync("PRODUCT", upsert("1", 1000, name="p", price="2"))
    before = await talk.thing("PRODUCT", "1")
    await talk.sync("PRODUCT", upsert("1", 1001, price="3"))
    after = await talk.thing("PRODUCT", "1")
    assert after["properties"] == before["properties"] | {"price": "3"}
    assert after["hubspotId"] == before["hubspotId"]


async def test_a_blank_clears_a_property_and_null_leaves_it(talk: Talk) -> None:
    await talk.sync("DEAL", deal("1", 1000, text="t", amount="5"))
    await talk.sync("DEAL", deal("1", 1001, text="", amount=None))
    properties = (await talk.thing("DEAL", "1"))["properties"]
    assert "description" not in properties
    assert properties["amount"] == "5"


async def test_the_same_id_is_another_object_in_another_store_or_type(talk: Talk) -> None:
    await talk.ask("PUT", f"{BASE}/stores", {"id": "other", "label": "Other"})
    await talk.sync("PRODUCT", upsert("1", name="here"))
    await talk.sync("PRODUCT", upsert("1", name="there"), store="other")
    await talk.sync("DEAL", deal("1", name="deal"))
    ids = {
        (await talk.thing("PRODUCT", "1"))["hubspotId"],
        (await talk.thing("PRODUCT", "1", "other"))["hubspotId"],
        (await talk.thing("DEAL", "1"))["hubspotId"],
    }
    assert len(ids) == 3


async def test_a_delete_leaves_a_tombstone_that_later_upserts_do_not_wake(talk: Talk) -> None:
    await talk.sync("PRODUCT", upsert("1", 1000, name="p"))
    await talk.sync("PRODUCT", delete("1", 2000))
    await talk.sync("PRODUCT", upsert("1", 3000, name="again"))
    thing = await talk.thing("PRODUCT", "1")
    assert thing["isTombstone"] is True
    assert thing["properties"]["name"] == "p"
    status = await talk.status("PRODUCT", "1")
    assert status["hubspotId"] == thing["hubspotId"]
    assert status["errors"] == []


async def test_a_stale_delete_deletes_nothing(talk: Talk) -> None:
    await talk.sync("PRODUCT", upsert("1", 2000, name="p"), delete("1", 1000))
    assert (await talk.thing("PRODUCT", "1"))["isTombstone"] is False


async def test_a_delete_of_an_unknown_object_has_a_status_without_hubspot_id(talk: Talk) -> None:
    await talk.sync("PRODUCT", delete("1"))
    status = await talk.status("PRODUCT", "1")
    assert status["hubspotId"] is None
    assert status["errors"] == []


async def test_deleting_a_contact_does_not_remove_the_contact(talk: Talk) -> None:
    await talk.sync("CONTACT", contact("ann", 1000))
    await talk.sync("CONTACT", delete("ann", 2000))
    await talk.sync("CONTACT", contact("ann2", 3000, mail="ann@example.com"))
    assert (await talk.stats())["CONTACT"]["objects"] == 1
    old, new = await talk.thing("CONTACT", "ann"), await talk.thing("CONTACT", "ann2")
    assert old["hubspotId"] == new["hubspotId"]


async def test_a_new_contact_id_with_a_known_email_is_linked_to_that_contact(talk: Talk) -> None:
    await talk.ask("PUT", f"{BASE}/stores", {"id": "other", "label": "Other"})
    await talk.sync("CONTACT", contact("ann", first="Ann"))
    await talk.sync("CONTACT", upsert("7", mail=" ANN@example.com ", first="Anna"), store="other")
    first, second = await talk.thing("CONTACT", "ann"), await talk.thing("CONTACT", "7", "other")
    assert first["hubspotId"] == second["hubspotId"]
    assert first["properties"]["firstname"] == "Anna"
    # "Only contacts can have multiple source stores."
    assert first["properties"]["ip__ecomm_bridge__source_store_id"] == "default;other"
    assert (await talk.stats())["CONTACT"]["objects"] == 1


async def test_two_ids_with_one_email_in_one_batch_are_one_contact(talk: Talk) -> None:
    await talk.sync(
        "CONTACT", contact("a", mail="x@example.com"), contact("b", mail="X@example.com")
    )
    assert (await talk.stats())["CONTACT"]["objects"] == 1


async def test_a_contacts_email_does_not_change_but_the_rest_does(talk: Talk) -> None:
    await talk.sync("CONTACT", contact("ann", 1000))
    await talk.sync("CONTACT", contact("ann", 1001, mail="new@example.com", first="Ann"))
    properties = (await talk.thing("CONTACT", "ann"))["properties"]
    assert properties["email"] == "ann@example.com"
    assert properties["firstname"] == "Ann"
    assert (await talk.status("CONTACT", "ann"))["errors"] == []


async def test_associations_are_resolved_to_hubspot_ids(talk: Talk) -> None:
    await talk.sync("CONTACT", contact("ann"))
    await talk.sync("PRODUCT", upsert("p", name="p"))
    await talk.sync("DEAL", with_associations(deal("7"), CONTACT=["ann"]))
    await talk.sync("LINE_ITEM", with_associations(upsert("l", count=1), DEAL=[7], PRODUCT=["p"]))
    line = await talk.thing("LINE_ITEM", "l")
    assert line["associations"] == {
        "DEAL": [
            {"externalObjectId": "7", "hubspotId": (await talk.thing("DEAL", "7"))["hubspotId"]}
        ],
        "PRODUCT": [
            {"externalObjectId": "p", "hubspotId": (await talk.thing("PRODUCT", "p"))["hubspotId"]}
        ],
    }


async def test_associations_named_again_are_replaced_and_others_stay(talk: Talk) -> None:
    await talk.sync("CONTACT", contact("ann"), contact("bob"))
    await talk.sync("DEAL", with_associations(deal("7", 1000), CONTACT=["ann"]))
    await talk.sync("DEAL", deal("7", 1001))
    assert [
        a["externalObjectId"] for a in (await talk.thing("DEAL", "7"))["associations"]["CONTACT"]
    ] == ["ann"]
    await talk.sync("DEAL", with_associations(deal("7", 1002), CONTACT=["bob"]))
    assert [
        a["externalObjectId"] for a in (await talk.thing("DEAL", "7"))["associations"]["CONTACT"]
    ] == ["bob"]


async def test_a_tombstone_still_resolves_as_an_association(talk: Talk) -> None:
    await talk.sync("CONTACT", contact("ann", 1000), delete("ann", 2000))
    await talk.sync("DEAL", with_associations(deal("7"), CONTACT=["ann"]))
    assert (await talk.status("DEAL", "7"))["errors"] == []


async def test_inactive_portal(talk: Talk) -> None:
    answer = await talk.ask("PUT", "/_bridge/portal", {"active": False})
    assert answer.body == {"portalId": 62515, "active": False}
    await talk.sync("PRODUCT", upsert("1", name="p"))
    assert (await talk.error("PRODUCT", "1"))["type"] == "INACTIVE_PORTAL"
    await talk.ask("PUT", "/_bridge/portal", {"active": True})
    await talk.sync("PRODUCT", upsert("1", name="p"))
    assert (await talk.status("PRODUCT", "1"))["errors"][0]["status"] == "RESOLVED"


async def test_no_sync_settings() -> None:
    async with talking(BridgeConfig()) as talk:
        await talk.sync("PRODUCT", upsert("1", name="p"))
        assert (await talk.error("PRODUCT", "1"))["type"] == "NO_SYNC_SETTINGS"


async def test_settings_not_enabled(talk: Talk) -> None:
    await talk.ask("PUT", f"{BASE}/settings", SETTINGS | {"enabled": False})
    await talk.sync("PRODUCT", upsert("1", name="p"), delete("2"))
    assert (await talk.error("PRODUCT", "1"))["type"] == "SETTINGS_NOT_ENABLED"
    assert (await talk.error("PRODUCT", "2"))["type"] == "SETTINGS_NOT_ENABLED"


async def test_no_mappings_defined(talk: Talk) -> None:
    await talk.sync("PRODUCT", upsert("1", colour="red", size="5"))
    assert (await talk.error("PRODUCT", "1"))["type"] == "NO_MAPPINGS_DEFINED"


async def test_no_properties_defined(talk: Talk) -> None:
    await talk.sync("CONTACT", upsert("1", odd="x"))
    assert (await talk.error("CONTACT", "1"))["type"] == "NO_PROPERTIES_DEFINED"


@pytest.mark.parametrize(
    ("object_type", "properties"),
    [
        ("CONTACT", {"first": "Ann"}),
        ("CONTACT", {"first": "Ann", "mail": ""}),
        ("CONTACT", {"first": "Ann", "mail": None}),
        ("CONTACT", {}),
        ("PRODUCT", {"price": "1"}),
        ("DEAL", {"name": "d"}),
        ("DEAL", {"stage": "processed"}),
        ("DEAL", {"name": "d", "stage": ""}),
    ],
)
async def test_missing_required_property(
    talk: Talk, object_type: str, properties: dict[str, Any]
) -> None:
    await talk.sync(object_type, upsert("1", **properties))
    error = await talk.error(object_type, "1")
    assert error["type"] == "MISSING_REQUIRED_PROPERTY"
    assert (await talk.status(object_type, "1"))["hubspotId"] is None


@pytest.mark.parametrize("address", ["ann", "ann@", "@x.example", "a b@x.example", "a@x", "a@x..y"])
async def test_invalid_email_address(talk: Talk, address: str) -> None:
    await talk.sync("CONTACT", contact("1", mail=address))
    assert (await talk.error("CONTACT", "1"))["type"] == "INVALID_EMAIL_ADDRESS"


@pytest.mark.parametrize("stage", ["closedwon", "Processed", "appointmentscheduled"])
async def test_invalid_deal_stage(talk: Talk, stage: str) -> None:
    await talk.sync("DEAL", deal("1", stage=stage))
    assert (await talk.error("DEAL", "1"))["type"] == "INVALID_DEAL_STAGE"


async def test_a_deal_cannot_lose_its_stage(talk: Talk) -> None:
    await talk.sync("DEAL", deal("1", 1000), deal("1", 1001, stage=""))
    assert (await talk.error("DEAL", "1"))["type"] == "INVALID_DEAL_STAGE"
    assert (await talk.thing("DEAL", "1"))["properties"]["dealstage"] == "processed"


@pytest.mark.parametrize(
    "stage",
    [
        "checkout_abandoned",
        "checkout_pending",
        "checkout_completed",
        "processed",
        "shipped",
        "cancelled",
    ],
)
async def test_each_stage_of_the_ecommerce_pipeline_is_taken(talk: Talk, stage: str) -> None:
    await talk.sync("DEAL", deal("1", stage=stage))
    assert (await talk.status("DEAL", "1"))["errors"] == []


async def test_invalid_enum_property(talk: Talk) -> None:
    await talk.sync("CONTACT", contact("1", stage="friend"), contact("2", stage="customer"))
    assert (await talk.error("CONTACT", "1"))["type"] == "INVALID_ENUM_PROPERTY"
    assert (await talk.status("CONTACT", "2"))["errors"] == []


@pytest.mark.parametrize("day", ["2018-11-13", "2018-11-13T00:00:00Z", "1542092841.5", "today"])
async def test_a_date_that_is_not_epoch_milliseconds_is_an_unknown_error(
    talk: Talk, day: str
) -> None:
    await talk.sync("DEAL", deal("16", day=day))
    error = await talk.error("DEAL", "16")
    assert error["type"] == "UNKNOWN_ERROR"
    assert error["details"].startswith("Error performing[CREATE] DEAL[16] for portal 62515, error ")
    assert (
        f'"message":"{day} was not a valid long.","error":"INVALID_LONG","name":"closedate"'
        in (error["details"])
    )


@pytest.mark.parametrize("day", ["1542092841947", 1542092841947, "-86400000", ""])
async def test_a_date_in_epoch_milliseconds_is_taken(talk: Talk, day: Any) -> None:
    await talk.sync("DEAL", deal("1", day=day))
    assert (await talk.status("DEAL", "1"))["errors"] == []


async def test_a_number_that_is_none_is_an_unknown_error(talk: Talk) -> None:
    await talk.sync("DEAL", deal("1", amount="12,50"), deal("2", amount="-1.25e3"))
    assert (await talk.error("DEAL", "1"))["type"] == "UNKNOWN_ERROR"
    assert (await talk.status("DEAL", "2"))["errors"] == []


async def test_invalid_association_property_has_the_text_that_clients_parse(talk: Talk) -> None:
    await talk.sync("PRODUCT", upsert("p", name="p"))
    line = with_associations(upsert("l", count=1), DEAL=["10248"], PRODUCT=["p"])
    await talk.sync("LINE_ITEM", line)
    error = await talk.error("LINE_ITEM", "l")
    assert error["type"] == "INVALID_ASSOCIATION_PROPERTY"
    assert error["details"] == (
        "Invalid associations [hs_assoc__deal_id: 10248]. Do those objects exist?"
    )
    found = re.search(r"\[hs_assoc__deal_id: (.+)\]", error["details"])
    assert found
    assert found[1] == "10248"
    assert (await talk.status("LINE_ITEM", "l"))["hubspotId"] is None


@pytest.mark.parametrize(
    ("object_type", "target", "name"),
    [
        ("DEAL", "CONTACT", "hs_assoc__contact_ids"),
        ("LINE_ITEM", "PRODUCT", "hs_assoc__product_id"),
        ("CONTACT", "DEAL", "hs_assoc__deal_id"),
    ],
)
async def test_each_association_is_named_in_its_error(
    talk: Talk, object_type: str, target: str, name: str
) -> None:
    message = contact("x") if object_type == "CONTACT" else deal("x", count=1)
    await talk.sync(object_type, with_associations(message, **{target: ["gone"]}))
    error = await talk.error(object_type, "x")
    assert error["details"] == f"Invalid associations [{name}: gone]. Do those objects exist?"


async def test_a_pair_of_types_that_the_api_does_not_associate_resolves_to_nothing(
    talk: Talk,
) -> None:
    await talk.sync("PRODUCT", upsert("p", name="p"))
    await talk.sync("DEAL", with_associations(deal("1"), PRODUCT=["p"]))
    assert (await talk.error("DEAL", "1"))["type"] == "INVALID_ASSOCIATION_PROPERTY"


async def test_a_failed_line_item_is_not_retried_by_itself_but_sent_again_it_succeeds(
    talk: Talk,
) -> None:
    line = with_associations(upsert("l", count=1), DEAL=["7"])
    await talk.sync("LINE_ITEM", line)
    await talk.sync("DEAL", deal("7"))
    assert (await talk.error("LINE_ITEM", "l"))["status"] == "OPEN"
    await talk.sync("LINE_ITEM", line)
    status = await talk.status("LINE_ITEM", "l")
    assert status["errors"][0]["status"] == "RESOLVED"
    assert status["lastProcessedAt"] > status["errors"][0]["erroredAt"]


async def test_a_failed_update_changes_nothing(talk: Talk) -> None:
    await talk.sync("DEAL", deal("1", 1000))
    before = await talk.thing("DEAL", "1")
    await talk.sync("DEAL", deal("1", 1001, name="new", stage="nowhere"))
    after = await talk.thing("DEAL", "1")
    assert after["properties"] == before["properties"]
    assert after["changedAt"] == 1000
    assert (await talk.status("DEAL", "1"))["hubspotId"] == before["hubspotId"]


@pytest.mark.parametrize(
    ("message", "winner"),
    [
        (contact("1", mail="x", stage="friend", born="today"), "INVALID_EMAIL_ADDRESS"),
        (contact("1", stage="friend", born="today"), "INVALID_ENUM_PROPERTY"),
        (upsert("1", born="today"), "UNKNOWN_ERROR"),
        (upsert("1", first="a") | {"associations": {"DEAL": ["1"]}}, "MISSING_REQUIRED_PROPERTY"),
    ],
)
async def test_of_several_errors_the_first_in_the_stated_order_wins(
    talk: Talk, message: dict[str, Any], winner: str
) -> None:
    await talk.sync("CONTACT", message)
    assert (await talk.error("CONTACT", "1"))["type"] == winner


async def test_the_catalogue_can_be_put_back_and_types_not_named_stay(talk: Talk) -> None:
    catalogue = await talk.get(PROPERTIES)
    assert catalogue.keys() == {"CONTACT", "PRODUCT", "DEAL", "LINE_ITEM"}
    assert (await talk.ask("PUT", PROPERTIES, catalogue)).body == catalogue
    changed = {"LINE_ITEM": [{"name": "price", "type": "number", "required": True}]}
    assert (await talk.ask("PUT", PROPERTIES, changed)).body == catalogue | changed


async def test_a_property_added_to_the_account_is_written_from_then_on(talk: Talk) -> None:
    contacts = (await talk.get(PROPERTIES))["CONTACT"]
    added = {"name": "no_such_property", "type": "enumeration", "options": ["a", "b"]}
    await talk.ask("PUT", PROPERTIES, {"CONTACT": [*contacts, added]})
    await talk.sync("CONTACT", contact("1", odd="a"), contact("2", odd="c"))
    assert (await talk.thing("CONTACT", "1"))["properties"]["no_such_property"] == "a"
    assert (await talk.error("CONTACT", "2"))["type"] == "INVALID_ENUM_PROPERTY"


@pytest.mark.parametrize(
    "catalogue",
    [
        {"CONTACT": [{"name": "a"}, {"name": "a"}]},
        {"CONTACT": [{"name": "a", "type": "enumeration"}]},
        {"CONTACT": [{"name": "a", "type": "picture"}]},
        {"COMPANY": []},
    ],
)
async def test_a_catalogue_that_makes_no_sense_is_refused(
    talk: Talk, catalogue: dict[str, Any]
) -> None:
    before = await talk.get(PROPERTIES)
    assert (await talk.ask("PUT", PROPERTIES, catalogue)).status == 400
    assert await talk.get(PROPERTIES) == before
