"""Fixtures of the bridge's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from .talk import Talk, talking


@pytest.fixture
async def talk() -> AsyncIterator[Talk]:
    """A client of a fresh bridge."""
    async with talking() as client:
        yield client
