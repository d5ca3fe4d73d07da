"""What can be read of the synced state: status, errors, objects, counts. It writes nothing."""

from __future__ import annotations

import base64
import binascii
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from pusher.bridge.database import connect, queue_path
from pusher.bridge.model import NO_APP, TYPE_CODES, TYPE_NAMES, ErrorType, ObjectType
from pusher.bridge.refusals import Problem, invalid

_ERROR_COLUMNS: Final = (
    "type, store, external_id, changed_at_ms, errored_at_ms, error_type, details, is_resolved"
)
_OBJECT_COLUMNS: Final = (
    "store, external_id, hubspot_id, changed_at_ms, is_tombstone, last_processed_at_ms,"
    " properties, associations"
)


@dataclass(frozen=True, slots=True)
class ErrorQuery:
    """Which errors are asked for. `app_id` NO_APP means those of the whole account."""

    app_id: int = NO_APP
    object_type: ObjectType | None = None
    error_type: ErrorType | None = None
    with_resolved: bool = False
    offset: int = 0
    limit: int = 200


@dataclass(frozen=True, slots=True)
class ObjectQuery:
    """Which objects are asked for; `after` is the cursor of the page before."""

    object_type: ObjectType
    store_id: str | None = None
    external_id: str | None = None
    external_id_prefix: str | None = None
    after: str | None = None
    limit: int = 100


class Views:
    """Reads on connections of their own; one thread at a time."""

    def __init__(self, state_path: Path, portal_id: int) -> None:
        self._state = connect(state_path, is_durable=False)
        self._queue = connect(queue_path(state_path), is_durable=False)
        self._portal_id = portal_id

    def close(self) -> None:
        """Close the connections."""
        self._state.close()
        self._queue.close()

    def status(
        self, object_type: ObjectType, store_id: str, external_id: str
    ) -> dict[str, Any] | None:
        """The sync status of an object, None when no message for it has been processed."""
        key = (TYPE_CODES[object_type], store_id, external_id)
        row = self._state.execute(
            "SELECT hubspot_id, last_processed_at_ms FROM links"
            " WHERE type = ? AND store = ? AND external_id = ?",
            key,
        ).fetchone()
        if row is None:
            return None
        errors = self._state.execute(
            f"SELECT {_ERROR_COLUMNS} FROM errors"  # noqa: S608  # Our own columns.
            " WHERE type = ? AND store = ? AND external_id = ?",
            key,
        )
        return {
            "storeId": store_id,
            "objectType": object_type,
            "externalObjectId": external_id,
            "hubspotId": row[0],
            "lastProcessedAt": row[1],
            "errors": [self._error(error) for error in errors],
        }

    def errors(self, query: ErrorQuery) -> tuple[list[dict[str, Any]], bool]:
        """A page of errors, newest first, and whether more follow."""
        conditions, values = ["1"], []
        if not query.with_resolved:
            conditions.append("is_resolved = 0")
        for column, value in (
            ("type", TYPE_CODES[query.object_type] if query.object_type else None),
            ("error_type", query.error_type),
            ("app_id", query.app_id or None),
        ):
            if value is not None:
                conditions.append(f"{column} = ?")
                values.append(value)
        rows = self._state.execute(
            f"SELECT {_ERROR_COLUMNS} FROM errors WHERE {' AND '.join(conditions)}"  # noqa: S608
            " ORDER BY seq DESC LIMIT ? OFFSET ?",
            (*values, query.limit + 1, query.offset),
        ).fetchall()
        return [self._error(row) for row in rows[: query.limit]], len(rows) > query.limit

    def _error(self, row: tuple[Any, ...]) -> dict[str, Any]:
        code, store, external_id, changed_at_ms, errored_at_ms, error_type, details, resolved = row
        return {
            "portalId": self._portal_id,
            "storeId": store,
            "objectType": TYPE_NAMES[code],
            "externalObjectId": external_id,
            "changedAt": changed_at_ms,
            "erroredAt": errored_at_ms,
            "type": error_type,
            "details": details,
            "status": "RESOLVED" if resolved else "OPEN",
        }

    def objects(self, query: ObjectQuery) -> dict[str, Any]:
        """A page of external objects with what HubSpot would show of them."""
        conditions = ["type = ?"]
        parameters: list[Any] = [TYPE_CODES[query.object_type]]
        for column, value in (("store", query.store_id), ("external_id", query.external_id)):
            if value is not None:
                conditions.append(f"{column} = ?")
                parameters.append(value)
        if query.external_id_prefix is not None:
            # External ids are ASCII: what begins with the prefix lies below prefix + \x80.
            conditions.append("external_id >= ? AND external_id < ?")
            parameters += [query.external_id_prefix, f"{query.external_id_prefix}\x80"]
        by_id = query.external_id is not None or query.external_id_prefix is not None
        if query.store_id is None and by_id:
            # Naming the stores lets the key be used instead of reading the whole type.
            stores = self._stores_of(query.object_type)
            conditions.append(f"store IN ({', '.join('?' * len(stores))})")
            parameters += stores
        if query.after is not None:
            conditions.append("(store, external_id) > (?, ?)")
            parameters.extend(_decode_cursor(query.after))
        rows = self._state.execute(
            f"SELECT {_OBJECT_COLUMNS} FROM links LEFT JOIN records USING (hubspot_id)"  # noqa: S608
            f" WHERE {' AND '.join(conditions)} ORDER BY store, external_id LIMIT ?",
            (*parameters, query.limit + 1),
        ).fetchall()
        page: dict[str, Any] = {
            "results": [_object(query.object_type, row) for row in rows[: query.limit]]
        }
        if len(rows) > query.limit:
            last = rows[query.limit - 1]
            page["paging"] = {"next": {"after": _encode_cursor(last[0], last[1])}}
        return page

    def _stores_of(self, object_type: ObjectType) -> list[str]:
        """The stores that have objects of this type, deleted stores too: one look-up for each."""
        stores: list[str] = []
        last = ""
        while True:
            (last,) = self._state.execute(
                "SELECT min(store) FROM links WHERE type = ? AND store > ?",
                (TYPE_CODES[object_type], last),
            ).fetchone()
            if last is None:
                return stores
            stores.append(last)

    def stats(self) -> dict[str, Any]:
        """Counts per type.

        `queued` is the depth of the queue in messages, `lagMs` the age of the oldest of them.
        """
        through: dict[int, int] = {}
        processed: dict[int, tuple[int, int]] = {}
        for code, batch_id, messages, objects in self._state.execute(
            "SELECT type, batch_id, messages, objects FROM progress"
        ):
            through[code], processed[code] = batch_id, (messages, objects)
        open_errors = dict(
            self._state.execute(
                "SELECT type, count(*) FROM errors WHERE is_resolved = 0 GROUP BY type"
            ).fetchall()
        )
        # Read after `processed`, so that it can only be greater.
        accepted = dict(self._queue.execute("SELECT type, messages FROM accepted").fetchall())
        return {
            "types": {
                name: {
                    "accepted": accepted[code],
                    "queued": accepted[code] - processed[code][0],
                    "processed": processed[code][0],
                    "objects": processed[code][1],
                    "openErrors": open_errors.get(code, 0),
                    "lagMs": self._lag_ms(code, through[code]),
                }
                for name, code in TYPE_CODES.items()
            }
        }

    def _lag_ms(self, code: int, through_id: int) -> int:
        row = self._queue.execute(
            "SELECT received_at_ms FROM batches WHERE type = ? AND id > ? ORDER BY id LIMIT 1",
            (code, through_id),
        ).fetchone()
        return 0 if row is None else max(0, time.time_ns() // 1_000_000 - row[0])


def _object(object_type: ObjectType, row: tuple[Any, ...]) -> dict[str, Any]:
    associations = orjson.loads(row[7]) if row[7] is not None else {}
    return {
        "storeId": row[0],
        "objectType": object_type,
        "externalObjectId": row[1],
        "hubspotId": row[2],
        "changedAt": row[3],
        "isTombstone": bool(row[4]),
        "lastProcessedAt": row[5],
        "properties": orjson.loads(row[6]) if row[6] is not None else {},
        "associations": {
            other_type: [
                {"externalObjectId": external_id, "hubspotId": hubspot_id}
                for external_id, hubspot_id in targets.items()
            ]
            for other_type, targets in associations.items()
        },
    }


def _encode_cursor(store: str, external_id: str) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([store, external_id])).decode().rstrip("=")


def _decode_cursor(text: str) -> tuple[str, str]:
    try:
        pair = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        store, external_id = pair
        return str(store), str(external_id)
    except (binascii.Error, ValueError, TypeError) as error:
        problem = Problem("must be the cursor of an earlier page", "after")
        raise invalid("Invalid request: after: not a cursor", problem) from error
