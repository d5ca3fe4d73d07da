"""The judge sees what it is there to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from proof.judge import CHUNK_BYTES, Record, Run, judge, protests_of_report, repeats_after_kills
from proof.workload import Fate, Line, lines

INPUT = lines(300, seed=1, poison=0.05, undecodable=0.05)
GOOD = [line for line in INPUT if line.fate is Fate.DELIVERED]
LETTERS = [line.raw for line in INPUT if line.fate is not Fate.DELIVERED]


def record(taken: Sequence[Line], at_s: Sequence[float] | None = None) -> Record:
    numbers = [line.number for line in taken]
    digests = [line.digest for line in taken]
    times = list(at_s) if at_s is not None else [0.0] * len(taken)
    return Record(numbers, digests, times, [], [], len(taken), {})


def protests(taken: Sequence[Line], letters: Sequence[bytes] = LETTERS) -> str:
    return "; ".join(judge(INPUT, record(taken), letters).protests)


def test_a_kept_promise_is_not_protested() -> None:
    assert {line.fate for line in INPUT} == set(Fate)
    assert protests(GOOD) == ""


def test_a_lost_message_is_seen() -> None:
    assert judge(INPUT, record(GOOD[1:]), LETTERS).lost == 1
    assert protests(GOOD[1:]).startswith("1 lost")


def test_a_lost_dead_letter_is_seen() -> None:
    assert judge(INPUT, record(GOOD), LETTERS[:-1]).lost == 1


def test_a_good_message_among_the_dead_letters_is_seen() -> None:
    assert "good, and a dead letter" in protests(GOOD[1:], [*LETTERS, GOOD[0].raw])


def test_a_dead_letter_that_is_not_the_line_is_seen() -> None:
    assert "dead letters of no line" in protests(GOOD, [*LETTERS, b"{}"])


def test_a_message_that_should_not_have_arrived_is_seen() -> None:
    poison = next(line for line in INPUT if line.fate is Fate.POISON)
    assert "none of ours to deliver" in protests([*GOOD, poison])


def test_a_changed_message_is_seen() -> None:
    changed = replace(GOOD[0], digest=GOOD[0].digest ^ 1)
    assert judge(INPUT, record([changed, *GOOD[1:]]), LETTERS).changed == 1


def test_an_older_change_that_first_comes_after_a_newer_one_is_seen() -> None:
    first = next(line for line in GOOD if line.object_key[2].startswith("hot"))
    late = [*(line for line in GOOD if line is not first), first]
    of_it = [line for line in GOOD if line.object_key == first.object_key]
    verdict = judge(INPUT, record(late), LETTERS)
    assert verdict.disordered == (len(of_it) > 1)
    assert judge(INPUT, record(GOOD[::-1]), LETTERS).disordered > 0


def test_a_repeat_is_counted_and_is_no_disorder() -> None:
    verdict = judge(INPUT, record([*GOOD, *GOOD]), LETTERS)
    assert verdict.repeated == len(GOOD)
    assert verdict.protests == ()


@pytest.mark.parametrize(("resumed_at", "is_allowed"), [(0, False), (7_500, True)])
def test_a_resume_that_goes_back_too_far_is_seen(resumed_at: int, is_allowed: bool) -> None:  # noqa: FBT001
    """10,000 lines a second, a kill after the first 10,000."""
    given = lines(20_000, seed=2, poison=0, undecodable=0)
    assert sum(len(line.raw) + 1 for line in given[7_500:9_000]) < 2 * CHUNK_BYTES
    again = given[resumed_at:]
    taken = [*given[:10_000], *again]
    at_s = [i / 10_000 for i in range(10_000)] + [2 + i / 10_000 for i in range(len(again))]
    (repeats,) = repeats_after_kills(
        given, record(taken, at_s), [Run(0.0, 1.0)], checkpoint_age_s=0.1
    )
    assert repeats.count == 10_000 - resumed_at
    assert (repeats.beyond == 0) == is_allowed


def test_poison_that_was_refused_alone_does_not_excuse_a_repeat() -> None:
    given = lines(20_000, seed=2, poison=0, undecodable=0)
    given[5] = replace(given[5], fate=Fate.POISON)
    good = [line for line in given if line.fate is Fate.DELIVERED]
    whole = record([*good, *good], [0.5] * len(good) + [9.0] * len(good))
    refused = replace(whole, refused_alone=[(5, 0.5), (5, 9.0)])
    runs = [Run(0.0, 1.0)]
    (excused,) = repeats_after_kills(given, whole, runs, checkpoint_age_s=0.1)
    (seen,) = repeats_after_kills(given, refused, runs, checkpoint_age_s=0.1)
    assert excused.beyond == 0
    assert seen.beyond > 0


def test_what_the_first_of_two_killed_runs_left_unsaved_may_come_again_after_the_second() -> None:
    given = lines(3_000, seed=3, poison=0, undecodable=0)
    taken = [*given, *given]
    at_s = [0.5] * len(given) + [9.0] * len(given)
    runs = [Run(0.0, 0.6), Run(5.0, 5.1)]
    repeats = repeats_after_kills(given, record(taken, at_s), runs, checkpoint_age_s=0.2)
    assert [one.beyond for one in repeats] == [0, 0]


def test_a_report_that_does_not_add_up_is_seen() -> None:
    messages = {"read": 3, "delivered": 1, "rejected": 1, "skipped": 0, "pending": 0}
    assert len(protests_of_report({"messages": messages, "exit_code": 0}, 3)) == 2
