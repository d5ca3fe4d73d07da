"""kill -9 at random moments, and the same command again until all is done."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from asyncio.subprocess import Process
from contextlib import suppress
from pathlib import Path

import pytest

from proof.driving import Job, Way, finish, for_each_seed, running_oracle
from proof.judge import Run, repeats_after_kills
from proof.ledger import Ledger, size
from proof.workload import lines

MESSAGES = 20_000
RUNS = size(ci=21, full=102)
WAYS: tuple[Way, ...] = ("file", "gz", "stdin")
WHOLE_RUN_S = 5.0
"""About how long an undisturbed run takes, starting up included: kills fall into this time."""
CHECKPOINT_AGE_S = 1.0
"""Checkpoints are 200 ms apart; the rest is for a busy machine and a slow disk."""


async def kill_until_done(folder: Path, seed: int, way: Way, ledger: Ledger) -> None:
    """One input, killed one to three times; adds what came of it to the ledger."""
    rng = random.Random(seed)
    told = ["--names-the-guilty"] if rng.random() < 0.5 else []
    options = ["--batch-size", "15", "--concurrency", rng.choice(("4", "auto"))]
    job = Job(folder, lines(MESSAGES, seed=seed), way=way, options=options)

    async def kill(process: Process) -> None:
        await asyncio.sleep(rng.uniform(0, WHOLE_RUN_S))
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)  # Not through the object: see test_signals.

    killed = []
    slowly = ("--latency-ms", 5, 20, "--at-once", 4)
    async with running_oracle("--seed", seed, *slowly, *told) as oracle:
        for _ in range(rng.randint(1, 3)):
            attempt = await job.run(oracle.url, kill)
            if attempt.code != -9:
                assert attempt.code == 1, f"seed {seed}: {attempt}"
                break
            killed.append(Run(attempt.began_s, attempt.ended_s))
        await finish(job, oracle.url)
        record = await oracle.record()
    verdict = job.judged(record)
    repeats = repeats_after_kills(job.lines, record, killed, checkpoint_age_s=CHECKPOINT_AGE_S)
    protests = [
        f"{one.beyond} of {one.count} repeats after kill {number} lie below the checkpoint"
        for number, one in enumerate(repeats, 1)
        if one.beyond
    ]
    most = max((one.count for one in repeats), default=0)
    ledger.add("kill", way, verdict, harms=len(killed), repeated_max=most, protests=protests)
    assert not (*verdict.protests, *protests), f"seed {seed}: {verdict.protests}, {protests}"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("way", WAYS)
async def test_kill_9_loses_nothing_and_repeats_only_what_lies_above_the_checkpoint(
    way: Way, tmp_path: Path, ledger: Ledger
) -> None:
    first = WAYS.index(way) * RUNS
    await for_each_seed(
        range(first, first + RUNS // len(WAYS)),
        lambda seed: kill_until_done(tmp_path / str(seed), seed, way, ledger),
    )
