"""Write the messages that will not be delivered to a file, each with its reason.

A letter counts once it is on the disk. The file is created with the first letter.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import anyio
import anyio.to_thread
import orjson

from pusher.errors import DiskError
from pusher.model import Rejection

__all__ = ["DeadLetters"]


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
        self._run_id = run_id
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
        data = b"".join(_letter(rejection, at, self._run_id) for rejection in rejections)
        async with self._turn:
            await anyio.to_thread.run_sync(self._append, data)
        self.written += len(rejections)

    def close(self) -> None:
        """Close the file; every letter in it is on the disk already."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _append(self, data: bytes) -> None:
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
                if _ends_inside_a_line(self._descriptor):
                    data = b"\n" + data  # A run was killed in the middle of a letter.
            _append_or_nothing(self._descriptor, data)
        except OSError as error:
            raise DiskError(f"{self.path}: dead letters: {error.strerror}") from error


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


def _letter(rejection: Rejection, at: str, run_id: str) -> bytes:
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
