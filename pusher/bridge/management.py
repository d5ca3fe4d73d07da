"""The bridge's own endpoints under /_bridge/: what HubSpot would show in its pages."""

from __future__ import annotations

from functools import partial

from aiohttp import web

from pusher.bridge.auth import Realm
from pusher.bridge.endpoints import SERVICES, admit, json_answer
from pusher.bridge.portal import catalogue_document, decode_catalogue
from pusher.bridge.validation import (
    MAX_LONG,
    PortalState,
    as_object_type,
    decode,
    query_error_type,
    query_int,
    query_object_type,
)
from pusher.bridge.views import ErrorQuery, ObjectQuery


async def get_objects(request: web.Request) -> web.Response:
    """The objects of a type, by store and external id."""
    admit(request, Realm.MANAGEMENT)
    services = request.app[SERVICES]
    query = request.query
    wanted = ObjectQuery(
        object_type=as_object_type(request.match_info["objectType"]),
        store_id=query.get("storeId") or None,
        external_id=query.get("externalObjectId") or None,
        external_id_prefix=query.get("prefix") or None,
        after=query.get("after") or None,
        limit=query_int(query, "limit", 1, 1000) or 100,
    )
    return json_answer(await services.look(partial(services.views.objects, wanted)))


async def get_stats(request: web.Request) -> web.Response:
    """Counts per type: accepted, queued, processed, objects, open errors."""
    admit(request, Realm.MANAGEMENT)
    services = request.app[SERVICES]
    return json_answer(await services.look(services.views.stats))


async def get_overview(request: web.Request) -> web.Response:
    """The account, its stores and the counts: what the console asks for again and again."""
    admit(request, Realm.MANAGEMENT)
    services = request.app[SERVICES]
    account = services.account
    counts = await services.look(services.views.stats)
    return json_answer(
        {
            "portalId": account.portal_id,
            "active": account.is_active,
            "stores": account.stores(),
            **counts,
        }
    )


async def get_errors(request: web.Request) -> web.Response:
    """A page of the account's open errors, newest first; `offset` counts from 0."""
    admit(request, Realm.MANAGEMENT)
    services = request.app[SERVICES]
    query = request.query
    wanted = ErrorQuery(
        object_type=query_object_type(query),
        error_type=query_error_type(query),
        offset=query_int(query, "offset", 0, MAX_LONG) or 0,
        limit=query_int(query, "limit", 1, 200) or 200,
    )
    results, more_follow = await services.look(partial(services.views.errors, wanted))
    return json_answer({"results": results, "hasMore": more_follow})


async def get_properties(request: web.Request) -> web.Response:
    """The properties that are defined on the account."""
    admit(request, Realm.MANAGEMENT)
    return json_answer(catalogue_document(request.app[SERVICES].account.catalogue()))


async def put_properties(request: web.Request) -> web.Response:
    """Replace the properties of the types that are named; the others stay."""
    admit(request, Realm.MANAGEMENT)
    services = request.app[SERVICES]
    catalogue = decode_catalogue(await request.read())
    await services.change(partial(services.account.put_catalogue, catalogue))
    return json_answer(catalogue_document(services.account.catalogue()))


async def get_portal(request: web.Request) -> web.Response:
    """The account's id and whether it is active."""
    admit(request, Realm.MANAGEMENT)
    account = request.app[SERVICES].account
    return json_answer({"portalId": account.portal_id, "active": account.is_active})


async def put_portal(request: web.Request) -> web.Response:
    """Switch the account on or off."""
    admit(request, Realm.MANAGEMENT)
    services = request.app[SERVICES]
    wanted = decode(await request.read(), PortalState)
    await services.change(partial(services.account.put_active, is_active=wanted.active))
    return await get_portal(request)
