"""What an import has settled, in memory and in a file, so that another run can continue it.

It knows pages and places of messages; it knows neither the endpoint nor the input.
"""

from __future__ import annotations

import fcntl
import os
from bisect import bisect_right, insort
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec

from pusher.errors import DiskError, UsageError
from pusher.model import OBJECT_TYPES, Batch, ObjectType

__all__ = ["ImportOrder", "ImportState"]


class ImportOrder(msgspec.Struct, frozen=True):
    """What was asked for, and of which input: another input must not continue it."""

    import_started_at: int
    store_id: str
    object_types: list[ObjectType]
    input_digest: str


class _Note(msgspec.Struct, omit_defaults=True):
    """A line of the file. Messages are named by the places of the first and the last of them."""

    order: ImportOrder | None = None
    type: ObjectType = "CONTACT"
    page: int | None = None
    first: int = 0
    last: int = 0
    count: int = 0
    accepted: int | None = None
    rejected: int | None = None
    is_end: bool = False


class _TypeState:
    """One object type: its pages, and the spans of messages that are settled."""

    def __init__(self) -> None:
        self.next_number = 0
        self.is_ended = False
        self.numbers: dict[tuple[int, int, int], int] = {}
        self.spans: dict[int, tuple[int, int, int]] = {}
        self.accepted: dict[int, int] = {}
        self._settled: list[tuple[int, int]] = []

    def settle(self, first: int, last: int) -> None:
        insort(self._settled, (first, last))

    def is_settled(self, origin: int) -> bool:
        place = bisect_right(self._settled, (origin, 1 << 63))
        return place > 0 and self._settled[place - 1][1] >= origin


class ImportState:
    """The state of one import. A context manager: it holds its file, if it has one.

    A line is in the file before what depends on it is done, so `kill -9` loses nothing; it is not
    synced, so a power failure may: what was sent then is sent again.

    Args:
        path: the file; None keeps the state in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self.order: ImportOrder | None = None
        """What was asked for; None until `begin`, in a file that holds no import."""
        self._path = path
        self._descriptor: int | None = None
        self._types: dict[ObjectType, _TypeState] = {name: _TypeState() for name in OBJECT_TYPES}

    def __repr__(self) -> str:
        return f"<ImportState in {self._path or 'memory'}>"

    def __enter__(self) -> Self:
        """Open the file and take in what it holds.

        Raises:
            UsageError: the file cannot be used, or another run uses it.
        """
        if self._path is None:
            return self
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            data = self._path.read_bytes()
        except BlockingIOError as error:
            self.close()
            raise UsageError(f"--state: {self._path}: another run uses it") from error
        except OSError as error:
            self.close()
            raise UsageError(f"--state: {self._path}: {error.strerror}") from error
        whole = data[: data.rfind(b"\n") + 1]
        try:
            for note in msgspec.json.Decoder(_Note).decode_lines(whole):
                self._take(note)
            if whole and self.order is None:
                raise msgspec.ValidationError("no order")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.close()
            raise UsageError(f"--state: {self._path}: not the state of an import") from error
        if len(whole) < len(data):
            os.ftruncate(self._descriptor, len(whole))  # A run was killed inside a line.
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def begin(self, order: ImportOrder) -> None:
        """Begin an import, forgetting one before it."""
        self._types = {name: _TypeState() for name in OBJECT_TYPES}
        try:
            if self._descriptor is not None:
                os.ftruncate(self._descriptor, 0)
        except OSError as error:
            raise DiskError(f"{self._path}: {error.strerror}") from error
        self._note(_Note(order=order))

    def number_of(self, batch: Batch) -> int:
        """The number of the page that carries these messages: always the same one."""
        origins, name = batch.origins, batch.lane.object_type
        state = self._types[name]
        span = (origins[0], origins[-1], len(origins))
        if span not in state.numbers:
            self._note(
                _Note(type=name, page=state.next_number, first=span[0], last=span[1], count=span[2])
            )
        return state.numbers[span]

    def unsettled(self, batch: Batch) -> Iterator[Batch]:
        """The parts of a batch that are not settled yet."""
        state = self._types[batch.lane.object_type]
        start: int | None = None
        for index, origin in enumerate(batch.origins):
            if state.is_settled(origin):
                if start is not None:
                    yield batch.part(start, index)
                start = None
            elif start is None:
                start = index
        if start == 0:
            yield batch
        elif start is not None:
            yield batch.part(start, len(batch))

    def accept(self, object_type: ObjectType, number: int) -> None:
        """Note that the endpoint has a page."""
        self._note(_Note(type=object_type, accepted=number))

    def accept_empty(self, object_type: ObjectType, number: int) -> None:
        """Note that the endpoint has a page of that number without messages."""
        self._note(_Note(type=object_type, page=number, last=-1))
        self._note(_Note(type=object_type, accepted=number))

    def reject(self, batch: Batch) -> None:
        """Note that a message will not be sent."""
        self._note(_Note(type=batch.lane.object_type, rejected=batch.origins[0]))

    def end(self, object_type: ObjectType) -> None:
        """Note that the endpoint knows that a type has ended."""
        self._note(_Note(type=object_type, is_end=True))

    def missing_pages(self, object_type: ObjectType) -> list[int]:
        """Numbers below the highest that no accepted page has."""
        state = self._types[object_type]
        return [number for number in range(state.next_number) if number not in state.accepted]

    def page_count(self, object_type: ObjectType) -> int:
        """How many page numbers are taken."""
        return self._types[object_type].next_number

    def item_count(self, object_type: ObjectType) -> int:
        """How many messages are in accepted pages."""
        return sum(self._types[object_type].accepted.values())

    def is_ended(self, object_type: ObjectType) -> bool:
        """Whether the endpoint knows that a type has ended."""
        return self._types[object_type].is_ended

    def _note(self, note: _Note) -> None:
        if self._descriptor is not None:
            data = msgspec.json.encode(note) + b"\n"
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError as error:
                raise DiskError(f"{self._path}: {error.strerror}") from error
        self._take(note)

    def _take(self, note: _Note) -> None:
        if note.order is not None:
            self.order = note.order
        state = self._types[note.type]
        if note.page is not None:
            span = (note.first, note.last, note.count)
            state.numbers[span] = note.page
            state.spans[note.page] = span
            state.next_number = max(state.next_number, note.page + 1)
        if note.accepted is not None:
            first, last, count = state.spans.get(note.accepted, (0, -1, 0))
            state.accepted[note.accepted] = count
            if count:
                state.settle(first, last)
        if note.rejected is not None:
            state.settle(note.rejected, note.rejected)
        state.is_ended = state.is_ended or note.is_end
