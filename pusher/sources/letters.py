"""Read dead letters as the lines that they were written for."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import msgspec

from pusher.model import Chunk, Problem, Rejection
from pusher.records import Skipped
from pusher.sources.exports import Formats, Reading

__all__ = ["LetterFilter", "letter_bytes_max", "unwrapped"]

FIELDS_BYTES = 64 << 10
"""What a letter has beside its line."""

NOT_CHOSEN = Skipped("other_letter")
NOT_WHOLE = Skipped("not_whole")
"""The letter holds only the beginning of a line that was too long."""


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which letters are read: with one of these reasons and one of these statuses; empty is any."""

    reasons: frozenset[str] = frozenset()
    statuses: frozenset[int] = frozenset()

    def takes(self, reason: str, status: int | None) -> bool:
        """Whether a letter is read."""
        return (not self.reasons or reason in self.reasons) and (
            not self.statuses or status in self.statuses
        )


def letter_bytes_max(max_line_bytes: int) -> int:
    """How long a letter can be that holds a line of up to `max_line_bytes`, as it escapes it."""
    return 2 * max_line_bytes + FIELDS_BYTES


class _Letter(msgspec.Struct):
    reason: str
    status: int | None = None
    changed_at: int | None = None
    line_bytes: int | None = None
    source: str = ""
    format: str | None = None
    key: str | None = None
    timestamp_ms: int | None = None
    record: str | None = None
    record_base64: str | None = None


_decode_letter = msgspec.json.Decoder(_Letter).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def unwrapped(
    chunks: Iterator[Chunk], letters: LetterFilter, reading: Reading | None = None
) -> Iterator[Chunk]:
    """Put the original line in the place of each letter.

    Line numbers stay those of the letters. A letter that is passed over leaves a blank line, and is
    counted in `skipped`; a line that is no letter stays as it is, to be rejected as what it is. A
    letter with a `format` holds a record of an export, which is read as such.
    """
    reading = reading or Reading(Formats())
    for chunk in chunks:
        if chunk.oversized_bytes is not None:
            yield chunk
            continue
        skipped: Counter[str] = Counter()
        rejected: list[Rejection] = []
        lines = chunk.data.split(b"\n")
        offset = chunk.offset
        for index, line in enumerate(lines):
            original = _original(line, letters, reading)
            if isinstance(original, Skipped):
                skipped[original.reason] += 1
                original = b""
            elif isinstance(original, _Unusable):
                number = chunk.first_line + index
                rejected.append(original.rejection(chunk.source, number, offset))
                original = b""
            offset += len(line) + 1
            lines[index] = original
        yield replace(chunk, data=b"\n".join(lines), skipped=skipped, rejected=rejected)


class _Unusable(NamedTuple):
    """A record of an export that still is no message."""

    problem: Problem
    record: bytes
    letter: _Letter

    def rejection(self, source: str, line: int, offset: int) -> Rejection:
        problem = self.problem
        letter = self.letter
        known = {"format": letter.format, "key": letter.key, "timestamp_ms": letter.timestamp_ms}
        extra = {name: value for name, value in known.items() if value is not None}
        return Rejection(
            problem.reason, problem.detail, source, line, offset, self.record, extra=extra
        )


def _original(line: bytes, letters: LetterFilter, reading: Reading) -> bytes | Skipped | _Unusable:
    if not line.strip():
        return line
    try:
        letter = _decode_letter(line)
        if letter.record is not None:
            record = letter.record.encode()
        else:
            record = base64.b64decode(letter.record_base64 or "", validate=True)
    except (msgspec.DecodeError, UnicodeError, RecursionError, binascii.Error):
        return line
    if not record or b"\n" in record:
        return line  # No line of ours.
    if letter.line_bytes is not None:
        return NOT_WHOLE
    if not letters.takes(letter.reason, letter.status):
        return NOT_CHOSEN
    return _read_again(letter, record, reading)


def _read_again(letter: _Letter, record: bytes, reading: Reading) -> bytes | Skipped | _Unusable:
    if letter.format is not None:
        outcome = reading.again(
            record, letter.format, letter.source, key=letter.key, timestamp_ms=letter.timestamp_ms
        )
        if isinstance(outcome, Problem):
            return _Unusable(outcome, record, letter)
        if outcome is not None:
            return outcome
    if letter.changed_at is None:
        return record
    return _with_changed_at(record, letter.changed_at)


def _with_changed_at(record: bytes, changed_at_ms: int) -> bytes:
    """A change without a time keeps the one that it was given when it was read first."""
    try:
        fields = _decode_fields(record)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return record
    if "changedAt" in fields and bytes(fields["changedAt"]) != b"null":
        return record
    return msgspec.json.encode({**fields, "changedAt": changed_at_ms})
