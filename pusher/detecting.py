"""Which format an input has: told from its first record, and fixed from then on. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from pusher.changes import ChangeFormat, change_format_of, fields_of, text_of
from pusher.envelopes import (
    FORMAT_NAMES,
    Format,
    Unwrapper,
    closest_format,
    format_of,
)
from pusher.model import Problem

__all__ = ["RECORDS_MAX", "Detected", "Detector"]

RECORDS_MAX = 100
"""So many records may be unlike anything before the input is refused: one bad line is no reason."""

_SHOWN_CHARS = 200
_CANONICAL_KEYS = frozenset(
    {"externalObjectId", "objectType", "storeId", "action", "properties", "associations"}
)


@dataclass(frozen=True, slots=True)
class Detected:
    """The format of an input: what is around its records, and what their values hold.

    Attributes:
        change: None where the first records are tombstones.
    """

    file_format: Format
    change: ChangeFormat | None

    def differs_from(self, other: Detected) -> bool:
        """Whether one of the two formats does not take the records of the other."""
        if {self.file_format, other.file_format} <= {"ndjson", "confluent"}:
            return None not in (self.change, other.change) and self.change != other.change
        return self.file_format != other.file_format

    def __str__(self) -> str:
        name = f"{self.file_format} ({FORMAT_NAMES[self.file_format]})"
        if self.change is None or self.change == "canonical":
            return name
        return f"{name} with {self.change} values"


class Detector:
    """Looks at the records of an input, one after the other, until one shows the marks of a format.

    Args:
        file_format: taken for granted; None is to be found.
        change: taken for granted; None is to be found.
        maps: a mapping says what rows are, so that they need not be sync messages.
    """

    def __init__(
        self,
        *,
        file_format: Format | None = None,
        change: ChangeFormat | None = None,
        maps: bool = False,
    ) -> None:
        self._file_format = file_format
        self._change = change
        self._maps = maps
        self._first: bytes | None = None
        self._rows: Detected | None = None
        self._columns: list[str] = []
        self._seen = 0

    def __repr__(self) -> str:
        return f"<Detector, {self._seen} records seen>"

    @property
    def is_at_a_loss(self) -> bool:
        """It has seen as many records as it looks at."""
        return self._seen >= RECORDS_MAX

    @property
    def has_seen_any(self) -> bool:
        """There was a record at all."""
        return self._seen > 0

    def look(self, record: bytes, *, is_of_sink: bool = False) -> Detected | None:
        """Tell the format from a record; None where it says nothing.

        Args:
            record: a line, or one JSON value.
            is_of_sink: its file is named as those of a Confluent sink are.
        """
        self._seen += 1
        if self._first is None:
            self._first = record
        file_format = self._file_format or format_of(record)
        if file_format is None:
            file_format = "confluent" if is_of_sink else "ndjson"
        value: bytes | None = record
        if file_format not in ("ndjson", "confluent"):
            unwrapped = Unwrapper(file_format).one(record)
            if isinstance(unwrapped, Problem):
                return None
            records = unwrapped if isinstance(unwrapped, list) else [unwrapped]
            value = next((one.value for one in records if one.value is not None), None)
        if value is None or text_of(value) == b"null":
            # A bare null is the tombstone of any format that writes only values.
            is_known = self._file_format is not None or file_format != "ndjson"
            return Detected(file_format, self._change) if is_known else None
        return self._of_value(file_format, value)

    def _of_value(self, file_format: Format, value: bytes) -> Detected | None:
        value = text_of(value)
        change = self._change or change_format_of(value)
        if change is None:
            # A broken message is a message still.
            return Detected(file_format, None) if b'"externalObjectId"' in value else None
        found = Detected(file_format, change)
        if self._maps or self._change is not None:
            return found
        row = _row_in(value, change)
        if row is None or _CANONICAL_KEYS & row.keys():
            return found
        if self._rows is None:
            self._rows, self._columns = found, list(row)
        return None

    def complaint(self) -> str:
        """Why the input is refused, in one line."""
        first = (self._first or b"").decode("utf-8", "replace")
        shown = first if len(first) <= _SHOWN_CHARS else f"{first[:_SHOWN_CHARS]}..."
        shown = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in shown)
        if self._rows is not None and str(self._rows.file_format) != "ndjson":
            columns = ", ".join(self._columns[:8])
            return (
                f"looks like {self._rows}, but the values are rows ({columns}), not sync messages:"
                f" --map FILE says what they are; the first record: {shown}"
            )
        if self._rows is not None and self._rows.change != "canonical":
            columns = ", ".join(self._columns[:8])
            return (
                f"looks like {self._rows.change} changes of rows ({columns}): --map FILE says what"
                f" they are; the first record: {shown}"
            )
        closest, missing = closest_format(self._first or b"")
        if closest == "ndjson":
            closest_text = "ndjson, but no record has externalObjectId (--map FILE is for rows)"
        else:
            closest_text = f"{closest} ({FORMAT_NAMES[closest]}), which lacks {', '.join(missing)}"
        return (
            f"not a format that is known; the closest is {closest_text}; --format overrides; the"
            f" first record: {shown}"
        )


def _row_in(value: bytes, change: ChangeFormat) -> dict[str, object] | None:
    """The row that a change holds; None where it holds none, as a change of tables."""
    fields = fields_of(value)
    if fields is not None and "payload" in fields and change in ("connect", "debezium"):
        fields = fields_of(text_of(bytes(fields["payload"])))
    if fields is None:
        return None
    if change == "debezium":
        for name in ("after", "before"):
            row = fields_of(text_of(bytes(fields[name]))) if name in fields else None
            if row is not None:
                return dict(row)
        return None
    if change == "maxwell":
        row = fields_of(bytes(fields["data"])) if "data" in fields else None
        return None if row is None else dict(row)
    return dict(fields)
