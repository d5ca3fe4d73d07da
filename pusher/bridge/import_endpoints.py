"""The endpoints of imports: requests -> calls of the running parts -> answers. No SQL."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from pusher.bridge.auth import Realm
from pusher.bridge.endpoints import GATE, SERVICES, admit, json_answer
from pusher.bridge.model import NO_APP
from pusher.bridge.refusals import Problem, invalid, not_found
from pusher.bridge.validation import (
    MAX_LONG,
    ImportStart,
    decode,
    decode_end,
    decode_page,
    query_int,
)
from pusher.bridge.webhook import can_be_called

MAX_IMPORTS: Final = 200  # Of one answer; some are all that a console shows.
_SOME_IMPORTS: Final = 20


async def post_page(request: web.Request) -> web.Response:
    """204 when the page is safely kept; it is processed when all four types have ended."""
    app_id = _client(request)
    page = decode_page(await request.read())
    await request.app[SERVICES].importing.take_page(app_id, page)
    return web.Response(status=204)


async def post_end(request: web.Request) -> web.Response:
    """204 when all pages of the type are there."""
    app_id = _client(request)
    end = decode_end(await request.read())
    await request.app[SERVICES].importing.take_end(app_id, end)
    return web.Response(status=204)


def _client(request: web.Request) -> int | None:
    """The application that imports; None on an open bridge that was shown no token."""
    caller = admit(request, Realm.IMPORTS)
    return None if caller.app_id == NO_APP else caller.app_id


async def start_import(request: web.Request) -> web.Response:
    """What the user does in HubSpot with "Continue importing"."""
    admit(request, Realm.MANAGEMENT)
    services = request.app[SERVICES]
    wanted = decode(await request.read(), ImportStart)
    app_id = services.config.app_id if wanted.app_id is None else wanted.app_id
    if not request.app[GATE].knows_app(app_id):
        raise invalid(
            f"Invalid request: appId: there is no application {app_id}",
            Problem("there is no such application", "appId"),
        )
    store_id = str(wanted.store_id)
    if not services.account.has_store(store_id):
        problem = Problem(f"there is no store {store_id!r}", "storeId")
        raise invalid(f"Invalid request: storeId: {problem.message}", problem)
    settings = services.account.effective_settings(app_id)
    uri = settings.webhook_uri if settings is not None else None
    if uri is None or not can_be_called(uri):
        raise invalid(
            f"The settings of application {app_id} have no webhookUri that can be called: an"
            " absolute http or https address",
            Problem("is missing or cannot be called", "webhookUri"),
        )
    started = await services.importing.start(app_id, store_id, uri)
    return json_answer(await services.importing.look(lambda on: on.document(started.id)), 201)


async def get_imports(request: web.Request) -> web.Response:
    """The latest imports, newest first."""
    admit(request, Realm.MANAGEMENT)
    limit = query_int(request.query, "limit", 1, MAX_IMPORTS) or _SOME_IMPORTS
    return json_answer(await request.app[SERVICES].importing.look(lambda on: on.documents(limit)))


async def get_import(request: web.Request) -> web.Response:
    """One import: its state, and per type what is expected, received and processed."""
    admit(request, Realm.MANAGEMENT)
    import_id = _import_id(request)
    look = request.app[SERVICES].importing.look
    return json_answer(await look(lambda on: on.document(import_id)))


async def delete_import(request: web.Request) -> web.Response:
    """Cancel an import that has not begun to be processed."""
    admit(request, Realm.MANAGEMENT)
    await request.app[SERVICES].importing.cancel(_import_id(request))
    return web.Response(status=204)


def _import_id(request: web.Request) -> int:
    import_id = query_int(request.match_info, "importId", 1, MAX_LONG)
    if import_id is None:
        raise not_found("There is no such import")
    return import_id
