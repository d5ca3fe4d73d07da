"""Say in a few lines how a run is at this moment, for whoever asks a process with SIGUSR1."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from pusher.constraint import Constraint
from pusher.model import Lane
from pusher.progress import Vitals, duration, outlook_of
from pusher.protocol import printable
from pusher.tally import LaneTally

__all__ = ["snapshot_fields", "snapshot_text"]

LANES_SHOWN = 5

_MIB = 1 << 20


def snapshot_text(vitals: Vitals, now_s: float) -> str:
    """A run at a moment, a line for each of its matters.

    Args:
        vitals: of the run.
        now_s: on the monotonic clock.
    """
    tally, watched = vitals.tally, vitals.watched
    share = watched.share_read
    stage = [watched.stage, *([] if share is None else [f"{share:.0%} of the input"])]
    settled = (
        f"{tally.delivered:,} delivered, {tally.rejected:,} rejected, {tally.skipped:,} skipped"
    )
    parked = f" ({vitals.parked:,} left out)" if vitals.parked else ""
    requests = f"{tally.in_flight:,} in flight of at most {vitals.in_flight_limit:,}"
    if tally.waits.backing_off:
        requests += f", {tally.waits.backing_off:,} to be tried again"
    if vitals.pause_s:
        requests += f", paused for {vitals.pause_s:.1f} s more"
    held = f"{vitals.held_bytes / _MIB:.1f} MiB held of {vitals.budget_bytes / _MIB:g} MiB"
    lanes = f"{vitals.lanes_open:,} open, {tally.lanes_total:,} with results"
    lately, in_all = _shares(vitals.accounting.shares_lately()), _shares(vitals.accounting.shares())
    lines = [
        f"snapshot: {', '.join([*stage, *outlook_of(watched)])}",
        f"messages: {tally.read:,} read, {settled}, {vitals.pending:,} pending{parked}",
        f"requests: {requests}; {tally.requests_sent:,} sent, {tally.requests_retried:,} retried",
        f"memory: {held}",
        f"oldest unsettled: {_oldest(vitals, now_s)}",
        f"limited by: {lately} lately; {in_all} in all",
        f"lanes: {lanes}",
        *(f"  {_lane(lane, one)}" for lane, one in _largest(tally.lanes)),
    ]
    return "\n  ".join(lines)


def snapshot_fields(vitals: Vitals, now_s: float) -> dict[str, object]:
    """The same as values, for a log that is JSON."""
    tally, watched, oldest = vitals.tally, vitals.watched, vitals.oldest
    return {
        "stage": watched.stage,
        "share_read": watched.share_read,
        "left_s": watched.left_s,
        "messages": {
            "read": tally.read,
            "delivered": tally.delivered,
            "rejected": tally.rejected,
            "skipped": tally.skipped,
            "pending": vitals.pending,
            "parked": vitals.parked,
        },
        "requests": {
            "in_flight": tally.in_flight,
            "limit": vitals.in_flight_limit,
            "backing_off": tally.waits.backing_off,
            "pause_s": round(vitals.pause_s, 3),
            "sent": tally.requests_sent,
            "retried": tally.requests_retried,
        },
        "held_bytes": vitals.held_bytes,
        "memory_bytes": vitals.budget_bytes,
        "oldest_unsettled": None
        if oldest is None
        else {
            "source": str(oldest.partition or printable(oldest.source)),
            "line": oldest.line,
            "offset": oldest.offset,
            "age_s": round(now_s - oldest.read_at_s, 3),
        },
        "constraint_lately": vitals.accounting.shares_lately(),
        "constraint": vitals.accounting.shares(),
        "lanes_open": vitals.lanes_open,
        "lanes_total": tally.lanes_total,
        "lanes": [
            {
                "store_id": lane.store_id,
                "object_type": lane.object_type,
                "delivered": one.delivered,
                "rejected": one.rejected,
                "parked": one.parked,
            }
            for lane, one in _largest(tally.lanes)
        ],
    }


def _oldest(vitals: Vitals, now_s: float) -> str:
    oldest = vitals.oldest
    if oldest is None:
        return "nothing; all that was read is settled"
    age = f"read {duration(now_s - oldest.read_at_s)} ago"
    if oldest.partition is not None:
        return f"{oldest.partition}, from offset {oldest.offset:,} on, {age}"
    place = f"from line {oldest.line:,} (byte {oldest.offset:,}) on"
    return f"{printable(oldest.source)}, {place}, {age}"


def _shares(shares: Mapping[str, float]) -> str:
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    shown = [f"{_words(name)} {share:.0%}" for name, share in ordered if share >= 0.005]
    return ", ".join(shown) or "nothing yet"


def _words(name: str) -> str:
    return Constraint(name).value.replace("_", " ")


def _largest(lanes: Mapping[Lane, LaneTally]) -> list[tuple[Lane, LaneTally]]:
    return heapq.nlargest(LANES_SHOWN, lanes.items(), key=lambda item: item[1].messages)


def _lane(lane: Lane, one: LaneTally) -> str:
    text = f"{printable(lane.store_id)} {lane.object_type}: {one.delivered:,} delivered"
    if one.rejected:
        text += f", {one.rejected:,} rejected"
    return text + (f", {one.parked:,} left out" if one.parked else "")
