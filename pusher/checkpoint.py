"""A file that is replaced as a whole, and that one run at a time may use."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

import anyio.to_thread

from pusher.durability import replace_durably
from pusher.errors import DiskError, UsageError

__all__ = ["CheckpointFile"]


class CheckpointFile:
    """The file of a checkpoint, locked from `open` to `close`.

    The lock is on the file itself, so nothing else is left behind. Each write locks the new file
    before it takes the old one's place; whoever waits for the old one then sees that it is gone.

    Args:
        path: the file; a link is followed, so that it stays one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._target = Path(os.path.realpath(path))
        self._new = self._target.with_name(f".{self._target.name}.new")
        self._descriptor: int | None = None

    def __repr__(self) -> str:
        return f"<CheckpointFile {self._path}>"

    def open(self) -> bytes | None:
        """Lock the file and return what is in it; None where there is nothing yet.

        Raises:
            UsageError: another run uses it, or it cannot be used at all.
        """
        try:
            while self._descriptor is None:
                self._descriptor = _locked_if_current(self._target)
            size = os.fstat(self._descriptor).st_size
            data = os.pread(self._descriptor, size, 0)
        except BlockingIOError as error:
            raise UsageError(f"--checkpoint: {self._path} is in use by another run") from error
        except OSError as error:
            raise UsageError(f"--checkpoint: {self._path}: {error.strerror}") from error
        return data or None

    async def write(self, data: bytes) -> None:
        """Replace what is in the file, and wait until that is on the disk.

        Raises:
            DiskError: that failed; the file is as it was.
        """
        await anyio.to_thread.run_sync(self._replace, data)

    def close(self) -> None:
        """Let other runs use the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _replace(self, data: bytes) -> None:
        descriptor: int | None = None
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            descriptor = os.open(self._new, flags, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            # Renamed unsynced, it could be an empty file after a power failure.
            os.fsync(descriptor)
            replace_durably(self._new, self._target)
        except OSError as error:
            if descriptor is not None:
                os.close(descriptor)
                with suppress(OSError):
                    self._new.unlink()
            raise DiskError(f"--checkpoint: {self._path}: {error.strerror}") from error
        self.close()
        self._descriptor = descriptor


def _locked_if_current(path: Path) -> int | None:
    """Open and lock a file; None when it was replaced meanwhile.

    Raises:
        BlockingIOError: another process has locked it.
        OSError: it cannot be opened for writing.
    """
    if path.exists() and not path.is_file():
        raise UsageError(f"--checkpoint: {path} is not a file")  # A device must not be replaced.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except FileNotFoundError:  # It was moved away.
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
