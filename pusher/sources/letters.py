"""Read dead letters as the lines that they were written for."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import msgspec

from pusher.model import Chunk

__all__ = ["LetterFilter", "unwrapped"]

NOT_CHOSEN = "other_letter"
NOT_WHOLE = "not_whole"
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


class _Letter(msgspec.Struct):
    reason: str
    status: int | None = None
    changed_at: int | None = None
    line_bytes: int | None = None
    record: str | None = None
    record_base64: str | None = None


_decode_letter = msgspec.json.Decoder(_Letter).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def unwrapped(chunks: Iterator[Chunk], letters: LetterFilter) -> Iterator[Chunk]:
    """Put the original line in the place of each letter.

    Line numbers stay those of the letters. A letter that is passed over leaves a blank line, and is
    counted in `skipped`; a line that is no letter stays as it is, to be rejected as what it is.
    """
    for chunk in chunks:
        if chunk.oversized_bytes is not None:
            yield chunk
            continue
        skipped: Counter[str] = Counter()
        lines = [_original(line, letters, skipped) for line in chunk.data.split(b"\n")]
        yield replace(chunk, data=b"\n".join(lines), skipped=skipped)


def _original(line: bytes, letters: LetterFilter, skipped: Counter[str]) -> bytes:
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
        skipped[NOT_WHOLE] += 1
        return b""
    if not letters.takes(letter.reason, letter.status):
        skipped[NOT_CHOSEN] += 1
        return b""
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
