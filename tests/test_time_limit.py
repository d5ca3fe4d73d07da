"""One limit for many tasks: each is cut off at its own time, and only for being late."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import anyio
import anyio.lowlevel
import pytest

from pusher.time_limit import TimeLimit

DEADLINE_S = 10.0


async def stay(limit: TimeLimit, until: asyncio.Event | None = None) -> float:
    """Wait inside the limit, for ever or until an event; return when that was over."""
    loop = asyncio.get_running_loop()
    try:
        with limit:
            await (until or asyncio.Event()).wait()
    except TimeoutError:
        return loop.time()
    return -1.0


async def test_what_takes_too_long_is_cut_off_and_the_task_goes_on() -> None:
    limit = TimeLimit(0.05)
    async with asyncio.timeout(DEADLINE_S):
        began_s = asyncio.get_running_loop().time()
        for _ in range(2):
            assert await stay(limit) - began_s >= 0.05
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
    await asyncio.sleep(0)  # Nothing is left that would cancel it here.


async def test_what_ends_in_time_is_left_alone() -> None:
    limit = TimeLimit(0.05)
    with limit:
        pass
    until = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.call_later(0.03, until.set)
    assert await stay(limit, until) < 0
    # The first timer was for what has ended long since.
    assert await stay(limit) > 0


async def test_each_is_late_at_its_own_time() -> None:
    limit, loop = TimeLimit(0.1), asyncio.get_running_loop()
    tasks, began_s = [], []
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(3):
            began_s.append(loop.time())
            tasks.append(asyncio.create_task(stay(limit)))
            await asyncio.sleep(0.03)
        ended_s = await asyncio.gather(*tasks)
    assert all(end - begin >= 0.1 for begin, end in zip(began_s, ended_s, strict=True))
    assert all(later - earlier > 0.01 for earlier, later in pairwise(ended_s))


async def test_one_that_ends_does_not_save_the_others() -> None:
    limit, until = TimeLimit(0.05), asyncio.Event()
    async with asyncio.timeout(DEADLINE_S):
        first = asyncio.create_task(stay(limit, until))
        second = asyncio.create_task(stay(limit))
        await asyncio.sleep(0)
        until.set()
        assert await first < 0
        assert await second > 0


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_cancelled_task_stays_cancelled(*, is_late: bool) -> None:
    limit = TimeLimit(0.05)
    task = asyncio.create_task(stay(limit))
    await asyncio.sleep(0)
    if is_late:
        time.sleep(0.1)  # noqa: ASYNC251 - both come in one turn of the loop
        asyncio.get_running_loop().call_soon(task.cancel)
    else:
        task.cancel()
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_scope_around_it_is_told_from_the_limit() -> None:
    limit = TimeLimit(DEADLINE_S)
    with anyio.move_on_after(0.05) as scope:
        await stay(limit)
    assert scope.cancelled_caught
    with anyio.move_on_after(DEADLINE_S) as scope:
        assert await stay(TimeLimit(0.05)) > 0
        await anyio.lowlevel.checkpoint()
    assert not scope.cancelled_caught


async def test_a_failure_is_no_timeout() -> None:
    with pytest.raises(ValueError, match="other"), TimeLimit(0.05):
        raise ValueError("other")
