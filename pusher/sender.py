"""Carry batches to the endpoint: the one retry loop, and the way into isolation.

It knows the door, the contract and the arithmetic of retries; it does not know where messages come
from or what becomes of its outcomes.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

import anyio
from aiolimiter import AsyncLimiter

from pusher.isolating import split
from pusher.model import (
    Answer,
    Batch,
    Delivery,
    Failure,
    Halt,
    HaltKind,
    Lane,
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

__all__ = ["Errand", "Refusal", "Route", "Sender", "SyncRoute"]

_log = logging.getLogger("pusher")


@dataclass(frozen=True, slots=True)
class Refusal:
    """The endpoint does not take this batch; a batch of one is rejected."""

    batch: Batch
    reason: str
    detail: str
    status: int | None
    attempts: int


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

    def body_of(self, batch: Batch) -> bytes:
        """Encode a batch that has no body yet."""
        ...


@dataclass(frozen=True, slots=True)
class SyncRoute:
    """The way of sync messages."""

    method: str = "PUT"
    path: str = MESSAGES_PATH

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
        self._answered = anyio.Event()

    async def deliver(self, batch: Batch) -> AsyncIterator[Delivery | Refusal]:
        """Yield what became of the batch: deliveries of it or its parts, refusals of one message.

        What is not yielded is still pending; the run is then stopping.
        """
        accepted_before = self._tally.requests_accepted
        outcome = await self._send(batch, accepted_before)
        if isinstance(outcome, Delivery):
            yield outcome
        elif outcome is not None:
            if self._tally.requests_accepted:
                async for part_outcome in self._isolate(outcome, accepted_before):
                    yield part_outcome
            else:
                # Nothing was ever accepted, so the fault may be ours: one batch finds out.
                async with self._probing:
                    async for part_outcome in self._isolate(outcome, accepted_before):
                        yield part_outcome

    async def _isolate(
        self, refusal: Refusal, accepted_before: int
    ) -> AsyncIterator[Delivery | Refusal]:
        """Split a refused batch until the guilty are alone, part after part in source order."""
        last = refusal
        held = [refusal] if len(refusal.batch) == 1 else []
        parts = [] if held else self._split(refusal.batch)
        while parts:
            part = parts.pop()
            outcome = await self._send(part, accepted_before)
            if outcome is None:
                return
            if isinstance(outcome, Delivery):
                yield outcome
            elif len(part) > 1:
                last = outcome
                parts.extend(self._split(part))
            else:
                held.append(outcome)
            while held and self._tally.requests_accepted:
                yield held.pop(0)
        if held:
            await self._others_answered()
        while held and self._tally.requests_accepted:
            yield held.pop(0)
        if held:
            self._stop(
                f"the endpoint refused every message of a whole batch ({len(held)}), and accepted "
                f"none before: {last.detail}"
            )

    async def _others_answered(self) -> None:
        """Wait until a request is accepted, or none is under way that could be."""
        while self._tally.in_flight and not self._tally.requests_accepted:
            await self._answered.wait()

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

    async def _send(self, batch: Batch, accepted_before: int) -> Delivery | Refusal | None:
        """Send one batch until there is a verdict; None when the run is stopping.

        When attempts run out, the batch is to blame if requests were accepted since
        `accepted_before`, and otherwise the endpoint.
        """
        tally = self._tally
        attempt = 0
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
                if tally.requests_accepted > accepted_before:
                    return Refusal(batch, "retries_exhausted", detail, status, attempt)
                self._stop(f"no request succeeded in {attempt} attempts: {detail}")
                return None
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
            self._answered.set()
            self._answered = anyio.Event()
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
