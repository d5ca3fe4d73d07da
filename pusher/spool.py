"""Keep what was read of a pipe on the disk, compressed, so that it can be read again.

A spool has no name unless it is kept, so that it goes away with the process, however that ends.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO, cast

import zstandard

from pusher.errors import DiskError, UsageError
from pusher.report import SpoolReport

__all__ = ["Spool", "SpoolPlan", "default_folder", "spool_report_of"]

_LEVEL = 1
_REPLAY_BYTES = 128 << 10
_ROOMY_FOLDER = Path("/var/tmp")  # noqa: S108 - where large files go: /tmp may be memory


def default_folder() -> Path:
    """Where spools go: TMPDIR, or /var/tmp, or else where temporary files are."""
    if not os.environ.get("TMPDIR") and os.access(_ROOMY_FOLDER, os.W_OK | os.X_OK):
        return _ROOMY_FOLDER
    return Path(tempfile.gettempdir())


@dataclass(frozen=True, slots=True)
class SpoolPlan:
    """Where the spools of a run go, and how large each may get.

    Attributes:
        folder: on a disk with room.
        max_bytes: of one spool, compressed.
        kept_as: the beginning of their names, where they stay after the run; None where they go.
    """

    folder: Path
    max_bytes: int
    kept_as: str | None = None


class Spool:
    """A copy of a stream of blocks, which can be read as often as one likes.

    Each reader gets what was read before from the disk, and then the blocks themselves, which are
    written down before they are passed on. Only the last reader counts: an earlier one may still
    wait for a block, which it then only writes down.

    Args:
        plan: where it goes.
        blocks: what is to be read once.
        number: of the spool in this run, from 1.

    Raises:
        UsageError: nothing can be written there.
    """

    def __init__(self, plan: SpoolPlan, blocks: Iterator[bytes], number: int = 1) -> None:
        self._blocks = blocks
        self._max_bytes = plan.max_bytes
        self.path: Path | None = None
        """Its name, where it is kept."""
        if plan.kept_as is not None:
            more = f"-{number}" if number > 1 else ""
            self.path = plan.folder / f"{plan.kept_as}{more}.ndjson.zst"
        self._shown = str(self.path or plan.folder)
        try:
            self._file: FileIO | None = _created(self.path) if self.path else _unnamed(plan.folder)
        except OSError as error:
            raise UsageError(f"--spool-dir: {self._shown}: {error.strerror}") from error
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._frame: zstandard.ZstdCompressionObj | None = None
        self._is_whole = False
        self.input_bytes = 0
        """What is in it."""
        self.size_bytes = 0
        """What it takes on the disk."""

    def __repr__(self) -> str:
        return f"<Spool in {self._shown}, {self.size_bytes} bytes>"

    def read(self) -> Iterator[bytes]:
        """Yield all blocks from the beginning.

        Raises:
            DiskError: they cannot be kept.
        """
        place = 0
        while not self._is_live_from(place):
            end = self._sealed()
            yield from self._replayed(place, end)
            place = end
        while block := self._next():
            yield block

    def close(self) -> None:
        """Let go of it; it stays on the disk where it has a name.

        Raises:
            DiskError: the rest of it could not be written.
        """
        try:
            if self.path is not None:
                self._sealed()
                if self._file is not None:
                    os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failure(error) from error
        finally:
            with self._writing:
                if self._file is not None:
                    self._file.close()
                self._file = None

    def _is_live_from(self, place: int) -> bool:
        """Whether all before the next block was read by now; waits for an earlier reader only then.

        An earlier reader may wait for the pipe as long as it likes, while there is enough to read.
        """
        if self._sealed() > place:
            return False
        if self._is_whole:
            return True
        with self._reading:
            return self._sealed() == place

    def _next(self) -> bytes:
        """The next block, written down; empty at the end."""
        with self._reading:
            for block in self._blocks:
                if block:  # A decompressor may have nothing yet.
                    self._append(block)
                    return block
            self._is_whole = True
            return b""

    def _append(self, block: bytes) -> None:
        with self._writing:
            if self._frame is None:
                self._frame = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
            self._write(self._frame.compress(block))
            self.input_bytes += len(block)

    def _sealed(self) -> int:
        """End the frame, so that all that was written down can be read; where it ends."""
        with self._writing:
            if self._frame is not None:
                rest, self._frame = self._frame.flush(), None
                self._write(rest)
            return self.size_bytes

    def _write(self, data: bytes) -> None:
        if self._file is None:
            raise DiskError(f"{self._shown}: the spool is closed")
        if self.size_bytes + len(data) > self._max_bytes:
            raise DiskError(f"{self._shown}: the spool has reached --spool-max")
        try:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise self._failure(error) from error
        self.size_bytes += len(data)

    def _replayed(self, start: int, end: int) -> Iterator[bytes]:
        if self._file is None:
            raise DiskError(f"{self._shown}: the spool is closed")
        try:
            # A number of our own: the file may be closed while a reader of old is still at it.
            with os.fdopen(os.dup(self._file.fileno()), "rb", buffering=0) as file:
                part = cast("IO[bytes]", _Part(file, start, end))
                frames = zstandard.ZstdDecompressor().stream_reader(part, read_across_frames=True)
                while block := frames.read(_REPLAY_BYTES):
                    yield block
        except OSError as error:
            raise self._failure(error) from error
        except zstandard.ZstdError as error:
            raise DiskError(f"{self._shown}: the spool is damaged: {error}") from error

    def _failure(self, error: OSError) -> DiskError:
        return DiskError(f"{self._shown}: spool: {error.strerror}")


class _Part:
    """A part of a file, from its beginning; others may write behind it meanwhile."""

    def __init__(self, file: FileIO, start: int, end: int) -> None:
        self._file = file
        self._at = start
        self._end = end

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end."""
        data = os.pread(self._file.fileno(), min(size, self._end - self._at), self._at)
        self._at += len(data)
        return data


def _created(path: Path) -> FileIO:
    """A new file for our eyes only, in the place of what an earlier attempt has left."""
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    return FileIO(os.open(path, flags, 0o600), "r+")


def _unnamed(folder: Path) -> FileIO:
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        return FileIO(os.dup(file.fileno()), "r+")


def spool_report_of(spools: Sequence[Spool]) -> SpoolReport | None:
    """What spools hold; None where there are none."""
    if not spools:
        return None
    return SpoolReport(
        sum(spool.input_bytes for spool in spools),
        sum(spool.size_bytes for spool in spools),
        [str(spool.path.absolute()) for spool in spools if spool.path is not None],
    )
