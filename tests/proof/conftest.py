"""One ledger for the whole run; a soak writes it down."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proof.ledger import IS_FULL, Ledger


@pytest.fixture(scope="session")
def ledger() -> Iterator[Ledger]:
    collected = Ledger()
    yield collected
    if IS_FULL:
        collected.write()
