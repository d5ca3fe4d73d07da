"""The door to the endpoint: answers and failures are values, and neither shows a secret."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import ssl
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp import web
from aioresponses import aioresponses

from pusher.config import Settings
from pusher.errors import UsageError
from pusher.model import Answer, Failure, Verdict
from pusher.protocol import error_text, verdict_of
from pusher.transport import HttpTransport, checked_url, is_loopback

SECRET = "s3cret/+ key"
BASE = "http://bridge.test"
DEADLINE_S = 10.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class TestResponse(aiohttp.ClientResponse):
    """What aioresponses 0.7 makes lacks an argument that newer versions of aiohttp want."""

    __test__ = False

    def __init__(self, *values: Any, **names: Any) -> None:
        if "stream_writer" in inspect.signature(aiohttp.ClientResponse.__init__).parameters:
            names["stream_writer"] = Mock(output_size=0)
        super().__init__(*values, **names)


def answer_of(found: Answer | Failure) -> Answer:
    assert isinstance(found, Answer), found
    return found


def failure_of(found: Answer | Failure) -> Failure:
    assert isinstance(found, Failure), found
    assert found.detail
    assert len(found.detail.splitlines()) == 1
    return found


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """A real HTTP server on loopback; yields its address."""
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def talking(talk: Talk) -> AsyncIterator[str]:
    """A server that says what it likes, byte for byte."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        (
            int(line[15:])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        ),
        0,
    )
    return head + await reader.readexactly(length)


def saying(text: bytes) -> Talk:
    """Read the request, say this, hang up."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(text)
        await writer.drain()

    return talk


async def put(url: str, body: bytes = b"{}", **settings: float) -> Answer | Failure:
    async with HttpTransport(url, token=SECRET, **settings) as transport:  # type: ignore[arg-type]
        async with asyncio.timeout(DEADLINE_S):
            return await transport.request("PUT", "/x", body=body)


# Requests, with a made-up network


async def test_a_request_goes_to_the_base_address_and_the_path() -> None:
    with aioresponses() as network:
        network.put(f"{BASE}/base/extensions/x?a=1", status=204, response_class=TestResponse)
        async with HttpTransport(f"{BASE}/base/") as transport:
            answer = await transport.request("PUT", "/extensions/x", query="a=1", body=b"{}")
        assert sum(map(len, network.requests.values())) == 1
    assert answer_of(answer).status == 204


async def test_the_answer_carries_what_the_protocol_needs() -> None:
    with aioresponses() as network:
        headers = {"Retry-After": "7", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}
        network.get(
            f"{BASE}/x",
            status=429,
            body=b"slow down",
            headers=headers,
            response_class=TestResponse,
        )
        async with HttpTransport(BASE) as transport:
            answer = answer_of(await transport.request("GET", "/x"))
    assert answer == Answer(429, b"slow down", "7", "Wed, 21 Oct 2015 07:28:00 GMT")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (aiohttp.ServerDisconnectedError(), "reset"),
        (aiohttp.ClientPayloadError("half"), "reset"),
        (aiohttp.ClientOSError(104, "Connection reset by peer"), "reset"),
        (ConnectionResetError(104, "Connection reset by peer"), "reset"),
        (aiohttp.InvalidURL("x"), "protocol"),
    ],
)
async def test_an_error_of_the_network_becomes_an_ambiguous_failure(
    error: Exception, kind: str
) -> None:
    with aioresponses() as network:
        network.put(f"{BASE}/x", exception=error)
        failure = failure_of(await put(BASE))
    assert (failure.kind, failure.ambiguous) == (kind, True)


@pytest.mark.parametrize("status", [200, 204, 301, 400, 401, 403, 404, 429, 500, 503])
async def test_an_answer_is_a_value_whatever_its_status(status: int) -> None:
    with aioresponses() as network:
        network.put(f"{BASE}/x", status=status, response_class=TestResponse)
        assert answer_of(await put(BASE)).status == status


async def test_a_transport_that_is_not_entered_says_so() -> None:
    with pytest.raises(RuntimeError, match="entered"):
        await HttpTransport(BASE).request("GET", "/x")


# Requests, over a real connection


class Echo:
    """Keeps what it was sent."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        return web.Response(status=204)


async def test_a_token_is_sent_as_bearer_and_not_in_the_address() -> None:
    echo = Echo()
    async with serving(echo.handle) as url, HttpTransport(url, token="t0ken") as transport:
        await transport.request("PUT", "/x", body=b"{}")
    (request,) = echo.requests
    assert request.headers["Authorization"] == "Bearer t0ken"
    assert "t0ken" not in request.raw_path
    assert "hapikey" not in request.raw_path


@pytest.mark.parametrize("query", ["", "appId=1"])
async def test_an_api_key_is_sent_in_the_query(query: str) -> None:
    echo = Echo()
    async with serving(echo.handle) as url, HttpTransport(url, api_key="k/+ &=ä%2F") as transport:
        await transport.request("GET", "/x", query=query)
    (request,) = echo.requests
    assert request.query["hapikey"] == "k/+ &=ä%2F"
    assert request.query.get("appId") == ("1" if query else None)
    assert "Authorization" not in request.headers


async def test_without_credentials_none_are_sent() -> None:
    echo = Echo()
    async with serving(echo.handle) as url, HttpTransport(url) as transport:
        await transport.request("GET", "/x")
    assert "Authorization" not in echo.requests[0].headers
    assert "hapikey" not in echo.requests[0].raw_path


async def test_a_body_is_sent_as_json_with_its_length() -> None:
    echo = Echo()
    async with serving(echo.handle) as url:
        await put(url, b'{"a":"\xc3\xa4"}')
    (request,) = echo.requests
    assert request.content_type == "application/json"
    assert request.content_length == 10
    assert echo.bodies == [b'{"a":"\xc3\xa4"}']


@pytest.mark.parametrize("size", [(1 << 20) - 1, (1 << 20) + 1, 5 << 20])
async def test_a_large_body_is_sent_whole_and_without_a_warning(size: int) -> None:
    echo = Echo()
    body = bytes(range(256)) * (size // 256 + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with serving(echo.handle) as url:
            assert answer_of(await put(url, body[:size])).status == 204
    assert echo.bodies == [body[:size]]
    assert echo.requests[0].content_length == size


async def test_a_large_body_can_be_sent_again() -> None:
    """A retry sends the same bytes."""
    echo = Echo()
    body = b"x" * (2 << 20)
    async with serving(echo.handle) as url, HttpTransport(url) as transport:
        for _ in range(2):
            await transport.request("PUT", "/x", body=body)
    assert echo.bodies == [body, body]


async def test_the_path_is_sent_as_it_is_encoded() -> None:
    echo = Echo()
    async with serving(echo.handle) as url, HttpTransport(url) as transport:
        await transport.request("GET", "/status/a%2Fb%20c%25/%C3%A4")
    assert echo.requests[0].raw_path == "/status/a%2Fb%20c%25/%C3%A4"


async def test_the_connection_is_kept() -> None:
    peers = set()

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response(status=204)

    async with serving(handler) as url, HttpTransport(url) as transport:
        for _ in range(5):
            await transport.request("PUT", "/x", body=b"{}")
    assert len(peers) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status: int) -> None:
    """Customer data and credentials would go elsewhere."""
    asked: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    async with serving(handler) as url:
        answer = answer_of(await put(url))
    assert answer.status == status
    assert asked == ["/x"]
    assert verdict_of(answer, had_success=True) is Verdict.STOP


async def test_cookies_are_not_kept() -> None:
    echo = Echo()

    async def handler(request: web.Request) -> web.StreamResponse:
        await echo.handle(request)
        return web.Response(headers={"Set-Cookie": "a=1"})

    async with serving(handler) as url, HttpTransport(url) as transport:
        for _ in range(2):
            await transport.request("GET", "/x")
    assert "Cookie" not in echo.requests[1].headers


async def test_a_page_of_html_is_an_answer_that_stops_the_run() -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>log in</html>", content_type="text/html")

    async with serving(handler) as url:
        answer = answer_of(await put(url))
    assert answer.body == b"<html>log in</html>"
    assert verdict_of(answer, had_success=True) is Verdict.STOP


async def test_many_requests_may_be_under_way_at_once() -> None:
    all_there = asyncio.Event()
    there = 0

    async def handler(_: web.Request) -> web.StreamResponse:
        nonlocal there
        there += 1
        if there == 150:
            all_there.set()
        await all_there.wait()
        return web.Response(status=204)

    async with serving(handler) as url, HttpTransport(url) as transport:
        async with asyncio.timeout(DEADLINE_S):
            answers = await asyncio.gather(
                *(transport.request("PUT", "/x", body=b"{}") for _ in range(150))
            )
    assert {answer_of(answer).status for answer in answers} == {204}


# Failures, over a real connection


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_a_refused_connection_is_not_ambiguous() -> None:
    failure = failure_of(await put(f"http://127.0.0.1:{unused_port()}"))
    assert (failure.kind, failure.ambiguous) == ("connect", False)


async def test_an_unknown_host_is_not_ambiguous() -> None:
    failure = failure_of(await put("http://no-such-host.invalid"))
    assert (failure.kind, failure.ambiguous) == ("connect", False)


async def test_a_server_that_does_not_answer_is_an_ambiguous_timeout() -> None:
    is_over = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await is_over.wait()

    async with talking(silent) as url:
        started_s = time.monotonic()
        failure = failure_of(await put(url, timeout_s=0.2))
        is_over.set()
    assert (failure.kind, failure.ambiguous) == ("timeout", True)
    assert "0.2 s" in failure.detail
    assert time.monotonic() - started_s < DEADLINE_S / 2


async def test_an_answer_that_stalls_half_way_is_an_ambiguous_timeout() -> None:
    is_over = asyncio.Event()

    async def stalling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await writer.drain()
        await is_over.wait()

    async with talking(stalling) as url:
        failure = failure_of(await put(url, timeout_s=0.2))
        is_over.set()
    assert (failure.kind, failure.ambiguous) == ("timeout", True)


async def test_a_timeout_of_0_is_none() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await asyncio.sleep(0.02)
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()

    async with talking(slow) as url:
        assert answer_of(await put(url, timeout_s=0)).status == 204


async def test_a_connection_that_does_not_come_about_is_a_timeout_that_is_not_ambiguous() -> None:
    """A listener whose queue is full takes no further connection."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        try:
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
                fillers.append(filler)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            failure = failure_of(await put(url, connect_timeout_s=0.2, timeout_s=5.0))
        finally:
            for filler in fillers:
                filler.close()
    assert (failure.kind, failure.ambiguous) == ("timeout", False)
    assert "0.2 s" in failure.detail


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal",
    ],
)
async def test_a_server_that_hangs_up_mid_answer_is_an_ambiguous_reset(said: bytes) -> None:
    async with talking(saying(said)) as url:
        failure = failure_of(await put(url))
    assert (failure.kind, failure.ambiguous) == ("reset", True)


async def test_a_reset_connection_is_an_ambiguous_reset() -> None:
    async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        connection = writer.get_extra_info("socket")
        connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
        )
        writer.transport.abort()

    async with talking(resetting) as url:
        failure = failure_of(await put(url))
    assert (failure.kind, failure.ambiguous) == ("reset", True)


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.0\r\n", b"\x00\x01\x02\x03\r\n\r\n"])
async def test_what_is_not_http_is_an_ambiguous_protocol_failure(said: bytes) -> None:
    async with talking(saying(said)) as url:
        failure = failure_of(await put(url))
    assert (failure.kind, failure.ambiguous) == ("protocol", True)


async def test_plain_http_on_a_tls_port_is_a_tls_failure_that_is_not_ambiguous() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with talking(plain) as url:
        failure = failure_of(await put(url.replace("http:", "https:")))
    assert (failure.kind, failure.ambiguous) == ("tls", False)


async def test_a_certificate_nobody_vouches_for_is_a_tls_failure() -> None:
    error = aiohttp.ClientConnectorCertificateError(
        aiohttp.client_reqrep.ConnectionKey("h", 443, True, True, None, None, None),
        ssl.SSLCertVerificationError("self-signed certificate"),
    )
    with aioresponses() as network:
        network.put("https://bridge.test/x", exception=error)
        failure = failure_of(await put("https://bridge.test"))
    assert (failure.kind, failure.ambiguous) == ("tls", False)


async def test_an_answer_of_many_mib_is_not_read_to_its_end() -> None:
    sent = 0

    async def flooding(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        with contextlib.suppress(OSError):
            while sent < 1_000_000_000:
                writer.write(b"x" * (1 << 20))
                await writer.drain()
                sent += 1 << 20

    async with talking(flooding) as url:
        failure = failure_of(await put(url))
    assert "larger than" in failure.detail
    assert failure.ambiguous
    assert sent < 100 << 20


async def test_an_answer_of_some_mib_is_read() -> None:
    size = 3 << 20

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"x" * size)

    async with serving(handler) as url:
        assert len(answer_of(await put(url)).body) == size


class Moody:
    """Answers some requests, and hangs up on the others when it has read them."""

    def __init__(self, *moods: bool) -> None:
        self.moods = list(moods)
        self.bodies: list[bytes] = []

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = await read_request(reader)
                self.bodies.append(request.partition(b"\r\n\r\n")[2])
                if not self.moods.pop(0):
                    return
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                await writer.drain()


@pytest.mark.parametrize("moods", [(False, True), (True, False, True)])
@pytest.mark.parametrize("size", [2, 3 << 20])
async def test_a_request_is_sent_once_though_the_server_hangs_up(
    moods: tuple[bool, ...], size: int
) -> None:
    """Whether to send it again is the sender's matter: it counts, and waits before."""
    moody = Moody(*moods)
    async with talking(moody.talk) as url, HttpTransport(url) as transport:
        async with asyncio.timeout(DEADLINE_S):
            for is_answered in moods:
                body = (str(len(moody.bodies)) * size).encode()
                found = await transport.request("PUT", "/x", body=body)
                assert isinstance(found, Answer) is is_answered
                assert moody.bodies[-1] == body
    assert len(moody.bodies) == len(moods)


# Secrets


def test_a_secret_is_not_in_the_repr() -> None:
    for transport in (HttpTransport(BASE, token=SECRET), HttpTransport(BASE, api_key=SECRET)):
        assert "s3cret" not in repr(transport)
        assert "s3cret" not in str(transport)
    assert "s3cret" not in repr(Settings(url=BASE, token="s3cret"))
    assert "s3cret" not in repr(Settings(url=BASE, api_key="s3cret"))


@pytest.mark.parametrize(
    "said",
    [
        b"nonsense s3cret\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBad Header s3cret\r\n\r\n",
        b"",
    ],
)
async def test_a_secret_is_not_in_a_failure(said: bytes) -> None:
    async with talking(saying(said)) as url, HttpTransport(url, api_key="s3cret") as transport:
        failure = failure_of(await transport.request("PUT", "/x", body=b"{}"))
    assert "s3cret" not in repr(failure)


@pytest.mark.parametrize("form", [SECRET, "s3cret%2F%2B%20key", "s3cret/%2B%20key"])
async def test_no_form_of_a_secret_is_in_a_failure(form: str) -> None:
    error = aiohttp.ClientOSError(f"cannot reach http://h/x?hapikey={form}")
    with aioresponses() as network:
        network.get(f"{BASE}/x?hapikey=s3cret%2F%2B%20key", exception=error)
        async with HttpTransport(BASE, api_key=SECRET) as transport:
            failure = failure_of(await transport.request("GET", "/x"))
    assert "s3cret" not in failure.detail


@pytest.mark.parametrize("credential", ["token", "api_key"])
async def test_a_secret_that_the_endpoint_repeats_is_not_told_on(credential: str) -> None:
    """HubSpot itself answers a wrong key with "This hapikey (...) doesn't exist"."""

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response({"message": "This hapikey (s3cret) doesn't exist."}, status=401)

    credentials = {credential: "s3cret"}
    async with serving(handler) as url, HttpTransport(url, **credentials) as transport:  # type: ignore[arg-type]
        answer = answer_of(await transport.request("PUT", "/x", body=b"{}"))
    assert "s3cret" not in error_text(answer)


# Addresses


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h", "http://h"),
        ("https://h/", "https://h"),
        ("http://h:8080/base/", "http://h:8080/base"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("http://[::1]:80/", "http://[::1]:80"),
    ],
)
def test_an_address_is_taken_without_its_last_slash(url: str, expected: str) -> None:
    assert checked_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h",
        "localhost:8080",
        "api.example.com/x",
        "ftp://h",
        "file:///etc/passwd",
        "http://",
        "http:///path",
        "http://:80",
        "http://h:port",
        "http://h:99999",
        "http://[::1",
        "http://user@h",
        "http://user:pw@h",
        "http://h/?hapikey=x",
        "http://h#x",
    ],
)
def test_an_address_that_cannot_be_used_is_the_callers_error(url: str) -> None:
    with pytest.raises(UsageError) as error:
        HttpTransport(url)
    assert "--url" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "url", ["http://h/a b", "http://h/\x01", "http://h\n/", "http://h/?", "http://h/#"]
)
def test_an_address_that_would_spoil_the_request_line_is_the_callers_error(url: str) -> None:
    with pytest.raises(UsageError):
        checked_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:s3cret@h",
        "http://h/?hapikey=s3cret",
        "http://h/#s3cret",
        "ftp://user:s3cret@h",
        "h?hapikey=s3cret",
        "http://user:s3cret/x@h",
        "ftp://user:s3cret?x@h",
        "http://user:s3cret#x@h",
        "user:s3cret@h",
    ],
)
def test_a_secret_in_a_wrong_address_is_not_shown(url: str) -> None:
    with pytest.raises(UsageError) as error:
        checked_url(url)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:80", True),
        ("http://LOCALHOST", True),
        ("http://127.0.0.1", True),
        ("http://127.9.9.9:1", True),
        ("http://[::1]:5", True),
        ("https://api.hubapi.com", False),
        ("http://localhost.example.com", False),
        ("http://10.0.0.1", False),
        ("http://127.0.0.1.example.com", False),
        ("http://127.example.com", False),
    ],
)
def test_loopback_is_this_machine_alone(url: str, expected: bool) -> None:  # noqa: FBT001
    assert is_loopback(url) is expected
