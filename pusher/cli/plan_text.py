"""A plan for people: tables on a terminal, columns of text in a pipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pusher.findings import Finding
from pusher.planning import Plan
from pusher.protocol import printable

__all__ = ["shown", "shown_plainly"]

LANES_MAX = 20
FINDINGS_MAX = 30

_TITLES = {"fails": "Would be rejected, or fail", "warns": "Warnings", "notes": "Notes"}


@dataclass(frozen=True, slots=True)
class _Table:
    """Columns whose heading begins with ">" are of numbers: they are set to the right."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    more: str = ""


def shown(plan: Plan) -> None:
    """Print a plan on the terminal."""
    from rich.console import Console  # noqa: PLC0415 - pipes do without it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(highlight=False)
    for line in _summary(plan):
        console.print(Text(line))
    for each in _tables(plan):
        grid = Table(
            title=each.title, title_justify="left", title_style="bold", box=None, pad_edge=False
        )
        for heading in each.headings:
            justify = "right" if heading.startswith(">") else "left"
            grid.add_column(heading.removeprefix(">"), justify=justify, overflow="fold")  # type: ignore[arg-type]
        for row in each.rows:
            grid.add_row(*map(Text, row))
        console.print()
        console.print(grid)
        if each.more:
            console.print(Text(each.more))
    for line in _advice(plan):
        console.print(Text(line))


def shown_plainly(plan: Plan) -> str:
    """A plan as text without any marks."""
    lines = list(_summary(plan))
    for each in _tables(plan):
        lines += ["", each.title, *_aligned(each)]
        if each.more:
            lines.append(f"  {each.more}")
    return "\n".join([*lines, *_advice(plan)]) + "\n"


def _aligned(table: _Table) -> Iterator[str]:
    rows = [[heading.removeprefix(">") for heading in table.headings], *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.headings))]
    for row in rows:
        cells = [
            cell.rjust(width) if heading.startswith(">") else cell.ljust(width)
            for cell, width, heading in zip(row, widths, table.headings, strict=True)
        ]
        yield f"  {'  '.join(cells)}".rstrip()


def _summary(plan: Plan) -> Iterator[str]:
    messages = plan.messages
    yield (
        f"{plan.outcome}: {messages.read:,} messages read: {messages.to_send:,} to send,"
        f" {messages.rejected:,} rejected, {messages.skipped:,} skipped"
    )
    if plan.reason:
        yield f"  the input was not read to its end: {printable(plan.reason)}"
    at_least, at_most = ("", "") if plan.lanes_are_exact else ("at least ", "at most ")
    yield (
        f"  {plan.batches:,} requests, {plan.bytes.bodies:,} bytes of bodies;"
        f" {at_least}{plan.stores_total:,} stores, {at_most}{plan.lanes_total:,} lanes"
        " (a store and type)"
    )
    if plan.skipped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in plan.skipped.items())
        yield f"  skipped: {reasons}"
    where = plan.mappings_from
    yield (
        f"  properties held against the settings of {printable(where)}"
        if where
        else ("  properties not held against any settings")
    )


def _tables(plan: Plan) -> Iterator[_Table]:
    yield _Table(
        "Types",
        ("type", ">messages", ">deletes", ">objects", ">changed again", ">requests", ">bytes"),
        [
            (
                one.object_type,
                f"{one.messages:,}",
                f"{one.deletes:,}",
                f"{one.objects:,}",
                f"{one.changed_again:,}",
                f"{one.batches:,}",
                f"{one.body_bytes:,}",
            )
            for one in plan.types
        ],
    )
    hidden = plan.lanes_total - min(LANES_MAX, len(plan.lanes))
    yield _Table(
        "Stores and types",
        ("store", "type", ">messages", ">requests", ">bytes"),
        [
            (
                printable(one.store_id),
                one.object_type,
                f"{one.messages:,}",
                f"{one.batches:,}",
                f"{one.body_bytes:,}",
            )
            for one in plan.lanes[:LANES_MAX]
        ],
        f"and {hidden:,} smaller ones: --json" if hidden else "",
    )
    yield _estimates(plan)
    for severity, title in _TITLES.items():
        found = [one for one in plan.findings if one.severity == severity]
        if found:
            hidden = len(found) - FINDINGS_MAX
            yield _Table(
                title,
                (">count", "kind", "", "first lines"),
                [_row(one) for one in found[:FINDINGS_MAX]],
                f"and {hidden:,} more: --json" if hidden > 0 else "",
            )


def _estimates(plan: Plan) -> _Table:
    latency_ms = plan.estimates[0].latency_s * 1000
    rows = [
        (_duration(one.seconds), f"with {one.concurrency:,} in flight, bound by {one.bound_by}")
        for one in plan.estimates
    ]
    if plan.polls.count:
        per_s = plan.polls.per_s
        pace = "without a limit" if per_s is None else f"at {per_s:g} a second"
        rows.append(
            (_duration(plan.polls.seconds), f"to confirm: {plan.polls.count:,} status polls {pace}")
        )
    return _Table(f"Time, at {latency_ms:g} ms a request", (">about", ""), rows)


def _row(finding: Finding) -> tuple[str, str, str, str]:
    of = f"{printable(finding.of)}: " if finding.of else ""
    return (
        f"{finding.count:,}",
        finding.kind,
        f"{of}{finding.text}",
        printable(_places(finding.lines)),
    )


def _places(lines: Sequence[str]) -> str:
    """Places as `source:line`, with a source named once: a.ndjson:3, :8, b.ndjson:1."""
    shown: list[str] = []
    last_source = None
    for line in lines:
        source, _, number = line.rpartition(":")
        shown.append(f":{number}" if source == last_source else line)
        last_source = source
    return ", ".join(shown)


def _advice(plan: Plan) -> Iterator[str]:
    if plan.hints:
        yield ""
    for hint in plan.hints:
        yield f"hint: {printable(hint)}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
