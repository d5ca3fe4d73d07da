"""Start the oracle and pusher as processes, end them, and read what they leave."""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
import orjson
from fakes.command import PUSHER, environment

from proof.judge import Record, Verdict, judge, protests_of_report
from proof.workload import Line

__all__ = [
    "REPORT",
    "Attempt",
    "Job",
    "Oracle",
    "check_report",
    "finish",
    "for_each_seed",
    "push_command",
    "running_oracle",
]

TESTS = Path(__file__).parents[1]
DEADLINE_S = 60.0
START_S = 20.0
FINISH_ATTEMPTS = 3
AT_ONCE = 2
REPORT = "report.json"
DEAD_LETTERS = "dead.ndjson"
NOTHING: Mapping[str, str] = MappingProxyType({})

Way = str
"""How the input reaches pusher: "file", "gz" or "stdin"."""


@dataclass(frozen=True)
class Oracle:
    """A running oracle."""

    port: int
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    async def record(self) -> Record:
        """What it remembers."""
        timeout = aiohttp.ClientTimeout(total=60)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{self.url}/oracle/record", ssl=False) as answer,
        ):
            return Record.of(orjson.loads(await answer.read()))


@asynccontextmanager
async def running_oracle(*arguments: object, scheme: str = "http") -> AsyncIterator[Oracle]:
    """An oracle on a free port; see `python -m proof.oracle --help` for what it takes."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proof.oracle", *map(str, arguments)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=DEVNULL,
        stdout=PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_S):
            line = await process.stdout.readline()
        assert line.startswith(b"listening on "), line
        yield Oracle(int(line.split()[-1]), scheme)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def push_command(source: str, url: str, changed: Mapping[str, str] = NOTHING) -> list[str]:
    """What a shell user would type, with the files in the present directory.

    Args:
        source: the input's name, or - for standard input.
        url: of the endpoint.
        changed: options that have other values than usual, without their dashes.
    """
    options = {
        "url": url,
        "checkpoint": "checkpoint",
        "dead-letters": DEAD_LETTERS,
        "report": REPORT,
        "confirm": "0",
        "progress": "never",
        **changed,
    }
    given = [part for name, value in options.items() for part in (f"--{name}", value)]
    return [*PUSHER, "push", source, *given, "--no-preflight"]


@dataclass(frozen=True)
class Attempt:
    """One process of pusher that has ended. `report` is None where it did not come to write one."""

    code: int
    report: dict[str, Any] | None
    err: str
    began_s: float
    """Times are of the clock that the oracle's record uses, too."""
    ended_s: float

    def __str__(self) -> str:
        return f"exit code {self.code}, report {self.report}, stderr:\n{self.err[-3000:]}"


Interference = Callable[[Process], Any]


class Job:
    """An input, and the runs of pusher that are to bring it to an endpoint, all resumable.

    Args:
        folder: made where it is missing; input, checkpoint, dead letters and report are in it.
        lines: the input.
        way: how it reaches pusher.
        options: of `pusher push`, besides those that every job has.
    """

    def __init__(
        self, folder: Path, lines: Sequence[Line], *, way: Way = "file", options: Sequence[str] = ()
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.lines = lines
        self.folder = folder
        self.report_path = folder / REPORT
        self.letters_path = folder / DEAD_LETTERS
        self._source = "-" if way == "stdin" else "in"
        self._options = options
        self._data = b"".join(line.raw + b"\n" for line in lines)
        if way == "file":
            (folder / "in").write_bytes(self._data)
        elif way == "gz":
            (folder / "in").write_bytes(gzip.compress(self._data, 1))

    async def run(
        self,
        url: str,
        interference: Callable[[Process], Any] | None = None,
        *,
        preexec: Callable[[], None] | None = None,
        stdout: int = DEVNULL,
        stderr: int | None = None,
        within_s: float = DEADLINE_S,
        changed: Mapping[str, str] = NOTHING,
    ) -> Attempt:
        """Run pusher once.

        Args:
            url: of the endpoint.
            interference: a coroutine function that is given the process and may do harm to it.
            preexec: what the new process does before it becomes pusher.
            stdout: a descriptor; nothing is read from it.
            stderr: a descriptor; without one, stderr is read, for the message of a failed test.
            within_s: fail when it has not ended then.
            changed: options that have other values than usual, without their dashes.
        """
        self.report_path.unlink(missing_ok=True)
        began_s = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *push_command(self._source, url, changed),
            *self._options,
            cwd=self.folder,
            env=environment(),
            stdin=PIPE if self._source == "-" else DEVNULL,
            stdout=stdout,
            stderr=PIPE if stderr is None else stderr,
            start_new_session=True,
            preexec_fn=preexec,
        )
        err = asyncio.ensure_future(process.stderr.read()) if process.stderr else None
        is_late = False
        try:
            async with asyncio.timeout(within_s):
                code = await self._until_the_end(process, interference)
        except TimeoutError:
            is_late = True
            code = 0
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        text = (await err).decode(errors="replace") if err else ""
        attempt = Attempt(code, self._report(), text, began_s, time.monotonic())
        assert not is_late, f"not ended after {within_s} s: {attempt}"
        return attempt

    async def _until_the_end(self, process: Process, interference: Interference | None) -> int:
        harm = asyncio.ensure_future(interference(process)) if interference else None
        if process.stdin is not None:
            with suppress(ConnectionError):
                process.stdin.write(self._data)
                await process.stdin.drain()
            process.stdin.close()
        code = await process.wait()
        if harm is not None:
            harm.cancel()
            with suppress(asyncio.CancelledError):
                await harm
        return code

    def _report(self) -> dict[str, Any] | None:
        """None also for half a report: a killed process may leave one."""
        try:
            report: dict[str, Any] = orjson.loads(self.report_path.read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            return None
        return report

    def letters(self) -> list[bytes]:
        """The original lines of the dead letters; a torn letter fails the test."""
        if not self.letters_path.exists():
            return []
        entries = map(orjson.loads, self.letters_path.read_bytes().splitlines())
        return [
            base64.b64decode(entry["record_base64"])
            if entry.get("record_base64") is not None
            else entry["record"].encode()
            for entry in entries
        ]

    def judged(self, record: Record) -> Verdict:
        """What came of the input, now that no process runs."""
        return judge(self.lines, record, self.letters())


async def finish(job: Job, url: str, changed: Mapping[str, str] = NOTHING) -> Attempt:
    """Run until all is settled, a few times at most; the last run's report is checked."""
    attempt = await job.run(url, changed=changed)
    for _ in range(FINISH_ATTEMPTS - 1):
        if attempt.code in {0, 1}:
            break
        attempt = await job.run(url, changed=changed)
    assert attempt.code in {0, 1}, f"cannot be finished: {attempt}"
    check_report(attempt)
    assert attempt.report is not None
    messages = attempt.report["messages"]
    assert messages["pending"] == 0, str(attempt)
    assert messages["resumed"] + messages["read"] == len(job.lines), str(attempt)
    return attempt


async def for_each_seed(seeds: range, run: Callable[[int], Awaitable[None]]) -> None:
    """Run something with each seed, as many at once as do not disturb each other's times much."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(seed: int) -> None:
        async with turn:
            await run(seed)

    async with asyncio.TaskGroup() as group:
        for seed in seeds:
            group.create_task(one(seed))


def check_report(attempt: Attempt) -> None:
    """Fail where the report is missing or does not add up."""
    assert attempt.report is not None, str(attempt)
    protests = protests_of_report(attempt.report, attempt.code)
    assert not protests, f"{protests}; {attempt}"


def peak_rss_mib(pid: int) -> float:
    """The most memory that a process has had; 0 when it is gone."""
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/status").read_text().splitlines():
            if entry.startswith("VmHWM:"):
                return int(entry.split()[1]) / 1024
    return 0.0
