"""Where messages came from, for tests that only count them."""

from __future__ import annotations

from collections.abc import Iterable

from pusher.model import origin_of

__all__ = ["origins_of"]


def origins_of(counts: Iterable[tuple[int, int]]) -> list[int]:
    """So many messages of each chunk: (chunk number, count)."""
    return [origin_of(number, index) for number, count in counts for index in range(count)]
