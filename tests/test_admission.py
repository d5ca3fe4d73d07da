"""The gate in front of the endpoint: turns, pauses, probes."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from pusher.admission import Admission
from pusher.pacing import Outcome


async def settled() -> None:
    """Let every task go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


def attempted(admission: Admission, outcome: Outcome) -> None:
    admission.ended(admission.began(), outcome)


async def test_no_more_enter_than_the_limit() -> None:
    admission = Admission(2)
    assert await admission.enter()
    assert await admission.enter()
    third = asyncio.create_task(admission.enter())
    await settled()
    assert not third.done()
    admission.leave()
    assert await third


async def test_who_tries_again_goes_before_who_is_new() -> None:
    admission = Admission(1)
    await admission.enter()
    order: list[str] = []

    async def wait(name: str, *, again: bool) -> None:
        await (admission.enter_again() if again else admission.enter())
        order.append(name)
        admission.leave()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: wait("new", again=False))
        await settled()
        tasks.start_soon(lambda: wait("again", again=True))
        await settled()
        admission.leave()
    assert order == ["again", "new"]


async def test_a_closed_gate_sends_all_away() -> None:
    admission = Admission(1)
    await admission.enter()
    waiting = [asyncio.create_task(admission.enter()) for _ in range(3)]
    await settled()
    admission.close()
    assert await asyncio.gather(*waiting) == [False] * 3
    assert not await admission.enter()


async def test_who_is_cancelled_while_waiting_takes_no_turn() -> None:
    admission = Admission(1)
    await admission.enter()
    gone = asyncio.create_task(admission.enter())
    after = asyncio.create_task(admission.enter())
    await settled()
    gone.cancel()
    admission.leave()
    assert await after


async def test_a_turn_that_was_just_given_is_given_back_when_its_taker_is_cancelled() -> None:
    admission = Admission(1)
    await admission.enter()
    gone = asyncio.create_task(admission.enter())
    await settled()
    admission.leave()  # It is gone's turn now, but gone has not run yet.
    gone.cancel()
    await settled()
    assert await asyncio.wait_for(admission.enter(), 1)


async def test_during_a_pause_nobody_enters_and_afterwards_all_do() -> None:
    admission = Admission(2)
    admission.pause(0.05)
    both = [asyncio.create_task(admission.enter()) for _ in range(2)]
    await settled()
    assert not any(task.done() for task in both)
    assert await asyncio.wait_for(asyncio.gather(*both), 5) == [True, True]


@pytest.mark.parametrize("ends_after", range(1, 8))
async def test_a_pause_that_ends_while_it_is_looked_at_holds_nobody_for_ever(
    ends_after: int,
) -> None:
    """The clock reaches the end of the pause between one look at it and the next."""
    looks = 0

    def now_s() -> float:
        nonlocal looks
        looks += 1
        return 10.0 + (looks > ends_after) * 1e-6

    admission = Admission(1, now_s=now_s)
    admission._paused_until_s = 10.0 + 1e-6
    assert await asyncio.wait_for(admission.enter(), 5)


async def test_a_longer_pause_is_not_cut_short_by_a_shorter_one() -> None:
    now_s = 100.0
    admission = Admission(1, now_s=lambda: now_s)
    admission.pause(10.0)
    admission.pause(1.0)
    waiting = asyncio.create_task(admission.enter())
    now_s = 105.0
    await settled()
    assert not waiting.done()
    waiting.cancel()


async def test_when_so_much_has_failed_one_probe_at_a_time_passes() -> None:
    admission = Admission(16)
    for _ in range(60):
        attempted(admission, Outcome.FAILED)
    assert admission.is_probing
    assert await admission.enter()
    second = asyncio.create_task(admission.enter())
    await settled()
    assert not second.done()
    attempted(admission, Outcome.ACCEPTED)
    admission.leave()
    assert await second
    assert not admission.is_probing


async def test_a_limit_that_grows_lets_several_in_at_once() -> None:
    admission = Admission(None)
    for _ in range(admission.limit):
        await admission.enter()
    waiting = [asyncio.create_task(admission.enter()) for _ in range(20)]
    await settled()
    begun = [admission.began() for _ in range(4)]
    for began_s in begun:
        admission.ended(began_s, Outcome.ACCEPTED)
    for _ in range(2):
        attempted(admission, Outcome.ACCEPTED)
    admission.leave()
    await settled()
    assert sum(task.done() for task in waiting) >= 4
    admission.close()
    await asyncio.gather(*waiting)


async def test_a_probe_that_is_refused_shows_that_the_endpoint_is_back() -> None:
    admission = Admission(4)
    for _ in range(60):
        attempted(admission, Outcome.FAILED)
    attempted(admission, Outcome.ANSWERED)
    assert not admission.is_probing


async def test_a_refusal_is_no_sign_of_trouble() -> None:
    admission = Admission(4)
    for _ in range(200):
        attempted(admission, Outcome.ANSWERED)
    assert not admission.is_probing


@pytest.mark.parametrize(
    ("concurrency", "start", "limit"), [(7, 90, 7), (None, 90, 90), (None, 1, 4)]
)
async def test_what_an_earlier_run_found_is_where_auto_begins(
    concurrency: int | None, start: int, limit: int
) -> None:
    assert Admission(concurrency, start=start).limit == limit


async def test_a_probe_that_is_cut_off_says_nothing() -> None:
    admission = Admission(1)
    await admission.enter()
    admission.began()
    admission.given_up()
    admission.leave()
    assert await admission.enter()
