"""A short way to talk to a bridge over HTTP. It knows the API and no inside of the bridge."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from yarl import URL

from pusher.bridge import BridgeConfig, running_bridge

BASE = "/extensions/ecomm/v2"
DEADLINE_S = 20.0

SETTINGS: dict[str, Any] = {
    "enabled": True,
    "webhookUri": None,
    "mappings": {
        object_type: {
            "properties": [
                {"externalPropertyName": ours, "hubspotPropertyName": theirs, "dataType": kind}
                for ours, theirs, kind in mappings
            ]
        }
        for object_type, mappings in {
            "CONTACT": [
                ("mail", "email", "STRING"),
                ("first", "firstname", "STRING"),
                ("stage", "lifecyclestage", "STRING"),
                ("born", "createdate", "DATETIME"),
                ("odd", "no_such_property", "STRING"),
            ],
            "PRODUCT": [("name", "name", "STRING"), ("price", "price", "NUMBER")],
            "DEAL": [
                ("name", "dealname", "STRING"),
                ("stage", "dealstage", "STRING"),
                ("day", "closedate", "STRING"),
                ("amount", "amount", "NUMBER"),
                ("text", "description", "STRING"),
            ],
            "LINE_ITEM": [("count", "quantity", "NUMBER"), ("price", "price", "NUMBER")],
        }.items()
    },
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: Any
    headers: Mapping[str, str]


class Talk:
    """One client of one bridge."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request, with the path sent exactly as it is written."""
        if body is not None:
            data = json.dumps(body).encode()
        url = URL(self.url + path, encoded=True)
        async with self.session.request(method, url, data=data, headers=headers) as answer:
            text = await answer.read()
            return Answer(answer.status, orjson.loads(text) if text else None, answer.headers)

    async def get(self, path: str) -> Any:
        """The body of a GET that must succeed."""
        answer = await self.ask("GET", path)
        assert answer.status == 200, answer
        return answer.body

    async def send(
        self, object_type: str, *messages: dict[str, Any], store: str = "default"
    ) -> None:
        """PUT messages that must be taken."""
        body = {"storeId": store, "objectType": object_type, "messages": messages}
        answer = await self.ask("PUT", f"{BASE}/sync/messages", body)
        assert (answer.status, answer.body) == (204, None), answer

    async def sync(
        self, object_type: str, *messages: dict[str, Any], store: str = "default"
    ) -> None:
        """PUT messages and wait until they have been processed."""
        await self.send(object_type, *messages, store=store)
        await self.settled()

    async def stats(self) -> Any:
        """Counts per type."""
        return (await self.get("/_bridge/stats"))["types"]

    async def settled(self) -> None:
        """Wait until every queue is empty."""
        await self.until(lambda stats: not any(of["queued"] for of in stats.values()))

    async def until(self, condition: Callable[[Any], bool]) -> Any:
        """Poll the counts until they fit."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition(stats := await self.stats()):  # noqa: ASYNC110  # Another process.
                await asyncio.sleep(0.005)
        return stats

    async def status(self, object_type: str, external_id: str, store: str = "default") -> Any:
        """The sync status of an object that must have one."""
        return await self.get(f"{BASE}/sync/status/{object_type}/{store}/{external_id}")

    async def error(self, object_type: str, external_id: str, store: str = "default") -> Any:
        """The one error of an object that has failed last, as clients judge it."""
        status = await self.status(object_type, external_id, store)
        (error,) = status["errors"]
        assert error["erroredAt"] == status["lastProcessedAt"]
        assert error["status"] == "OPEN"
        return error

    async def thing(self, object_type: str, external_id: str, store: str = "default") -> Any:
        """The object behind an external id."""
        path = f"/_bridge/objects/{object_type}?storeId={store}&externalObjectId={external_id}"
        (found,) = (await self.get(path))["results"]
        return found


@contextlib.asynccontextmanager
async def talking(config: BridgeConfig | None = None) -> AsyncIterator[Talk]:
    """A bridge of its own with SETTINGS in force, unless a config says otherwise."""
    async with (
        running_bridge(config or BridgeConfig(settings=SETTINGS)) as bridge,
        aiohttp.ClientSession() as session,
    ):
        yield Talk(session, bridge.url)


def upsert(external_id: Any, changed_at: Any = 1000, **properties: Any) -> dict[str, Any]:
    """An UPSERT message."""
    return {
        "externalObjectId": external_id,
        "action": "UPSERT",
        "changedAt": changed_at,
        "properties": properties,
    }


def delete(external_id: str, changed_at: int = 1000) -> dict[str, Any]:
    """A DELETE message."""
    return {"externalObjectId": external_id, "action": "DELETE", "changedAt": changed_at}


def contact(external_id: str, changed_at: int = 1000, **properties: Any) -> dict[str, Any]:
    """A contact with an e-mail address made from its id."""
    return upsert(external_id, changed_at, **{"mail": f"{external_id}@example.com", **properties})


def deal(external_id: str, changed_at: int = 1000, **properties: Any) -> dict[str, Any]:
    """A deal that can be created."""
    return upsert(external_id, changed_at, **{"name": "d", "stage": "processed", **properties})
