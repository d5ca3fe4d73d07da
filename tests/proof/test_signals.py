"""Signals, closed pipes and full disks at random moments; then the same command again."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
from asyncio.subprocess import Process
from contextlib import suppress
from pathlib import Path

import pytest

from proof.driving import Attempt, Job, check_report, finish, for_each_seed, running_oracle
from proof.ledger import Ledger, size
from proof.workload import lines

SEEDS = size(ci=10, full=50)
MESSAGES = 6_000
WHOLE_RUN_S = 1.5
"""About how long an undisturbed run takes, starting up included: signals fall into this time."""
OPTIONS = ("--batch-size", "25", "--concurrency", "4")
LATENCY = ("--latency-ms", 5, 20)

SIGNALS = {
    "SIGINT": (signal.SIGINT,),
    "SIGTERM": (signal.SIGTERM,),
    "SIGINT twice": (signal.SIGINT, signal.SIGINT),
    "SIGTERM, SIGINT": (signal.SIGTERM, signal.SIGINT),
}
# A process that is still starting is ended by the signal itself.
CODES = {signal.SIGINT: {130, -signal.SIGINT}, signal.SIGTERM: {143, -signal.SIGTERM}}
DONE = 1
"""There is poison in every input."""


def is_done(attempt: Attempt) -> bool:
    """Whether nothing is left to do. A crash ends with the same exit code, but without a report."""
    return attempt.code == DONE and attempt.report is not None


async def interrupt_until_done(folder: Path, seed: int, name: str, ledger: Ledger) -> None:
    rng = random.Random(f"{name} {seed}")
    way = rng.choice(("file", "gz", "stdin"))
    job = Job(folder, lines(MESSAGES, seed=seed), way=way, options=OPTIONS)

    async def send(process: Process) -> None:
        await asyncio.sleep(rng.uniform(0, WHOLE_RUN_S))
        for signum in SIGNALS[name]:
            with suppress(ProcessLookupError):
                # The process object would look for its end first, and take it from who waits.
                os.kill(process.pid, signum)
            await asyncio.sleep(rng.uniform(0, 0.2))

    async with running_oracle("--seed", seed, *LATENCY) as oracle:
        interrupted = await job.run(oracle.url, send)
        taken = set((await oracle.record()).numbers)
        if not is_done(interrupted):
            await finish(job, oracle.url)
        record = await oracle.record()
    verdict = job.judged(record)
    ledger.add("signals", name, verdict, harms=int(not is_done(interrupted)))
    context = f"{name}, seed {seed}, {way}: {verdict.protests}; {interrupted}"
    codes = set().union(*(CODES[signum] for signum in SIGNALS[name]))
    assert interrupted.code in codes or is_done(interrupted), context
    assert not verdict.protests, context
    if interrupted.report is not None:
        check_report(interrupted)
        messages = interrupted.report["messages"]
        assert messages["delivered"] <= len(taken), context
        if len(SIGNALS[name]) == 1:
            # It was read, so it was delivered before the end: nothing comes again.
            assert messages["pending"] == 0, context
            assert verdict.repeated == verdict.letters_repeated == 0, context


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SIGNALS)
async def test_a_signal_at_any_moment_loses_nothing(
    name: str, tmp_path: Path, ledger: Ledger
) -> None:
    await for_each_seed(
        range(SEEDS),
        lambda seed: interrupt_until_done(tmp_path / str(seed), seed, name, ledger),
    )


async def close_until_done(folder: Path, seed: int, stream: str, ledger: Ledger) -> None:
    """Whoever reads what pusher writes goes away, at a random moment."""
    rng = random.Random(f"{stream} {seed}")
    job = Job(folder, lines(MESSAGES, seed=seed), options=("--verbose", *OPTIONS))
    reading, writing = os.pipe()

    async def close(process: Process) -> None:
        del process
        os.close(writing)
        await asyncio.sleep(rng.uniform(0, WHOLE_RUN_S))
        os.close(reading)
        await asyncio.Event().wait()

    async with running_oracle("--seed", seed, *LATENCY) as oracle:
        if stream == "stdout":
            closed = await job.run(oracle.url, close, stdout=writing, changed={"report": "-"})
        else:
            closed = await job.run(oracle.url, close, stderr=writing, changed={"progress": "auto"})
        verdict = job.judged(await oracle.record())
    ledger.add("closed pipes", stream, verdict, harms=1)
    context = f"{stream}, seed {seed}: {verdict.protests}; {closed}"
    assert not verdict.protests, context
    assert verdict.repeated == verdict.letters_repeated == 0, context
    assert "Traceback" not in closed.err, context
    assert closed.code == DONE, context
    if stream == "stderr":
        check_report(closed)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_a_closed_pipe_at_any_moment_loses_nothing(
    stream: str, tmp_path: Path, ledger: Ledger
) -> None:
    await for_each_seed(
        range(SEEDS), lambda seed: close_until_done(tmp_path / str(seed), seed, stream, ledger)
    )


def limit_files(size_bytes: int) -> None:
    """No file can become longer, as on a disk that is full: the write that crosses it is short."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))


def check_stopped_by_the_disk(stopped: Attempt) -> None:
    assert stopped.code == 3, str(stopped)
    assert "Traceback" not in stopped.err, str(stopped)
    assert stopped.err.strip(), "it says nothing"


async def fill_the_disk(folder: Path, seed: int, file: str, ledger: Ledger) -> None:
    """No room for all of the dead letters, or for any checkpoint; later there is."""
    rng = random.Random(f"{file} {seed}")
    is_letters = file == "dead letters"
    poison, undecodable = (0.01, 0.001) if is_letters else (0.0, 0.0)
    job = Job(
        folder,
        lines(MESSAGES, seed=seed, poison=poison, undecodable=undecodable),
        options=OPTIONS,
    )
    limit_bytes = rng.randrange(8_000, 20_000) if is_letters else rng.randrange(30)
    async with running_oracle("--seed", seed, *LATENCY) as oracle:
        stopped = await job.run(oracle.url, preexec=lambda: limit_files(limit_bytes))
        whole_letters = job.letters_path.read_bytes().count(b"\n") if is_letters else 0
        await finish(job, oracle.url)
        verdict = job.judged(await oracle.record())
    ledger.add("full disk", file, verdict, harms=1)
    context = f"seed {seed}, {limit_bytes} bytes: {verdict.protests}; {stopped}"
    assert not verdict.protests, context
    check_stopped_by_the_disk(stopped)
    if is_letters:
        check_report(stopped)
        assert stopped.report is not None
        assert stopped.report["messages"]["rejected"] <= whole_letters, context
        assert stopped.report["messages"]["pending"] > 0, context


@pytest.mark.timeout(900)
@pytest.mark.parametrize("file", ["dead letters", "checkpoint"])
async def test_a_full_disk_stops_a_run_that_can_go_on_later(
    file: str, tmp_path: Path, ledger: Ledger
) -> None:
    await for_each_seed(
        range(SEEDS), lambda seed: fill_the_disk(tmp_path / str(seed), seed, file, ledger)
    )


async def test_a_disk_without_room_for_the_report_is_told(tmp_path: Path, ledger: Ledger) -> None:
    job = Job(tmp_path, lines(MESSAGES, seed=1), options=OPTIONS)
    # A link: should the report be renamed into its place, the device stays.
    (tmp_path / "full").symlink_to("/dev/full")
    async with running_oracle(*LATENCY) as oracle:
        stopped = await job.run(oracle.url, changed={"report": "full"})
        await finish(job, oracle.url)
        verdict = job.judged(await oracle.record())
    ledger.add("full disk", "report", verdict, harms=1)
    assert not verdict.protests, str(verdict.protests)
    assert verdict.repeated == 0
    check_stopped_by_the_disk(stopped)


@pytest.mark.parametrize("file", ["dead-letters", "checkpoint", "report"])
async def test_a_file_that_cannot_be_made_is_told_before_anything_is_sent(
    file: str, tmp_path: Path, ledger: Ledger
) -> None:
    job = Job(tmp_path, lines(MESSAGES, seed=2), options=OPTIONS)
    async with running_oracle(*LATENCY) as oracle:
        stopped = await job.run(oracle.url, changed={file: "/proc/no-such-place/file"})
        requests = (await oracle.record()).requests
        await finish(job, oracle.url)
        verdict = job.judged(await oracle.record())
    ledger.add("read-only disk", file.replace("-", " "), verdict, harms=1)
    assert not verdict.protests, str(verdict.protests)
    assert stopped.code in {2, 3}, str(stopped)
    assert "Traceback" not in stopped.err, str(stopped)
    assert requests == 0
