"""A record of a Kafka topic as it was consumed or exported, and what can be said of it.

Values only: who has read it, a file or a live topic, does not matter from here on.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Record", "Skipped", "epoch_ms_of"]

_ISO_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?"
    r"\s*(?:[Zz]|UTC|([+-])(\d\d):?(\d\d)?)?",
    re.ASCII,
)


class Record(NamedTuple):
    """One record. What is not known of it is None.

    Attributes:
        value: the bytes of the value, JSON; None is a tombstone.
        key: the bytes of the key.
        topic: the name of its topic.
        partition: its partition.
        offset: its offset there.
        timestamp_ms: Kafka's time of the record, epoch milliseconds.
    """

    value: bytes | None
    key: bytes | None = None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    timestamp_ms: int | None = None


class Skipped(NamedTuple):
    """A record with nothing to send, by rule; it is counted under its reason."""

    reason: str


def epoch_ms_of(text: str) -> int | None:
    """Epoch milliseconds of an ISO 8601 time, UTC where it names no zone; None where it is none."""
    match = _ISO_TIME.fullmatch(text.strip())
    if match is None:
        return None
    year, month, day, hour, minute = (int(match[i]) for i in range(1, 6))
    second = int(match[6] or 0)
    is_time = 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60
    if not is_time:
        return None
    fraction_ms = int((match[7] or "0").ljust(3, "0")[:3])
    zone_s = 60 * (60 * int(match[9] or 0) + int(match[10] or 0))
    if match[8] == "-":
        zone_s = -zone_s
    seconds = 86_400 * _days_since_epoch(year, month, day) + 3600 * hour + 60 * minute + second
    return 1000 * (seconds - zone_s) + fraction_ms


def _days_since_epoch(year: int, month: int, day: int) -> int:
    """Days in the Gregorian calendar; a year that begins in March ends with its leap day."""
    year -= month < 3
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return 365 * year + year // 4 - year // 100 + year // 400 + day_of_year - 719_468
