"""Open lanes: the compiled ones do what the plain ones do, and nothing with what is wrong."""

from __future__ import annotations

import gc
import pickle
import random
import sys
import tracemalloc
from array import array
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from fakes.scanner import needs_scanner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pusher import plain
from pusher.decoding import HAS_SCANNER
from pusher.model import OBJECT_TYPES, Groups, Lane, ObjectType, origin_of
from pusher.protocol import BODY_END, body_head

if TYPE_CHECKING or HAS_SCANNER:
    from pusher._scanner import OpenLanes, scan, take_off

pytestmark = needs_scanner

PLAIN_STORES = ("s", "t", "magasin-é")
STORES = (*PLAIN_STORES, "", "店\U0001f600", 'a"b\\c')
PLAIN_IDS = ("a", "a", "b", "c" * 100, "1", "2", "3")
IDS = ("a", "a", "b", "c" * 100, 'd"', "e\\", "1", "2", "3")


def named(store_id: str, object_type: ObjectType) -> tuple[Lane, bytes]:
    lane = Lane(store_id, object_type)
    return lane, body_head(lane)


def open_lanes(
    *, keeps_order: bool = True, batch_size: int = 200, batch_bytes: int = 4 << 20
) -> OpenLanes:
    return OpenLanes(named, batch_size, batch_bytes, keeps_order)


def piece_of(ids: list[str]) -> bytes:
    return b",".join(b'{"id":"%d"}' % len(one) for one in ids)


def groups_of(stores: list[str]) -> Groups:
    """One message each, whose ids are their places."""
    lines = [
        b'{"storeId":"%b","objectType":"DEAL","externalObjectId":"%d","changedAt":1}'
        % (store.encode(), number)
        for number, store in enumerate(stores)
    ]
    scanned = scan(b"\n".join(lines), 0, None, None, -1)
    assert scanned is not None
    return scanned[0]


def scanned(name: Lane, ids: list[str], first_origin: int) -> Groups:
    """Messages of one lane."""
    lines = [
        orjson.dumps(
            {
                "storeId": name.store_id,
                "objectType": name.object_type,
                "externalObjectId": one,
                "changedAt": 1,
                "properties": {"number": str(number)},
            }
        )
        for number, one in enumerate(ids)
    ]
    found = scan(b"\n".join(lines), first_origin, None, None, -1)
    assert found is not None, lines
    return found[0]


class BothMachine(RuleBasedStateMachine):
    """The same is done to both, and seen of both."""

    keeps_order = True

    def __init__(self) -> None:
        super().__init__()
        self.fast = OpenLanes(named, 4, 1_000, self.keeps_order)
        self.plain = plain.OpenLanes(named, 4, 1_000, self.keeps_order)
        self.flying: list[tuple[Lane, Any, str, str]] = []
        self.origin = 0
        self.now_s = 0.0

    def both(self, name: Lane) -> tuple[Any, Any]:
        return self.fast.lane(*name), self.plain.lane(*name)

    def names(self) -> list[Lane]:
        return sorted(one.name for one in self.plain.all())

    lanes = st.builds(Lane, st.sampled_from(STORES), st.sampled_from(OBJECT_TYPES[:2]))
    plain_lanes = st.builds(Lane, st.sampled_from(PLAIN_STORES), st.sampled_from(OBJECT_TYPES[:2]))
    messages = st.lists(st.sampled_from(IDS), min_size=1, max_size=9)

    def given_of(self, ids: list[str]) -> tuple[str, list[int], float]:
        self.origin += 1
        self.now_s += 0.5
        origins = [origin_of(self.origin, index) for index in range(len(ids))]
        return "\xff".join(ids) if self.keeps_order else "", origins, self.now_s

    @rule(name=lanes, ids=messages, as_view=st.booleans())
    def extend(self, name: Lane, ids: list[str], *, as_view: bool) -> None:
        piece = piece_of(ids)
        what = self.given_of(ids)
        fast, other = self.both(name)
        self.fast.extend(fast, memoryview(piece) if as_view else piece, *what)
        self.plain.extend(other, piece, *what)

    @rule(name=plain_lanes, ids=st.lists(st.sampled_from(PLAIN_IDS), min_size=1, max_size=9))
    def add(self, name: Lane, ids: list[str]) -> None:
        """What lines hold; the plain one gets it in pieces."""
        _, origins, now_s = self.given_of(ids)
        groups, same = (scanned(name, ids, origins[0]) for _ in range(2))
        while True:
            left = groups.left()
            lane = self.fast.add(groups, now_s)
            if moved := left - groups.left():
                taken = same.first().take(moved, 1 << 20, True)
                assert taken is not None
                piece, some_ids, some_origins = taken
                some_ids = some_ids if self.keeps_order else ""
                self.plain.extend(self.plain.lane(*name), piece, some_ids, some_origins, now_s)
            if lane is None:
                break
            if lane.waiting is not None:
                groups.drop()
                self.plain.lane(*name)
                break
            self.take(name)
        assert groups.left() == 0

    @rule(numbers=st.sets(st.integers(1, 30), max_size=20))
    def copy_out(self, numbers: set[int]) -> None:
        self.fast.copy_out(list(numbers))
        self.plain.copy_out(list(numbers))

    @rule(name=lanes, ids=messages)
    def put(self, name: Lane, ids: list[str]) -> None:
        body = body_head(name) + piece_of(ids) + BODY_END
        what = self.given_of(ids)
        fast, other = self.both(name)
        if other.count:
            for lanes, lane in ((self.fast, fast), (self.plain, other)):
                with pytest.raises(ValueError, match="nothing is open"):
                    lanes.put(lane, body, *what)
            return
        self.fast.put(fast, body, *what)
        self.plain.put(other, body, *what)
        assert self.fast.body(fast) == body

    @rule(name=lanes)
    def take(self, name: Lane) -> None:
        fast, other = self.both(name)
        if not other.count:
            for lanes, lane in ((self.fast, fast), (self.plain, other)):
                with pytest.raises(ValueError, match="nothing is open"):
                    lanes.take(lane)
            return
        taken, expected = self.fast.take(fast), self.plain.take(other)
        assert taken[:3] == expected[:3]
        if self.keeps_order:
            self.flying.append((name, taken[3], expected[3], expected[1]))

    @precondition(lambda self: self.flying)
    @rule(place=st.integers(0))
    def land(self, place: int) -> None:
        name, marks, plain_marks, _ = self.flying.pop(place % len(self.flying))
        fast, other = self.both(name)
        self.fast.land(fast, marks)
        # The plain one takes what two batches have in common off at once, so it is asked anew.
        other.ids_in_flight = None
        self.plain.land(other, plain_marks)

    @rule(name=lanes)
    def meets(self, name: Lane) -> None:
        fast, other = self.both(name)
        open_ids = set(self.plain.ids(other).split("\xff")) if other.count else set()
        flying = {one for of, _, _, ids in self.flying if of == name for one in ids.split("\xff")}
        assert self.fast.meets_flying(fast) is not open_ids.isdisjoint(flying)

    @rule(name=lanes)
    def clear(self, name: Lane) -> None:
        fast, other = self.both(name)
        self.fast.clear(fast)
        self.plain.clear(other)

    @rule(name=lanes, waits=st.booleans())
    def wait(self, name: Lane, *, waits: bool) -> None:
        for lane in self.both(name):
            lane.waiting = ["something"] if waits else None

    @rule(name=lanes)
    def forget(self, name: Lane) -> None:
        fast, other = self.both(name)
        assert fast.is_idle == other.is_idle
        pairs: tuple[tuple[Any, Any], ...] = ((self.fast, fast), (self.plain, other))
        for lanes, lane in pairs:
            if lane.is_idle:
                lanes.forget(lane)
            else:
                with pytest.raises(ValueError, match="holds nothing"):
                    lanes.forget(lane)

    @invariant()
    def they_look_the_same(self) -> None:
        seen = []
        for lanes in (self.fast, self.plain):
            one: Any = lanes
            seen.append(
                (
                    one.lane_count,
                    one.open_count,
                    one.oldest.name if one.oldest else None,
                    [lane.name for lane in one.open()],
                    sorted(
                        (lane.name, lane.count, lane.flying, lane.body_bytes, lane.opened_at_s)
                        for lane in one.all()
                    ),
                    sorted((lane.name, one.body(lane), one.ids(lane)) for lane in one.all()),
                    sorted((lane.name, one.origins(lane)) for lane in one.all()),
                )
            )
        assert seen[0] == seen[1]
        assert bool(self.fast.held_bytes) == bool(self.plain.open_count)


class BothWithoutOrderMachine(BothMachine):
    keeps_order = False


BothMachine.TestCase.settings = settings(deadline=None, max_examples=80, stateful_step_count=40)
BothWithoutOrderMachine.TestCase.settings = settings(
    deadline=None, max_examples=30, stateful_step_count=30
)
TestBothInOrder = BothMachine.TestCase
TestBothWithoutOrder = BothWithoutOrderMachine.TestCase


def test_thousands_of_lanes_are_found_and_forgotten_in_any_order() -> None:
    rng, lanes = random.Random(1), open_lanes()
    names = [Lane(str(number), OBJECT_TYPES[number % 4]) for number in range(8_000)]
    known: dict[Lane, Any] = {}
    for _ in range(3):
        for name in rng.sample(names, 5_000):
            lane = lanes.lane(*name)
            assert known.setdefault(name, lane) is lane
        for name in rng.sample(sorted(known), len(known) * 3 // 4):
            lanes.forget(known.pop(name))
        assert {lane.name: lane for lane in lanes.all()} == known
        assert all(lanes.lane(*name) is lane for name, lane in known.items())
        assert lanes.lane_count == len(known)


def test_thousands_of_ids_in_flight_land_in_any_order() -> None:
    rng, lanes = random.Random(2), open_lanes()
    for _ in range(2):  # What the first round leaves behind shows in the second.
        flying: list[tuple[Any, str, bytes]] = []
        for number in range(12_000):
            lane = lanes.lane(str(number % 3), "DEAL")
            lanes.extend(lane, b"{}", str(number // 4), [number], 0.0)
            flying.append((lane, str(number // 4), lanes.take(lane)[3]))
        rng.shuffle(flying)
        while flying:
            lane, _, marks = flying.pop()
            lanes.land(lane, marks)
            if len(flying) % 500:
                continue
            for store in "012":
                lane = lanes.lane(store, "DEAL")
                there = {one for of, one, _ in flying if of is lane}
                for one in rng.sample(range(3_000), 100):
                    lanes.extend(lane, b"{}", str(one), [0], 0.0)
                    assert lanes.meets_flying(lane) is (str(one) in there)
                    lanes.clear(lane)
    assert all(lane.is_idle for lane in lanes.all())


Wrong = Callable[[OpenLanes, Any], object]
WRONG: dict[str, tuple[type[Exception], Wrong]] = {
    "no lane": (TypeError, lambda lanes, _: lanes.take("lane")),  # type: ignore[arg-type]
    "no origins": (ValueError, lambda lanes, one: lanes.put(one, b"x" * 99, "", [], 0.0)),
    "fewer ids": (ValueError, lambda lanes, one: lanes.extend(one, b"{}", "a", [1, 2], 0.0)),
    "more ids": (ValueError, lambda lanes, one: lanes.extend(one, b"{}", "a\xffb", [1], 0.0)),
    "a long id": (ValueError, lambda lanes, one: lanes.extend(one, b"{}", "a" * 101, [1], 0.0)),
    "an id of é": (ValueError, lambda lanes, one: lanes.extend(one, b"{}", "é", [1], 0.0)),
    "an id of 店": (ValueError, lambda lanes, one: lanes.extend(one, b"{}", "店", [1], 0.0)),
    "a put id": (ValueError, lambda lanes, one: lanes.put(one, b"x" * 99, "é", [1], 0.0)),
    "a float": (TypeError, lambda lanes, one: lanes.extend(one, b"{}", "a", [1.0], 0.0)),  # type: ignore[list-item]
    "a large origin": (OverflowError, lambda lanes, o: lanes.extend(o, b"", "a", [1 << 64], 0.0)),
    "a text": (TypeError, lambda lanes, one: lanes.extend(one, "{}", "a", [1], 0.0)),  # type: ignore[arg-type]
    "a short body": (ValueError, lambda lanes, one: lanes.put(one, b"{}", "a", [1], 0.0)),
    "not in flight": (ValueError, lambda lanes, one: lanes.land(one, b"12345678")),
    "a chunk": (TypeError, lambda lanes, _: lanes.copy_out([1.0])),  # type: ignore[list-item]
    "a large chunk": (OverflowError, lambda lanes, _: lanes.copy_out([1 << 64])),
    "no chunks": (TypeError, lambda lanes, _: lanes.copy_out(1)),  # type: ignore[arg-type]
    "a chunk to copy": (TypeError, lambda lanes, _: lanes.to_copy_bytes([1.0])),  # type: ignore[list-item]
    "no chunks to copy": (TypeError, lambda lanes, _: lanes.to_copy_bytes(1)),  # type: ignore[arg-type]
    "no groups": (TypeError, lambda lanes, _: lanes.add([], 0.0)),  # type: ignore[arg-type]
    "no type": (ValueError, lambda lanes, _: lanes.lane("s", "deal")),  # type: ignore[arg-type]
    "half a pair": (UnicodeEncodeError, lambda lanes, _: lanes.lane("\ud800", "DEAL")),
    "nothing open": (ValueError, lambda lanes, one: lanes.take(one)),
}


@pytest.mark.parametrize(("error", "wrong"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_changes_nothing(error: type[Exception], wrong: Wrong) -> None:
    lanes = open_lanes()
    lane = lanes.lane("s", "DEAL")
    with pytest.raises(error):
        wrong(lanes, lane)
    assert (lanes.lane_count, lanes.open_count, lanes.held_bytes, lane.count) == (1, 0, 0, 0)
    lanes.extend(lane, b"{}", "a", [1], 0.0)
    assert lanes.take(lane)[:3] == (body_head(lane.name) + b"{}" + BODY_END, "a", [1])


def test_a_lane_that_is_forgotten_or_of_others_is_not_used() -> None:
    lanes, others = open_lanes(), open_lanes(keeps_order=False)
    forgotten, foreign = lanes.lane("s", "DEAL"), others.lane("s", "DEAL")
    lanes.forget(forgotten)
    orphan = open_lanes().lane("s", "DEAL")
    for lane in (forgotten, foreign, orphan):
        uses: tuple[Wrong, ...] = (
            lambda lanes, one: lanes.extend(one, b"{}", "a", [1], 0.0),
            lambda lanes, one: lanes.put(one, b"x" * 99, "a", [1], 0.0),
            *(OpenLanes.take, OpenLanes.body, OpenLanes.ids, OpenLanes.origins),
            *(OpenLanes.clear, OpenLanes.meets_flying, OpenLanes.forget),
            lambda lanes, one: lanes.land(one, b""),
        )
        for use in uses:
            with pytest.raises(ValueError, match="forgotten, or of other lanes"):
                use(lanes, lane)
    assert (lanes.lane_count, lanes.open(), foreign.count) == (0, [], 0)


@given(
    st.lists(st.integers(0, 4), max_size=6),
    st.lists(st.integers(1, 9), max_size=12),
    st.integers(2, 5),
)
def test_as_many_are_taken_off_by_either(
    counts: list[int], chunks: list[int], first_chunk: int
) -> None:
    origins = [origin_of(number, place) for place, number in enumerate(chunks)]
    found: list[object] = []
    for one in (take_off, plain.take_off):
        left = array("q", counts)
        try:
            found.append((sorted(one(left, first_chunk, origins)), left))
        except AssertionError:
            found.append(None)
    assert found[0] == found[1]


@pytest.mark.parametrize("one", [plain.take_off] + ([take_off] if HAS_SCANNER else []))
@pytest.mark.parametrize("chunks", [[1, 1], [0], [3]])
def test_what_was_not_read_cannot_be_taken_off(
    one: Callable[..., object], chunks: list[int]
) -> None:
    with pytest.raises(AssertionError, match="settled more often than it was read"):
        one(array("q", [1, 1]), 1, [origin_of(number, 0) for number in chunks])


def test_counts_of_another_size_are_not_taken_off() -> None:
    with pytest.raises(TypeError, match="64 bits"):
        take_off(array("i", [1, 1]), 1, [origin_of(1, 0)])


def test_groups_are_a_sequence_that_outlives_what_is_taken_of_it() -> None:
    groups = groups_of(["s", "t", "s", "u"])
    assert [len(group) for group in groups] == [2, 1, 1]
    assert (groups[-1].store_id, groups[0].store_id, groups.left()) == ("u", "s", 4)
    for index in (3, -4):
        with pytest.raises(IndexError):
            groups[index]
    assert groups.first().take(1, 999, True) is not None
    assert (groups.left(), groups.first().store_id) == (3, "s")
    assert groups[0].drop() == 1
    assert (groups.left(), groups.first().store_id, len(groups)) == (2, "t", 3)
    last = groups[-1]
    assert groups.drop() == 2
    assert (groups.left(), groups.drop()) == (0, 0)
    with pytest.raises(IndexError, match="taken out"):
        groups.first()
    del groups
    assert (last.store_id, len(last)) == ("u", 0)


def test_a_body_that_was_taken_is_ordinary_bytes() -> None:
    lanes = open_lanes()
    assert lanes.add(groups_of(["s", "s"]), 0.0) is None
    lane = lanes.oldest
    assert lane is not None
    body = lanes.take(lane)[0]
    same = bytes(bytearray(body))
    assert type(body) is bytes
    assert (body, hash(body), len(body), body[:-1]) == (same, hash(same), len(same), same[:-1])
    assert (sys.getsizeof(body), pickle.loads(pickle.dumps(body))) == (sys.getsizeof(same), same)  # noqa: S301 - its own


def test_bodies_to_come_are_as_large_as_a_batch_even_after_a_larger_message() -> None:
    lanes = open_lanes(batch_bytes=1_000)
    large = scan(
        b'{"storeId":"s","objectType":"DEAL","externalObjectId":"1","changedAt":1,"properties":'
        b'{"a":"%b"}}' % (b"x" * 5_000),
        0,
        None,
        None,
        -1,
    )
    assert large is not None
    full = lanes.add(large[0], 0.0)
    assert full is not None
    lanes.take(full)
    lanes.add(groups_of([str(number) for number in range(50)]), 0.0)
    assert lanes.to_come_bytes(2) == 2 * 1_000
    assert 2 * 1_000 < lanes.to_come_bytes(50) < 50 * 1_000


def test_bodies_to_come_are_those_of_messages_that_are_not_copied_yet() -> None:
    lanes = open_lanes()
    assert lanes.to_come_bytes(5) == 0
    lanes.add(groups_of(["s", "s", "s", "t"]), 0.0)
    large, small = (lanes.lane(store, "DEAL") for store in "st")
    ends = len(BODY_END)
    heads = [len(body_head(lane.name)) for lane in (large, small)]
    of_large, of_small = large.body_bytes - heads[0] - ends, small.body_bytes - heads[1] - ends
    assert lanes.to_come_bytes(1) == large.body_bytes - ends
    assert lanes.to_come_bytes(0) == lanes.to_come_bytes(-1) == 0
    assert lanes.to_come_bytes(2) == lanes.to_come_bytes(1 << 62) == of_large + of_small + 2
    lanes.take(small)
    assert lanes.to_come_bytes(2) == of_large + 1
    lanes.copy_out([0])
    assert lanes.to_come_bytes(2) == 0
    assert lanes.held_bytes > large.body_bytes
    lanes.take(large)
    assert lanes.held_bytes == 0


def used_lanes() -> None:
    """Lanes that are let go of with something in every place."""
    lanes = open_lanes()
    lanes.add(groups_of([str(number) for number in range(100)]), 0.0)
    for number, lane in enumerate(lanes.all()):
        lane.waiting = [number]
        if number % 2:
            lanes.take(lane)
        if number % 3:
            lanes.extend(lane, b"{}", "a", [1], 0.0)
        if number % 5 == 0:
            with pytest.raises(ValueError, match="ids"):
                lanes.extend(lane, b"{}", "a", [1, 2], 0.0)


def test_lanes_that_are_let_go_leave_nothing_behind() -> None:
    used_lanes()
    gc.collect()
    tracemalloc.start()
    try:
        used_lanes()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(20):
            used_lanes()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 20_000


def take_all(lanes: OpenLanes, groups: Groups, taken: list[list[int]], place: int) -> None:
    """Into a list that has room: it would lose what it was given where it could not grow."""
    while (lane := lanes.add(groups, 0.0)) is not None:
        taken[place] = lanes.take(lane)[2]
        place += 1
    while (lane := lanes.oldest) is not None:
        taken[place] = lanes.take(lane)[2]
        place += 1


def test_without_memory_nothing_is_lost_or_counted_twice() -> None:
    """Names are made before, as only the lanes are of interest here."""
    api = pytest.importorskip("_testcapi")
    names = {store: named(store, "DEAL") for store in "stu"}
    failures = 0
    for nth in range(120):
        lanes = OpenLanes(lambda store, _: names[store], 3, 4 << 20, keeps_order=True)
        groups, taken = groups_of(["s", "t", "s", "u", "s"]), [list[int]()] * 20
        api.set_nomemory(nth, nth + 2)
        try:
            take_all(lanes, groups, taken, 0)
        except MemoryError:
            failures += 1
        finally:
            api.remove_mem_hooks()
        known = lanes.all()
        left = sum(lane.count for lane in known) + groups.left()
        assert sum(map(len, taken)) + left == 5
        assert lanes.open_count == sum(lane.count > 0 for lane in known)
        take_all(lanes, groups, taken, 10)
        assert sorted(chain.from_iterable(taken)) == list(range(5))
        assert (lanes.held_bytes, lanes.open_count) == (0, 0)
    assert failures > 10


def test_what_is_to_be_copied_includes_what_is_open_before_it() -> None:
    lanes, name = open_lanes(), Lane("s", "DEAL")
    ends = len(body_head(name)) + len(BODY_END) - 1  # A comma is counted with each message.
    sizes = []
    for number in (1, 2, 3):
        lanes.add(scanned(name, ["a", "b"], origin_of(number, 0)), 0.0)
        sizes.append(lanes.lane(*name).body_bytes - ends)
    lanes.add(scanned(Lane("t", "DEAL"), ["a"], origin_of(4, 0)), 0.0)
    assert lanes.to_copy_bytes([]) == lanes.to_copy_bytes([9]) == 0
    assert [lanes.to_copy_bytes([number]) for number in (1, 2, 3)] == sizes
    assert lanes.to_copy_bytes([2, 1]) == sizes[1]
    assert lanes.to_copy_bytes([3, 4]) == lanes.to_come_bytes(1 << 62)
    lanes.copy_out([2])
    assert lanes.to_copy_bytes([1, 2]) == 0
    assert lanes.to_copy_bytes([3]) == sizes[2] - sizes[1]


def test_groups_are_not_added_while_they_are_added() -> None:
    groups = groups_of(["s"])

    def name_and_add(store_id: str, object_type: ObjectType) -> tuple[Lane, bytes]:
        if groups.left():
            inner.add(groups, 0.0)
        return named(store_id, object_type)

    inner, lanes = open_lanes(), OpenLanes(name_and_add, 200, 4 << 20, True)
    with pytest.raises(RuntimeError, match="added meanwhile"):
        lanes.add(groups, 0.0)
    assert (inner.open_count, lanes.open_count) == (1, 0)
