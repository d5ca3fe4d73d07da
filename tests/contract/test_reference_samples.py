"""The reference's own JSON samples, request and response, against the bridge.

The files in `fixtures/` are the reference's text, character for character.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from pusher.bridge import BridgeConfig, running_bridge

FIXTURES = Path(__file__).parent / "fixtures"
BASE = "/extensions/ecomm/v2"
SETTINGS = f"{BASE}/settings?appId=1&hapikey=demo"


def sample(name: str) -> Any:
    return orjson.loads((FIXTURES / f"{name}.json").read_bytes())


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with (
        running_bridge(BridgeConfig()) as bridge,
        aiohttp.ClientSession(bridge.url) as session,
    ):
        yield session


async def send(client: aiohttp.ClientSession, path: str, name: str) -> Any:
    """PUT a sample as it stands in the reference."""
    body = (FIXTURES / f"{name}.json").read_bytes()
    async with client.put(path, data=body) as answer:
        assert answer.ok, await answer.text()
        return orjson.loads(await answer.read() or b"null")


async def get(client: aiohttp.ClientSession, path: str) -> Any:
    async with client.get(path) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def test_the_settings_sample_is_echoed_and_read_back_as_printed(
    client: aiohttp.ClientSession,
) -> None:
    echoed = await send(client, SETTINGS, "settings.put.request")
    assert echoed == sample("settings.put.request")
    assert await get(client, SETTINGS) == sample("settings.get.response")


async def test_the_answer_of_a_settings_get_can_be_put_back(
    client: aiohttp.ClientSession,
) -> None:
    assert await send(client, SETTINGS, "settings.get.response") == sample("settings.get.response")


async def test_the_store_sample_is_echoed_and_read_back_as_printed(
    client: aiohttp.ClientSession,
) -> None:
    path = f"{BASE}/stores"
    assert await send(client, path, "store.put.request") == sample("store.put.request")
    assert await get(client, f"{path}/ecommercebridge-test-store") == sample("store.get.response")


async def test_the_stores_of_the_list_sample_are_listed_as_printed(
    client: aiohttp.ClientSession,
) -> None:
    expected = sample("stores.get.response")
    for store in expected["results"]:
        async with client.put(f"{BASE}/stores", json=store) as answer:
            assert answer.status == 200
    listed = await get(client, f"{BASE}/stores")
    assert listed.keys() == expected.keys()
    # "default" pre-exists on every account.
    assert [s for s in listed["results"] if s["id"] != "default"] == sorted(
        expected["results"], key=lambda store: store["id"]
    )


async def test_the_sync_sample_is_taken_and_its_deal_is_made(client: aiohttp.ClientSession) -> None:
    await send(client, SETTINGS, "settings.put.request")
    await send(client, f"{BASE}/stores", "store.put.request")
    contact = {
        "storeId": "ecommercebridge-test-store",
        "objectType": "CONTACT",
        "messages": [
            {
                "externalObjectId": "daniel452834529",
                "action": "UPSERT",
                "properties": {"customer_email": "daniel@example.com"},
            }
        ],
    }
    async with client.put(f"{BASE}/sync/messages", json=contact) as answer:
        assert answer.status == 204
    seen = await status(client, "CONTACT", "daniel452834529")
    assert await send(client, f"{BASE}/sync/messages", "sync-messages.put.request") is None
    deal = await status(client, "DEAL", "1000")
    assert deal["errors"] == []

    expected = sample("sync-status.get.response")
    assert seen.keys() == expected.keys()
    for name in ("objectType", "storeId", "externalObjectId", "errors"):
        assert seen[name] == expected[name]
    # The sample prints digits in quotes; the field is a long and the changelog shows a number.
    assert isinstance(seen["lastProcessedAt"], int)
    assert isinstance(seen["hubspotId"], int)


async def status(client: aiohttp.ClientSession, object_type: str, external_id: str) -> Any:
    """The status of an object as soon as it has one."""
    path = f"{BASE}/sync/status/{object_type}/ecommercebridge-test-store/{external_id}"
    async with asyncio.timeout(10):
        while True:
            async with client.get(path) as answer:
                if answer.status == 200:
                    return await answer.json()
                assert answer.status == 400
            await asyncio.sleep(0.01)
