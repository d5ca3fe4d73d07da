"""An endpoint on loopback that records what it is sent and answers as a test tells it to.

It is no bridge: it processes nothing, and it remembers everything.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Lane = tuple[str, str]


@dataclass
class Request:
    """One PUT of sync messages, or one POST of a page of an import, as it arrived."""

    number: int
    at_s: float
    headers: dict[str, str]
    query: dict[str, str]
    body: dict[str, Any]
    status: int | None = None

    @property
    def lane(self) -> Lane:
        return self.body["storeId"], self.body["objectType"]

    @property
    def messages(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.body["messages"]
        return found

    @property
    def ids(self) -> list[str]:
        return [message["externalObjectId"] for message in self.messages]


Answer = Callable[[Request], Awaitable[web.StreamResponse]]


async def accept(request: Request) -> web.StreamResponse:
    """Take everything."""
    del request
    return web.Response(status=204)


def refuse(status: int = 400, message: str = "bad message") -> web.Response:
    """HubSpot's error body."""
    return web.json_response({"status": "error", "message": message}, status=status)


@dataclass
class Endpoint:
    """What a test looks at and turns. `answer` decides on each PUT."""

    url: str = ""
    answer: Answer = accept
    """Decides on each request; the end of an imported type has the number -1."""
    requests: list[Request] = field(default_factory=list)
    accepted: list[Request] = field(default_factory=list)
    in_flight: int = 0
    in_flight_max: int = 0
    overlapping_objects: set[tuple[str, str, str]] = field(default_factory=set)
    """Objects that were in two requests at the same time."""
    processed_at_ms: Callable[[Lane, str], int | None] = lambda _lane, _id: int(time.time() * 1000)
    """When an object was last processed, as its status tells; None answers 400."""
    errors: Callable[[Lane, str], list[dict[str, Any]]] = lambda _lane, _id: []
    status_requests: list[str] = field(default_factory=list)
    statuses_accepted: tuple[str, ...] = ("reference", "clients")
    """Which orders of the status path are served."""
    status_refusal: int | None = None
    """Answer every status request with this code."""
    sync_errors: list[dict[str, Any]] = field(default_factory=list)
    """What the sync errors are, newest first."""
    errors_requests: list[dict[str, str]] = field(default_factory=list)
    """The queries of the requests for sync errors, with their path."""
    errors_refusal: int | None = None
    """Answer every request for sync errors with this code."""
    ends: list[Request] = field(default_factory=list)
    """Accepted ends of imported types."""
    _busy: dict[tuple[str, str, str], int] = field(default_factory=dict)

    @property
    def delivered(self) -> list[dict[str, Any]]:
        """The accepted messages in the order of their acceptance, with store and type."""
        return [
            {"storeId": request.lane[0], "objectType": request.lane[1], **message}
            for request in self.accepted
            for message in request.messages
        ]

    async def put(self, http: web.Request) -> web.StreamResponse:
        body = json.loads(await http.read())
        request = Request(
            len(self.requests), time.monotonic(), dict(http.headers), dict(http.query), body
        )
        self.requests.append(request)
        objects = {(*request.lane, external_id) for external_id in request.ids}
        self.overlapping_objects |= objects & self._busy.keys()
        for key in objects:
            self._busy[key] = self._busy.get(key, 0) + 1
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            response = await self.answer(request)
            request.status = response.status
            if 200 <= response.status < 300:
                self.accepted.append(request)
            return response
        finally:
            self.in_flight -= 1
            for key in objects:
                self._busy[key] -= 1
                if not self._busy[key]:
                    del self._busy[key]

    async def end(self, http: web.Request) -> web.StreamResponse:
        body = {**json.loads(await http.read()), "messages": []}
        request = Request(-1, time.monotonic(), dict(http.headers), dict(http.query), body)
        response = await self.answer(request)
        if 200 <= response.status < 300:
            self.ends.append(request)
        return response

    async def status(self, http: web.Request) -> web.StreamResponse:
        self.status_requests.append(http.path)
        if self.status_refusal is not None:
            return refuse(self.status_refusal, "scope missing")
        first, second, external_id = (http.match_info[name] for name in ("a", "b", "id"))
        order = "reference" if first in {"CONTACT", "PRODUCT", "DEAL", "LINE_ITEM"} else "clients"
        lane = (second, first) if order == "reference" else (first, second)
        processed_ms = self.processed_at_ms(lane, external_id)
        if processed_ms is None or order not in self.statuses_accepted:
            return refuse(400, "not found")
        return web.json_response(
            {
                "storeId": lane[0],
                "objectType": lane[1],
                "externalObjectId": external_id,
                "hubspotId": 1,
                "lastProcessedAt": processed_ms,
                "errors": self.errors(lane, external_id),
            }
        )

    async def all_errors(self, http: web.Request) -> web.StreamResponse:
        self.errors_requests.append({"path": http.path, **http.query})
        if self.errors_refusal is not None:
            return refuse(self.errors_refusal, "no errors here")
        offset, limit = int(http.query["offset"]), int(http.query["limit"])
        return web.json_response({"results": self.sync_errors[offset : offset + limit]})


@asynccontextmanager
async def running_endpoint() -> AsyncIterator[Endpoint]:
    """Serve an endpoint on a free port of loopback."""
    endpoint = Endpoint()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_put("/extensions/ecomm/v2/sync/messages", endpoint.put)
    app.router.add_post("/extensions/ecomm/v2/imports/page", endpoint.put)
    app.router.add_post("/extensions/ecomm/v2/imports/end", endpoint.end)
    app.router.add_get("/extensions/ecomm/v2/sync/errors", endpoint.all_errors)
    app.router.add_get("/extensions/ecomm/v2/sync/errors/portal", endpoint.all_errors)
    app.router.add_get("/extensions/ecomm/v2/sync/status/{a}/{b}/{id}", endpoint.status)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        endpoint.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield endpoint
    finally:
        await runner.cleanup()


async def until(condition: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Wait for a condition; fail when it does not come true in time."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise AssertionError("the condition did not come true in time")
        await asyncio.sleep(0.01)
