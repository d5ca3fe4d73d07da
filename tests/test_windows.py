"""A run that does not end is confirmed by windows of time, and does not grow."""

from __future__ import annotations

import random

from pusher.model import Batch, Delivery, Lane, SyncMessage
from pusher.sampling import SampleSize, SampleState
from pusher.windows import Windows


def delivery(number: int) -> Delivery:
    message = SyncMessage(external_object_id=str(number), changed_at=number)
    return Delivery(Batch(Lane("s", "DEAL"), [message], [0]), 0, 0.1)


def test_a_window_is_counted_when_the_next_one_has_ended_and_its_objects_are_forgotten() -> None:
    windows = Windows(SampleSize(10), random.Random(1), 300)
    for number in range(100):
        windows.accept(delivery(number), 0.0, remember_last=False)
        windows.turn()
        assert len(windows.pending()) <= 2
    told = windows.confirmation(None)
    assert (told.sampled, told.unconfirmed) == (100, 100)


def test_what_was_confirmed_stays_counted() -> None:
    windows = Windows(SampleSize(10), random.Random(1), 300)
    windows.accept(delivery(1), 0.0, remember_last=False)
    (member,) = windows.pending()
    member.state = SampleState.CONFIRMED
    for _ in range(3):
        windows.turn()
    told = windows.confirmation(None)
    assert (told.sampled, told.confirmed, told.unconfirmed) == (1, 1, 0)
    assert told.failure_rate_upper_bound_95 is not None


def test_without_a_delivery_there_is_nothing_to_bound() -> None:
    windows = Windows(SampleSize(10), random.Random(1), 300)
    windows.turn()
    assert windows.confirmation(None).failure_rate_upper_bound_95 is None
