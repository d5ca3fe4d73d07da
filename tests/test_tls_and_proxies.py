"""The transport's way to the endpoint: trust, our own certificate, proxies, headers, tokens."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from pusher.errors import UsageError
from pusher.model import Answer, Failure
from pusher.refreshing import Refresher
from pusher.transport import HttpTransport

SECRET = "s3cret-value"


@dataclass
class Seen:
    """What arrived."""

    headers: list[dict[str, str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


@asynccontextmanager
async def serving(
    *, tls: ssl.SSLContext | None = None, answer: Any = None
) -> AsyncIterator[tuple[str, Seen]]:
    seen = Seen()

    async def take(request: web.Request) -> web.StreamResponse:
        seen.headers.append(dict(request.headers))
        return await answer(request) if answer else web.json_response({"ok": True})

    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}", seen
    finally:
        await runner.cleanup()


async def asked(url: str, **options: Any) -> Answer | Failure:
    async with HttpTransport(url, **options) as transport:
        return await transport.request("GET", "/x")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


def server_context(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def test_an_authority_of_ones_own_is_trusted_when_it_is_named(
    authority: trustme.CA, ca_file: Path
) -> None:
    async with serving(tls=server_context(authority)) as (url, _):
        assert isinstance(await asked(url, ca_file=ca_file), Answer)


async def test_an_authority_that_nobody_named_is_not_trusted(authority: trustme.CA) -> None:
    async with serving(tls=server_context(authority)) as (url, _):
        failure = await asked(url)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.ambiguous) == ("tls", False)
    assert "certificate verify failed" in failure.detail


async def test_a_certificate_of_another_host_is_not_trusted(
    authority: trustme.CA, ca_file: Path
) -> None:
    async with serving(tls=server_context(authority, "other.example")) as (url, _):
        failure = await asked(url, ca_file=ca_file)
    assert isinstance(failure, Failure)
    assert failure.kind == "tls"


@pytest.mark.parametrize("in_one_file", [True, False])
async def test_our_own_certificate_is_shown_to_a_server_that_wants_one(
    authority: trustme.CA, ca_file: Path, tmp_path: Path, *, in_one_file: bool
) -> None:
    context = server_context(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    own = authority.issue_cert("client@example.org")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(own.cert_chain_pems[0].bytes())
    key.write_bytes(own.private_key_pem.bytes())
    options: dict[str, Any] = {"client_cert": cert, "client_key": key}
    if in_one_file:
        cert.write_bytes(cert.read_bytes() + key.read_bytes())
        del options["client_key"]
    async with serving(tls=context) as (url, _):
        assert isinstance(await asked(url, ca_file=ca_file, **options), Answer)
        assert isinstance(await asked(url, ca_file=ca_file), Failure)


def test_files_that_hold_nothing_of_the_kind_are_named(
    authority: trustme.CA, tmp_path: Path
) -> None:
    junk = tmp_path / "junk"
    junk.write_text("nothing")
    one, other = authority.issue_cert("a.example"), authority.issue_cert("b.example")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(one.cert_chain_pems[0].bytes())
    key.write_bytes(other.private_key_pem.bytes())
    for complaint, options in (
        ("--ca-file: .*junk does not hold", {"ca_file": junk}),
        ("--ca-file: .*gone", {"ca_file": tmp_path / "gone"}),
        ("--client-cert: .*junk does not hold", {"client_cert": junk}),
        ("--client-cert: .*does not hold", {"client_cert": cert, "client_key": key}),
        ("--client-cert: .*gone", {"client_cert": cert, "client_key": tmp_path / "gone"}),
        ("--client-key goes with", {"client_key": key}),
    ):
        with pytest.raises(UsageError, match=complaint):
            HttpTransport("https://bridge.example", **options)  # type: ignore[arg-type]


async def test_headers_of_ones_own_are_sent_with_each_request() -> None:
    async with serving() as (url, seen):
        await asked(url, token="t", headers=[("X-Team", SECRET)])
    assert seen.headers[0]["X-Team"] == SECRET
    assert seen.headers[0]["Authorization"] == "Bearer t"


async def test_a_headers_value_is_a_secret() -> None:
    async def repeat(request: web.Request) -> web.StreamResponse:
        return web.Response(status=400, text=f"bad {request.headers['X-Key']}")

    async with serving(answer=repeat) as (url, _):
        answer = await asked(url, headers=[("X-Key", SECRET)])
    assert isinstance(answer, Answer)
    assert answer.body == b"bad ***"


async def test_a_short_value_of_a_header_does_not_garble_answers() -> None:
    async def name_the_guilty(request: web.Request) -> web.StreamResponse:
        del request
        return web.Response(status=400, text="messages[11]")

    async with serving(answer=name_the_guilty) as (url, _):
        answer = await asked(url, headers=[("X-Version", "1")])
    assert isinstance(answer, Answer)
    assert answer.body == b"messages[11]"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", "x"),
        ("content-length", "x"),
        ("Host", "x"),
        ("Transfer-Encoding", "x"),
        ("a b", "x"),
        ("", "x"),
        ("X-A", "a\r\nb: c"),
        ("X-A", "\u00e9"),
    ],
)
def test_a_header_that_is_ours_or_none_is_a_usage_error(name: str, value: str) -> None:
    with pytest.raises(UsageError, match="--header"):
        HttpTransport("http://bridge.example", headers=[(name, value)])


@asynccontextmanager
async def proxy(*, answers: bytes | None = None) -> AsyncIterator[tuple[str, Seen]]:
    """A proxy that connects, or that gives a fixed answer."""
    seen = Seen()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        seen.lines.append(head)
        if answers is not None:
            writer.write(answers)
            writer.close()
            return
        target = head.split()[1]
        host, _, port = target.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        async with asyncio.TaskGroup() as group:
            group.create_task(pump(reader, far_writer))
            group.create_task(pump(far_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", seen
    finally:
        server.close()


async def test_https_goes_through_the_proxy_and_credentials_go_to_the_proxy_only(
    authority: trustme.CA, ca_file: Path
) -> None:
    async with serving(tls=server_context(authority)) as (url, seen), proxy() as (at, asked_for):
        options = {"ca_file": ca_file, "proxy": f"http://me:{SECRET}@{at}"}
        assert isinstance(await asked(url, **options), Answer)
    assert asked_for.lines[0].startswith(f"CONNECT {url.removeprefix('https://')}")
    assert "Proxy-Authorization: Basic" in asked_for.lines[0]
    assert "Proxy-Authorization" not in seen.headers[0]


async def test_a_proxy_that_refuses_is_named_without_its_password() -> None:
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    async with proxy(answers=refusal) as (at, _):
        failure = await asked("https://bridge.example", proxy=f"http://me:{SECRET}@{at}")
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.ambiguous) == ("connect", False)
    assert f"the proxy http://{at}" in failure.detail
    assert "407" in failure.detail
    assert SECRET not in failure.detail


async def test_a_proxy_that_is_not_there_is_named_without_its_password() -> None:
    failure = await asked("https://bridge.example", proxy=f"http://me:{SECRET}@127.0.0.1:9")
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.ambiguous) == ("connect", False)
    assert "the proxy http://127.0.0.1:9" in failure.detail
    assert SECRET not in failure.detail


@pytest.mark.parametrize("address", [f"socks5://me:{SECRET}@x", f"https://{SECRET}@x", "http://"])
def test_a_proxy_that_cannot_be_used_is_a_usage_error_without_its_address(address: str) -> None:
    with pytest.raises(UsageError, match="proxy") as raised:
        HttpTransport("https://bridge.example", proxy=address)
    assert SECRET not in str(raised.value)


async def test_why_there_is_no_new_token_is_in_the_answer() -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        is_refresh = request.path == "/oauth/v1/token"
        text = "the refresh token was revoked" if is_refresh else "expired"
        return web.json_response({"message": text}, status=400 if is_refresh else 401)

    async with serving(answer=refuse) as (url, _):
        answer = await asked(url, token="old", refresher=Refresher("id", SECRET, "refresh-me"))
    assert isinstance(answer, Answer)
    assert answer.status == 401
    assert b"expired" in answer.body
    assert b"no new token: " in answer.body
    assert b"the refresh token was revoked" in answer.body


async def test_a_large_body_arrives_whole_and_with_its_length() -> None:
    arrived: list[bytes] = []

    async def take(request: web.Request) -> web.StreamResponse:
        arrived.append(await request.read())
        return web.Response(status=204)

    body = bytes(range(256)) * 20_000
    async with serving(answer=take) as (url, seen), HttpTransport(url) as transport:
        await transport.request("PUT", "/x", body=body)
    assert arrived == [body]
    assert seen.headers[0]["Content-Length"] == str(len(body))
    assert "Transfer-Encoding" not in seen.headers[0]
