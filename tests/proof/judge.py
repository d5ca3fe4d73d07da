"""Compare what went in with what the oracle took and the dead letters hold. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from proof.workload import Fate, Line

__all__ = [
    "CHUNK_BYTES",
    "Record",
    "Repeats",
    "Run",
    "Verdict",
    "judge",
    "protests_of_report",
    "repeats_after_kills",
]

CHUNK_BYTES = 256 << 10
"""How much input has one position: what a resume goes back to is the start of such a chunk."""
_SHOWN = 5


@dataclass(frozen=True)
class Record:
    """The oracle's memory: what it took, in order, repeats too; times in seconds."""

    numbers: list[int]
    digests: list[int]
    at_s: list[float]
    refused_alone: list[tuple[int, float]]
    protests: list[str]
    requests: int
    deeds: dict[str, int]

    @classmethod
    def of(cls, told: dict[str, Any]) -> Record:
        """From the oracle's JSON."""
        return cls(
            **{**told, "refused_alone": [(line, at_s) for line, at_s in told["refused_alone"]]}
        )


@dataclass(frozen=True)
class Verdict:
    """What was found. `protests` is empty when every promise was kept."""

    messages: int
    lost: int
    disordered: int
    changed: int
    repeated: int
    """Acceptances beyond the first of a message."""
    letters_repeated: int
    protests: tuple[str, ...]


def judge(lines: Sequence[Line], record: Record, letters: Sequence[bytes]) -> Verdict:
    """Every line is delivered or a dead letter, by its fate; objects in order; nothing invented.

    Args:
        lines: the input.
        record: the oracle's memory.
        letters: the `record` of every dead letter, as the bytes that it stands for.
    """
    taken = Counter(record.numbers)
    lettered = Counter(letters)
    delivered = [line for line in lines if line.fate is Fate.DELIVERED]
    others = [line for line in lines if line.fate is not Fate.DELIVERED]
    lost = [line for line in delivered if not taken[line.number] and not lettered[line.raw]]
    lost += [line for line in others if not lettered[line.raw]]
    given_up = [line for line in delivered if lettered[line.raw]]
    unknown = taken.keys() - {line.number for line in delivered}
    strange = lettered.keys() - {line.raw for line in lines}
    digests = {line.number: line.digest for line in delivered}
    changed = [
        number
        for number, digest in zip(record.numbers, record.digests, strict=True)
        if digests.get(number, digest) != digest
    ]
    disordered = _disordered({line.number: line for line in lines}, record.numbers)
    protests = list(record.protests[:_SHOWN])
    for text, found in (
        ("lost", [line.number for line in lost]),
        ("good, and a dead letter", [line.number for line in given_up]),
        ("taken, and none of ours to deliver", sorted(unknown)),
        ("dead letters of no line", sorted(strange)),
        ("changed on the way", changed),
        ("taken before an earlier change of the object", disordered),
    ):
        if found:
            protests.append(f"{len(found)} {text}: {found[:_SHOWN]}")
    return Verdict(
        messages=len(lines),
        lost=len(lost),
        disordered=len(disordered),
        changed=len(changed),
        repeated=taken.total() - len(taken),
        letters_repeated=lettered.total() - len(lettered),
        protests=tuple(protests),
    )


def _disordered(lines: dict[int, Line], numbers: Sequence[int]) -> list[int]:
    """Messages first taken after a later change of their object had been taken."""
    newest: dict[tuple[str, str, str], int] = {}
    found = []
    for number in dict.fromkeys(numbers):
        line = lines.get(number)
        if line is None:
            continue
        if newest.get(line.object_key, -1) > number:
            found.append(number)
        newest[line.object_key] = max(number, newest.get(line.object_key, -1))
    return found


@dataclass(frozen=True)
class Run:
    """When a process that was killed began and ended, in seconds of the record's clock."""

    began_s: float
    ended_s: float


@dataclass(frozen=True)
class Repeats:
    """What the run after a kill sent again. `beyond`: what it had no reason to."""

    count: int
    beyond: int


def repeats_after_kills(
    lines: Sequence[Line], record: Record, runs: Sequence[Run], *, checkpoint_age_s: float
) -> list[Repeats]:
    """Count what was repeated after each kill, and hold it against what a resume may repeat.

    A run may repeat what lies above the watermark of the newest checkpoint. That is at least at
    the chunk of the first line that was not settled `checkpoint_age_s` before the kill.

    Args:
        lines: the input.
        record: the oracle's whole memory.
        runs: the killed runs, in order.
        checkpoint_age_s: how old the newest checkpoint may be at a kill, in seconds.
    """
    repeats = []
    start = 0
    ends = [run.began_s for run in runs[2:]] + [float("inf")] * 2
    for number, run in enumerate(runs):
        resumed_s = runs[number + 1].began_s if number + 1 < len(runs) else run.ended_s
        start = _resumed_at_least(lines, record, start, run, run.ended_s - checkpoint_age_s)
        taken = list(zip(record.numbers, record.at_s, strict=True))
        before = {line for line, at_s in taken if at_s < resumed_s}
        again = before & {line for line, at_s in taken if resumed_s <= at_s < ends[number]}
        repeats.append(Repeats(len(again), sum(line < start for line in again)))
    return repeats


def _resumed_at_least(
    lines: Sequence[Line], record: Record, start: int, run: Run, until_s: float
) -> int:
    """The line at which the run after a killed one goes on at the earliest.

    The killed run itself went on at `start` or later. It settled the lines from there up to the
    first that was not taken, nor refused in a request of its own, until the checkpoint.
    """
    events = (*zip(record.numbers, record.at_s, strict=True), *record.refused_alone)
    settled = {line for line, at_s in events if run.began_s <= at_s <= until_s}
    passed = start
    while passed < len(lines) and (passed in settled or lines[passed].fate is Fate.UNDECODABLE):
        passed += 1
    # A resume goes back to the start of a chunk. Where chunks end is not known: two are safe.
    back_bytes = 0
    while passed > start and back_bytes < 2 * CHUNK_BYTES:
        passed -= 1
        back_bytes += len(lines[passed].raw) + 1
    return passed


def protests_of_report(report: dict[str, Any], code: int) -> list[str]:
    """The report adds up, and says what the exit code says."""
    messages = report["messages"]
    accounted = sum(messages[name] for name in ("delivered", "rejected", "skipped", "pending"))
    protests = []
    if messages["read"] != accounted:
        protests.append(f"the report does not add up: {messages}")
    if report["exit_code"] != code:
        protests.append(f"exit code {code}, in the report {report['exit_code']}")
    return protests
