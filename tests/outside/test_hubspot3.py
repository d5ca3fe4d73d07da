"""PyPI hubspot3 3.2.56, a client that was used in production: each of its bridge functions."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from .serving import API_KEY, APP_ID, DEVELOPER_KEY, MAPPINGS, TOKEN, Served, serving

hubspot3 = pytest.importorskip("hubspot3.ecommerce_bridge", reason="hubspot3 is not installed")
errors = pytest.importorskip("hubspot3.error", reason="hubspot3 is not installed")


def client(bridge: Served, **credentials: str) -> Any:
    return hubspot3.EcommerceBridgeClient(api_base=bridge.url, **credentials)


def product(number: int) -> dict[str, Any]:
    return {
        "externalObjectId": f"p{number}",
        "action": hubspot3.EcommerceBridgeClient.Action.UPSERT,
        "changedAt": 1_542_092_841_947 + number,
        "properties": {"name": f"Product {number}"},
    }


def bad_contact(number: int) -> dict[str, Any]:
    return product(number) | {
        "externalObjectId": f"c{number}",
        "properties": {"mail": "nobody at home"},
    }


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as served:
        yield served


def test_it_is_the_release_that_is_meant() -> None:
    assert version("hubspot3") == "3.2.56"


def test_settings_are_put_for_the_account_and_for_an_application(bridge: Served) -> None:
    for_account = client(bridge, api_key=API_KEY).create_or_update_settings(MAPPINGS)
    assert for_account == {"enabled": True, "webhookUri": None, "mappings": MAPPINGS}
    for_app = client(bridge, api_key=DEVELOPER_KEY).create_or_update_settings(
        MAPPINGS,
        webhook_uri="https://shop.example/import",
        enabled=False,
        app_id=APP_ID,
        show_provided_mappings=True,
    )
    assert for_app["enabled"] is False
    assert for_app["webhookUri"] == "https://shop.example/import"
    names = [one["hubspotPropertyName"] for one in for_app["mappings"]["DEAL"]["properties"]]
    assert "ip__ecomm_bridge__source_store_id" in names


def test_a_store_is_made_and_replaced(bridge: Served) -> None:
    asking = client(bridge, access_token=TOKEN)
    made = asking.create_or_update_store("shop-1", "Shop", "https://shop.example/admin")
    assert made == {"id": "shop-1", "label": "Shop", "adminUri": "https://shop.example/admin"}
    assert asking.create_or_update_store("shop-1", "Other") == {
        "id": "shop-1",
        "label": "Other",
        "adminUri": None,
    }


def test_401_messages_go_out_as_200_and_200_and_1(tmp_path: Path) -> None:
    with serving(tmp_path, "--processing-delay", "600s") as bridge:
        sending = client(bridge, api_key=API_KEY)
        assert sending.send_sync_messages("PRODUCT", [product(n) for n in range(401)]) is None
        assert bridge.batches() == [200, 200, 1]


def test_messages_are_processed_and_their_status_is_found(bridge: Served) -> None:
    asking = client(bridge, api_key=API_KEY)
    asking.create_or_update_settings(MAPPINGS)
    asking.create_or_update_store("shop-1", "Shop")
    asking.send_sync_messages("PRODUCT", [product(1), product(2)], store_id="shop-1")
    bridge.processed(2)
    status = asking.check_sync_status_for_object("PRODUCT", "p2", store_id="shop-1")
    assert status["externalObjectId"] == "p2"
    assert status["storeId"] == "shop-1"
    assert isinstance(status["hubspotId"], int)
    assert isinstance(status["lastProcessedAt"], int)
    assert status["errors"] == []
    assert bridge.thing("PRODUCT", "p2")["properties"]["name"] == "Product 2"


def test_an_id_with_a_slash_goes_raw_into_the_path_and_is_found(bridge: Served) -> None:
    asking = client(bridge, access_token=TOKEN)
    client(bridge, api_key=API_KEY).create_or_update_settings(MAPPINGS)
    message = product(1) | {"externalObjectId": "a/b"}
    asking.send_sync_messages("PRODUCT", [message])
    bridge.processed(1)
    assert asking.check_sync_status_for_object("PRODUCT", "a/b")["externalObjectId"] == "a/b"


def test_an_object_that_is_not_processed_is_its_bad_request(bridge: Served) -> None:
    with pytest.raises(errors.HubspotBadRequest):
        client(bridge, api_key=API_KEY).check_sync_status_for_object("PRODUCT", "none")


def test_a_wrong_credential_is_its_unauthorized(bridge: Served) -> None:
    with pytest.raises(errors.HubspotUnauthorized):
        client(bridge, api_key="wrong").send_sync_messages("PRODUCT", [product(1)])


def test_all_pages_of_450_errors_arrive_on_each_of_the_three_paths(bridge: Served) -> None:
    """Its `page` is the number of a record, so that three requests bring 200, 200 and 50."""
    of_account, of_app = client(bridge, api_key=API_KEY), client(bridge, access_token=TOKEN)
    of_developer = client(bridge, api_key=DEVELOPER_KEY)
    of_account.create_or_update_settings(MAPPINGS)
    of_app.send_sync_messages("CONTACT", [bad_contact(n) for n in range(450)])
    bridge.processed(450)
    wanted = [f"c{n}" for n in reversed(range(450))]  # Newest first.
    for found in (
        of_account.get_sync_errors_for_account(),
        of_app.get_sync_errors_for_app_and_account(),
        of_developer.get_sync_errors_for_app(APP_ID),
    ):
        assert [error["externalObjectId"] for error in found] == wanted
        assert {error["type"] for error in found} == {"INVALID_EMAIL_ADDRESS"}


def test_errors_are_filtered_and_limited_and_a_success_resolves_them(bridge: Served) -> None:
    asking = client(bridge, api_key=API_KEY)
    asking.create_or_update_settings(MAPPINGS)
    asking.send_sync_messages("CONTACT", [bad_contact(n) for n in range(10)])
    bridge.processed(10)
    assert len(asking.get_sync_errors_for_account(limit=7)) == 7
    assert asking.get_sync_errors_for_account(object_type="DEAL") == []
    assert asking.get_sync_errors_for_account(error_type="INVALID_DEAL_STAGE") == []
    found = asking.get_sync_errors_for_account(
        error_type="INVALID_EMAIL_ADDRESS", object_type="CONTACT", starting_page=9
    )
    assert [error["externalObjectId"] for error in found] == ["c1", "c0"]
    good = bad_contact(3) | {"properties": {"mail": "c3@example.com"}, "changedAt": 2 * 10**12}
    asking.send_sync_messages("CONTACT", [good])
    bridge.processed(11)
    assert len(asking.get_sync_errors_for_account()) == 9
    assert len(asking.get_sync_errors_for_account(include_resolved=True)) == 10
