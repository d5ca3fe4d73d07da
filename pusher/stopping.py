"""The one place that knows whether a run has to end early, and how far it may still go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from pusher.model import Halt

__all__ = ["Stopping", "cancel_after"]


class Stopping:
    """First reading ends, then sending. The first reason is the one that is reported."""

    def __init__(self) -> None:
        self.halt: Halt | None = None
        self.is_sending_over = False
        """No request is to be begun."""
        self._reading_ended = anyio.Event()
        self._sending_ended = anyio.Event()

    def __repr__(self) -> str:
        return f"<Stopping: {self.halt.reason if self.halt else 'not yet'}>"

    def end_reading(self, halt: Halt) -> None:
        """Read no more; what was read is still sent."""
        self.halt = self.halt or halt
        self._reading_ended.set()

    def end_sending(self, halt: Halt) -> None:
        """Begin no request any more; those under way may end."""
        self.end_reading(halt)
        self.is_sending_over = True
        self._sending_ended.set()

    @property
    def is_reading_over(self) -> bool:
        """Nothing more is to be read."""
        return self._reading_ended.is_set()

    async def reading_ended(self) -> None:
        """Wait until reading is to end."""
        await self._reading_ended.wait()

    async def sending_ended(self) -> None:
        """Wait until sending is to end."""
        await self._sending_ended.wait()

    async def sleep(self, delay_s: float) -> bool:
        """Sleep; false when sending ended meanwhile."""
        with anyio.move_on_after(delay_s):
            await self._sending_ended.wait()
        return not self.is_sending_over


async def cancel_after(event: Callable[[], Awaitable[object]], work: anyio.CancelScope) -> None:
    """Cancel some work once an event has come."""
    await event()
    work.cancel()
