"""The nouns of the bridge: object types, error types, queued batches. No rule, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

ObjectType = Literal["CONTACT", "PRODUCT", "DEAL", "LINE_ITEM"]
OBJECT_TYPES: Final[tuple[ObjectType, ...]] = ("CONTACT", "PRODUCT", "DEAL", "LINE_ITEM")

#: How a type is written in the database. Never renumber: files outlive the code.
TYPE_CODES: Final[dict[ObjectType, int]] = {"CONTACT": 1, "PRODUCT": 2, "DEAL": 3, "LINE_ITEM": 4}
TYPE_NAMES: Final[dict[int, ObjectType]] = {code: name for name, code in TYPE_CODES.items()}

ErrorType = Literal[
    "INACTIVE_PORTAL",
    "NO_SYNC_SETTINGS",
    "SETTINGS_NOT_ENABLED",
    "NO_MAPPINGS_DEFINED",
    "NO_PROPERTIES_DEFINED",
    "INVALID_EMAIL_ADDRESS",
    "INVALID_DEAL_STAGE",
    "INVALID_ENUM_PROPERTY",
    "UNKNOWN_ERROR",
    "MISSING_REQUIRED_PROPERTY",
    "INVALID_ASSOCIATION_PROPERTY",
]
#: The eleven types of the reference, in the order in which one wins when several apply.
ERROR_TYPES: Final[tuple[ErrorType, ...]] = (
    "INACTIVE_PORTAL",
    "NO_SYNC_SETTINGS",
    "SETTINGS_NOT_ENABLED",
    "NO_MAPPINGS_DEFINED",
    "NO_PROPERTIES_DEFINED",
    "INVALID_EMAIL_ADDRESS",
    "INVALID_DEAL_STAGE",
    "INVALID_ENUM_PROPERTY",
    "UNKNOWN_ERROR",
    "MISSING_REQUIRED_PROPERTY",
    "INVALID_ASSOCIATION_PROPERTY",
)

#: Stands for "the account itself, no application" wherever an application id is asked for.
NO_APP: Final = 0


@dataclass(frozen=True, slots=True)
class QueuedBatch:
    """One accepted PUT, as its body came in."""

    object_type: ObjectType
    app_id: int
    received_at_ms: int
    message_count: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a message could not be applied: a type of the reference and a text for people."""

    type: ErrorType
    details: str
