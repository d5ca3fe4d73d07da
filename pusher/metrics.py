"""Say how a run is in the words of Prometheus. Nothing is counted for it: it looks when asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pusher.model import LiveState
from pusher.progress import Vitals
from pusher.tally import Tally

if TYPE_CHECKING:
    from prometheus_client import Metric

__all__ = ["CONTENT_TYPE", "exposition", "health", "readiness"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
POLLED_WITHIN_S = 90.0
LATENCY_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


def health(vitals: Vitals, now_s: float) -> str | None:
    """Why the process should be started anew; None when it is well.

    An endpoint or broker that is down is no reason: a new process would find it down as well, and
    each restart moves partitions.
    """
    live = vitals.live
    if live is None or not live.polled_at_s:
        return None
    silent_s = now_s - live.polled_at_s
    return f"no poll for {silent_s:.0f} s" if silent_s > POLLED_WITHIN_S else None


def readiness(vitals: Vitals) -> str | None:
    """Why nothing is taken in at the moment; None when the run is under way.

    A member that has joined its group is ready, with no partition too: it stands by.
    """
    if not vitals.is_reading:
        return "the run has not begun, or is ending"
    if vitals.live is not None and not vitals.live.has_joined:
        return "the group has not been joined yet"
    return None


def exposition(vitals: Callable[[], Vitals]) -> bytes:
    """All metrics in the text format."""
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415
    from prometheus_client.registry import Collector  # noqa: PLC0415

    class _Run(Collector):
        def collect(self) -> Iterator[Metric]:
            return _metrics(vitals())

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Run())
    return generate_latest(registry)


def _metrics(vitals: Vitals) -> Iterator[Metric]:
    yield from _messages(vitals)
    yield from _requests(vitals)
    if vitals.live is not None:
        yield from _kafka(vitals.live)


def _messages(vitals: Vitals) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

    tally = vitals.tally
    for name, text, value in (
        ("read", "Messages read.", tally.read + tally.withdrawn),
        ("delivered", "Messages that a 2xx was answered to.", tally.delivered),
        ("withdrawn", "Messages given back unsent, with their partition.", tally.withdrawn),
    ):
        yield CounterMetricFamily(f"pusher_messages_{name}", text, value=value)
    for name, text, counts in (
        ("rejected", "Messages in the dead letters.", tally.rejected_by_reason),
        ("skipped", "Messages with nothing to send, by rule.", tally.skipped_by_reason),
    ):
        family = CounterMetricFamily(f"pusher_messages_{name}", text, labels=["reason"])
        for reason, count in counts.items():
            family.add_metric([reason], count)
        yield family
    for name, text, level in (
        ("messages_pending", "Messages read and not settled.", vitals.pending),
        ("messages_parked", "Those of them that are given up for this run.", vitals.parked),
        ("held_bytes", "What these messages take, of --memory.", vitals.held_bytes),
        ("watermark_age_seconds", "Age of the oldest of them.", vitals.watermark_age_s),
    ):
        yield GaugeMetricFamily(f"pusher_{name}", text, value=level)
    sampled = GaugeMetricFamily("pusher_sampled_objects", "The confirmation.", labels=["state"])
    for state in ("confirmed", "failed", "unconfirmed"):
        sampled.add_metric([state], getattr(vitals.confirmation, state))
    yield sampled


def _requests(vitals: Vitals) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

    tally = vitals.tally
    for name, text, value in (
        ("requests", "Requests sent.", tally.requests_sent),
        ("request_retries", "Requests sent again after a failure.", tally.requests_retried),
        ("request_splits", "Refused batches taken apart.", tally.requests_split),
        ("sent_bytes", "Request bodies.", tally.bytes_sent),
    ):
        yield CounterMetricFamily(f"pusher_{name}", text, value=value)
    for name, text, label, counts in (
        ("responses", "Answers.", "status", tally.by_status),
        ("request_failures", "Requests without an answer.", "kind", tally.failures_by_kind),
    ):
        family = CounterMetricFamily(f"pusher_{name}", text, labels=[label])
        for which, count in counts.items():
            family.add_metric([str(which)], count)
        yield family
    for name, text, value in (
        ("requests_in_flight", "Requests under way.", tally.in_flight),
        ("requests_in_flight_limit", "As many might be.", vitals.in_flight_limit),
    ):
        yield GaugeMetricFamily(f"pusher_{name}", text, value=value)
    bound = CounterMetricFamily(
        "pusher_limited_by_seconds",
        "Time that this was what limited the run.",
        labels=["constraint"],
    )
    for constraint, seconds in vitals.accounting.seconds.items():
        bound.add_metric([constraint.value], seconds)
    yield bound
    yield _latency(tally)


def _latency(tally: Tally) -> Metric:
    from prometheus_client.core import HistogramMetricFamily  # noqa: PLC0415

    counts = tally.latency.up_to(LATENCY_BOUNDS_S)
    buckets = [(str(bound), count) for bound, count in zip(LATENCY_BOUNDS_S, counts, strict=True)]
    return HistogramMetricFamily(
        "pusher_request_latency_seconds",
        "Accepted requests, from the first byte out to the answer.",
        buckets=[*buckets, ("+Inf", tally.latency.count)],
        sum_value=tally.latency.sum_s,
    )


def _kafka(live: LiveState) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

    lag = GaugeMetricFamily(
        "pusher_kafka_lag", "Messages not committed yet.", labels=["topic", "partition"]
    )
    for (topic, number), count in live.lags.items():
        lag.add_metric([topic, str(number)], count)
    yield lag
    held = live.assigned - live.revoked - live.lost
    for name, text, value in (
        ("partitions_assigned", "Partitions that are ours.", held),
        ("paused", "1 while nothing is fetched, as what was read waits.", live.is_paused),
        ("poll_age_seconds", "Since the client was asked last.", _age_s(live)),
    ):
        yield GaugeMetricFamily(f"pusher_kafka_{name}", text, value=float(value))
    moved = CounterMetricFamily(
        "pusher_kafka_rebalanced_partitions", "Partitions that came or went.", labels=["event"]
    )
    for event in ("assigned", "revoked", "lost"):
        moved.add_metric([event], getattr(live, event))
    yield moved
    for name, text, value in (
        ("rebalances", "Times that partitions came or went.", live.rebalances),
        ("commits", "Commits of offsets.", live.commits),
        ("commit_failures", "Commits that failed; each is tried again.", live.commits_failed),
    ):
        yield CounterMetricFamily(f"pusher_kafka_{name}", text, value=value)


def _age_s(live: LiveState) -> float:
    return time.monotonic() - live.polled_at_s if live.polled_at_s else 0.0
