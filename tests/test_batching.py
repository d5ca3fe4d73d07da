"""Batching: full batches, in order per object, never one object in two batches at a time."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from unittest.mock import patch

import msgspec
import pytest
from fakes.scanner import needs_scanner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Raw

from pusher import batching
from pusher.batching import Batcher
from pusher.decoding import Decoder
from pusher.model import Batch, Chunk, Lane, ObjectType, SyncMessage, chunk_counts, place_of
from pusher.plain import OpenLanes as PlainLanes
from pusher.protocol import encode_messages

DEAL_LANE = Lane("s", "DEAL")


def message_of(
    external_id: str, number: int = 0, *, lane: Lane = DEAL_LANE, size: int = 0
) -> SyncMessage:
    """A message whose `changed_at` says which one it is."""
    properties = Raw(json.dumps({"p": "x" * size}).encode()) if size else Raw(b"{}")
    return SyncMessage(external_id, lane.store_id, lane.object_type, "UPSERT", number, properties)


def chunk_of(messages: list[SyncMessage], number: int = 1) -> Chunk:
    data = b"".join(msgspec.json.encode(message) + b"\n" for message in messages)
    return Chunk(data, "in", 0, 1, len(messages), number=number)


def feeding(
    batcher: Batcher,
    messages: list[SyncMessage],
    *,
    number: int = 1,
    now_s: float = 0.0,
    as_groups: bool,
) -> Iterator[Batch]:
    """Give a batcher a chunk: its messages, or groups of them by lane as the scanner finds them."""
    chunk = chunk_of(messages, number)
    if not as_groups:
        return batcher.add(messages, range(len(messages)), chunk, now_s)
    groups = Decoder(takes_groups=True).decode(chunk, 0).groups
    assert groups is not None
    assert groups.left() == len(messages)
    return batcher.add_groups(groups, chunk, now_s)


either_way = pytest.mark.parametrize(
    "as_groups",
    [pytest.param(False, id="messages"), pytest.param(True, id="groups", marks=needs_scanner)],
)
Add = Callable[..., list[Batch]]


@pytest.fixture(
    params=[
        pytest.param(((False,), PlainLanes), id="messages-in-plain-lanes"),
        pytest.param(((False,), batching.OpenLanes), id="messages", marks=needs_scanner),
        pytest.param(((True,), batching.OpenLanes), id="groups", marks=needs_scanner),
        pytest.param(
            ((False, True), batching.OpenLanes), id="messages-then-groups", marks=needs_scanner
        ),
        pytest.param(
            ((True, False), batching.OpenLanes), id="groups-then-messages", marks=needs_scanner
        ),
    ]
)
def add(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Add:
    """Gives a batcher one chunk after the other, in the one way or the other, or by turns."""
    ways, lanes = request.param
    monkeypatch.setattr(batching, "OpenLanes", lanes)
    ways = itertools.cycle(ways)

    def add(
        batcher: Batcher, messages: list[SyncMessage], *, number: int = 1, now_s: float = 0.0
    ) -> list[Batch]:
        way = next(ways)
        return list(feeding(batcher, messages, number=number, now_s=now_s, as_groups=way))

    return add


def numbers(batches: Iterable[Batch]) -> list[int]:
    return [message.changed_at for batch in batches for message in batch.messages]  # type: ignore[misc]


def ids_of(batch: Batch) -> set[str | int]:
    return {message.external_object_id for message in batch.messages}


def sizes(batches: Iterable[Batch]) -> list[int]:
    return [len(batch) for batch in batches]


def test_a_batch_leaves_when_it_is_full(add: Add) -> None:
    batcher = Batcher(batch_size=3)
    batches = add(batcher, [message_of(f"o{n}", n) for n in range(7)])
    assert sizes(batches) == [3, 3]
    assert numbers(batches) == list(range(6))
    assert numbers(batcher.drain()) == [6]


def test_the_default_batch_is_two_hundred_messages(add: Add) -> None:
    batches = add(Batcher(), [message_of(f"o{n}", n) for n in range(401)])
    assert sizes(batches) == [200, 200]


def test_a_batch_has_one_store_and_one_type(add: Add) -> None:
    types: list[ObjectType] = ["CONTACT", "DEAL"]
    lanes = [Lane(store, kind) for store in ("s", "t") for kind in types]
    batcher = Batcher()
    add(batcher, [message_of("o", n, lane=lanes[n % 4]) for n in range(40)])
    batches = list(batcher.drain())
    assert [batch.lane for batch in batches] == lanes
    assert sizes(batches) == [10, 10, 10, 10]


def test_a_body_is_what_the_reference_wants(add: Add) -> None:
    batcher = Batcher()
    add(batcher, [message_of("a", 1), message_of("b", 2)])
    (batch,) = batcher.drain()
    body = json.loads(batch.body)
    assert (body["storeId"], body["objectType"]) == ("s", "DEAL")
    assert [one["externalObjectId"] for one in body["messages"]] == ["a", "b"]
    assert "storeId" not in body["messages"][0]
    assert "objectType" not in body["messages"][0]


def test_several_messages_of_one_object_may_share_a_batch_in_source_order(add: Add) -> None:
    batcher = Batcher()
    add(batcher, [message_of("hot", n) for n in range(5)])
    assert numbers(batcher.drain()) == [0, 1, 2, 3, 4]


def test_a_message_waits_while_its_object_is_in_flight(add: Add) -> None:
    batcher = Batcher(batch_size=2)
    (first,) = add(batcher, [message_of("hot", 0), message_of("a", 1)])
    assert add(batcher, [message_of("hot", 2), message_of("b", 3)], number=2) == []
    assert batcher.waiting_count == 1
    (second,) = batcher.drain()
    assert numbers([second]) == [3]
    assert list(batcher.turns(0.0)) == []
    batcher.release(first)
    assert batcher.has_turns
    assert batcher.has_turns
    assert numbers([*batcher.turns(0.0), *batcher.drain()]) == [2]
    assert batcher.waiting_count == 0


def test_releasing_what_nobody_waits_for_frees_nothing(add: Add) -> None:
    batcher = Batcher(batch_size=1)
    (batch,) = add(batcher, [message_of("a")])
    batcher.release(batch)
    assert not batcher.has_turns
    assert not batcher.has_turns


def test_without_order_nothing_waits(add: Add) -> None:
    batcher = Batcher(batch_size=2, keep_order=False)
    batches = add(batcher, [message_of("hot", n) for n in range(6)])
    assert numbers(batches) == list(range(6))
    assert sizes(batches) == [2, 2, 2]
    assert batcher.waiting_count == 0
    batcher.release(batches[0])
    assert not batcher.has_turns


def test_a_hot_key_goes_out_two_hundred_at_a_time(add: Add) -> None:
    """10,000 messages of one object are 50 requests, in time that does not grow with the square."""
    batcher = Batcher()
    started_s = time.perf_counter()
    ready = []
    for start in range(0, 10_000, 1_000):
        messages = [message_of("hot", n) for n in range(start, start + 1_000)]
        ready += add(batcher, messages, number=start + 1)
    sent = []
    while ready:
        assert len(ready) == 1
        batch = ready.pop()
        sent.append(batch)
        batcher.release(batch)
        ready += batcher.turns(0.0)
        ready += batcher.finish()
    assert sizes(sent) == [200] * 50
    assert numbers(sent) == list(range(10_000))
    assert time.perf_counter() - started_s < 5


def test_a_hot_key_beside_an_almost_full_lane_stays_cheap(add: Add) -> None:
    batcher = Batcher()
    (first,) = add(batcher, [message_of("hot", n) for n in range(200)])
    add(batcher, [message_of(f"o{n}", n) for n in range(199)], number=2)
    started_s = time.perf_counter()
    for number in (3, 4):
        assert add(batcher, [message_of("hot", n) for n in range(5_000)], number=number) == []
    assert time.perf_counter() - started_s < 5
    assert batcher.waiting_count == 10_000
    batcher.release(first)
    assert batcher.has_turns


# Sizes in bytes


def test_no_body_is_larger_than_the_limit(add: Add) -> None:
    batcher = Batcher(batch_bytes=4_000)
    messages = [message_of(f"o{n}", n, size=900) for n in range(20)]
    batches = [*add(batcher, messages), *batcher.drain()]
    assert numbers(batches) == list(range(20))
    assert all(len(batch.body) <= 4_000 for batch in batches)
    assert max(sizes(batches)) >= 3


def test_a_message_larger_than_the_limit_goes_alone(add: Add) -> None:
    batcher = Batcher(batch_bytes=2_000)
    messages = [message_of("a", 0), message_of("big", 1, size=9_000), message_of("b", 2)]
    batches = [*add(batcher, messages), *batcher.drain()]
    assert numbers(batches) == [0, 1, 2]
    (big,) = [batch for batch in batches if len(batch.body) > 2_000]
    assert numbers([big]) == [1]


def test_long_ids_count_too(add: Add) -> None:
    batcher = Batcher(batch_bytes=5_000)
    messages = [message_of(f"{n:0100d}", n) for n in range(200)]
    batches = [*add(batcher, messages), *batcher.drain()]
    assert all(len(batch.body) <= 5_000 for batch in batches)
    assert numbers(batches) == list(range(200))


def test_large_messages_of_a_small_batch_do_not_pile_up(add: Add) -> None:
    """Bodies stay in the limit although few messages are open."""
    batcher = Batcher(batch_bytes=1 << 20)
    batches = []
    for number in range(1, 11):
        batches += add(batcher, [message_of(f"o{number}", number, size=600_000)], number=number)
    assert len(batches) >= 4


def test_a_body_has_at_most_so_many_bytes_to_the_byte(add: Add) -> None:
    """What a limit lets through does not depend on how messages came; see `feeding`."""

    def batches_within(limit_bytes: int, chunk: int) -> list[Batch]:
        batcher = Batcher(batch_bytes=limit_bytes)
        messages = [message_of(f"o{n}", n, size=50 + n) for n in range(12)]
        batches = []
        for start in range(0, 12, chunk):
            batches += add(batcher, messages[start : start + chunk], number=1 + start)
        return [*batches, *batcher.drain()]

    (whole,) = batches_within(1 << 20, 12)
    size_bytes = len(whole.body)
    for chunk in (12, 5, 1):
        for limit_bytes in range(size_bytes // 3 - 3, size_bytes // 3 + 3):
            batches = batches_within(limit_bytes, chunk)
            assert numbers(batches) == list(range(12))
            assert all(len(batch.body) <= limit_bytes for batch in batches)
            for batch, after in itertools.pairwise(batches):
                (first,) = after.part(0, 1).messages
                more = len(encode_messages(batch.lane, [*batch.messages, first]))
                assert more > limit_bytes
        assert sizes(batches_within(size_bytes, chunk)) == [12]
        assert sizes(batches_within(size_bytes - 1, chunk)) == [11, 1]


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("over", [-1, 0, 1])
def test_one_message_about_as_large_as_a_body_may_be_goes_alone(
    before: int, over: int, add: Add
) -> None:
    limit_bytes = len(encode_messages(DEAL_LANE, [message_of("big", 9, size=500)]))
    batcher = Batcher(batch_bytes=limit_bytes + over)
    add(batcher, [message_of("a", 1)] * before)
    batches = add(batcher, [message_of("big", 9, size=500), message_of("b", 10)], number=2)
    assert numbers([*batches, *batcher.drain()]) == [1] * before + [9, 10]
    assert sizes(batches)[-1:] == [1]
    assert batcher.held_bytes == batcher.open_lane_count == 0


# Time


def test_lanes_expire_oldest_first(add: Add) -> None:
    batcher = Batcher()
    for number, store in enumerate(("old", "middle", "new"), 1):
        lane = Lane(store, "DEAL")
        add(batcher, [message_of("a", number, lane=lane)], number=number, now_s=float(number))
    assert batcher.oldest_opened_at_s == 1.0
    assert numbers(batcher.expired(0.5)) == []
    assert numbers(batcher.expired(2.0)) == [1, 2]
    assert batcher.open_lane_count == 1
    assert batcher.oldest_opened_at_s == 3.0


def test_a_lanes_age_counts_from_its_first_message(add: Add) -> None:
    batcher = Batcher()
    add(batcher, [message_of("a", 1)], now_s=1.0)
    add(batcher, [message_of("b", 2)], number=2, now_s=9.0)
    assert numbers(batcher.expired(1.0)) == [1, 2]


def test_the_oldest_lane_can_be_let_go(add: Add) -> None:
    batcher = Batcher()
    for number, store in enumerate(("old", "new"), 1):
        add(batcher, [message_of("a", number, lane=Lane(store, "DEAL"))], number=number)
    assert numbers(batcher.oldest()) == [1]
    assert numbers(batcher.oldest()) == [2]
    assert numbers(batcher.oldest()) == []
    assert batcher.oldest_opened_at_s is None


def test_at_the_end_a_lane_with_waiting_messages_goes_as_one_batch(add: Add) -> None:
    batcher = Batcher(batch_size=3)
    (first,) = add(batcher, [message_of("hot", 0), message_of("a", 1), message_of("b", 2)])
    add(batcher, [message_of("hot", 3), message_of("c", 4), message_of("hot", 5)], number=2)
    assert list(batcher.finish()) == []
    batcher.release(first)
    rest = [*batcher.turns(0.0), *batcher.finish()]
    assert sizes(rest) == [3]
    assert sorted(numbers(rest)) == [3, 4, 5]


# Origins


def test_origins_say_which_line_of_which_chunk(add: Add) -> None:
    batcher = Batcher(batch_size=4)
    chunk = chunk_of([message_of("x")] * 9, 7)
    messages = [message_of("a", 0), message_of("b", 1)]
    assert list(batcher.add(messages, [2, 8], chunk, 0.0)) == []
    add(batcher, [message_of("c", 2)], number=9)
    (batch,) = batcher.drain()
    assert [place_of(origin) for origin in batch.origins] == [(7, 2), (7, 8), (9, 0)]
    assert list(chunk_counts(batch.origins)) == [(7, 2), (9, 1)]


def test_a_message_without_a_store_cannot_join_a_lane() -> None:
    message = SyncMessage("a")
    with pytest.raises(TypeError, match="store"):
        list(feeding(Batcher(), [message], as_groups=False))


@needs_scanner
def test_origins_of_groups_count_the_lines_of_the_whole_chunk() -> None:
    lanes = [DEAL_LANE, Lane("t", "DEAL")]
    batcher = Batcher(batch_size=3)
    chunk = chunk_of([message_of(f"o{n}", n, lane=lanes[n % 2]) for n in range(8)], 7)
    chunk.data = chunk.data.replace(b"\n", b"\n \n")  # Blank lines do not count.
    groups = Decoder(takes_groups=True).decode(chunk, 0).groups
    assert groups is not None
    batches = [*batcher.add_groups(groups, chunk, 0.0), *batcher.drain()]
    assert numbers(batches) == [0, 2, 4, 1, 3, 5, 6, 7]
    for batch in batches:
        assert [place_of(origin) for origin in batch.origins] == [(7, n) for n in numbers([batch])]


# What is let go of


@either_way
def test_nothing_more_comes_of_a_chunk_that_is_withdrawn_while_it_is_added(
    *, as_groups: bool
) -> None:
    batcher = Batcher(batch_size=2)
    lanes = [DEAL_LANE, Lane("t", "DEAL"), Lane("u", "CONTACT")]
    messages = [message_of(f"o{n}", n, lane=lanes[n % 3]) for n in range(18)]
    list(feeding(batcher, [message_of("other", 99)], number=4, as_groups=as_groups))
    adding = feeding(batcher, messages, number=5, as_groups=as_groups)
    batches = [next(adding), next(adding)]
    assert batcher.withdraw({5}) == {5: 18 - (len(numbers(batches)) - (99 in numbers(batches)))}
    assert list(adding) == []
    assert batcher.find({5}) == {}
    assert batcher.withdraw({5}) == {}
    batches += batcher.drain()
    assert 99 in numbers(batches)
    for batch in batches:
        batcher.release(batch)
    assert batcher.held_bytes == batcher.lane_count == batcher.open_lane_count == 0


@either_way
def test_nothing_more_comes_of_a_withdrawn_chunk_although_some_of_it_had_to_wait(
    *, as_groups: bool
) -> None:
    batcher = Batcher(batch_size=2)
    flying = list(feeding(batcher, [message_of("hot", 0), message_of("a", 1)], as_groups=as_groups))
    messages = [message_of("hot", n) for n in (2, 3)]
    messages += [message_of(f"o{n}", n) for n in range(4, 11)]
    adding = feeding(batcher, messages, number=2, as_groups=as_groups)
    flying.append(next(adding))
    assert batcher.waiting_count == 2
    assert batcher.withdraw({2}) == {2: 7}
    assert list(adding) == []
    for batch in flying:
        batcher.release(batch)
    assert not batcher.has_turns
    assert batcher.waiting_count == batcher.held_bytes == batcher.lane_count == 0


@either_way
def test_another_chunk_may_be_withdrawn_while_one_is_added(*, as_groups: bool) -> None:
    batcher = Batcher(batch_size=4)
    list(feeding(batcher, [message_of("a", 1), message_of("b", 2)], number=1, as_groups=as_groups))
    lane = Lane("t", "DEAL")
    messages = [message_of(f"o{n}", n, lane=lane) for n in range(10, 15)] + [message_of("c", 3)]
    adding = feeding(batcher, messages, number=2, as_groups=as_groups)
    (full,) = [next(adding)]
    assert batcher.withdraw({1}) == {1: 2}  # Its lane is forgotten, and comes again.
    batches = [full, *adding, *batcher.drain()]
    assert sorted(numbers(batches)) == [3, 10, 11, 12, 13, 14]
    assert batcher.held_bytes == 0


@either_way
def test_a_lane_may_come_to_rest_while_it_is_added_to(*, as_groups: bool) -> None:
    batcher = Batcher(batch_size=1)
    messages = [message_of(f"o{n % 2}", n) for n in range(6)]
    sent = []
    for batch in feeding(batcher, messages, as_groups=as_groups):
        sent += numbers([batch])
        batcher.release(batch)
        assert batcher.lane_count <= 1
    assert sent == list(range(6))
    assert batcher.held_bytes == batcher.lane_count == 0


@either_way
def test_what_was_not_added_when_sending_ended_can_still_be_withdrawn(*, as_groups: bool) -> None:
    batcher = Batcher(batch_size=2)
    adding = feeding(batcher, [message_of(f"o{n}", n) for n in range(9)], as_groups=as_groups)
    first = next(adding)
    del adding
    assert batcher.withdraw({1}) == {1: 7}
    batcher.release(first)
    assert batcher.held_bytes == batcher.lane_count == 0


@needs_scanner
@pytest.mark.parametrize("is_copied_out", [False, True])
def test_a_chunk_is_held_while_messages_of_it_are_open(*, is_copied_out: bool) -> None:
    batcher = Batcher(batch_size=4)
    chunk = chunk_of([message_of(f"o{n}", n) for n in range(10)])
    of_chunk = partial(sys.getrefcount, chunk.data)
    before = of_chunk()
    groups = Decoder(takes_groups=True).decode(chunk, 0).groups
    assert groups is not None
    batches = list(batcher.add_groups(groups, chunk, 0.0))
    del groups
    assert of_chunk() == before + 1
    if is_copied_out:
        batcher.copy_out([chunk.number + 1])
        assert of_chunk() == before + 1
        batcher.copy_out([chunk.number])
    else:
        batches += batcher.drain()
        assert [len(batch) for batch in batches] == [4, 4, 2]
    assert of_chunk() == before
    batches += batcher.drain()
    ids = [message.external_object_id for batch in batches for message in batch.messages]
    assert ids == [f"o{n}" for n in range(10)]
    assert batcher.held_bytes == 0


# Any sequence of events

STORES = ("s", "t")


def test_a_lane_that_rests_is_forgotten(add: Add) -> None:
    batcher = Batcher(batch_size=1)
    batches = add(batcher, [message_of("o", 1, lane=Lane(f"s{n}", "DEAL")) for n in range(50)])
    assert batcher.lane_count == 50
    for batch in batches:
        batcher.release(batch)
    assert batcher.lane_count == 0
    (again,) = add(batcher, [message_of("o", 2, lane=Lane("s7", "DEAL"))])
    assert batcher.lane_count == 1
    assert again.lane == Lane("s7", "DEAL")


def test_without_order_a_lane_without_open_messages_is_forgotten(add: Add) -> None:
    batcher = Batcher(batch_size=2, keep_order=False)
    add(batcher, [message_of("a", 1), message_of("b", 2), message_of("c", 3)])
    assert batcher.lane_count == 1
    list(batcher.drain())
    assert batcher.lane_count == 0


def test_what_is_held_of_some_chunks_is_found_open_or_waiting(add: Add) -> None:
    batcher = Batcher()
    add(batcher, [message_of("a", 1), message_of("b", 2)], number=1)
    list(batcher.drain())  # Both are in flight now.
    waiting, open_one, other = message_of("a", 3), message_of("c", 4), message_of("d", 5)
    add(batcher, [waiting, open_one], number=2)
    list(batcher.turns(0.0))
    add(batcher, [other], number=3)
    assert batcher.find({1, 2, 3}) == {2: {0, 1}, 3: {0}}
    list(batcher.drain())
    assert batcher.waiting_count == 1
    assert batcher.find({1, 2, 3}) == {2: {0}}


class BatchingMachine(RuleBasedStateMachine):
    """Whatever comes in goes out once, in order per object, in batches within the limits."""

    lanes: Callable[..., object] = batching.OpenLanes
    keep_order = True
    keeps_messages = False

    @initialize(batch_size=st.integers(1, 5), batch_bytes=st.sampled_from([300, 900, 4 << 20]))
    def begin(self, batch_size: int, batch_bytes: int) -> None:
        self.batch_size, self.batch_bytes = batch_size, batch_bytes
        with patch.object(batching, "OpenLanes", self.lanes):
            self.batcher = Batcher(
                batch_size=batch_size,
                batch_bytes=batch_bytes,
                keep_order=self.keep_order,
                keeps_messages=self.keeps_messages,
            )
        self.now_s = 0.0
        self.chunk_number = 0
        self.message_number = 0
        self.sent: dict[tuple[Lane, str], list[int]] = {}
        self.came: dict[tuple[Lane, str], list[int]] = {}
        self.origin_of_message: dict[int, tuple[int, int]] = {}
        self.in_flight: list[Batch] = []
        self.came_count = self.sent_count = 0

    @rule(
        picks=st.lists(
            st.tuples(
                st.sampled_from(STORES), st.sampled_from("aaabcdef"), st.sampled_from([0, 0, 150])
            ),
            max_size=12,
        ),
        gap=st.sampled_from([1, 1, 3]),
        as_groups=st.booleans(),
        data=st.data(),
    )
    def add(
        self,
        picks: list[tuple[str, str, int]],
        gap: int,
        data: st.DataObject,
        *,
        as_groups: bool,
    ) -> None:
        self.chunk_number += 1
        messages, indexes = [], []
        for place, (store, external_id, size) in enumerate(picks):
            lane = Lane(store, "DEAL")
            self.message_number += 1
            messages.append(message_of(external_id, self.message_number, lane=lane, size=size))
            indexes.append(place * gap)
            self.came.setdefault((lane, external_id), []).append(self.message_number)
            self.origin_of_message[self.message_number] = (self.chunk_number, place * gap)
        self.came_count += len(messages)
        chunk = chunk_of(messages, self.chunk_number)
        if as_groups and gap == 1 and self.lanes is not PlainLanes:
            groups = Decoder(takes_groups=True).decode(chunk, 0).groups
            assert groups is not None
            adding = self.batcher.add_groups(groups, chunk, self.now_s)
        else:
            adding = self.batcher.add(messages, indexes, chunk, self.now_s)
        for batch in adding:
            self.take(batch)
            self.meanwhile(data)

    def meanwhile(self, data: st.DataObject) -> None:
        """What can happen while a batch waits for its turn to be sent, and more is to be added."""
        events = st.sampled_from(["release", "withdraw", "copy out"])
        for event in data.draw(st.lists(events, max_size=2)):
            if event == "withdraw":
                self.withdraw(data)
            elif event == "copy out":
                self.copy_out(data)
            elif self.in_flight:
                self.release(data)

    @rule(step_s=st.sampled_from([0.0, 1.0, 10.0]))
    def time_goes_by(self, step_s: float) -> None:
        self.now_s += step_s

    @rule(age_s=st.sampled_from([0.0, 5.0]))
    def expire(self, age_s: float) -> None:
        for batch in self.batcher.expired(self.now_s - age_s):
            self.take(batch)
        opened_at_s = self.batcher.oldest_opened_at_s
        assert opened_at_s is None or opened_at_s > self.now_s - age_s

    @rule()
    def oldest(self) -> None:
        for batch in self.batcher.oldest():
            self.take(batch)

    @rule()
    def drain(self) -> None:
        for batch in self.batcher.drain():
            self.take(batch)
        assert self.batcher.open_lane_count == 0

    @rule()
    def turns(self) -> None:
        for batch in self.batcher.turns(self.now_s):
            self.take(batch)
        assert not self.batcher.has_turns

    @rule()
    def finish(self) -> None:
        for batch in self.batcher.finish():
            self.take(batch)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.in_flight) - 1))
        self.batcher.release(self.in_flight.pop(place))

    @precondition(lambda self: self.chunk_number)
    @rule(data=st.data())
    def copy_out(self, data: st.DataObject) -> None:
        """Nothing is to be seen of it, whatever is copied."""
        numbers = data.draw(st.sets(st.integers(1, self.chunk_number + 1), max_size=3))
        self.batcher.copy_out(list(numbers))

    @precondition(lambda self: self.chunk_number)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        """What came from a chunk and is in no batch is forgotten, as if it had never come."""
        number = data.draw(st.integers(1, self.chunk_number))
        gone = self.batcher.withdraw({number})
        out = {number for sent in self.sent.values() for number in sent}
        count = 0
        for key, came in self.came.items():
            kept = [one for one in came if one in out or self.origin_of_message[one][0] != number]
            count += len(came) - len(kept)
            self.came[key] = kept
        assert gone.total() == count
        self.came_count -= count

    def take(self, batch: Batch) -> None:
        assert 1 <= len(batch) <= self.batch_size
        assert len(batch.body) <= self.batch_bytes or len(batch) == 1
        assert batch.body == encode_messages(batch.lane, batch.messages)
        if self.keep_order:
            for other in self.in_flight:
                assert other.lane != batch.lane or ids_of(other).isdisjoint(ids_of(batch))
        assert len(batch.origins) == len(batch)
        for message, origin in zip(batch.messages, batch.origins, strict=True):
            number = message.changed_at
            assert isinstance(number, int)
            assert place_of(origin) == self.origin_of_message[number]
            key = (batch.lane, str(message.external_object_id))
            self.sent.setdefault(key, []).append(number)
            if self.keep_order:
                assert self.came[key][: len(self.sent[key])] == self.sent[key]
        self.sent_count += len(batch)
        self.in_flight.append(batch)

    @invariant()
    def counts_agree(self) -> None:
        assert self.batcher.waiting_count >= 0
        held_count = self.came_count - self.sent_count
        assert held_count >= self.batcher.waiting_count
        assert (held_count > self.batcher.waiting_count) == (self.batcher.open_lane_count > 0)
        assert bool(self.batcher.held_bytes) == bool(held_count)
        if not self.in_flight and not self.batcher.has_turns:
            assert self.batcher.waiting_count == 0
        sent = {number for sent in self.sent.values() for number in sent}
        held = sorted(
            self.origin_of_message[number]
            for came in self.came.values()
            for number in came
            if number not in sent
        )
        found = self.batcher.find(range(1, self.chunk_number + 1))
        assert sorted((number, index) for number in found for index in found[number]) == held

    def teardown(self) -> None:
        """At the end all comes out, and in a bounded number of rounds."""
        if not hasattr(self, "batcher"):
            return
        for _ in range(self.came_count + 2):
            if not (self.batcher.open_lane_count or self.batcher.waiting_count):
                break
            self.turns()
            self.finish()
            while self.in_flight:
                self.batcher.release(self.in_flight.pop())
        for batch in self.in_flight:
            self.batcher.release(batch)
        assert self.batcher.waiting_count == 0
        assert self.batcher.open_lane_count == 0
        assert self.batcher.held_bytes == 0
        assert self.batcher.lane_count == 0
        came = {key: came for key, came in self.came.items() if came}
        assert {key: sorted(sent) for key, sent in self.sent.items()} == came
        if self.keep_order:
            assert self.sent == came


class UnorderedBatchingMachine(BatchingMachine):
    keep_order = False
    keeps_messages = True


class PlainBatchingMachine(BatchingMachine):
    lanes = PlainLanes


class PlainUnorderedBatchingMachine(UnorderedBatchingMachine):
    lanes = PlainLanes


BatchingMachine.TestCase.settings = settings(
    deadline=None, max_examples=200, stateful_step_count=40
)
UnorderedBatchingMachine.TestCase.settings = settings(
    deadline=None, max_examples=50, stateful_step_count=30
)
PlainBatchingMachine.TestCase.settings = settings(
    deadline=None, max_examples=100, stateful_step_count=40
)
PlainUnorderedBatchingMachine.TestCase.settings = UnorderedBatchingMachine.TestCase.settings
TestAnySequenceInOrder = BatchingMachine.TestCase
TestAnySequenceWithoutOrder = UnorderedBatchingMachine.TestCase
TestAnySequenceInOrderInPlainLanes = PlainBatchingMachine.TestCase
TestAnySequenceWithoutOrderInPlainLanes = PlainUnorderedBatchingMachine.TestCase


chunks_or_events = st.lists(
    st.lists(st.tuples(st.sampled_from(STORES), st.integers(0, 120)), max_size=15)
    | st.sampled_from(["drain", "expired"]),
    max_size=12,
)


@needs_scanner
@settings(deadline=None)
@given(
    chunks_or_events, st.integers(1, 6), st.sampled_from([250, 400, 700, 4 << 20]), st.booleans()
)
def test_groups_become_the_same_batches_as_their_messages(
    happens: list[list[tuple[str, int]] | str],
    batch_size: int,
    batch_bytes: int,
    keep_order: bool,  # noqa: FBT001 - drawn
) -> None:
    """To the byte, and all that is told of them, where no object comes twice: none waits."""

    def after_each(*, as_groups: bool) -> Iterator[tuple[object, ...]]:
        batcher = Batcher(batch_size=batch_size, batch_bytes=batch_bytes, keep_order=keep_order)
        for number, event in enumerate(happens, 1):
            if isinstance(event, list):
                messages = [
                    message_of(f"{number}-{n}", n, lane=Lane(store, "DEAL"), size=size)
                    for n, (store, size) in enumerate(event)
                ]
                batches = feeding(
                    batcher, messages, number=number, now_s=number, as_groups=as_groups
                )
            else:
                batches = batcher.drain() if event == "drain" else batcher.expired(number - 2)
            found = [(one.lane, one.body, list(one.origins), one.ids) for one in batches]
            yield (
                sorted(found, key=lambda one: one[0].store_id),  # Lanes leave in another order.
                batcher.lane_count,
                batcher.open_lane_count,
                batcher.oldest_opened_at_s,
                batcher.find(range(number + 1)),
            )

    assert list(after_each(as_groups=True)) == list(after_each(as_groups=False))


def test_a_batch_that_let_go_of_its_messages_takes_them_out_of_its_body(add: Add) -> None:
    messages = [message_of(f"o{n}", n, size=5) for n in range(3)]
    (batch,) = add(Batcher(batch_size=3), messages)
    assert encode_messages(batch.lane, batch.messages) == batch.body
    assert [part.external_object_id for part in batch.part(1, 3).messages] == ["o1", "o2"]


def test_the_changes_of_a_batch_are_those_of_its_messages(add: Add) -> None:
    (batch,) = add(Batcher(batch_size=2), [message_of("a", 7), message_of("b", 8)])
    changes = [(change.external_object_id, change.changed_at) for change in batch.changes()]
    assert changes == [("a", 7), ("b", 8)]


def test_a_batch_that_is_not_settled_keeps_its_messages_without_its_body(add: Add) -> None:
    (batch,) = add(Batcher(batch_size=2), [message_of("a", 7), message_of("b", 8)])
    batch.drop_body()
    assert batch.body == b""
    assert numbers([batch]) == [7, 8]


def test_messages_stay_where_a_body_does_not_tell_all_of_them(add: Add) -> None:
    batcher = Batcher(batch_size=2, keeps_messages=True)
    (batch,) = add(batcher, [message_of("a", 7), message_of("b", 8)])
    batch.body = b"a page"
    assert numbers([batch]) == [7, 8]


def test_what_waits_for_an_open_message_does_not_hold_it_back(add: Add) -> None:
    batcher = Batcher(batch_size=3)
    hot, cold = [message_of("hot", n) for n in range(10, 14)], message_of("cold", 1)
    (first,) = add(batcher, [message_of("hot", 0), message_of("warm", 2), message_of("a", 3)])
    add(batcher, [message_of("warm", 4), *hot], number=2)
    list(batcher.drain())
    add(batcher, [cold, message_of("other", 5)], number=3)
    batcher.release(first)
    sent = []
    for _ in range(6):
        batches = [*batcher.turns(0.0), *batcher.finish()]
        for batch in batches:
            sent += numbers([batch])
            batcher.release(batch)
    assert sorted(sent) == [1, 4, 5, 10, 11, 12, 13]
    assert batcher.waiting_count == batcher.open_lane_count == batcher.held_bytes == 0


@pytest.mark.parametrize("others", [0, 50])
def test_a_batch_tells_whether_it_may_be_about_some_objects(others: int, add: Add) -> None:
    (batch,) = add(Batcher(batch_size=3), [message_of(f"o{n}") for n in (1, 22, 3)])
    known = [f"x{n}" for n in range(others)]
    assert not batch.names_any({*known, "o2", "2", "o"})
    for external_id in ("o1", "o22", "o3"):
        assert batch.names_any({*known, external_id})
    assert batch.part(0, 1).names_any({"x"})


def test_lanes_that_are_withdrawn_while_others_are_closed_are_no_trouble(add: Add) -> None:
    batcher = Batcher()
    for number, store in enumerate("abc", 1):
        add(batcher, [message_of("o", number, lane=Lane(store, "DEAL"))], number=number)
    closing = batcher.finish()
    assert numbers([next(closing)]) == [1]
    assert batcher.withdraw({2}).total() == 1
    assert numbers(closing) == [3]
    assert batcher.open_lane_count == 0
