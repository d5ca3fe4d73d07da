"""`python -m proof.table`: write the README's table of what was tried from the results file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from proof.ledger import RESULTS

__all__ = ["BETWEEN", "README", "main", "rendered"]

README = Path(__file__).parents[2] / "README.md"
BETWEEN = re.compile(r"(?<=<!-- proof -->\n).*?(?=<!-- /proof -->)", re.DOTALL)

Row = dict[str, Any]

_TITLES = {
    "kill": "`kill -9` at a random moment, from",
    "signals": "a signal at a random moment",
    "closed pipes": "the reader goes away from",
    "full disk": "a full disk, at the",
    "read-only disk": "no place for the",
    "faults": "an endpoint with",
    "endings": "an endpoint that ends the run",
    "network": "a network with",
    "memory": "a stalled endpoint, and",
    "groups": "a consumer group with members",
    "storms": "a consumer group with members",
}
_HEAD = (
    "| What was tried | Runs | Harms | Messages | Lost | Out of order | Changed | Repeated |",
    "|---|--:|--:|--:|--:|--:|--:|--:|",
)
_MEMORY_HEAD = (
    "| Memory behind a stalled endpoint | Input | Stall | Base | Peak | Bound |",
    "|---|--:|--:|--:|--:|--:|",
)


def rendered(results: dict[str, Any]) -> str:
    """The part of the README that the results stand for, as Markdown."""
    entries: list[Row] = results["entries"]
    tried = [entry for entry in entries if entry["group"] != "memory"]
    watched = [entry for entry in entries if entry["group"] == "memory"]
    failed = sum(entry["failed"] for entry in entries)
    runs = sum(entry["runs"] for entry in entries)
    kept = "in every one all promises were kept" if not failed else f"{failed:,} broke a promise"
    said = (
        f"{runs:,} runs, {results['date']}; {kept}. pusher {results['pusher']},"
        f" Python {results['python']}, aiohttp {results['aiohttp']}, {results['cpus']} CPUs."
    )
    parts = [
        said,
        "",
        *_table(_HEAD, tried, _tried_row),
    ]
    if watched:
        parts += ["", *_table(_MEMORY_HEAD, watched, _memory_row)]
    return "\n".join([*parts, ""])


def _table(head: tuple[str, ...], entries: list[Row], row: Callable[[Row], list[str]]) -> list[str]:
    return [*head, *(f"| {' | '.join(row(entry))} |" for entry in entries)]


def _tried_row(entry: Row) -> list[str]:
    numbers = ("runs", "harms", "messages", "lost", "disordered", "changed", "repeated_max")
    return [f"{_TITLES[entry['group']]} {entry['name']}", *(f"{entry[name]:,}" for name in numbers)]


def _memory_row(entry: Row) -> list[str]:
    figures = entry["figures"]
    sizes = (f"{figures[name]:,} MiB" for name in ("base_mib", "peak_mib", "bound_mib"))
    return [entry["name"], f"{figures['input_mib']:,} MiB", f"{figures['stall_s']} s", *sizes]


def main() -> None:
    """Replace the part between the README's marks."""
    part = rendered(orjson.loads(RESULTS.read_bytes()))
    readme = README.read_text("utf-8")
    assert BETWEEN.search(readme), "the README has no place for the table"
    README.write_text(BETWEEN.sub(lambda _: part, readme), "utf-8")


if __name__ == "__main__":
    main()
