"""The door through which an import is asked for: it serves the webhook and verifies who calls.

It knows HTTP and the signature; what is answered is the caller's decision.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Self

import msgspec
import orjson
from aiohttp import web

from pusher.errors import DiskError, UsageError
from pusher.protocol import ImportRequest, decode_import_request

__all__ = ["Webhook", "signature_v2"]

BODY_BYTES_MAX = 1 << 20
_SHUTDOWN_S = 2.0

_log = logging.getLogger("pusher")

Counts = dict[str, int]


def signature_v2(client_secret: str, method: str, uri: str, body: bytes) -> str:
    """HubSpot's request signature, version 2, in hexadecimal."""
    return hashlib.sha256(f"{client_secret}{method}{uri}".encode() + body).hexdigest()


class Webhook:
    """Serves the import webhook, on every path. An async context manager.

    Args:
        host: where to listen.
        port: where to listen; 0 picks a free one.
        answer: the counts per type for a request, or None while another import is under way.
        client_secret: of the application; with it, only requests that it signed are answered.
        public_uri: the webhook's address as the bridge knows it, when that is not the one that a
            request names: behind a proxy or a tunnel.
    """

    def __init__(
        self,
        host: str,
        port: int,
        answer: Callable[[ImportRequest], Counts | None],
        *,
        client_secret: str | None = None,
        public_uri: str | None = None,
    ) -> None:
        self.url = ""
        self._host = host
        self._port = port
        self._answer = answer
        self._client_secret = client_secret
        self._public_uri = public_uri
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        """Begin to listen.

        Raises:
            UsageError: the address cannot be listened on.
        """
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_post("/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise UsageError(f"--listen: {self._host}:{self._port}: {error.strerror}") from error
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"http://{host}:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.Response:
        if "Sec-Fetch-Site" in request.headers or "Origin" in request.headers:
            return _refusal(403, "the webhook is not for browsers")
        body = await request.read()
        if not self._is_signed(request, body):
            _log.warning("a request to the webhook was refused: it is not signed as it should be")
            return _refusal(401, "X-HubSpot-Signature (v2) is missing or wrong")
        try:
            asked = decode_import_request(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return _refusal(400, f"not an import request: {error}")
        try:
            counts = self._answer(asked)
        except DiskError as error:
            _log.error("the import cannot begin: %s", error)
            return _refusal(503, "the import cannot begin here now")
        if counts is None:
            return _refusal(409, "another import is under way")
        return _json(
            200,
            {
                "importCounts": [
                    {"settingsId": part.settings_id, "count": counts.get(part.object_type, 0)}
                    for part in asked.settings_to_import
                ]
            },
        )

    def _is_signed(self, request: web.Request, body: bytes) -> bool:
        if self._client_secret is None:
            return True
        if request.headers.get("X-HubSpot-Signature-Version", "v2") != "v2":
            return False
        uri = self._public_uri or f"{request.scheme}://{request.host}{request.raw_path}"
        expected = signature_v2(self._client_secret, request.method, uri, body)
        given = request.headers.get("X-HubSpot-Signature", "")
        # In constant time, so that the answer's delay does not spell the signature.
        return hmac.compare_digest(given.encode(errors="replace"), expected.encode())


def _refusal(status: int, message: str) -> web.Response:
    return _json(status, {"status": "error", "message": message})


def _json(status: int, value: object) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(value), content_type="application/json")
