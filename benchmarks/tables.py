"""Write results as Markdown, between the marks of the documents that show them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.figures import ratio

__all__ = ["DOCUMENTS", "KAFKA_RESULTS", "between", "of_kafka", "parts", "put", "write"]

ROOT = Path(__file__).parents[1]
_OWN = ROOT / "benchmarks" / "README.md"
KAFKA_RESULTS = ROOT / "benchmarks" / "results" / "kafka.json"
DOCUMENTS = {"speed": ROOT / "README.md", "scenarios": _OWN, "processes": _OWN, "kafka": _OWN}

Results = Mapping[str, Any]


def parts(results: Results) -> dict[str, str]:
    """What belongs between which marks."""
    return {
        "speed": _speed(results),
        "scenarios": _scenarios(results),
        "processes": _processes(results["second_process"]),
    }


def between(mark: str) -> re.Pattern[str]:
    """Finds the part between two marks."""
    return re.compile(rf"(?<=<!-- {mark} -->\n).*?(?=<!-- /{mark} -->)", re.DOTALL)


def write(results: Results) -> None:
    """Put the parts into the documents."""
    for mark, part in parts(results).items():
        put(mark, part)


def put(mark: str, part: str) -> None:
    """Put a part between its marks."""
    path = DOCUMENTS[mark]
    text = path.read_text("utf-8")
    place = between(mark).search(text)
    assert place, f"{path} has no place for {mark}"
    path.write_text(text[: place.start()] + part + text[place.end() :], "utf-8")


def of_kafka(results: Results) -> str:
    """A topic beside a file with the same messages."""
    rows = []
    for name, found in results["cases"].items():
        of_topic, of_file = found["topic"], found["file"]
        rows.append(
            [
                f"{name}, {found['mean_line_bytes']:.0f} B",
                _number(of_topic["messages_per_s"]),
                _number(of_file["messages_per_s"]),
                str(ratio(of_topic["rates"], of_file["rates"])),
                f"{max(0.0, found['loop_share_of_consuming']):.0%}",
                f"{of_topic['cpu_us_per_message']:.2f} us",
                f"{of_file['cpu_us_per_message']:.2f} us",
                f"{of_topic['rss_mib']:.0f} MiB",
            ]
        )
    head = (
        "Messages",
        "from a topic, messages/s",
        "from a file",
        "ratio (95 %)",
        "event loop: share of consuming",
        "CPU a message, topic",
        "file",
        "peak RSS, topic",
    )
    return _table(head, rows)


def _speed(results: Results) -> str:
    """Everyone, without latency and with."""
    at_once = results["scenarios"]["no latency"]["contenders"]
    late = results["scenarios"]["100 ms"]
    ours = at_once["pusher"]["rates"]
    rows = []
    for name, found in sorted(at_once.items(), key=lambda item: -item[1]["messages_per_s"]):
        version = results["versions"].get(name, "").split(",")[0]
        times = f"{ratio(ours, found['rates']).value:.2f}" if name != "pusher" else "1"
        there = late["contenders"].get(name)
        rows.append(
            [
                f"{name} ({version})" if version and not version.startswith("pusher") else name,
                _number(found["messages_per_s"]),
                f"{_number(found['spread'][0])} to {_number(found['spread'][1])}",
                times,
                f"{found['cpu_us_per_message']:.2f} us" if name != "wrk" else "",
                f"{found['rss_mib']:.0f} MiB" if name != "wrk" else "",
                _number(there["messages_per_s"]) if there else "",
            ]
        )
    head = (
        "Messages a second",
        "no latency",
        "all rounds",
        "pusher is so many times as fast",
        "CPU a message",
        "peak RSS",
        f"100 ms, {late['concurrency']} in flight",
    )
    return _table(head, rows)


def _scenarios(results: Results) -> str:
    """Each scenario: us, the bare loop, and what is possible."""
    rows = []
    for name, found in results["scenarios"].items():
        contenders = found["contenders"]
        ours, bare = contenders["pusher"], contenders.get("bare loop")
        most = found["most_per_s"]
        rows.append(
            [
                name,
                _number(ours["messages_per_s"]),
                _number(bare["messages_per_s"]) if bare else "",
                str(ratio(ours["rates"], bare["rates"])) if bare else "",
                _number(most) if most else "",
                f"{ours['messages_per_s'] * found['mean_line_bytes'] / 1e6:,.0f} MB/s",
                f"{ours['messages_per_request']:g}",
                f"{ours['cpu_us_per_message']:.2f} us",
                f"{ours['rss_mib']:.0f} MiB",
            ]
        )
    head = (
        "Scenario",
        "pusher, messages/s",
        "bare loop",
        "ratio (95 %)",
        "most at this latency",
        "input",
        "messages a request",
        "CPU a message",
        "peak RSS",
    )
    latency = [
        [
            f"{each['lines_per_s']:,}/s",
            f"{each['linger']}",
            f"{each['max_age']}",
            *(f"{each[name]:,.1f} ms" for name in ("p50_ms", "p99_ms", "max_ms")),
        ]
        for each in results["latency"]
    ]
    columns = ("Lines arrive at", "`--linger`", "`--max-age`", "p50", "p99", "largest")
    return f"{_table(head, rows)}\n{_table(columns, latency)}"


def _processes(found: Mapping[str, Any]) -> str:
    """What two processes bring against one."""
    words = {
        "halves": "two, each with half of the input in a file of its own",
        "shares": "two, each decodes all of the input and sends its own stores",
        "apart": "one decodes and encodes, the other one only sends, without any accounting",
    }
    rows = []
    for name, what in words.items():
        times, low, high = found[name]["by_one"]
        rows.append([what, f"{times:.2f} ({low:.2f} to {high:.2f})"])
    return _table(("Processes", "rate by that of one (95 %)"), rows)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    escaped = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def _number(value: float) -> str:
    """Three digits are all that the spread allows."""
    digits = max(0, len(str(int(value))) - 3)
    return f"{round(value, -digits):,.0f}"
