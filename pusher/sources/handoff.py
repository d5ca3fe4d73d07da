"""Hand chunks from a thread to the event loop. A full hand-off stops the thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque

from pusher.model import Chunk

__all__ = ["CHUNK_BYTES", "Handoff"]

CHUNK_BYTES = 256 << 10
"""What a chunk has, about: it fits into a processor's second cache, which mostly has 512 KiB, and
each lane gets more than a few of its messages at once."""


class Handoff:
    """A bounded queue from a thread to the event loop. A large chunk takes several places."""

    def __init__(self, loop: asyncio.AbstractEventLoop, capacity: int) -> None:
        self._loop = loop
        self._capacity = capacity
        self._free = threading.Semaphore(capacity)
        self._items: deque[Chunk | Exception | None] = deque()
        self._arrived = asyncio.Event()
        self._owed = 0  # Places that are free again, which the thread does not know of yet.
        self._is_closed = False

    def put(self, item: Chunk | Exception | None) -> bool:
        """Called in the thread. Waits for room; False when nobody wants the item any more."""
        if not self.add(item):
            return False
        if isinstance(item, Chunk) and self.is_filled_by(item):
            # While so large a chunk waits, the next one is not even put together.
            if not self._take(self._capacity):
                return False
            self._free.release(self._capacity)
        return True

    def add(self, item: Chunk | Exception | None) -> bool:
        """As `put`, but it does not wait until a large chunk was taken; nor at all with room."""
        if not self._take(self._places(item)):
            return False
        self._items.append(item)
        if not self._arrived.is_set():  # `get` looks once more after it has cleared it.
            try:
                self._loop.call_soon_threadsafe(self._arrived.set)
            except RuntimeError:  # The loop has ended while we were reading.
                return False
        return True

    def has_room(self, timeout_s: float, item: Chunk | None = None) -> bool:
        """Called in the thread. Whether an item, or something small, could be put at once."""
        places = max(1, self._places(item))
        deadline_s = time.monotonic() + timeout_s
        taken = 0
        while taken < places and self._free.acquire(timeout=max(0, deadline_s - time.monotonic())):
            taken += 1
        if taken:
            self._free.release(taken)
        return taken == places

    def is_filled_by(self, item: Chunk) -> bool:
        """Nothing else has room beside it."""
        return self._places(item) == self._capacity

    def _take(self, places: int) -> bool:
        for _ in range(places):
            self._free.acquire()
            if self._is_closed:
                return False
        return not self._is_closed

    async def get(self) -> Chunk | Exception | None:
        """Called in the event loop. Waits for an item; None is the end."""
        while not self._items:
            self._pay()
            self._arrived.clear()
            if not self._items:
                await self._arrived.wait()
        return self._items.popleft()

    def let_in(self, item: Chunk) -> None:
        """Called in the event loop. An item was passed on: there is room again.

        The thread is woken for several items at once: each time, it takes the interpreter from us.
        """
        self._owed += self._places(item)
        if self._owed * 2 >= self._capacity:
            self._pay()

    def _pay(self) -> None:
        if self._owed:
            self._free.release(self._owed)
            self._owed = 0

    def close(self) -> None:
        """Called in the event loop. Lets the thread end at its next item."""
        self._is_closed = True
        self._items.clear()
        self._free.release(self._capacity)

    def _places(self, item: Chunk | Exception | None) -> int:
        """What is no chunk takes none: an end, or an error, has nothing to wait for."""
        if not isinstance(item, Chunk):
            return 0
        if item.coming_bytes:
            return self._capacity
        return min(self._capacity, 1 + len(item.data) // (2 * CHUNK_BYTES))
