"""The whole bridge for library users and for the commands: one typed method an endpoint.

It knows the API and the door; it does not know how anything is shown.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar, Unpack
from urllib.parse import quote, urlencode

import msgspec
import orjson

from pusher.errors import BridgeApiError, EndpointError, UsageError
from pusher.model import Answer, Failure, Lane, Transport, Verdict
from pusher.protocol import (
    API_ROOT,
    IMPORT_END_PATH,
    IMPORT_PAGE_PATH,
    MESSAGES_PATH,
    SyncError,
    SyncErrors,
    SyncStatus,
    decode_errors,
    decode_status,
    error_text,
    errors_query,
    status_paths,
    verdict_of,
)
from pusher.refreshing import Refresher, Tokens
from pusher.transport import HttpTransport

__all__ = ["BridgeClient", "ErrorFilters"]

Json = dict[str, Any]
T = TypeVar("T")

ERRORS_PATH = "/sync/errors"
ERRORS_A_PAGE = 200


class ErrorFilters(TypedDict, total=False):
    """Which sync errors to get."""

    object_type: str | None
    """Only those of objects of this type."""
    error_type: str | None
    """Only those of this type."""
    show_resolved: bool
    """Those as well whose object was processed without error since."""


class BridgeClient:
    """A client of one Ecommerce Bridge. An async context manager.

    Each method sends one request, once; with a `refresher`, after a 401 once more with a new token.
    Times are epoch milliseconds.

    Args:
        url: base address of the bridge.
        token: OAuth or private-app token.
        api_key: `hapikey`, instead of a token: the account's; or the developer's, for calls with an
            `app_id`.
        refresher: gets new tokens. `tokens` has them.
        timeout_s: for a request and its answer.
        transport: the door to use instead of one made from these values.

    Raises:
        UsageError: the address cannot be used.
        EndpointError: a call got no answer.
        BridgeApiError: a call got an answer that is an error.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        api_key: str | None = None,
        refresher: Refresher | None = None,
        timeout_s: float = 60.0,
        transport: Transport | None = None,
    ) -> None:
        self._own: HttpTransport | None = None
        self._refresher = refresher
        if transport is None:
            transport = self._own = HttpTransport(
                url, token=token, api_key=api_key, timeout_s=timeout_s, refresher=refresher
            )
        self._transport = transport
        self._path_order: int | None = None

    async def __aenter__(self) -> Self:
        if self._own is not None:
            await self._own.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._own is not None:
            await self._own.__aexit__(kind, error, traceback)

    @property
    def tokens(self) -> Tokens | None:
        """The newest tokens that a refresh has brought, to be kept; None before the first."""
        return None if self._refresher is None else self._refresher.tokens

    async def get_settings(
        self, *, app_id: int | None = None, show_provided_mappings: bool = False
    ) -> Json:
        """Get the settings ("Get settings"). Without provided mappings they can be put back."""
        return await self._json("GET", "/settings", _settings_query(app_id, show_provided_mappings))

    async def put_settings(
        self, settings: Json, *, app_id: int | None = None, show_provided_mappings: bool = False
    ) -> Json:
        """Replace the settings ("Create or update settings"): what is left out is cleared."""
        query = _settings_query(app_id, show_provided_mappings)
        return await self._json("PUT", "/settings", query, settings)

    async def delete_settings(self, *, app_id: int | None = None) -> None:
        """Delete the settings ("Delete settings"). It cannot be undone; `enabled: false` can."""
        await self._call("DELETE", "/settings", _settings_query(app_id, show_provided=False))

    async def list_stores(self) -> list[Json]:
        """Get all stores ("Get all stores")."""
        return _decoded(_results, await self._call("GET", "/stores"))

    async def get_store(self, store_id: str) -> Json:
        """Get a store ("Get a store")."""
        _check_id(store_id)
        return await self._json("GET", f"/stores/{quote(store_id, safe='')}")

    async def put_store(self, store: Json) -> Json:
        """Create or replace a store: `id`, `label`, `adminUri` ("Create or update a store")."""
        return await self._json("PUT", "/stores", body=store)

    async def delete_store(self, store_id: str) -> None:
        """Delete a store; the data of its objects stays ("Delete a store")."""
        _check_id(store_id)
        await self._call("DELETE", f"/stores/{quote(store_id, safe='')}")

    async def put_messages(self, lane: Lane, messages: Sequence[Json]) -> None:
        """Send up to 200 sync messages of one store and type ("Put sync messages").

        They are processed after this returns. For streams, use `push`.
        """
        body = {
            "storeId": lane.store_id,
            "objectType": lane.object_type,
            "messages": list(messages),
        }
        await self._deliver("PUT", MESSAGES_PATH, body)

    async def post_import_page(
        self, lane: Lane, messages: Sequence[Json], *, import_started_at: int, page_number: int
    ) -> None:
        """Send up to 200 objects of an import ("Imports"); pages of a type are numbered from 0.

        A message is an `externalObjectId` with `properties` and `associations`.
        """
        body = {
            "importStartedAt": import_started_at,
            "pageNumber": page_number,
            "storeId": lane.store_id,
            "objectType": lane.object_type,
            "messages": list(messages),
        }
        await self._deliver("POST", IMPORT_PAGE_PATH, body)

    async def end_import(
        self, lane: Lane, *, import_started_at: int, page_count: int, item_count: int
    ) -> None:
        """Say that all pages of a type were sent ("Imports"). Processing waits for all four."""
        body = {
            "importStartedAt": import_started_at,
            "pageCount": page_count,
            "itemCount": item_count,
            "storeId": lane.store_id,
            "objectType": lane.object_type,
        }
        await self._deliver("POST", IMPORT_END_PATH, body)

    async def get_status(self, lane: Lane, external_id: str) -> SyncStatus | None:
        """Get the state of an object ("Get sync status"); None while the bridge knows none.

        Until one order of the path has answered 200, a 400 or 404 is asked again in the other.
        """
        paths = status_paths(lane, external_id)
        for order in (0, 1) if self._path_order is None else (self._path_order,):
            answer = await self._answer("GET", paths[order].removeprefix(API_ROOT))
            if answer.status == 200:
                self._path_order = order
                return _decoded(decode_status, answer)
            if answer.status not in {400, 404}:
                raise self._api_error(answer)
        return None

    async def get_errors(
        self,
        *,
        limit: int = ERRORS_A_PAGE,
        offset: int = 0,
        **filters: Unpack[ErrorFilters],
    ) -> list[SyncError]:
        """Get a page of an application's errors in one account, newest first ("Get sync errors").

        It wants a token. A page has at most 200 errors.
        """
        return (await self._errors(ERRORS_PATH, limit, offset, filters)).results

    async def get_portal_errors(
        self,
        *,
        limit: int = ERRORS_A_PAGE,
        offset: int = 0,
        **filters: Unpack[ErrorFilters],
    ) -> list[SyncError]:
        """Get a page of an account's errors, newest first. It wants the account's API key."""
        return (await self._errors(f"{ERRORS_PATH}/portal", limit, offset, filters)).results

    async def get_app_errors(
        self,
        app_id: int,
        *,
        limit: int = ERRORS_A_PAGE,
        offset: int = 0,
        **filters: Unpack[ErrorFilters],
    ) -> list[SyncError]:
        """Get a page of an application's errors in all accounts. It wants the developer's key."""
        return (await self._errors(f"{ERRORS_PATH}/app/{app_id}", limit, offset, filters)).results

    async def all_errors(
        self,
        *,
        app_id: int | None = None,
        of_portal: bool = False,
        limit: int | None = None,
        **filters: Unpack[ErrorFilters],
    ) -> AsyncIterator[SyncError]:
        """Yield all errors, newest first, page after page; each once.

        Args:
            app_id: ask for an application's errors in all accounts (see `get_app_errors`).
            of_portal: ask for an account's errors (see `get_portal_errors`).
            limit: how many to yield at most.
            filters: which of them.
        """
        path = ERRORS_PATH
        if app_id is not None:
            path += f"/app/{app_id}"
        elif of_portal:
            path += "/portal"
        wanted = ERRORS_A_PAGE if limit is None else min(ERRORS_A_PAGE, limit)
        left, offset = limit, 0
        last_page: frozenset[tuple[object, ...]] = frozenset()
        while left is None or left > 0:
            page = await self._errors(path, wanted, offset, filters)
            keys = [_identity(error) for error in page.results]
            # Errors that came meanwhile push the last ones of a page onto the next.
            new = [
                error for error, key in zip(page.results, keys, strict=True) if key not in last_page
            ]
            for error in new[:left]:
                yield error
            left = None if left is None else left - len(new)
            has_next = page.paging is not None and "next" in page.paging
            if not keys or (len(keys) < wanted and not has_next) or frozenset(keys) == last_page:
                return
            offset += len(keys)
            last_page = frozenset(keys)

    async def _errors(
        self, path: str, limit: int, offset: int, filters: ErrorFilters
    ) -> SyncErrors:
        query = errors_query(limit=limit, offset=offset, **filters)
        return _decoded(decode_errors, await self._call("GET", path, query))

    async def _deliver(self, method: str, path: str, body: Json) -> None:
        answer = await self._call(method, path.removeprefix(API_ROOT), body=body)
        if verdict_of(answer, had_success=True) is not Verdict.DELIVERED:
            raise _not_the_bridges(answer)

    async def _json(
        self, method: str, path: str, query: str = "", body: Json | None = None
    ) -> Json:
        answer = await self._call(method, path, query, body)
        return _decoded(_json_object, answer)

    async def _call(
        self, method: str, path: str, query: str = "", body: Json | None = None
    ) -> Answer:
        answer = await self._answer(method, path, query, body)
        if not 200 <= answer.status < 300:
            raise self._api_error(answer)
        return answer

    async def _answer(
        self, method: str, path: str, query: str = "", body: Json | None = None
    ) -> Answer:
        data = None if body is None else orjson.dumps(body)
        answer = await self._transport.request(method, API_ROOT + path, query=query, body=data)
        if isinstance(answer, Failure):
            raise EndpointError(f"{answer.kind}: {answer.detail}")
        return answer

    def _api_error(self, answer: Answer) -> BridgeApiError:
        correlation_id: str | None = None
        try:
            body = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            body = None
        if isinstance(body, dict) and isinstance(body.get("correlationId"), str):
            correlation_id = body["correlationId"]
        text = error_text(answer)
        if answer.status == 401 and self._refresher is not None and self._refresher.trouble:
            text += f" (the token could not be refreshed: {self._refresher.trouble})"
        return BridgeApiError(text, status=answer.status, correlation_id=correlation_id)


def _check_id(store_id: str) -> None:
    """Without an id the address would be that of all stores."""
    if not store_id:
        raise UsageError("a store's id must not be empty")


def _settings_query(app_id: int | None, show_provided: bool) -> str:  # noqa: FBT001
    query: dict[str, str | int] = {}
    if app_id is not None:
        query["appId"] = app_id
    if show_provided:
        query["showProvidedMappings"] = "true"
    return urlencode(query)


def _identity(error: SyncError) -> tuple[object, ...]:
    return (
        error.portal_id,
        error.store_id,
        error.object_type,
        error.external_object_id,
        error.errored_at,
        error.type,
    )


def _results(data: bytes) -> list[Json]:
    results = _json_object(data)["results"]
    if not isinstance(results, list):
        raise TypeError("not a list")
    return results


def _json_object(data: bytes) -> Json:
    value = orjson.loads(data)
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value


def _decoded(decode: Callable[[bytes], T], answer: Answer) -> T:
    try:
        return decode(answer.body)
    except (ValueError, TypeError, KeyError, msgspec.DecodeError) as error:
        raise _not_the_bridges(answer) from error


def _not_the_bridges(answer: Answer) -> BridgeApiError:
    text = f"the answer is not the bridge's: {error_text(answer)}"
    return BridgeApiError(text, status=answer.status)
