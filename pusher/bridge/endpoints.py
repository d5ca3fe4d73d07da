"""The endpoints of the reference: requests -> calls of the running parts -> answers. No SQL."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

import msgspec
import orjson
from aiohttp import web

from pusher.bridge.auth import Caller, Gate, Realm
from pusher.bridge.model import NO_APP, OBJECT_TYPES, ObjectType, QueuedBatch
from pusher.bridge.refusals import Problem, invalid, not_found
from pusher.bridge.services import Services
from pusher.bridge.validation import (
    MAX_LONG,
    PROVIDED_PROPERTIES,
    PropertyMapping,
    Settings,
    TypeMappings,
    as_object_type,
    decode_settings,
    decode_store,
    decode_sync,
    query_error_type,
    query_flag,
    query_int,
    query_object_type,
)
from pusher.bridge.views import ErrorQuery

PREFIX: Final = "/extensions/ecomm/v2"
SERVICES: Final = web.AppKey("services", Services)
GATE: Final = web.AppKey("gate", Gate)
MAX_ERRORS: Final = 200  # "integer, max 200"


def json_answer(value: Any, status: int = 200) -> web.Response:
    """An answer with a JSON body; never compressed, which hubspot3 could not read."""
    body = orjson.dumps(value, default=msgspec.to_builtins)
    return web.Response(body=body, status=status, content_type="application/json")


def admit(request: web.Request, realm: Realm, app_id: int | None = None) -> Caller:
    """Let the caller in or raise a 401 or 403; `app_id` is the application that is asked for."""
    return request.app[GATE].admit(realm, request.headers, request.query, app_id)


async def put_messages(request: web.Request) -> web.Response:
    """204 when the batch is safely queued; what becomes of it shows in status and errors."""
    caller = admit(request, Realm.ACCOUNT)
    services = request.app[SERVICES]
    body = await request.read()
    sync = decode_sync(body)
    store_id = str(sync.store_id)
    if not services.account.has_store(store_id):
        # The reference has no error type for it, so it is refused at the door.
        problem = Problem(f"there is no store {store_id!r}", "storeId")
        raise invalid(f"Invalid request: storeId: {problem.message}", problem)
    if sync.messages:
        batch = QueuedBatch(
            object_type=sync.object_type,
            app_id=caller.app_id,
            received_at_ms=time.time_ns() // 1_000_000,
            message_count=len(sync.messages),
            body=body,
        )
        await services.intake.put(batch)
        services.workers.wake(sync.object_type)
    return web.Response(status=204)


async def get_status(request: web.Request) -> web.Response:
    """The status of one object, with the path in either order."""
    admit(request, Realm.ACCOUNT)
    services = request.app[SERVICES]
    object_type, store_id, external_id = _status_path(request.rel_url.raw_path)
    status = await services.look(partial(services.views.status, object_type, store_id, external_id))
    if status is None:
        # Clients take a 400 as "not processed yet"; no 404 has been seen here.
        raise invalid(
            f"No sync status for {object_type} {external_id!r} of store {store_id!r}",
            Problem("has not been processed", "externalObjectId"),
        )
    return json_answer(status)


def _status_path(raw_path: str) -> tuple[ObjectType, str, str]:
    tail = raw_path.removeprefix(f"{PREFIX}/sync/status/")
    # hubspot3 and others put ids into the path unquoted: what a slash in them splits off belongs
    # to the id. One slash at the very end is no part of it.
    segments = tail.removesuffix("/").split("/", 2)
    try:
        decoded = [unquote(segment, errors="strict") for segment in segments]
    except UnicodeDecodeError as error:
        problem = Problem("is not UTF-8", "externalObjectId")
        raise invalid("The path is not UTF-8", problem) from error
    if len(decoded) < 3 or not all(decoded):
        raise not_found(
            "A sync status is at /sync/status/{objectType}/{storeId}/{externalObjectId}"
        )
    first, second, external_id = decoded
    # The reference prints the type first, HubSpot's method page and all clients the store.
    # A store that is named like a type is read in the reference's order.
    if first not in OBJECT_TYPES and second in OBJECT_TYPES:
        first, second = second, first
    return as_object_type(first), second, external_id


async def get_errors(request: web.Request) -> web.Response:
    """Errors that the caller may see: an application's own, or all of the account."""
    return await _errors(request, admit(request, Realm.ACCOUNT).app_id)


async def get_portal_errors(request: web.Request) -> web.Response:
    """Errors of the account."""
    admit(request, Realm.ACCOUNT)
    return await _errors(request, NO_APP)


async def get_app_errors(request: web.Request) -> web.Response:
    """Errors of one application."""
    app_id = query_int(request.match_info, "appId", 1, MAX_LONG)
    admit(request, Realm.APPLICATION, app_id)
    return await _errors(request, app_id or NO_APP)


async def _errors(request: web.Request, app_id: int) -> web.Response:
    services = request.app[SERVICES]
    query = request.query
    # Two families of parameters are in use. `page` is the number of a record counted from 1, not
    # of a page: hubspot3 adds the limit to it.
    page = query_int(query, "page", 1, MAX_LONG)
    offset = query_int(query, "offset", 0, MAX_LONG - MAX_ERRORS)
    wanted = ErrorQuery(
        app_id=app_id,
        object_type=query_object_type(query),
        error_type=query_error_type(query),
        with_resolved=query_flag(query, "includeResolved")
        | query_flag(query, "showResolvedErrors"),
        offset=page - 1 if page is not None else offset or 0,
        limit=query_int(query, "limit", 1, MAX_ERRORS) or MAX_ERRORS,
    )
    results, more_follow = await services.look(partial(services.views.errors, wanted))
    answer: dict[str, Any] = {"results": results}
    if more_follow:
        next_page = str(wanted.offset + wanted.limit + 1)
        # The link must not repeat the caller's key.
        kept = {name: value for name, value in query.items() if name not in {"hapikey", "offset"}}
        link = request.url.with_query({**kept, "page": next_page})
        answer["paging"] = {"next": {"page": next_page, "link": str(link)}}
    return json_answer(answer)


def _settings_scope(request: web.Request) -> int:
    """The application in `appId`, or NO_APP for the account; the caller must fit to it."""
    app_id = query_int(request.query, "appId", 1, MAX_LONG)
    admit(request, Realm.ACCOUNT if app_id is None else Realm.APPLICATION, app_id)
    return app_id or NO_APP


def _settings_answer(request: web.Request, settings: Settings) -> web.Response:
    if not query_flag(request.query, "showProvidedMappings"):
        return json_answer(settings)
    provided = [PropertyMapping(name, name, "STRING") for name in PROVIDED_PROPERTIES]
    shown = Settings(
        enabled=settings.enabled,
        webhook_uri=settings.webhook_uri,
        mappings={
            object_type: TypeMappings([*settings.of(object_type), *provided])
            for object_type in OBJECT_TYPES
        },
    )
    return json_answer(shown)


async def put_settings(request: web.Request) -> web.Response:
    """Replace the settings; the answer is what is in force now."""
    app_id = _settings_scope(request)
    query_flag(request.query, "showProvidedMappings")  # Refused before anything is changed.
    services = request.app[SERVICES]
    settings = decode_settings(await request.read())
    await services.change(partial(services.account.put_settings, app_id, settings))
    return _settings_answer(request, settings)


async def get_settings(request: web.Request) -> web.Response:
    """The settings, in the form in which they can be PUT back."""
    app_id = _settings_scope(request)
    settings = request.app[SERVICES].account.settings(app_id)
    if settings is None:
        raise not_found("There are no settings")
    return _settings_answer(request, settings)


async def delete_settings(request: web.Request) -> web.Response:
    """Forget the settings."""
    app_id = _settings_scope(request)
    services = request.app[SERVICES]
    if not await services.change(partial(services.account.delete_settings, app_id)):
        raise not_found("There are no settings")
    return web.Response(status=204)


async def put_store(request: web.Request) -> web.Response:
    """Make or replace a store."""
    admit(request, Realm.ACCOUNT)
    services = request.app[SERVICES]
    store = decode_store(await request.read())
    await services.change(partial(services.account.put_store, store))
    return json_answer(store)


def _store_path(raw_path: str) -> str:
    # As in the path of a status: slashes belong to the id, but for one at the very end.
    tail = raw_path.split("/", PREFIX.count("/") + 2)[-1].removesuffix("/")
    try:
        return unquote(tail, errors="strict")
    except UnicodeDecodeError as error:
        raise invalid("The path is not UTF-8", Problem("is not UTF-8", "storeId")) from error


async def get_store(request: web.Request) -> web.Response:
    """One store."""
    admit(request, Realm.ACCOUNT)
    store_id = _store_path(request.rel_url.raw_path)
    store = request.app[SERVICES].account.store(store_id)
    if store is None:
        raise not_found(f"There is no store {store_id!r}")
    return json_answer(store)


async def get_stores(request: web.Request) -> web.Response:
    """All stores."""
    admit(request, Realm.ACCOUNT)
    return json_answer({"results": request.app[SERVICES].account.stores()})


async def delete_store(request: web.Request) -> web.Response:
    """Delete a store; what was synced from it stays."""
    admit(request, Realm.ACCOUNT)
    services = request.app[SERVICES]
    store_id = _store_path(request.rel_url.raw_path)
    if not await services.change(partial(services.account.delete_store, store_id)):
        raise not_found(f"There is no store {store_id!r}")
    return web.Response(status=204)
