"""What is known of imports: who was asked, which pages came, what has ended. No HTTP, no clock.

It has a file of its own, so that a page never waits for the processing of another. All methods are
called from one thread; the caller passes the time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pusher.bridge.database import connect, imports_path, queue_path, transaction
from pusher.bridge.model import OBJECT_TYPES, TYPE_CODES, TYPE_NAMES, ObjectType
from pusher.bridge.refusals import Problem, RefusalError, conflict, invalid, not_found
from pusher.bridge.validation import ImportEnd, ImportPage, as_sync_body

ImportState = Literal["CALLING", "RECEIVING", "PROCESSING", "DONE", "FAILED", "CANCELLED"]
_ACTIVE: Final = "('CALLING', 'RECEIVING', 'PROCESSING')"
#: What is referred to goes first; the types of one phase go side by side.
PHASES: Final[tuple[tuple[ObjectType, ...], ...]] = (
    ("CONTACT", "PRODUCT"),
    ("DEAL",),
    ("LINE_ITEM",),
)
_MAX_NAMED_PAGES: Final = 10
_COLUMNS: Final = (
    "id, app_id, store, started_at_ms, webhook_uri, state, error, finished_at_ms, errors_before"
)


@dataclass(frozen=True, slots=True)
class Import:
    """One import as it stands in the file."""

    id: int
    app_id: int
    store_id: str
    started_at_ms: int
    webhook_uri: str
    state: ImportState
    error: str | None
    finished_at_ms: int | None
    errors_before: int


@dataclass(frozen=True, slots=True)
class QueuedPage:
    """A page that waits to be put into the queue, in the form that the queue takes."""

    number: int
    messages: int
    body: bytes


class Imports:
    """The imports of a bridge. `is_durable` syncs each commit before a 204 is answered."""

    def __init__(self, state_path: Path, *, is_durable: bool) -> None:
        self._file = connect(imports_path(state_path), is_durable=is_durable)
        # Only read, to see how far the processing has come.
        self._state = connect(state_path, is_durable=False)
        self._queue = connect(queue_path(state_path), is_durable=False)

    def close(self) -> None:
        """Close the connections."""
        for connection in (self._file, self._state, self._queue):
            connection.close()

    # What the management endpoints and the console do.

    def start(self, app_id: int, store_id: str, webhook_uri: str, now_ms: int) -> Import:
        """A new import in state CALLING. One at a time for an application and store."""
        with transaction(self._file):
            active = f"app_id = ? AND store = ? AND state IN {_ACTIVE}"
            if self._rows(active, app_id, store_id):
                raise conflict(f"An import of store {store_id!r} is already under way")
            (latest,) = self._file.execute("SELECT max(started_at_ms) FROM imports").fetchone()
            (errors,) = self._state.execute("SELECT coalesce(max(seq), 0) FROM errors").fetchone()
            # Clients name an import by this number, so no two may have the same.
            started_at_ms = max(now_ms, (latest or 0) + 1)
            cursor = self._file.execute(
                "INSERT INTO imports (app_id, store, started_at_ms, webhook_uri, state,"
                " errors_before) VALUES (?, ?, ?, ?, 'CALLING', ?)",
                (app_id, store_id, started_at_ms, webhook_uri, errors),
            )
            self._file.executemany(
                "INSERT INTO import_types (import_id, type) VALUES (?, ?)",
                [(cursor.lastrowid, code) for code in TYPE_CODES.values()],
            )
        return self._rows("started_at_ms = ?", started_at_ms)[0]

    def cancel(self, import_id: int, now_ms: int) -> None:
        """End an import that has not begun to be processed, and forget its pages."""
        with transaction(self._file):
            state = self.one(import_id).state
            if state not in {"CALLING", "RECEIVING"}:
                raise conflict(f"Import {import_id} is {state} and cannot be cancelled")
            self._finish(import_id, "CANCELLED", None, now_ms)

    # What the caller of the webhook reports.

    def counted(self, import_id: int, counts: dict[ObjectType, int]) -> None:
        """The application has answered: these many objects are to be expected."""
        with transaction(self._file):
            self._file.executemany(
                "UPDATE import_types SET expected = ? WHERE import_id = ? AND type = ?",
                [(count, import_id, TYPE_CODES[name]) for name, count in counts.items()],
            )
            self._file.execute(
                "UPDATE imports SET state = 'RECEIVING' WHERE id = ? AND state = 'CALLING'",
                (import_id,),
            )

    def call_failed(self, import_id: int, reason: str, now_ms: int) -> None:
        """The webhook did not answer as it should. What has sent something already goes on."""
        with transaction(self._file):
            (has_begun,) = self._file.execute(
                "SELECT EXISTS (SELECT 1 FROM import_pages WHERE import_id = ?1) OR EXISTS"
                " (SELECT 1 FROM import_types WHERE import_id = ?1 AND page_count IS NOT NULL)",
                (import_id,),
            ).fetchone()
            if self.one(import_id).state == "CALLING" and not has_begun:
                self._finish(import_id, "FAILED", reason, now_ms)
                return
            self._file.execute("UPDATE imports SET error = ? WHERE id = ?", (reason, import_id))
            self._file.execute(
                "UPDATE imports SET state = 'RECEIVING' WHERE id = ? AND state = 'CALLING'",
                (import_id,),
            )

    # What the application sends.

    def take_page(self, app_id: int | None, page: ImportPage) -> None:
        """Keep a page. A repeated one replaces the first until its type has ended."""
        body = as_sync_body(page)
        digest = hashlib.sha256(body).digest()
        code = TYPE_CODES[page.object_type]
        with transaction(self._file):
            found = self._of_client(app_id, str(page.store_id), int(page.import_started_at))
            key = (found.id, code, page.page_number)
            if self._is_ended(found.id, code):
                known = self._file.execute(
                    "SELECT digest FROM import_pages WHERE import_id = ? AND type = ? AND page = ?",
                    key,
                ).fetchone()
                if known is not None and known[0] == digest:
                    return  # A retry whose first answer was lost.
                raise _refused(
                    f"the pages of {page.object_type} have ended", "objectType", found.id
                )
            self._file.execute(
                "INSERT OR REPLACE INTO import_pages VALUES (?, ?, ?, ?, ?, NULL, ?)",
                (*key, len(page.messages), digest, body),
            )

    def take_end(self, app_id: int | None, end: ImportEnd) -> int | None:
        """Note that a type has ended; the import's id when that was the last of the four."""
        code = TYPE_CODES[end.object_type]
        with transaction(self._file):
            found = self._of_client(app_id, str(end.store_id), int(end.import_started_at))
            before = self._file.execute(
                "SELECT page_count, item_count FROM import_types WHERE import_id = ? AND type = ?",
                (found.id, code),
            ).fetchone()
            if before == (end.page_count, end.item_count):
                return None  # A retry whose first answer was lost.
            if before[0] is not None:
                raise _refused(
                    f"{end.object_type} has ended with {before[0]} pages and {before[1]} items",
                    "pageCount",
                    found.id,
                )
            self._check_complete(found.id, code, end)
            self._file.execute(
                "UPDATE import_types SET page_count = ?, item_count = ?"
                " WHERE import_id = ? AND type = ?",
                (end.page_count, end.item_count, found.id, code),
            )
            (open_types,) = self._file.execute(
                "SELECT count(*) FROM import_types WHERE import_id = ? AND page_count IS NULL",
                (found.id,),
            ).fetchone()
            if open_types:
                return None
            self._file.execute("UPDATE imports SET state = 'PROCESSING' WHERE id = ?", (found.id,))
            return found.id

    def _of_client(self, app_id: int | None, store_id: str, started_at_ms: int) -> Import:
        # None: an open bridge does not know which application is calling.
        rows = self._rows("started_at_ms = ? AND store = ?", started_at_ms, store_id)
        if not rows or app_id not in {None, rows[0].app_id}:
            raise invalid(
                f"Invalid request: importStartedAt: no import of store {store_id!r} was started"
                f" at {started_at_ms}",
                Problem("no such import was started", "importStartedAt"),
            )
        found = rows[0]
        if found.state in {"FAILED", "CANCELLED"}:
            raise _refused(f"the import is {found.state}", "importStartedAt", found.id)
        return found

    def _is_ended(self, import_id: int, code: int) -> bool:
        (page_count,) = self._file.execute(
            "SELECT page_count FROM import_types WHERE import_id = ? AND type = ?",
            (import_id, code),
        ).fetchone()
        return page_count is not None

    def _check_complete(self, import_id: int, code: int, end: ImportEnd) -> None:
        """Every page from 0 to pageCount, none more, with itemCount messages in all."""
        page_count = int(end.page_count)
        pages, items, last = self._file.execute(
            "SELECT count(*), coalesce(sum(messages), 0), coalesce(max(page), -1)"
            " FROM import_pages WHERE import_id = ? AND type = ?",
            (import_id, code),
        ).fetchone()
        if pages != page_count or last != page_count - 1:
            message = f"pageCount is {page_count}, but {pages} pages have arrived"
            missing = self._first_missing(import_id, code, page_count)
            if missing:
                message += f"; missing: {', '.join(map(str, missing))}"
            elif last >= page_count:
                message += f", up to number {last}"
            raise _refused(message, "pageCount", import_id)
        if items != end.item_count:
            message = f"itemCount is {end.item_count}, but {items} items have arrived"
            raise _refused(message, "itemCount", import_id)

    def _first_missing(self, import_id: int, code: int, page_count: int) -> list[int]:
        missing: list[int] = []
        expected = 0
        for (number,) in self._file.execute(
            "SELECT page FROM import_pages WHERE import_id = ? AND type = ? ORDER BY page",
            (import_id, code),
        ):
            missing.extend(range(expected, min(number, expected + _MAX_NAMED_PAGES, page_count)))
            expected = number + 1
            if len(missing) >= _MAX_NAMED_PAGES:
                break
        else:
            missing.extend(range(expected, min(page_count, expected + _MAX_NAMED_PAGES)))
        return missing[:_MAX_NAMED_PAGES]

    # What the processing does.

    def in_state(self, state: ImportState) -> list[Import]:
        """The imports in this state, oldest first: what a restart goes on with."""
        return self._rows("state = ? ORDER BY id", state)

    def one(self, import_id: int) -> Import:
        """An import by its id, or a 404."""
        rows = self._rows("id = ?", import_id)
        if not rows:
            raise not_found("There is no such import")
        return rows[0]

    def next_pages(self, import_id: int, object_type: ObjectType, limit: int) -> list[QueuedPage]:
        """The first pages of a type that are not in the queue yet."""
        rows = self._file.execute(
            "SELECT page, messages, body FROM import_pages"
            " WHERE import_id = ? AND type = ? AND queued_through IS NULL ORDER BY page LIMIT ?",
            (import_id, TYPE_CODES[object_type], limit),
        )
        return [QueuedPage(*row) for row in rows]

    def queued(self, import_id: int, object_type: ObjectType, pages: Iterable[QueuedPage]) -> None:
        """These pages are in the queue: what is not processed of them is in it from now on."""
        code = TYPE_CODES[object_type]
        (newest,) = self._queue.execute(
            "SELECT coalesce(max(id), 0) FROM batches WHERE type = ?", (code,)
        ).fetchone()
        with transaction(self._file):
            self._file.executemany(
                "UPDATE import_pages SET queued_through = ?, body = NULL"
                " WHERE import_id = ? AND type = ? AND page = ?",
                [(newest, import_id, code, page.number) for page in pages],
            )

    def is_processed(self, import_id: int, object_type: ObjectType) -> bool:
        """Whether every page of a type has been processed."""
        code = TYPE_CODES[object_type]
        (waiting,) = self._file.execute(
            "SELECT EXISTS (SELECT 1 FROM import_pages WHERE import_id = ? AND type = ?"
            " AND (queued_through IS NULL OR queued_through > ?))",
            (import_id, code, self._processed_through()[code]),
        ).fetchone()
        return not waiting

    def done(self, import_id: int, now_ms: int) -> None:
        """All that came has been processed."""
        with transaction(self._file):
            row = self.one(import_id)
            self._file.executemany(
                "UPDATE import_types SET open_errors = ? WHERE import_id = ? AND type = ?",
                [(self._open_errors(row, code), import_id, code) for code in TYPE_CODES.values()],
            )
            self._finish(import_id, "DONE", row.error, now_ms)

    def _processed_through(self) -> dict[int, int]:
        return dict(self._state.execute("SELECT type, batch_id FROM progress").fetchall())

    def _finish(self, import_id: int, state: ImportState, error: str | None, now_ms: int) -> None:
        self._file.execute(
            "UPDATE imports SET state = ?, error = ?, finished_at_ms = ? WHERE id = ?",
            (state, error, now_ms, import_id),
        )
        if state != "DONE":  # Those of what is done are kept to know a repeated page by.
            self._file.execute("DELETE FROM import_pages WHERE import_id = ?", (import_id,))

    # What can be seen.

    def document(self, import_id: int) -> dict[str, Any]:
        """One import as JSON, or a 404."""
        return self._document(self.one(import_id), self._processed_through())

    def documents(self, limit: int) -> dict[str, Any]:
        """The latest imports, newest first."""
        rows = self._rows("1 ORDER BY id DESC LIMIT ?", limit)
        through = self._processed_through()
        return {"results": [self._document(row, through) for row in rows]}

    def _document(self, row: Import, through: dict[int, int]) -> dict[str, Any]:
        return {
            "id": row.id,
            "appId": row.app_id or None,
            "storeId": row.store_id,
            "importStartedAt": row.started_at_ms,
            "webhookUri": row.webhook_uri,
            "state": row.state,
            "error": row.error,
            "finishedAt": row.finished_at_ms,
            "types": {
                TYPE_NAMES[code]: {
                    "expected": expected,
                    "ended": page_count is not None,
                    # What is done is not counted again each time that it is looked at.
                    **(
                        _figures(page_count, item_count, item_count, open_errors)
                        if row.state == "DONE"
                        else self._progress(row, code, through[code])
                    ),
                }
                for code, expected, page_count, item_count, open_errors in self._file.execute(
                    "SELECT type, expected, page_count, item_count, open_errors FROM import_types"
                    " WHERE import_id = ? ORDER BY type",
                    (row.id,),
                ).fetchall()
            },
        }

    def _progress(self, row: Import, code: int, through: int) -> dict[str, int]:
        pages, received, processed = self._file.execute(
            "SELECT count(*), coalesce(sum(messages), 0),"
            " coalesce(sum(messages) FILTER (WHERE queued_through <= ?), 0)"
            " FROM import_pages WHERE import_id = ? AND type = ?",
            (through, row.id, code),
        ).fetchone()
        return _figures(pages, received, processed, self._open_errors(row, code))

    def _open_errors(self, row: Import, code: int) -> int:
        (open_errors,) = self._state.execute(
            "SELECT count(*) FROM errors"
            " WHERE is_resolved = 0 AND type = ? AND seq > ? AND store = ?",
            (code, row.errors_before, row.store_id),
        ).fetchone()
        return int(open_errors)

    def _rows(self, condition: str, *values: Any) -> list[Import]:
        rows = self._file.execute(
            f"SELECT {_COLUMNS} FROM imports WHERE {condition}",  # noqa: S608  # Our own text.
            values,
        )
        return [Import(*row) for row in rows]


def _refused(message: str, field: str, import_id: int) -> RefusalError:
    return invalid(f"Import {import_id}: {message}", Problem(message, field))


def _figures(pages: int, received: int, processed: int, open_errors: int) -> dict[str, int]:
    return {
        "pages": pages,
        "received": received,
        "processed": processed,
        "openErrors": open_errors,
    }


def settings_to_import() -> list[dict[str, Any]]:
    """What the webhook asks the application to count."""
    return [{"settingsId": TYPE_CODES[name], "objectType": name} for name in OBJECT_TYPES]
