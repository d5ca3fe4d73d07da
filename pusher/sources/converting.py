"""Turn the messages that a client has fetched into chunks of sync messages, by partition."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pusher.changes import Converter, Outcome, change_format_of
from pusher.model import Chunk, Partition
from pusher.records import Record
from pusher.showing import Examples
from pusher.sources.exports import Formats
from pusher.sources.values import chunks_of_records, chunks_of_values

if TYPE_CHECKING:
    from confluent_kafka import Message

__all__ = ["Conversion"]

_log = logging.getLogger("pusher")


class Conversion:
    """What is made of messages, and how far each partition was read.

    Args:
        formats: what the values hold, and what rows are.
        max_line_bytes: a longer value is not kept.
        examples: take note of what is made of messages; None is not wanted.
    """

    def __init__(
        self, formats: Formats, max_line_bytes: int, examples: Examples | None = None
    ) -> None:
        self._mapping = formats.mapping
        self._max_line_bytes = max_line_bytes
        self._examples = examples
        self._converter = Converter(change=formats.change, mapping=formats.mapping)
        self._next: dict[Partition, int] = {}
        self._lines: dict[Partition, int] = {}

    def __repr__(self) -> str:
        return f"<Conversion by {self._converter!r}>"

    def next_of(self, partition: Partition) -> int | None:
        """What comes behind the last message read; None where none was."""
        return self._next.get(partition)

    def pass_to(self, partition: Partition, offset: int) -> int:
        """Nothing that is ours lies before this offset; the number of the next line."""
        self._next[partition] = offset
        return self._lines.get(partition, 0) + 1

    def forget(self, partition: Partition) -> None:
        """It is not ours any more."""
        self._next.pop(partition, None)
        self._lines.pop(partition, None)

    def chunks(self, partition: Partition, messages: list[Message]) -> Iterable[Chunk]:
        """Sync messages as they are, in one go; all else record by record.

        Args:
            partition: that all of them are of.
            messages: in order, at least one.
        """
        offsets: list[int] = [m.offset() for m in messages]  # type: ignore[misc]
        first_line = self.pass_to(partition, offsets[-1] + 1)
        self._lines[partition] = first_line + len(messages) - 1
        values: list[bytes | None] = [m.value() for m in messages]
        times_ms = [m.timestamp()[1] for m in messages]
        converter, limit_bytes = self._converter, self._max_line_bytes
        if converter.change is None:
            self._detect(values)
        is_canonical = converter.change == "canonical" and self._mapping is None
        if is_canonical:
            chunks = chunks_of_values(
                *(partition, values, offsets, times_ms),
                first_line=first_line,
                max_line_bytes=limit_bytes,
            )
            if chunks is not None:
                return chunks
        records = [
            Record(value, m.key(), partition.topic, partition.number, offset, time_ms or None)
            for m, value, offset, time_ms in zip(messages, values, offsets, times_ms, strict=True)
        ]
        return chunks_of_records(
            *(partition, records, converter.convert if self._examples is None else self._shown),
            first_line=first_line,
            max_line_bytes=limit_bytes,
            stamps=not is_canonical,
        )

    def _shown(self, record: Record) -> Outcome:
        outcome = self._converter.convert(record)
        if self._examples is not None:
            self._examples.add(record, outcome)
        return outcome

    def _detect(self, values: Iterable[bytes | None]) -> None:
        """Tell what the values hold from the first that shows it, and keep to that."""
        for value in values:
            change = change_format_of(value) if value is not None else None
            if change is not None:
                self._converter.change = change
                if change != "canonical":
                    _log.info("the values are %s; --format says otherwise", change)
                return
