"""The push: source -> decode -> batch -> send -> settle -> confirm -> report.

The only room that knows all the others. Between its tasks run two bounded streams, of chunks and of
batches; everything else is a plain call.
"""

from __future__ import annotations

import logging
import math
import random
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from itertools import islice
from pathlib import Path

import anyio
from aiolimiter import AsyncLimiter
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from pusher.batching import Batcher
from pusher.config import Settings
from pusher.confirmer import Confirmer
from pusher.dead_letters import DeadLetters
from pusher.decoding import Decoder
from pusher.errors import DiskError, InputError, UsageError
from pusher.model import (
    ASSOCIATION_ORDER,
    OBJECT_TYPES,
    Batch,
    Chunk,
    Delivery,
    Halt,
    HaltKind,
    ObjectType,
    Refusal,
    Rejection,
    SyncMessage,
    Transport,
    chunk_counts,
    place_of,
)
from pusher.progress import Watched
from pusher.protocol import encode_messages
from pusher.report import PhaseReport, Report, compose_report
from pusher.retrying import RetryPolicy
from pusher.sampling import Sample
from pusher.sender import Errand, Sender
from pusher.sources import LineSource, open_source
from pusher.stopping import Stopping
from pusher.tally import Tally
from pusher.transport import HttpTransport
from pusher.watermark import Ledger

__all__ = ["Pipeline", "push"]

HELD_BYTES_MAX = 64 << 20
"""What open messages may take. Beyond it reading stops, and open lanes leave, oldest first."""

READ_AHEAD_CHUNKS = 1
STOP_GRACE_S = 5.0
"""How long requests under way may go on when the endpoint has turned out to be unusable."""

TURN_CHECK_S = 0.05
"""How often to look, on a quiet source, whether a waiting message's turn has come."""

_log = logging.getLogger("pusher")


async def push(
    source: LineSource | str | Path | Sequence[str | Path],
    settings: Settings,
    *,
    transport: Transport | None = None,
) -> Report:
    """Push a change stream into an Ecommerce Bridge and confirm a sample of it.

    Args:
        source: "-" for standard input, paths of files or directories, globs; or an open source.
        settings: what to do.
        transport: the door to the endpoint; made from the settings when it is not given.

    Returns:
        The report, for every outcome of the run, a stopped one too.

    Raises:
        UsageError: the settings or the source cannot be used; nothing was sent.
    """
    if isinstance(source, (str, Path)):
        source = [source]
    if not isinstance(source, LineSource):
        source = open_source(source, max_line_bytes=settings.max_line_bytes)
    return await Pipeline(source, settings, transport=transport).run()


class Pipeline:
    """One run. `view` and `stopping` may be looked at, and the latter be told, while it goes on.

    Args:
        source: what is pushed.
        settings: how.
        transport: the door to the endpoint; made from the settings when it is not given.
        errand: what to do otherwise than send sync messages.
        stopping: where the run is told to end early.

    Raises:
        UsageError: the settings do not suit the source.
    """

    def __init__(
        self,
        source: LineSource,
        settings: Settings,
        *,
        transport: Transport | None = None,
        errand: Errand | None = None,
        stopping: Stopping | None = None,
    ) -> None:
        if settings.phases and not source.can_be_read_again:
            raise UsageError("--phases reads its input once a phase, so it needs files, not a pipe")
        if not settings.dead_letters.parent.is_dir():
            raise UsageError(f"--dead-letters: {settings.dead_letters.parent} is not a directory")
        self.source = source
        self.tally = Tally()
        self.stopping = stopping or Stopping()
        self.view = Watched(
            self.tally, source, passes=len(ASSOCIATION_ORDER) if settings.phases else 1
        )
        self.run_id = uuid.uuid4().hex[:16]
        self._settings = settings
        self._transport = transport
        self._errand = errand
        self._rng = random.Random(settings.seed)
        self._decoder = Decoder(
            default_store=settings.default_store, default_type=settings.default_type
        )
        self._batcher = Batcher(
            errand.encode if errand else encode_messages,
            batch_size=settings.batch_size,
            batch_bytes=settings.batch_bytes,
            keep_order=settings.keep_order,
        )
        self._ledger = Ledger()
        self._sample = Sample(settings.confirm, self._rng)
        self._dead_letters = DeadLetters(settings.dead_letters, self.run_id, time.time)
        self._phases: list[PhaseReport] = []
        self._warnings: list[str] = []
        self._settled = anyio.Event()
        self._under_way = 0  # Batches that a sender has, or is about to have.
        self._is_complete = False
        self._started_s = 0.0

    async def run(self) -> Report:
        """Push, confirm and report."""
        self._started_s = time.monotonic()
        async with AsyncExitStack() as stack:
            transport = self._transport
            if transport is None:
                transport = await stack.enter_async_context(self._http_transport())
            stack.callback(self._dead_letters.close)
            confirmer = Confirmer(
                transport, self._sample, rate=self._settings.status_rate, rng=self._rng
            )
            async with anyio.create_task_group() as beside:
                if not self._settings.confirm.is_none:
                    beside.start_soon(confirmer.watch)
                await self._push(transport, confirmer)
                beside.cancel_scope.cancel()
            pushed_s = time.monotonic() - self._started_s
            await self._confirm(confirmer)
        return self._report(pushed_s, confirmer.trouble)

    def _http_transport(self) -> HttpTransport:
        settings = self._settings
        return HttpTransport(
            settings.url,
            token=settings.token,
            api_key=settings.api_key,
            timeout_s=settings.timeout_s,
            connect_timeout_s=settings.connect_timeout_s,
        )

    async def _push(self, transport: Transport, confirmer: Confirmer) -> None:
        """Send everything, in one pass over the input or in one pass a phase."""
        settings = self._settings
        limiter = AsyncLimiter(1, 1 / settings.rate) if settings.rate else None
        sender = Sender(
            transport,
            RetryPolicy(max_attempts=settings.max_attempts),
            self.stopping,
            self.tally,
            limiter=limiter,
            rng=self._rng,
            route=self._errand,
        )
        phases = ASSOCIATION_ORDER if settings.phases else (frozenset(OBJECT_TYPES),)
        for number, object_types in enumerate(phases, 1):
            self.view.stage = f"phase {number} of {len(phases)}" if settings.phases else "pushing"
            delivered_before = self.tally.delivered
            await self._push_phase(sender, object_types, is_first=number == 1)
            if self.stopping.is_reading_over:
                return
            if settings.phases:
                delivered = self.tally.delivered - delivered_before
                is_last = number == len(phases)
                if not await self._gate(confirmer, object_types, delivered, is_last=is_last):
                    return
        self._is_complete = self._ledger.pending == 0

    async def _push_phase(
        self, sender: Sender, object_types: frozenset[ObjectType], *, is_first: bool
    ) -> None:
        """Read the source once, and send what is of these types."""
        to_batch, chunks = anyio.create_memory_object_stream[Chunk](READ_AHEAD_CHUNKS)
        to_send, batches = anyio.create_memory_object_stream[Batch](0)
        async with anyio.create_task_group() as guard:
            guard.start_soon(self._cut_short, guard.cancel_scope)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read, to_batch)
                tasks.start_soon(self._batch, sender, chunks, to_send, object_types, is_first)
                for _ in range(self._settings.concurrency):
                    tasks.start_soon(self._send, sender, batches.clone())
                batches.close()
            guard.cancel_scope.cancel()

    async def _cut_short(self, phase: anyio.CancelScope) -> None:
        """End a phase that has to stop, with as much patience as the reason allows."""
        await self.stopping.reading_ended()
        halt = self.stopping.halt
        if halt is None:
            raise AssertionError("reading ends for a reason")
        is_interrupted = halt.kind is HaltKind.INTERRUPTED
        with anyio.move_on_after(self._settings.drain_timeout_s if is_interrupted else math.inf):
            await self.stopping.sending_ended()
        self.stopping.end_sending(halt)
        if not is_interrupted:
            await anyio.sleep(STOP_GRACE_S)
        phase.cancel()

    async def _read(self, to_batch: MemoryObjectSendStream[Chunk]) -> None:
        """Source: pass chunks on until the end, or until reading has to end."""
        async with to_batch, anyio.create_task_group() as tasks:
            tasks.start_soon(self._stop_reading, tasks.cancel_scope)
            try:
                async with aclosing(self.source.chunks()) as chunks:  # type: ignore[type-var]
                    async for chunk in chunks:
                        await to_batch.send(chunk)
            except InputError as error:
                self.stopping.end_reading(Halt(HaltKind.STOPPED, str(error)))
            tasks.cancel_scope.cancel()

    async def _stop_reading(self, reading: anyio.CancelScope) -> None:
        await self.stopping.reading_ended()
        reading.cancel()

    async def _batch(
        self,
        sender: Sender,
        chunks: MemoryObjectReceiveStream[Chunk],
        to_send: MemoryObjectSendStream[Batch],
        object_types: frozenset[ObjectType],
        is_first: bool,  # noqa: FBT001 - start_soon passes positions
    ) -> None:
        """Decode and batch: one task, no await a message."""
        settings, batcher = self._settings, self._batcher
        last_chunk_s = time.monotonic()
        async with chunks, to_send:
            while True:
                wait_s = self._patience_s(time.monotonic() - last_chunk_s)
                chunk: Chunk | None = None
                with anyio.move_on_after(wait_s):
                    try:
                        chunk = await chunks.receive()
                    except anyio.EndOfStream:
                        break
                if chunk is not None:
                    await self._take_in(chunk, to_send, object_types, is_first=is_first)
                    last_chunk_s = time.monotonic()
                now_s = time.monotonic()
                await self._send_all(batcher.turns(now_s), to_send)
                if now_s - last_chunk_s >= settings.linger_s:
                    await self._send_all(batcher.drain(), to_send)
                await self._send_all(batcher.expired(now_s - settings.max_age_s), to_send)
                await self._make_room(to_send)
            while (
                batcher.open_lane_count
                or batcher.waiting_count
                or self._under_way
                or sender.keeps_back
            ):
                await self._send_all(batcher.turns(time.monotonic()), to_send)
                await self._send_all(batcher.finish(), to_send)
                if self.stopping.is_sending_over:
                    return
                if batcher.has_turns:
                    continue
                if self._under_way:
                    await self._next_settlement()
                elif sender.keeps_back:
                    await self._settle_all(sender.judge())

    def _patience_s(self, idle_s: float) -> float | None:
        """How long to wait for the next chunk before something else is to be done."""
        batcher, settings = self._batcher, self._settings
        if batcher.waiting_count:
            return TURN_CHECK_S
        opened_at_s = batcher.oldest_opened_at_s
        if opened_at_s is None:
            return None
        age_s = time.monotonic() - opened_at_s
        return max(0.0, min(settings.linger_s - idle_s, settings.max_age_s - age_s))

    async def _take_in(
        self,
        chunk: Chunk,
        to_send: MemoryObjectSendStream[Batch],
        object_types: frozenset[ObjectType],
        *,
        is_first: bool,
    ) -> None:
        """Decode a chunk and add it to the lanes; reject what is no message, in the first pass."""
        self._ledger.admit(chunk)
        decoded = self._decoder.decode(chunk, int(time.time() * 1000))
        messages: list[SyncMessage] = decoded.messages
        indexes: Iterable[int] = decoded.indexes
        if len(object_types) < len(OBJECT_TYPES):
            wanted = [
                (message, index)
                for message, index in zip(messages, indexes, strict=True)
                if message.object_type in object_types
            ]
            messages = [message for message, _ in wanted]
            indexes = [index for _, index in wanted]
        if self._errand is not None:
            messages, indexes = self._without_skipped(self._errand, messages, indexes)
        rejections = decoded.rejections if is_first else []
        self.tally.read += len(messages) + len(rejections)
        self._ledger.expect(chunk, len(messages) + len(rejections))
        for warning in decoded.warnings if is_first else ():
            self._warnings.append(warning)
            _log.warning("%s, line %s or after: %s", chunk.source, chunk.first_line, warning)
        if rejections and await self._reject(rejections):
            self._ledger.settle([(chunk.number, len(rejections))])
        await self._send_all(self._batcher.add(messages, indexes, chunk, time.monotonic()), to_send)

    def _without_skipped(
        self, errand: Errand, messages: list[SyncMessage], indexes: Iterable[int]
    ) -> tuple[list[SyncMessage], list[int]]:
        """Count off what is not sent by rule: it is read and settled at once."""
        kept: list[SyncMessage] = []
        places: list[int] = []
        for message, index in zip(messages, indexes, strict=True):
            reason = errand.why_skipped(message)
            if reason is None:
                kept.append(message)
                places.append(index)
            else:
                self.tally.read += 1
                self.tally.skipped_by_reason[reason] += 1
        return kept, places

    async def _make_room(self, to_send: MemoryObjectSendStream[Batch]) -> None:
        """Wait while more input is held than allowed; let the oldest open lanes go meanwhile."""
        while self._ledger.held_bytes > HELD_BYTES_MAX and not self.stopping.is_sending_over:
            await self._send_all(self._batcher.turns(time.monotonic()), to_send)
            if self._batcher.open_lane_count:
                await self._send_all(self._batcher.oldest(), to_send)
            elif not self._batcher.has_turns:
                await self._next_settlement()

    async def _send(self, sender: Sender, batches: MemoryObjectReceiveStream[Batch]) -> None:
        """Sender: deliver batch after batch, and settle what comes back."""
        async with batches:
            async for batch in batches:
                if self.stopping.is_sending_over:
                    self._under_way -= 1
                    continue  # It stays pending.
                parts = [batch] if self._errand is None else self._left_of(self._errand, batch)
                for part in parts:
                    await self._settle_all(sender.deliver(part))
                self._under_way -= 1
                self._settled.set()

    def _left_of(self, errand: Errand, batch: Batch) -> list[Batch]:
        """What is to be sent of a batch; the rest was settled by an earlier run."""
        try:
            parts = errand.left_of(batch)
        except DiskError as error:
            self.stopping.end_sending(Halt(HaltKind.STOPPED, str(error)))
            return []
        left = {origin for part in parts for origin in part.origins}
        done = [origin for origin in batch.origins if origin not in left]
        self.tally.read -= len(done)
        self.tally.resumed += len(done)
        self._settle_messages(batch, done)
        return parts

    async def _settle_all(self, outcomes: AsyncIterator[Delivery | Refusal]) -> None:
        async with aclosing(outcomes) as each:  # type: ignore[type-var]
            async for outcome in each:
                await self._settle(outcome)

    def _settle_messages(self, batch: Batch, origins: list[int]) -> None:
        """Take messages off; an object has its next turn when its whole batch is settled.

        Not before: parts of a split batch may share objects.
        """
        self._ledger.settle(chunk_counts(origins))
        whole = batch.whole or batch
        whole.open_count -= len(origins)
        if not whole.open_count:
            self._batcher.release(whole)

    async def _settle(self, outcome: Delivery | Refusal) -> None:
        """Take off what is delivered or rejected, unless its dead letter cannot be written."""
        batch = outcome.batch
        if isinstance(outcome, Delivery):
            lane = self.tally.lane(batch.lane)
            lane.delivered += len(batch)
            lane.batches += 1
            self.tally.delivered += len(batch)
            self._sample.accept(outcome, time.monotonic(), remember_last=self._settings.phases)
        elif await self._reject([self._rejection(outcome)]):
            self.tally.lane(batch.lane).rejected += 1
        else:
            return
        self._settle_messages(batch, batch.origins)
        try:
            if self._errand is not None:
                self._errand.note(outcome)
        except DiskError as error:
            self.stopping.end_sending(Halt(HaltKind.STOPPED, str(error)))

    def _rejection(self, refusal: Refusal) -> Rejection:
        """Find the line that a refused message came from."""
        message = refusal.batch.messages[0]
        chunk_number, index = place_of(refusal.batch.origins[0])
        chunk = self._ledger.chunk(chunk_number)
        line_number, offset, line = next(islice(chunk.lines(), index, None))
        changed_at = message.changed_at
        return Rejection(
            refusal.reason,
            refusal.detail,
            chunk.source,
            line_number,
            offset,
            line,
            status=refusal.status,
            attempts=refusal.attempts,
            changed_at_ms=changed_at if isinstance(changed_at, int) else None,
        )

    async def _reject(self, rejections: list[Rejection]) -> bool:
        """Write dead letters and count them; false, and the run stops, when that fails."""
        try:
            await self._dead_letters.write(rejections)
        except DiskError as error:
            self.stopping.end_sending(Halt(HaltKind.STOPPED, str(error)))
            return False
        self.tally.rejected += len(rejections)
        for rejection in rejections:
            self.tally.rejected_by_reason[rejection.reason] += 1
        return True

    async def _send_all(
        self, batches: Iterable[Batch], to_send: MemoryObjectSendStream[Batch]
    ) -> None:
        for batch in batches:
            self._under_way += 1
            await to_send.send(batch)

    async def _next_settlement(self) -> None:
        """Wait until a batch is settled, or sending is over."""
        self._settled = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._settled_when_sending_ends)
            await self._settled.wait()
            tasks.cancel_scope.cancel()

    async def _settled_when_sending_ends(self) -> None:
        await self.stopping.sending_ended()
        self._settled.set()

    async def _gate(
        self,
        confirmer: Confirmer,
        object_types: frozenset[ObjectType],
        delivered: int,
        *,
        is_last: bool,
    ) -> bool:
        """Wait until what this phase delivered has been processed, or the time is up.

        False when the run is to end before the next phase.
        """
        started_s = time.monotonic()
        is_processed: bool | None = None
        if not is_last:
            self.view.stage = "waiting for processing"
            self._sample.keep_last()
            is_processed = await self._finish(confirmer)
            if not is_processed and self.stopping.halt is None:
                types = " and ".join(sorted(object_types))
                warning = f"{types} were not seen processed in time; the next phase begins anyway"
                self._warnings.append(warning)
                _log.warning("%s", warning)
        waited_s = round(time.monotonic() - started_s, 3)
        self._phases.append(PhaseReport(sorted(object_types), delivered, is_processed, waited_s))
        return is_last or not self.stopping.is_reading_over

    async def _confirm(self, confirmer: Confirmer) -> None:
        """Confirm the sample, unless the run ended early or a person stops waiting."""
        if self._settings.confirm.is_none:
            self._sample.clear()
        elif self._is_complete and self.stopping.halt is None:
            self.view.stage = "confirming"
            await self._finish(confirmer)
        self.view.stage = "done"

    async def _finish(self, confirmer: Confirmer) -> bool:
        is_finished = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._stop_reading, tasks.cancel_scope)
            is_finished = await confirmer.finish(self._settings.confirm_timeout_s)
            tasks.cancel_scope.cancel()
        return is_finished

    def _report(self, pushed_s: float, trouble: str | None) -> Report:
        tally = self.tally
        pending = self._ledger.pending
        accounted = tally.delivered + tally.rejected + tally.skipped + pending
        if tally.read != accounted:
            raise AssertionError(f"{tally.read} messages were read, but {accounted} accounted for")
        if pending and self.stopping.halt is None:
            raise AssertionError(f"{pending} messages are pending, but nothing stopped the run")
        return compose_report(
            run_id=self.run_id,
            tally=tally,
            pending=pending,
            sample=self._sample,
            trouble=trouble,
            halt=None if self._is_complete else self.stopping.halt,
            bytes_read=self.source.read_bytes,
            elapsed_s=time.monotonic() - self._started_s,
            pushed_s=pushed_s,
            in_flight_limit=self._settings.concurrency,
            phases=self._phases,
            warnings=self._warnings,
            dead_letters=self._dead_letters.name if self._dead_letters.written else None,
        )
