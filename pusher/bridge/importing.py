"""Carry imports from their start to their end: call the webhook, feed the queues in order.

It keeps nothing that a restart would miss: everything it has to go on with stands in `Imports`.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from typing import Final, TypeVar

from pusher.bridge.imports import PHASES, Import, Imports, QueuedPage
from pusher.bridge.intake import Intake
from pusher.bridge.model import ObjectType, QueuedBatch
from pusher.bridge.validation import ImportEnd, ImportPage
from pusher.bridge.webhook import WebhookError, call, make_request
from pusher.bridge.workers import Workers

_T = TypeVar("_T")
_POLL_S: Final = 0.02  # How often it is looked at whether a phase has been processed.
_RETRY_AFTER_S: Final = 1.0
_PAGES_AT_ONCE: Final = 16  # Their bodies are in memory together, and share a commit.
_log = logging.getLogger(__name__)


def now_ms() -> int:
    """The time in epoch milliseconds."""
    return time.time_ns() // 1_000_000


class Importing:
    """The imports under way. `thread` is the one thread that may touch `imports`."""

    def __init__(
        self,
        imports: Imports,
        thread: Executor,
        intake: Intake,
        workers: Workers,
        *,
        portal_id: int,
        secret_of: Callable[[int], str | None],
        timeout_s: float,
    ) -> None:
        self._imports = imports
        self._thread = thread
        self._intake = intake
        self._workers = workers
        self._portal_id = portal_id
        self._secret_of = secret_of
        self._timeout_s = timeout_s
        self._jobs: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()
        # A restart: whether the call got through is not known, so it is made again.
        for one in imports.in_state("CALLING"):
            self._jobs.put_nowait(partial(self._ask, one))
        for one in imports.in_state("PROCESSING"):
            self._jobs.put_nowait(partial(self._process, one.id))

    async def look(self, work: Callable[[Imports], _T]) -> _T:
        """Run `work` on the imports' thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, work, self._imports)

    async def start(self, app_id: int, store_id: str, webhook_uri: str) -> Import:
        """Begin an import; the webhook is called in the background."""
        started = await self.look(lambda on: on.start(app_id, store_id, webhook_uri, now_ms()))
        self._jobs.put_nowait(partial(self._ask, started))
        return started

    async def cancel(self, import_id: int) -> None:
        """End an import that has not begun to be processed."""
        await self.look(lambda on: on.cancel(import_id, now_ms()))

    async def take_page(self, app_id: int | None, page: ImportPage) -> None:
        """Return when a page is safely kept."""
        await self.look(lambda on: on.take_page(app_id, page))

    async def take_end(self, app_id: int | None, end: ImportEnd) -> None:
        """Note the end of a type; processing starts with that of the fourth."""
        complete = await self.look(lambda on: on.take_end(app_id, end))
        if complete is not None:
            self._jobs.put_nowait(partial(self._process, complete))

    async def run(self) -> None:
        """Work until cancelled. An error that is not the database's ends it."""
        async with asyncio.TaskGroup() as group:
            while True:
                job = await self._jobs.get()
                group.create_task(_insist(job))

    async def _ask(self, of: Import) -> None:
        request = make_request(self._portal_id, of, self._secret_of(of.app_id))
        try:
            counts = await call(request, self._timeout_s)
        except WebhookError as error:
            reason = f"webhook: {error}"
            _log.warning("import %d: %s", of.id, reason)
            await self.look(lambda on: on.call_failed(of.id, reason, now_ms()))
        else:
            await self.look(lambda on: on.counted(of.id, counts))

    async def _process(self, import_id: int) -> None:
        for phase in PHASES:
            for object_type in phase:
                await self._feed(import_id, object_type)
            for object_type in phase:
                # Processing may be another process's, so it is looked at and not waited for.
                while not await self.look(  # noqa: ASYNC110
                    partial(_is_processed, import_id, object_type)
                ):
                    await asyncio.sleep(_POLL_S)
        await self.look(lambda on: on.done(import_id, now_ms()))
        _log.info("import %d is done", import_id)

    async def _feed(self, import_id: int, object_type: ObjectType) -> None:
        """Move the pages of a type into its queue.

        A kill between the two commits queues some pages twice. That changes nothing: their
        messages carry the same changedAt.
        """
        while pages := await self.look(
            lambda on: on.next_pages(import_id, object_type, _PAGES_AT_ONCE)
        ):
            app_id = (await self.look(lambda on: on.one(import_id))).app_id
            batches = [_batch(object_type, app_id, page) for page in pages if page.messages]
            await asyncio.gather(*(self._intake.put(batch) for batch in batches))
            self._workers.wake(object_type)
            await self.look(partial(_queued, import_id, object_type, pages))


def _batch(object_type: ObjectType, app_id: int, page: QueuedPage) -> QueuedBatch:
    return QueuedBatch(object_type, app_id, now_ms(), page.messages, page.body)


def _queued(
    import_id: int, object_type: ObjectType, pages: list[QueuedPage], imports: Imports
) -> None:
    imports.queued(import_id, object_type, pages)


def _is_processed(import_id: int, object_type: ObjectType, imports: Imports) -> bool:
    return imports.is_processed(import_id, object_type)


async def _insist(job: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await job()
        except sqlite3.Error as error:  # A full disk passes; every job can be done again.
            _log.error("imports: %s; trying again", error)
            await asyncio.sleep(_RETRY_AFTER_S)
        else:
            return
