"""Let requests to the API go wrong as a plan says. It decides nothing and knows no endpoint.

The bridge's own paths and the console are never touched: a rehearsal must be watchable.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import struct
import time
import uuid
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

import orjson
from aiohttp import web
from aiohttp.typedefs import Middleware

from pusher.bridge.faults import FaultKind, FaultPlan

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_PREFIX: Final = "/extensions/"
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time.
_PAGE: Final = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body></body>\r\n</html>"
_MESSAGES: Final = {
    429: "You have reached your secondly limit.",
    500: "Internal error",
    502: "Bad gateway",
    503: "The service is temporarily unavailable",
    504: "The request took too long",
}
_log = logging.getLogger(__name__)


def faults_middleware(plan: FaultPlan) -> Middleware:
    """A middleware that must be the outermost one: it takes answers apart."""
    numbers = itertools.count()

    @web.middleware
    async def fail(request: web.Request, handler: _Handler) -> web.StreamResponse:
        if not request.path.startswith(_PREFIX):
            return await handler(request)
        number = next(numbers)
        kind = plan.fault(number)
        if kind is None:
            return await handler(request)
        _log.info("request %d, %s %s: %s on purpose", number, request.method, request.path, kind)
        if kind is FaultKind.RESET_BEFORE:
            return _reset(request)
        if kind.status is not None:
            async for _ in request.content.iter_any():
                pass  # A client that is still sending would see a reset instead of the answer.
            return _instead(kind, plan.retry_after_header(number, time.time()))
        answer = await handler(request)
        if kind is FaultKind.RESET_AFTER:
            return _reset(request)
        if kind is FaultKind.TRUNCATED:
            return _truncate(request, answer)
        await asyncio.sleep(plan.slow_s)
        return answer

    return fail


def _instead(kind: FaultKind, retry_after: str | None) -> web.Response:
    status = kind.status or 500
    if kind is FaultKind.HTML:
        return web.Response(body=_PAGE, status=status, content_type="text/html")
    body: dict[str, Any] = {
        "status": "error",
        "message": f"{_MESSAGES[status]} (on purpose: --faults)",
        "correlationId": str(uuid.uuid4()),
        "category": "RATE_LIMITS" if status == 429 else HTTPStatus(status).name,
    }
    if status == 429:
        body |= {"errorType": "RATE_LIMIT", "policyName": "TEN_SECONDLY_ROLLING"}
    answer = web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
    if retry_after is not None and status in {429, 503}:
        answer.headers["Retry-After"] = retry_after
    return answer


def _reset(request: web.Request) -> web.Response:
    """End the connection by a reset, as a crashed server or an impatient proxy does."""
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()
    return web.Response()  # It goes nowhere.


def _truncate(request: web.Request, answer: web.StreamResponse) -> web.Response:
    """Send the head and half of the body; of an answer without a body, half of its head."""
    body = answer.body if isinstance(answer, web.Response) else b""
    body = body if isinstance(body, bytes) else b""
    head = f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"
    if body:
        head += f"Content-Type: {answer.content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    whole = head.encode()
    sent = whole + body[: len(body) // 2] if body else whole[: len(whole) // 2]
    if request.transport is not None:
        request.transport.write(sent)
        request.transport.close()
    return web.Response()  # It goes nowhere.
