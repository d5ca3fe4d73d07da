"""`python -m benchmarks.bridge`: how fast the bridge queues and processes, and its memory.

The bridge is one process with `--db`, so each 204 stands for a batch that is synced to disk. The
load comes from another process, and nothing else should run on the machine.
"""

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
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pusher
from benchmarks.load import ANCHORS
from pusher.version import __version__

RESULTS = Path(__file__).parent / "results" / "bridge.json"
SETTINGS = Path(pusher.__file__).parent / "data" / "northwind-settings.json"
_COUNTS = ("accepted", "processed", "objects")
NEVER = "86400s"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Rate:
    """Messages over a wall clock, with the CPU of both processes in it."""

    messages: int
    wall_s: float
    messages_per_s: int
    bridge_cpu_s: float
    load_cpu_s: float


class Bridge:
    """A bridge in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self._process = process
        self.url = url

    def cpu_s(self) -> float:
        """User and system time so far, of all its threads."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def peak_rss_mib(self) -> float:
        """The most memory that it has had."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise SystemExit("/proc tells no peak RSS")

    def totals(self) -> dict[str, int]:
        """The counts of all types together."""
        with urllib.request.urlopen(f"{self.url}/_bridge/stats", timeout=60) as answer:  # noqa: S310
            types: dict[str, dict[str, int]] = json.load(answer)["types"]
        return {name: sum(of[name] for of in types.values()) for name in types["DEAL"]}

    def processed(self) -> dict[str, int]:
        """Wait until the queues are empty; the totals then."""
        while (totals := self.totals())["queued"]:
            time.sleep(0.05)
        return totals

    def load(self, *arguments: str | int) -> dict[str, float]:
        """Run the load and return what it says of itself."""
        command = [sys.executable, "-m", "benchmarks.load", self.url, *map(str, arguments)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        said: dict[str, float] = json.loads(done.stdout)
        return said


@contextmanager
def _bridge(db: Path, *arguments: str) -> Iterator[Bridge]:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "pusher", "bridge", "--port", "0", "--db", str(db)),
            *("--settings", str(SETTINGS), *arguments),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        yield Bridge(process, line.removeprefix("listening on ").strip())
    finally:
        process.terminate()
        process.wait()


def _rate(messages: int, wall_s: float, bridge_cpu_s: float, load_cpu_s: float) -> Rate:
    each = (round(value, 2) for value in (bridge_cpu_s, load_cpu_s))
    return Rate(messages, round(wall_s, 3), round(messages / wall_s), *each)


def _prepare(db: Path) -> None:
    with _bridge(db) as bridge:
        bridge.load(0, 0, "--anchors")
        if bridge.processed()["openErrors"]:
            raise SystemExit("the objects that others point at were not made")


def round_of_speed(directory: Path, count: int) -> dict[str, Rate]:
    """Queue only, process only, then both at the same time."""
    db = directory / "bridge.db"
    _prepare(db)
    with _bridge(db, "--processing-delay", NEVER) as bridge:
        before_s = bridge.cpu_s()
        said = bridge.load(0, count, "--prepared")
        queued = _rate(count, said["wall_s"], bridge.cpu_s() - before_s, said["cpu_s"])
    with _bridge(db) as bridge:
        # From the first step on: what the interpreter takes to start is in neither figure.
        ready_s, cpu_s, first = time.perf_counter(), bridge.cpu_s(), bridge.totals()["processed"]
        totals = bridge.processed()
        wall_s = time.perf_counter() - ready_s
        done = totals["processed"] - first
        processed = _rate(done, wall_s, bridge.cpu_s() - cpu_s, 0.0)
        before_s, started_s = bridge.cpu_s(), time.perf_counter()
        said = bridge.load(count, count, "--prepared")
        at_204_s = bridge.cpu_s()
        taken = _rate(count, said["wall_s"], at_204_s - before_s, said["cpu_s"])
        totals = bridge.processed()
        wall_s = time.perf_counter() - started_s
        both = _rate(count, wall_s, bridge.cpu_s() - before_s, said["cpu_s"])
        _check(totals, 2 * count)
    return {
        "queued": queued,
        "processed": processed,
        "queued_while_processing": taken,
        "both": both,
    }


def _check(totals: dict[str, int], count: int) -> None:
    """Everything arrived once, was processed and is an object of its own."""
    wanted = count + 3 * ANCHORS
    if totals["openErrors"] or {totals[name] for name in _COUNTS} != {wanted}:
        raise SystemExit(f"not {wanted} objects from as many messages without error: {totals}")


def speed(count: int, rounds: int) -> dict[str, Any]:
    """The median of some rounds, each on fresh files."""
    runs: list[dict[str, Rate]] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            runs.append(round_of_speed(Path(name), count))
    results: dict[str, Any] = {"messages": count, "rounds": rounds}
    for name in runs[0]:
        each = sorted((run[name] for run in runs), key=lambda rate: rate.messages_per_s)
        results[name] = asdict(each[len(each) // 2])
        results[name]["all_messages_per_s"] = [rate.messages_per_s for rate in each]
        rate = each[len(each) // 2]
        print(
            f"{name:24} {rate.messages_per_s:9,}/s in {rate.wall_s:.2f} s, CPU of the bridge"
            f" {rate.bridge_cpu_s:.2f} s, of the load {rate.load_cpu_s:.2f} s",
            flush=True,
        )
    return results


def memory(count: int) -> dict[str, Any]:
    """Peak RSS of a bridge that takes and processes so many objects."""
    with tempfile.TemporaryDirectory() as name:
        db = Path(name) / "bridge.db"
        _prepare(db)
        with _bridge(db) as bridge:
            started_s = time.perf_counter()
            bridge.load(0, count)
            totals = bridge.processed()
            wall_s = time.perf_counter() - started_s
            _check(totals, count)
            waits_ms = [_look_up_ms(bridge, number) for number in range(1000, count, count // 50)]
            results = {
                "objects": totals["objects"],
                "wall_s": round(wall_s, 1),
                "peak_rss_mib": round(bridge.peak_rss_mib()),
                "files_mib": round(
                    sum(path.stat().st_size for path in Path(name).iterdir()) / 2**20
                ),
                "look_up_by_id_ms": round(statistics.median(waits_ms), 1),
            }
    print(json.dumps(results), flush=True)
    return results


def _look_up_ms(bridge: Bridge, number: int) -> float:
    started_s = time.perf_counter()
    external_id = f"o{number - number % 2000 + 1000}"  # In the first batch of line items of ten.
    path = f"{bridge.url}/_bridge/objects/LINE_ITEM?externalObjectId={external_id}"
    with urllib.request.urlopen(path, timeout=60) as answer:  # noqa: S310  # Our own address.
        if len(json.load(answer)["results"]) != 1:
            raise SystemExit(f"{external_id} is not there")
    return (time.perf_counter() - started_s) * 1000


def main() -> None:
    """Run what is asked for; keep what was measured before and is not measured now."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bridge", description=__doc__)
    parser.add_argument("what", choices=["speed", "memory", "all"], nargs="?", default="all")
    parser.add_argument("--messages", type=int, default=200_000, help="of one round of speed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--objects", type=int, default=1_000_000, help="for the memory")
    parser.add_argument("--out", type=Path, default=RESULTS, help="results file (JSON)")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    if arguments.out.exists():
        results = json.loads(arguments.out.read_bytes())
    results |= {
        "pusher": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
    if arguments.what in {"speed", "all"}:
        results["speed"] = speed(arguments.messages, arguments.rounds)
    if arguments.what in {"memory", "all"}:
        results["memory"] = memory(arguments.objects)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
