"""The README says what the results file says."""

from __future__ import annotations

import orjson

from proof.ledger import RESULTS
from proof.table import (
    BETWEEN,
    BETWEEN_MIGRATION,
    BETWEEN_SCANNING,
    MIGRATION,
    README,
    SCANNING,
    rendered,
    told,
    told_of_scanning,
)


def test_the_table_of_the_readme_is_that_of_the_results() -> None:
    found = BETWEEN.search(README.read_text("utf-8"))
    assert found
    results = orjson.loads(RESULTS.read_bytes())
    assert found.group() == rendered(results), "run scripts/soak, or python -m proof.table in tests"


def test_nothing_was_lost_in_the_results() -> None:
    entries = orjson.loads(RESULTS.read_bytes())["entries"]
    assert [entry for entry in entries if entry["lost"] or entry["failed"]] == []


def test_the_paragraph_on_the_migration_is_that_of_its_results() -> None:
    found = BETWEEN_MIGRATION.search(README.read_text("utf-8"))
    assert found
    results = orjson.loads(MIGRATION.read_bytes())
    assert found.group() == told(results), "run scripts/soak, or python -m proof.table in tests"
    assert (results["differences"], results["messages"]) == (0, 2_000_000)
    assert results["peak_rss_mib"] < 200


def test_the_paragraph_on_the_scanner_is_that_of_its_results() -> None:
    found = BETWEEN_SCANNING.search(README.read_text("utf-8"))
    assert found
    results = orjson.loads(SCANNING.read_bytes())
    assert found.group() == told_of_scanning(results), "run scripts/soak -k scanning"
    assert results["executions"] > 2_000_000
