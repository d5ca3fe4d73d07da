"""A file of lines that one run at a time appends to, so that a kill or a full disk tears none.

A line is in the file as soon as it is appended; it is on the disk once `sync` has returned.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread

from pusher.durability import replace_durably
from pusher.errors import DiskError, UsageError

__all__ = ["Journal"]

_BLOCK_BYTES = 1 << 16


class Journal:
    """Lines of JSON, appended by one run at a time.

    Args:
        path: the file; a link is followed, so that it stays one.
        flag: the option that names it, for errors.
        is_ours: whether a file that begins with this line may be appended to.
    """

    def __init__(self, path: Path, flag: str, is_ours: Callable[[bytes], bool]) -> None:
        self.path = path
        self._flag = flag
        self._is_ours = is_ours
        self._descriptor: int | None = None
        self._length = 0
        self._synced_length = 0
        self._turn = anyio.Lock()

    def __repr__(self) -> str:
        return f"<Journal {self.path}, {self._length} bytes>"

    @property
    def is_open(self) -> bool:
        """It may be appended to."""
        return self._descriptor is not None

    @property
    def length_bytes(self) -> int:
        """How long the file is."""
        return self._length

    def open(self) -> None:
        """Lock the file, made where it is missing, and cut off a line that is not whole.

        Raises:
            UsageError: it is something else, another run uses it, or it cannot be used at all.
        """
        target = self.path.resolve()
        if target.exists() and not target.is_file():
            raise UsageError(f"{self._flag}: {self.path} is not a file")
        try:
            descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._length = self._whole_length(descriptor)
                os.ftruncate(descriptor, self._length)
            except BaseException:
                os.close(descriptor)
                raise
        except BlockingIOError as error:
            raise UsageError(f"{self._flag}: {self.path} is in use by another run") from error
        except OSError as error:
            raise UsageError(f"{self._flag}: {self.path}: {error.strerror}") from error
        self._descriptor, self._synced_length = descriptor, 0

    def append(self, data: bytes) -> None:
        """Append whole lines: all of them, or none.

        It does not wait for the disk, but may wait for the system to take the data.

        Raises:
            DiskError: they could not be written.
        """
        if self._descriptor is None:
            raise TypeError("the journal is not open")
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            with suppress(OSError):  # It is the first failure that tells what is wrong.
                os.ftruncate(self._descriptor, self._length)
            raise self._trouble(error) from error
        self._length += len(data)

    async def sync(self) -> None:
        """Wait until all that was appended before is on the disk.

        Raises:
            DiskError: that failed.
        """
        async with self._turn:
            if self._descriptor is None or self._synced_length == self._length:
                return
            length = self._length
            try:
                with anyio.CancelScope(shield=True):  # The file must not be closed meanwhile.
                    await anyio.to_thread.run_sync(os.fsync, self._descriptor)
            except OSError as error:
                raise self._trouble(error) from error
            self._synced_length = length

    def lines(self, start_bytes: int = 0) -> Iterator[bytes]:
        """Yield the lines from a place on, which must be where one begins.

        Raises:
            DiskError: they cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(start_bytes)
                yield from file
        except OSError as error:
            raise self._trouble(error) from error

    def rewrite(self, start_bytes: int, change: Callable[[bytes], bytes]) -> None:
        """Put other lines in the place of those from a place on. It happens wholly or not at all.

        Args:
            start_bytes: where the first of them begins.
            change: a line -> what takes its place; nothing where it goes.

        Raises:
            DiskError: that failed; the file is as it was.
        """
        target = self.path.resolve()
        new = target.with_name(f".{target.name}.new")
        is_changed = False
        try:
            with target.open("rb") as old, new.open("wb") as rest:
                os.fchmod(rest.fileno(), stat.S_IMODE(os.fstat(old.fileno()).st_mode))
                left = start_bytes
                while left and (block := old.read(min(left, _BLOCK_BYTES))):
                    rest.write(block)
                    left -= len(block)
                for line in old:
                    other = change(line)
                    is_changed |= other != line
                    rest.write(other)
                rest.flush()
                os.fsync(rest.fileno())
            if not is_changed:
                new.unlink()
                return
            # Locked before it is the file: nobody comes in between.
            descriptor = os.open(new, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            replace_durably(new, target)
        except OSError as error:
            with suppress(OSError):
                new.unlink()
            raise self._trouble(error) from error
        self.close()
        self._descriptor = descriptor
        self._length = self._synced_length = os.fstat(descriptor).st_size

    def clear(self) -> None:
        """Begin anew with an empty file.

        Raises:
            DiskError: that failed.
        """
        if self._descriptor is None:
            raise TypeError("the journal is not open")
        try:
            os.ftruncate(self._descriptor, 0)
        except OSError as error:
            raise self._trouble(error) from error
        self._length = self._synced_length = 0

    def close(self) -> None:
        """Let other runs use the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _whole_length(self, descriptor: int) -> int:
        """The length without a last line that is torn.

        Raises:
            UsageError: the file is not ours.
        """
        size = os.fstat(descriptor).st_size
        if not size:
            return 0
        head = os.pread(descriptor, _BLOCK_BYTES, 0)
        first, end, _ = head.partition(b"\n")
        if not self._is_ours(first if end else head):
            raise UsageError(f"{self._flag}: {self.path} holds something else: name another file")
        place = size
        while place:
            start = max(0, place - _BLOCK_BYTES)
            end_at = os.pread(descriptor, place - start, start).rfind(b"\n")
            if end_at >= 0:
                return start + end_at + 1
            place = start
        return 0

    def _trouble(self, error: OSError) -> DiskError:
        return DiskError(f"{self._flag}: {self.path}: {error.strerror}")
