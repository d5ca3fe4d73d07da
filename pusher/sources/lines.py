"""Read files and pipes as chunks of whole lines. What is in the lines is the business of others.

The files of a partition are read in the order of their offsets, the partitions in turns.

A thread of its own reads, decompresses and cuts, a few chunks ahead; a full hand-off stops it, and
so the pipe behind it. The thread is a daemon, as nothing can wake it from a read on a quiet pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import stat
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from pusher.detecting import Detected
from pusher.envelopes import Format
from pusher.errors import DiskError, InputError, UsageError
from pusher.model import LONG_LINE_BYTES, Chunk, Position
from pusher.showing import Examples
from pusher.sources.cutting import cut_into_chunks, pass_over, up_to
from pusher.sources.decompressing import decompressed
from pusher.sources.exports import Formats, Reading, file_place_of
from pusher.sources.handoff import CHUNK_BYTES, Handoff
from pusher.sources.letters import LetterFilter, letter_bytes_max, unwrapped
from pusher.sources.probing import probe
from pusher.spool import Spool, SpoolPlan

__all__ = ["LineSource"]

READ_AHEAD_CHUNKS = 8
PIPE_BYTES = 1 << 20
LOOK_BYTES = 4 << 10
"""So much of a block is looked at for the end of its last line, before the block is read."""

ANNOUNCED_STEP_BYTES = 4 << 20
"""No more than that is announced of a line that may end before."""

PARTITIONS_AT_A_TIME = 16
"""Each has a file open."""

STDIN = "-"

_log = logging.getLogger("pusher")


@dataclass(slots=True, eq=False)
class _Input:
    """One file or pipe. `end` is where its first reading ended, so that a second one ends there."""

    name: str
    path: Path | None
    start: int = 0
    end: int | None = None
    is_regular: bool = False
    letters: LetterFilter | None = None
    """It holds dead letters, whose original lines are read."""
    spool: Spool | None = None
    """What it holds is kept there, decompressed."""


@dataclass(slots=True, eq=False)
class _Ahead:
    """How far one reading is. One that was given up may go on for a while beside the next."""

    handoff: Handoff
    read_at: deque[int]
    """For each chunk in the hand-off, what was read when it was cut."""
    uncut_bytes: int = 0
    """What was read since the last chunk."""
    announced_bytes: int = LONG_LINE_BYTES


class LineSource:
    """Files and pipes, one after the other, in chunks of whole lines.

    Args:
        inputs: paths, or "-" for standard input.
        max_line_bytes: a longer line is passed on without being kept.
        letter_files: those of the inputs that are files of dead letters.
        letters: which of their lines are read.
        formats: what is known of what the others hold, to be found out where it is not; None
            passes their lines on as they are.

    Raises:
        UsageError: an input does not exist or cannot be read.
    """

    def __init__(
        self,
        inputs: Sequence[str | Path],
        *,
        max_line_bytes: int = 32 << 20,
        letter_files: Container[str | Path] = (),
        letters: LetterFilter | None = None,
        formats: Formats | None = None,
    ) -> None:
        self._formats = formats
        self._readings = 0
        self.examples = Examples() if formats and formats.shows else None
        """What was made of the records of the first reading, where that is wanted."""
        self._inputs = [_examined(name) for name in inputs]
        for entry, name in zip(self._inputs, inputs, strict=True):
            if name in letter_files:
                entry.letters = letters or LetterFilter()
        _tell_apart(self._inputs)
        self._max_line_bytes = max_line_bytes
        self._keeps_fingerprints = False
        self._positions: dict[str, Position] = {}
        self._ends: Mapping[str, Position] = {}
        self.name = self._inputs[0].name if len(self._inputs) == 1 else f"{len(inputs)} inputs"
        self._are_files = all(entry.is_regular for entry in self._inputs)
        self.can_be_read_again = self._are_files
        self.size_bytes = self._size_bytes() if self._are_files else None
        self.read_bytes = self.handed_bytes = 0
        self.paths = [entry.path.resolve() for entry in self._inputs if entry.path]
        """The files among the inputs."""

    def __repr__(self) -> str:
        return f"<LineSource {self.name}, {self.read_bytes} bytes read>"

    def keep_fingerprints(self) -> None:
        """Say with each chunk where it ends, so that a later run can go on from there."""
        self._keeps_fingerprints = True

    def resume(self, positions: Mapping[str, Position]) -> None:
        """Let the next reading begin at these positions, by the names of the inputs.

        What comes before them is read, and checked, but not passed on.

        Raises:
            UsageError: there is no such input.
        """
        for name in positions.keys() - {entry.name for entry in self._inputs}:
            raise UsageError(f"the checkpoint is of a run that also read {name}")
        self._positions = dict(positions)

    def end_at(self, ends: Mapping[str, Position]) -> None:
        """Let all readings end there, as an earlier run's first one did: inputs may have grown."""
        self._ends = ends

    def spool_pipes(self, plan: SpoolPlan) -> None:
        """Keep what is read of pipes, so that they can be read again.

        Raises:
            UsageError: nothing can be written there.
        """
        pipes = [entry for entry in self._inputs if not entry.is_regular]
        for number, entry in enumerate(pipes, 1):
            blocks = decompressed(self._blocks(entry), entry.name)
            entry.spool = Spool(plan, blocks, number)
        self.can_be_read_again = True

    @property
    def inputs(self) -> list[str] | None:
        """The files, and kept spools, that hold all of it; None where there is more."""
        paths = [entry.spool.path if entry.spool else entry.path for entry in self._inputs]
        if not all(
            path is not None and (entry.spool or entry.is_regular)
            for path, entry in zip(paths, self._inputs, strict=True)
        ):
            return None
        return [os.fsencode(path.absolute()).decode("utf-8", "replace") for path in paths if path]

    @property
    def is_empty(self) -> bool:
        """Nothing is to be read at all."""
        return not self._inputs

    @property
    def spools(self) -> list[Spool]:
        """What is kept of pipes."""
        return [entry.spool for entry in self._inputs if entry.spool is not None]

    def close_spools(self) -> None:
        """Let go of what is kept of pipes; what has no name is gone then."""
        for spool in self.spools:
            try:
                spool.close()
            except DiskError as error:
                _log.error("%s", error)

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Yield the chunks of all inputs. A second call reads again what the first one read.

        Raises:
            InputError: an input is damaged, cannot be read any more, or shrank between readings.
            UsageError: an input is not the one that its position belongs to.
        """
        positions, self._positions = self._positions, {}
        handoff = Handoff(asyncio.get_running_loop(), READ_AHEAD_CHUNKS)
        ahead = _Ahead(handoff, deque())
        thread = threading.Thread(
            target=_fill,
            args=(handoff, self._noted(self._read(positions, ahead), ahead)),
            name="pusher-reader",
            daemon=True,
        )
        thread.start()
        try:
            while True:
                item = await handoff.get()
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                self.handed_bytes = ahead.read_at.popleft()
                yield item
                handoff.let_in(item)
        finally:
            handoff.close()

    def _noted(self, chunks: Iterator[Chunk], ahead: _Ahead) -> Iterator[Chunk]:
        """Note before each chunk how much has been read so far."""
        for chunk in chunks:
            ahead.read_at.append(self.read_bytes)
            ahead.uncut_bytes, ahead.announced_bytes = 0, LONG_LINE_BYTES
            yield chunk

    def _announced(
        self, blocks: Iterator[bytes], start: Chunk, most_bytes: int, ahead: _Ahead
    ) -> Iterator[bytes]:
        """Wait for room for a long line while it is read, each time that it is a step longer."""
        ahead.uncut_bytes = -start.offset  # What comes before is passed over.
        for block in blocks:
            ahead.uncut_bytes += len(block)
            yield block
            if ahead.announced_bytes <= ahead.uncut_bytes <= most_bytes:
                step_bytes = min(ahead.uncut_bytes, ANNOUNCED_STEP_BYTES)
                ahead.announced_bytes = min(ahead.uncut_bytes + step_bytes, most_bytes)
                ahead.read_at.append(self.read_bytes)
                if not ahead.handoff.put(replace(start, coming_bytes=ahead.announced_bytes)):
                    return

    def _size_bytes(self) -> int:
        return sum(_file_size(entry) - entry.start for entry in self._inputs if entry.end is None)

    def _read(self, positions: Mapping[str, Position], ahead: _Ahead) -> Iterator[Chunk]:
        is_first = not self._readings
        if is_first and self._ends:
            self._check_whole()
        else:
            self._check_files(positions)
        examples = self.examples if is_first else None
        reading = Reading(self._formats or Formats(), announces=is_first, examples=examples)
        self._readings += 1
        for partitions in _in_turns(self._inputs, self._found_format()):
            yield from _interleaved(
                [
                    (self._chunks_of(entry, reading, positions, ahead) for entry in files)
                    for files in partitions
                ]
            )

    def _chunks_of(
        self,
        entry: _Input,
        reading: Reading,
        positions: Mapping[str, Position],
        ahead: _Ahead,
    ) -> Iterator[Chunk]:
        max_line_bytes = self._max_line_bytes
        if entry.letters is not None:
            max_line_bytes = letter_bytes_max(max_line_bytes)
        blocks = self._plain_blocks(entry)
        if self._ends:
            end = self._ends.get(entry.name)
            blocks = up_to(blocks, end.offset if end else 0, entry.name)
        after = positions.get(entry.name)
        start = Chunk(b"", entry.name, after.offset if after else 0, 0, 0)
        blocks = self._announced(blocks, start, max_line_bytes, ahead)
        if entry.letters is None and self._formats is not None:
            return reading.chunks(
                blocks,
                entry.name,
                entry.path,
                max_line_bytes,
                after=after,
                keeps_fingerprints=self._keeps_fingerprints,
            )
        chunks = cut_into_chunks(
            blocks,
            entry.name,
            max_line_bytes,
            after=after,
            keeps_fingerprints=self._keeps_fingerprints,
        )
        return chunks if entry.letters is None else unwrapped(chunks, entry.letters, reading)

    def _plain_blocks(self, entry: _Input) -> Iterator[bytes]:
        if entry.spool is not None:
            return entry.spool.read()
        return decompressed(self._blocks(entry), entry.name)

    def _found_format(self) -> Format | None:
        """The format of several files, and that it is that of all; None where it is not known.

        Raises:
            UsageError: they have several formats, or one that is not known.
        """
        formats = self._formats
        if formats is None or formats.file_format is not None or not self._are_files_to_look_at():
            return formats.file_format if formats else None
        found: Detected | None = None
        found_in = ""
        for entry in self._inputs:
            detected = self._detected(entry, formats) if entry.letters is None else None
            if found is None:
                found, found_in = detected, entry.name
            elif detected is not None and detected.differs_from(found):
                raise UsageError(
                    f"{entry.name} is {detected}, but {found_in} is {found}: push them by"
                    " themselves, or say --format"
                )
        return found.file_format if found else None

    def _are_files_to_look_at(self) -> bool:
        return len(self._inputs) > 1 and self._are_files

    def _detected(self, entry: _Input, formats: Formats) -> Detected | None:
        before = self.read_bytes, entry.end
        is_of_sink = file_place_of(entry.path, None) is not None
        try:
            blocks = decompressed(self._blocks(entry), entry.name)
            with contextlib.closing(blocks):  # type: ignore[type-var]
                return probe(
                    blocks, formats.detector(), self._max_line_bytes, is_of_sink=is_of_sink
                ).detected
        except InputError:
            return None  # It is said when the file has its turn.
        finally:
            self.read_bytes, entry.end = before

    def _check_whole(self) -> None:
        """Check, before anything is passed on, that the inputs are what an earlier run has read.

        Pipes are spooled by that.
        """
        for entry in self._inputs:
            end = self._ends.get(entry.name)
            if end is not None:
                before = self.read_bytes, entry.end
                pass_over(self._plain_blocks(entry), end, entry.name, self._max_line_bytes)
                if entry.spool is None:
                    self.read_bytes, entry.end = before

    def _check_files(self, positions: Mapping[str, Position]) -> None:
        """Check several files before the first of them is read, as it may have grown."""
        entries = [entry for entry in self._inputs if entry.name in positions]
        for entry in entries if len(entries) > 1 else []:
            if entry.is_regular:
                before = self.read_bytes, entry.end
                blocks = decompressed(self._blocks(entry), entry.name)
                pass_over(blocks, positions[entry.name], entry.name, self._max_line_bytes)
                self.read_bytes, entry.end = before

    def _blocks(self, entry: _Input) -> Iterator[bytes]:
        """Yield what each read returns. A pipe gives what it has, without waiting for more."""
        limit = None if entry.end is None else entry.end - entry.start
        done = 0
        with _opened(entry) as descriptor:
            while limit is None or done < limit:
                wanted = CHUNK_BYTES if limit is None else min(CHUNK_BYTES, limit - done)
                try:
                    if entry.is_regular:
                        wanted = _up_to_line_end(descriptor, entry.start + done, wanted)
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


def _tell_apart(inputs: list[_Input]) -> None:
    """Number the inputs that are named more than once: a checkpoint knows them by their names."""
    seen: Counter[str] = Counter()
    for entry in inputs:
        seen[entry.name] += 1
        if seen[entry.name] > 1:
            entry.name += f" ({seen[entry.name]})"


def _in_turns(inputs: list[_Input], file_format: Format | None) -> Iterator[list[list[_Input]]]:
    """Groups of partitions to be read in turns, each with its files in the order of offsets.

    Files whose name says nothing of a partition are groups by themselves, where they stand.
    """
    places = [file_place_of(entry.path, file_format) for entry in inputs]
    partitions: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for index, place in enumerate(places):
        if place is not None:
            partitions.setdefault(place[:2], []).append((place.offset, index))
    ordered = [[inputs[index] for _, index in sorted(files)] for files in partitions.values()]
    is_done = False
    for entry, place in zip(inputs, places, strict=True):
        if place is None:
            yield [[entry]]
        elif not is_done:
            is_done = True
            for start in range(0, len(ordered), PARTITIONS_AT_A_TIME):
                yield ordered[start : start + PARTITIONS_AT_A_TIME]


def _interleaved(partitions: Sequence[Iterator[Iterator[Chunk]]]) -> Iterator[Chunk]:
    """A chunk of each partition in turn; the files of one strictly one after the other."""
    left = deque(chain.from_iterable(files) for files in partitions)
    while left:
        chunks = left.popleft()
        for chunk in chunks:
            yield chunk
            left.append(chunks)
            break


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


def _up_to_line_end(descriptor: int, offset: int, wanted: int) -> int:
    """How much to read so that it ends with a line: such a block need not be cut, and so copied.

    All that is wanted, where no line ends in its last part.
    """
    if wanted <= LOOK_BYTES:
        return wanted
    last = os.pread(descriptor, LOOK_BYTES, offset + wanted - LOOK_BYTES)
    line_end = last.rfind(b"\n")
    return wanted if line_end < 0 else wanted - LOOK_BYTES + line_end + 1


def _widen_pipe(descriptor: int) -> None:
    """Let a pipe hold more than 64 KiB, so that its writer and we change turns less often."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux has it.
        with contextlib.suppress(OSError):  # Not a pipe, or the system allows no more.
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _fill(handoff: Handoff, chunks: Iterator[Chunk]) -> None:
    try:
        for chunk in chunks:
            if not handoff.put(chunk):
                return
    except Exception as error:  # noqa: BLE001 - it is raised again in the event loop
        handoff.put(error)
    else:
        handoff.put(None)
