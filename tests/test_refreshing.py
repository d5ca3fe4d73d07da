"""A 401 is answered with a new token, once, and one refresh serves all who wait for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from aiohttp import web

from pusher import BridgeApiError, BridgeClient, Refresher, Tokens, UsageError
from pusher.model import Answer
from pusher.transport import HttpTransport

CLIENT_SECRET = "client/s3cret"
REFRESH_TOKEN = "refresh+t0ken"
NEW_TOKEN = "acc3ss-new"


@dataclass
class Account:
    """A bridge that takes one token, and an endpoint that gives tokens."""

    url: str = ""
    taken: set[str] = field(default_factory=lambda: {NEW_TOKEN})
    calls: list[str] = field(default_factory=list)
    forms: list[dict[str, Any]] = field(default_factory=list)
    token_status: int = 200
    token_answer: Any = field(
        default_factory=lambda: {
            "access_token": NEW_TOKEN,
            "refresh_token": "rotated",
            "expires_in": 1800,
        }
    )
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(self, request: web.Request) -> web.Response:
        await request.read()
        authorization = request.headers.get("Authorization", "")
        self.calls.append(authorization)
        if authorization.removeprefix("Bearer ") in self.taken:
            return web.json_response({"results": []})
        return web.json_response({"message": "expired", "correlationId": "c-9"}, status=401)

    async def give(self, request: web.Request) -> web.Response:
        assert "Authorization" not in request.headers
        self.forms.append(dict(await request.post()))
        await self.may_answer.wait()
        return web.json_response(self.token_answer, status=self.token_status)


@asynccontextmanager
async def account() -> AsyncIterator[Account]:
    made = Account()
    made.may_answer.set()
    app = web.Application()
    app.router.add_post("/oauth/v1/token", made.give)
    app.router.add_post("/elsewhere", made.give)
    app.router.add_route("*", "/{path:.*}", made.call)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
    finally:
        await runner.cleanup()


def refresher(**more: Any) -> Refresher:
    return Refresher("client-id", CLIENT_SECRET, REFRESH_TOKEN, **more)


async def test_a_401_is_asked_again_once_with_a_new_token() -> None:
    async with account() as on:
        given = refresher()
        async with BridgeClient(on.url, token="old", refresher=given) as client:
            assert given.tokens is None
            assert await client.list_stores() == []
            assert await client.list_stores() == []
            assert on.calls == ["Bearer old", f"Bearer {NEW_TOKEN}", f"Bearer {NEW_TOKEN}"]
            assert on.forms == [
                {
                    "grant_type": "refresh_token",
                    "client_id": "client-id",
                    "client_secret": CLIENT_SECRET,
                    "refresh_token": REFRESH_TOKEN,
                }
            ]
            tokens = client.tokens
    assert tokens == Tokens(NEW_TOKEN, "rotated", 1800)
    assert tokens is given.tokens


async def test_the_next_refresh_uses_the_refresh_token_of_the_last() -> None:
    async with account() as on, HttpTransport(on.url, token="old", refresher=refresher()) as door:
        await door.request("GET", "/x")
        on.taken, on.token_answer = {"newer"}, {"access_token": "newer"}
        answer = await door.request("GET", "/x")
        assert isinstance(answer, Answer)
        assert answer.status == 200
        assert [form["refresh_token"] for form in on.forms] == [REFRESH_TOKEN, "rotated"]


async def test_without_a_first_token_one_is_had_at_the_first_401() -> None:
    async with account() as on, BridgeClient(on.url, refresher=refresher()) as client:
        assert await client.list_stores() == []
        assert on.calls == ["", f"Bearer {NEW_TOKEN}"]


async def test_concurrent_401s_share_one_refresh() -> None:
    async with account() as on, HttpTransport(on.url, token="old", refresher=refresher()) as door:
        on.may_answer.clear()
        answers: list[Any] = []

        async def ask() -> None:
            answers.append(await door.request("PUT", "/x", body=b"{}"))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(ask)
            async with asyncio.timeout(10):
                while len(on.calls) < 20:  # noqa: ASYNC110 - the server counts
                    await asyncio.sleep(0.005)
            on.may_answer.set()
        assert len(on.forms) == 1
        assert [answer.status for answer in answers] == [200] * 20
        assert len(on.calls) == 40


async def test_concurrent_401s_share_one_refusal_too() -> None:
    async with account() as on, HttpTransport(on.url, token="old", refresher=refresher()) as door:
        on.may_answer.clear()
        on.token_status, on.token_answer = 400, {"message": "the grant was revoked"}
        answers: list[Any] = []

        async def ask() -> None:
            answers.append(await door.request("GET", "/x"))

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
            async with asyncio.timeout(10):
                while len(on.calls) < 5:  # noqa: ASYNC110 - the server counts
                    await asyncio.sleep(0.005)
            on.may_answer.set()
        assert len(on.forms) == 1
        assert [answer.status for answer in answers] == [401] * 5


async def test_a_new_token_that_is_refused_as_well_is_not_refreshed_for_ever() -> None:
    async with account() as on, BridgeClient(on.url, token="old", refresher=refresher()) as client:
        on.taken = set()
        with pytest.raises(BridgeApiError, match="expired") as error:
            await client.list_stores()
        assert (error.value.status, error.value.correlation_id) == (401, "c-9")
        assert (len(on.calls), len(on.forms)) == (2, 1)


async def test_a_cancelled_request_does_not_lose_the_new_tokens() -> None:
    async with account() as on:
        given = refresher()
        async with HttpTransport(on.url, token="old", refresher=given) as door:
            on.may_answer.clear()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: door.request("GET", "/x"))
                async with asyncio.timeout(10):
                    while not on.forms:  # noqa: ASYNC110 - the server counts
                        await asyncio.sleep(0.005)
                tasks.cancel_scope.cancel()
                on.may_answer.set()
            assert given.tokens is not None
            assert given.tokens.refresh_token == "rotated"


@pytest.mark.parametrize(
    ("status", "answer", "why"),
    [
        (400, {"message": "the grant was revoked"}, "HTTP 400: the grant was revoked"),
        (302, {}, "HTTP 302"),
        (200, {"token": "x"}, "no access_token"),
        (200, {"access_token": ""}, "not printable"),
        (200, {"access_token": "a\nb"}, "not printable"),
        (200, [], "no access_token"),
    ],
)
async def test_a_failed_refresh_says_why_in_the_401(status: int, answer: Any, why: str) -> None:
    async with account() as on, BridgeClient(on.url, token="old", refresher=refresher()) as client:
        on.token_status, on.token_answer = status, answer
        with pytest.raises(BridgeApiError, match=r"expired.*could not be refreshed") as error:
            await client.list_stores()
        assert why in str(error.value)
        assert len(on.calls) == 1


async def test_a_token_endpoint_that_is_gone_says_so() -> None:
    async with account() as on:
        given = refresher(token_url="http://127.0.0.1:9/token")
        async with BridgeClient(on.url, token="old", refresher=given) as client:
            with pytest.raises(BridgeApiError, match="could not be refreshed: connect"):
                await client.list_stores()


async def test_tokens_can_be_had_elsewhere() -> None:
    async with account() as on:
        given = refresher(token_url=on.url + "/elsewhere")
        async with BridgeClient(on.url + "/below", token="old", refresher=given) as client:
            assert await client.list_stores() == []


def test_an_unusable_token_address_is_the_callers_error() -> None:
    with pytest.raises(UsageError, match="token_url"):
        BridgeClient("http://h", refresher=refresher(token_url="ftp://h"))


async def test_without_a_refresher_a_401_is_an_answer() -> None:
    async with account() as on, HttpTransport(on.url, token="old") as door:
        answer = await door.request("GET", "/x")
        assert isinstance(answer, Answer)
        assert (answer.status, len(on.calls)) == (401, 1)


async def test_no_secret_is_in_an_exception_a_log_or_a_repr(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = ("old-t0ken", CLIENT_SECRET, REFRESH_TOKEN, "client%2Fs3cret", "refresh%2Bt0ken")
    async with account() as on:
        given = refresher()
        async with BridgeClient(on.url, token="old-t0ken", refresher=given) as client:
            on.token_status = 400
            on.token_answer = {"message": f"bad: {' '.join(secrets)}"}
            with pytest.raises(BridgeApiError) as error:
                await client.list_stores()
            on.token_status, on.token_answer = 200, {"access_token": NEW_TOKEN}
            await client.list_stores()
            shown = f"{error.value} {error.value!r} {given!r} {client!r} {client.tokens!r}"
            shown += f" {client._own!r} {caplog.text} {given.trouble}"
    for secret in (*secrets, NEW_TOKEN):
        assert secret not in shown


async def test_a_new_token_that_the_endpoint_repeats_is_not_told_on() -> None:
    async with account() as on, HttpTransport(on.url, token="old", refresher=refresher()) as door:
        on.taken = set()

        await door.request("GET", "/x")
        assert door._without_secrets(f"you sent {NEW_TOKEN}".encode()) == b"you sent ***"
