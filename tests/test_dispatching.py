"""Batches go out in their turn, and none once sending is over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import anyio

from pusher.admission import Admission
from pusher.dispatching import Dispatcher
from pusher.model import Batch, Halt, HaltKind, Lane
from pusher.sender import Sender
from pusher.settling import Settlement
from pusher.stopping import Stopping


async def test_a_batcher_is_left_alone_once_sending_is_over() -> None:
    """It was left amid its work: what it would do next need not fit to that."""
    stopping, admission = Stopping(), Admission(1)
    asked: list[str] = []

    def batches(name: str) -> Iterator[Batch]:
        asked.append(name)
        yield Batch(Lane("s", "DEAL"), [], [])
        raise AssertionError("the first one has found no turn")

    async with anyio.create_task_group() as tasks:
        dispatcher = Dispatcher(
            cast("Sender", None),
            cast("Settlement", None),
            admission,
            stopping,
            tasks,
            errand=None,
            is_rehearsal=False,
        )
        await admission.enter()  # Somebody else has the only turn.
        tasks.start_soon(dispatcher.send_all, batches("first"))
        await anyio.wait_all_tasks_blocked()
        stopping.end_sending(Halt(HaltKind.STOPPED, "a web page answers"))
        admission.close()
        await anyio.wait_all_tasks_blocked()
        await dispatcher.send_all(batches("second"))
        dispatcher.close()
    assert asked == ["first"]
