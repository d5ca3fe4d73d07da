"""The report as a page for people: a report -> HTML in one piece. No I/O.

Everything that comes from elsewhere is escaped here. A policy in the page lets only its own style
and script run, and nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

from pusher.constraint import Constraint, largest
from pusher.plotting import Line, Span, bar_of_shares, line_plot, strip
from pusher.report import Report
from pusher.series import SeriesReport

__all__ = ["page_of", "shown"]

NAMES = {
    Constraint.INPUT: "Input",
    Constraint.CPU: "CPU",
    Constraint.RATE_LIMIT: "Rate limit",
    Constraint.ENDPOINT: "Endpoint",
    Constraint.RETRY_PAUSE: "Retry pauses",
    Constraint.MEMORY_BUDGET: "Memory budget",
    Constraint.MAX_LAG: "Lag limit",
    Constraint.DISK: "Disk",
    Constraint.PROCESSING: "Processing",
}
_MEANINGS = {
    Constraint.INPUT: "All that had come was read; the source gave no more.",
    Constraint.CPU: "One processor was busy with this run, or others had it.",
    Constraint.RATE_LIMIT: "--rate allowed no more requests.",
    Constraint.ENDPOINT: "As many requests as allowed waited for their answers.",
    Constraint.RETRY_PAUSE: "The endpoint asked for a pause, or requests had failed.",
    Constraint.MEMORY_BUDGET: "--memory was used up before the endpoint was busy.",
    Constraint.MAX_LAG: "The oldest message under way was --max-lag behind.",
    Constraint.DISK: "Dead letters were written and synced.",
    Constraint.PROCESSING: "A phase waited until the bridge had processed the one before.",
}
_OUTCOMES = {
    "delivered": ("good", "\u2713 delivered"),
    "rejected": ("bad", "\u2717 rejected"),
    "failed": ("bad", "\u2717 failed"),
    "unconfirmed": ("warn", "? unconfirmed"),
    "stopped": ("bad", "\u25a0 stopped"),
    "interrupted": ("warn", "\u25a0 interrupted"),
}
_MEANT_BY = {
    "delivered": "All messages were delivered, and the sample is as it should be.",
    "rejected": "Some messages were not taken; they are in the dead letters.",
    "failed": "The sample shows objects that the bridge failed to process.",
    "unconfirmed": "All was delivered, but the sample could not be confirmed in time.",
    "stopped": "The run ended before its input did, and can go on later.",
    "interrupted": "The run was interrupted, and can go on later.",
}
_JOINERS = "\u200d"
"""What holds an emoji of several parts together, and shows nothing itself."""

Rows = Iterable[Sequence[str]]


def page_of(report: Report, *, style: str, script: str) -> str:
    """The page of a report.

    Args:
        report: of a run; one that an older version has written has fewer sections.
        style: the style sheet.
        script: makes tables sortable.
    """
    policy = (
        f"default-src 'none'; style-src '{_digest_of(style)}'; script-src '{_digest_of(script)}';"
        " base-uri 'none'; form-action 'none'"
    )
    delivered, read = report.messages.delivered, report.messages.read
    title = f"pusher: {shown(report.outcome)}, {delivered:,} of {read:,} messages"
    footer = (
        f"Written by pusher {shown(report.run.version)}. Latencies are of accepted requests,"
        " without the time in our own queue."
    )
    sections = (
        _warnings(report),
        _constraints(report),
        _over_time(report),
        _phases(report),
        _repair(report),
        _confirmation(report),
        _rejected(report),
        _requests(report),
        _lanes(report),
        _run(report),
    )
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{title}</title>",
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            _header(report),
            "<main>",
            *(section for section in sections if section),
            "</main>",
            f"<footer>{footer}</footer>",
            f"<script>{script}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def shown(text: object) -> str:
    """A text from elsewhere, as it may stand in the page: it cannot steer it, nor what is near it.

    Line ends and marks that turn the direction are written out.
    """
    plain = "".join(
        one if one.isprintable() or one in _JOINERS else repr(one)[1:-1] for one in str(text)
    )
    return escape(plain)


def _name(text: object) -> str:
    """A name that may be written from right to left, apart from what stands around it."""
    return f"<bdi>{shown(text)}</bdi>"


def _digest_of(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"sha256-{digest}"


def _header(report: Report) -> str:
    messages, confirmation = report.messages, report.confirmation
    kind, word = _OUTCOMES.get(report.outcome, ("warn", report.outcome))
    began = report.run.started_at.replace("T", " ").removesuffix("+00:00")
    when = f"Began {shown(began)} UTC, took {_time(report.elapsed_s)}. " if began else ""
    tiles = [
        ("Delivered", f"{messages.delivered:,}", f"{report.messages_per_s:,.0f} a second", ""),
        ("Read", f"{messages.read:,}", _size(report.bytes.read), ""),
        ("Rejected", f"{messages.rejected:,}", "", "bad" if messages.rejected else ""),
        ("Pending", f"{messages.pending:,}", "", "warn" if messages.pending else ""),
    ]
    if messages.skipped:
        tiles.append(("Skipped", f"{messages.skipped:,}", "by rule", ""))
    if messages.resumed:
        tiles.append(("Settled earlier", f"{messages.resumed:,}", "by runs before", ""))
    if confirmation.sampled:
        bound = confirmation.failure_rate_upper_bound_95
        told = f"at most {bound:.2%} failed" if bound is not None else ""
        whole = f"{confirmation.confirmed:,} of {confirmation.sampled:,}"
        tiles.append(("Confirmed sample", whole, told, "bad" if confirmation.failed else ""))
    binding = largest(report.constraint)
    if binding is not None:
        tiles.append(("Limited by", _constraint_name(binding), _share(report, binding), ""))
    cells = "".join(
        f'<div class="{kind}"><dt>{name}</dt><dd>{value}<small>{more}</small></dd></div>'
        for name, value, more, kind in tiles
    )
    reason = f'<p class="reason {kind}">{_name(report.reason)}</p>' if report.reason else ""
    return (
        f'<header><p><span class="outcome {kind}">{shown(word)}</span> exit code'
        f" {report.exit_code}</p>"
        f"<h1>{messages.delivered:,} of {messages.read:,} messages delivered</h1>"
        f"<p>{when}{_MEANT_BY.get(report.outcome, '')}</p>{reason}"
        f'<dl class="tiles">{cells}</dl></header>'
    )


def _share(report: Report, name: str) -> str:
    return f"{report.constraint[name]:.0%} of the time"


def _constraint_name(name: str) -> str:
    """The name for people; one that a later version has written is shown as it is."""
    return NAMES[Constraint(name)] if name in NAMES else shown(name)


def _warnings(report: Report) -> str:
    if not report.warnings:
        return ""
    lines = "".join(f"<li>{_name(warning)}</li>" for warning in report.warnings)
    return _section("Warnings", f"<ul>{lines}</ul>")


def _constraints(report: Report) -> str:
    shares = sorted(report.constraint.items(), key=lambda item: -item[1])
    shares = [(name, share) for name, share in shares if share > 0]
    if not shares:
        return ""
    bar = bar_of_shares(
        "Shares of time: " + ", ".join(f"{_constraint_name(n)} {s:.0%}" for n, s in shares),
        [(_kind(name), _constraint_name(name), share) for name, share in shares],
    )
    rows = "".join(
        f'<tr><th scope="row"><span class="swatch {_kind(name)}"></span>{_constraint_name(name)}'
        f'</th><td class="number">{share:.1%}</td>'
        f"<td>{_MEANINGS[Constraint(name)] if name in NAMES else ''}</td></tr>"
        for name, share in shares
    )
    pushed = _time(report.run.pushed_s)
    return _section(
        "What limited the speed",
        f'{bar}<div class="scroll"><table><caption>Where the {pushed} of the push went</caption>'
        '<thead><tr><th scope="col">Limit</th><th scope="col" class="number">Time</th>'
        f'<th scope="col">What it means</th></tr></thead><tbody>{rows}</tbody></table></div>',
    )


def _kind(name: str) -> str:
    return name if name in NAMES else "disk"


def _over_time(report: Report) -> str:
    series = report.series
    if series is None or len(series.at_s) < 2:
        return ""
    end_s = series.at_s[-1]
    held = [held_bytes / (1 << 20) for held_bytes in series.held_bytes]
    plots: list[tuple[str, str, list[Line]]] = [
        ("Throughput", "messages a second", [Line("delivered", "first", series.messages_per_s)]),
        (
            "Requests in flight",
            "",
            [
                Line("limit", "third", [float(one) for one in series.in_flight_limit]),
                Line("in flight", "first", series.in_flight),
            ],
        ),
        (
            "Latency",
            "ms",
            [Line("99 %", "second", series.p99_ms), Line("median", "first", series.p50_ms)],
        ),
        ("Held in memory", "MiB", [Line("held", "first", held)]),
    ]
    if any(series.retried) or any(series.rejected):
        plots.append(
            (
                "Trouble",
                f"in {_time(series.width_s)}",
                [
                    Line("retried requests", "second", [float(one) for one in series.retried]),
                    Line("rejected messages", "first", [float(one) for one in series.rejected]),
                ],
            )
        )
    figures = [
        _figure(title, unit, lines, line_plot(title, series.at_s, lines, end_s=end_s))
        for title, unit, lines in plots
        if any(value is not None for line in lines for value in line.values)
    ]
    spans = list(_spans(series))
    if spans:
        band = strip("What limited the speed over time", spans, end_s=end_s)
        figures.append(_figure("What limited the speed", "colours as above", [], band))
    return _section("Over time", f'<div class="plots">{"".join(figures)}</div>')


def _figure(title: str, unit: str, lines: Sequence[Line], drawing: str) -> str:
    keys = (
        "".join(f'<span class="key {line.kind}"></span>{line.name}' for line in reversed(lines))
        if len(lines) > 1
        else ""
    )
    told = f", {unit}" if unit else ""
    return (
        f"<figure><figcaption><strong>{title}</strong>{told}{keys}</figcaption>{drawing}</figure>"
    )


def _spans(series: SeriesReport) -> Iterator[Span]:
    """The times in which one constraint was the binding one."""
    start_s = 0.0
    current: str | None = None
    before_s = 0.0
    for at_s, name in zip(series.at_s, series.constraint, strict=True):
        if name != current:
            if current is not None:
                yield Span(start_s, before_s, _kind(current), _constraint_name(current))
            current, start_s = name, before_s
        before_s = at_s
    if current is not None:
        yield Span(start_s, before_s, _kind(current), _constraint_name(current))


def _phases(report: Report) -> str:
    if not report.phases:
        return ""
    words = {True: "yes", False: "not in time", None: "not waited for"}
    rows = [
        (
            " and ".join(map(shown, phase.object_types)),
            f"{phase.delivered:,}",
            words[phase.processed],
            _time(phase.waited_s),
        )
        for phase in report.phases
    ]
    heads = ("Types", "#Delivered", "Seen processed before the next", "#Waited for that")
    return _section("Phases", _table("In the order in which they were sent", heads, rows))


def _repair(report: Report) -> str:
    """What the bridge could not process, and what became of it when it was sent again."""
    repair = report.repair
    if repair is None or not (repair.errors or repair.detail):
        return ""
    text = f"<p>{_name(repair.detail)}</p>" if repair.detail else ""
    rows = [
        (_code(kind), f"{one.found:,}", f"{one.healed:,}", f"{one.left:,}")
        for kind, one in repair.errors.items()
    ]
    if rows:
        caption = f"Rounds: {repair.rounds:,}; messages sent again: {repair.resent:,}"
        text += _table(caption, ("Type of error", "#Objects", "#Healed", "#Left"), rows)
    if repair.examples:
        text += _examples("The first objects that are left", repair.examples)
    return _section("Repair", text)


def _confirmation(report: Report) -> str:
    found = report.confirmation
    if not found.sampled and not found.detail:
        return ""
    bound = found.failure_rate_upper_bound_95
    text = (
        f"<p>{found.confirmed:,} of {found.sampled:,} sampled objects were confirmed,"
        f" {found.failed:,} failed, {found.unconfirmed:,} are unknown."
    )
    if bound is not None:
        text += (
            f" With 95 % confidence at most <strong>{bound:.2%}</strong> of all messages failed."
        )
    text += "</p>"
    if found.detail:
        text += f"<p>{_name(found.detail)}</p>"
    if found.errors:
        errors = sorted(found.errors.items(), key=lambda item: -item[1])
        rows = [(_code(name), f"{count:,}") for name, count in errors]
        text += _table("Errors of the bridge by type", ("Type", "#Objects"), rows)
    if found.examples:
        text += _examples("Examples of objects that failed", found.examples)
    return _section("Confirmation", text)


def _examples(caption: str, objects: Iterable[Mapping[str, str | None]]) -> str:
    """Objects that the bridge could not process, in its own words."""
    rows = [tuple(_name(one.get(key) or "") for key in _EXAMPLE_KEYS) for one in objects]
    return _table(caption, ("Type of error", "Store", "Type", "Id", "&Details"), rows)


_EXAMPLE_KEYS = ("type", "store_id", "object_type", "external_object_id", "details")


def _rejected(report: Report) -> str:
    text = ""
    if report.rejected:
        where = f" They are in {_code(report.dead_letters)}." if report.dead_letters else ""
        text += f"<p>{report.messages.rejected:,} messages were rejected.{where}</p>"
        text += _counts("Rejected by reason", "Reason", report.rejected)
    if report.rejected_examples:
        has_status = any(one.status is not None for one in report.rejected_examples)
        rows = [
            (
                _code(one.reason),
                *(("" if one.status is None else str(one.status),) if has_status else ()),
                _name(one.source),
                f"{one.line:,}",
                _name(one.detail),
            )
            for one in report.rejected_examples
        ]
        heads = ("Reason", *(("Status",) if has_status else ()), "Source", "#Line", "&Detail")
        text += _table("The first of each reason", heads, rows)
    if report.skipped:
        text += _counts("Skipped by rule", "Rule", report.skipped)
    title = "Rejected and skipped" if report.rejected and report.skipped else ""
    return _section(title or ("Rejected" if report.rejected else "Skipped"), text) if text else ""


def _counts(caption: str, what: str, counts: Mapping[str, int]) -> str:
    rows = [
        (_code(name), f"{count:,}") for name, count in sorted(counts.items(), key=lambda i: -i[1])
    ]
    return _table(caption, (what, "#Messages"), rows)


def _requests(report: Report) -> str:
    requests, latency = report.requests, report.latency_ms
    facts = [
        ("Sent", f"{requests.sent:,}"),
        ("Accepted", f"{requests.accepted:,}"),
        ("Retried", f"{requests.retried:,}"),
        ("Batches taken apart", f"{requests.split:,}"),
        ("Without an answer, perhaps applied", f"{requests.ambiguous:,}"),
        ("Bodies", _size(report.bytes.sent)),
        ("In flight at most", f"{report.in_flight.max:,}"),
        ("Limit at the end", f"{report.in_flight.limit:,}"),
    ]
    facts += [(f"HTTP {shown(name)}", f"{count:,}") for name, count in requests.by_status.items()]
    facts += [(f"Failed: {shown(name)}", f"{count:,}") for name, count in requests.failures.items()]
    text = _table("Counts", ("Requests", "#"), facts)
    if latency.max is not None:
        values = (latency.p50, latency.p90, latency.p99, latency.p999, latency.max)
        row = [f"{value:,.1f}" if value is not None else "" for value in values]
        heads = ("#50 %", "#90 %", "#99 %", "#99.9 %", "#max")
        text += _table("Latency of accepted requests, ms", heads, [row])
    return _section("Requests", f'<div class="pair">{text}</div>')


def _lanes(report: Report) -> str:
    if not report.lanes:
        return ""
    total = f"all {report.lanes_total:,}"
    if report.lanes_total > len(report.lanes):
        total = f"the {len(report.lanes):,} largest of {report.lanes_total:,}"
    heads = ("Store", "Type", "#Delivered", "#Rejected", "#Left out", "#Batches")
    rows = [
        (
            _name(lane.store_id),
            shown(lane.object_type),
            *(f"{count:,}" for count in (lane.delivered, lane.rejected, lane.parked, lane.batches)),
        )
        for lane in report.lanes
    ]
    table = _table(f"Stores and types, {total}", heads, rows, is_sortable=True)
    return _section("Lanes", table)


def _run(report: Report) -> str:
    run = report.run
    text = f"<p>Run {_code(report.run_id)}"
    text += f", checkpoint {_code(report.checkpoint)}" if report.checkpoint else ""
    text += ".</p>"
    if run.command:
        text += f'<pre tabindex="0" aria-label="Command">{shown(run.command)}</pre>'
    if run.settings:
        items = "".join(
            f"<div><dt>{shown(name)}</dt><dd>{_setting(value)}</dd></div>"
            for name, value in sorted(run.settings.items())
        )
        text += f'<h3>Settings</h3><dl class="settings">{items}</dl>'
    return _section("Command and settings", text)


def _setting(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_name, value)) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return _name(f"{value:,}" if isinstance(value, int) else value)


def _section(title: str, text: str) -> str:
    return f"<section><h2>{title}</h2>{text}</section>"


def _code(text: object) -> str:
    return f"<code>{_name(text)}</code>"


def _table(caption: str, heads: Sequence[str], rows: Rows, *, is_sortable: bool = False) -> str:
    """A table of cells that are HTML already.

    The heads of columns of numbers begin with #, of columns of long texts with &.
    """
    kinds = [_KINDS.get(head[0], "") for head in heads]
    head = "".join(
        f'<th scope="col"{kind}>{name.lstrip("#&") or "Number"}</th>'
        for name, kind in zip(heads, kinds, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(map(_cell, row, kinds, [is_sortable] * len(kinds))) + "</tr>"
        for row in rows
    )
    more = " data-sortable" if is_sortable else ' class="narrow"' if len(heads) == 2 else ""
    around = ' class="scroll tall" tabindex="0" role="region" aria-label="Table"'
    around = around if is_sortable else ' class="scroll"'
    return (
        f"<div{around}><table{more}><caption>{caption}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


_KINDS = {"#": ' class="number"', "&": ' class="long"'}


def _cell(value: str, kind: str, is_sortable: bool) -> str:  # noqa: FBT001 - mapped over columns
    number = f' data-value="{value.replace(",", "")}"' if "number" in kind and is_sortable else ""
    return f"<td{kind}{number}>{value}</td>"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min {rest} s" if hours else f"{minutes} min {rest} s"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.3g} {unit}" if size < 1000 else f"{size:,.0f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"
