"""Read an input as a push would, and look at it instead of sending it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
import msgspec
from msgspec import Raw

from pusher.batching import Batcher
from pusher.coverage import SECONDS_BELOW, Coverage, Mappings
from pusher.crosschecking import ASSOCIATED, Record, object_records, reference_records
from pusher.decoding import Decoder, check_default_store
from pusher.errors import UsageError
from pusher.findings import Findings, place_at
from pusher.model import EMPTY_MAP, OBJECT_TYPES, Batch, Chunk, ObjectType, Rejection, SyncMessage
from pusher.planning import Survey
from pusher.record_spool import RecordSpool
from pusher.room import Room, is_large
from pusher.sampling import Sample, SampleSize
from pusher.selecting import Selected, Selection
from pusher.settling import Settlement
from pusher.sources import LineSource
from pusher.stopping import Stopping
from pusher.tally import Tally
from pusher.watermark import Ledger

__all__ = ["Known", "Reading", "Surveyor"]

UNDATED_MS = 1 << 62
"""Stands for the time of reading while it is looked at which messages lack a time."""

FUTURE_FROM_MS = 24 * 3_600_000
"""Clocks differ, and time zones are mistaken; more is a unit that is mistaken."""

Associations = dict[ObjectType, list[str | int]]

_decode_many = msgspec.json.Decoder(list[Associations]).decode
_decode_one = msgspec.json.Decoder(Associations).decode


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the bridge; None where it was not asked.

    Attributes:
        mappings: its settings.
        has_no_settings: it was asked, and has none.
        stores: the ids of its stores.
    """

    mappings: Mappings | None = None
    has_no_settings: bool = False
    stores: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How the input is read: the settings of a push that decide what becomes of its lines.

    Raises:
        UsageError: a value is out of its range.
    """

    default_store: str | None = None
    default_type: ObjectType | None = None
    only_stores: frozenset[str] = frozenset()
    only_types: frozenset[ObjectType] = frozenset()
    limit: int | None = None
    batch_size: int = 200
    batch_bytes: int = 4 << 20
    memory_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        check_default_store(self.default_store)
        if not 1 <= self.batch_size <= 200:
            raise UsageError("--batch-size must be between 1 and 200")
        for name, low, value in (
            ("--batch-bytes", 1, self.batch_bytes),
            ("--limit", 1, 1 if self.limit is None else self.limit),
            ("--memory", 1 << 20, self.memory_bytes),
        ):
            if value < low:
                raise UsageError(f"{name} must be at least {low}")


@dataclass(slots=True)
class _Sources:
    """The names of the inputs, numbered as they come."""

    names: list[str] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def number(self, name: str) -> int:
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = len(self.names)
            self.names.append(name)
        return number


class _Counting:
    """Takes batches for sent: in a survey, nothing is ever under way."""

    bodies_bytes = 0
    under_way_max = 1
    is_idle = True

    def __init__(self, survey: Survey, settlement: Settlement) -> None:
        self._survey = survey
        self._settlement = settlement

    async def send_all(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            self._survey.add_batch(batch.lane, len(batch), len(batch.body))
            self._settlement.skip(batch, "counted")

    async def next_settlement(self) -> None:
        """All is settled at once."""


class Surveyor:
    """Reads an input once. `survey` and `findings` grow meanwhile; `finish` completes them.

    Args:
        source: what would be pushed.
        reading: how it is read.
        known: of the bridge.
        spool: for what can only be said at the end.
        now_ms: the time of day, epoch ms.
    """

    def __init__(
        self,
        source: LineSource,
        reading: Reading,
        known: Known,
        spool: RecordSpool,
        *,
        now_ms: int,
    ) -> None:
        self.source = source
        self.survey = Survey()
        self.findings = Findings()
        self._reading = reading
        self._known = known
        self._spool = spool
        self._now_ms = now_ms
        self._sources = _Sources()
        self._decoder = Decoder(
            default_store=reading.default_store, default_type=reading.default_type
        )
        self._grouping = Decoder(
            default_store=reading.default_store,
            default_type=reading.default_type,
            takes_groups=reading.limit is None,
        )
        self._selection = Selection(
            only_stores=reading.only_stores, only_types=reading.only_types, limit=reading.limit
        )
        self._batcher = Batcher(batch_size=reading.batch_size, batch_bytes=reading.batch_bytes)
        self._ledger, tally, stopping = Ledger(), Tally(), Stopping()
        settlement = Settlement(
            ledger=self._ledger,
            tally=tally,
            batcher=self._batcher,
            sample=Sample(SampleSize(0), random.Random(0)),
            dead_letters=None,
            stopping=stopping,
        )
        # What is held, and when lanes leave early, is as in a push.
        self._room = Room(
            ledger=self._ledger,
            batcher=self._batcher,
            tally=tally,
            settlement=settlement,
            stopping=stopping,
            memory_bytes=reading.memory_bytes,
            batch_bytes=reading.batch_bytes,
        )
        self._outlet = _Counting(self.survey, settlement)
        self._coverage = Coverage(known.mappings, self.findings)
        self._started_s = time.monotonic()

    async def read(self) -> None:
        """Read to the end, or up to the limit.

        Raises:
            InputError: an input is damaged, or cannot be read any more.
            UsageError: an input is nothing that is known.
            DiskError: the disk is full.
        """
        self._started_s = time.monotonic()
        async with aclosing(self.source.chunks()) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                if is_large(chunk):
                    await self._room.make_for(chunk, self._outlet)
                if not chunk.coming_bytes:
                    await self._take_in(chunk)
                await self._room.make(self._outlet)
                await anyio.lowlevel.checkpoint()  # A signal, and the progress, have their turn.
                if self._selection.is_exhausted:
                    break

    async def finish(self) -> None:
        """Close the open batches, and look at what concerns several messages."""
        await self._outlet.send_all(self._batcher.drain())
        survey = self.survey
        survey.elapsed_s = time.monotonic() - self._started_s
        survey.objects = self._spool.resolve(self.findings)
        survey.spooled_bytes = self._spool.spooled_bytes
        survey.read_bytes = self.source.read_bytes
        self._judge_settings()

    @property
    def source_names(self) -> Sequence[str]:
        """The inputs, by the numbers that places have."""
        return self._sources.names

    async def _take_in(self, chunk: Chunk) -> None:
        self._ledger.admit(chunk)
        decoded = self._decoder.decode(chunk, UNDATED_MS)
        rejections = [*chunk.rejected, *decoded.rejections]
        selected = self._selection.select(decoded.messages, decoded.indexes)
        skipped = selected.skipped + type(selected.skipped)(chunk.skipped)
        survey, messages = self.survey, selected.messages
        survey.read += len(messages) + len(rejections) + skipped.total()
        survey.skipped.update(skipped)
        source = self._sources.number(chunk.source)
        self._note_rejected(rejections)
        places: Sequence[int] = ()
        if messages:
            places = _places(chunk, source, selected.indexes)
            self._look_at(messages, places)
        self._ledger.expect(chunk, len(messages))
        await self._outlet.send_all(self._added(chunk, selected))

    def _added(self, chunk: Chunk, selected: Selected) -> Iterator[Batch]:
        """Add messages to their lanes in the way that a push does: what is held depends on it."""
        groups = self._grouping.groups_of(chunk, self._now_ms)
        if groups is None:
            return self._batcher.add(selected.messages, selected.indexes, chunk, 0.0)
        self._selection.select_groups(groups)
        return self._batcher.add_groups(groups, chunk, 0.0)

    def _note_rejected(self, rejections: Iterable[Rejection]) -> None:
        for one in rejections:
            self.survey.rejected[one.reason] += 1
            place = place_at(self._sources.number(one.source), one.line)
            self.findings.add("rejected", one.reason, [place])

    def _look_at(self, messages: Sequence[SyncMessage], places: Sequence[int]) -> None:
        """Look at messages before they join their lanes, where their store and type go."""
        self._look_at_times(messages, places)
        self._look_at_lanes(messages, places)
        are_whole = self._look_at_properties(messages, places)
        self.survey.deletes.update(
            [message.object_type for message in messages if message.action == "DELETE"]  # type: ignore[misc]
        )
        records = object_records(messages, places, are_whole)
        references = self._references(messages, places)
        if references:
            # In the order of the input, so that it shows what comes first.
            records = [
                record
                for index, one in enumerate(records)
                for record in (one, *references.get(index, ()))
            ]
        self._spool.add(records)

    def _look_at_times(self, messages: Sequence[SyncMessage], places: Sequence[int]) -> None:
        times: list[int] = [message.changed_at for message in messages]  # type: ignore[misc]
        if min(times) >= SECONDS_BELOW and max(times) < self._now_ms + FUTURE_FROM_MS:
            return
        for message, at_ms, place in zip(messages, times, places, strict=True):
            if at_ms >= UNDATED_MS:
                self.findings.add("undated", "", [place])
                message.changed_at = self._now_ms + at_ms - UNDATED_MS
            elif at_ms < SECONDS_BELOW:
                self.findings.add("seconds", "", [place])
            elif at_ms >= self._now_ms + FUTURE_FROM_MS:
                self.findings.add("future", "", [place])

    def _look_at_lanes(self, messages: Sequence[SyncMessage], places: Sequence[int]) -> None:
        """Find stores and types that the bridge has nothing for."""
        stores, mappings = self._known.stores, self._known.mappings
        if stores is not None and not stores.issuperset({message.store_id for message in messages}):
            for message, place in zip(messages, places, strict=True):
                if message.store_id not in stores:
                    self.findings.add("unknown_store", str(message.store_id), [place])
        if mappings is not None and len(mappings.types) < len(OBJECT_TYPES):
            for message, place in zip(messages, places, strict=True):
                if message.object_type not in mappings.types and message.action == "UPSERT":
                    self.findings.add("type_not_mapped", str(message.object_type), [place])

    def _look_at_properties(
        self, messages: Sequence[SyncMessage], places: Sequence[int]
    ) -> list[bool]:
        """Whether each message has what creates its object; a delete needs nothing."""
        are_whole = [True] * len(messages)
        by_type: dict[ObjectType, list[int]] = {name: [] for name in OBJECT_TYPES}
        for index, message in enumerate(messages):
            if message.action == "UPSERT":
                by_type[message.object_type].append(index)  # type: ignore[index]
        for object_type, indexes in by_type.items():
            if indexes:
                answers = self._coverage.look(
                    object_type,
                    [messages[index].properties for index in indexes],
                    [places[index] for index in indexes],
                )
                for index, is_whole in zip(indexes, answers, strict=True):
                    are_whole[index] = is_whole
        return are_whole

    def _references(
        self, messages: Sequence[SyncMessage], places: Sequence[int]
    ) -> dict[int, list[Record]]:
        """The records of associations, by the index of the message."""
        indexes = [
            index
            for index, message in enumerate(messages)
            if message.associations is not EMPTY_MAP and message.action == "UPSERT"
        ]
        if not indexes:
            return {}
        references: dict[int, list[Record]] = {}
        decoded = _decode_associations([messages[index].associations for index in indexes])
        for index, associations in zip(indexes, decoded, strict=True):
            message, place = messages[index], places[index]
            from_type: ObjectType = message.object_type  # type: ignore[assignment]
            if associations is None:
                self.findings.add("bad_associations", from_type, [place])
                continue
            found = references[index] = []
            for to_type, external_ids in associations.items():
                if to_type in ASSOCIATED[from_type]:
                    found += reference_records(message, to_type, external_ids, place)
                elif external_ids:
                    self.findings.add("unknown_association", f"{from_type} to {to_type}", [place])
        return references

    def _judge_settings(self) -> None:
        """What fails as a whole."""
        known, to_send = self._known, self.survey.to_send
        if known.has_no_settings and to_send:
            self.findings.add("no_settings", "", (), to_send)
        if known.mappings is None or not to_send:
            return
        if not known.mappings.enabled:
            self.findings.add("settings_disabled", "", (), to_send)
        contacts = known.mappings.types.get("CONTACT")
        count = self.survey.objects.distinct["CONTACT"]
        if contacts is not None and not contacts.emails and count:
            self.findings.add("email_not_mapped", "CONTACT", (), count)


def _places(chunk: Chunk, source: int, indexes: Iterable[int]) -> Sequence[int]:
    """Where the messages of a chunk are, by their index among its lines that are not blank."""
    if chunk.offsets is None and isinstance(indexes, range) and len(indexes) == chunk.line_count:
        first = place_at(source, chunk.first_line)
        return range(first, first + chunk.line_count)
    numbers = [line_number for line_number, _, _ in chunk.lines()]
    return [place_at(source, numbers[index]) for index in indexes]


def _decode_associations(maps: Sequence[Raw]) -> list[Associations | None]:
    """Decode maps of associations; None where one is no map of lists of ids by type."""
    try:
        return list(_decode_many(b"[" + b",".join(maps) + b"]"))
    except (msgspec.DecodeError, RecursionError):
        return [_decoded(one) for one in maps]


def _decoded(one: Raw) -> Associations | None:
    try:
        return _decode_one(one)
    except (msgspec.DecodeError, RecursionError):
        return None
