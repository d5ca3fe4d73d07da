"""PyPI hubspot-api-client 12, HubSpot's own: its generic request against every kind of answer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from .serving import API_KEY, MAPPINGS, TOKEN, Served, serving

BASE = "/extensions/ecomm/v2"
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Of what it imports in turn.
    hubspot = pytest.importorskip("hubspot", reason="hubspot-api-client is not installed")


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as served:
        yield served


def client(bridge: Served, **credentials: str) -> Any:
    return hubspot.HubSpot(base_url=bridge.url, **credentials)


def ask(asking: Any, method: str, path: str, body: Any = None, **query: str) -> Any:
    request = {"method": method, "path": BASE + path, "qs": query}
    return asking.api_request(request if body is None else request | {"body": body})


def test_it_is_the_release_that_is_meant() -> None:
    try:
        assert version("hubspot-api-client").split(".")[0] == "12"
    except PackageNotFoundError:
        pytest.fail("`hubspot` is not from hubspot-api-client")


@pytest.mark.parametrize("credential", [{"access_token": TOKEN}, {"api_key": API_KEY}])
def test_a_whole_round_of_settings_store_messages_status_and_errors(
    bridge: Served, credential: dict[str, str]
) -> None:
    asking = client(bridge, **credential)
    settings = {"enabled": True, "webhookUri": None, "mappings": MAPPINGS}
    answer = ask(asking, "PUT", "/settings", settings)
    assert (answer.status_code, answer.json()) == (200, settings)
    assert ask(asking, "GET", "/settings").json() == settings
    store = {"id": "shop-1", "label": "Shop", "adminUri": "shop.example/admin"}
    assert ask(asking, "PUT", "/stores", store).json() == store
    assert store in ask(asking, "GET", "/stores").json()["results"]

    messages = [
        {"externalObjectId": "c1", "action": "UPSERT", "properties": {"mail": "c1@example.com"}},
        {"externalObjectId": "c2", "action": "UPSERT", "properties": {"mail": "nobody at home"}},
    ]
    body = {"storeId": "shop-1", "objectType": "CONTACT", "messages": messages}
    answer = ask(asking, "PUT", "/sync/messages", body)
    assert (answer.status_code, answer.content) == (204, b"")
    bridge.processed(2)
    status = ask(asking, "GET", "/sync/status/CONTACT/shop-1/c1").json()
    assert status["errors"] == []
    assert bridge.thing("CONTACT", "c1")["hubspotId"] == status["hubspotId"]
    (error,) = ask(asking, "GET", "/sync/errors", limit="10").json()["results"]
    assert (error["externalObjectId"], error["type"]) == ("c2", "INVALID_EMAIL_ADDRESS")

    assert ask(asking, "DELETE", "/stores/shop-1").status_code == 204
    assert ask(asking, "DELETE", "/settings").status_code == 204


def test_a_refusal_has_the_body_that_an_official_client_shows(bridge: Served) -> None:
    answer = ask(client(bridge, access_token=TOKEN), "PUT", "/sync/messages", {"storeId": "x"})
    assert answer.status_code == 400
    assert answer.json()["category"] == "VALIDATION_ERROR"
    assert answer.json()["correlationId"]
    answer = ask(client(bridge, access_token="wrong"), "GET", "/stores")
    assert answer.status_code == 401
    assert answer.json()["category"] == "INVALID_AUTHENTICATION"
