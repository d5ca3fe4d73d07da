"""Read live topics as a member of a consumer group.

This is the event loop's side. A thread of its own (`consuming`) owns the client, and hands chunks
over; a full hand-off stops it, and so the fetching.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import anyio
import anyio.to_thread

from pusher.errors import UsageError
from pusher.model import Chunk, LiveState, Partition, Revocation
from pusher.showing import Examples
from pusher.sources.client import Plan, load_client
from pusher.sources.consuming import Consuming
from pusher.sources.handoff import Handoff
from pusher.sources.topics import TopicAddress

__all__ = ["KafkaSource"]

READ_AHEAD_CHUNKS = 8
CLOSE_S = 45.0
"""How long the last commit and leaving the group may take."""


class KafkaSource:
    """The messages of one or more topics, from where the group has got to.

    Args:
        address: brokers, topics and group.
        plan: how they are read.

    Raises:
        UsageError: the address names no group, or there is no client.
    """

    can_be_read_again = False

    def __init__(self, address: TopicAddress, plan: Plan) -> None:
        if address.group is None:
            raise UsageError(
                "kafka://...: name a consumer group: kafka://HOST:PORT/TOPIC?group=NAME"
            )
        load_client()  # Rather now than when the run has begun.
        self.name = f"{address.name} as {address.group}"
        self.size_bytes: int | None = None
        self.read_bytes = self.handed_bytes = 0
        self.paths: list[Path] = []
        self.state = LiveState()
        self.examples = Examples() if plan.formats.shows else None
        """Of what the mapping makes of messages, where they are wanted."""
        self._address = address
        self._plan = plan
        self._consuming: Consuming | None = None
        self._thread: threading.Thread | None = None
        self._taken = 0
        self._revocations: deque[Revocation] = deque()
        self._revoked = asyncio.Event()

    def __repr__(self) -> str:
        return f"<KafkaSource {self.name}, {self.read_bytes} bytes read>"

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Yield what comes, until the plan's end if it has one.

        When it is closed, nothing more is read; the partitions stay ours until `close`.

        Raises:
            UsageError: a topic does not exist, or a property is wrong.
            InputError: the brokers cannot be reached or do not let us in, or the client has failed.
        """
        loop = asyncio.get_running_loop()
        handoff = Handoff(loop, READ_AHEAD_CHUNKS)

        def revoke(revocation: Revocation) -> None:
            self._revocations.append(revocation)
            loop.call_soon_threadsafe(self._revoked.set)

        consuming = Consuming(
            self._address, self._plan, self.state, handoff, revoke, examples=self.examples
        )
        self._consuming = consuming
        self._thread = threading.Thread(target=consuming.run, name="pusher-kafka", daemon=True)
        self._thread.start()
        try:
            while True:
                item = await handoff.get()
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                self.read_bytes += len(item.data)
                self.handed_bytes = self.read_bytes
                yield item
                self._taken += 1
                handoff.let_in(item)
        finally:
            consuming.stop_reading()
            handoff.close()

    def holds(self, partition: Partition) -> bool:
        """The partition is still ours, in the same epoch."""
        return self._consuming is not None and self._consuming.holds(partition)

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Everything before these offsets is settled; it is committed within about a second."""
        if self._consuming is not None:
            self._consuming.settle(dict(offsets))

    def rest(self) -> None:
        """All that was yielded is dealt with, as far as it can be: a bounded run may end there."""
        if self._consuming is not None:
            self._consuming.rested_after = self._taken

    async def next_revocation(self) -> Revocation:
        """Wait until partitions are taken away."""
        while not self._revocations:
            self._revoked.clear()
            await self._revoked.wait()
        return self._revocations.popleft()

    def let_go(self) -> None:
        """What was told by `commit` is all that will be settled of the revoked partitions."""
        if self._consuming is not None:
            self._consuming.let_go.set()

    async def close(self) -> str | None:
        """Commit, and leave the group. Why the last commit failed, if it did."""
        thread, consuming = self._thread, self._consuming
        if thread is None or consuming is None:
            return None
        consuming.end()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(thread.join, CLOSE_S)
        if thread.is_alive():
            return "the consumer did not end in time"
        return consuming.commit_trouble
