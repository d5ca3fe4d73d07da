"""Queue accepted batches durably: one writer thread, one commit for all that wait. No rule is here.

A caller's `put` returns when its batch is committed; only then may a 204 be answered.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pusher.bridge.database import connect, queue_path, transaction
from pusher.bridge.model import TYPE_CODES, ObjectType, QueuedBatch

MAX_GROUP: Final = 256  # Jobs in one commit; more would only make the first of them wait.


@dataclass(frozen=True, slots=True)
class _Put:
    batch: QueuedBatch
    committed: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class _Forget:
    object_type: ObjectType
    through_id: int


class _Stop:
    pass


class Intake:
    """The durable queue of batches, as its writers see it. Start it inside an event loop."""

    def __init__(self, state_path: Path, *, is_durable: bool) -> None:
        self._connection = connect(queue_path(state_path), is_durable=is_durable)
        self._jobs: queue.SimpleQueue[_Put | _Forget | _Stop] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="bridge-intake", daemon=True)
        #: How many transactions have been committed; fewer than batches when commits are shared.
        self.commits = 0
        self._thread.start()

    async def put(self, batch: QueuedBatch) -> None:
        """Return when `batch` is committed to the queue."""
        committed: asyncio.Future[None] = self._loop.create_future()
        self._jobs.put(_Put(batch, committed))
        await committed

    def forget(self, object_type: ObjectType, through_id: int) -> None:
        """Drop the batches of a type that the state has taken in, some time soon."""
        self._jobs.put(_Forget(object_type, through_id))

    async def close(self) -> None:
        """Commit what waits and end the thread."""
        self._jobs.put(_Stop())
        await asyncio.to_thread(self._thread.join)
        self._connection.close()

    def _run(self) -> None:
        is_running = True
        while is_running:
            jobs = [self._jobs.get()]
            while len(jobs) < MAX_GROUP:
                try:
                    jobs.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            is_running = not any(isinstance(job, _Stop) for job in jobs)
            waiting = [job.committed for job in jobs if isinstance(job, _Put)]
            try:
                self._commit(jobs)
            except sqlite3.Error as error:  # A full disk is the caller's to report.
                self._loop.call_soon_threadsafe(_release, waiting, error)
            else:
                self.commits += 1
                self._loop.call_soon_threadsafe(_release, waiting, None)

    def _commit(self, jobs: list[_Put | _Forget | _Stop]) -> None:
        puts = [job.batch for job in jobs if isinstance(job, _Put)]
        codes = TYPE_CODES
        with transaction(self._connection):
            self._connection.executemany(
                "INSERT INTO batches (type, app_id, received_at_ms, messages, body)"
                " VALUES (?, ?, ?, ?, ?)",
                [
                    (
                        codes[put.object_type],
                        put.app_id,
                        put.received_at_ms,
                        put.message_count,
                        put.body,
                    )
                    for put in puts
                ],
            )
            self._connection.executemany(
                "UPDATE accepted SET messages = messages + ? WHERE type = ?",
                [(put.message_count, codes[put.object_type]) for put in puts],
            )
            self._connection.executemany(
                "DELETE FROM batches WHERE type = ? AND id <= ?",
                [
                    (codes[job.object_type], job.through_id)
                    for job in jobs
                    if isinstance(job, _Forget)
                ],
            )


def _release(waiting: list[asyncio.Future[None]], error: sqlite3.Error | None) -> None:
    for future in waiting:
        if future.done():  # Its request was cancelled meanwhile.
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
