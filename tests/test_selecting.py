"""Which of the messages that were read are sent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pusher.model import ObjectType, SyncMessage
from pusher.selecting import Selection


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
