"""The file of what is to be confirmed: what a run has sampled, or all that it has delivered.

It begins with a line about the run. Then comes a line for each object, and for each object whose
state became known later another one. So it can be confirmed bit by bit, by `pusher confirm`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pusher.durability import replace_durably
from pusher.errors import DiskError, UsageError
from pusher.journal import Journal
from pusher.model import Delivery, ObjectType
from pusher.sampling import Sample, SampledObject, SampleState

__all__ = [
    "DeliveredObjects",
    "SampleFile",
    "SampleHeader",
    "SampleLine",
    "opened_sample",
    "write_sample",
]

FLAG = "--sample-out"

_BEGINNING = b'{"sample_of":"'


class SampleHeader(msgspec.Struct, frozen=True, omit_defaults=True, rename={"run_id": "sample_of"}):
    """The first line.

    Attributes:
        run_id: of the run, under the name `sample_of`.
        kind: "all" delivered objects, or a "random" sample.
        messages: how many a random one was taken from.
        version: of this form.
    """

    run_id: str
    kind: Literal["all", "random"]
    messages: int | None = None
    version: Annotated[int, Meta(ge=1, le=1)] = 1


class SampleLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """An object, or what has become known of it.

    Attributes:
        store_id: of the lane.
        object_type: of the lane.
        external_object_id: of the object.
        changed_at: of its last delivered message, epoch ms.
        accepted_at: when that was accepted, by the bridge's clock, epoch ms; without it, the line
            is about an object that was named before.
        places: how many it has in the uniform sample.
        lane: it stands for its lane.
        state: "confirmed" or "failed"; without it, nothing is known yet.
        error: the bridge's type of the error, where it failed.
        details: the bridge's words.
    """

    store_id: str
    object_type: ObjectType
    external_object_id: str
    changed_at: int
    accepted_at: int | None = None
    places: int = 0
    lane: bool = False
    state: Literal["confirmed", "failed"] | None = None
    error: str | None = None
    details: str | None = None


_encoder = msgspec.json.Encoder()
_decode_header = msgspec.json.Decoder(SampleHeader).decode
_decode_line = msgspec.json.Decoder(SampleLine).decode


def _is_ours(line: bytes) -> bool:
    return line.startswith(_BEGINNING)


class DeliveredObjects:
    """The file of a run that is to confirm all: it takes in every delivered object.

    Args:
        path: of the file.
        run_id: of the run.
    """

    def __init__(self, path: Path, run_id: str) -> None:
        self.journal = Journal(path, FLAG, _is_ours)
        self.run_id = run_id
        self._is_begun = False

    def __repr__(self) -> str:
        return f"<DeliveredObjects {self.journal!r}>"

    def go_on(self, run_id: str) -> bool:
        """Go on with what an earlier run has delivered; false where the file does not hold it.

        Raises:
            DiskError: it cannot be read.
        """
        header = next(self.journal.lines(), b"")
        self._is_begun = bool(header) and _header_of(header, self.journal.path) == SampleHeader(
            run_id, "all"
        )
        if self._is_begun:
            self.run_id = run_id
        return self._is_begun

    @property
    def is_empty(self) -> bool:
        """It holds nothing of this run, nor of those that this one goes on from."""
        return not self._is_begun

    def note(self, delivery: Delivery) -> None:
        """Append the objects of an accepted request.

        Raises:
            DiskError: they could not be written.
        """
        if not self._is_begun:
            self.journal.clear()
            self.journal.append(_encoder.encode(SampleHeader(self.run_id, "all")) + b"\n")
            self._is_begun = True
        batch = delivery.batch
        lines = [
            SampleLine(
                batch.lane.store_id,
                batch.lane.object_type,
                str(change.external_object_id),
                change.changed_at if isinstance(change.changed_at, int) else 0,
                delivery.accepted_at_ms,
            )
            for change in batch.changes()
        ]
        self.journal.append(_encoder.encode_lines(lines))

    def judge(self, members: Iterable[SampledObject]) -> None:
        """Append what is known of some of them.

        Raises:
            DiskError: it could not be written.
        """
        known = [one for one in members if one.state is not SampleState.PENDING]
        if known and self._is_begun:
            lines = (_line_of(one, is_whole=False) for one in known)
            self.journal.append(_encoder.encode_lines(lines))


def _line_of(member: SampledObject, *, is_whole: bool) -> SampleLine:
    accepted, error = member.accepted, member.error
    return SampleLine(
        accepted.lane.store_id,
        accepted.lane.object_type,
        accepted.external_id,
        accepted.changed_at_ms,
        accepted.bridge_ms if is_whole else None,
        member.slots if is_whole else 0,
        member.is_kept and is_whole,
        None if member.state is SampleState.PENDING else member.state.value,
        error.type if error is not None else None,
        error.details if error is not None else None,
    )


def write_sample(path: Path, run_id: str, sample: Sample) -> None:
    """Write a sample, in the place of what was in the file.

    Raises:
        DiskError: that failed; the file is as it was.
    """
    target = path.resolve()
    new = target.with_name(f".{target.name}.new")
    header = SampleHeader(run_id, "random", sample.messages_seen)
    try:
        with new.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(_encoder.encode(header) + b"\n")
            for member in sample.objects():
                file.write(_encoder.encode(_line_of(member, is_whole=True)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        replace_durably(new, target)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        raise DiskError(f"{FLAG}: {path}: {error.strerror}") from error


class SampleFile:
    """A file that is to be confirmed, and takes what becomes known.

    Args:
        journal: of the file, open.

    Raises:
        UsageError: it holds no sample.
        DiskError: it cannot be read.
    """

    def __init__(self, journal: Journal) -> None:
        self.path = journal.path
        self.journal = journal
        self.header = _header_of(next(journal.lines(), b""), journal.path)

    def __repr__(self) -> str:
        return f"<SampleFile {self.path}>"

    def lines(self) -> Iterator[SampleLine]:
        """Yield the lines after the first.

        Raises:
            UsageError: one of them is damaged.
            DiskError: they cannot be read.
        """
        for number, line in enumerate(self.journal.lines(), 1):
            if number == 1:
                continue
            try:
                yield _decode_line(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise UsageError(f"{self.path}, line {number}: is damaged: {error}") from error

    def judge(self, member: SampledObject) -> None:
        """Append what has become known of an object.

        Raises:
            DiskError: it could not be written.
        """
        self.journal.append(_encoder.encode(_line_of(member, is_whole=False)) + b"\n")


@contextmanager
def opened_sample(path: Path) -> Iterator[SampleFile]:
    """Open and lock a file that is there.

    Raises:
        UsageError: it holds no sample, or is in use.
        DiskError: it cannot be read.
    """
    if not path.exists():
        raise UsageError(f"{path}: there is no such file")
    journal = Journal(path, "confirm", _is_ours)
    journal.open()
    try:
        yield SampleFile(journal)
    finally:
        journal.close()


def _header_of(line: bytes, path: Path) -> SampleHeader:
    try:
        return _decode_header(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: holds no sample of a run: {error}") from error
