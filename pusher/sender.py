"""Carry batches to the endpoint: the one retry loop, and the way into isolation.

It knows the door, the contract and the arithmetic of retries; it does not know where messages come
from or what becomes of its outcomes.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Protocol

import anyio
import msgspec
from aiolimiter import AsyncLimiter

from pusher.admission import Admission
from pusher.isolating import DOUBTS_IN_A_BATCH, SMALL_BATCH, Quarantine, Splitter
from pusher.model import (
    Answer,
    Batch,
    Delivery,
    Failure,
    Halt,
    HaltKind,
    Lane,
    Parked,
    Refusal,
    SyncMessage,
    Transport,
    Verdict,
)
from pusher.pacing import Outcome as Lesson
from pusher.protocol import (
    MESSAGES_PATH,
    date_ms,
    encode_messages,
    error_text,
    guilty_in,
    printable,
    retry_after_s,
    verdict_of,
)
from pusher.retrying import GiveUp, RetryPolicy
from pusher.stopping import Stopping
from pusher.tally import Tally

__all__ = ["Errand", "Outcome", "Route", "Sender", "SyncRoute"]

DOUBTFUL_REFUSALS = 5
"""A whole batch and its first parts: after so many in a row it is time to doubt the endpoint."""

ATTEMPTS_OF_A_PART = 3
"""The whole batch has failed often enough; its parts show quickly which of them fails."""

Outcome = Delivery | Refusal | Parked

_log = logging.getLogger("pusher")


class Route(Protocol):
    """Which request carries a batch."""

    @property
    def method(self) -> str:
        """The request's method."""
        ...

    @property
    def path(self) -> str:
        """The request's path."""
        ...

    @property
    def lanes_fail_alone(self) -> bool:
        """A lane may be refused while the endpoint is in order: its store may be unknown."""
        ...

    def body_of(self, batch: Batch) -> bytes:
        """Encode a batch that has no body yet."""
        ...


@dataclass(frozen=True, slots=True)
class SyncRoute:
    """The way of sync messages."""

    method: str = "PUT"
    path: str = MESSAGES_PATH
    lanes_fail_alone: bool = True

    def body_of(self, batch: Batch) -> bytes:
        """Encode a batch as `PUT /sync/messages` wants it."""
        return encode_messages(batch.lane, batch.messages)


class Errand(Route, Protocol):
    """A run that does otherwise than send all messages as sync messages: an import."""

    def why_skipped(self, message: SyncMessage) -> str | None:
        """Why a message is not sent by rule; None when it is."""
        ...

    def left_of(self, batch: Batch) -> list[Batch]:
        """What of a batch no earlier run has settled, with bodies.

        Raises:
            DiskError: what is about to be sent could not be noted.
        """
        ...

    def note(self, outcome: Delivery | Refusal) -> None:
        """Note what became of a batch or part, for later runs.

        Raises:
            DiskError: it could not be noted.
        """
        ...


class Sender:
    """Delivers batches, each until it is delivered, isolated, or the run ends.

    Args:
        transport: the door.
        policy: when to try again.
        stopping: told when the endpoint refuses for good; asked before each request.
        tally: where requests are counted.
        admission: who may send; whoever calls `deliver` has entered it, and `deliver` leaves.
        limiter: of requests a second, or None.
        rng: for jitter.
        route: which request carries a batch.
        now_s: the time of day, epoch seconds.
    """

    def __init__(
        self,
        transport: Transport,
        policy: RetryPolicy,
        stopping: Stopping,
        tally: Tally,
        *,
        admission: Admission,
        limiter: AsyncLimiter | None,
        rng: random.Random,
        route: Route | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._transport = transport
        self._policy = policy
        self._stopping = stopping
        self._tally = tally
        self._admission = admission
        self._limiter = limiter
        self._rng = rng
        self._route = route or SyncRoute()
        self._now_s = now_s
        self._give_up = GiveUp(policy.longest_wait_s)
        self._quarantine = Quarantine(lanes_fail_alone=self._route.lanes_fail_alone)
        self._doubt: anyio.Event | None = None
        """One batch finds out whether anything is accepted; set when that is known."""
        self._lane_probing: dict[Lane, anyio.Lock] = {}

    @property
    def parked(self) -> dict[Lane, str]:
        """The lanes that are given up for this run, and what the endpoint said of the first."""
        return self._quarantine.parked

    async def deliver(self, batch: Batch) -> Delivery | Refusal | Parked | None:
        """Send a batch as a whole, until it is delivered or refused.

        None: it is still pending, as the run is stopping. What a `Refusal` comes to is for
        `isolate` to find out, which has to be asked too while `keeps_back`.
        """
        if self._quarantine.is_parked(batch.lane):
            self._admission.leave()
            return Parked(batch)
        return await self._send(batch, None, has_entered=True)

    async def isolate(self, refusal: Refusal | None) -> AsyncIterator[Outcome]:
        """Yield what a refusal comes to: deliveries of parts, refusals of one message.

        And what was kept back, where that can be decided by now. What is not yielded is still
        pending: the run is stopping, or it is not clear yet whether the message or the endpoint is
        to blame. A later call, or `judge`, yields it then.
        """
        if refusal is not None:
            async for part_outcome in self._isolate(refusal):
                yield part_outcome
        if self.keeps_back:
            async for late_outcome in self._release():
                yield late_outcome

    @property
    def keeps_back(self) -> bool:
        """Refusals are kept back that a later success, or `judge`, decides on."""
        return not self._quarantine.is_empty

    async def judge(self) -> AsyncIterator[Outcome]:
        """Decide on what is kept back, now that no request is left that could show more."""
        quarantine = self._quarantine
        if not self._tally.requests_accepted or 403 in quarantine.statuses():
            self._stop_systemic()
        for lane in quarantine.doubted():
            if not self._stopping.is_sending_over:
                for parked in self._park(lane):
                    yield parked
        while self.keeps_back and not self._stopping.is_sending_over:
            quarantine.clear_endpoint()
            async for outcome in self._release():
                yield outcome

    async def _isolate(self, refusal: Refusal) -> AsyncIterator[Outcome]:
        """Take a refused batch apart until the guilty are alone, part after part in source order.

        A message counts as guilty when a request is accepted after its refusal. While none is,
        the endpoint may be to blame: then one batch alone finds out, and the others wait. In a
        lane that never had a success, the lane may be: one of its batches finds out.
        """
        quarantine, lane = self._quarantine, refusal.batch.lane
        async with AsyncExitStack() as alone:
            is_doubtful = len(refusal.batch) > SMALL_BATCH and not quarantine.is_proven(lane)
            if is_doubtful:
                lock = self._lane_probing.setdefault(lane, anyio.Lock())
                await alone.enter_async_context(lock)
            if quarantine.is_parked(lane):
                yield Parked(refusal.batch)
                return
            async for outcome in self._take_apart(refusal, is_doubtful=is_doubtful):
                yield outcome
        if quarantine.is_proven(lane):
            self._lane_probing.pop(lane, None)
        for ripe in quarantine.to_park():
            for parked in self._park(ripe):
                yield parked

    async def _take_apart(self, refusal: Refusal, *, is_doubtful: bool) -> AsyncIterator[Outcome]:
        tally, quarantine, lane = self._tally, self._quarantine, refusal.batch.lane
        accepted_before = tally.requests_accepted
        attempts_max = ATTEMPTS_OF_A_PART if refusal.reason == "retries_exhausted" else None
        self._log_refusal(refusal)
        splitter, known = Splitter(refusal), _Known(accepted_before)
        if len(refusal.batch) == 1:
            known.held.append(refusal)
            quarantine.refused_alone(refusal)
        try:
            while (part := splitter.next_part()) is not None:
                is_doubtful = is_doubtful and not quarantine.is_proven(lane)
                if tally.requests_accepted > known.accepted_lately:
                    known.accepted_lately, known.refused_in_a_row = tally.requests_accepted, 0
                    while known.held and not is_doubtful:
                        yield known.held.pop(0)
                is_lane_bad = is_doubtful and known.refused_alone >= DOUBTS_IN_A_BATCH
                if is_lane_bad or not await self._may_go_on(known):
                    rest = [replace(refusal, batch=part, named={}), *splitter.rest()]
                    self._keep(lane, known.held, rest, is_doubted=is_doubtful)
                    return
                part.body = self._route.body_of(part)
                outcome = await self._send(part, accepted_before, attempts_max=attempts_max)
                tally.requests_split += splitter.take_splits()
                if outcome is None:
                    return
                if isinstance(outcome, Delivery):
                    yield outcome
                    known.held += splitter.accepted(part)
                    continue
                known.refused_in_a_row += 1
                self._log_refusal(outcome)
                for one in splitter.refused(outcome):
                    known.refused_alone += 1
                    known.held.append(one)
                    quarantine.refused_alone(one)
            tally.requests_split += splitter.take_splits()
            is_doubtful = is_doubtful and not quarantine.is_proven(lane)
            if known.held and (is_doubtful or tally.requests_accepted == known.accepted_lately):
                self._keep(lane, known.held, [], is_doubted=is_doubtful)
                return
        finally:
            if known.doubt is self._doubt:
                self._end_doubt()
        for late in known.held:
            yield late

    def _log_refusal(self, refusal: Refusal) -> None:
        lane, count = refusal.batch.lane, len(refusal.batch)
        what_next = "taken apart" if count > 1 else "it is alone"
        store_id = printable(lane.store_id)
        text = "%s %s: %s refused, %s: %s"
        messages = f"{count} message{'s' * (count > 1)}"
        _log.debug(text, store_id, lane.object_type, messages, what_next, refusal.detail)

    async def _may_go_on(self, known: _Known) -> bool:
        """After many refusals in a row one batch alone goes on, until something is accepted.

        False when it has found that nothing is.
        """
        while True:
            doubt = self._doubt
            if doubt is None:
                if known.refused_in_a_row < DOUBTFUL_REFUSALS:
                    return True
                if self._quarantine.is_suspicious:
                    return False
                known.doubt = self._doubt = anyio.Event()
                return True
            if known.doubt is doubt:
                return True
            accepted = self._tally.requests_accepted
            await doubt.wait()
            if self._tally.requests_accepted > accepted:
                return True
            if self._quarantine.is_suspicious:
                return False

    def _end_doubt(self) -> None:
        if self._doubt is not None:
            self._doubt.set()
            self._doubt = None

    def _keep(
        self, lane: Lane, singles: list[Refusal], rest: list[Refusal], *, is_doubted: bool
    ) -> None:
        """Keep refusals back; end the run when the endpoint refuses everything."""
        self._quarantine.keep(lane, singles, rest, is_doubted=is_doubted)
        if self._quarantine.is_systemic:
            self._stop_systemic()

    async def _release(self) -> AsyncIterator[Outcome]:
        """Yield what was kept back: it is about the messages after all."""
        for lane in self._quarantine.to_release():
            singles, batches = self._quarantine.take(lane)
            for refusal in singles:
                yield refusal
            for refusal in batches:
                part = refusal.batch
                part.body = self._route.body_of(part)
                outcome = await self._send(part, None)
                if isinstance(outcome, Delivery):
                    yield outcome
                elif outcome is not None:
                    async for part_outcome in self._isolate(outcome):
                        yield part_outcome

    def _park(self, lane: Lane) -> list[Parked]:
        """Give a lane up: its store may be unknown to the bridge."""
        singles, batches = self._quarantine.take(lane)
        details = [refusal.detail for refusal in (*singles, *batches)]
        detail = details[-1] if details else "refused"
        self._quarantine.park(lane, detail)
        self._lane_probing.pop(lane, None)
        _log.warning(
            "%s %s: nothing of this store and type is accepted, so it is left out: %s",
            printable(lane.store_id),
            lane.object_type,
            detail,
        )
        return [Parked(refusal.batch) for refusal in (*singles, *batches)]

    def _stop_systemic(self) -> None:
        details = self._quarantine.details()
        before = " since the last success" if self._tally.requests_accepted else ""
        self._stop(f"the endpoint refuses every message{before}: {details[-1]}")

    async def _send(
        self,
        batch: Batch,
        accepted_before: int | None,
        *,
        has_entered: bool = False,
        attempts_max: int | None = None,
    ) -> Delivery | Refusal | None:
        """Send one batch until there is a verdict; None when the run is stopping.

        When attempts run out, the batch is to blame if requests were accepted since
        `accepted_before`, by default since its last attempt but one; otherwise the endpoint is,
        and it is tried on until it is given up.
        """
        tally = self._tally
        accepted_at_last_failure = doubts = 0
        for attempt in count(1):
            if not has_entered and not await self._admission.enter_again():
                return None
            has_entered = False
            reply = await self._attempt(batch)
            if reply is None:
                return None
            if reply.verdict is not Verdict.RETRY:
                return self._concluded(batch, reply, attempt)
            if self._is_given_up(reply):
                return None
            doubts += reply.may_be_about_the_request
            is_enough = doubts >= attempts_max if attempts_max else self._policy.is_enough(doubts)
            since = accepted_at_last_failure if accepted_before is None else accepted_before
            if is_enough and tally.requests_accepted > since:
                detail, status = reply.detail, reply.status
                return Refusal(batch, "retries_exhausted", detail, status, attempt)
            accepted_at_last_failure = tally.requests_accepted
            if not await self._back_off(batch, reply, attempt):
                return None
            tally.requests_retried += 1
        raise AssertionError("it counts for ever")

    async def _back_off(self, batch: Batch, reply: _Reply, attempt: int) -> bool:
        """Wait before the next attempt; false when sending has ended meanwhile."""
        delay_s = self._policy.delay_s(attempt, reply.asked_wait_s, self._rng)
        if reply.asked_wait_s:
            self._admission.pause(reply.asked_wait_s)
        _log.debug(
            "%s %s: attempt %s with %s messages: %s; again in %.1f s",
            printable(batch.lane.store_id),
            batch.lane.object_type,
            attempt,
            len(batch),
            reply.detail,
            delay_s,
        )
        waits = self._tally.waits
        waits.backing_off += 1
        try:
            return await self._stopping.sleep(delay_s)
        finally:
            waits.backing_off -= 1

    def _concluded(self, batch: Batch, reply: _Reply, attempt: int) -> Delivery | Refusal | None:
        """What an answer means that is not to be asked for again; None stops the run."""
        answer = reply.answer
        if isinstance(answer, Failure):
            raise TypeError("a failure is tried again")
        if reply.verdict is Verdict.DELIVERED:
            return self._delivery(batch, answer, reply, attempt)
        if reply.verdict is Verdict.REFUSED:
            named = guilty_in(answer, batch) if len(batch) > 1 else {}
            return Refusal(batch, "refused", reply.detail, reply.status, attempt, named)
        self._stop(_why_stopped(answer))
        return None

    def _delivery(self, batch: Batch, answer: Answer, reply: _Reply, attempt: int) -> Delivery:
        self._tally.accepted(reply.latency_s)
        self._quarantine.accepted(batch.lane)
        self._give_up.succeeded()
        if self._doubt is not None:
            self._end_doubt()
        sent_ms = int((self._now_s() - reply.latency_s) * 1000)
        second_ms = date_ms(answer.date)
        if second_ms is None:
            second_ms = sent_ms
        accepted_at_ms = min(max(second_ms, sent_ms), second_ms + 999)
        return Delivery(
            batch, accepted_at_ms, reply.latency_s, answer.status, reply.number, attempt
        )

    def _is_given_up(self, reply: _Reply) -> bool:
        """Whether nothing has succeeded for too long; the run then stops, to be resumed."""
        now_s = time.monotonic()
        if self._give_up.failed(now_s):
            limit_s = self._give_up.after_s
            self._stop(f"no request has succeeded for {limit_s:g} s: {reply.detail}")
            return True
        if reply.asked_wait_s > self._give_up.left_s(now_s):
            wait_s = reply.asked_wait_s
            self._stop(f"the endpoint asks for a pause of {wait_s:.0f} s: {reply.detail}")
            return True
        return False

    async def _attempt(self, batch: Batch) -> _Reply | None:
        """Send one request, and give back the turn; None when sending is over."""
        tally, admission = self._tally, self._admission
        answer: Answer | Failure | None = None
        try:
            if self._limiter is not None:
                await self._limiter.acquire()
            if self._stopping.is_sending_over:
                return None
            tally.requests_sent += 1
            number = tally.requests_sent
            tally.bytes_sent += len(batch.body)
            tally.in_flight += 1
            tally.in_flight_max = max(tally.in_flight_max, tally.in_flight)
            began_s = admission.began()
            started_s = time.perf_counter()
            try:
                answer = await self._transport.request(
                    self._route.method, self._route.path, body=batch.body
                )
            finally:
                tally.in_flight -= 1
                if answer is None:
                    admission.given_up()
            reply = self._read(answer, time.perf_counter() - started_s, number)
            admission.ended(began_s, _lesson_of(reply))
        finally:
            admission.leave()
        return reply

    def _read(self, answer: Answer | Failure, latency_s: float, number: int) -> _Reply:
        """Count an answer, and say what it means."""
        tally = self._tally
        if isinstance(answer, Failure):
            tally.failures_by_kind[answer.kind] += 1
            tally.requests_ambiguous += answer.ambiguous
            detail = f"{answer.kind}: {answer.detail}"
            return _Reply(answer, Verdict.RETRY, latency_s, detail, None)
        tally.by_status[answer.status] += 1
        verdict = verdict_of(answer, had_success=tally.requests_accepted > 0)
        if verdict is Verdict.DELIVERED:
            return _Reply(answer, verdict, latency_s, "", answer.status, number=number)
        asked_wait_s = 0.0
        if verdict is Verdict.RETRY:
            asked_wait_s = retry_after_s(answer, now_s=self._now_s())
        return _Reply(answer, verdict, latency_s, error_text(answer), answer.status, asked_wait_s)

    def _stop(self, reason: str) -> None:
        self._stopping.end_sending(Halt(HaltKind.STOPPED, reason))


class _Reply(msgspec.Struct, frozen=True):
    """What came of one request."""

    answer: Answer | Failure
    verdict: Verdict
    latency_s: float
    detail: str
    status: int | None
    asked_wait_s: float = 0.0
    """Retry-After, or 0."""
    number: int = 0
    """Of the request in the run, where it was accepted."""

    @property
    def may_be_about_the_request(self) -> bool:
        """Another request might have done better: the endpoint was there, and not too busy."""
        if isinstance(self.answer, Failure):
            return self.answer.ambiguous
        return self.status not in {429, 503}


@dataclass(slots=True)
class _Known:
    """What taking one batch apart has shown so far."""

    accepted_lately: int
    """The run's accepted requests when this was looked at last."""
    refused_in_a_row: int = 1
    refused_alone: int = 0
    held: list[Refusal] = field(default_factory=list)
    """Messages refused alone, that no success has shown to be guilty yet."""
    doubt: anyio.Event | None = None
    """Set while it is this batch that finds out about the endpoint."""


def _lesson_of(reply: _Reply) -> Lesson:
    """What one attempt says of how many requests the endpoint can take."""
    if reply.verdict is Verdict.DELIVERED:
        return Lesson.ACCEPTED
    if reply.verdict is not Verdict.RETRY:
        return Lesson.ANSWERED
    asks_for_less = reply.status == 429 or (reply.status == 503 and reply.asked_wait_s)
    return Lesson.OVERLOADED if asks_for_less else Lesson.FAILED


def _why_stopped(answer: Answer) -> str:
    text = error_text(answer)
    if answer.status in {401, 403}:
        return f"the endpoint does not accept the credentials: {text}"
    if 200 <= answer.status < 300:
        return f"the answer is not the bridge's (a proxy or a login page?): {text}"
    if 300 <= answer.status < 400:
        return f"the endpoint redirects, which a bridge does not: {text}"
    return f"the endpoint does not take these requests: {text}"
