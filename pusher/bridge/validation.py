"""Request bodies and query values -> accepted values, or a 400. Pure: no store, no clock, no HTTP.

Loose inputs that production clients are known to send are taken: integer ids, `changedAt` as a
string of digits, maps that are missing or (PHP's empty map) `[]`, unknown top-level keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

import msgspec

from pusher.bridge.model import ERROR_TYPES, OBJECT_TYPES, ErrorType, ObjectType
from pusher.bridge.refusals import Problem, RefusalError, invalid

MAX_MESSAGES: Final = 200  # "Up to 200 messages can be submitted in the same batch."
MAX_ID_LENGTH: Final = 100  # "String, max length 100 characters, must be in ASCII format"
MAX_LONG: Final = 2**63 - 1
MAX_PROBLEMS: Final = 20  # A body of 200 bad messages need not be answered with 200 reasons.

PROVIDED_PROPERTIES: Final = (
    "ip__ecomm_bridge__ecomm_synced",
    "ip__ecomm_bridge__source_app_id",
    "ip__ecomm_bridge__source_store_id",
)

Scalar = str | int | float | bool | None
DataType = Literal["STRING", "NUMBER", "DATETIME", "AVATAR_IMAGE"]
_Long = Annotated[int, msgspec.Meta(ge=0, le=MAX_LONG)]
_T = TypeVar("_T")


class Message(msgspec.Struct, rename="camel", gc=False):
    """One sync message as it comes in; `Accepted` is what is made of it."""

    external_object_id: str | int
    action: Literal["UPSERT", "DELETE"]
    changed_at: _Long | str | None = None
    properties: dict[str, Scalar] | list[Any] | None = None
    associations: dict[ObjectType, list[str | int]] | list[Any] | None = None


class SyncRequest(msgspec.Struct, rename="camel", gc=False):
    """The body of PUT /sync/messages."""

    store_id: str | int
    object_type: ObjectType
    messages: list[Message]


class ImportMessage(msgspec.Struct, rename="camel", gc=False):
    """One message of an import page: "all upserts", so `action` can be left out."""

    external_object_id: str | int
    action: Literal["UPSERT"] = "UPSERT"
    changed_at: _Long | str | None = None
    properties: dict[str, Scalar] | list[Any] | None = None
    associations: dict[ObjectType, list[str | int]] | list[Any] | None = None


class ImportPage(msgspec.Struct, rename="camel", gc=False):
    """The body of POST /imports/page; the numbers are integers once it has been decoded."""

    import_started_at: _Long | str
    page_number: _Long | str
    store_id: str | int
    object_type: ObjectType
    messages: list[ImportMessage]


class ImportEnd(msgspec.Struct, rename="camel"):
    """The body of POST /imports/end; the numbers are integers once it has been decoded."""

    import_started_at: _Long | str
    page_count: _Long | str
    item_count: _Long | str
    store_id: str | int
    object_type: ObjectType


class ImportStart(msgspec.Struct, rename="camel"):
    """The body of POST /_bridge/imports."""

    store_id: str | int
    app_id: Annotated[int, msgspec.Meta(ge=1, le=MAX_LONG)] | None = None


class ImportCount(msgspec.Struct, rename="camel"):
    """How many objects an application announces for one of the `settingsToImport`."""

    settings_id: int
    count: _Long


class ImportCounts(msgspec.Struct, rename="camel"):
    """What an application answers to the import webhook."""

    import_counts: list[ImportCount]


class _Envelope(msgspec.Struct):
    messages: list[Any]


class PropertyMapping(msgspec.Struct, rename="camel", omit_defaults=True):
    """One property mapping; `dataType` is optional and echoed only when it was given."""

    external_property_name: str
    hubspot_property_name: str
    data_type: DataType | None = None


class TypeMappings(msgspec.Struct):
    """The mappings of one object type."""

    properties: list[PropertyMapping] = []


class Settings(msgspec.Struct, rename="camel"):
    """The settings of an account or application."""

    enabled: bool
    webhook_uri: str | None = None
    mappings: dict[ObjectType, TypeMappings] = {}

    def of(self, object_type: ObjectType) -> list[PropertyMapping]:
        """The mappings of one type, none when the type is not named."""
        of_type = self.mappings.get(object_type)
        return [] if of_type is None else of_type.properties


class _LooseTypeMappings(msgspec.Struct):
    properties: list[PropertyMapping] | None = None


class _LooseSettings(msgspec.Struct, rename="camel"):
    """The body of PUT /settings; `Settings` is what is made of it."""

    enabled: bool
    webhook_uri: str | None = None
    mappings: dict[ObjectType, _LooseTypeMappings | list[Any] | None] | list[Any] | None = None


class Store(msgspec.Struct, rename="camel"):
    """A store of the account."""

    id: str | int
    label: str
    admin_uri: str | None = None


class PortalState(msgspec.Struct):
    """The body of PUT /_bridge/portal."""

    active: bool


_sync_decoder: Final = msgspec.json.Decoder(SyncRequest)
_page_decoder: Final = msgspec.json.Decoder(ImportPage)
_envelope_decoder: Final = msgspec.json.Decoder(_Envelope)
# Anything that RFC 3986 allows; the reference's own adminUri has no scheme.
_URI: Final = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
_USERINFO: Final = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.\-]*:)?//[^/?#]*@")
_WHERE: Final = re.compile(
    r"^(?P<message>.*?)(?: - at `(?:key` in `)?\$\.?(?P<where>.*)`)?$", re.DOTALL
)
_MISSING: Final = re.compile(r"missing required field `(?P<field>\w+)`")


def decode(body: bytes, shape: type[_T]) -> _T:
    """`body` as `shape`, or a 400 that says what is wrong with it."""
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise _refused([_problem(error)]) from error
    except (ValueError, RecursionError) as error:
        raise _not_json(error) from error


def decode_sync(body: bytes) -> SyncRequest:
    """A checked sync request: every message in it can be processed later without surprise."""
    try:
        request = _sync_decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _refused(_find_guilty(body, error, Message)) from error
    except (ValueError, RecursionError) as error:
        raise _not_json(error) from error
    _check_messages(request.messages)
    return request


def decode_page(body: bytes) -> ImportPage:
    """A checked page of an import."""
    try:
        page = _page_decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _refused(_find_guilty(body, error, ImportMessage)) from error
    except (ValueError, RecursionError) as error:
        raise _not_json(error) from error
    page.import_started_at = _whole(page.import_started_at, "importStartedAt")
    page.page_number = _whole(page.page_number, "pageNumber")
    _check_messages(page.messages)
    return page


def decode_end(body: bytes) -> ImportEnd:
    """A checked end of one type of an import."""
    end = decode(body, ImportEnd)
    end.import_started_at = _whole(end.import_started_at, "importStartedAt")
    end.page_count = _whole(end.page_count, "pageCount")
    end.item_count = _whole(end.item_count, "itemCount")
    return end


def as_sync_body(page: ImportPage) -> bytes:
    """A page as the PUT of sync messages that it amounts to.

    A message that does not say when it changed counts as changed when the import started, so that
    history never overwrites what is synced meanwhile.
    """
    messages = [
        Message(
            external_object_id=str(message.external_object_id),
            action="UPSERT",
            changed_at=page.import_started_at if message.changed_at is None else message.changed_at,
            properties=_encodable(message.properties),
            associations=_with_text_ids(message.associations),
        )
        for message in page.messages
    ]
    return msgspec.json.encode(SyncRequest(str(page.store_id), page.object_type, messages))


def _encodable(properties: dict[str, Scalar] | list[Any] | None) -> dict[str, Scalar]:
    # An integer of more than 64 bits can be read but not written; it is kept as text anyway.
    return {
        name: str(value) if type(value) is int and value.bit_length() >= 64 else value
        for name, value in (properties.items() if isinstance(properties, dict) else ())
    }


def _with_text_ids(
    associations: dict[ObjectType, list[str | int]] | list[Any] | None,
) -> dict[ObjectType, list[str | int]]:
    return {
        object_type: [str(external_id) for external_id in external_ids]
        for object_type, external_ids in (
            associations.items() if isinstance(associations, dict) else ()
        )
    }


def _whole(value: int | str, field: str) -> int:
    if isinstance(value, str) and not is_long(value):
        raise _refused([Problem("must be a non-negative integer", field)])
    return int(value)


def _check_messages(messages: Sequence[Message | ImportMessage]) -> None:
    if len(messages) > MAX_MESSAGES:
        reason = f"{len(messages)} messages in a batch, at most {MAX_MESSAGES} are allowed"
        raise _refused([Problem(reason, "messages")])
    problems = [
        Problem(reason, f"messages[{index}].{field}")
        for index, message in enumerate(messages)
        for field, reason in _message_problems(message)
    ]
    if problems:
        raise _refused(problems)


def decode_queued(body: bytes) -> SyncRequest:
    """A body that `decode_sync` let through before."""
    return _sync_decoder.decode(body)


def _message_problems(message: Message | ImportMessage) -> Iterator[tuple[str, str]]:
    external_id = message.external_object_id
    text = external_id if type(external_id) is str else str(external_id)
    if not (0 < len(text) <= MAX_ID_LENGTH and text.isascii()):
        yield "externalObjectId", f"must be 1 to {MAX_ID_LENGTH} ASCII characters"
    changed_at = message.changed_at
    if type(changed_at) is str and not is_long(changed_at):
        yield "changedAt", "must be an epoch timestamp in milliseconds"
    for field, value in (
        ("properties", message.properties),
        ("associations", message.associations),
    ):
        if type(value) is list and value:
            yield field, "must be a map"


def is_long(text: str) -> bool:
    """Whether `text` is a non-negative 64-bit integer in plain digits."""
    return text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= MAX_LONG


def _find_guilty(
    body: bytes, error: msgspec.ValidationError, shape: type[Message | ImportMessage]
) -> list[Problem]:
    """Name each message that does not fit; the fast decoder names a field but not an index."""
    try:
        envelope = _envelope_decoder.decode(body)
    except (ValueError, RecursionError):
        return [_problem(error)]
    problems = []
    for index, raw in enumerate(envelope.messages):
        try:
            msgspec.convert(raw, shape)
        except msgspec.ValidationError as found:
            problems.append(_problem(found, f"messages[{index}]"))
    return problems or [_problem(error)]


def _problem(error: msgspec.ValidationError, inside: str = "") -> Problem:
    match = _WHERE.match(str(error))
    message, where = (match["message"], match["where"]) if match else (str(error), None)
    missing = _MISSING.search(message)
    parts = [part for part in (inside, where, missing and missing["field"]) if part]
    return Problem(message, ".".join(parts) or None)


def _refused(problems: list[Problem]) -> RefusalError:
    first = problems[0]
    summary = f"Invalid request: {first.where}: {first.message}" if first.where else first.message
    return invalid(summary, *problems[:MAX_PROBLEMS])


def _not_json(error: Exception) -> RefusalError:
    return invalid(f"Invalid input JSON: {error}", Problem(str(error)))


def decode_settings(body: bytes) -> Settings:
    """Settings as they are kept, with `mappings` a map and the provided mappings left out."""
    loose = decode(body, _LooseSettings)
    settings = Settings(loose.enabled, _webhook_uri(loose.webhook_uri))
    mappings = _map_or_empty(loose.mappings, "mappings")
    for object_type, of_type in mappings.items() if mappings else ():
        known = _map_or_empty(of_type, f"mappings.{object_type}")
        # "These required mappings are not editable": sent back, they are passed over.
        properties = [
            mapping
            for mapping in (known.properties if known else None) or ()
            if mapping.hubspot_property_name not in PROVIDED_PROPERTIES
        ]
        _check_avatars(object_type, properties)
        settings.mappings[object_type] = TypeMappings(properties)
    return settings


def _map_or_empty(value: _T | list[Any] | None, where: str) -> _T | None:
    # PHP writes an empty map as [].
    if not isinstance(value, list):
        return value
    if value:
        raise _refused([Problem("must be a map", where)])
    return None


def _webhook_uri(text: str | None) -> str | None:
    if text is None or not text.strip():
        return None
    if not _URI.fullmatch(text):
        raise _refused([Problem("must be a URI", "webhookUri")])
    if _USERINFO.match(text):
        # It would be sent as a header, and the signature is of an address that nobody sees.
        raise _refused([Problem("must not hold a user name or password", "webhookUri")])
    return text


def _check_avatars(object_type: ObjectType, mappings: list[PropertyMapping]) -> None:
    # "Only PRODUCT mappings can have dataType set to AVATAR_IMAGE, and only one mapping of this
    # type can exist."
    avatars = sum(mapping.data_type == "AVATAR_IMAGE" for mapping in mappings)
    where = f"mappings.{object_type}.properties"
    if avatars and object_type != "PRODUCT":
        raise _refused([Problem("only PRODUCT mappings can be an AVATAR_IMAGE", where)])
    if avatars > 1:
        raise _refused([Problem("only one mapping can be an AVATAR_IMAGE", where)])


def decode_store(body: bytes) -> Store:
    """A store as it is kept: `id` a string, a blank `adminUri` as none."""
    store = decode(body, Store)
    store.id = str(store.id)
    store.admin_uri = store.admin_uri or None
    if not store.id or not store.label:
        field = "label" if store.id else "id"
        raise _refused([Problem("must not be blank", field)])
    if store.admin_uri is not None and not _URI.fullmatch(store.admin_uri):
        raise _refused([Problem("must be a URI", "adminUri")])
    return store


def query_flag(query: Mapping[str, str], name: str) -> bool:
    """An optional boolean parameter, false when it is missing or blank."""
    text = query.get(name, "").lower()
    if text not in {"", "true", "false"}:
        raise _refused([Problem("must be true or false", name)])
    return text == "true"


def query_int(query: Mapping[str, str], name: str, low: int, high: int) -> int | None:
    """An optional integer parameter within bounds, None when it is missing or blank."""
    text = query.get(name, "")
    if not text:
        return None
    if not is_long(text) or not low <= int(text) <= high:
        raise _refused([Problem(f"must be an integer from {low} to {high}", name)])
    return int(text)


def query_object_type(query: Mapping[str, str]) -> ObjectType | None:
    """The optional `objectType` filter."""
    return as_object_type(query["objectType"]) if query.get("objectType") else None


def as_object_type(text: str) -> ObjectType:
    """An object type, or a 400 that lists them."""
    for object_type in OBJECT_TYPES:
        if text == object_type:
            return object_type
    raise _refused([Problem(f"must be one of {', '.join(get_args(ObjectType))}", "objectType")])


def query_error_type(query: Mapping[str, str]) -> ErrorType | None:
    """The optional `errorType` filter."""
    text = query.get("errorType", "")
    if not text:
        return None
    for error_type in ERROR_TYPES:
        if text == error_type:
            return error_type
    raise _refused([Problem(f"must be one of {', '.join(ERROR_TYPES)}", "errorType")])
