"""Find out what became of every object in a sample file: sweep the errors, then ask for the rest.

The sweep shows 200 failed objects a request, but not which were processed well: for those, each is
asked about. What becomes known goes into the sample file at once, so that a later run goes on.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from pusher.client import BridgeClient
from pusher.errors import DiskError, EndpointError
from pusher.model import Lane, Transport
from pusher.patience import PacedTransport, PatientTransport
from pusher.polling import Silence, StatusPoller
from pusher.protocol import SyncError, SyncStatus, as_ms
from pusher.report import Confirmation, failure_examples
from pusher.retrying import RetryPolicy
from pusher.sample_file import SampleFile
from pusher.sampling import CLOCK_SLACK_MS, DOUBT_S, SampledObject, SampleState, upper_bound_95

if TYPE_CHECKING:
    from pusher.census import Entry

__all__ = ["LONG_S", "Accounting", "duration_text", "how_long"]

LONG_S = 600.0
"""Confirming that takes longer is not begun without a person's word."""

ENTRIES_AT_ONCE = 512
ERRORS_AT_ONCE = 200

ROUND_FIRST_S = 0.2
ROUND_FACTOR = 1.6
ROUND_MAX_S = 5.0

TRIES_A_ROUND = 4
"""A poll without an answer says nothing of its object: it is repeated soon."""

SYNC_EVERY_S = 1.0
SILENCE_MIN_S = 15.0
"""An endpoint that gives no answer is given up after the time to wait, but not before this."""

_SWEEP_ATTEMPTS = 4
_SWEEP_WAIT_S = 30.0

_log = logging.getLogger("pusher")


class Accounting:
    """Confirms the objects of one sample file. Call `load` first, and `close` at the end.

    Args:
        file: what is to be confirmed; takes what becomes known.
        transport: the door.
        rate: requests a second at most, or None.
        rng: for jitter.
        of_portal: the credentials are those of an account (an API key), not of an application.
        now_s: a monotonic clock.

    Raises:
        DiskError: by each method, when what becomes known cannot be kept.
    """

    def __init__(
        self,
        file: SampleFile,
        transport: Transport,
        *,
        rate: float | None,
        rng: random.Random,
        of_portal: bool = False,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._transport = transport
        self._rate = rate
        self._rng = rng
        self._of_portal = of_portal
        self._now_s = now_s
        self._began_s = 0.0
        """All was accepted before this, on the same clock."""
        self._poller = StatusPoller(transport, rate=rate, rng=rng, now_s=now_s)
        # Most runs confirm a sample: SQLite is loaded where it is needed.
        from pusher.census import Census, CensusCounts  # noqa: PLC0415

        self._census = Census()
        self.counts = CensusCounts()
        """What is known; while it goes on, as of a moment ago."""
        self._sample_bound: float | None = None
        self._broken: DiskError | None = None
        self.detail: str | None = None
        """Why not all is known, where the endpoint is to blame."""

    def __repr__(self) -> str:
        return f"<Accounting of {self._file.path}, {self.counts.pending} pending>"

    @property
    def estimate_s(self) -> float:
        """How long it takes at least to ask for each object; 0 without a rate limit."""
        return self.counts.pending / self._rate if self._rate else 0.0

    @property
    def polls(self) -> int:
        """Requests for the status of an object so far."""
        return self._poller.polls

    def plan(self) -> str:
        """Say how long it takes to ask for each object, before that is begun."""
        return f"confirming: {how_long(self.counts.pending, self._rate)}"

    def stage(self) -> str:
        """Say how far it is."""
        counts = self.counts
        known = counts.objects - counts.pending
        left = f", {duration_text(self.estimate_s)} left" if self.estimate_s else ""
        return f"confirming, {known:,} of {counts.objects:,} objects known{left}"

    def decline(self, sample_bound: float | None) -> None:
        """Not all are asked for: that takes too long to begin it without a person's word.

        Args:
            sample_bound: what a sample says of the failure rate instead.
        """
        self._sample_bound = sample_bound
        self.detail = (
            f"{how_long(self.counts.pending, self._rate)}: not done without --yes;"
            f" `pusher confirm {self._file.path}` does it later"
        )

    async def load(self) -> None:
        """Read the sample file.

        Raises:
            UsageError: it is damaged.
        """
        await anyio.to_thread.run_sync(self._census.load, self._file.lines())
        self.counts = await anyio.to_thread.run_sync(self._census.counts)

    async def run(self, wait_s: float) -> None:
        """Find out as much as can be: whatever ends it, what became known is kept.

        Args:
            wait_s: how long to go on after each object was asked for once.
        """
        # Whoever does not wait gets the likely answer to what is in doubt.
        self._began_s = self._now_s() - (DOUBT_S if wait_s < DOUBT_S else 0.0)
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._keep)
            if self._file.header.kind == "all":
                await self._sweep()
            await self._ask_in_rounds(wait_s)
            beside.cancel_scope.cancel()
        if self._broken is not None:
            raise self._broken
        await self._file.journal.sync()

    async def take(self, members: Iterable[SampledObject]) -> None:
        """Take over what somebody else has found out about some of the objects."""
        known = {
            (one.accepted.lane, one.accepted.external_id): one
            for one in members
            if one.state is not SampleState.PENDING
        }
        entries = await anyio.to_thread.run_sync(self._census.find, known)
        for _, member in entries:
            other = known[member.accepted.lane, member.accepted.external_id]
            if other.accepted.changed_at_ms == member.accepted.changed_at_ms:
                member.state, member.error = other.state, other.error
                self._note(member)
        await self._write(entries)

    def confirmation(self) -> Confirmation:
        """What is known. The share of all objects is exact; that of a sample has a bound."""
        counts = self.counts
        is_all = self._file.header.kind == "all"
        bound = self._sample_bound
        if is_all and bound is None:
            not_confirmed = counts.objects - counts.confirmed
            bound = not_confirmed / counts.objects if counts.objects else None
        elif not is_all:
            bad, places = counts.places_not_confirmed, counts.places
            bound = upper_bound_95(bad, places) if places else None
        return Confirmation(
            sampled=counts.objects,
            confirmed=counts.confirmed,
            failed=counts.failed,
            unconfirmed=counts.pending,
            failure_rate_upper_bound_95=bound,
            errors=dict(self._census.errors()),
            examples=failure_examples(self._census.examples()),
            detail=self.detail or self._poller.trouble,
            of_all=is_all,
        )

    def close(self) -> None:
        """Remove the list of objects; the sample file stays open."""
        self._census.close()

    async def _sweep(self) -> None:
        """Look through the sync errors, newest first, as far as they may be about our objects."""
        first_ms = await anyio.to_thread.run_sync(self._census.first_accepted_ms)
        if first_ms is None:
            return
        policy = RetryPolicy(max_attempts=_SWEEP_ATTEMPTS, longest_wait_s=_SWEEP_WAIT_S)
        paced = PacedTransport(self._transport, self._rate)
        client = BridgeClient("", transport=PatientTransport(paced, policy, self._rng))
        errors: list[SyncError] = []
        older_in_a_row = 0
        try:
            async with aclosing(client.all_errors(of_portal=self._of_portal)) as found:  # type: ignore[type-var]
                async for error in found:
                    is_older = (as_ms(error.errored_at) or 0) <= first_ms - CLOCK_SLACK_MS
                    older_in_a_row = older_in_a_row + 1 if is_older else 0
                    errors.append(error)
                    if len(errors) == ERRORS_AT_ONCE:
                        await self._blame(errors)
                        errors = []
                    if older_in_a_row == ERRORS_AT_ONCE or self._broken is not None:
                        break
        except EndpointError as error:
            _log.warning("the sync errors cannot be swept, so each object is asked for: %s", error)
        await self._blame(errors)

    async def _blame(self, errors: list[SyncError]) -> None:
        by_key: dict[tuple[Lane, str], list[SyncError]] = {}
        for error in errors:
            lane = Lane(str(error.store_id), error.object_type)  # type: ignore[arg-type]
            by_key.setdefault((lane, str(error.external_object_id)), []).append(error)
        entries = await anyio.to_thread.run_sync(self._census.find, by_key)
        for _, member in entries:
            for error in by_key[member.accepted.lane, member.accepted.external_id]:
                if member.blame(error, self._since_began_s) is SampleState.FAILED:
                    self._note(member)
                    break
        await self._write(entries)

    async def _ask_in_rounds(self, wait_s: float) -> None:
        deadline_s: float | None = None
        round_s = ROUND_FIRST_S
        while self.counts.pending and not self._is_over:
            now_s = self._now_s()
            if deadline_s is not None and now_s >= deadline_s:
                return
            next_round_s = now_s + round_s * self._rng.uniform(0.8, 1.2)
            await self._ask_once(deadline_s, max(wait_s, SILENCE_MIN_S))
            if deadline_s is None:
                # The rate limit may need longer for one round: that is then given its time.
                deadline_s = self._now_s() + wait_s + (self.estimate_s if wait_s else 0.0)
            if self.counts.pending:
                pause_s = min(next_round_s, deadline_s) - self._now_s()
                await anyio.sleep(max(0.0, pause_s))
            round_s = min(ROUND_MAX_S, round_s * ROUND_FACTOR)

    async def _ask_once(self, deadline_s: float | None, silence_s: float) -> None:
        """Ask for each object that nothing is known of, in the order of their acceptance."""
        after = 0
        while not self._is_over:
            entries = await anyio.to_thread.run_sync(self._census.pending, after, ENTRIES_AT_ONCE)
            if not entries:
                return
            after = entries[-1].number
            queue = deque(entries)
            try:
                while queue and not self._is_over:
                    now_s = self._now_s()
                    if deadline_s is not None and now_s >= deadline_s:
                        return
                    if self._poller.failing_s >= silence_s:
                        self.detail = f"the endpoint has told nothing for {silence_s:g} s"
                        return
                    left_s = None if deadline_s is None else deadline_s - now_s
                    await self._sit_out(left_s)
                    async with anyio.create_task_group() as tasks:
                        for _ in range(min(self._poller.at_once, len(queue))):
                            tasks.start_soon(self._ask_each, queue, deadline_s)
            finally:
                await self._write(entries)

    async def _sit_out(self, left_s: float | None) -> None:
        """Wait until a pause is over, or the time is."""
        pause_s = self._poller.pause_s
        if pause_s:
            await anyio.sleep(pause_s if left_s is None else min(pause_s, left_s))

    async def _ask_each(self, queue: deque[Entry], deadline_s: float | None) -> None:
        while queue:
            if not await self._poller.turn() or self._is_over:
                return
            if not queue or (deadline_s is not None and self._now_s() >= deadline_s):
                return
            entry = queue.popleft()
            member = entry.member
            member.polls += 1
            status = await self._poller.ask(member.accepted.lane, member.accepted.external_id)
            if isinstance(status, SyncStatus):
                if member.judge(status, self._since_began_s) is not SampleState.PENDING:
                    self._note(member)
            elif status is Silence.NO_ANSWER and member.polls < TRIES_A_ROUND:
                queue.append(entry)

    def _note(self, member: SampledObject) -> None:
        """Keep what has become known of an object; where that fails, all of it ends."""
        try:
            self._file.judge(member)
        except DiskError as error:
            self._broken = self._broken or error
        self.counts.note(member)

    async def _write(self, entries: Sequence[Entry]) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._census.judge, entries)

    async def _keep(self) -> None:
        while True:
            await anyio.sleep(SYNC_EVERY_S)
            try:
                await self._file.journal.sync()
            except DiskError as error:
                self._broken = error
                return

    @property
    def _since_began_s(self) -> float:
        """The clock on which every object here was accepted at 0."""
        return self._now_s() - self._began_s

    @property
    def _is_over(self) -> bool:
        """No answer is worth to be waited for any more."""
        has_trouble = self._poller.trouble is not None or self.detail is not None
        return has_trouble or self._broken is not None


def how_long(objects: int, rate: float | None) -> str:
    """Say how long it takes to ask for so many objects."""
    if not rate:
        return f"{objects:,} objects, with no limit of requests a second"
    return f"{objects:,} objects, at {rate:g} a second, take {duration_text(objects / rate)}"


def duration_text(seconds: float) -> str:
    """A duration for people, as `62 h`, `25 min` or `8 s`."""
    if seconds >= 10 * 3600:
        return f"{seconds / 3600:,.0f} h"
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(1.0, seconds):.0f} s"
