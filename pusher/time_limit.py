"""How long each of many things may take that go on at the same time: one limit, one timer.

A timer for each would cost a fifteenth of what it costs to send a small request.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

__all__ = ["TimeLimit"]


class TimeLimit:
    """Cuts off what takes too long: `with limit:` raises TimeoutError then, as `asyncio.timeout`.

    The limit is the same for all, so the first that began is the first that is late. Made and used
    inside one event loop; a task may be in it once at a time.

    Args:
        limit_s: so long each may take.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._under_way: dict[asyncio.Task[object], tuple[float, int]] = {}
        """When each will be late, in the order of that, and how often it was cancelled before."""
        self._late: dict[asyncio.Task[object], int] = {}
        """Those that were cut off, and have not noticed yet."""
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<TimeLimit of {self._limit_s:g} s, {len(self._under_way)} under way>"

    def __enter__(self) -> None:
        task = _current_task(self._loop)
        late_at_s = self._loop.time() + self._limit_s
        self._under_way[task] = (late_at_s, task.cancelling())
        if self._timer is None:
            self._timer = self._loop.call_at(late_at_s, self._cut_off)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task = _current_task(self._loop)
        if self._under_way.pop(task, None) is not None:
            return
        cancelled_before = self._late.pop(task)
        # Somebody else may have cancelled it as well, and that has to go on.
        is_only_late = task.uncancel() <= cancelled_before
        if is_only_late and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _cut_off(self) -> None:
        """Cancel what is late, and look again when the next would be."""
        self._timer = None
        now_s = self._loop.time()
        while self._under_way:
            task, (late_at_s, cancelled_before) = next(iter(self._under_way.items()))
            if late_at_s > now_s:
                self._timer = self._loop.call_at(late_at_s, self._cut_off)
                return
            del self._under_way[task]
            self._late[task] = cancelled_before
            task.cancel()


def _current_task(loop: asyncio.AbstractEventLoop) -> asyncio.Task[object]:
    task = asyncio.current_task(loop)
    if task is None:
        raise RuntimeError("a time limit is for a task")
    return task
