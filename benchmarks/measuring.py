"""One process against one fresh sink, measured from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer

__all__ = ["BenchmarkError", "Command", "Run", "Sink", "run", "sink"]

_LONGEST_RUN_S = 600.0


class BenchmarkError(Exception):
    """A contender did not deliver what it was given, or did not end."""


@dataclass(frozen=True)
class Command:
    """What is started; `stdin` is the file that is given to it."""

    arguments: list[str]
    stdin: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    #: The exit code of a run that went well; killed by a signal where it ends only so.
    exit_code: int = 0


@dataclass(frozen=True)
class Run:
    """What one run took. The CPU time is that of all its processes, the RSS that of the largest."""

    wall_s: float
    cpu_s: float
    rss_mib: float
    requests: int
    messages: int
    refused: int
    sink_cpu_s: float


class Sink:
    """A running sink."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self._process = process
        self.url = url

    def finish(self) -> dict[str, object]:
        """End it; return what arrived."""
        out, _ = self._process.communicate("", timeout=60)
        arrived: dict[str, object] = json.loads(out)
        return arrived


@contextmanager
def sink(*options: str) -> Iterator[Sink]:
    """Start a sink in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sink", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        scheme = "https" if "--certificate" in options else "http"
        host = "localhost" if scheme == "https" else "127.0.0.1"
        yield Sink(process, f"{scheme}://{host}:{int(process.stdout.readline())}")
    finally:
        process.kill()
        process.wait()


def run(command: Command, sink: Sink, errors: Path) -> tuple[Run, dict[str, object]]:
    """Run a command to its end; return what it took, and what the sink has to say.

    Raises:
        BenchmarkError: it failed, or did not end within ten minutes; its errors are quoted.
    """
    given = command.stdin or Path(os.devnull)
    with errors.open("wb") as stderr, given.open("rb") as stdin:
        started_s = time.perf_counter()
        process = subprocess.Popen(
            command.arguments,
            stdin=stdin,
            stdout=stderr,
            stderr=stderr,
            env={**os.environ, **command.environment},
            start_new_session=True,
        )
        with _killed_when_late(process):
            _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started_s
        process.returncode = os.waitstatus_to_exitcode(status)
    arrived = sink.finish()
    if process.returncode != command.exit_code:
        raise BenchmarkError(
            f"{command.arguments[0]}: exit code {process.returncode} after {wall_s:.1f} s: "
            f"{errors.read_text(errors='replace')[-500:]}"
        )
    taken = Run(
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        rss_mib=usage.ru_maxrss / 1024,
        requests=_count(arrived, "requests"),
        messages=_count(arrived, "messages"),
        refused=_count(arrived, "refused"),
        sink_cpu_s=float(str(arrived["cpu_s"])),
    )
    return taken, arrived


@contextmanager
def _killed_when_late(process: subprocess.Popen[bytes]) -> Iterator[None]:
    timer = Timer(_LONGEST_RUN_S, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _count(arrived: dict[str, object], name: str) -> int:
    return int(str(arrived[name]))
