"""Which errors are looked after, whose they are, and with what they are healed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import UNSET

from pusher.decoding import Decoder
from pusher.model import OBJECT_TYPES, Chunk, Lane, ObjectType, SyncMessage
from pusher.protocol import SyncError
from pusher.repairing import (
    FILLED_FROM_MS,
    OLDER_IN_A_ROW,
    Case,
    Casebook,
    Gathering,
    Sweep,
    in_batches,
)

LANE = Lane("s1", "DEAL")
BEGAN_MS = 1_700_000_000_000
DANGLING = "INVALID_ASSOCIATION_PROPERTY"


def error(external_id: str, *, after_ms: int = 10, changed_at: int = 5, **more: Any) -> SyncError:
    values = {
        "type": DANGLING,
        "details": "why",
        "status": "OPEN",
        "store_id": "s1",
        "object_type": "DEAL",
        "external_object_id": external_id,
        "changed_at": changed_at,
        "errored_at": BEGAN_MS + after_ms,
        **more,
    }
    return SyncError(**values)


def swept(*errors: SyncError, lanes: tuple[Lane, ...] = (), count_max: int = 100) -> Sweep:
    sweep = Sweep(BEGAN_MS, lanes, count_max)
    for one in errors:
        if not sweep.add(one):
            break
    return sweep


def book_of(*errors: SyncError) -> Casebook:
    book = Casebook()
    book.take(swept(*errors), OBJECT_TYPES)
    return book


def messages(*entries: tuple[str, int | None], kind: ObjectType = "DEAL") -> list[SyncMessage]:
    """Decoded messages of objects with these ids and times."""
    lines = [
        json.dumps(
            {
                "storeId": "s1",
                "objectType": kind,
                "externalObjectId": external_id,
                "properties": {"n": str(number)},
                **({} if at is None else {"changedAt": at}),
            }
        )
        for number, (external_id, at) in enumerate(entries)
    ]
    data = "\n".join(lines).encode()
    return Decoder().decode(Chunk(data, "in", 0, 1, len(lines)), FILLED_FROM_MS).messages


def gathered(book: Casebook, *entries: tuple[str, int | None], budget: int = 1 << 20) -> Gathering:
    gathering = Gathering(book.open(), budget)
    gathering.add(messages(*entries))
    gathering.conclude()
    return gathering


def resent(gathering: Gathering) -> dict[str, list[tuple[str, object]]]:
    return {
        case.external_id: [
            (json.loads(bytes(one.properties))["n"], one.changed_at) for one in found
        ]
        for case, found in gathering.messages()
    }


# Listings.


def test_errors_of_earlier_runs_of_other_lanes_and_resolved_ones_are_not_looked_after() -> None:
    sweep = swept(
        error("ours"),
        error("theirs", store_id="s2"),
        error("old", after_ms=-1),
        error("done", status="RESOLVED"),
        error("odd", object_type="COMPANY"),
        SyncError(),
        lanes=(LANE,),
    )
    assert list(sweep.found) == [(LANE, "ours")]


def test_the_newest_error_of_an_object_counts() -> None:
    sweep = swept(error("a", after_ms=9, type="NEW"), error("a", after_ms=3, type="OLD"))
    assert sweep.found[LANE, "a"].type == "NEW"


def test_two_listings_agree_when_they_hold_the_same_errors() -> None:
    one, other = error("a"), error("b", after_ms=9)
    assert swept(one, other).mark == swept(other, one).mark
    assert swept(one, other).mark != swept(one).mark
    assert swept(one).mark != swept(error("a", after_ms=11)).mark


def test_after_a_page_of_older_errors_no_more_is_wanted() -> None:
    sweep = Sweep(BEGAN_MS)
    older = error("old", after_ms=-1)
    assert all(sweep.add(older) for _ in range(OLDER_IN_A_ROW - 1))
    assert sweep.add(error("a"))
    assert all(sweep.add(older) for _ in range(OLDER_IN_A_ROW - 1))
    assert not sweep.add(older)


def test_what_is_not_listed_any_more_is_healed_within_the_types_that_were_listed() -> None:
    book = book_of(error("a"), error("b"), error("p", object_type="PRODUCT"))
    book.take(swept(error("b")), {"DEAL"})
    assert [case.external_id for case in book.open()] == ["b", "p"]
    counts = book.counts()[DANGLING]
    assert (counts.found, counts.healed, counts.left) == (3, 1, 2)


def test_beyond_the_end_of_a_listing_that_was_cut_nothing_counts_as_healed() -> None:
    book = book_of(error("a", after_ms=9), error("b", after_ms=5), error("c", after_ms=2))
    sweep = swept(error("x", after_ms=7), error("c", after_ms=4), error("y"), count_max=2)
    assert sweep.is_cut
    book.take(sweep, OBJECT_TYPES)
    healed = {case.external_id for case in book._cases.values() if not case.is_open}
    assert healed == {"a", "b"}, "they would have stood before the last one that was listed"
    book.take(swept(error("x"), error("y"), error("z"), count_max=2), OBJECT_TYPES)
    assert "c" in {case.external_id for case in book.open()}


def test_an_object_that_fails_anew_is_open_again_with_its_new_error() -> None:
    book = book_of(error("a"))
    book.take(swept(), OBJECT_TYPES)
    assert book.healed == 1
    book.take(swept(error("a", after_ms=99, type="UNKNOWN_ERROR")), OBJECT_TYPES)
    assert book.counts().keys() == {"UNKNOWN_ERROR"}


@pytest.mark.parametrize(
    ("kind", "is_healable"),
    [
        (DANGLING, True),
        ("UNKNOWN_ERROR", True),
        ("SETTINGS_NOT_ENABLED", True),
        ("NO_SYNC_SETTINGS", True),
        ("INVALID_EMAIL_ADDRESS", False),
        ("MISSING_REQUIRED_PROPERTY", False),
        ("SOMETHING_NEW", False),
    ],
)
def test_only_what_may_succeed_unchanged_is_sent_again(kind: str, is_healable: bool) -> None:  # noqa: FBT001
    assert bool(book_of(error("a", type=kind)).healable()) is is_healable


# The messages of an object.


def test_all_messages_of_an_object_go_out_in_their_order_up_to_the_one_that_failed() -> None:
    book = book_of(error("a", changed_at=7))
    found = gathered(book, ("a", 5), ("b", 6), ("a", 7))
    assert resent(found) == {"a": [("0", 5), ("2", 7)]}


def test_an_error_older_than_the_last_message_counts_as_healed_by_it() -> None:
    book = book_of(error("a", changed_at=5))
    assert resent(gathered(book, ("a", 5), ("a", 7))) == {}
    assert (book.open(), book.healed) == ([], 1)


def test_an_error_that_no_message_has_caused_is_somebody_elses() -> None:
    book = book_of(error("newer", changed_at=9), error("unknown"))
    assert resent(gathered(book, ("newer", 7))) == {}
    assert (book.foreign, book.open(), book.counts()) == (2, [], {})


def test_the_times_of_messages_need_not_ascend() -> None:
    book = book_of(error("a", changed_at=3))
    gathered(book, ("a", 3), ("a", 3))
    assert len(book.healable()) == 1
    late = book_of(error("a", changed_at=5))
    assert resent(gathered(late, ("a", 5), ("a", 3))) == {"a": [("0", 5), ("1", 3)]}


def test_a_message_without_a_time_keeps_the_one_that_it_was_sent_with() -> None:
    book = book_of(error("a", changed_at=900))
    assert resent(gathered(book, ("a", None), ("a", None))) == {"a": [("0", 899), ("1", 900)]}


def test_a_server_that_says_no_time_is_sent_all_of_them() -> None:
    book = book_of(error("a", changed_at=None))  # type: ignore[arg-type]
    assert resent(gathered(book, ("a", 5), ("a", None))) == {"a": [("0", 5), ("1", UNSET)]}


def test_another_store_or_type_with_the_same_id_is_another_object() -> None:
    book = book_of(error("a"))
    gathering = Gathering(book.open(), 1 << 20)
    gathering.add(messages(("a", 5), kind="PRODUCT"))
    gathering.conclude()
    assert not gathering.has_any
    assert book.foreign == 1


def test_what_does_not_fit_is_left_to_another_reading() -> None:
    book = book_of(*(error(f"id{number}") for number in range(10)))
    entries = [(f"id{number}", 5) for number in range(10)]
    first = gathered(book, *entries, budget=2_500)
    second = Gathering(first.postponed, 1 << 20)
    second.add(messages(*entries))
    second.conclude()
    assert 0 < len(resent(first)) < 10
    assert resent(first).keys() | resent(second).keys() == {name for name, _ in entries}
    assert not resent(first).keys() & resent(second).keys()


def test_of_an_object_that_alone_is_too_much_the_last_message_is_kept() -> None:
    book = book_of(error("a", changed_at=99))
    found = gathered(book, *(("a", at) for at in range(100)), budget=2_000)
    assert resent(found)["a"][-1] == ("99", 99)
    assert len(resent(found)["a"]) < 5


def test_lines_are_those_that_failed() -> None:
    book = book_of(error("a", changed_at=7, type="INVALID_DEAL_STAGE"))
    gathering = Gathering(book.open(), 1 << 20, wants_lines=True)
    [(place, case)] = gathering.add(messages(("a", 5), ("b", 7), ("a", 7)))
    assert (place, case.external_id) == (2, "a")
    gathering.keep_line(case, ("in", 3, 90, b"line"))
    assert list(gathering.lines()) == [(case, ("in", 3, 90, b"line"))]


def test_batches_are_of_one_lane_and_of_the_wanted_types() -> None:
    cases = [
        Case(lane, f"id{number}", book_of(error("a")).open()[0].failure)
        for number, lane in enumerate([LANE, Lane("s2", "DEAL"), Lane("s1", "LINE_ITEM")] * 5)
    ]
    entries = [(case, messages((case.external_id, 5))) for case in cases]
    lanes = in_batches(entries, frozenset({"DEAL"}), 2)
    assert lanes.keys() == {LANE, Lane("s2", "DEAL")}
    assert [len(batch) for batch in lanes[LANE]] == [2, 2, 1]
