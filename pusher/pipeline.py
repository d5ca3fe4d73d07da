"""The push: source -> decode -> batch -> send -> settle -> confirm -> report.

The only room that knows all the others. Between reading and batching runs a bounded stream of
chunks; a batch waits for its turn at the endpoint, and everything else is a plain call.
"""

from __future__ import annotations

import logging
import os
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import anyio
import anyio.to_thread
from aiolimiter import AsyncLimiter
from anyio.abc import TaskGroup

from pusher.admission import Admission
from pusher.batching import Batcher
from pusher.bookkeeping import Books
from pusher.checkpointing import Checkpointer
from pusher.committing import Committer
from pusher.config import Settings
from pusher.confirmer import Confirmer
from pusher.confirming import Confirming
from pusher.dead_letters import DeadLetters
from pusher.errors import DiskError, UsageError
from pusher.intake import Intake
from pusher.kafka_letters import TopicLetters
from pusher.model import (
    ASSOCIATION_ORDER,
    OBJECT_TYPES,
    Halt,
    HaltKind,
    Lane,
    ObjectType,
    Transport,
)
from pusher.preflight import preflight
from pusher.progress import Vitals, Watched
from pusher.repairer import Before, Repairer
from pusher.report import (
    PhaseReport,
    Report,
    RunFacts,
    compose_report,
    why_parked,
)
from pusher.retrying import RetryPolicy
from pusher.room import Room
from pusher.sample_file import write_sample
from pusher.sampling import Sample
from pusher.sender import Errand, Sender
from pusher.settling import Settlement
from pusher.sources import KafkaSource, LineSource, open_source
from pusher.spool import spool_report_of
from pusher.stopping import Stopping, cancel_after
from pusher.tally import Tally
from pusher.transport import HttpTransport
from pusher.version import __version__
from pusher.watching import Watcher
from pusher.watermark import Ledger
from pusher.windows import Windows, confirmation_of

__all__ = ["Pipeline", "push"]

_log = logging.getLogger("pusher")


async def push(
    source: LineSource | KafkaSource | str | Path | Sequence[str | Path],
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
    if not isinstance(source, (LineSource, KafkaSource)):
        source = open_source(source, settings.max_line_bytes, formats=settings.formats)
    return await Pipeline(source, settings, transport=transport).run()


class Pipeline:
    """One run. `view` and `stopping` may be looked at, and the latter be told, while it goes on.

    Args:
        source: what is pushed.
        settings: how.
        transport: the door to the endpoint; made from the settings when it is not given.
        errand: what to do otherwise than send sync messages.
        stopping: where the run is told to end early.
        before: what was sent already: nothing is sent but what repairs it.

    Raises:
        UsageError: the settings do not suit the source.
    """

    def __init__(
        self,
        source: LineSource | KafkaSource,
        settings: Settings,
        *,
        transport: Transport | None = None,
        errand: Errand | None = None,
        stopping: Stopping | None = None,
        before: Before | None = None,
    ) -> None:
        settings.check_source(source)
        self.source = source
        self.tally = Tally()
        self.stopping = stopping or Stopping()
        self.view = Watched(
            self.tally, source, passes=len(ASSOCIATION_ORDER) if settings.phases else 1
        )
        self.run_id = uuid.uuid4().hex[:16]
        self._settings = self.settings = settings
        self._transport = transport
        self._errand = errand
        self._before = before
        self._repairer: Repairer | None = None
        self._rng = random.Random(settings.seed)
        self._batcher = Batcher(
            batch_size=settings.batch_size,
            batch_bytes=settings.batch_bytes,
            keep_order=settings.keep_order,
            keeps_messages=errand is not None,
        )
        self._ledger = Ledger()
        self._watcher = Watcher(
            self.view, self.tally, self._ledger, is_rate_limited=settings.rate is not None
        )
        self._live = source if isinstance(source, KafkaSource) else None
        self._sample = Sample(settings.confirm, self._rng)
        self._windows = (
            Windows(settings.confirm, self._rng, settings.confirm_window_s) if self._live else None
        )
        self._letters_file = DeadLetters(settings.dead_letters, self.run_id, time.time)
        self._letters_topic = TopicLetters.of(
            settings.dead_letters_topic, settings.kafka_properties, self.run_id, time.time
        )
        self._dead_letters = self._letters_topic or self._letters_file
        self._admission = Admission(settings.concurrency)
        self._books = (
            None
            if settings.dry_run
            else Books.of(
                settings.ledger, settings.objects_path, self.run_id, self._ledger, time.time
            )
        )
        self._settlement = Settlement(
            ledger=self._ledger,
            tally=self.tally,
            batcher=self._batcher,
            sample=self._windows or self._sample,
            dead_letters=None if settings.dry_run else self._dead_letters,
            stopping=self.stopping,
            books=self._books,
            errand=errand,
            rejected_max=settings.max_rejected,
            remembers_last=settings.phases or settings.repair_rounds > 0,
        )
        self._room = Room(
            ledger=self._ledger,
            batcher=self._batcher,
            tally=self.tally,
            settlement=self._settlement,
            stopping=self.stopping,
            memory_bytes=settings.memory_bytes,
            batch_bytes=settings.batch_bytes,
        )
        self._checkpointer: Checkpointer | None = None
        self._committer = Committer.of(
            self._live, self._ledger, self._batcher, self.tally, settings.drain_timeout_s
        )
        self._parked: Mapping[Lane, str] = {}
        self._unusable: UsageError | None = None
        self._phases: list[PhaseReport] = []
        self._warnings: list[str] = []
        self._is_complete = False
        self._started_s = self._pushed_s = 0.0
        self._started_at = ""
        self._confirming = Confirming(settings, self._sample, self.stopping, self.view, self._rng)

    @property
    def declined_s(self) -> float | None:
        """All were to be confirmed, which was not begun as it takes so long, at least."""
        return self._confirming.declined_s

    def vitals(self) -> Vitals:
        """How the run is at the moment."""
        ledger, read_at_s = self._ledger, self._ledger.oldest_read_at_s
        return Vitals(
            tally=self.tally,
            pending=ledger.pending,
            parked=ledger.parked,
            held_bytes=ledger.held_bytes,
            in_flight_limit=self._admission.limit,
            watermark_age_s=0.0 if read_at_s is None else time.monotonic() - read_at_s,
            pause_s=self._admission.pause_s,
            budget_bytes=self._settings.memory_bytes,
            lanes_open=self._batcher.open_lane_count,
            oldest=ledger.oldest,
            accounting=self._watcher.accounting,
            watched=self.view,
            confirmation=confirmation_of(self._windows or self._sample, None),
            is_reading=self.view.is_reading and not self.stopping.is_reading_over,
            live=self._live.state if self._live is not None else None,
        )

    async def run(self) -> Report:
        """Push, confirm and report.

        Raises:
            UsageError: the checkpoint cannot be used, or the input is not the one it belongs to.
        """
        self._started_s = time.monotonic()
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        async with AsyncExitStack() as stack:
            stack.callback(self._dead_letters.close)
            stack.callback(self._close_spools)
            if self._books is not None:
                stack.callback(self._books.close)
                self._books.open()
            if self._settings.checkpoint is not None and isinstance(self.source, LineSource):
                keeper = Checkpointer.open(
                    self._settings.checkpoint,
                    self.source,
                    self.run_id,
                    ledger=self._ledger,
                    tally=self.tally,
                    sample=self._sample,
                    dead_letters=self._letters_file,
                    books=self._books,
                    concurrency=self._settings.concurrency,
                    stopping=self.stopping,
                )
                stack.callback(keeper.close)
                self._checkpointer, self.run_id = keeper, keeper.run_id
                self._admission = keeper.admission
            self._open_spools()
            transport = self._transport
            if transport is None:
                transport = await stack.enter_async_context(
                    HttpTransport(self._settings.url, **self._settings.transport_options())
                )
            confirmer = Confirmer(
                transport,
                self._windows or self._sample,
                rate=self._settings.status_rate,
                rng=self._rng,
                in_flight=self._settings.concurrency,
            )
            beyond = await stack.enter_async_context(anyio.create_task_group())
            beyond.start_soon(self._watcher.keep, self._admission, self._started_s)
            async with anyio.create_task_group() as beside:
                self._start_keepers(beside, confirmer)
                if await self._is_welcome(transport):
                    sender = self._sender(transport)
                    await self._push(sender, confirmer)
                    self._pushed_s = time.monotonic() - self._started_s
                    await self._repair(transport, sender, confirmer)
                await self._leave()
                beside.cancel_scope.cancel()
            halt: Halt | None = None
            if self._unusable is None:
                await self._confirm(transport, confirmer)
                halt = await self._close_books(self._verdict())
            beyond.cancel_scope.cancel()
        if self._unusable is not None:
            raise self._unusable  # Here no task group wraps it.
        return self._report(halt, confirmer.trouble)

    def _open_spools(self) -> None:
        """Keep what is read of pipes, where it has to be read again.

        Raises:
            UsageError: there is no place for it.
        """
        if isinstance(self.source, LineSource):
            plan = self._settings.spool_plan(self.source, self.run_id)
            if plan is not None:
                self.source.spool_pipes(plan)

    def _close_spools(self) -> None:
        if isinstance(self.source, LineSource):
            self.source.close_spools()

    def _start_keepers(self, beside: TaskGroup, confirmer: Confirmer) -> None:
        """Start what goes on beside the push: polls, checkpoints, commits, books."""
        if not self._settings.confirm.is_none:
            beside.start_soon(confirmer.watch, self._share_accepted)
            if self._windows is not None:
                beside.start_soon(self._windows.keep)
        if self._checkpointer is not None and not self._settings.dry_run:
            beside.start_soon(self._checkpointer.keep)
        if self._checkpointer is not None or self._live is not None:
            self._room.max_lag_bytes = self._settings.max_lag_bytes
        if self._books is not None:
            beside.start_soon(self._books.keep, self.stopping)
        if self._committer is not None and not self._settings.dry_run:
            beside.start_soon(self._committer.keep)

    def _share_accepted(self) -> float | None:
        """How much of the input has been accepted, at a guess; None where its size is not known."""
        share_done, tally = self.view.share_done, self.tally
        if share_done is None:
            return None
        return share_done * (tally.delivered / tally.read) if tally.read else 0.0

    async def _leave(self) -> None:
        """Commit what a live source has delivered, and leave its group, before the confirmation."""
        if self._committer is not None:
            trouble = await self._committer.finish()
            if trouble is not None:
                self._is_complete = False
                self.stopping.end_sending(Halt(HaltKind.STOPPED, f"{self.source.name}: {trouble}"))

    async def _is_welcome(self, transport: Transport) -> bool:
        """Prove the address and the credentials before the first message."""
        settings = self._settings
        try:
            if self._letters_topic is not None and not settings.dry_run:
                await self._letters_topic.check()
        except UsageError as error:
            self._unusable = error
            return False
        except DiskError as error:
            self.stopping.end_sending(Halt(HaltKind.STOPPED, str(error)))
        if settings.dry_run or not settings.preflight:
            return not self.stopping.is_reading_over
        self.view.stage = "preflight"
        reason: str | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_after, self.stopping.reading_ended, tasks.cancel_scope)
            reason = await preflight(transport, rng=self._rng)
            tasks.cancel_scope.cancel()
        if reason is not None:
            self.stopping.end_sending(Halt(HaltKind.STOPPED, reason))
        return not self.stopping.is_reading_over

    def _sender(self, transport: Transport) -> Sender:
        settings = self._settings
        limiter = AsyncLimiter(1, 1 / settings.rate) if settings.rate else None
        sender = Sender(
            transport,
            RetryPolicy(
                max_attempts=settings.max_attempts, longest_wait_s=settings.give_up_after_s
            ),
            self.stopping,
            self.tally,
            admission=self._admission,
            limiter=limiter,
            rng=self._rng,
            route=self._errand,
        )
        self._parked = self._room.parked = sender.parked
        return sender

    async def _push(self, sender: Sender, confirmer: Confirmer) -> None:
        """Send everything, in one pass over the input or in one pass a phase."""
        settings, keeper = self._settings, self._checkpointer
        if self._before is not None:
            self._is_complete = True
            return
        intake = Intake(
            self.source,
            settings,
            batcher=self._batcher,
            ledger=self._ledger,
            tally=self.tally,
            settlement=self._settlement,
            admission=self._admission,
            room=self._room,
            stopping=self.stopping,
            warnings=self._warnings,
            checkpointer=keeper,
            committer=self._committer,
            errand=self._errand,
        )
        phases = ASSOCIATION_ORDER if settings.phases else (frozenset(OBJECT_TYPES),)
        first_phase = keeper.first_phase if keeper else 1
        for number, object_types in enumerate(phases, 1):
            if number < first_phase:
                continue
            if keeper is not None and isinstance(self.source, LineSource):
                if number > first_phase:
                    keeper.begin_phase(number, was_read_whole=settings.limit is None)
                    self.source.resume(keeper.start)
                if number > 1:
                    self.source.end_at(keeper.ends)
            self.view.stage = f"phase {number} of {len(phases)}" if settings.phases else "pushing"
            delivered_before = self.tally.delivered
            await intake.send(sender, object_types, is_first=number == 1)
            self._unusable = intake.unusable
            if self.stopping.is_reading_over:
                return
            if self._ledger.parked and number < len(phases):
                break  # What comes next points at what is missing.
            if settings.phases and not settings.dry_run:
                delivered = self.tally.delivered - delivered_before
                is_last = number == len(phases)
                if not await self._gate(confirmer, object_types, delivered, is_last=is_last):
                    return
        self._is_complete = True
        if keeper is not None:
            keeper.recall()

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
            self.tally.waits.is_processing = True
            is_processed = await confirmer.finish_unless(
                self.stopping, self._settings.confirm_timeout_s
            )
            self.tally.waits.is_processing = False
            if not is_processed and self.stopping.halt is None:
                types = " and ".join(sorted(object_types))
                warning = f"{types} were not seen processed in time; the next phase begins anyway"
                self._warnings.append(warning)
                _log.warning("%s", warning)
        waited_s = round(time.monotonic() - started_s, 3)
        self._phases.append(PhaseReport(sorted(object_types), delivered, is_processed, waited_s))
        return is_last or not self.stopping.is_reading_over

    async def _repair(self, transport: Transport, sender: Sender, confirmer: Confirmer) -> None:
        """Repair what the bridge could not process, where anything was sent and it is wanted."""
        settings, tally, keeper = self._settings, self.tally, self._checkpointer
        before = self._before
        if before is None and tally.began_ms is not None:
            is_known = not (tally.resumed or tally.lanes_forgotten)
            before = Before(tally.began_ms, {*tally.lanes} if is_known else ())
        is_wanted = settings.repair_rounds > 0 and not settings.dry_run
        is_over = not self._is_complete or self.stopping.is_reading_over
        if before is None or is_over or not is_wanted or not isinstance(self.source, LineSource):
            return
        self.view.stage = "repairing"
        if keeper is not None:
            keeper.begin_repair()
        self._repairer = Repairer(
            self.source,
            settings,
            before,
            transport=transport,
            sender=sender,
            admission=self._admission,
            sample=self._sample,
            confirmer=confirmer,
            dead_letters=self._dead_letters,
            stopping=self.stopping,
            rng=self._rng,
        )
        self._is_complete = await self._repairer.run()
        if keeper is not None:
            keeper.left = self._repairer.report.left

    async def _confirm(self, transport: Transport, confirmer: Confirmer) -> None:
        """Confirm the sample or all, unless the run ended early or a person stops waiting."""
        objects = self._books.objects if self._books is not None else None
        if self._settings.confirm.is_none:
            self._sample.clear()
        elif self._is_complete and self.stopping.halt is None:
            self.view.stage = "confirming"
            await self._confirming.run(transport, confirmer, objects, resumed=self.tally.resumed)
        self.view.stage = "done"

    def _verdict(self) -> Halt | None:
        """Why the run counts as stopped, if it does."""
        settings, tally, ledger = self._settings, self.tally, self._ledger
        if not self._is_complete and self.stopping.halt is not None:
            return self.stopping.halt
        settled = tally.read + tally.resumed
        if ledger.parked:
            return Halt(HaltKind.STOPPED, why_parked(self._parked, self._ledger.parked))
        self._settlement.check_rejected()
        if self.stopping.halt is not None and self.stopping.halt.kind is HaltKind.STOPPED:
            return self.stopping.halt
        if settings.expect is not None and settled != settings.expect:
            reason = f"the input ended with {settled:,} messages, not {settings.expect:,}"
            return Halt(HaltKind.STOPPED, reason)
        return None

    async def _close_books(self, halt: Halt | None) -> Halt | None:
        """Write the last of each file; when that fails, the run counts as stopped: say why."""
        settings = self._settings
        if settings.dry_run:
            return halt
        try:
            if self._books is not None:
                await self._books.sync()
            path = None if settings.confirm.is_all else settings.sample_out
            # A run that could not begin leaves alone what an earlier one has sampled.
            if path is not None and self._sample.messages_seen:
                await anyio.to_thread.run_sync(write_sample, path, self.run_id, self._sample)
            if self._checkpointer is not None:
                await self._checkpointer.finish(is_complete=halt is None)
        except DiskError as error:
            return halt or Halt(HaltKind.STOPPED, str(error))
        return halt

    def _report(self, halt: Halt | None, trouble: str | None) -> Report:
        settings, tally = self._settings, self.tally
        pending = self._ledger.pending
        accounted = tally.delivered + tally.rejected + tally.skipped + pending
        if tally.read != accounted:
            raise AssertionError(f"{tally.read} messages were read, but {accounted} accounted for")
        if pending and halt is None:
            raise AssertionError(f"{pending} messages are pending, but nothing stopped the run")
        repair = self._repairer.report if self._repairer is not None else None
        spools = self.source.spools if isinstance(self.source, LineSource) else []
        return compose_report(
            run_id=self.run_id,
            tally=tally,
            pending=pending,
            confirmation=self._confirming.confirmation
            or confirmation_of(self._windows or self._sample, trouble),
            halt=halt,
            rejected_earlier=self._checkpointer.rejected_earlier if self._checkpointer else 0,
            bytes_read=self.source.read_bytes,
            elapsed_s=time.monotonic() - self._started_s,
            in_flight_limit=self._admission.limit,
            phases=self._phases,
            warnings=self._warnings,
            dead_letters=self._dead_letters.name if self._dead_letters.written else None,
            checkpoint=str(settings.checkpoint) if settings.checkpoint else None,
            spool=spool_report_of(spools),
            repair=repair,
            is_repair_asked=bool(settings.repair),
            left_earlier=self._checkpointer.left if self._checkpointer and not repair else 0,
            inputs=self.source.inputs if isinstance(self.source, LineSource) else None,
            constraint=self._watcher.accounting.shares(),
            run=RunFacts(
                started_at=self._started_at,
                pushed_s=round(self._pushed_s, 3),
                version=__version__,
                settings=settings.shown(),
            ),
            series=self._watcher.series.report(),
            ledger=_name_of(None if settings.dry_run else settings.ledger),
            sample_out=_name_of(
                None if settings.dry_run else settings.objects_path or settings.sample_out
            ),
        )


def _name_of(path: Path | None) -> str | None:
    return None if path is None else os.fsencode(path).decode("utf-8", "replace")
