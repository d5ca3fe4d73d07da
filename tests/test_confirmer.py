"""When the objects of a sample are asked about, while a push goes on."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import anyio
import msgspec
import pytest

from pusher.confirmer import Confirmer
from pusher.model import Answer, Batch, Delivery, Lane, SyncMessage
from pusher.polling import StatusPoller
from pusher.protocol import SyncStatus
from pusher.sampling import Sample, SampleSize

COUNT = 320
POLL_S = 0.1


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Bridge:
    """Says that all was processed just now, and takes its time."""

    clock: Clock
    polls: int = 0

    async def request(
        self, method: str, path: str, *, query: str = "", body: bytes | None = None
    ) -> Answer:
        del method, path, query, body
        self.polls += 1
        self.clock.now_s += POLL_S
        return Answer(200, msgspec.json.encode(SyncStatus(int(self.clock.now_s * 1000) + 10_000)))


def sampled(clock: Clock) -> Sample:
    """A sample of all messages of a batch that was accepted now; one stands for its lane."""
    sample = Sample(SampleSize(COUNT), random.Random(1), first_poll_after_s=0.0)
    messages = [SyncMessage(f"o{number}", changed_at=1) for number in range(COUNT)]
    batch = Batch(Lane("s", "DEAL"), messages, list(range(COUNT)))
    sample.accept(Delivery(batch, 0, 0.01), clock.now_s, remember_last=False)
    return sample


@dataclass
class Push:
    """How much of the input is accepted, for whoever asks."""

    share: float = 0.0
    looks: int = 0
    was_looked_at: anyio.Event = field(default_factory=anyio.Event)

    def __call__(self) -> float:
        self.looks += 1
        if self.looks == 2:  # What came of the first look is done.
            self.was_looked_at.set()
        return self.share

    def goes_on(self, share: float) -> None:
        """So much is accepted by now."""
        self.share, self.looks, self.was_looked_at = share, 0, anyio.Event()


async def polls_beside(share: float, *, at_s: float, rate: float | None = None) -> int:
    """How many objects are asked about once so much of the input is accepted at that time."""
    clock, push = Clock(), Push()
    bridge = Bridge(clock)
    confirmer = Confirmer(bridge, sampled(clock), rate=rate, rng=random.Random(1), now_s=clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(confirmer.watch, push)
        with anyio.fail_after(10):
            await push.was_looked_at.wait()
            assert bridge.polls == 1  # For the one that stands for its lane.
            clock.now_s = at_s
            push.goes_on(share)
            await push.was_looked_at.wait()
        tasks.cancel_scope.cancel()
    return bridge.polls - 1


async def test_the_sample_is_polled_while_the_push_goes_on_as_late_as_it_can_be() -> None:
    """A poll takes 0.1 s, so 320 of them, 32 at once, take one: the push must last no longer."""
    assert await polls_beside(0.95, at_s=190) == 0  # 10 s are left.
    assert await polls_beside(0.95, at_s=19) > COUNT / 2  # One is.


async def test_the_sample_is_not_polled_while_most_of_it_may_still_be_replaced() -> None:
    assert await polls_beside(0.8, at_s=0.2) == 0


async def test_a_sample_with_a_rate_of_polls_is_polled_from_the_half_on() -> None:
    assert await polls_beside(0.4, at_s=90, rate=1_000) == 0
    assert await polls_beside(0.6, at_s=90, rate=1_000) > COUNT / 2


@pytest.mark.parametrize(
    ("rate", "in_flight", "at_once"),
    [(None, None, 32), (None, 8, 32), (None, 128, 128), (9.0, 128, 18), (1_000.0, 128, 32)],
)
async def test_so_many_polls_are_under_way_at_one_time(
    rate: float | None, in_flight: int | None, at_once: int
) -> None:
    """As many as the endpoint was to take requests, where no rate is kept."""
    clock = Clock()
    rng = random.Random(1)
    poller = StatusPoller(Bridge(clock), rate=rate, rng=rng, in_flight=in_flight, now_s=clock)
    assert poller.at_once == at_once
