"""Read files and pipes as chunks of whole lines. It knows nothing of JSON.

A thread of its own reads, decompresses and cuts, a few chunks ahead; a full hand-off stops it, and
so the pipe behind it. The thread is a daemon, as nothing can wake it from a read on a quiet pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import stat
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from pusher.errors import InputError, UsageError
from pusher.model import Chunk
from pusher.sources.decompressing import decompressed

__all__ = ["LineSource"]

CHUNK_BYTES = 256 << 10
READ_AHEAD_CHUNKS = 4
PIPE_BYTES = 1 << 20
OVERSIZED_HEAD_BYTES = 4 << 10
STDIN = "-"

_FEED_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"


@dataclass(slots=True, eq=False)
class _Input:
    """One file or pipe. `end` is where its first reading ended, so that a second one ends there."""

    name: str
    path: Path | None
    start: int = 0
    end: int | None = None
    is_regular: bool = False


class LineSource:
    """Files and pipes, one after the other, in chunks of whole lines.

    Args:
        inputs: paths, or "-" for standard input.
        max_line_bytes: a longer line is passed on without being kept.

    Raises:
        UsageError: an input does not exist or cannot be read.
    """

    def __init__(self, inputs: Sequence[str | Path], *, max_line_bytes: int = 32 << 20) -> None:
        self._inputs = [_examined(name) for name in inputs]
        self._max_line_bytes = max_line_bytes
        self.name = self._inputs[0].name if len(self._inputs) == 1 else f"{len(inputs)} inputs"
        self.can_be_read_again = all(entry.is_regular for entry in self._inputs)
        self.size_bytes = self._size_bytes() if self.can_be_read_again else None
        self.read_bytes = 0

    def __repr__(self) -> str:
        return f"<LineSource {self.name}, {self.read_bytes} bytes read>"

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Yield the chunks of all inputs. A second call reads again what the first one read.

        Raises:
            InputError: an input is damaged, cannot be read any more, or shrank between readings.
        """
        handoff = _Handoff(asyncio.get_running_loop(), READ_AHEAD_CHUNKS)
        thread = threading.Thread(
            target=_fill, args=(handoff, self._read()), name="pusher-reader", daemon=True
        )
        thread.start()
        try:
            while True:
                item = await handoff.get()
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            handoff.close()

    def _size_bytes(self) -> int:
        return sum(_file_size(entry) - entry.start for entry in self._inputs if entry.end is None)

    def _read(self) -> Iterator[Chunk]:
        for entry in self._inputs:
            blocks = decompressed(self._blocks(entry), entry.name)
            yield from cut_into_chunks(blocks, entry.name, self._max_line_bytes)

    def _blocks(self, entry: _Input) -> Iterator[bytes]:
        """Yield what each read returns. A pipe gives what it has, without waiting for more."""
        limit = None if entry.end is None else entry.end - entry.start
        done = 0
        with _opened(entry) as descriptor:
            while limit is None or done < limit:
                wanted = CHUNK_BYTES if limit is None else min(CHUNK_BYTES, limit - done)
                try:
                    block = os.read(descriptor, wanted)
                except OSError as error:
                    raise InputError(f"{entry.name}: {error.strerror}") from error
                if not block:
                    break
                done += len(block)
                self.read_bytes += len(block)
                yield block
        if limit is not None and done < limit:
            raise InputError(f"{entry.name}: it is shorter than when it was read first")
        entry.end = entry.start + done


def _examined(name: str | Path) -> _Input:
    if name == STDIN:
        try:
            info = os.fstat(0)
            is_readable = fcntl.fcntl(0, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY
        except OSError as error:
            raise UsageError("standard input is closed") from error
        if not is_readable:  # That is how a closed one looks once the command has started.
            raise UsageError("standard input is closed")
        is_regular = stat.S_ISREG(info.st_mode)
        start = os.lseek(0, 0, os.SEEK_CUR) if is_regular else 0
        return _Input("stdin", None, start=start, is_regular=is_regular)
    path = Path(name)
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise UsageError(f"{path}: is a directory")
        if not os.access(path, os.R_OK):
            raise UsageError(f"{path}: Permission denied")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{str(path)!r}: {error}") from error
    # A name need not be UTF-8, but what shows it is.
    shown = os.fsencode(path).decode("utf-8", "replace")
    return _Input(shown, path, is_regular=stat.S_ISREG(info.st_mode))


def _file_size(entry: _Input) -> int:
    return (os.fstat(0) if entry.path is None else entry.path.stat()).st_size


@contextlib.contextmanager
def _opened(entry: _Input) -> Iterator[int]:
    if entry.path is None:
        if entry.is_regular:
            os.lseek(0, entry.start, os.SEEK_SET)
        _widen_pipe(0)
        yield 0
        return
    try:
        descriptor = os.open(entry.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise InputError(f"{entry.name}: {error.strerror}") from error
    try:
        _widen_pipe(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def _widen_pipe(descriptor: int) -> None:
    """Let a pipe hold more than 64 KiB, so that its writer and we change turns less often."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux has it.
        with contextlib.suppress(OSError):  # Not a pipe, or the system allows no more.
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def cut_into_chunks(
    blocks: Iterator[bytes], name: str, max_line_bytes: int = 32 << 20
) -> Iterator[Chunk]:
    """Cut blocks at line ends; a byte-order mark is passed over.

    A last line without an end counts as a line.
    """
    first = b""
    for block in blocks:
        first += block
        if len(first) >= len(_BOM):
            break
    offset = len(_BOM) if first.startswith(_BOM) else 0
    cutter = _Cutter(name, offset, max_line_bytes)
    for block in chain((first[offset:],), blocks):
        # A decompressed block may be large, and a chunk must not be.
        for start in range(0, len(block), _FEED_BYTES):
            yield from cutter.feed(block[start : start + _FEED_BYTES])
    yield from cutter.finish()


class _Cutter:
    """Keeps the unfinished line between two blocks, and the position in the source."""

    def __init__(self, name: str, offset: int, max_line_bytes: int) -> None:
        self._name = name
        self._offset = offset
        self._line = 1
        self._max_line_bytes = max_line_bytes
        self._tail: list[bytes] = []
        self._tail_bytes = 0
        self._skipped_bytes = 0
        self._skipped_head = b""

    def feed(self, block: bytes) -> Iterator[Chunk]:
        """Take a block; yield the lines that end in it."""
        start = 0
        if self._skipped_bytes:
            end = block.find(b"\n")
            if end < 0:
                self._skipped_bytes += len(block)
                return
            start = end + 1
            yield self._oversized(self._skipped_head, self._skipped_bytes + end)
            self._skipped_bytes = 0
        cut = block.rfind(b"\n", start) + 1
        if cut:
            data = b"".join((*self._tail, block[start:cut]))
            self._tail, self._tail_bytes = [], 0
            yield from self._whole_lines(data)
        else:
            cut = start
        if cut < len(block):
            self._tail.append(block[cut:])
            self._tail_bytes += len(block) - cut
            if self._tail_bytes > self._max_line_bytes:
                self._skipped_head = b"".join(self._tail)[:OVERSIZED_HEAD_BYTES]
                self._skipped_bytes = self._tail_bytes
                self._tail, self._tail_bytes = [], 0

    def finish(self) -> Iterator[Chunk]:
        """Yield the last line, where it has no end."""
        if self._skipped_bytes:
            yield self._oversized(self._skipped_head, self._skipped_bytes)
        elif self._tail:
            yield from self._whole_lines(b"".join(self._tail))

    def _whole_lines(self, data: bytes) -> Iterator[Chunk]:
        if len(data) <= self._max_line_bytes:
            yield self._chunk(data)
            return
        start = position = 0
        while position < len(data):
            end = data.find(b"\n", position) + 1 or len(data)
            line_bytes = end - position - data.endswith(b"\n", position, end)
            if line_bytes > self._max_line_bytes:
                if start < position:
                    yield self._chunk(data[start:position])
                head = data[position : position + min(line_bytes, OVERSIZED_HEAD_BYTES)]
                yield self._oversized(head, line_bytes)
                start = end
            position = end
        if start < len(data):
            yield self._chunk(data[start:])

    def _chunk(self, data: bytes) -> Chunk:
        line_count = data.count(b"\n") + (not data.endswith(b"\n"))
        chunk = Chunk(data, self._name, self._offset, self._line, line_count)
        self._offset += len(data)
        self._line += line_count
        return chunk

    def _oversized(self, head: bytes, line_bytes: int) -> Chunk:
        chunk = Chunk(head, self._name, self._offset, self._line, 1, oversized_bytes=line_bytes)
        self._offset += line_bytes + 1
        self._line += 1
        return chunk


class _Handoff:
    """A bounded queue from a thread to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, capacity: int) -> None:
        self._loop = loop
        self._free = threading.Semaphore(capacity)
        self._items: deque[Chunk | Exception | None] = deque()
        self._arrived = asyncio.Event()
        self._is_closed = False

    def put(self, item: Chunk | Exception | None) -> bool:
        """Called in the thread. Waits for room; False when nobody wants the item any more."""
        self._free.acquire()
        if self._is_closed:
            return False
        self._items.append(item)
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:  # The loop has ended while we were reading.
            return False
        return True

    async def get(self) -> Chunk | Exception | None:
        """Called in the event loop. Waits for an item; None is the end."""
        while not self._items:
            self._arrived.clear()
            await self._arrived.wait()
        self._free.release()
        return self._items.popleft()

    def close(self) -> None:
        """Called in the event loop. Lets the thread end at its next item."""
        self._is_closed = True
        self._items.clear()
        self._free.release()


def _fill(handoff: _Handoff, chunks: Iterator[Chunk]) -> None:
    try:
        for chunk in chunks:
            if not handoff.put(chunk):
                return
    except Exception as error:  # noqa: BLE001 - it is raised again in the event loop
        handoff.put(error)
    else:
        handoff.put(None)
