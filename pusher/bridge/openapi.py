"""The bridge's own OpenAPI 3.1 document: every path, parameter and answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from aiohttp import web

from pusher.bridge.endpoints import GATE, MAX_ERRORS, PREFIX, json_answer
from pusher.bridge.import_endpoints import MAX_IMPORTS
from pusher.bridge.openapi_schemas import (
    ERROR_TYPE,
    FLAG,
    LONG,
    OBJECT_TYPE,
    SCHEMAS,
    TEXT,
    Schema,
    ref,
)
from pusher.bridge.validation import MAX_LONG

_REASONS: Final = {
    200: "Done",
    201: "Started",
    204: "Done; there is no body",
    400: "The request can never succeed as it is",
    401: "Credentials are missing or wrong",
    403: "The caller may not do this, or it is a page of another site",
    404: "It does not exist",
    409: "Not in the state that the thing is in",
    413: "The body is too large",
    503: "The database is not available; try again",
}


def _parameter(name: str, schema: Schema, text: str, *, place: str = "query") -> Schema:
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "schema": schema,
        "description": text,
    }


_POSITIVE: Final[Schema] = {**LONG, "minimum": 1}
_SEGMENT: Final[Schema] = {**TEXT, "minLength": 1}
_APP_ID: Final = _parameter("appId", _POSITIVE, "The application; the account without it.")
_PROVIDED: Final = _parameter(
    "showProvidedMappings", FLAG, "Show the mappings that are always there, too."
)
_STORE: Final = _parameter("storeId", _SEGMENT, "The store.", place="path")
_IMPORT: Final = _parameter("importId", _POSITIVE, "The import.", place="path")
_TYPE: Final = _parameter("objectType", OBJECT_TYPE, "The type.", place="path")
_ERROR_FILTERS: Final = (
    _parameter("objectType", OBJECT_TYPE, "Only errors of objects of this type."),
    _parameter("errorType", ERROR_TYPE, "Only errors of this type."),
    _parameter(
        "limit", {"type": "integer", "minimum": 1, "maximum": MAX_ERRORS}, "At most so many."
    ),
)
_ERROR_QUERY: Final = (
    *_ERROR_FILTERS,
    _parameter("includeResolved", FLAG, "Resolved errors, too."),
    _parameter("showResolvedErrors", FLAG, "The same by its older name."),
    _parameter("page", _POSITIVE, "The number of the first record, from 1."),
    _parameter(
        "offset",
        {**LONG, "maximum": MAX_LONG - MAX_ERRORS},
        "The index of the first record, from 0; `page` wins.",
    ),
)


def _answer(status: int, schema: str | None) -> Schema:
    answer: Schema = {"description": _REASONS[status]}
    name = "Error" if status >= 400 else schema
    if name is not None:
        answer["content"] = {"application/json": {"schema": ref(name)}}
    return answer


def _operation(
    summary: str,
    operation_id: str,
    statuses: Sequence[int],
    *,
    schema: str | None = None,
    body: str | None = None,
    parameters: Sequence[Schema] = (),
) -> Schema:
    common = (401, 403, 503) if body is None else (400, 401, 403, 413, 503)
    operation: Schema = {
        "summary": summary,
        "operationId": operation_id,
        "parameters": list(parameters),
        "responses": {
            str(status): _answer(status, schema) for status in sorted({*statuses, *common})
        },
    }
    if body is not None:
        content = {"application/json": {"schema": ref(body)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _sync_paths() -> dict[str, Schema]:
    status_path = f"{PREFIX}/sync/status/{{objectType}}/{{storeId}}/{{externalObjectId}}"
    external_id = _parameter(
        "externalObjectId",
        _SEGMENT,
        "The external id; what slashes split off belongs to it.",
        place="path",
    )
    errors = {
        "/sync/errors": ("Errors of the application or account", "getErrors", ()),
        "/sync/errors/portal": ("Errors of the account", "getPortalErrors", ()),
        "/sync/errors/app/{appId}": (
            "Errors of an application",
            "getAppErrors",
            (_parameter("appId", _POSITIVE, "The application.", place="path"),),
        ),
    }
    return {
        f"{PREFIX}/sync/messages": {
            "put": _operation("Queue messages", "putMessages", (204,), body="SyncMessages")
        },
        status_path: {
            "get": _operation(
                "The sync status of an object; the store may stand before the type as well",
                "getStatus",
                (200, 400, 404),
                schema="SyncStatus",
                parameters=(_TYPE, _STORE, external_id),
            )
        },
        **{
            PREFIX + path: {
                "get": _operation(
                    summary,
                    name,
                    (200, 400),
                    schema="SyncErrors",
                    parameters=(*of_path, *_ERROR_QUERY),
                )
            }
            for path, (summary, name, of_path) in errors.items()
        },
    }


def _settings_paths() -> dict[str, Schema]:
    one = (_APP_ID, _PROVIDED)
    return {
        f"{PREFIX}/settings": {
            "put": _operation(
                "Replace the settings",
                "putSettings",
                (200,),
                schema="Settings",
                body="SettingsRequest",
                parameters=one,
            ),
            "get": _operation(
                "The settings", "getSettings", (200, 400, 404), schema="Settings", parameters=one
            ),
            "delete": _operation(
                "Forget the settings", "deleteSettings", (204, 400, 404), parameters=(_APP_ID,)
            ),
        },
        f"{PREFIX}/stores": {
            "put": _operation(
                "Make or replace a store", "putStore", (200,), schema="Store", body="StoreRequest"
            ),
            "get": _operation("All stores", "getStores", (200,), schema="Stores"),
        },
        f"{PREFIX}/stores/{{storeId}}": {
            "get": _operation(
                "One store", "getStore", (200, 400, 404), schema="Store", parameters=(_STORE,)
            ),
            "delete": _operation(
                "Delete a store", "deleteStore", (204, 400, 404), parameters=(_STORE,)
            ),
        },
    }


def _import_paths() -> dict[str, Schema]:
    limit = _parameter(
        "limit", {"type": "integer", "minimum": 1, "maximum": MAX_IMPORTS}, "At most so many."
    )
    return {
        f"{PREFIX}/imports/page": {
            "post": _operation("Keep a page of an import", "postPage", (204,), body="ImportPage")
        },
        f"{PREFIX}/imports/end": {
            "post": _operation("End a type of an import", "postEnd", (204,), body="ImportEnd")
        },
        "/_bridge/imports": {
            "post": _operation(
                "Start an import",
                "startImport",
                (201, 409),
                schema="Import",
                body="ImportStart",
            ),
            "get": _operation(
                "The latest imports",
                "getImports",
                (200, 400),
                schema="Imports",
                parameters=(limit,),
            ),
        },
        "/_bridge/imports/{importId}": {
            "get": _operation(
                "One import", "getImport", (200, 400, 404), schema="Import", parameters=(_IMPORT,)
            ),
            "delete": _operation(
                "Cancel an import", "deleteImport", (204, 400, 404, 409), parameters=(_IMPORT,)
            ),
        },
    }


def _management_paths() -> dict[str, Schema]:
    objects = (
        _TYPE,
        _parameter("storeId", TEXT, "Only of this store."),
        _parameter("externalObjectId", TEXT, "Only this id."),
        _parameter("prefix", TEXT, "Only ids that begin so."),
        _parameter("after", TEXT, "The cursor of the page before."),
        _parameter("limit", {"type": "integer", "minimum": 1, "maximum": 1000}, "At most so many."),
    )
    offset = _parameter("offset", LONG, "The first record, from 0.")
    return {
        "/_bridge/objects/{objectType}": {
            "get": _operation(
                "Objects of a type",
                "getObjects",
                (200, 400),
                schema="Objects",
                parameters=objects,
            )
        },
        "/_bridge/stats": {
            "get": _operation("Counts per type", "getStats", (200,), schema="Stats")
        },
        "/_bridge/overview": {
            "get": _operation("Account, stores, counts", "getOverview", (200,), schema="Overview")
        },
        "/_bridge/errors": {
            "get": _operation(
                "The account's open errors",
                "getOpenErrors",
                (200, 400),
                schema="OpenErrors",
                parameters=(*_ERROR_FILTERS, offset),
            )
        },
        "/_bridge/properties": {
            "get": _operation(
                "The properties of the account", "getProperties", (200,), schema="Properties"
            ),
            "put": _operation(
                "Replace the properties of some types",
                "putProperties",
                (200,),
                schema="Properties",
                body="PropertiesRequest",
            ),
        },
        "/_bridge/portal": {
            "get": _operation("The account", "getPortal", (200,), schema="Portal"),
            "put": _operation(
                "Switch the account on or off",
                "putPortal",
                (200,),
                schema="Portal",
                body="PortalRequest",
            ),
        },
    }


def make_document(*, is_enforced: bool) -> dict[str, Any]:
    """The document of a bridge, with or without credentials in force."""
    security: list[Schema] = [{"token": []}, {"hapikey": []}]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ecommerce Bridge API, local bridge",
            "version": "2",
            "description": "A local server of HubSpot's Ecommerce Bridge API v2. Paths under"
            " /_bridge/ are the bridge's own.",
        },
        "paths": {
            **_settings_paths(),
            **_sync_paths(),
            **_import_paths(),
            **_management_paths(),
        },
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "hapikey": {"type": "apiKey", "in": "query", "name": "hapikey"},
            },
        },
        "security": security if is_enforced else [],
    }


async def get_document(request: web.Request) -> web.Response:
    """The document. It holds no secret, so it is served without credentials."""
    return json_answer(make_document(is_enforced=request.app[GATE].is_enforced))
