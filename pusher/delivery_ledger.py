"""The delivered ledger: a line for each request that was accepted, so that others can check it.

A line says which lines of the input the request carried, and has a hash of their external ids. A
message counts as delivered once its line is in the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import msgspec

from pusher.journal import Journal
from pusher.model import Delivery, Position
from pusher.watermark import Ledger

__all__ = ["DeliveryLedger", "LedgerLine", "ids_digest", "ranges_of", "taken_back"]

_BEGINNING = b'{"run_id":"'


class LedgerLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One accepted request.

    Attributes:
        run_id: of the run, or of the chain of runs that a checkpoint ties together.
        request: its number among the requests of the process, from 1.
        attempt: how often this batch or part had been sent by then.
        status: of the answer.
        store_id: of the lane.
        object_type: of the lane.
        messages: how many it carried.
        sha256: of their external ids, each with a line end, in the order of `lines`.
        lines: of each source, the numbers of the lines that the messages came from, as
            `1-3,7`. Of a topic, the offsets of each partition.
        latency_ms: from the first byte out to the answer.
        at: when that was, by our clock.
        again: so many of the messages were sent again, and have a second line, as a run was cut
            off before it could note that they were settled.
    """

    run_id: str
    request: int
    attempt: int
    status: int
    store_id: str
    object_type: str
    messages: int
    sha256: str
    lines: dict[str, str]
    latency_ms: float
    at: str
    again: int = 0


_decode = msgspec.json.Decoder(LedgerLine).decode
_encode = msgspec.json.Encoder().encode


class DeliveryLedger:
    """The file of one run.

    Args:
        path: of the file; appended to.
        run_id: written into each line; a run that goes on from another one takes its id.
        ledger: knows which lines messages came from.
        now_s: the time of day, epoch seconds.
    """

    def __init__(self, path: Path, run_id: str, ledger: Ledger, now_s: Callable[[], float]) -> None:
        self.journal = Journal(path, "--ledger", lambda line: line.startswith(_BEGINNING))
        self.run_id = run_id
        self._ledger = ledger
        self._now_s = now_s

    def __repr__(self) -> str:
        return f"<DeliveryLedger {self.journal!r}>"

    def note(self, delivery: Delivery) -> None:
        """Append the line of an accepted request, whose messages must not be settled yet.

        Raises:
            DiskError: it could not be written.
        """
        batch = delivery.batch
        ids = [str(change.external_object_id) for change in batch.changes()]
        as_sent = list(batch.origins)
        origins = sorted(as_sent)
        if origins != as_sent:  # A message that waited for its turn may come late.
            ids = [ids[place] for _, place in sorted(zip(as_sent, count(), strict=False))]
        places = self._ledger.places_of(origins)
        if len(places) > 1:  # The hash goes source by source.
            ids = _by_source(origins, ids, self._ledger, list(places))
        line = LedgerLine(
            run_id=self.run_id,
            request=delivery.request,
            attempt=delivery.attempt,
            status=delivery.status,
            store_id=batch.lane.store_id,
            object_type=batch.lane.object_type,
            messages=len(ids),
            sha256=ids_digest(ids),
            lines={source: ranges_of(numbers) for source, numbers in places.items()},
            latency_ms=round(delivery.latency_s * 1e3, 3),
            at=datetime.fromtimestamp(self._now_s(), UTC).isoformat(timespec="milliseconds"),
        )
        self.journal.append(_encode(line) + b"\n")

    def rewind(self, start_bytes: int, positions: Mapping[str, Position]) -> None:
        """Take back what this run has noted of messages that are read again.

        Args:
            start_bytes: where the lines begin that may have to go.
            positions: how far each source is settled.

        Raises:
            DiskError: the file cannot be changed.
        """
        settled = {source: position.lines for source, position in positions.items()}
        self.journal.rewrite(start_bytes, lambda line: taken_back(line, self.run_id, settled))


def _by_source(
    origins: Sequence[int], ids: Sequence[str], ledger: Ledger, sources: list[str]
) -> list[str]:
    """The ids in the order of their sources; within one, as they are."""
    ranks = [sources.index(next(iter(ledger.places_of([origin])))) for origin in origins]
    return [ids[place] for _, place in sorted(zip(ranks, count(), strict=False))]


def ids_digest(ids: Iterable[str]) -> str:
    """The SHA-256 of ids, each with a line end, as `jq -r .externalObjectId | sha256sum` has it."""
    return hashlib.sha256("".join(f"{one}\n" for one in ids).encode()).hexdigest()


def ranges_of(numbers: Sequence[int]) -> str:
    """Ascending numbers as `1-3,7`."""
    parts: list[str] = []
    first = last = numbers[0]
    for number in (*numbers[1:], None):
        if number is not None and number == last + 1:
            last = number
            continue
        parts.append(str(first) if first == last else f"{first}-{last}")
        if number is not None:
            first = last = number
    return ",".join(parts)


def taken_back(line: bytes, run_id: str, settled: Mapping[str, int]) -> bytes:
    """A line of the file after a run was cut off: nothing where all it is about is sent again.

    Where only some of it is, the line stays, as the request was accepted: it says how many.

    Args:
        line: with its end.
        run_id: of the run; lines of others stay as they are.
        settled: how many lines of each source are settled; the others are sent again.
    """
    try:
        one = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return line
    if one.run_id != run_id or one.again:
        return line
    again = sum(_beyond(text, settled.get(source, 0)) for source, text in one.lines.items())
    if not again:
        return line
    if again == one.messages:
        return b""
    return _encode(msgspec.structs.replace(one, again=again)) + b"\n"


def _beyond(ranges: str, last: int) -> int:
    """How many numbers of `1-3,7` are larger than `last`."""
    count = 0
    for part in ranges.split(","):
        first, _, end = part.partition("-")
        count += max(0, int(end or first) - max(int(first) - 1, last))
    return count
