"""The end of a run in a few lines for people."""

from __future__ import annotations

from collections.abc import Mapping

from pusher.constraint import IN_WORDS
from pusher.protocol import printable
from pusher.report import Confirmation, ConfirmReport, RepairReport, Report

__all__ = ["summary"]


def summary(report: Report | ConfirmReport) -> str:
    """The report's main facts, a line each."""
    if isinstance(report, ConfirmReport):
        return _summary_of_confirmation(report)
    messages, requests = report.messages, report.requests
    facts = (
        f"{report.outcome}: {messages.delivered:,} of {_plural(messages.read, 'message')} "
        f"delivered in {_duration(report.elapsed_s)} ({report.messages_per_s:,.0f}/s)"
    )
    counts = f"{_plural(requests.sent, 'request')}, {_plural(report.lanes_total, 'lane')}"
    lines = [f"{facts}, {counts}"]
    if report.reason:
        lines.append(f"  reason: {report.reason}")
    if messages.pending:
        lines.append(f"  {_plural(messages.pending, 'message')} read but not settled")
    if messages.rejected:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.rejected.items())
        lines.append(f"  {messages.rejected:,} rejected ({reasons}) -> {report.dead_letters}")
    if messages.skipped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.skipped.items())
        lines.append(f"  {messages.skipped:,} skipped by rule ({reasons})")
    if "dry_run" in report.skipped:
        lines.append(f"  {_rehearsed(report)}")
    if messages.resumed:
        lines.append(f"  {_plural(messages.resumed, 'message')} settled by an earlier run")
    if requests.retried or requests.split:
        lines.append(
            f"  {_plural(requests.retried, 'retry', 'retries')}, "
            f"{_plural(requests.split, 'batch', 'batches')} split"
        )
    lines.extend(
        f"  {' and '.join(phase.object_types)}: not seen processed within {phase.waited_s:g} s"
        for phase in report.phases
        if phase.processed is False
    )
    if report.run.pushed_s >= 1 and (bound := _constraint(report.constraint)):
        lines.append(f"  limited by {bound}")
    if report.repair is not None:
        lines.extend(_repair(report.repair, report.dead_letters))
    lines.extend(_confirmation(report.confirmation))
    return "\n".join(lines)


def _rehearsed(report: Report) -> str:
    """What a dry run has counted. Not all batches of very many lanes are in the report."""
    batches = sum(lane.batches for lane in report.lanes)
    at_least = "at least " if report.lanes_total > len(report.lanes) else ""
    return (
        f"dry run: {at_least}{_plural(batches, 'request')} would be sent; `pusher plan` says how"
        " long that takes, and what would fail"
    )


def _repair(repair: RepairReport, dead_letters: str | None) -> list[str]:
    lines = [
        f"  {printable(kind)}: {_plural(one.found, 'object')} failed, {one.healed:,} healed,"
        f" {one.left:,} left"
        for kind, one in repair.errors.items()
    ]
    if repair.rounds:
        rounds = _plural(repair.rounds, "round")
        lines.append(f"  {_plural(repair.resent, 'message')} sent again in {rounds}")
    if repair.left and dead_letters:
        lines.append(f"  {_plural(repair.left, 'object')} left -> {dead_letters}")
    for example in repair.examples[:3]:
        name = f"{example['object_type']} {example['external_object_id']} of {example['store_id']}"
        lines.append(f"  left: {printable(name + ': ' + example['type'])}: {_details(example)}")
    if repair.detail:
        lines.append(f"  repair: {printable(repair.detail)}")
    return lines


def _constraint(shares: dict[str, float]) -> str:
    """What the run waited for, the most important first."""
    words = {constraint.value: text for constraint, text in IN_WORDS.items()}
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return ", ".join(
        f"{words.get(name, name)} ({share:.0%})" for name, share in ordered if share >= 0.05
    )


def _summary_of_confirmation(report: ConfirmReport) -> str:
    polls = _plural(report.polls, "poll")
    lines = [f"{report.outcome}: {report.sample} in {_duration(report.elapsed_s)}, {polls}"]
    if report.reason:
        lines.append(f"  reason: {report.reason}")
    return "\n".join((*lines, *_confirmation(report.confirmation)))


def _confirmation(confirmation: Confirmation) -> list[str]:
    if not confirmation.sampled:
        return []
    which = "delivered" if confirmation.of_all else "sampled"
    parts = [f"{confirmation.confirmed:,} of {confirmation.sampled:,} {which} objects confirmed"]
    if confirmation.failed:
        errors = ", ".join(f"{count:,} {kind}" for kind, count in confirmation.errors.items())
        parts.append(f"{confirmation.failed:,} failed ({errors})")
    if confirmation.unconfirmed:
        parts.append(f"{confirmation.unconfirmed:,} unconfirmed")
    lines = [f"  {'; '.join(parts)}"]
    bound = confirmation.failure_rate_upper_bound_95
    was_asked_for_all = confirmation.of_all and not confirmation.detail
    if bound is not None and not was_asked_for_all:
        lines.append(f"  at most {bound:.2%} of all messages failed (95 % upper bound)")
    for example in confirmation.examples[:3]:
        name = f"{example['object_type']} {example['external_object_id']} of {example['store_id']}"
        lines.append(f"  {printable(name + ': ' + str(example['type']))}: {_details(example)}")
    if confirmation.detail:
        lines.append(f"  {confirmation.detail}")
    return lines


def _details(example: Mapping[str, str | None]) -> str:
    return printable(example["details"] or "")


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min {rest} s" if hours else f"{minutes} min {rest} s"
