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
from dataclasses import dataclass, replace
from typing import Protocol

import anyio
from aiolimiter import AsyncLimiter

from pusher.isolating import Quarantine, split
from pusher.model import (
    Answer,
    Batch,
    Delivery,
    Failure,
    Halt,
    HaltKind,
    Lane,
    Refusal,
    SyncMessage,
    Transport,
    Verdict,
)
from pusher.protocol import (
    MESSAGES_PATH,
    date_ms,
    encode_messages,
    error_text,
    retry_after_s,
    verdict_of,
)
from pusher.retrying import RetryPolicy
from pusher.stopping import Stopping
from pusher.tally import Tally

__all__ = ["Errand", "Route", "Sender", "SyncRoute"]

DOUBTFUL_REFUSALS = 5
"""A whole batch and its first parts: after so many in a row it is time to doubt the endpoint."""

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

    def encode(self, lane: Lane, messages: list[SyncMessage]) -> bytes:
        """Encode messages, to see how large their request is."""
        ...

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
        limiter: AsyncLimiter | None,
        rng: random.Random,
        route: Route | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._transport = transport
        self._policy = policy
        self._stopping = stopping
        self._tally = tally
        self._limiter = limiter
        self._rng = rng
        self._route = route or SyncRoute()
        self._now_s = now_s
        self._probing = anyio.Lock()
        self._quarantine = Quarantine()

    async def deliver(self, batch: Batch) -> AsyncIterator[Delivery | Refusal]:
        """Yield what became of the batch: deliveries of it or its parts, refusals of one message.

        What is not yielded is still pending: the run is stopping, or it is not clear yet whether
        the message or the endpoint is to blame. A later call, or `judge`, yields it then.
        """
        outcome = await self._send(batch, None)
        if isinstance(outcome, Delivery):
            yield outcome
        elif outcome is not None:
            async for part_outcome in self._isolate(outcome):
                yield part_outcome
        if self.keeps_back and not self._quarantine.is_suspicious:
            async for late_outcome in self._release():
                yield late_outcome

    @property
    def keeps_back(self) -> bool:
        """Refusals are kept back that only `judge` may decide, when nothing else is under way."""
        return not self._quarantine.is_empty

    async def judge(self) -> AsyncIterator[Delivery | Refusal]:
        """Decide on what is kept back, now that no request is left that could show more."""
        if not self._tally.requests_accepted or 403 in self._quarantine.statuses():
            self._stop_systemic()
        while self.keeps_back and not self._stopping.is_sending_over:
            async for outcome in self._release():
                yield outcome

    async def _isolate(self, refusal: Refusal) -> AsyncIterator[Delivery | Refusal]:
        """Split a refused batch until the guilty are alone, part after part in source order.

        A message counts as guilty when a request is accepted after its refusal. While none is,
        the endpoint may be to blame: then one batch alone finds out, and the others are kept back.
        """
        tally, quarantine = self._tally, self._quarantine
        accepted_before = accepted_lately = tally.requests_accepted
        refused_in_a_row = 1
        held = [refusal] if len(refusal.batch) == 1 else []
        parts = [] if held else self._split(refusal.batch)
        async with AsyncExitStack() as alone:
            while parts:
                if tally.requests_accepted > accepted_lately:
                    accepted_lately, refused_in_a_row = tally.requests_accepted, 0
                    while held:
                        yield held.pop(0)
                if refused_in_a_row == DOUBTFUL_REFUSALS:
                    await alone.enter_async_context(self._probing)
                    if quarantine.is_suspicious:
                        quarantine.keep(held, [replace(refusal, batch=part) for part in parts])
                        self._stop_if_systemic()
                        return
                part = parts.pop()
                outcome = await self._send(part, accepted_before)
                if outcome is None:
                    return
                if isinstance(outcome, Delivery):
                    yield outcome
                    continue
                refused_in_a_row += 1
                if len(part) > 1:
                    parts.extend(self._split(part))
                else:
                    held.append(outcome)
            if held and tally.requests_accepted == accepted_lately:
                quarantine.keep(held, [])
                self._stop_if_systemic()
                return
        for late in held:
            yield late

    async def _release(self) -> AsyncIterator[Delivery | Refusal]:
        """Yield what was kept back: it is about the messages after all."""
        singles, batches = self._quarantine.release()
        for refusal in singles:
            yield refusal
        for refusal in batches:
            async for outcome in self._isolate(refusal):
                yield outcome

    def _stop_if_systemic(self) -> None:
        """End the run when the endpoint refuses everything.

        One lane that never had a success, while others had, is that lane's own trouble: its store
        may be unknown to the bridge.
        """
        if not self._quarantine.is_systemic:
            return
        lanes, tallies = self._quarantine.lanes(), self._tally.lanes
        is_one_bad_lane = len(lanes) == 1 and not any(
            tallies[lane].delivered for lane in lanes & tallies.keys()
        )
        if self._route.lanes_fail_alone and self._tally.requests_accepted and is_one_bad_lane:
            self._quarantine.accepted()
        else:
            self._stop_systemic()

    def _stop_systemic(self) -> None:
        details = self._quarantine.details()
        before = " since the last success" if self._tally.requests_accepted else ""
        self._stop(f"the endpoint refuses every message{before}: {details[-1]}")

    def _split(self, batch: Batch) -> list[Batch]:
        """The parts of a refused batch, the first of them last."""
        parts = split(batch)
        _log.debug(
            "%s %s: %s messages refused, split in %s",
            batch.lane.store_id,
            batch.lane.object_type,
            len(batch),
            len(parts),
        )
        self._tally.requests_split += 1
        for part in parts:
            part.body = self._route.body_of(part)
        return parts[::-1]

    async def _send(self, batch: Batch, accepted_before: int | None) -> Delivery | Refusal | None:
        """Send one batch until there is a verdict; None when the run is stopping.

        When attempts run out, the batch is to blame if requests were accepted since
        `accepted_before`, by default since its last attempt but one; otherwise the endpoint is.
        """
        tally = self._tally
        attempt = 0
        accepted_at_last_failure = 0
        while True:
            attempt += 1
            if self._limiter is not None:
                await self._limiter.acquire()
            if self._stopping.is_sending_over:
                return None
            answer, latency_s = await self._attempt(batch)
            if isinstance(answer, Failure):
                detail, status, asked_wait_s = f"{answer.kind}: {answer.detail}", None, 0.0
            else:
                verdict = verdict_of(answer, had_success=tally.requests_accepted > 0)
                if verdict is Verdict.DELIVERED:
                    tally.requests_accepted += 1
                    self._quarantine.accepted()
                    tally.latency.add(latency_s)
                    accepted_at_ms = date_ms(answer.date) or int(self._now_s() * 1000)
                    return Delivery(batch, accepted_at_ms, latency_s)
                detail, status = error_text(answer), answer.status
                if verdict is Verdict.REFUSED:
                    return Refusal(batch, "refused", detail, status, attempt)
                if verdict is Verdict.STOP:
                    self._stop(_why_stopped(answer))
                    return None
                asked_wait_s = retry_after_s(answer, now_s=self._now_s())
                if asked_wait_s > self._policy.longest_wait_s:
                    self._stop(f"the endpoint asks for a pause of {asked_wait_s:.0f} s: {detail}")
                    return None
            delay_s = self._policy.delay_s(attempt, asked_wait_s, self._rng)
            self._log_retry(batch, attempt, detail, delay_s)
            if delay_s is None:
                since = accepted_at_last_failure if accepted_before is None else accepted_before
                if tally.requests_accepted > since:
                    return Refusal(batch, "retries_exhausted", detail, status, attempt)
                self._stop(f"no request succeeded in {attempt} attempts: {detail}")
                return None
            accepted_at_last_failure = tally.requests_accepted
            if not await self._stopping.sleep(delay_s):
                return None
            tally.requests_retried += 1

    def _log_retry(self, batch: Batch, attempt: int, detail: str, delay_s: float | None) -> None:
        again = "giving up" if delay_s is None else f"again in {delay_s:.1f} s"
        _log.debug(
            "%s %s: attempt %s with %s messages: %s; %s",
            batch.lane.store_id,
            batch.lane.object_type,
            attempt,
            len(batch),
            detail,
            again,
        )

    async def _attempt(self, batch: Batch) -> tuple[Answer | Failure, float]:
        tally = self._tally
        tally.requests_sent += 1
        tally.bytes_sent += len(batch.body)
        tally.in_flight += 1
        tally.in_flight_max = max(tally.in_flight_max, tally.in_flight)
        started_s = time.perf_counter()
        try:
            answer = await self._transport.request(
                self._route.method, self._route.path, body=batch.body
            )
        finally:
            tally.in_flight -= 1
        latency_s = time.perf_counter() - started_s
        if isinstance(answer, Failure):
            tally.failures_by_kind[answer.kind] += 1
            tally.requests_ambiguous += answer.ambiguous
        else:
            tally.by_status[answer.status] += 1
        return answer, latency_s

    def _stop(self, reason: str) -> None:
        self._stopping.end_sending(Halt(HaltKind.STOPPED, reason))


def _why_stopped(answer: Answer) -> str:
    text = error_text(answer)
    if answer.status in {401, 403}:
        return f"the endpoint does not accept the credentials: {text}"
    if 200 <= answer.status < 300:
        return f"the answer is not the bridge's (a proxy or a login page?): {text}"
    if 300 <= answer.status < 400:
        return f"the endpoint redirects, which a bridge does not: {text}"
    return f"the endpoint does not take these requests: {text}"
