"""`python -m benchmarks`: throughput against the bare loop, and memory over the input's length."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pusher.generating import generate
from pusher.version import __version__

CONCURRENCY = 16
LATENCY_S = 0.05
BATCH_SIZE = 200


@dataclass(frozen=True)
class Run:
    """One process, measured from outside."""

    messages: int
    wall_s: float
    cpu_s: float
    rss_mib: float


@contextmanager
def _sink(latency_s: float) -> Iterator[tuple[str, Callable[[], int]]]:
    """Start a sink; yield its address and a function that ends it and tells what arrived."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sink", str(latency_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def arrived() -> int:
        counts = json.loads(process.communicate("", timeout=30)[0])
        messages: int = counts["messages"]
        return messages

    try:
        port = int(process.stdout.readline()) if process.stdout else 0
        yield f"http://127.0.0.1:{port}", arrived
    finally:
        process.kill()
        process.wait()


def _measure(command: Callable[[str], list[str]], latency_s: float, expected: int) -> Run:
    """Run a command against a fresh sink; the sink's count decides what was delivered."""
    with _sink(latency_s) as (url, arrived):
        started_s = time.perf_counter()
        process = subprocess.Popen(
            command(url), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started_s
        process.returncode = os.waitstatus_to_exitcode(status)
        messages = arrived()
    if process.returncode != 0 or messages != expected:
        raise SystemExit(f"exit code {process.returncode}, {messages} of {expected} arrived")
    return Run(messages, wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _start_up_s() -> float:
    """How long the interpreter and the imports take; taken off every wall clock alike."""
    started_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import aiohttp, uvloop, msgspec"], check=True)
    return time.perf_counter() - started_s


def _pusher(path: Path, directory: Path) -> Callable[[str], list[str]]:
    letters = str(directory / "dead.ndjson")
    return lambda url: [
        *(sys.executable, "-m", "pusher", "push", str(path), "--url", url, "--confirm", "0"),
        *("--concurrency", str(CONCURRENCY), "--dead-letters", letters),
    ]


def _bare(path: Path) -> Callable[[str], list[str]]:
    return lambda url: [sys.executable, "-m", "benchmarks.bare", str(path), url, str(CONCURRENCY)]


def _written(directory: Path, count: int) -> Path:
    path = directory / f"{count}.ndjson"
    if not path.exists():
        with path.open("wb") as file:
            file.writelines(generate(count, stores=10, seed=1))
    return path


def throughput(directory: Path, count: int, rounds: int) -> dict[str, object]:
    """Pusher against the bare loop, turn by turn, without and with latency."""
    path = _written(directory, count)
    start_up_s = statistics.median(_start_up_s() for _ in range(5))
    results: dict[str, object] = {}
    for latency_s in (0.0, LATENCY_S):
        runs: dict[str, list[Run]] = {"bare": [], "pusher": []}
        for _ in range(rounds):
            runs["bare"].append(_measure(_bare(path), latency_s, count))
            runs["pusher"].append(_measure(_pusher(path, directory), latency_s, count))
        rates = {
            name: [run.messages / (run.wall_s - start_up_s) for run in each]
            for name, each in runs.items()
        }
        medians = {name: statistics.median(each) for name, each in rates.items()}
        ceiling = CONCURRENCY * BATCH_SIZE / latency_s if latency_s else float("inf")
        limit = min(ceiling, medians["bare"])
        results[f"latency_{latency_s * 1000:g}_ms"] = {
            "runs": {name: [asdict(run) for run in each] for name, each in runs.items()},
            "messages_per_s": {name: round(value) for name, value in medians.items()},
            "concurrency_ceiling_per_s": round(ceiling) if latency_s else None,
            "share_of_limit": round(medians["pusher"] / limit, 3),
        }
        print(
            f"latency {latency_s * 1000:3g} ms: pusher {medians['pusher']:9,.0f}/s, "
            f"bare loop {medians['bare']:9,.0f}/s, "
            f"{medians['pusher'] / limit:.0%} of the limit",
            flush=True,
        )
    results["start_up_s"] = round(start_up_s, 3)
    return results


def memory(directory: Path, count: int) -> dict[str, object]:
    """Peak RSS for a stream and for one three times as long."""
    results: dict[str, object] = {}
    for factor in (1, 3):
        path = _written(directory, count * factor)
        run = _measure(_pusher(path, directory), 0.0, count * factor)
        results[str(count * factor)] = asdict(run)
        print(f"{count * factor:12,} messages: peak RSS {run.rss_mib:.0f} MiB", flush=True)
    return results


def main() -> None:
    """Run what is asked for and write the results file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", choices=["throughput", "memory", "all"], nargs="?", default="all")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="results file (JSON)")
    arguments = parser.parse_args()
    results: dict[str, object] = {
        "pusher": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "messages": arguments.messages,
    }
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if arguments.what in {"throughput", "all"}:
            results["throughput"] = throughput(directory, arguments.messages, arguments.rounds)
        if arguments.what in {"memory", "all"}:
            results["memory"] = memory(directory, arguments.messages)
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
