"""Objects and associations, looked at by partition: the same as looking at all of them at once."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pusher.crosschecking import ObjectCounts, object_records, reference_records
from pusher.errors import DiskError, UsageError
from pusher.findings import Findings, place_at
from pusher.model import OBJECT_TYPES, ObjectType, SyncMessage
from pusher.record_spool import RecordSpool

AMPLE_BYTES = 1 << 20
TINY_BYTES = 64
"""Room for one object and a record: everything goes to the disk, and is divided again and again."""


class Change(NamedTuple):
    store: str
    object_type: ObjectType
    external_id: str
    changed_at_ms: int
    is_delete: bool
    is_whole: bool
    points_at: tuple[tuple[ObjectType, str], ...]


types = st.sampled_from(OBJECT_TYPES)
ids = st.sampled_from(["1", "2", "3", "4"])
changes = st.builds(
    Change,
    store=st.sampled_from(["a", "b"]),
    object_type=types,
    external_id=ids,
    changed_at_ms=st.integers(0, 4),
    is_delete=st.booleans(),
    is_whole=st.booleans(),
    points_at=st.lists(st.tuples(types, ids), max_size=2).map(tuple),
)


def expected(stream: list[Change]) -> Counter[str]:
    """The same, the slow way: with everything at hand."""
    found: Counter[str] = Counter()
    objects: dict[tuple[str, str, str], list[Change]] = {}
    created_at: dict[tuple[str, str, str], int] = {}
    for number, change in enumerate(stream):
        key = (change.store, change.object_type, change.external_id)
        earlier = objects.setdefault(key, [])
        ways = {
            one.object_type for one in stream[:number] if (one.store, one.external_id) == key[::2]
        }
        if not earlier:
            found["missing_email"] += not change.is_delete and not change.is_whole
            found["shared_id"] += len(ways) == 1
        found["changed_again"] += len(earlier) == 1
        applied = [one for one in earlier if one.changed_at_ms >= 0]
        if any(one.is_delete for one in applied):
            found["after_delete"] += 1
            objects[key].append(change._replace(changed_at_ms=-1))
            continue
        newest = max((one.changed_at_ms for one in applied), default=-1)
        if change.changed_at_ms < newest:
            found["stale"] += 1
            objects[key].append(change._replace(changed_at_ms=-1, is_delete=False))
            continue
        found["same_time"] += change.changed_at_ms == newest
        objects[key].append(change)
        if not change.is_delete:
            created_at.setdefault(key, number)
    for number, change in enumerate(stream):
        for to_type, external_id in change.points_at:
            made = created_at.get((change.store, to_type, external_id))
            if made is None:
                found["dangling_association"] += 1
            elif made > number:
                found["later_target"] += 1
    return +found


def spooled(spool: RecordSpool, stream: list[Change]) -> tuple[Findings, ObjectCounts]:
    findings = Findings()
    for number, change in enumerate(stream):
        message = SyncMessage(
            change.external_id,
            store_id=change.store,
            object_type=change.object_type,
            action="DELETE" if change.is_delete else "UPSERT",
            changed_at=change.changed_at_ms,
        )
        place = place_at(0, number + 1)
        spool.add(object_records([message], [place], [change.is_whole]))
        for to_type, external_id in change.points_at:
            spool.add(reference_records(message, to_type, [external_id], place))
    return findings, spool.resolve(findings)


KINDS = (
    "missing_email",
    "shared_id",
    "changed_again",
    "after_delete",
    "stale",
    "same_time",
    "dangling_association",
    "later_target",
)


@pytest.mark.parametrize("memory_bytes", [AMPLE_BYTES, TINY_BYTES])
@given(stream=st.lists(changes, max_size=30))
def test_partitions_say_the_same_as_all_of_it(memory_bytes: int, stream: list[Change]) -> None:
    with RecordSpool(memory_bytes) as spool:
        findings, counts = spooled(spool, stream)
    found = Counter({kind: findings.count(kind) for kind in KINDS})
    assert +found == expected(stream)
    objects = {(one.store, one.object_type, one.external_id) for one in stream}
    assert counts.distinct.total() == len(objects)
    assert counts.associations == sum(len(one.points_at) for one in stream)


def plain(number: int) -> Change:
    contact = (("CONTACT", f"c{number}"),)
    return Change("a", "DEAL", f"d{number}", 1, is_delete=False, is_whole=True, points_at=contact)  # type: ignore[arg-type]


def test_the_first_lines_are_the_first_of_the_input_whatever_the_partition() -> None:
    with RecordSpool(TINY_BYTES) as spool:
        findings, _ = spooled(spool, [plain(number) for number in range(300)])
    (found,) = findings.listed(["in"])
    assert (found.kind, found.of, found.count) == ("dangling_association", "DEAL to CONTACT", 300)
    assert found.lines == [f"in:{number}" for number in range(1, 6)]


def test_what_does_not_fit_goes_to_the_folder_that_is_given_and_leaves_no_file(
    tmp_path: Path,
) -> None:
    with RecordSpool(AMPLE_BYTES, tmp_path / "ample") as spool:
        spooled(spool, [plain(1)])
        assert spool.spooled_bytes == 0  # A folder that is not needed need not exist.
    with RecordSpool(TINY_BYTES, tmp_path) as spool:
        _, counts = spooled(spool, [plain(number) for number in range(100)])
        assert spool.spooled_bytes >= 100 * 2 * 24
        assert list(tmp_path.iterdir()) == []
    assert +counts.distinct == {"DEAL": 100}


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with (
        RecordSpool(TINY_BYTES, tmp_path / "nowhere") as spool,
        pytest.raises(UsageError, match="nowhere"),
    ):
        spooled(spool, [plain(1), plain(2)])


def test_a_full_disk_is_an_error_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr("pusher.record_spool._nameless_file", lambda _: full)
    with (
        RecordSpool(TINY_BYTES, tmp_path) as spool,
        pytest.raises(DiskError, match="No space left on device"),
    ):
        spooled(spool, [plain(1), plain(2)])


def test_a_very_late_time_is_not_taken_for_an_early_one() -> None:
    late = plain(1)._replace(changed_at_ms=2**63 - 1, points_at=())
    with RecordSpool(AMPLE_BYTES) as spool:
        findings, _ = spooled(spool, [late, late._replace(changed_at_ms=1_600_000_000_000)])
    assert findings.count("stale") == 1
