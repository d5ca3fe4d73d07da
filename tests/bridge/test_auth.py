"""Credentials: demanded when the bridge has any, each where the reference puts it."""

from __future__ import annotations

import pytest

from pusher.bridge import BridgeConfig
from pusher.bridge.config import Credentials

from .talk import BASE, SETTINGS, talking, upsert

TOKEN = {"Authorization": "Bearer t0ken"}
ALL = BridgeConfig(settings=SETTINGS, credentials=Credentials("t0ken", "k3y", "d3v"))
PATHS = [
    f"{BASE}/stores",
    f"{BASE}/stores/default",
    f"{BASE}/settings",
    f"{BASE}/settings?appId=1",
    f"{BASE}/sync/status/DEAL/default/1",
    f"{BASE}/sync/errors",
    f"{BASE}/sync/errors/portal",
    f"{BASE}/sync/errors/app/1",
    "/_bridge/stats",
    "/_bridge/objects/DEAL",
    "/_bridge/properties",
    "/_bridge/portal",
]


@pytest.mark.parametrize("path", PATHS)
async def test_without_credentials_every_endpoint_is_a_401_with_hubspots_body(path: str) -> None:
    async with talking(ALL) as talk:
        answer = await talk.ask("GET", path)
        assert answer.status == 401
        assert answer.body["status"] == "error"
        assert answer.body["category"] == "INVALID_AUTHENTICATION"
        assert "correlationId" in answer.body


@pytest.mark.parametrize("path", PATHS)
async def test_wrong_credentials_are_a_401_and_are_not_repeated(path: str) -> None:
    async with talking(ALL) as talk:
        mark = "&" if "?" in path else "?"
        wrong = await talk.ask("GET", f"{path}{mark}hapikey=wrong-key")
        assert wrong.status == 401
        assert "wrong-key" not in str(wrong.body)
        headers = {"Authorization": "Bearer wrong-token"}
        wrong = await talk.ask("GET", path, headers=headers)
        assert wrong.status == 401
        assert "wrong-token" not in str(wrong.body)


@pytest.mark.parametrize(
    ("path", "token", "key", "developer_key"),
    [
        (f"{BASE}/stores?", 200, 200, 401),
        (f"{BASE}/settings?", 200, 200, 401),
        (f"{BASE}/settings?appId=1&", 401, 401, 404),
        (f"{BASE}/sync/errors?", 200, 200, 401),
        (f"{BASE}/sync/errors/portal?", 200, 200, 401),
        (f"{BASE}/sync/errors/app/1?", 401, 401, 200),
        (f"{BASE}/sync/status/DEAL/default/1?", 400, 400, 401),
        ("/_bridge/stats?", 200, 200, 200),
    ],
)
async def test_each_credential_opens_what_is_its_own(
    path: str, token: int, key: int, developer_key: int
) -> None:
    async with talking(ALL) as talk:
        assert (await talk.ask("GET", path, headers=TOKEN)).status == token
        assert (await talk.ask("GET", f"{path}hapikey=k3y")).status == key
        assert (await talk.ask("GET", f"{path}hapikey=d3v")).status == developer_key


async def test_messages_are_taken_with_a_token_or_the_accounts_key_only() -> None:
    path = f"{BASE}/sync/messages"
    body = {"storeId": "default", "objectType": "PRODUCT", "messages": [upsert("1", name="p")]}
    async with talking(ALL) as talk:
        assert (await talk.ask("PUT", path, body, headers=TOKEN)).status == 204
        assert (await talk.ask("PUT", f"{path}?hapikey=k3y", body)).status == 204
        assert (await talk.ask("PUT", f"{path}?hapikey=d3v", body)).status == 401
        assert (await talk.ask("PUT", path, body)).status == 401
        lower = {"Authorization": "bearer t0ken"}
        assert (await talk.ask("PUT", path, body, headers=lower)).status == 204


async def test_an_open_bridge_takes_any_credentials() -> None:
    async with talking() as talk:
        assert (await talk.ask("GET", f"{BASE}/stores?hapikey=any")).status == 200
        assert (await talk.ask("GET", f"{BASE}/sync/errors/app/1?hapikey=any")).status == 200
        assert (await talk.ask("GET", f"{BASE}/stores", headers=TOKEN)).status == 200


def test_a_config_does_not_show_its_secrets() -> None:
    assert "t0ken" not in repr(ALL)
    assert "k3y" not in repr(ALL)
    assert "d3v" not in repr(ALL)
