"""One pass over the input: read, decode, batch, and let batches go.

Between reading and batching runs a bounded stream of chunks; everything else is a plain call.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from contextlib import aclosing, closing

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from pusher.admission import Admission
from pusher.batching import Batcher
from pusher.checkpointing import Checkpointer
from pusher.committing import Committer
from pusher.config import Settings
from pusher.decoding import Decoder
from pusher.dispatching import Dispatcher
from pusher.errors import DiskError, InputError, UsageError
from pusher.model import Chunk, Halt, HaltKind, ObjectType, Rejection
from pusher.room import Room, is_large
from pusher.selecting import Selection
from pusher.sender import Errand, Sender
from pusher.settling import Settlement
from pusher.sources import KafkaSource, LineSource
from pusher.stopping import Stopping, cancel_after
from pusher.tally import Tally
from pusher.watermark import Ledger

__all__ = ["Intake"]

READ_AHEAD_CHUNKS = 2
"""So many wait to be decoded, so that the two tasks need not change turns for each."""

STOP_GRACE_S = 5.0
"""How long requests under way may go on when the endpoint has turned out to be unusable."""

TURN_CHECK_S = 0.05
"""How often to look, on a quiet source, whether a waiting message's turn has come."""

_log = logging.getLogger("pusher")


class Intake:
    """Passes over the source, each for some of the object types.

    Args:
        source: what is read.
        settings: of the run.
        batcher: what is read goes there.
        ledger: of the run.
        tally: of the run.
        settlement: told what is no message, and told of what comes back.
        admission: who may send.
        room: where reading waits.
        stopping: when reading has to end; told when the input cannot be read.
        warnings: takes what is odd about the input, once each.
        checkpointer: takes back letters of what is read again.
        committer: told of partitions that were taken away.
        errand: what to do otherwise than send sync messages.
    """

    def __init__(
        self,
        source: LineSource | KafkaSource,
        settings: Settings,
        *,
        batcher: Batcher,
        ledger: Ledger,
        tally: Tally,
        settlement: Settlement,
        admission: Admission,
        room: Room,
        stopping: Stopping,
        warnings: list[str],
        checkpointer: Checkpointer | None = None,
        committer: Committer | None = None,
        errand: Errand | None = None,
    ) -> None:
        self._source = source
        self._live = source if isinstance(source, KafkaSource) else None
        self._settings = settings
        self._decoder = Decoder(
            default_store=settings.default_store,
            default_type=settings.default_type,
            # A limit, and an errand, choose among single messages.
            takes_groups=settings.limit is None and errand is None,
        )
        self._batcher = batcher
        self._ledger = ledger
        self._tally = tally
        self._settlement = settlement
        self._admission = admission
        self._room = room
        self._stopping = stopping
        self._checkpointer = checkpointer
        self._committer = committer
        self._errand = errand
        self._warnings = warnings
        self._has_room_for_large = anyio.Event()
        self.unusable: UsageError | None = None
        """Why the input cannot be used at all."""

    def __repr__(self) -> str:
        return f"<Intake of {self._source!r}>"

    async def send(
        self, sender: Sender, object_types: frozenset[ObjectType], *, is_first: bool
    ) -> None:
        """Read the source once, and send what is of these types."""
        settings = self._settings
        selection = Selection(
            pass_types=object_types,
            only_stores=settings.only_stores,
            only_types=settings.only_types,
            limit=settings.limit,
            why_skipped=self._errand.why_skipped if self._errand else None,
        )
        to_batch, chunks = anyio.create_memory_object_stream[Chunk](READ_AHEAD_CHUNKS)
        has_enough = anyio.Event()
        self._has_room_for_large = anyio.Event()  # A pass that was cut short may have left it set.
        async with anyio.create_task_group() as guard:
            guard.start_soon(self._cut_short, guard.cancel_scope)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read, to_batch, has_enough)
                dispatcher = Dispatcher(
                    sender,
                    self._settlement,
                    self._admission,
                    self._stopping,
                    tasks,
                    errand=self._errand,
                    is_rehearsal=settings.dry_run,
                )
                tasks.start_soon(self._batch, dispatcher, chunks, selection, is_first, has_enough)
            guard.cancel_scope.cancel()

    async def _cut_short(self, phase: anyio.CancelScope) -> None:
        """End a phase that has to stop, with as much patience as the reason allows."""
        await self._stopping.reading_ended()
        halt = self._stopping.halt
        if halt is None:
            raise AssertionError("reading ends for a reason")
        is_interrupted = halt.kind is HaltKind.INTERRUPTED
        with anyio.move_on_after(self._settings.drain_timeout_s if is_interrupted else math.inf):
            await self._stopping.sending_ended()
        self._stopping.end_sending(halt)
        self._admission.close()
        if not is_interrupted:
            await anyio.sleep(STOP_GRACE_S)
        phase.cancel()

    async def _read(self, to_batch: MemoryObjectSendStream[Chunk], has_enough: anyio.Event) -> None:
        """Source: pass chunks on until the end, or until reading has to end."""
        async with to_batch, anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_after, self._stopping.reading_ended, tasks.cancel_scope)
            tasks.start_soon(cancel_after, has_enough.wait, tasks.cancel_scope)
            try:
                async with aclosing(self._source.chunks()) as chunks:  # type: ignore[type-var]
                    async for chunk in chunks:
                        if not chunk.coming_bytes:  # The input need not have been checked yet.
                            await self._rewind()
                        await to_batch.send(chunk)
                        if is_large(chunk):
                            await self._has_room_for_large.wait()
                            self._has_room_for_large = anyio.Event()
                await self._rewind()
            except anyio.BrokenResourceError:
                pass  # Nothing more is wanted: the limit is reached.
            except UsageError as error:
                self.unusable = error
                self._stopping.end_sending(Halt(HaltKind.STOPPED, str(error)))
            except (InputError, DiskError) as error:
                self._stopping.end_reading(Halt(HaltKind.STOPPED, str(error)))
            tasks.cancel_scope.cancel()

    async def _rewind(self) -> None:
        """Now that the input was checked, take back the letters of what is read again."""
        if self._checkpointer is not None and not self._settings.dry_run:
            await self._checkpointer.rewind()

    async def _batch(
        self,
        dispatcher: Dispatcher,
        chunks: MemoryObjectReceiveStream[Chunk],
        selection: Selection,
        is_first: bool,  # noqa: FBT001 - start_soon passes positions
        has_enough: anyio.Event,
    ) -> None:
        """Decode and batch: one task, no await a message."""
        settings, batcher = self._settings, self._batcher
        self._tally.waits.is_draining = False
        last_chunk_s = time.monotonic()
        with closing(dispatcher):
            async with chunks:
                while not selection.is_exhausted:
                    try:
                        chunk = await self._next(chunks, last_chunk_s)
                    except anyio.EndOfStream:
                        break
                    if chunk is not None:
                        if is_large(chunk):
                            await self._room.make_for(chunk, dispatcher)
                            self._has_room_for_large.set()
                        if not chunk.coming_bytes:
                            await self._take_in(chunk, dispatcher, selection, is_first=is_first)
                        last_chunk_s = time.monotonic()
                    now_s = time.monotonic()
                    await dispatcher.send_all(batcher.turns(now_s))
                    if now_s - last_chunk_s >= settings.linger_s:
                        await dispatcher.send_all(batcher.drain())
                        if self._is_to_judge(dispatcher):
                            await dispatcher.next_settlement()
                        if self._live is not None and self._is_at_rest(dispatcher):
                            self._live.rest()
                    await dispatcher.send_all(batcher.expired(now_s - settings.max_age_s))
                    await self._room.make(dispatcher)
                has_enough.set()  # A quiet source would not find out by itself.
            await self._send_rest(dispatcher)

    async def _next(
        self, chunks: MemoryObjectReceiveStream[Chunk], last_chunk_s: float
    ) -> Chunk | None:
        """The next chunk; None where something else is to be done before it comes."""
        try:
            chunk = chunks.receive_nowait()
        except anyio.WouldBlock:
            waits = self._tally.waits
            waits.is_hungry = True
            try:
                with anyio.move_on_after(self._patience_s(time.monotonic() - last_chunk_s)):
                    return await chunks.receive()
                return None
            finally:
                waits.is_hungry = False
        await asyncio.sleep(0)  # Let requests go on meanwhile.
        return chunk

    async def _send_rest(self, dispatcher: Dispatcher) -> None:
        """The input has ended: send what is open, and wait until all is settled."""
        batcher = self._batcher
        self._tally.waits.is_draining = True
        while batcher.open_lane_count or batcher.waiting_count or not dispatcher.is_idle:
            await dispatcher.send_all(batcher.turns(time.monotonic()))
            await dispatcher.send_all(batcher.finish())
            if self._stopping.is_sending_over:
                return
            if not batcher.has_turns:
                await dispatcher.next_settlement()

    def _is_to_judge(self, dispatcher: Dispatcher) -> bool:
        """A topic may stay quiet for ever: what is kept back cannot wait for its end."""
        return self._live is not None and dispatcher.only_keeps_back and self._tally.delivered > 0

    def _is_at_rest(self, dispatcher: Dispatcher) -> bool:
        """All that was read is settled, but for what only the end of the run decides on."""
        batcher = self._batcher
        has_any = batcher.open_lane_count or batcher.waiting_count or batcher.has_turns
        return not has_any and (dispatcher.is_idle or dispatcher.only_keeps_back)

    def _patience_s(self, idle_s: float) -> float | None:
        """How long to wait for the next chunk before something else is to be done."""
        batcher, settings = self._batcher, self._settings
        if batcher.waiting_count:
            return TURN_CHECK_S
        opened_at_s = batcher.oldest_opened_at_s
        if opened_at_s is None:
            return settings.linger_s if self._live is not None else None
        age_s = time.monotonic() - opened_at_s
        return max(0.0, min(settings.linger_s - idle_s, settings.max_age_s - age_s))

    async def _take_in(
        self, chunk: Chunk, dispatcher: Dispatcher, selection: Selection, *, is_first: bool
    ) -> None:
        """Decode a chunk and add it to the lanes; reject what is no message, in the first pass."""
        if not self._is_ours(chunk):
            return
        self._ledger.admit(chunk, time.monotonic())
        decoded = self._decoder.decode(chunk, int(time.time() * 1000))
        if decoded.groups is not None:
            selected = selection.select_groups(decoded.groups)
        else:
            selected = selection.select(decoded.messages, decoded.indexes)
        skipped = selected.skipped
        rejections: list[Rejection] = []
        if is_first:
            rejections = [*chunk.rejected, *decoded.rejections]
            chunk.rejected = ()  # A chunk may be held for long.
            skipped.update(chunk.skipped)
            for warning in decoded.warnings:
                self._warnings.append(warning)
                _log.warning("%s, line %s or after: %s", chunk.source, chunk.first_line, warning)
        count = selected.count
        open_count, skipped_count = count + len(rejections), skipped.total()
        self._tally.read += open_count + skipped_count
        self._tally.skipped_by_reason.update(skipped)
        self._ledger.expect(chunk, open_count, skipped=skipped_count, is_whole=selected.is_whole)
        await self._settlement.reject(chunk, rejections)
        if not self._is_ours(chunk) and self._committer is not None:
            self._committer.withdraw({chunk.number: count} if count else {})
            return
        now_s = time.monotonic()
        if selected.groups is not None:
            added = self._batcher.add_groups(selected.groups, chunk, now_s)
        else:
            added = self._batcher.add(selected.messages, selected.indexes, chunk, now_s)
        await dispatcher.send_all(added)

    def _is_ours(self, chunk: Chunk) -> bool:
        """Not so where a partition was taken away since: its next owner reads that again."""
        return self._live is None or chunk.partition is None or self._live.holds(chunk.partition)
