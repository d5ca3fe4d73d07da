"""What was tried, how often, and what came of it: collected over a test run, kept as a file."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from proof.judge import Verdict
from pusher.version import __version__

__all__ = ["IS_FULL", "RESULTS", "Entry", "Ledger", "size"]

IS_FULL = os.environ.get("PUSHER_PROOF") == "full"
"""Whether this is `scripts/soak`; CI runs the same campaigns with smaller numbers."""
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "proof.json"


def size(ci: int, full: int) -> int:
    """How often, or how much, in CI and in a soak."""
    return full if IS_FULL else ci


@dataclass
class Entry:
    """One kind of harm. `figures` are what else was measured, by name with unit."""

    group: str
    name: str
    runs: int = 0
    messages: int = 0
    harms: int = 0
    """Faults that were met, kills, signals: how often harm was really done."""
    lost: int = 0
    disordered: int = 0
    changed: int = 0
    failed: int = 0
    """Runs in which any promise was not kept."""
    repeated: int = 0
    repeated_max: int = 0
    figures: dict[str, float] = field(default_factory=dict)


class Ledger:
    """Entries by group and name, in the order of their first run."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], Entry] = {}

    def entry(self, group: str, name: str) -> Entry:
        """The entry of that name; a new one is empty."""
        return self._entries.setdefault((group, name), Entry(group, name))

    def add(
        self,
        group: str,
        name: str,
        verdict: Verdict,
        *,
        harms: int,
        repeated_max: int | None = None,
        protests: list[str] | None = None,
    ) -> None:
        """Note a run, before it is judged by an assertion.

        Args:
            group: the campaign.
            name: the harm.
            verdict: of the judge.
            harms: how often harm was done.
            repeated_max: the most repeats after a single harm; else all of the run.
            protests: what else was found wrong.
        """
        entry = self.entry(group, name)
        entry.runs += 1
        entry.messages += verdict.messages
        entry.harms += harms
        entry.lost += verdict.lost
        entry.disordered += verdict.disordered
        entry.changed += verdict.changed
        entry.failed += bool(verdict.protests or protests)
        entry.repeated += verdict.repeated
        most = verdict.repeated if repeated_max is None else repeated_max
        entry.repeated_max = max(entry.repeated_max, most)

    def write(self, path: Path = RESULTS) -> None:
        """Put the entries into the results file, in place of those of the same groups."""
        groups = {group for group, _ in self._entries}
        kept: list[dict[str, Any]] = []
        if path.exists():
            kept = [
                e for e in orjson.loads(path.read_bytes())["entries"] if e["group"] not in groups
            ]
        results = {
            "date": datetime.now(UTC).date().isoformat(),
            "pusher": __version__,
            "python": platform.python_version(),
            "aiohttp": aiohttp.__version__,
            "uvloop": version("uvloop"),
            "system": platform.platform(terse=True),
            "cpus": os.cpu_count(),
            "entries": [*kept, *map(asdict, self._entries.values())],
        }
        path.write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2) + b"\n")
