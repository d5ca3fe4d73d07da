"""The routes, and one JSON form for every refusal. It does no work of its own."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from aiohttp import web

from pusher.bridge import endpoints, import_endpoints, management, openapi
from pusher.bridge.auth import Gate
from pusher.bridge.browsers import refuse_foreign_pages
from pusher.bridge.console import add_console
from pusher.bridge.endpoints import GATE, PREFIX, SERVICES, json_answer
from pusher.bridge.failing import faults_middleware
from pusher.bridge.refusals import RefusalError, error_body, invalid
from pusher.bridge.services import Services

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_log = logging.getLogger(__name__)

_ROUTES: Final[tuple[tuple[str, str, _Handler], ...]] = (
    ("PUT", f"{PREFIX}/sync/messages", endpoints.put_messages),
    ("GET", f"{PREFIX}/sync/errors", endpoints.get_errors),
    ("GET", f"{PREFIX}/sync/errors/portal", endpoints.get_portal_errors),
    ("GET", f"{PREFIX}/sync/errors/app/{{appId}}", endpoints.get_app_errors),
    ("PUT", f"{PREFIX}/settings", endpoints.put_settings),
    ("GET", f"{PREFIX}/settings", endpoints.get_settings),
    ("DELETE", f"{PREFIX}/settings", endpoints.delete_settings),
    ("PUT", f"{PREFIX}/stores", endpoints.put_store),
    ("GET", f"{PREFIX}/stores", endpoints.get_stores),
    ("GET", f"{PREFIX}/stores/{{storeId:.+}}", endpoints.get_store),
    ("DELETE", f"{PREFIX}/stores/{{storeId:.+}}", endpoints.delete_store),
    ("POST", f"{PREFIX}/imports/page", import_endpoints.post_page),
    ("POST", f"{PREFIX}/imports/end", import_endpoints.post_end),
    ("POST", "/_bridge/imports", import_endpoints.start_import),
    ("GET", "/_bridge/imports", import_endpoints.get_imports),
    ("GET", "/_bridge/imports/{importId}", import_endpoints.get_import),
    ("DELETE", "/_bridge/imports/{importId}", import_endpoints.delete_import),
    ("GET", "/openapi.json", openapi.get_document),
    ("GET", "/_bridge/objects/{objectType}", management.get_objects),
    ("GET", "/_bridge/stats", management.get_stats),
    ("GET", "/_bridge/overview", management.get_overview),
    ("GET", "/_bridge/errors", management.get_errors),
    ("GET", "/_bridge/properties", management.get_properties),
    ("PUT", "/_bridge/properties", management.put_properties),
    ("GET", "/_bridge/portal", management.get_portal),
    ("PUT", "/_bridge/portal", management.put_portal),
)


def make_app(services: Services, gate: Gate) -> web.Application:
    """The web application of one bridge."""
    faults = services.config.faults
    outermost = [faults_middleware(faults)] if faults is not None else []
    app = web.Application(
        middlewares=[*outermost, _answer, _guard], client_max_size=services.config.max_body_bytes
    )
    app[SERVICES] = services
    app[GATE] = gate
    add_console(app)
    for method, path, handler in _ROUTES:
        app.router.add_route(method, path, handler)
        # pshubspot's pages ask with a slash at the end.
        app.router.add_route(method, f"{path}/", handler)
    # The rest of the path may hold slashes and is taken apart by the endpoint.
    app.router.add_route("GET", f"{PREFIX}/sync/status/{{path:.*}}", endpoints.get_status)
    return app


@web.middleware
async def _answer(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Answer every refusal in HubSpot's form, and every answer after the configured latency."""
    try:
        answer = await handler(request)
    except RefusalError as refusal:
        # Without the query: it may hold a key.
        _log.info("%s %s: %d %s", request.method, request.path, refusal.status, refusal.message)
        answer = _refuse(refusal)
    except web.HTTPException as error:
        answer = _refuse(_from_http(error))
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
    except (web.RequestPayloadError, ConnectionError) as error:
        answer = _refuse(invalid(f"The request body did not arrive whole: {error}"))
    except sqlite3.Error:
        # Most likely a full disk. Nothing was answered with a 204 that is not queued.
        _log.exception("%s %s failed", request.method, request.path)
        answer = _refuse(RefusalError(503, "The database is not available", "UNAVAILABLE"))
    except Exception:  # noqa: BLE001  # A client gets the form of the API even then.
        _log.exception("%s %s failed", request.method, request.path)
        answer = _refuse(RefusalError(500, "Internal error", "INTERNAL_ERROR"))
    latency_s = request.app[SERVICES].config.latency_s
    if latency_s:
        await asyncio.sleep(latency_s)
    return answer


@web.middleware
async def _guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Keep the pages of other sites away, before anything looks at the request."""
    is_open = not request.app[GATE].is_enforced
    refuse_foreign_pages(request.method, request.headers, is_open=is_open)
    return await handler(request)


def _refuse(refusal: RefusalError) -> web.Response:
    return json_answer(error_body(refusal), refusal.status)


def _from_http(error: web.HTTPException) -> RefusalError:
    """Our form of what aiohttp refuses by itself: unknown paths and methods, bodies too large."""
    messages = {
        404: "There is no such resource",
        405: "The method is not allowed here",
        413: f"The request body is too large: {error.text}",
    }
    message = messages.get(error.status, error.reason)
    return RefusalError(error.status, message, HTTPStatus(error.status).name)
