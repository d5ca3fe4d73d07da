"""Keep the checkpoint: how far the run is, written while it goes on and at its end."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import anyio
import anyio.to_thread

from pusher.admission import Admission
from pusher.bookkeeping import Books
from pusher.checkpoint import CheckpointFile
from pusher.dead_letters import DeadLetters
from pusher.errors import DiskError, UsageError
from pusher.model import Halt, HaltKind, Position
from pusher.resuming import CheckpointState, decode, encode
from pusher.sampling import Sample
from pusher.sources import LineSource
from pusher.stopping import Stopping
from pusher.tally import Tally
from pusher.watermark import Ledger

__all__ = ["Checkpointer"]

WRITE_EVERY_S = 0.2
_SHARE_OF_TIME = 0.05
"""Putting a checkpoint together may not take more of the time than that."""


class Checkpointer:
    """Writes the checkpoint of one run.

    What it writes is put together without a pause, so it holds at one moment.

    Args:
        file: open, and locked.
        earlier: what an earlier run of the same chain left, or None.
        run_id: of this run.
        ledger: how far each source is settled.
        tally: rejections.
        sample: what is to be confirmed.
        dead_letters: of this run.
        books: what it writes down of deliveries; open.
        admission: the limit that it has found.
        stopping: told when the file cannot be written.
    """

    def __init__(
        self,
        file: CheckpointFile,
        earlier: CheckpointState | None,
        run_id: str,
        *,
        ledger: Ledger,
        tally: Tally,
        sample: Sample,
        dead_letters: DeadLetters,
        books: Books | None,
        admission: Admission,
        stopping: Stopping,
    ) -> None:
        self._file = file
        self.run_id = run_id
        self._ledger = ledger
        self._tally = tally
        self._sample = sample
        self._dead_letters = dead_letters
        self._books = books
        self.admission = admission
        self._stopping = stopping
        self._is_to_rewind = earlier is not None and not earlier.complete
        self._is_to_begin = self._ledger_name is not None
        self._earlier = earlier
        self._phase = 1
        self._start: Mapping[str, Position] = {}
        self._letters_from = dead_letters.length_bytes
        self._ledger_from = self._ledger_length
        self._rejected_before = 0  # This phase.
        if earlier is not None:
            self._start = earlier.positions if earlier.complete else earlier.start
            if not earlier.complete:
                self._phase = earlier.phase
                self._letters_from = earlier.dead_letters_from
                if earlier.ledger == self._ledger_name:
                    self._ledger_from = earlier.ledger_from
                self._rejected_before = earlier.rejected_before
        self.rejected_earlier = self._rejected_before
        """Messages that earlier runs of this chain have rejected."""
        self._written: tuple[object, ...] = self._mark()

    def __repr__(self) -> str:
        return f"<Checkpointer of {self._file!r}>"

    @classmethod
    def open(
        cls,
        path: Path,
        source: LineSource,
        run_id: str,
        *,
        ledger: Ledger,
        tally: Tally,
        sample: Sample,
        dead_letters: DeadLetters,
        books: Books | None,
        concurrency: int | None,
        stopping: Stopping,
    ) -> Self:
        """Open a checkpoint, and let all of the run go on where an earlier one has ended.

        Raises:
            UsageError: the file is no checkpoint of this input, or in use.
            DiskError: it cannot be read.
        """
        file = CheckpointFile(path)
        data = file.open()
        try:
            earlier = decode(data, str(path)) if data else None
            admission = Admission(concurrency, start=earlier.concurrency if earlier else None)
            source.keep_fingerprints()
            if earlier is not None:
                if not earlier.complete:
                    run_id = dead_letters.run_id = earlier.run_id
                    if books is not None:
                        books.take_id(run_id)
                        _go_on(books, earlier)
                    sample.restore(earlier.sample, time.monotonic())
                ledger.resume(earlier.positions, earlier.settled)
                tally.resumed = earlier.settled
                source.resume(earlier.positions)
            return cls(
                file,
                earlier,
                run_id,
                ledger=ledger,
                tally=tally,
                sample=sample,
                dead_letters=dead_letters,
                books=books,
                admission=admission,
                stopping=stopping,
            )
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    @property
    def first_phase(self) -> int:
        """The phase that the earlier run did not finish."""
        return self._phase

    @property
    def start(self) -> Mapping[str, Position]:
        """Where each pass over the input begins."""
        return self._start

    async def rewind(self) -> None:
        """Take back what was written of messages that are read again; the input was checked before.

        Raises:
            DiskError: the file of dead letters, the ledger or the checkpoint cannot be changed.
        """
        if self._earlier is None and self._is_to_begin:
            # Killed before its first checkpoint, a run would leave lines that nobody takes back.
            self._is_to_begin = False
            await self._write(is_complete=False)
        if not self._is_to_rewind or self._earlier is None:
            return
        self._is_to_rewind = False
        positions = self._earlier.positions

        def is_settled(source: str, line: int) -> bool:
            position = positions.get(source)
            return position is not None and line <= position.lines

        self.rejected_earlier = self._rejected_before + await anyio.to_thread.run_sync(
            self._dead_letters.rewind, self._letters_from, is_settled
        )
        if self._books is not None and self._books.ledger is not None:
            await anyio.to_thread.run_sync(self._books.ledger.rewind, self._ledger_from, positions)

    def begin_phase(self, number: int) -> None:
        """All of the phases before is settled, and the input is read again."""
        self._phase = number
        self._letters_from = self._dead_letters.length_bytes
        self._ledger_from = self._ledger_length
        self._rejected_before = self.rejected_earlier + self._tally.rejected
        self._ledger.start_pass(self._start)

    async def keep(self) -> None:
        """Write what has changed, again and again, for ever: the caller cancels it."""
        wait_s = WRITE_EVERY_S
        while True:
            await anyio.sleep(wait_s)
            started_s = time.perf_counter()
            mark = self._mark()
            if mark == self._written:
                continue
            data = self._encoded(is_complete=False)
            wait_s = max(WRITE_EVERY_S, (time.perf_counter() - started_s) / _SHARE_OF_TIME)
            try:
                # Not to be cut off: the last write must not meet one that is still under way.
                with anyio.CancelScope(shield=True):
                    await self._sync()
                    await self._file.write(data)
            except DiskError as error:
                self._stopping.end_sending(Halt(HaltKind.STOPPED, str(error)))
                return
            self._written = mark

    def recall(self) -> None:
        """Nothing was added since a run ended well: what it found still holds."""
        earlier = self._earlier
        if earlier is not None and earlier.complete and not self._tally.read:
            self.rejected_earlier = earlier.rejected_before
            self._sample.restore(earlier.sample, time.monotonic())
            objects = self._books.objects if self._books is not None else None
            if objects is not None and earlier.objects_of is not None:
                objects.go_on(earlier.objects_of)

    async def finish(self, *, is_complete: bool) -> None:
        """Write the last state, unless this run has changed nothing.

        Raises:
            DiskError: it could not be written.
        """
        if self._earlier is not None and not is_complete and not self._tally.read:
            return
        if is_complete:
            self._rejected_before = self.rejected_earlier + self._tally.rejected
        await self._write(is_complete=is_complete)

    async def _write(self, *, is_complete: bool) -> None:
        with anyio.CancelScope(shield=True):
            data = self._encoded(is_complete=is_complete)
            await self._sync()
            await self._file.write(data)

    async def _sync(self) -> None:
        """What a checkpoint is past is not sent again: it must be in the books for good."""
        if self._books is not None:
            await self._books.sync()

    @property
    def _ledger_name(self) -> str | None:
        ledger = self._books.ledger if self._books is not None else None
        return None if ledger is None else os.fspath(ledger.journal.path.resolve())

    @property
    def _ledger_length(self) -> int:
        ledger = self._books.ledger if self._books is not None else None
        return 0 if ledger is None else ledger.journal.length_bytes

    def _mark(self) -> tuple[object, ...]:
        """Differs when there is something new to write."""
        tally = self._tally
        return self._phase, self._ledger.watermark, tally.delivered, tally.rejected

    def _encoded(self, *, is_complete: bool) -> bytes:
        return encode(
            CheckpointState(
                run_id=self.run_id,
                phase=self._phase,
                start=dict(self._start),
                positions=dict(self._ledger.positions),
                settled=self._ledger.settled,
                rejected_before=self._rejected_before,
                dead_letters=self._dead_letters.name,
                dead_letters_from=self._letters_from,
                ledger=self._ledger_name,
                ledger_from=self._ledger_from,
                objects_of=_objects_of(self._books),
                sample=self._sample.memory(),
                concurrency=self.admission.limit,
                complete=is_complete,
            )
        )


def _objects_of(books: Books | None) -> str | None:
    objects = books.objects if books is not None else None
    return None if objects is None or objects.is_empty else objects.run_id


def _go_on(books: Books, earlier: CheckpointState) -> None:
    """Go on with the objects that earlier runs have delivered.

    Raises:
        UsageError: they are not in the file, so that all of them could not be confirmed.
    """
    objects = books.objects
    if objects is None or not earlier.settled:
        return
    if earlier.objects_of is None or not objects.go_on(earlier.objects_of):
        raise UsageError(
            f"--confirm all: {objects.journal.path} does not hold what the run to go on from has"
            " delivered: confirm a sample, or begin without the checkpoint"
        )
