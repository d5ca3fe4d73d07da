"""The whole bridge for library users and for the commands: one typed method an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode

import msgspec
import orjson

from pusher.errors import BridgeApiError, EndpointError
from pusher.model import Answer, Failure, Lane, Transport, Verdict
from pusher.protocol import (
    API_ROOT,
    MESSAGES_PATH,
    SyncError,
    SyncStatus,
    decode_errors,
    decode_status,
    error_text,
    errors_query,
    status_paths,
    verdict_of,
)
from pusher.transport import HttpTransport

__all__ = ["BridgeClient"]

Json = dict[str, Any]
T = TypeVar("T")


class BridgeClient:
    """A client of one Ecommerce Bridge. An async context manager.

    Each method sends one request, once. Times are epoch milliseconds.

    Args:
        url: base address of the bridge.
        token: OAuth or private-app token.
        api_key: `hapikey`, instead of a token.
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
        timeout_s: float = 60.0,
        transport: Transport | None = None,
    ) -> None:
        self._own: HttpTransport | None = None
        if transport is None:
            transport = self._own = HttpTransport(
                url, token=token, api_key=api_key, timeout_s=timeout_s
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
        return await self._json("GET", f"/stores/{quote(store_id, safe='')}")

    async def put_store(self, store: Json) -> Json:
        """Create or replace a store: `id`, `label`, `adminUri` ("Create or update a store")."""
        return await self._json("PUT", "/stores", body=store)

    async def delete_store(self, store_id: str) -> None:
        """Delete a store; the data of its objects stays ("Delete a store")."""
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
        answer = await self._call("PUT", MESSAGES_PATH.removeprefix(API_ROOT), body=body)
        if verdict_of(answer, had_success=True) is not Verdict.DELIVERED:
            raise _not_the_bridges(answer)

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
                raise _api_error(answer)
        return None

    async def get_errors(
        self,
        *,
        object_type: str | None = None,
        error_type: str | None = None,
        show_resolved: bool = False,
        limit: int = 200,
        offset: int = 0,
    ) -> list[SyncError]:
        """Get a page of sync errors, newest first ("Get sync errors"); at most 200 of them."""
        query = errors_query(
            object_type=object_type,
            error_type=error_type,
            show_resolved=show_resolved,
            limit=limit,
            offset=offset,
        )
        return _decoded(decode_errors, await self._call("GET", "/sync/errors", query)).results

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
            raise _api_error(answer)
        return answer

    async def _answer(
        self, method: str, path: str, query: str = "", body: Json | None = None
    ) -> Answer:
        data = None if body is None else orjson.dumps(body)
        answer = await self._transport.request(method, API_ROOT + path, query=query, body=data)
        if isinstance(answer, Failure):
            raise EndpointError(f"{answer.kind}: {answer.detail}")
        return answer


def _settings_query(app_id: int | None, show_provided: bool) -> str:  # noqa: FBT001
    query: dict[str, str | int] = {}
    if app_id is not None:
        query["appId"] = app_id
    if show_provided:
        query["showProvidedMappings"] = "true"
    return urlencode(query)


def _api_error(answer: Answer) -> BridgeApiError:
    correlation_id: str | None = None
    try:
        body = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        body = None
    if isinstance(body, dict) and isinstance(body.get("correlationId"), str):
        correlation_id = body["correlationId"]
    return BridgeApiError(error_text(answer), status=answer.status, correlation_id=correlation_id)


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
