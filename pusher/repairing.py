"""Which sync errors a run can heal, with which of its messages, and what came of it.

Pure: what the bridge lists and what the input holds come in as values. An object has one case: that
of its newest error.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from msgspec import UNSET

from pusher.model import OBJECT_TYPES, Lane, ObjectType, SyncMessage
from pusher.protocol import SyncError, as_ms

__all__ = [
    "CASES_MAX",
    "FILLED_FROM_MS",
    "HEALABLE",
    "Case",
    "Casebook",
    "Counts",
    "Failure",
    "Gathering",
    "Line",
    "Sweep",
    "in_batches",
]

HEALABLE = frozenset(
    {
        # The object that is pointed at may exist by now.
        "INVALID_ASSOCIATION_PROPERTY",
        "MISSING_ASSOCIATED_OBJECT",
        # Nobody knows what it was; it may be gone.
        "UNKNOWN_ERROR",
        "CREATE_FAIL_NO_INFO",
        "UPDATE_FAIL_NO_INFO",
        "DELETE_FAIL_NO_INFO",
        # The account was not ready; it may be by now.
        "INACTIVE_PORTAL",
        "PORTAL_NOT_SYNC_ENABLED",
        "NO_SYNC_SETTINGS",
        "SETTINGS_NOT_ENABLED",
        "BAD_SETTINGS",
        "NO_MAPPINGS_DEFINED",
        "NO_PROPERTIES_DEFINED",
        "NO_DEFINED_PROPERTIES",
    }
)
"""Errors after which the same message may succeed. All others are about the message itself."""

CASES_MAX = 50_000
"""So many failed objects are looked after at a time: more than that are better pushed again."""

OLDER_IN_A_ROW = 200
"""After a page of nothing but older errors no newer one is expected: the newest come first."""

DETAILS_MAX = 300
FILLED_FROM_MS = 1 << 62
"""A message whose line has no `changedAt` is given one from here on, to be told by it."""

_MESSAGE_BYTES = 500
"""What a message takes besides its maps; measured."""

Line = tuple[str, int, int, bytes]
"""Source, line number, offset, and the line without its end."""

T = TypeVar("T")


class Failure(NamedTuple):
    """What the bridge says of a failed object. Times are epoch ms."""

    type: str
    details: str
    changed_at_ms: int | None
    errored_at_ms: int


@dataclass(slots=True, eq=False)
class Case:
    """A failed object, from when its error was seen first until it is healed or left."""

    lane: Lane
    external_id: str
    failure: Failure
    is_open: bool = True
    is_foreign: bool = False
    """No message of the input can have caused it."""
    is_refused: bool = False
    """The endpoint does not take its messages any more."""
    rounds: int = 0
    """How often its messages were sent again."""
    _has_match: bool = False
    _newest_ms: int = -1

    def meet(self, message: SyncMessage) -> bool:
        """Take note of a message of the object; whether it is the one that failed."""
        changed_at_ms = message.changed_at
        if not isinstance(changed_at_ms, int):
            raise TypeError("a decoded message has an integer changed_at")
        failed_ms = self.failure.changed_at_ms
        is_match = failed_ms is None or changed_at_ms == failed_ms or is_filled(message)
        self._has_match |= is_match
        if not is_filled(message):
            self._newest_ms = max(self._newest_ms, changed_at_ms)
        return is_match

    def conclude(self) -> None:
        """All messages of the object were met.

        An error older than the last of them counts as healed by it; one that none of them has
        caused is somebody else's.
        """
        failed_ms = self.failure.changed_at_ms
        if failed_ms is not None and self._newest_ms > failed_ms:
            self.is_open = False
        elif not self._has_match:
            self.is_foreign = True
        self._has_match, self._newest_ms = False, -1

    @property
    def is_healable(self) -> bool:
        """The same messages may succeed now."""
        return (
            self.is_open
            and not (self.is_foreign or self.is_refused)
            and (self.failure.type in HEALABLE)
        )


def is_filled(message: SyncMessage) -> bool:
    """Whether its line had no `changedAt`."""
    return isinstance(message.changed_at, int) and message.changed_at >= FILLED_FROM_MS


class Sweep:
    """One listing of the open errors of some types, newest first.

    Args:
        since_ms: older errors are of earlier runs.
        lanes: errors of other stores and types are not ours; empty where that is not known.
        count_max: more objects are not taken.
    """

    def __init__(
        self, since_ms: int, lanes: Collection[Lane] = (), count_max: int = CASES_MAX
    ) -> None:
        self._since_ms = since_ms
        self._lanes = lanes
        self._count_max = count_max
        self._older_in_a_row = 0
        self.found: dict[tuple[Lane, str], Failure] = {}
        self.mark = 0
        """Two listings that hold the same have the same."""
        self._shared: dict[object, object] = {}
        self.is_cut = False
        """There are more."""
        self.oldest_ms = 0
        """The oldest error that was taken; only with `is_cut`."""

    def __repr__(self) -> str:
        return f"<Sweep of {len(self.found)} errors>"

    def begin(self) -> None:
        """The errors of another type follow, newest first again."""
        self._older_in_a_row = 0

    def add(self, error: SyncError) -> bool:
        """Take the next error; False when no more is wanted."""
        errored_ms = as_ms(error.errored_at) or 0
        if errored_ms < self._since_ms:
            self._older_in_a_row += 1
            return self._older_in_a_row < OLDER_IN_A_ROW
        self._older_in_a_row = 0
        lane = _lane_of(error)
        lane = lane and self._share(lane)
        if lane is None or (self._lanes and lane not in self._lanes):
            return True
        if error.external_object_id is None or error.status == "RESOLVED":
            return True
        key = lane, str(error.external_object_id)
        if key in self.found:
            return True  # An older one of the same object.
        if len(self.found) >= self._count_max:
            self.is_cut = True
            self.oldest_ms = min(failure.errored_at_ms for failure in self.found.values())
            return False
        details = (error.details or "")[:DETAILS_MAX]
        changed_ms = as_ms(error.changed_at)
        self.found[key] = Failure(self._share(error.type), details, changed_ms, errored_ms)
        self.mark ^= hash((key, errored_ms))
        return True

    def _share(self, value: T) -> T:
        """The same value that others have already, as there may be many."""
        return self._shared.setdefault(value, value)  # type: ignore[return-value]


def _lane_of(error: SyncError) -> Lane | None:
    for object_type in OBJECT_TYPES:
        if error.object_type == object_type and error.store_id is not None:
            return Lane(str(error.store_id), object_type)
    return None


@dataclass(slots=True)
class Counts:
    """Objects whose newest error was of one type."""

    found: int = 0
    healed: int = 0
    left: int = 0


class Casebook:
    """All failed objects of a run."""

    def __init__(self) -> None:
        self._cases: dict[tuple[Lane, str], Case] = {}

    def __repr__(self) -> str:
        return f"<Casebook of {len(self._cases)} objects>"

    def take(self, sweep: Sweep, object_types: Collection[ObjectType]) -> None:
        """Bring the cases of some types up to a whole listing: what is not in it is healed."""
        for (lane, external_id), failure in sweep.found.items():
            case = self._cases.get((lane, external_id))
            if case is None:
                self._cases[lane, external_id] = Case(lane, external_id, failure)
            elif case.failure.errored_at_ms != failure.errored_at_ms:
                case.failure, case.is_open = failure, True
        for key, case in self._cases.items():
            is_listed = key in sweep.found or key[0].object_type not in object_types
            is_beyond = sweep.is_cut and case.failure.errored_at_ms <= sweep.oldest_ms
            if not (is_listed or is_beyond):
                case.is_open = False

    def find(self, lane: Lane, external_id: str) -> Case | None:
        """The case of an object, if it has one."""
        return self._cases.get((lane, external_id))

    def open(self) -> list[Case]:
        """What is neither healed nor somebody else's."""
        return [case for case in self._cases.values() if case.is_open and not case.is_foreign]

    def healable(self) -> list[Case]:
        """What may be healed by sending it again."""
        return [case for case in self._cases.values() if case.is_healable]

    @property
    def healed(self) -> int:
        """How many objects have no open error any more."""
        return sum(not case.is_open for case in self._cases.values())

    @property
    def foreign(self) -> int:
        """How many failed objects are somebody else's."""
        return sum(case.is_foreign and case.is_open for case in self._cases.values())

    def counts(self) -> dict[str, Counts]:
        """What was found, healed and left, by the type of the newest error."""
        counts: dict[str, Counts] = {}
        for case in self._cases.values():
            if case.is_foreign and case.is_open:
                continue
            one = counts.setdefault(case.failure.type, Counts())
            one.found += 1
            one.healed += not case.is_open
            one.left += case.is_open
        return dict(sorted(counts.items()))


@dataclass(slots=True, eq=False)
class _Kept:
    messages: list[SyncMessage] = field(default_factory=list)
    line: Line | None = None
    size: int = 0


class Gathering:
    """What one reading of the input holds of failed objects: their messages, or their lines.

    It takes `budget_bytes` at most: the objects that were met last are left to another reading.

    Args:
        cases: whose messages are looked for.
        budget_bytes: what may be held.
        wants_lines: keep the line that failed, instead of all messages that may be sent again.
    """

    def __init__(
        self, cases: Iterable[Case], budget_bytes: int, *, wants_lines: bool = False
    ) -> None:
        self._cases = {(case.lane, case.external_id): case for case in cases}
        self._ids = {external_id for _, external_id in self._cases}
        self._budget_bytes = budget_bytes
        self._wants_lines = wants_lines
        self._kept: dict[Case, _Kept] = {}
        self._held_bytes = 0
        self.postponed: set[Case] = set()
        """What another reading has to look for."""

    def __repr__(self) -> str:
        return f"<Gathering for {len(self._cases)} objects, {self._held_bytes} bytes>"

    @property
    def has_any(self) -> bool:
        """Something of what was looked for was found."""
        return bool(self._kept)

    def add(self, messages: Sequence[SyncMessage]) -> list[tuple[int, Case]]:
        """Take what is wanted of some messages; where the wanted lines are among them."""
        ids = self._ids
        hits: list[tuple[int, Case]] = []
        for place, message in enumerate(messages):
            if message.external_object_id not in ids:
                continue
            lane = Lane(message.store_id, message.object_type)  # type: ignore[arg-type]  # Decoded.
            case = self._cases.get((lane, message.external_object_id))
            if case is None:
                continue
            is_match = case.meet(message)
            if case in self.postponed:
                continue
            if self._wants_lines:
                if is_match:
                    hits.append((place, case))
            elif case.is_healable:
                self._keep(case, message)
        return hits

    def keep_line(self, case: Case, line: Line) -> None:
        """Keep the line of a message that failed, in the place of an earlier one."""
        kept = self._kept.setdefault(case, _Kept())
        self._held_bytes += len(line[3]) + _MESSAGE_BYTES - kept.size
        kept.line, kept.size = line, len(line[3]) + _MESSAGE_BYTES
        self._shed()

    def conclude(self) -> None:
        """The input was read to its end."""
        for case in self._cases.values():
            case.conclude()

    def messages(self) -> Iterator[tuple[Case, list[SyncMessage]]]:
        """The messages of the objects that can be healed, in the order of the input.

        All of them: an object that never was processed lacks what its earlier messages said, and
        what was processed is not done again, as it is older. What failed keeps its `changedAt`.
        """
        for case, kept in self._kept.items():
            if case.is_healable:
                _date(kept.messages, case.failure.changed_at_ms)
                yield case, kept.messages

    def lines(self) -> Iterator[tuple[Case, Line]]:
        """The lines that failed."""
        for case, kept in self._kept.items():
            if kept.line is not None:
                yield case, kept.line

    def _keep(self, case: Case, message: SyncMessage) -> None:
        kept = self._kept.setdefault(case, _Kept())
        # Away from the chunk, which would be held as a whole.
        message.properties = message.properties.copy()
        message.associations = message.associations.copy()
        message.store_id = message.object_type = UNSET  # The lane has them.
        size = _size_of(message)
        kept.messages.append(message)
        kept.size += size
        self._held_bytes += size
        self._shed()

    def _shed(self) -> None:
        while self._held_bytes > self._budget_bytes and len(self._kept) > 1:
            case, kept = self._kept.popitem()
            self._held_bytes -= kept.size
            self.postponed.add(case)
        if self._held_bytes > self._budget_bytes:
            for kept in self._kept.values():  # One object with more than that: its last one.
                dropped = kept.messages[:-1]
                del kept.messages[:-1]
                size = sum(map(_size_of, dropped))
                kept.size -= size
                self._held_bytes -= size


def _size_of(message: SyncMessage) -> int:
    maps = memoryview(message.properties).nbytes + memoryview(message.associations).nbytes
    return maps + _MESSAGE_BYTES


def _date(messages: Sequence[SyncMessage], failed_ms: int | None) -> None:
    """Give messages whose lines have no time the one that they were sent with: the bridge knows it.

    Earlier ones get earlier ones.
    """
    next_ms = failed_ms
    for message in reversed(messages):
        if is_filled(message):
            message.changed_at = UNSET if next_ms is None else next_ms
            next_ms = None if next_ms is None else max(0, next_ms - 1)


def in_batches(
    gathered: Iterable[tuple[Case, list[SyncMessage]]],
    object_types: Collection[ObjectType],
    size: int,
) -> dict[Lane, list[list[tuple[Case, SyncMessage]]]]:
    """Messages of some types, per lane in batches, to be sent one after the other."""
    lanes: dict[Lane, list[list[tuple[Case, SyncMessage]]]] = {}
    for case, messages in gathered:
        if case.lane.object_type not in object_types:
            continue
        batches = lanes.setdefault(case.lane, [[]])
        for message in messages:
            if len(batches[-1]) >= size:
                batches.append([])
            batches[-1].append((case, message))
    return lanes
