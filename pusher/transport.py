"""The door to the endpoint, over HTTP. The only file on the pushing path that knows aiohttp.

It sends a request once and says what came back; foreign exceptions become values here, without
secrets. Retrying is the sender's matter; only a 401 is, with a new token, tried again here.
"""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote, urlsplit

import aiohttp
import anyio
import msgspec
import yarl
from aiohttp import hdrs

from pusher.errors import UsageError
from pusher.model import Answer, Failure
from pusher.protocol import error_text
from pusher.refreshing import TOKEN_PATH, Refresher
from pusher.time_limit import TimeLimit
from pusher.tls import client_context
from pusher.version import __version__

__all__ = ["HttpTransport", "checked_url", "is_loopback"]

ANSWER_BYTES_MAX = 8 << 20
SECRET_CHARS_MIN = 6
KEEPALIVE_S = 30.0

_LARGE_BODY_BYTES = 1 << 20
_UNLIMITED_S = 1e9
_PIECE_BYTES = 1 << 16


def checked_url(url: str, name: str = "--url") -> str:
    """The base address without a trailing slash; `name` is what an error calls it.

    Raises:
        UsageError: it is not an http or https address, or it carries credentials or a query.
    """
    if "@" in url or "?" in url or "#" in url:
        # It is not shown: what is in it may be a secret.
        raise UsageError(
            f"{name} must have no user name, query or fragment; use --token or --api-key"
        )
    if not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(f"{name} must be printable ASCII without spaces")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{name} is not an address: {url[:100]!r}") from error
    if parts.scheme not in {"http", "https"}:
        raise UsageError(f"{name} must begin with http:// or https://, not {url[:100]!r}")
    if not host:
        raise UsageError(f"{name} names no host: {url[:100]!r}")
    return url.rstrip("/")


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own."""
    host = (urlsplit(url).hostname or "").lower()
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class HttpTransport:
    """Sends requests to one bridge, over kept-alive connections. An async context manager.

    Args:
        url: base address of the bridge, with or without a path.
        token: sent as `Authorization: Bearer`.
        api_key: sent as the query parameter `hapikey`.
        timeout_s: for a whole request and its answer; 0 is no limit.
        connect_timeout_s: for the connection alone.
        refresher: gets a new token on a 401, whereupon the request is sent once more.
        ca_file: trust the authorities in this PEM file only.
        client_cert: PEM file with the client's certificate.
        client_key: PEM file with its key, where that is not in the same file.
        headers: names and values that each request to the bridge carries besides.
        proxy: address of an HTTP proxy; its credentials, where it has some, go to the proxy only.

    Raises:
        UsageError: an address, a file or a header cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        connect_timeout_s: float = 10.0,
        refresher: Refresher | None = None,
        ca_file: Path | None = None,
        client_cert: Path | None = None,
        client_key: Path | None = None,
        headers: Sequence[tuple[str, str]] = (),
        proxy: str | None = None,
    ) -> None:
        self._base = checked_url(url)
        self._tls = client_context(ca_file, client_cert, client_key)
        self._refresher = refresher
        self._token_url = ""
        if refresher is not None:
            address = refresher.token_url or self._base + TOKEN_PATH
            self._token_url = checked_url(address, "token_url")
        self._secrets: set[str] = set()
        self._proxy, self._proxy_headers = self._proxy_of(proxy)
        self._own_headers = {_checked_name(name): _checked(value) for name, value in headers}
        # A short value is no secret, and hiding each "1" would garble answers.
        self._keep_secret(*(v for v in self._own_headers.values() if len(v) >= SECRET_CHARS_MIN))
        self._keep_secret(token, api_key, *(refresher.secrets if refresher else ()))
        self._credential_query = f"hapikey={quote(api_key, safe='')}" if api_key else ""
        self._headers = {
            "User-Agent": f"pusher/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
        self._token = token
        self._headers_of_token = self._headers_with(token)
        self._refreshing = asyncio.Lock()
        self._refreshes = 0
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._urls: dict[tuple[str, str], yarl.URL] = {}
        self._session: aiohttp.ClientSession | None = None
        self._time_limit: TimeLimit | None = None

    def __repr__(self) -> str:
        return f"<HttpTransport to {self._base}>"

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, ssl=self._tls),
            # How long a whole request may take is for `TimeLimit`.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        # It would send a request again by itself when a connection breaks, unseen and uncounted.
        self._session._retry_connection = False  # noqa: SLF001
        self._time_limit = TimeLimit(self._timeout_s or _UNLIMITED_S)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def request(
        self, method: str, path: str, *, query: str = "", body: bytes | None = None
    ) -> Answer | Failure:
        """Send one request, once (see `Transport`); after a refresh, once more."""
        url, has_body = self._url(path, query), body is not None
        token, refreshes = self._token, self._refreshes
        answer = await self._exchange(method, url, self._headers_of_token[has_body], body)
        if isinstance(answer, Failure) or answer.status != 401 or self._refresher is None:
            return answer
        if await self._has_new_token(token, refreshes):
            return await self._exchange(method, url, self._headers_of_token[has_body], body)
        text = f"{error_text(answer)}; no new token: {self._refresher.trouble}"
        return msgspec.structs.replace(answer, body=msgspec.json.encode({"message": text}))

    async def _has_new_token(self, refused: str | None, refreshes: int) -> bool:
        """Refresh, unless that was tried while this request was under way: one refresh for all."""
        if self._refresher is None:
            return False
        async with self._refreshing:
            if self._refreshes == refreshes:
                # Not to be cut off: the old refresh token may be void once this was answered.
                with anyio.CancelScope(shield=True):
                    await self._refresh(self._refresher)
                self._refreshes += 1
        return self._token != refused

    async def _refresh(self, refresher: Refresher) -> None:
        url = yarl.URL(self._token_url, encoded=True)
        answer = await self._exchange("POST", url, _FORM_HEADERS, refresher.form(), is_secret=True)
        if isinstance(answer, Failure):
            refresher.trouble = f"{answer.kind}: {answer.detail}"
        elif answer.status != 200:
            refresher.trouble = error_text(
                Answer(answer.status, self._without_secrets(answer.body))
            )
        elif refresher.accept(answer.body) and refresher.tokens is not None:
            self._token = refresher.tokens.access_token
            self._headers_of_token = self._headers_with(self._token)
            self._keep_secret(*refresher.secrets)

    async def _exchange(
        self,
        method: str,
        url: yarl.URL,
        headers: dict[str, str],
        body: bytes | None,
        *,
        is_secret: bool = False,
    ) -> Answer | Failure:
        """One request and its answer; `is_secret` where the answer is meant to hold a secret."""
        if self._session is None or self._time_limit is None:
            raise RuntimeError("HttpTransport is used before it is entered")
        data: bytes | AsyncIterator[memoryview] | None = body
        if body is not None and len(body) > _LARGE_BODY_BYTES:
            # Other requests go on meanwhile. (A BytesIO would be copied.)
            data = _in_pieces(body)
            headers = {**headers, "Content-Length": str(len(body))}
        try:
            with self._time_limit:
                response = await self._session.request(
                    method,
                    url,
                    data=data,
                    headers=headers,
                    allow_redirects=False,
                    proxy=self._proxy,
                    proxy_headers=self._proxy_headers,
                )
                status = response.status
                try:
                    answer = b"" if status == 204 else await _read(response)
                finally:
                    response.release()
            if answer and not is_secret:
                is_data = 200 <= status < 300 and answer[:1] in {b"{", b"["}
                answer = answer if is_data else self._without_secrets(answer)
            found = response.headers
            return Answer(status, answer, found.get(hdrs.RETRY_AFTER), found.get(hdrs.DATE))
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            return self._failure(error)

    def _url(self, path: str, query: str) -> yarl.URL:
        url = self._urls.get((path, query))
        if url is None:
            text = "&".join(part for part in (query, self._credential_query) if part)
            text = f"{self._base}{path}?{text}" if text else self._base + path
            url = yarl.URL(text, encoded=True)
            if len(self._urls) < 64:  # Enough for every path but those that name an object.
                self._urls[path, query] = url
        return url

    def _headers_with(self, token: str | None) -> tuple[dict[str, str], dict[str, str]]:
        """The headers of a request to the bridge: without a body, and with one."""
        headers = dict(self._own_headers)
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return headers, {**headers, **_JSON_HEADERS}

    def _proxy_of(self, proxy: str | None) -> tuple[yarl.URL | None, dict[str, str]]:
        """The proxy's address without its credentials, and the header with these."""
        if proxy is None:
            return None, {}
        try:
            url = yarl.URL(proxy)
        except ValueError as error:
            raise UsageError("the proxy's address cannot be used") from error
        if url.scheme != "http" or not url.host:
            # It is not shown: what is in it may be a secret.
            raise UsageError("the proxy's address must begin with http:// and name a host")
        headers = {}
        if url.user is not None:
            credentials = b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
            headers["Proxy-Authorization"] = f"Basic {credentials}"
            self._keep_secret(url.password, credentials)
        return url.with_user(None), headers

    def _keep_secret(self, *secrets: str | None) -> None:
        for secret in filter(None, secrets):
            self._secrets |= {secret, quote(secret), quote(secret, safe="")}

    def _without_secrets(self, text: bytes) -> bytes:
        """An endpoint may repeat a credential, and answers end up in reports."""
        for secret in self._secrets if text else ():
            text = text.replace(secret.encode(), b"***")
        return text

    def _failure(self, error: Exception) -> Failure:
        kind, ambiguous = _kind_of(error)
        # The text of a response error would show the whole address.
        detail = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
        if isinstance(error, (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError)):
            answered = f" answers {error.status}" if hasattr(error, "status") else ""
            detail = f"the proxy {self._proxy}{answered}: {detail}"
        if kind == "timeout":
            limit_s = self._timeout_s if ambiguous else self._connect_timeout_s
            detail = f"no {'answer' if ambiguous else 'connection'} within {limit_s:g} s"
        detail = self._without_secrets(" ".join(detail.split()).encode()).decode()[:300]
        return Failure(kind, detail or type(error).__name__, ambiguous)


_OURS = frozenset(
    {
        "accept-encoding",
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "proxy-authorization",
        "transfer-encoding",
        "upgrade",
    }
)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _checked_name(name: str) -> str:
    if not _HEADER_NAME.fullmatch(name):
        raise UsageError(f"--header: {name[:100]!a} is not the name of a header")
    if name.lower() in _OURS:
        raise UsageError(f"--header: {name} is set by pusher itself")
    return name


def _checked(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise UsageError("--header: a value must be printable ASCII")
    return value


_JSON_HEADERS = {"Content-Type": "application/json"}
_FORM_HEADERS = {"Content-Type": "application/x-www-form-urlencoded"}


async def _in_pieces(body: bytes) -> AsyncIterator[memoryview]:
    view = memoryview(body)
    for start in range(0, len(view), _PIECE_BYTES):
        yield view[start : start + _PIECE_BYTES]


async def _read(response: aiohttp.ClientResponse) -> bytes:
    if response.content_length == 0:
        return b""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > ANSWER_BYTES_MAX:
            response.close()
            raise aiohttp.ClientPayloadError(f"the answer is larger than {ANSWER_BYTES_MAX} bytes")
    return b"".join(parts)


def _kind_of(
    error: Exception,
) -> tuple[Literal["connect", "timeout", "reset", "protocol", "tls"], bool]:
    """Name a failure, and say whether the request may have been applied all the same."""
    if isinstance(
        error, (aiohttp.ClientConnectorSSLError, aiohttp.ClientConnectorCertificateError)
    ):
        return "tls", False
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "timeout", False
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError)):
        return "connect", False
    if isinstance(error, asyncio.TimeoutError):
        return "timeout", True
    if isinstance(error, (aiohttp.ClientResponseError, aiohttp.InvalidURL)):
        return "protocol", True
    return "reset", True
