"""Write the messages that will not be delivered to a file, each with its reason.

A letter counts once it is on the disk. The file is created with the first letter.
"""

from __future__ import annotations

import base64
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import anyio
import anyio.to_thread
import orjson

from pusher.durability import replace_durably
from pusher.errors import DiskError
from pusher.model import Rejection

__all__ = ["DeadLetters", "letter_of"]

_COPY_BYTES = 1 << 20


class DeadLetters:
    """A file of dead letters that one run appends to.

    Args:
        path: the file.
        run_id: written into each letter.
        now_s: the time of day, epoch seconds.
    """

    def __init__(self, path: Path, run_id: str, now_s: Callable[[], float]) -> None:
        self.path = path
        self.name = os.fsencode(path).decode("utf-8", "replace")
        self.written = 0
        self.run_id = run_id
        """Written into each letter; a run that goes on from another one takes its id."""
        self._now_s = now_s
        self._descriptor: int | None = None
        self._turn = anyio.Lock()

    def __repr__(self) -> str:
        return f"<DeadLetters in {self.path}, {self.written} written>"

    async def write(self, rejections: Sequence[Rejection]) -> None:
        """Append letters and wait until they are on the disk.

        Raises:
            DiskError: they could not be written; none of them is in the file.
        """
        at = datetime.fromtimestamp(self._now_s(), UTC).isoformat(timespec="milliseconds")
        data = b"".join(letter_of(rejection, at, self.run_id) for rejection in rejections)
        async with self._turn:
            await anyio.to_thread.run_sync(self._append, data)
        self.written += len(rejections)

    @property
    def length_bytes(self) -> int:
        """How long the file is; 0 as long as there is none."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def rewind(self, start_bytes: int, is_settled: Callable[[str, int], bool]) -> int:
        """Take back letters of this run, from a place in the file on.

        Letters of other runs stay. So does the file, whole, if this is cut off in the middle.

        Args:
            start_bytes: where the letters begin that may have to go.
            is_settled: whether the message of a source and line is settled; its letter stays.

        Returns:
            How many letters of this run stay behind that place.

        Raises:
            DiskError: the file cannot be read or changed.
        """
        try:
            if start_bytes >= self.length_bytes or not self.path.is_file():
                return 0
            with self._locked():
                return self._rewind(start_bytes, is_settled)
        except OSError as error:
            raise DiskError(f"{self.path}: dead letters: {error.strerror}") from error

    def _rewind(self, start_bytes: int, is_settled: Callable[[str, int], bool]) -> int:
        kept_own = gone = 0
        target = self.path.resolve()
        rest = target.with_name(f".{target.name}.new")
        with target.open("rb") as old, rest.open("wb") as new:
            os.fchmod(new.fileno(), stat.S_IMODE(os.fstat(old.fileno()).st_mode))
            _copy(old, new, start_bytes)
            for line in old:
                letter = _place_of(line)
                if letter is None and not line.endswith(b"\n"):
                    gone += 1  # A run was killed in the middle of it.
                elif letter is None or letter[0] != self.run_id:
                    new.write(line)
                elif is_settled(letter[1], letter[2]):
                    kept_own += 1
                    new.write(line)
                else:
                    gone += 1
            new.flush()
            os.fsync(new.fileno())
        if gone:
            replace_durably(rest, target)
        else:
            rest.unlink()
        return kept_own

    def close(self) -> None:
        """Close the file; every letter in it is on the disk already."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _append(self, data: bytes) -> None:
        try:
            was_open = self._descriptor
            with self._locked() as descriptor:
                if descriptor != was_open and _ends_inside_a_line(descriptor):
                    data = b"\n" + data  # A run was killed in the middle of a letter.
                _append_or_nothing(descriptor, data)
        except OSError as error:
            raise DiskError(f"{self.path}: dead letters: {error.strerror}") from error

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Hold the file that is at the path now: another run's rewind may have replaced it."""
        while True:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            with suppress(OSError):  # Where files cannot be locked, runs must not share one.
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._descriptor), self.path.stat()):
                    break
            self.close()
        try:
            yield self._descriptor
        finally:
            if self._descriptor is not None:
                with suppress(OSError):
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)


def _copy(old: BinaryIO, new: BinaryIO, size: int) -> None:
    while size and (block := old.read(min(size, _COPY_BYTES))):
        new.write(block)
        size -= len(block)


def _place_of(line: bytes) -> tuple[str, str, int] | None:
    """The run, the source and the line that a letter names; None where it is no letter."""
    try:
        letter = orjson.loads(line)
        return str(letter["run_id"]), str(letter["source"]), int(letter["line"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


def _append_or_nothing(descriptor: int, data: bytes) -> None:
    """Append all of `data` and sync it, or leave the file as it was."""
    length = os.fstat(descriptor).st_size
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):  # It is the first failure that tells what is wrong.
            os.ftruncate(descriptor, length)
        raise


def _ends_inside_a_line(descriptor: int) -> bool:
    info = os.fstat(descriptor)
    if not stat.S_ISREG(info.st_mode) or not info.st_size:
        return False
    return os.pread(descriptor, 1, info.st_size - 1) != b"\n"


def letter_of(rejection: Rejection, at: str, run_id: str) -> bytes:
    """One dead letter, a JSON object with a line end."""
    letter: dict[str, object] = {
        "reason": rejection.reason,
        "detail": rejection.detail,
        "status": rejection.status,
        "attempts": rejection.attempts,
        "source": os.fsencode(rejection.source).decode("utf-8", "replace"),
        "line": rejection.line,
        "offset": rejection.offset,
        "at": at,
        "run_id": run_id,
        "changed_at": rejection.changed_at_ms,
        **rejection.extra,
    }
    try:
        letter["record"] = rejection.record.decode()
    except UnicodeDecodeError:
        letter["record_base64"] = base64.b64encode(rejection.record).decode()
    return orjson.dumps(letter, option=orjson.OPT_APPEND_NEWLINE)
