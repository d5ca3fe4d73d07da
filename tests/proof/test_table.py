"""The README says what the results file says."""

from __future__ import annotations

import orjson

from proof.ledger import RESULTS
from proof.table import BETWEEN, README, rendered


def test_the_table_of_the_readme_is_that_of_the_results() -> None:
    found = BETWEEN.search(README.read_text("utf-8"))
    assert found
    results = orjson.loads(RESULTS.read_bytes())
    assert found.group() == rendered(results), "run scripts/soak, or python -m proof.table in tests"


def test_nothing_was_lost_in_the_results() -> None:
    entries = orjson.loads(RESULTS.read_bytes())["entries"]
    assert [entry for entry in entries if entry["lost"] or entry["failed"]] == []
