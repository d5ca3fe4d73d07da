"""The bodies of the API as JSON schemas, for the OpenAPI document. It knows no path."""

from __future__ import annotations

from typing import Any, Final, get_args

from pusher.bridge.imports import ImportState
from pusher.bridge.model import ERROR_TYPES, OBJECT_TYPES
from pusher.bridge.portal import PropertyKind
from pusher.bridge.validation import MAX_ID_LENGTH, MAX_LONG, MAX_MESSAGES, DataType

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
FLAG: Final[Schema] = {"type": "boolean"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
LONG: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": MAX_LONG}
OBJECT_TYPE: Final[Schema] = {"enum": list(OBJECT_TYPES)}
ERROR_TYPE: Final[Schema] = {"enum": list(ERROR_TYPES)}
_DIGITS: Final[Schema] = {"type": "string", "pattern": "^[0-9]{1,18}$"}
_LOOSE_LONG: Final[Schema] = {"anyOf": [LONG, _DIGITS]}
_LOOSE_ID: Final[Schema] = {
    "anyOf": [
        {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_ID_LENGTH,
            "pattern": f"^[\\x00-\\x7f]{{1,{MAX_ID_LENGTH}}}$",
        },
        {"type": "integer"},
    ]
}
_STORE_ID: Final[Schema] = {"type": ["string", "integer"], "examples": ["default"]}
_EMPTY_LIST: Final[Schema] = {
    "type": "array",
    "maxItems": 0,
    "description": "PHP writes an empty map so.",
}


def ref(name: str) -> Schema:
    """A reference to one of SCHEMAS."""
    return {"$ref": f"#/components/schemas/{name}"}


def nullable(schema: Schema) -> Schema:
    """The schema, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def array(schema: Schema, **bounds: int) -> Schema:
    """A list of such things."""
    return {"type": "array", "items": schema, **bounds}


def _loose_map(schema: Schema) -> Schema:
    return {"anyOf": [schema, _EMPTY_LIST, {"type": "null"}]}


def answered(required: Schema, optional: Schema | None = None) -> Schema:
    """An object in an answer: these fields and no others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def taken(required: Schema, optional: Schema | None = None) -> Schema:
    """An object in a request: fields beyond these are passed over."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
    }


def by_type(schema: Schema) -> Schema:
    """A map that has all four object types."""
    return answered(dict.fromkeys(OBJECT_TYPES, schema))


def some_types(schema: Schema) -> Schema:
    """A map that has object types as its keys."""
    return {
        "type": "object",
        "properties": dict.fromkeys(OBJECT_TYPES, schema),
        "additionalProperties": False,
    }


_PROPERTIES: Final = _loose_map(
    {
        "type": "object",
        "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
    }
)
_ASSOCIATIONS: Final = _loose_map(some_types(array({"type": ["string", "integer"]})))
_MESSAGE: Final = taken(
    {"externalObjectId": _LOOSE_ID, "action": {"enum": ["UPSERT", "DELETE"]}},
    {
        "changedAt": nullable(_LOOSE_LONG),
        "properties": _PROPERTIES,
        "associations": _ASSOCIATIONS,
    },
)
_IMPORT_MESSAGE: Final = taken(
    {"externalObjectId": _LOOSE_ID},
    {
        "action": {"enum": ["UPSERT"]},
        "changedAt": nullable(_LOOSE_LONG),
        "properties": _PROPERTIES,
        "associations": _ASSOCIATIONS,
    },
)
_MAPPING_FIELDS: Final[Schema] = {"externalPropertyName": TEXT, "hubspotPropertyName": TEXT}
_DATA_TYPES: Final[Schema] = {"enum": list(get_args(DataType))}
_PROPERTY_SPEC: Final[Schema] = {
    "type": {"enum": list(get_args(PropertyKind))},
    "options": array(TEXT),
    "required": FLAG,
}
_STORE_ANSWER: Final = answered({"id": TEXT, "label": TEXT, "adminUri": nullable(TEXT)})
_COUNTS: Final = answered(
    {
        "accepted": COUNT,
        "queued": COUNT,
        "processed": COUNT,
        "objects": COUNT,
        "openErrors": COUNT,
        "lagMs": COUNT,
    }
)

SCHEMAS: Final[dict[str, Schema]] = {
    "Error": answered(
        {
            "status": {"const": "error"},
            "message": TEXT,
            "correlationId": {"type": "string", "format": "uuid"},
            "category": TEXT,
        },
        {"errors": array(answered({"message": TEXT}, {"in": TEXT}))},
    ),
    "SettingsRequest": taken(
        {"enabled": FLAG},
        {
            "webhookUri": nullable(TEXT),
            "mappings": _loose_map(
                some_types(
                    _loose_map(
                        taken(
                            {},
                            {
                                "properties": nullable(
                                    array(
                                        taken(_MAPPING_FIELDS, {"dataType": nullable(_DATA_TYPES)})
                                    )
                                )
                            },
                        )
                    )
                )
            ),
        },
    ),
    "Settings": answered(
        {
            "enabled": FLAG,
            "webhookUri": nullable(TEXT),
            "mappings": some_types(
                answered(
                    {"properties": array(answered(_MAPPING_FIELDS, {"dataType": _DATA_TYPES}))}
                )
            ),
        }
    ),
    "StoreRequest": taken(
        {
            "id": {"type": ["string", "integer"], "minLength": 1},
            "label": {"type": "string", "minLength": 1},
        },
        {"adminUri": nullable(TEXT)},
    ),
    "Store": _STORE_ANSWER,
    "Stores": answered({"results": array(_STORE_ANSWER)}),
    "SyncMessages": taken(
        {
            "storeId": _STORE_ID,
            "objectType": OBJECT_TYPE,
            "messages": array(_MESSAGE, maxItems=MAX_MESSAGES),
        }
    ),
    "SyncError": answered(
        {
            "portalId": COUNT,
            "storeId": TEXT,
            "objectType": OBJECT_TYPE,
            "externalObjectId": TEXT,
            "changedAt": LONG,
            "erroredAt": LONG,
            "type": ERROR_TYPE,
            "details": TEXT,
            "status": {"enum": ["OPEN", "RESOLVED"]},
        }
    ),
    "SyncErrors": answered(
        {"results": array(ref("SyncError"), maxItems=200)},
        {"paging": answered({"next": answered({"page": _DIGITS, "link": TEXT})})},
    ),
    "SyncStatus": answered(
        {
            "storeId": TEXT,
            "objectType": OBJECT_TYPE,
            "externalObjectId": TEXT,
            "hubspotId": nullable(LONG),
            "lastProcessedAt": nullable(LONG),
            "errors": array(ref("SyncError")),
        }
    ),
    "ImportPage": taken(
        {
            "importStartedAt": _LOOSE_LONG,
            "pageNumber": _LOOSE_LONG,
            "storeId": _STORE_ID,
            "objectType": OBJECT_TYPE,
            "messages": array(_IMPORT_MESSAGE, maxItems=MAX_MESSAGES),
        }
    ),
    "ImportEnd": taken(
        {
            "importStartedAt": _LOOSE_LONG,
            "pageCount": _LOOSE_LONG,
            "itemCount": _LOOSE_LONG,
            "storeId": _STORE_ID,
            "objectType": OBJECT_TYPE,
        }
    ),
    "ImportStart": taken({"storeId": _STORE_ID}, {"appId": nullable({**LONG, "minimum": 1})}),
    "Import": answered(
        {
            "id": COUNT,
            "appId": nullable(COUNT),
            "storeId": TEXT,
            "importStartedAt": LONG,
            "webhookUri": TEXT,
            "state": {"enum": list(get_args(ImportState))},
            "error": nullable(TEXT),
            "finishedAt": nullable(LONG),
            "types": by_type(
                answered(
                    {
                        "expected": nullable(COUNT),
                        "pages": COUNT,
                        "received": COUNT,
                        "ended": FLAG,
                        "processed": COUNT,
                        "openErrors": COUNT,
                    }
                )
            ),
        }
    ),
    "Imports": answered({"results": array(ref("Import"))}),
    "PropertiesRequest": some_types(array(taken({"name": TEXT}, _PROPERTY_SPEC))),
    "Properties": by_type(array(answered({"name": TEXT}, _PROPERTY_SPEC))),
    "PortalRequest": taken({"active": FLAG}),
    "Portal": answered({"portalId": COUNT, "active": FLAG}),
    "Stats": answered({"types": by_type(_COUNTS)}),
    "Overview": answered(
        {
            "portalId": COUNT,
            "active": FLAG,
            "stores": array(_STORE_ANSWER),
            "types": by_type(_COUNTS),
        }
    ),
    "OpenErrors": answered({"results": array(ref("SyncError")), "hasMore": FLAG}),
    "Objects": answered(
        {
            "results": array(
                answered(
                    {
                        "storeId": TEXT,
                        "objectType": OBJECT_TYPE,
                        "externalObjectId": TEXT,
                        "hubspotId": nullable(LONG),
                        "changedAt": nullable(LONG),
                        "isTombstone": FLAG,
                        "lastProcessedAt": nullable(LONG),
                        "properties": {"type": "object", "additionalProperties": TEXT},
                        "associations": some_types(
                            array(answered({"externalObjectId": TEXT, "hubspotId": LONG}))
                        ),
                    }
                )
            )
        },
        {"paging": answered({"next": answered({"after": TEXT})})},
    ),
}
