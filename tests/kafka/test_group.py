"""Several pushers in one group: killed, stopped, added. Nothing is lost, and order is kept."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from proof.driving import Oracle, running_oracle
from proof.judge import Record, judge
from proof.ledger import IS_FULL, size
from proof.workload import Line, lines

from kafka.broker import Broker
from kafka.campaigns import Campaigns
from kafka.members import Group, Member, fill, name_of_a_topic, taken, until

MESSAGES = size(ci=20_000, full=500_000)
PARTITIONS = 6
BETWEEN_COMMITS_S = 2.5
"""A commit is at most a second old, and what it knows a quarter; the rest is for a busy machine."""
MAX_LAG_BYTES = 512 << 10
READ_AHEAD_BYTES = 10 * (64 << 10)
SLOWLY = ("--latency-ms", 5, 20, "--at-once", 3)
OPTIONS = (
    *("--batch-size", "100" if IS_FULL else "15", "--concurrency", "4"),
    *("--max-lag", str(MAX_LAG_BYTES)),
)
DEADLINE_S = 1500.0 if IS_FULL else 110.0


@pytest.fixture(scope="session")
def workload() -> list[Line]:
    return lines(MESSAGES, seed=6)


def protocols(broker: Broker) -> list[str]:
    """The mock cluster's classic groups refuse commits while they rebalance."""
    return ["classic", "consumer"] if broker.is_real else ["consumer"]


@asynccontextmanager
async def filled(
    broker: Broker, workload: list[Line], folder: Path, protocol: str
) -> AsyncIterator[tuple[Oracle, Group]]:
    """A topic with the workload in it, an oracle, and a group without members."""
    if protocol not in protocols(broker):
        pytest.skip("the mock cluster has no whole classic groups")
    topic = broker.create_topic(name_of_a_topic(), PARTITIONS)
    await asyncio.to_thread(fill, broker, topic, workload)
    async with running_oracle(*SLOWLY) as oracle:
        group = Group(broker, topic, oracle, folder, protocol=protocol, options=OPTIONS)
        try:
            yield oracle, group
        finally:
            await group.end()


def repeats_bound(workload: list[Line], record: Record, killed_at_s: list[float]) -> float:
    """How many messages may be repeated after kills.

    What was taken since the last commit, and what lies beyond the oldest message not settled:
    that is bounded by --max-lag and what was read ahead.
    """
    mean_bytes = sum(len(line.raw) for line in workload) / len(workload)
    beyond = (MAX_LAG_BYTES + READ_AHEAD_BYTES) / mean_bytes
    return sum(
        beyond + sum(at_s - BETWEEN_COMMITS_S <= one <= at_s for one in record.at_s)
        for at_s in killed_at_s
    )


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
async def test_members_are_killed_stopped_and_added_and_nothing_is_lost(
    broker: Broker,
    workload: list[Line],
    tmp_path: Path,
    protocol: str,
    campaigns: Campaigns,
) -> None:
    began_s = time.monotonic()
    async with filled(broker, workload, tmp_path, protocol) as (oracle, group):
        killed, stopped = await group.join("--until", "end"), await group.join("--until", "end")

        async def has(share: float) -> bool:
            return await taken(oracle) > share * MESSAGES

        await until(lambda: has(0.1), "a tenth taken", DEADLINE_S)
        staying = await group.join("--until", "end")
        await until(lambda: has(0.25), "a quarter taken", DEADLINE_S)
        killed.signal(signal.SIGKILL)
        killed_at_s = time.monotonic()
        await until(lambda: has(0.45), "nearly half taken", DEADLINE_S)
        stopped.signal(signal.SIGTERM)
        added = await group.join("--until", "end")
        assert await stopped.ended(DEADLINE_S) == 143
        assert stopped.report["messages"]["pending"] == 0
        for member in (staying, added):
            assert await member.ended(DEADLINE_S) in {0, 1}, member.err
        assert await killed.ended() == -9
        record = await oracle.record()
    verdict = judge(workload, record, group.letters())
    bound = repeats_bound(workload, record, [killed_at_s])
    protests = [*verdict.protests, *protests_of(group)]
    campaigns.note(
        "groups",
        f"killed, stopped and added ({protocol})",
        verdict,
        harms=3,
        protests=protests,
        elapsed_s=time.monotonic() - began_s,
    )
    assert not protests
    assert verdict.repeated <= bound, f"{verdict.repeated} repeated, at most {bound:.0f} expected"


def has_come(member: Member) -> bool:
    """It has partitions; or there was nothing left for it, and it has ended."""
    return "assigned" in member.err or member.process.returncode is not None


def protests_of(group: Group) -> list[str]:
    """What is wrong with the group's offsets at the end."""
    committed, ends = group.committed(PARTITIONS), group.ends(PARTITIONS)
    return [] if committed == ends else [f"committed {committed} of {ends}"]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
async def test_a_storm_of_rebalances_loses_and_disorders_nothing(
    broker: Broker,
    workload: list[Line],
    tmp_path: Path,
    protocol: str,
    campaigns: Campaigns,
) -> None:
    began_s = time.monotonic()
    storm_s = 60 if IS_FULL else 10
    rng = random.Random(1)
    async with filled(broker, workload, tmp_path, protocol) as (oracle, group):
        staying = await group.join("--until", "end")
        ends_s = time.monotonic() + storm_s
        guests = []
        while time.monotonic() < ends_s:
            guest = await group.join("--until", "end")
            guests.append(guest)
            await asyncio.sleep(2)
            await until(partial(has_come, guest), "a guest has partitions, or has ended")
            guest.signal(rng.choice((signal.SIGTERM, signal.SIGINT)))
        for guest in guests:
            assert await guest.ended(DEADLINE_S) in {0, 1, 130, 143}, guest.err
        assert await staying.ended(DEADLINE_S) in {0, 1}, staying.err
        record = await oracle.record()
    verdict = judge(workload, record, group.letters())
    protests = [*verdict.protests, *protests_of(group)]
    campaigns.note(
        "storms",
        f"that join and leave every 2 s ({protocol})",
        verdict,
        harms=len(guests),
        protests=protests,
        elapsed_s=time.monotonic() - began_s,
    )
    assert not protests
