"""Take queued batches, let `processing` decide, write what came of it: large transactions.

All SQL of the processing side is here and no rule. It is called from the state's own thread only.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from pusher.bridge.account import Account
from pusher.bridge.database import connect, queue_path, transaction
from pusher.bridge.model import TYPE_CODES, Fault, ObjectType
from pusher.bridge.processing import (
    Link,
    Record,
    Rules,
    Workspace,
    email_of,
    mark,
    settle,
)
from pusher.bridge.validation import Message, SyncRequest, decode_queued

#: Messages in one transaction. More would save little and make a settings PUT wait.
MAX_MESSAGES_PER_STEP: Final = 1000
MAX_BATCHES_PER_STEP: Final = 50
_CHUNK: Final = (
    200  # Host parameters of one SELECT; short lists are filled up to share a statement.
)

_SELECT_LINKS: Final = f"""
SELECT external_id, hubspot_id, changed_at_ms, is_tombstone, last_processed_at_ms, errored_at_ms,
       has_open_error
FROM links WHERE type = ? AND store = ? AND external_id IN ({", ".join("?" * _CHUNK)})
"""  # noqa: S608  # Question marks only.
_SELECT_TARGETS: Final = f"""
SELECT external_id, hubspot_id FROM links
WHERE type = ? AND store = ? AND external_id IN ({", ".join("?" * _CHUNK)})
  AND hubspot_id IS NOT NULL
"""  # noqa: S608  # Question marks only.
_SELECT_RECORDS: Final = f"""
SELECT hubspot_id, properties, associations FROM records
WHERE hubspot_id IN ({", ".join("?" * _CHUNK)})
"""  # noqa: S608  # Question marks only.
_SELECT_EMAILS: Final = f"""
SELECT email, hubspot_id FROM records WHERE email IN ({", ".join("?" * _CHUNK)})
"""  # noqa: S608  # Question marks only.


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did: how far the queue was taken in, and when the next batch is due."""

    through_id: int
    batches: int
    next_due_ms: int | None


@dataclass(frozen=True, slots=True)
class _Failure:
    """One row of the table of errors."""

    external_id: str
    changed_at_ms: int
    errored_at_ms: int
    fault: Fault


class Applier:
    """Moves batches from the queue's file into the state's."""

    def __init__(self, state_path: Path, account: Account, state: sqlite3.Connection) -> None:
        self._account = account
        self._state = state
        self._queue = connect(queue_path(state_path), is_durable=False)  # Only reads.
        (last_id,) = state.execute("SELECT coalesce(max(hubspot_id), 0) FROM records").fetchone()
        self._hubspot_ids: Iterator[int] = itertools.count(last_id + 1)
        self._through: dict[int, int] = dict(state.execute("SELECT type, batch_id FROM progress"))

    def close(self) -> None:
        """Close the connection to the queue; the state's belongs to the caller."""
        self._queue.close()

    def step(self, object_type: ObjectType, due_at_ms: Callable[[int, int], int]) -> Step:
        """Process the batches of a type that are due, as many as fit into one transaction.

        `due_at_ms` says when a batch (id, received at) is due. A type is processed in the order
        of acceptance, so a batch that is not due yet holds back those behind it.
        """
        code = TYPE_CODES[object_type]
        through_id = self._through[code]
        now_ms = time.time_ns() // 1_000_000
        rows = self._queue.execute(
            "SELECT id, app_id, received_at_ms, messages, body FROM batches"
            " WHERE type = ? AND id > ? ORDER BY id LIMIT ?",
            (code, through_id, MAX_BATCHES_PER_STEP),
        )
        taken, messages, next_due_ms = 0, 0, None
        due: list[tuple[int, int, bytes]] = []
        for batch_id, app_id, received_at_ms, count, body in rows:
            due_ms = due_at_ms(batch_id, received_at_ms)
            if due_ms > now_ms or messages >= MAX_MESSAGES_PER_STEP:
                next_due_ms = due_ms
                break
            due.append((app_id, received_at_ms, body))
            through_id, taken, messages = batch_id, taken + 1, messages + count
        rows.close()
        if due:
            with transaction(self._state):
                created = sum(self._apply(object_type, *batch, now_ms) for batch in due)
                self._state.execute(
                    "UPDATE progress SET batch_id = ?, messages = messages + ?,"
                    " objects = objects + ? WHERE type = ?",
                    (through_id, messages, created, code),
                )
            self._through[code] = through_id
            if next_due_ms is None:
                next_due_ms = now_ms  # There may be more; looking costs little.
        return Step(through_id, taken, next_due_ms)

    def _apply(
        self, object_type: ObjectType, app_id: int, received_at_ms: int, body: bytes, now_ms: int
    ) -> int:
        request = decode_queued(body)
        rules = self._account.rules(object_type, str(request.store_id), app_id)
        external_ids = [str(message.external_object_id) for message in request.messages]
        links = self._load_links(rules, external_ids)
        workspace = self._load_workspace(rules, request, links, external_ids)
        failures: dict[str, _Failure] = {}
        resolved: set[str] = set()
        for message, external_id in zip(request.messages, external_ids, strict=True):
            # "If not provided, the time the message was received by HubSpot will be used instead."
            changed_at_ms = (
                received_at_ms if message.changed_at is None else int(message.changed_at)
            )
            link = links[external_id]
            fault = settle(rules, message, changed_at_ms, link, workspace)
            if fault is None:
                if link.has_open_error:
                    resolved.add(external_id)
                mark(link, None, now_ms)
            else:
                mark(link, fault, now_ms)
                resolved.discard(external_id)
                failures[external_id] = _Failure(
                    external_id, changed_at_ms, link.errored_at_ms or now_ms, fault
                )
        self._write_links(rules, links)
        self._write_records(rules, workspace)
        self._write_errors(rules, failures.values(), resolved)
        return workspace.created

    def _load_links(self, rules: Rules, external_ids: Sequence[str]) -> dict[str, Link]:
        links = {external_id: Link() for external_id in external_ids}
        key = (TYPE_CODES[rules.object_type], rules.store_id)
        for row in self._select(_SELECT_LINKS, key, links):
            links[row[0]] = Link(row[1], row[2], bool(row[3]), row[4], row[5], bool(row[6]))
        return links

    def _load_workspace(
        self,
        rules: Rules,
        request: SyncRequest,
        links: dict[str, Link],
        external_ids: Sequence[str],
    ) -> Workspace:
        emails: dict[str, int] = {}
        if rules.object_type == "CONTACT":
            wanted = {
                email
                for message, external_id in zip(request.messages, external_ids, strict=True)
                if links[external_id].hubspot_id is None and (email := email_of(rules, message))
            }
            emails.update(self._select(_SELECT_EMAILS, (), wanted))
        needed = {link.hubspot_id for link in links.values() if link.hubspot_id is not None}
        records = {
            hubspot_id: Record(orjson.loads(properties), orjson.loads(associations))
            for hubspot_id, properties, associations in self._select(
                _SELECT_RECORDS, (), needed | set(emails.values())
            )
        }
        associated = {
            other_type: dict(
                self._select(_SELECT_TARGETS, (TYPE_CODES[other_type], rules.store_id), ids)
            )
            for other_type, ids in _association_ids(request.messages).items()
        }
        return Workspace(records, emails, associated, self._hubspot_ids.__next__)

    def _select(self, statement: str, key: tuple[Any, ...], values: Iterable[Any]) -> Iterator[Any]:
        pending = list(values)
        for start in range(0, len(pending), _CHUNK):
            chunk = pending[start : start + _CHUNK]
            chunk += chunk[-1:] * (_CHUNK - len(chunk))
            yield from self._state.execute(statement, (*key, *chunk)).fetchall()

    def _write_links(self, rules: Rules, links: dict[str, Link]) -> None:
        code = TYPE_CODES[rules.object_type]
        self._state.executemany(
            "INSERT OR REPLACE INTO links VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    code,
                    rules.store_id,
                    external_id,
                    link.hubspot_id,
                    link.changed_at_ms,
                    link.is_tombstone,
                    link.last_processed_at_ms,
                    link.errored_at_ms,
                    link.has_open_error,
                )
                # In the order of the key: neighbours share a page.
                for external_id, link in sorted(links.items(), key=_first)
            ],
        )

    def _write_records(self, rules: Rules, workspace: Workspace) -> None:
        is_contact = rules.object_type == "CONTACT"
        rows = []
        for hubspot_id in sorted(workspace.changed_records):
            record = workspace.records[hubspot_id]
            rows.append(
                (
                    hubspot_id,
                    record.properties.get("email") if is_contact else None,
                    orjson.dumps(record.properties).decode(),
                    orjson.dumps(record.associations).decode(),
                )
            )
        self._state.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", rows)

    def _write_errors(
        self, rules: Rules, failures: Iterable[_Failure], resolved: Iterable[str]
    ) -> None:
        code = TYPE_CODES[rules.object_type]
        # Only the latest error of an object is kept; replacing it gives it the newest number.
        self._state.executemany(
            "INSERT OR REPLACE INTO errors (type, store, external_id, app_id, changed_at_ms,"
            " errored_at_ms, error_type, details, is_resolved) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
            [
                (
                    code,
                    rules.store_id,
                    failure.external_id,
                    rules.app_id,
                    failure.changed_at_ms,
                    failure.errored_at_ms,
                    failure.fault.type,
                    failure.fault.details,
                )
                for failure in failures
            ],
        )
        self._state.executemany(
            "UPDATE errors SET is_resolved = 1 WHERE type = ? AND store = ? AND external_id = ?",
            [(code, rules.store_id, external_id) for external_id in resolved],
        )


def _first(pair: tuple[str, Link]) -> str:
    return pair[0]


def _association_ids(messages: Iterable[Message]) -> dict[ObjectType, set[str]]:
    wanted: dict[ObjectType, set[str]] = {}
    for message in messages:
        if isinstance(message.associations, dict):
            for other_type, external_ids in message.associations.items():
                wanted.setdefault(other_type, set()).update(map(str, external_ids))
    return wanted
