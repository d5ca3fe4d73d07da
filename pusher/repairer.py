"""Repair what the bridge could not process: list its errors, send again what may succeed now.

A round sends contacts and products, then deals, then line items, each when the ones before were
processed; rounds go on as long as they heal something.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from contextlib import aclosing
from typing import NamedTuple

import anyio
from aiolimiter import AsyncLimiter

from pusher.admission import Admission
from pusher.client import BridgeClient
from pusher.config import Settings
from pusher.confirmer import Confirmer
from pusher.dead_letters import DeadLetters
from pusher.decoding import Decoder
from pusher.errors import BridgeApiError, DiskError, EndpointError, InputError, UsageError
from pusher.kafka_letters import TopicLetters
from pusher.model import (
    ASSOCIATION_ORDER,
    OBJECT_TYPES,
    Batch,
    Delivery,
    Halt,
    HaltKind,
    Lane,
    ObjectType,
    Refusal,
    Rejection,
    SyncMessage,
    Transport,
)
from pusher.patience import PatientTransport
from pusher.protocol import encode_messages
from pusher.repairing import (
    FILLED_FROM_MS,
    Case,
    Casebook,
    Gathering,
    Sweep,
    in_batches,
)
from pusher.report import RepairReport
from pusher.retrying import RetryPolicy
from pusher.sampling import CLOCK_SLACK_MS, Sample
from pusher.selecting import Selection
from pusher.sender import Outcome, Sender
from pusher.sources import LineSource
from pusher.stopping import Stopping

__all__ = ["Before", "Repairer"]

LANES_AT_ONCE = 8
SWEEP_PAUSE_S = 0.2
SWEEP_PAUSE_FACTOR = 1.6
SWEEP_PAUSE_MAX_S = 5.0
LETTERS_AT_ONCE = 500
LISTING_WAIT_S = 60.0
"""An endpoint that asks for a longer pause is not asked for its errors again."""

_log = logging.getLogger("pusher")


class Before(NamedTuple):
    """What was sent before the repair."""

    began_ms: int
    """The bridge's clock at its first 2xx, epoch ms."""
    lanes: Collection[Lane]
    """Where it went; empty where that is not known."""


class Repairer:
    """Repairs one run. `report` says what came of it, at any time.

    Args:
        source: what was pushed; read again where that is possible.
        settings: of the run.
        before: what was sent.
        transport: the door.
        sender: delivers what is sent again.
        admission: who may send.
        sample: told of what is sent again.
        confirmer: waits until what was sent before is processed.
        dead_letters: take what cannot be healed.
        stopping: when to end; told when the disk or the input fails.
        rng: for jitter.
    """

    def __init__(
        self,
        source: LineSource,
        settings: Settings,
        before: Before,
        *,
        transport: Transport,
        sender: Sender,
        admission: Admission,
        sample: Sample,
        confirmer: Confirmer,
        dead_letters: DeadLetters | TopicLetters,
        stopping: Stopping,
        rng: random.Random,
    ) -> None:
        self._source = source
        self._settings = settings
        self._before = before
        rate = settings.status_rate
        patient = PatientTransport(
            transport,
            RetryPolicy(max_attempts=settings.max_attempts, longest_wait_s=LISTING_WAIT_S),
            rng,
            limiter=AsyncLimiter(1, 1 / rate) if rate else None,
        )
        self._client = BridgeClient(settings.url, transport=patient)
        self._sender = sender
        self._admission = admission
        self._sample = sample
        self._confirmer = confirmer
        self._dead_letters = dead_letters
        self._stopping = stopping
        self._cases = Casebook()
        self._can_match = source.can_be_read_again and not source.is_empty
        self._resent = self._rounds = 0
        self._has_looked = False
        self._detail: str | None = None

    def __repr__(self) -> str:
        return f"<Repairer of {self._source!r}, {self._cases!r}>"

    @property
    def report(self) -> RepairReport:
        """What was found, healed and left."""
        return RepairReport.of(
            self._cases,
            has_looked=self._has_looked,
            rounds=self._rounds,
            resent=self._resent,
            detail=self._detail,
        )

    async def run(self) -> bool:
        """Look, repair, and write dead letters of what is left; false when cut off."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._cut_short, tasks.cancel_scope)
            try:
                await self._repair()
            except (BridgeApiError, EndpointError) as error:
                self._say(f"the sync errors cannot be listed: {error}")
            except (DiskError, InputError, UsageError) as error:
                self._stopping.end_sending(Halt(HaltKind.STOPPED, str(error)))
            tasks.cancel_scope.cancel()
        return self._is_going_on

    async def _cut_short(self, repair: anyio.CancelScope) -> None:
        """When the run is to end, requests under way have a little time left."""
        await self._stopping.reading_ended()
        with anyio.move_on_after(self._settings.drain_timeout_s):
            await self._stopping.sending_ended()
        repair.cancel()

    async def _repair(self) -> None:
        settings = self._settings
        await self._list(OBJECT_TYPES, limit=1)  # Before waiting for what cannot be seen.
        self._sample.keep_last()
        if not await self._confirmer.finish(settings.confirm_timeout_s):
            self._say("not all was seen processed in time: later errors are not repaired")
        await self._sweep(OBJECT_TYPES, [])
        self._has_looked = True
        if not self._can_match:
            if self._cases.open():
                self._say("the input cannot be read again, so errors are only named")
            return
        waiting = self._cases.open()
        while self._cases.healable() and self._is_going_on:
            waiting = await self._one_round(waiting)
            if self._rounds >= settings.repair_rounds or not waiting:
                break
        await self._write_letters()

    async def _one_round(self, cases: list[Case]) -> list[Case]:
        """Send what may be healed once more; what the next round should try."""
        healed_before = self._cases.healed
        self._rounds += 1
        left: Iterable[Case] = cases
        while left and self._is_going_on:
            gathering = await self._gathered(left)
            if not gathering.has_any:
                break
            gathered = list(gathering.messages())
            for object_types in ASSOCIATION_ORDER:
                await self._send_again(gathered, object_types)
            left = gathering.postponed
        healed = self._cases.healed - healed_before
        _log.info("repair, round %s: %s objects healed", self._rounds, f"{healed:,}")
        return self._cases.healable() if healed else []

    async def _send_again(
        self,
        gathered: list[tuple[Case, list[SyncMessage]]],
        object_types: frozenset[ObjectType],
    ) -> None:
        lanes = in_batches(gathered, object_types, self._settings.batch_size)
        if not lanes or not self._is_going_on:
            return
        queue = iter(lanes.items())
        async with anyio.create_task_group() as tasks:
            for _ in range(min(LANES_AT_ONCE, len(lanes))):
                tasks.start_soon(self._send_lanes, queue)
        if self._sender.keeps_back:
            await self._note_all(self._sender.judge(), {})
        resent = [case for case, _ in gathered if case.lane.object_type in object_types]
        await self._sweep(object_types, resent)

    async def _send_lanes(
        self, queue: Iterator[tuple[Lane, list[list[tuple[Case, SyncMessage]]]]]
    ) -> None:
        """Send lane after lane; in a lane one batch after the other, which keeps the order."""
        for lane, batches in queue:
            for case in {case for entries in batches for case, _ in entries}:
                case.rounds += 1
            for entries in batches:
                for part in self._fitting(lane, entries):
                    if not self._is_going_on or not await self._admission.enter():
                        return
                    cases = {case.external_id: case for case, _ in entries}
                    outcome = await self._sender.deliver(part)
                    refusal = outcome if isinstance(outcome, Refusal) else None
                    if outcome is not None and refusal is None:
                        self._note(outcome, cases)
                    if refusal is not None or self._sender.keeps_back:
                        await self._note_all(self._sender.isolate(refusal), cases)

    def _fitting(self, lane: Lane, entries: list[tuple[Case, SyncMessage]]) -> Iterator[Batch]:
        """Batches whose bodies are not too large, with bodies."""
        messages = [message for _, message in entries]
        body = encode_messages(lane, messages)
        if len(body) > self._settings.batch_bytes and len(entries) > 1:
            middle = len(entries) // 2
            yield from self._fitting(lane, entries[:middle])
            yield from self._fitting(lane, entries[middle:])
        else:
            yield Batch(lane, messages, list(range(len(messages))), body)

    async def _note_all(self, outcomes: AsyncIterator[Outcome], cases: dict[str, Case]) -> None:
        async with aclosing(outcomes) as each:  # type: ignore[type-var]
            async for outcome in each:
                self._note(outcome, cases)

    def _note(self, outcome: Outcome, cases: dict[str, Case]) -> None:
        """Take note of what came of messages that were sent again."""
        batch = outcome.batch
        if isinstance(outcome, Delivery):
            self._resent += len(batch)
            errored = {name: one.failure.errored_at_ms for name, one in cases.items()}
            self._sample.accept_again(outcome, errored, time.monotonic())
        elif isinstance(outcome, Refusal):
            for change in batch.changes():
                case = self._cases.find(batch.lane, str(change.external_object_id))
                if case is not None:
                    case.is_refused = True

    async def _sweep(self, object_types: Collection[ObjectType], resent: list[Case]) -> None:
        """List the errors until two listings agree, and show what was sent again as processed.

        A listing that others change meanwhile may lack some; and what has still the error that it
        had before was not processed yet.
        """
        settings = self._settings
        before = {(case.lane, case.external_id): case.failure.errored_at_ms for case in resent}
        deadline_s = time.monotonic() + settings.confirm_timeout_s
        pause_s = SWEEP_PAUSE_S
        earlier: int | None = None
        while True:
            sweep = await self._list(object_types)
            waits = any(
                key in sweep.found and sweep.found[key].errored_at_ms == errored_ms
                for key, errored_ms in before.items()
            )
            is_late = time.monotonic() >= deadline_s
            if sweep.mark == earlier and (not waits or is_late):
                break
            if is_late and earlier is not None:
                self._say("the sync errors went on changing: some may not be known")
                break
            earlier = sweep.mark
            del sweep  # There is room for one.
            await anyio.sleep(pause_s)
            pause_s = min(SWEEP_PAUSE_MAX_S, pause_s * SWEEP_PAUSE_FACTOR)
        if waits:
            self._say("not all that was sent again was seen processed in time")
        if sweep.is_cut:
            self._say("there are more errors than are looked after: push the input again")
        self._cases.take(sweep, object_types)

    async def _list(
        self, object_types: Collection[ObjectType], *, limit: int | None = None
    ) -> Sweep:
        """One listing of the open errors of some types since the run began."""
        sweep = Sweep(self._before.began_ms - CLOCK_SLACK_MS, self._before.lanes)
        wanted = [None] if len(object_types) == len(OBJECT_TYPES) else sorted(object_types)
        for object_type in wanted:
            errors = self._client.all_errors(
                of_portal=self._settings.api_key is not None, object_type=object_type, limit=limit
            )
            sweep.begin()
            async with aclosing(errors) as each:  # type: ignore[type-var]
                async for error in each:
                    if not sweep.add(error):
                        break
        return sweep

    async def _gathered(self, cases: Iterable[Case], *, wants_lines: bool = False) -> Gathering:
        """Read the input once more for what it holds of some objects.

        Raises:
            InputError, UsageError: it cannot be read any more, or is another one.
            DiskError: the spool cannot be read.
        """
        settings = self._settings
        gathering = Gathering(cases, settings.memory_bytes, wants_lines=wants_lines)
        decoder = Decoder(default_store=settings.default_store, default_type=settings.default_type)
        passes = [
            Selection(
                pass_types=object_types,
                only_stores=settings.only_stores,
                only_types=settings.only_types,
                limit=settings.limit,
            )
            for object_types in (ASSOCIATION_ORDER if settings.phases else (OBJECT_TYPES,))
        ]
        async with aclosing(self._source.chunks()) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                decoded = decoder.decode(chunk, FILLED_FROM_MS)
                for one in passes:
                    selected = one.select(decoded.messages, decoded.indexes)
                    hits = gathering.add(selected.messages)
                    if hits:
                        lines, indexes = list(chunk.lines()), list(selected.indexes)
                        for place, case in hits:
                            gathering.keep_line(case, (chunk.source, *lines[indexes[place]]))
        gathering.conclude()
        return gathering

    async def _write_letters(self) -> None:
        """Write what is left to the dead letters, with the bridge's own words.

        Raises:
            DiskError: they cannot be written.
        """
        left: Collection[Case] = self._cases.open()
        while left and self._is_going_on:
            gathering = await self._gathered(left, wants_lines=True)
            letters = [_letter(case, *line) for case, line in gathering.lines()]
            for start in range(0, len(letters), LETTERS_AT_ONCE):
                await self._dead_letters.write(letters[start : start + LETTERS_AT_ONCE])
            left = gathering.postponed

    @property
    def _is_going_on(self) -> bool:
        return not self._stopping.is_reading_over

    def _say(self, text: str) -> None:
        if self._detail is None:
            self._detail = text
        _log.warning("repair: %s", text)


def _letter(case: Case, source: str, line_number: int, offset: int, line: bytes) -> Rejection:
    failure = case.failure
    return Rejection(
        failure.type,
        failure.details,
        source,
        line_number,
        offset,
        line,
        attempts=1 + case.rounds,
        changed_at_ms=failure.changed_at_ms,
    )
