"""A migration in phases from a pipe, killed in each phase, ends as a careful push would.

In a soak its figures are written to benchmarks/results/migration.json.
"""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from proof.ledger import IS_FULL, size
from proof.migration import Bridge, Migration, difference, push_slowly
from proof.table import MIGRATION
from pusher.version import __version__

MESSAGES = int(os.environ.get("PUSHER_MIGRATION") or size(ci=12_000, full=2_000_000))
STORES = 50
RSS_MAX_MIB = 200
WITHIN_S = size(ci=60, full=3_600)
BEGINNINGS = {1: 0.03, 2: 0.15, 3: 0.50, 4: 0.0}
"""In which phase, and when which share of all messages is settled, pusher is killed."""


def written(migration: Migration, figures: dict[str, Any]) -> None:
    text = json.dumps(
        {
            "made": datetime.now(UTC).strftime("%Y-%m-%d"),
            "pusher": __version__,
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            **figures,
            "attempts": [
                {
                    "exit_code": one.code,
                    "ended_in": one.stage,
                    "elapsed_s": one.elapsed_s,
                    "peak_rss_mib": one.peak_rss_mib,
                }
                for one in migration.attempts
            ],
        },
        indent=2,
    )
    MIGRATION.write_text(text + "\n")


@pytest.mark.timeout(4 * 3_600)
def test_a_migration_that_is_killed_in_each_phase_ends_as_a_careful_push(tmp_path: Path) -> None:
    slow = () if IS_FULL else ("--latency", "10ms")
    bridge = Bridge(tmp_path / "bridge.db", STORES, *slow)
    options = ("--confirm-timeout", f"{WITHIN_S}s", *(() if IS_FULL else ("--concurrency", "4")))
    migration = Migration(tmp_path, MESSAGES, STORES, bridge, options=options)
    migration.generate(bad="1%", dangling="0.1%")
    with bridge.running():
        for phase, share in BEGINNINGS.items():
            attempt = migration.run((phase, share), restarts_bridge_at=0.25 if phase == 2 else 2.0)
            assert attempt.code == -9, f"phase {phase}: {attempt}"
            assert list((tmp_path / "spool").iterdir()) == []
        last = migration.run(None)
        bridge.wait_until_processed(WITHIN_S)
    assert last.code == 1, last
    assert last.report is not None
    messages, repair = last.report["messages"], last.report["repair"]
    assert messages["pending"] == 0
    assert messages["read"] + messages["resumed"] == MESSAGES
    letters = [json.loads(line) for line in (tmp_path / "dead.ndjson").read_bytes().splitlines()]
    bad = sum(letter["reason"] == "not_json" for letter in letters)
    assert MESSAGES / 200 < bad < MESSAGES / 50
    left = {kind: counts["left"] for kind, counts in repair["errors"].items()}
    assert len(letters) == bad + sum(left.values())
    assert left["INVALID_ASSOCIATION_PROPERTY"] > MESSAGES / 3_000
    careful = Bridge(tmp_path / "careful.db", STORES)
    with careful.running():
        sent = push_slowly(migration.lines, careful, WITHIN_S)
    assert sent == MESSAGES - bad
    objects, protests = difference(bridge.path, careful.path)
    assert not protests
    peak_mib = max(one.peak_rss_mib for one in migration.attempts)
    if IS_FULL:
        written(
            migration,
            {
                "messages": MESSAGES,
                "stores": STORES,
                "bad_lines": bad,
                "objects": objects,
                "differences": len(protests),
                "repair": repair["errors"],
                "peak_rss_mib": peak_mib,
                "input_bytes": last.report["spool"]["input_bytes"],
                "spool_bytes": last.report["spool"]["disk_bytes"],
                "elapsed_s": round(sum(one.elapsed_s for one in migration.attempts), 1),
            },
        )
    assert peak_mib < RSS_MAX_MIB
