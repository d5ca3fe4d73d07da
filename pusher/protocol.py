"""The API contract: what a request looks like and what an answer means. Bytes in, values out.

"Sync Messages", "Get sync status", "Get sync errors" and "Imports" in the reference.
"""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Sequence
from email.utils import parsedate_tz
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import msgspec
import orjson
from msgspec import Meta, Raw

from pusher.model import Answer, Batch, Lane, ObjectType, SyncMessage, SyncMessages, Verdict

__all__ = [
    "API_ROOT",
    "BODY_END",
    "IMPORT_END_PATH",
    "IMPORT_PAGE_PATH",
    "MESSAGES_PATH",
    "STORES_PATH",
    "ImportPart",
    "ImportRequest",
    "SyncError",
    "SyncErrors",
    "SyncStatus",
    "as_ms",
    "body_head",
    "date_ms",
    "decode_errors",
    "decode_import_request",
    "decode_piece",
    "decode_status",
    "encode_import_end",
    "encode_import_page",
    "encode_messages",
    "encode_piece",
    "error_text",
    "errors_query",
    "failure_in",
    "guilty_in",
    "join_pieces",
    "printable",
    "retry_after_s",
    "status_paths",
    "verdict_of",
]

API_ROOT = "/extensions/ecomm/v2"
MESSAGES_PATH = f"{API_ROOT}/sync/messages"
STORES_PATH = f"{API_ROOT}/stores"
IMPORT_PAGE_PATH = f"{API_ROOT}/imports/page"
IMPORT_END_PATH = f"{API_ROOT}/imports/end"

_RETRY = frozenset({408, 423, 425, 429, 477})
_STOP_4XX = frozenset({401, 402, 403, 405, 407, 410, 415})
_DIGITS_MAX = 40
_NEVER_RETRIED_5XX = frozenset({501, 505})
_PLACE = re.compile(r"\bmessages(?:\[|/|\.)(\d{1,6})\b")


BODY_END = b"]}"

_encoder = msgspec.json.Encoder()
_decode_messages = msgspec.json.Decoder(list[SyncMessage]).decode
_LARGE_BYTES = 4 << 10


def encode_messages(lane: Lane, messages: list[SyncMessage]) -> bytes:
    """Build the body of `PUT /sync/messages` ("Put sync messages")."""
    return _encoder.encode(SyncMessages(lane.store_id, lane.object_type, messages))


def encode_piece(messages: list[SyncMessage]) -> bytes | memoryview:
    """A piece of the body of `PUT /sync/messages`: messages without what is around them."""
    encoded = _encoder.encode(messages)
    return encoded[1:-1] if len(encoded) < _LARGE_BYTES else memoryview(encoded)[1:-1]


def decode_piece(piece: bytes) -> list[SyncMessage]:
    """The messages of a piece. Their maps point into a copy of it."""
    return _decode_messages(b"[%b]" % piece)


def body_head(lane: Lane) -> bytes:
    """What a body of `PUT /sync/messages` has before its messages; `BODY_END` comes after them."""
    return encode_messages(lane, []).removesuffix(BODY_END)


def join_pieces(head: bytes, pieces: list[bytes | memoryview]) -> bytes:
    """The body that `encode_messages` makes of all the messages in these pieces of a lane.

    Args:
        head: the lane's (see `body_head`).
        pieces: in their order, one at least.
    """
    if len(pieces) == 1:
        return b"".join((head, pieces[0], BODY_END))
    first, *others, last = pieces
    return b",".join((head + first, *others, b"".join((last, BODY_END))))


class ImportPart(msgspec.Struct, rename="camel", frozen=True):
    """A type that the import webhook asks for."""

    settings_id: int | str
    object_type: str


class ImportRequest(msgspec.Struct, rename="camel", frozen=True):
    """The body of the import webhook: which store's data the account wants."""

    import_started_at: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    store_id: Annotated[str, Meta(min_length=1)]
    settings_to_import: list[ImportPart] = []
    portal_id: int | None = None


decode_import_request = msgspec.json.Decoder(ImportRequest).decode


class _ImportMessage(msgspec.Struct, rename="camel"):
    """A message of an import page: all are upserts of the present state, so it has no more."""

    external_object_id: str | int
    properties: Raw
    associations: Raw


class _ImportPage(msgspec.Struct, rename="camel"):
    import_started_at: int
    page_number: int
    store_id: str
    object_type: ObjectType
    messages: list[_ImportMessage]


class _ImportEnd(msgspec.Struct, rename="camel"):
    import_started_at: int
    page_count: int
    item_count: int
    store_id: str
    object_type: ObjectType


def encode_import_page(
    lane: Lane, messages: Sequence[SyncMessage], *, started_at: int, number: int
) -> bytes:
    """Build the body of `POST /imports/page`; pages of a type are numbered from 0."""
    return _encoder.encode(
        _ImportPage(
            started_at,
            number,
            lane.store_id,
            lane.object_type,
            [_ImportMessage(m.external_object_id, m.properties, m.associations) for m in messages],
        )
    )


def encode_import_end(lane: Lane, *, started_at: int, page_count: int, item_count: int) -> bytes:
    """Build the body of `POST /imports/end`: no more of this type comes."""
    return _encoder.encode(
        _ImportEnd(started_at, page_count, item_count, lane.store_id, lane.object_type)
    )


def verdict_of(answer: Answer, *, had_success: bool) -> Verdict:
    """Say what an answer to `PUT /sync/messages`, or to a page or end of an import, means.

    Args:
        answer: the endpoint's answer.
        had_success: a request with the same credentials was accepted before. A 403 is then about
            the message (a firewall that dislikes its content), otherwise about the credentials.
    """
    status = answer.status
    if 200 <= status < 300:
        return Verdict.DELIVERED if _is_empty_or_json(answer.body) else Verdict.STOP
    if status in _RETRY:
        return Verdict.RETRY
    if status >= 500 and status not in _NEVER_RETRIED_5XX:
        return Verdict.RETRY
    if 400 <= status < 500 and (status not in _STOP_4XX or (status == 403 and had_success)):
        return Verdict.REFUSED
    return Verdict.STOP


def _is_empty_or_json(body: bytes) -> bool:
    """A proxy or a login page answers 200 with HTML, and nothing was delivered."""
    if not body.strip():
        return True
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return True


def retry_after_s(answer: Answer, *, now_s: float) -> float:
    """The wait that the endpoint asks for, in seconds; 0 when it asks for none.

    Retry-After is a number of seconds or an HTTP date. `now_s` is the time of day, epoch seconds.
    """
    text = (answer.retry_after or "").strip()
    if not text:
        return 0.0
    if text.isascii() and text.isdigit():
        return float(text)
    wanted_ms = date_ms(text)
    if wanted_ms is None:
        return 0.0
    # A date means a moment on the server's clock, which may not agree with ours.
    server_now_ms = date_ms(answer.date)
    return max(0.0, wanted_ms / 1000 - (server_now_ms / 1000 if server_now_ms else now_s))


@lru_cache(maxsize=16)  # The answers of one second have one date.
def date_ms(date: str | None) -> int | None:
    """An HTTP date as epoch milliseconds; None where it is missing or unreadable."""
    if not date:
        return None
    parsed = parsedate_tz(date)
    if parsed is None:
        return None
    try:
        # The old asctime form names no zone; HTTP dates are in UTC.
        return (timegm(parsed[:9]) - (parsed[9] or 0)) * 1000
    except (ValueError, OverflowError):
        return None


def printable(text: str) -> str:
    """Text from elsewhere as it may be shown on a terminal: it can neither style nor steer it."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def error_text(answer: Answer) -> str:
    """One line that says what the endpoint complains of; HubSpot's `message` where there is one."""
    try:
        body = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        body = None
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        text: str = body["message"]
    elif answer.body.lstrip()[:1] == b"<":
        text = "an HTML page"
    else:
        text = answer.body[:200].decode("utf-8", "replace")
    text = printable(" ".join(text.split())[:300])
    return f"HTTP {answer.status}: {text}" if text else f"HTTP {answer.status}"


def guilty_in(answer: Answer, batch: Batch) -> dict[int, str]:
    """The messages that a refusal names: index in the batch, and what is said of it.

    HubSpot's `errors` say where: `{"message": ..., "in": "messages[3].externalObjectId"}`. Others
    give an `index`, a JSON pointer, or the id of the object.
    """
    try:
        body = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return {}
    entries = body.get("errors") if isinstance(body, dict) else None
    if not isinstance(entries, list):
        entries = [body]
    by_id: dict[str, list[int]] = {}
    for index, message in enumerate(batch.messages):
        by_id.setdefault(str(message.external_object_id), []).append(index)
    guilty: dict[int, str] = {}
    for entry in entries:
        fields = entry if isinstance(entry, dict) else {"message": entry}
        for index in _places_in(fields, by_id):
            if index < len(batch):
                detail = printable(" ".join(str(fields.get("message") or "").split())[:300])
                guilty.setdefault(index, f"HTTP {answer.status}: {detail}" if detail else "")
    return {index: detail or error_text(answer) for index, detail in guilty.items()}


def _places_in(fields: dict[str, Any], by_id: dict[str, list[int]]) -> list[int]:
    """The indexes that one entry of an error body points to."""
    index = fields.get("index")
    if isinstance(index, int) and not isinstance(index, bool) and index >= 0:
        return [index]
    for value in fields.values():
        if isinstance(value, str) and (places := _PLACE.findall(value[:1000])):
            return [int(place) for place in places]
    named = fields.get("externalObjectId")
    return by_id.get(str(named), []) if isinstance(named, (str, int)) else []


class SyncError(msgspec.Struct, rename="camel", frozen=True):
    """One sync error ("Sync Error Fields"). `type` is an open set: unknown ones are kept."""

    type: str = "UNKNOWN_ERROR"
    details: str | None = None
    status: str | None = None
    store_id: str | int | None = None
    object_type: str | None = None
    external_object_id: str | int | None = None
    changed_at: int | str | None = None
    errored_at: int | str | None = None
    portal_id: int | str | None = None


class SyncStatus(msgspec.Struct, rename="camel", frozen=True):
    """The state of one object ("Sync status fields"). Times are epoch ms, integer or digits."""

    last_processed_at: int | str | None = None
    hubspot_id: int | str | None = None
    errors: list[SyncError] = []
    object_type: str | None = None
    store_id: str | int | None = None
    external_object_id: str | int | None = None


class SyncErrors(msgspec.Struct, frozen=True):
    """A page of sync errors ("Get sync errors")."""

    results: list[SyncError] = []
    paging: dict[str, Any] | None = None
    """Has `next` where more follow; the reference does not know it, HubSpot's server had it."""


decode_status = msgspec.json.Decoder(SyncStatus).decode
decode_errors = msgspec.json.Decoder(SyncErrors).decode


def as_ms(value: int | str | None) -> int | None:
    """A time that the bridge may write as a number or as a digit string ("Get sync status")."""
    if isinstance(value, str):
        is_number = value.isascii() and value.isdigit() and len(value) <= _DIGITS_MAX
        return int(value) if is_number else None
    return value


def failure_in(status: SyncStatus) -> SyncError | None:
    """The error that the last processing of an object ended with; None when it ended well.

    Errors stay in a status for ever. One counts as long as nothing was processed after it.
    """
    processed_ms = as_ms(status.last_processed_at) or 0
    for error in status.errors:
        if error.status != "RESOLVED" and (as_ms(error.errored_at) or 0) >= processed_ms:
            return error
    return None


def status_paths(lane: Lane, external_id: str) -> tuple[str, str]:
    """Both paths of an object's status: the reference's order, and the one that clients use.

    The reference prints type before store, HubSpot's method page and its clients the other way.
    """
    store, object_type, object_id = (quote(part, safe="") for part in (*lane, external_id))
    return (
        f"{API_ROOT}/sync/status/{object_type}/{store}/{object_id}",
        f"{API_ROOT}/sync/status/{store}/{object_type}/{object_id}",
    )


def errors_query(
    *,
    object_type: str | None = None,
    error_type: str | None = None,
    show_resolved: bool = False,
    limit: int = 200,
    offset: int = 0,
) -> str:
    """The query of `GET /sync/errors`, in both parameter families.

    The reference has `showResolvedErrors` and `offset`; HubSpot's clients send `includeResolved`
    and `page`, which counts records from 1.
    """
    flag = "true" if show_resolved else "false"
    query: dict[str, str | int] = {
        "showResolvedErrors": flag,
        "includeResolved": flag,
        "limit": limit,
        "offset": offset,
        "page": offset + 1,
    }
    if object_type:
        query["objectType"] = object_type
    if error_type:
        query["errorType"] = error_type
    return urlencode(query)
