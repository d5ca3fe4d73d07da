"""Which of the messages that were read are sent."""

from __future__ import annotations

from collections import Counter

import msgspec
from fakes.scanner import needs_scanner
from hypothesis import given
from hypothesis import strategies as st

from pusher.decoding import Decoder
from pusher.model import (
    ASSOCIATION_ORDER,
    OBJECT_TYPES,
    Chunk,
    Groups,
    Lane,
    ObjectType,
    SyncMessage,
    place_of,
)
from pusher.selecting import Selected, Selection


def message(number: int, store: str = "s", kind: ObjectType = "DEAL") -> SyncMessage:
    return SyncMessage(str(number), store, kind)


def test_without_rules_all_is_sent_as_it_is() -> None:
    messages = [message(n) for n in range(3)]
    selected = Selection().select(messages, range(3))
    assert selected.messages is messages
    assert (selected.skipped.total(), selected.is_whole) == (0, True)


def test_what_another_pass_sends_is_not_counted_in_this_one() -> None:
    messages = [message(1), message(2, kind="CONTACT")]
    selected = Selection(pass_types={"CONTACT"}).select(messages, range(2))
    assert selected.messages == messages[1:]
    assert selected.indexes == [1]
    assert selected.skipped.total() == 0


def test_each_rule_counts_what_it_skips_and_the_first_one_that_applies_decides() -> None:
    selection = Selection(
        only_stores={"s"},
        only_types={"DEAL"},
        why_skipped=lambda one: "odd" if int(one.external_object_id) % 2 else None,
    )
    messages = [message(0), message(1), message(2, "t"), message(3, "t", "CONTACT")]
    messages.append(message(4, "s", "CONTACT"))
    selected = selection.select(messages, range(5))
    assert selected.messages == messages[:1]
    assert selected.skipped == {"odd": 1, "other_store": 2, "other_type": 1}


@given(st.lists(st.integers(0, 20)), st.integers(1, 50))
def test_a_limit_lets_exactly_so_many_through(counts: list[int], limit: int) -> None:
    selection = Selection(limit=limit)
    sent = 0
    for count in counts:
        selected = selection.select([message(n) for n in range(count)], range(count))
        assert selected.is_whole == (len(selected.messages) == count)
        sent += len(selected.messages)
    assert sent == min(limit, sum(counts))
    assert selection.is_exhausted == (sum(counts) >= limit)


# What comes as groups


def groups_of(messages: list[SyncMessage]) -> Groups:
    lines = b"".join(
        msgspec.json.encode(msgspec.structs.replace(one, changed_at=1 << 41)) + b"\n"
        for one in messages
    )
    chunk = Chunk(lines, "in", 0, 1, len(messages), number=1)
    groups = Decoder(takes_groups=True).decode(chunk, 0).groups
    assert groups is not None
    return groups


def lanes_of(selected: Selected) -> dict[Lane, int]:
    """How many messages are left in each lane that has any."""
    assert selected.groups is not None
    return {Lane(one.store_id, one.object_type): len(one) for one in selected.groups if len(one)}


SOME = [
    message(0),
    message(1, "t", "CONTACT"),
    message(2, "s", "CONTACT"),
    message(3),
    message(4, "t", "LINE_ITEM"),
]


@needs_scanner
def test_without_rules_all_groups_are_sent_as_they_are() -> None:
    groups = groups_of(SOME)
    selected = Selection().select_groups(groups)
    assert selected.groups is groups
    assert (selected.count, selected.skipped.total(), selected.is_whole) == (5, 0, True)


@needs_scanner
def test_groups_of_another_pass_are_not_counted_in_this_one() -> None:
    found = [
        lanes_of(Selection(pass_types=types).select_groups(groups_of(SOME)))
        for types in ASSOCIATION_ORDER
    ]
    assert found == [
        {Lane("t", "CONTACT"): 1, Lane("s", "CONTACT"): 1},
        {Lane("s", "DEAL"): 2},
        {Lane("t", "LINE_ITEM"): 1},
    ]
    deals = Selection(pass_types={"DEAL"}, only_stores={"t"}).select_groups(groups_of(SOME))
    assert (deals.count, deals.skipped) == (0, {"other_store": 2})


@needs_scanner
def test_of_groups_too_the_first_rule_that_applies_counts_what_it_skips() -> None:
    selection = Selection(only_stores={"s"}, only_types={"DEAL"})
    selected = selection.select_groups(groups_of(SOME))
    assert lanes_of(selected) == {Lane("s", "DEAL"): 2}
    assert selected.skipped == {"other_store": 2, "other_type": 1}


any_types = st.frozensets(st.sampled_from(OBJECT_TYPES))


@needs_scanner
@given(
    st.lists(st.tuples(st.sampled_from("stu"), st.sampled_from(OBJECT_TYPES))),
    any_types,
    st.frozensets(st.sampled_from("st")),
    any_types,
)
def test_of_groups_the_same_is_chosen_and_counted_as_of_their_messages(
    lanes: list[tuple[str, ObjectType]],
    pass_types: frozenset[ObjectType],
    only_stores: frozenset[str],
    only_types: frozenset[ObjectType],
) -> None:
    messages = [message(n, *lane) for n, lane in enumerate(lanes)]
    selection = Selection(pass_types=pass_types, only_stores=only_stores, only_types=only_types)
    one = selection.select(messages, range(len(messages)))
    other = selection.select_groups(groups_of(messages))
    assert (other.count, other.skipped) == (one.count, one.skipped)
    chosen: Counter[tuple[str, ObjectType, int]] = Counter()
    assert other.groups is not None
    for group in other.groups:
        if not len(group):
            continue
        lane = group.store_id, group.object_type
        taken = group.take(len(group), 1 << 30, False)
        assert taken is not None
        chosen.update((*lane, place_of(origin)[1]) for origin in taken[2])
    assert chosen == Counter((*lanes[index], index) for index in one.indexes)
