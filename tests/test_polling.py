"""Polling the sync status: what one failure costs, and which objects are asked about at all."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from fakes.command import PUSHER, ended, message, ndjson, starting
from fakes.endpoint import Endpoint

from pusher import SampleSize, Settings, push
from pusher.confirmer import Confirmer
from pusher.model import Answer, Batch, Delivery, Failure, Lane, SyncMessage
from pusher.polling import FAILURES_IN_A_ROW, PAUSE_MAX_S, Silence, StatusPoller
from pusher.protocol import SyncStatus
from pusher.sampling import LASTING_S, Sample

LANE = Lane("s1", "DEAL")
COUNT = 320
POLL_S = 0.1
PROCESSED = Answer(200, json.dumps({"lastProcessedAt": 5_000_000_000_000}).encode())
GONE = Failure("connect", "refused", ambiguous=False)


class Door:
    """A transport that answers as a test tells it to, and remembers what it was asked for."""

    def __init__(self, answer: Callable[[str], Answer | Failure]) -> None:
        self.answer = answer
        self.paths: list[str] = []

    async def request(
        self, method: str, path: str, *, query: str = "", body: bytes | None = None
    ) -> Answer | Failure:
        del method, query, body
        self.paths.append(path)
        return self.answer(path)


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def poller_of(door: Door, clock: Clock) -> StatusPoller:
    return StatusPoller(door, rate=None, rng=random.Random(1), now_s=clock)


@pytest.mark.parametrize("answer", [GONE, Answer(503), Answer(500), Answer(200, b"<html>")])
async def test_one_failed_poll_does_not_hold_up_the_others(answer: Answer | Failure) -> None:
    poller = poller_of(Door(lambda path: answer if "bad" in path else PROCESSED), Clock())
    for _ in range(FAILURES_IN_A_ROW * 2):
        assert await poller.ask(LANE, "bad") is Silence.NO_ANSWER
        assert await poller.turn()
        assert isinstance(await poller.ask(LANE, "good"), SyncStatus)


@pytest.mark.parametrize("answer", [GONE, Answer(503)])
async def test_a_row_of_failures_pauses_all_polls_for_longer_and_longer(
    answer: Answer | Failure,
) -> None:
    clock = Clock()
    door = Door(lambda _path: answer)
    poller = poller_of(door, clock)
    for _ in range(FAILURES_IN_A_ROW):
        assert await poller.turn()
        await poller.ask(LANE, "x")
    pauses = []
    for _ in range(8):
        assert not await poller.turn()
        pauses.append(poller.pause_s)
        clock.now_s += poller.pause_s
        assert await poller.turn()
        await poller.ask(LANE, "x")
    assert pauses[0] < 0.5
    assert all(later > earlier for earlier, later in itertools.pairwise(pauses[:4]))
    assert max(pauses) <= PAUSE_MAX_S * 1.2
    door.answer = lambda _path: PROCESSED
    clock.now_s += poller.pause_s
    assert isinstance(await poller.ask(LANE, "x"), SyncStatus)
    assert poller.failing_s == 0


@pytest.mark.parametrize(
    ("answer", "pause_s"),
    [
        (Answer(429), 1.0),
        (Answer(429, retry_after="7"), 7.0),
        (Answer(503, retry_after="3"), 3.0),
    ],
)
async def test_an_endpoint_that_asks_for_a_pause_gets_it(answer: Answer, pause_s: float) -> None:
    poller = poller_of(Door(lambda _path: answer), Clock())
    await poller.ask(LANE, "x")
    assert poller.pause_s == pytest.approx(pause_s)
    assert not await poller.turn()


async def test_what_the_bridge_does_not_know_yet_is_asked_for_in_both_orders() -> None:
    door = Door(lambda _path: Answer(400))
    poller = poller_of(door, Clock())
    assert await poller.ask(LANE, "x") is Silence.NOT_YET
    assert len(door.paths) == 2
    assert await poller.turn()


async def test_refused_credentials_end_the_polls_with_the_reason() -> None:
    poller = poller_of(Door(lambda _path: Answer(403, b'{"message": "no scope"}')), Clock())
    assert await poller.ask(LANE, "x") is Silence.NO_ANSWER
    assert poller.trouble == "the endpoint does not show sync status: HTTP 403: no scope"
    assert not await poller.turn()


def delivery_of(ids: list[str], lane: Lane = LANE) -> Delivery:
    messages = [SyncMessage(one, changed_at=1) for one in ids]
    return Delivery(Batch(lane, messages, list(range(len(ids)))), 1_000, 0.1)


def ids_of(sample: Sample, now_s: float, *, is_endless: bool) -> set[str]:
    found = sample.lasting(100.0, now_s, is_endless=is_endless)
    return {one.accepted.external_id for one in found}


def test_in_a_run_of_known_length_only_the_objects_of_lanes_are_sure_to_stay() -> None:
    sample = Sample(SampleSize(3), random.Random(1))
    sample.accept(delivery_of([str(number) for number in range(40)]), 100.0, remember_last=False)
    kept = {one.accepted.external_id for one in sample.objects() if one.is_kept}
    assert len(kept) == 1
    assert ids_of(sample, 10_000.0, is_endless=False) == kept


def test_in_a_run_without_an_end_an_object_is_asked_about_once_it_has_lasted() -> None:
    sample = Sample(SampleSize(3), random.Random(1))
    sample.accept(delivery_of(["a"]), 101.0, remember_last=False)
    sample.accept(delivery_of(["b"]), 150.0, remember_last=False)
    assert ids_of(sample, 151.0 + LASTING_S, is_endless=True) == {"a"}
    assert ids_of(sample, 199.9, is_endless=True) == {"a"}
    assert ids_of(sample, 200.0, is_endless=True) == {"a", "b"}


async def test_an_object_that_lost_its_place_is_not_asked_about() -> None:
    sample = Sample(SampleSize(1), random.Random(1))
    sample.accept(delivery_of(["a", "b", "c", "d"]), 0.0, remember_last=False)
    for member in list(sample.objects()):
        member.slots, member.is_kept = 0, False
    door = Door(lambda _path: PROCESSED)
    confirmer = Confirmer(door, sample, rate=None, rng=random.Random(1))
    await confirmer.finish(0.05)
    assert door.paths == []


@pytest.mark.parametrize("source", ["in.ndjson", "-"])
async def test_hardly_any_object_is_asked_about_that_is_not_in_the_sample_at_the_end(
    source: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    """The reservoir takes in some 2,100 objects of these on its way, and drops most of them."""
    data = ndjson(message(number) for number in range(30_000))
    (tmp_path / "in.ndjson").write_bytes(data)
    argv = ("push", "--url", endpoint.url, "--report", "-", "--rate", "100", "--progress", "never")
    async with starting(*PUSHER, *argv, source, cwd=tmp_path, stdin=-1) as process:
        result = await ended(process, data if source == "-" else b"", within_s=40)
    confirmation = result.report["confirmation"]
    assert confirmation["sampled"] == confirmation["confirmed"] >= 400
    assert len(endpoint.status_requests) <= confirmation["sampled"] * 1.25


async def test_a_short_run_is_confirmed_as_fast_as_before(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    source = tmp_path / "in.ndjson"
    source.write_bytes(ndjson(message(number) for number in range(1_000)))
    values: dict[str, Any] = {"dead_letters": tmp_path / "dead", "seed": 1}
    report = await push(source, Settings(url=endpoint.url, **values))
    assert report.confirmation.confirmed == report.confirmation.sampled
    assert report.elapsed_s < 1.5


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
    began_s = clock.now_s

    def poll(_path: str) -> Answer:
        clock.now_s += POLL_S
        return PROCESSED

    door = Door(poll)
    sample = Sample(SampleSize(COUNT), random.Random(1), first_poll_after_s=0.0)
    ids = [str(number) for number in range(COUNT)]
    sample.accept(delivery_of(ids), clock.now_s, remember_last=False)
    confirmer = Confirmer(door, sample, rate=rate, rng=random.Random(1), now_s=clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(confirmer.watch, push)
        with anyio.fail_after(10):
            await push.was_looked_at.wait()
            assert len(door.paths) == 1  # For the one that stands for its lane.
            clock.now_s = began_s + at_s
            push.goes_on(share)
            await push.was_looked_at.wait()
        tasks.cancel_scope.cancel()
    return len(door.paths) - 1


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
    door, rng = Door(lambda _path: PROCESSED), random.Random(1)
    poller = StatusPoller(door, rate=rate, rng=rng, in_flight=in_flight, now_s=Clock())
    assert poller.at_once == at_once
