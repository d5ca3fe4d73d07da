"""Every object that is to be confirmed, on disk, with what is known of it.

The file is made anew from a sample file each time, and removed when it is closed. Memory stays the
same however many objects there are.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from pusher.errors import DiskError
from pusher.model import Lane
from pusher.protocol import SyncError
from pusher.sample_file import SampleLine
from pusher.sampling import Accepted, SampledObject, SampleState

__all__ = ["Census", "CensusCounts", "Entry"]

_CACHE_KIB = 8 << 10
_AT_ONCE = 5_000
_EXAMPLES = 5

_SCHEMA = """
CREATE TABLE objects (
    number INTEGER PRIMARY KEY,
    store_id TEXT NOT NULL,
    object_type TEXT NOT NULL,
    external_id TEXT NOT NULL,
    changed_at INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL,
    places INTEGER NOT NULL,
    state TEXT,
    error TEXT,
    details TEXT,
    UNIQUE (store_id, object_type, external_id)
);
"""

_ACCEPT = """
INSERT INTO objects
    (store_id, object_type, external_id, changed_at, accepted_at, places, state, error, details)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    changed_at = excluded.changed_at, accepted_at = excluded.accepted_at,
    places = excluded.places, state = excluded.state, error = excluded.error,
    details = excluded.details
"""

_JUDGE = """
UPDATE objects SET state = ?, error = ?, details = ?
WHERE store_id = ? AND object_type = ? AND external_id = ? AND changed_at = ?
"""

_PENDING = """
SELECT number, store_id, object_type, external_id, changed_at, accepted_at, places FROM objects
WHERE state IS NULL AND number > ? ORDER BY number LIMIT ?
"""


class Entry(NamedTuple):
    """An object that nothing is known of, and its number, which ascends as they were accepted."""

    number: int
    member: SampledObject


@dataclass(slots=True)
class CensusCounts:
    """How many objects there are, by their state; the last two of the uniform sample's places."""

    objects: int = 0
    confirmed: int = 0
    failed: int = 0
    places: int = 0
    places_not_confirmed: int = 0

    @property
    def pending(self) -> int:
        """Objects that nothing is known of."""
        return self.objects - self.confirmed - self.failed

    def note(self, member: SampledObject) -> None:
        """The state of an object has become known."""
        if member.state is SampleState.CONFIRMED:
            self.confirmed += 1
            self.places_not_confirmed -= member.slots
        else:
            self.failed += 1


class Census:
    """The objects of one sample file. Its methods wait for the disk: call them in a thread.

    The file is a temporary one of SQLite, in `SQLITE_TMPDIR`, `TMPDIR` or `/var/tmp`.

    Raises:
        DiskError: by each method, when that file cannot be read or written.
    """

    def __init__(self) -> None:
        # Without a name it is a temporary one, which leaves nothing behind after a kill either.
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        # It is made anew from the sample file: nothing of it has to outlive a crash.
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.executescript(_SCHEMA)

    def __repr__(self) -> str:
        return f"<Census in {self._database!r}>"

    def load(self, lines: Iterable[SampleLine]) -> None:
        """Take in the lines of a sample file."""
        lines = iter(lines)
        try:
            while some := list(islice(lines, _AT_ONCE)):
                self._database.execute("BEGIN")
                for is_verdict, rows in _runs(some):
                    self._database.executemany(_JUDGE if is_verdict else _ACCEPT, rows)
                self._database.execute("COMMIT")
            self._database.execute("CREATE INDEX pending ON objects (number) WHERE state IS NULL")
        except sqlite3.Error as error:
            raise _trouble(error) from error

    def counts(self) -> CensusCounts:
        """Count the objects."""
        try:
            row = self._database.execute(
                "SELECT count(*), total(state = 'confirmed'), total(state = 'failed'),"
                " total(places), total(places * (state IS NOT 'confirmed')) FROM objects"
            ).fetchone()
        except sqlite3.Error as error:
            raise _trouble(error) from error
        return CensusCounts(*map(int, row))

    def first_accepted_ms(self) -> int | None:
        """When the first of the pending ones was accepted, by the bridge's clock."""
        try:
            row = self._database.execute(
                "SELECT min(accepted_at) FROM objects WHERE state IS NULL"
            ).fetchone()
        except sqlite3.Error as error:
            raise _trouble(error) from error
        return None if row[0] is None else int(row[0])

    def pending(self, after: int, limit: int) -> list[Entry]:
        """The next objects behind a number that nothing is known of."""
        try:
            rows = self._database.execute(_PENDING, (after, limit)).fetchall()
        except sqlite3.Error as error:
            raise _trouble(error) from error
        return [_entry(row) for row in rows]

    def find(self, keys: Iterable[tuple[Lane, str]]) -> list[Entry]:
        """Those of these objects that are here and that nothing is known of."""
        found: list[Entry] = []
        try:
            for lane, external_id in keys:
                row = self._database.execute(
                    "SELECT number, store_id, object_type, external_id, changed_at, accepted_at,"
                    " places FROM objects WHERE state IS NULL"
                    " AND store_id = ? AND object_type = ? AND external_id = ?",
                    (*lane, external_id),
                ).fetchone()
                if row is not None:
                    found.append(_entry(row))
        except sqlite3.Error as error:
            raise _trouble(error) from error
        return found

    def judge(self, entries: Iterable[Entry]) -> None:
        """Note what has become known."""
        rows = [
            (
                member.state.value,
                member.error.type if member.error is not None else None,
                member.error.details if member.error is not None else None,
                number,
            )
            for number, member in entries
            if member.state is not SampleState.PENDING
        ]
        try:
            self._database.execute("BEGIN")
            self._database.executemany(
                "UPDATE objects SET state = ?, error = ?, details = ? WHERE number = ?", rows
            )
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            raise _trouble(error) from error

    def errors(self) -> Counter[str]:
        """The types of the errors of failed objects, with how many have each."""
        try:
            rows = self._database.execute(
                "SELECT coalesce(error, 'UNKNOWN_ERROR'), count(*) FROM objects"
                " WHERE state = 'failed' GROUP BY 1 ORDER BY 2 DESC"
            ).fetchall()
        except sqlite3.Error as error:
            raise _trouble(error) from error
        return Counter(dict(rows))

    def examples(self) -> list[SampledObject]:
        """A few failed objects, with their errors."""
        try:
            rows = self._database.execute(
                "SELECT number, store_id, object_type, external_id, changed_at, accepted_at,"
                " places, error, details FROM objects WHERE state = 'failed' ORDER BY number"
                " LIMIT ?",
                (_EXAMPLES,),
            ).fetchall()
        except sqlite3.Error as error:
            raise _trouble(error) from error
        found = []
        for *row, error_type, details in rows:
            member = _entry(tuple(row)).member
            member.state = SampleState.FAILED
            member.error = SyncError(type=error_type or "UNKNOWN_ERROR", details=details)
            found.append(member)
        return found

    def close(self) -> None:
        """Remove the file."""
        self._database.close()


Row = tuple[Any, ...]


def _runs(lines: list[SampleLine]) -> Iterator[tuple[bool, list[Row]]]:
    """The rows of lines, as many together as are of one kind: their order matters."""
    rows: list[Row] = []
    was_verdict = False
    for one in lines:
        is_verdict = one.accepted_at is None
        if is_verdict is not was_verdict and rows:
            yield was_verdict, rows
            rows = []
        was_verdict = is_verdict
        key = (one.store_id, one.object_type, one.external_object_id)
        what = (one.state, one.error, one.details)
        if is_verdict:
            rows.append((*what, *key, one.changed_at))
        else:
            rows.append((*key, one.changed_at, one.accepted_at, one.places, *what))
    if rows:
        yield was_verdict, rows


def _entry(row: Row) -> Entry:
    number, store_id, object_type, external_id, changed_at, accepted_at, places = row
    lane = Lane(store_id, object_type)
    accepted = Accepted(lane, external_id, changed_at, accepted_at, at_s=0.0)
    return Entry(number, SampledObject(accepted, slots=places))


def _trouble(error: sqlite3.Error) -> DiskError:
    return DiskError(f"the list of objects to confirm: {error}")
