"""One queue per object type, each with its own delay: when something is processed, never how.

The types race against each other on purpose. A LINE_ITEM that is due before its DEAL has been
processed fails, as it does in HubSpot.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

from pusher.bridge.applier import Applier
from pusher.bridge.intake import Intake
from pusher.bridge.model import OBJECT_TYPES, TYPE_CODES, ObjectType

_RETRY_AFTER_S: Final = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """When a batch of one type is due: after its delay and a jitter that its id and seed decide."""

    object_type: ObjectType
    delay_s: float = 0.0
    jitter_s: float = 0.0
    seed: int = 0

    def due_at_ms(self, batch_id: int, received_at_ms: int) -> int:
        """Arithmetic only; the same batch is due at the same time after a restart."""
        wait_s = self.delay_s
        if self.jitter_s:
            mixed = (self.seed * 4 + TYPE_CODES[self.object_type]) * 2**40 + batch_id
            wait_s += random.Random(mixed).uniform(0.0, self.jitter_s)
        return received_at_ms + round(wait_s * 1000)


class Workers:
    """The four queues' workers. `state_thread` is the one thread that may touch the state."""

    def __init__(
        self,
        applier: Applier,
        intake: Intake,
        state_thread: Executor,
        pace: Callable[[ObjectType], Pace],
    ) -> None:
        self._applier = applier
        self._intake = intake
        self._state_thread = state_thread
        self._paces = {object_type: pace(object_type) for object_type in OBJECT_TYPES}
        self._arrivals = {object_type: asyncio.Event() for object_type in OBJECT_TYPES}

    def wake(self, object_type: ObjectType) -> None:
        """Say that a batch of this type has been queued."""
        self._arrivals[object_type].set()

    async def run(self) -> None:
        """Process until cancelled. An error that is not the database's ends it."""
        async with asyncio.TaskGroup() as group:
            for object_type in OBJECT_TYPES:
                group.create_task(self._work(object_type), name=f"bridge-{object_type}")

    async def _work(self, object_type: ObjectType) -> None:
        arrived = self._arrivals[object_type]
        due_at_ms = self._paces[object_type].due_at_ms
        loop = asyncio.get_running_loop()
        while True:
            # Cleared before looking: what arrives during the step is seen in the next round.
            arrived.clear()
            try:
                step = await loop.run_in_executor(
                    self._state_thread, self._applier.step, object_type, due_at_ms
                )
            except sqlite3.Error as error:  # A full disk passes; nothing was taken from the queue.
                _log.error("processing %s: %s; trying again", object_type, error)
                await asyncio.sleep(_RETRY_AFTER_S)
                continue
            if step.batches:
                _log.info("processed %s: batches up to %d", object_type, step.through_id)
                self._intake.forget(object_type, step.through_id)
            if step.next_due_ms is None:
                await arrived.wait()
            else:
                wait_s = step.next_due_ms / 1000 - time.time()
                await asyncio.sleep(max(0.0, wait_s))
