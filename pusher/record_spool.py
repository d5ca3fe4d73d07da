"""Keep records of fixed size by partition: in memory, and beyond a budget in a temporary file."""

from __future__ import annotations

import errno
import os
import tempfile
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from pusher.crosschecking import (
    PARTITION_SHIFT,
    PARTITIONS,
    WORDS,
    Crowded,
    ObjectCounts,
    Record,
    divided,
    resolve,
)
from pusher.errors import DiskError, UsageError
from pusher.findings import Findings

__all__ = ["RecordSpool"]

WORD_BYTES = 8
OBJECT_BYTES = 320
"""What an object takes while its partition is looked at; measured."""

Partition = tuple[int, ...]
"""The number of a partition, of a part of it, and so on."""


class RecordSpool:
    """Records by partition, in the order in which they came. A context manager.

    The file has no name, so that nothing of it is left, whatever ends the process. Half of the
    memory is for records, and as much for the objects of one partition once all are there.

    Args:
        memory_bytes: what may be held.
        folder: where the file is; None is the system's folder of temporary files.

    Raises:
        UsageError: there is no such folder, or it cannot be written to.
        DiskError: the disk is full.
    """

    def __init__(self, memory_bytes: int, folder: Path | None = None) -> None:
        self._held_max_words = max(WORDS, memory_bytes // 2 // WORD_BYTES)
        self._objects_max = max(1, memory_bytes // 2 // OBJECT_BYTES)
        self._folder = folder
        self._held: dict[Partition, array[int]] = defaultdict(_no_records)
        self._put = self._puts()
        self._held_words = 0
        self._descriptor: int | None = None
        self._written: dict[Partition, list[tuple[int, int]]] = defaultdict(list)
        """(offset, bytes) of what was written of a partition, in its order."""
        self.spooled_bytes = 0
        """How large the file is."""

    def __repr__(self) -> str:
        return f"<RecordSpool of {self.spooled_bytes} bytes>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def add(self, records: Sequence[Record]) -> None:
        """Keep records."""
        put = self._put
        for record in records:
            put[record[0] >> PARTITION_SHIFT](record)
        self._held_words += len(records) * WORDS
        if self._held_words > self._held_max_words:
            self._write_all()
            self._put = self._puts()

    def _puts(self) -> list[Callable[[Record], None]]:
        """How to add a record to each partition: looked up once, as there are millions."""
        return [self._held[number,].extend for number in range(PARTITIONS)]

    def resolve(self, findings: Findings) -> ObjectCounts:
        """Look at everything that was added, and let go of it."""
        counts = ObjectCounts()
        for partition in sorted(self._held.keys() | self._written.keys()):
            self._resolve(partition, counts, findings)
        return counts

    def _resolve(self, partition: Partition, counts: ObjectCounts, findings: Findings) -> None:
        level = len(partition)
        # The words of a key that are left decide how often a partition can be divided.
        objects_max = self._objects_max if level < WORD_BYTES - 1 else 1 << 62
        try:
            resolve(lambda: self._blocks(partition), counts, findings, objects_max=objects_max)
        except Crowded:
            self._divide(partition, level)
            for part in sorted(
                one for one in self._held.keys() | self._written.keys() if one[:-1] == partition
            ):
                self._resolve(part, counts, findings)
        self._forget(partition)

    def _divide(self, partition: Partition, level: int) -> None:
        for part, records in divided(self._blocks(partition), level):
            self._held[*partition, part].extend(records)
            self._held_words += len(records)
            if self._held_words > self._held_max_words:
                self._write_all(but=partition)

    def _forget(self, partition: Partition) -> None:
        self._held_words -= len(self._held.pop(partition, ()))
        self._written.pop(partition, None)

    def _blocks(self, partition: Partition) -> Iterator[array[int]]:
        for offset, size in self._written.get(partition, ()):
            block = array("Q")
            block.frombytes(self._read(offset, size))
            yield block
        held = self._held.get(partition)
        if held is not None:
            yield held

    def _write_all(self, but: Partition | None = None) -> None:
        """Write what is held. `but` is being read, and stays."""
        kept = self._held.pop(but, None) if but is not None else None
        for partition, records in self._held.items():
            if not records:
                continue
            data = memoryview(records).cast("B")
            self._written[partition].append((self.spooled_bytes, len(data)))
            self._write(data)
        self._held.clear()
        self._held_words = 0
        if but is not None and kept is not None:
            self._held[but] = kept
            self._held_words = len(kept)

    def _write(self, data: memoryview) -> None:
        try:
            if self._descriptor is None:
                self._descriptor = _nameless_file(self._folder)
            while data:
                done = os.pwrite(self._descriptor, data, self.spooled_bytes)
                self.spooled_bytes += done
                data = data[done:]
        except OSError as error:
            raise DiskError(
                f"the temporary file in {self._where} cannot be written: {error.strerror}"
            ) from error

    def _read(self, offset: int, size: int) -> bytes:
        if self._descriptor is None:
            raise AssertionError("what was written has a file")
        try:
            data = os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise DiskError(
                f"the temporary file in {self._where} cannot be read: {error.strerror}"
            ) from error
        if len(data) != size:
            raise DiskError(f"the temporary file in {self._where} was cut off")
        return data

    @property
    def _where(self) -> str:
        return str(self._folder or tempfile.gettempdir())


def _no_records() -> array[int]:
    return array("Q")


def _nameless_file(folder: Path | None) -> int:
    """A file that goes away with its descriptor."""
    try:
        descriptor, name = tempfile.mkstemp(prefix="pusher-", dir=folder)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EROFS, errno.EPERM}:
            raise UsageError(f"{folder or tempfile.gettempdir()}: {error.strerror}") from error
        raise
    Path(name).unlink()
    return descriptor
