"""`python -m proof.table`: write what the README says of what was tried from the results files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from textwrap import wrap
from typing import Any

import orjson

from proof.ledger import RESULTS

__all__ = [
    "BETWEEN",
    "BETWEEN_MIGRATION",
    "BETWEEN_SCANNING",
    "MIGRATION",
    "README",
    "SCANNING",
    "main",
    "rendered",
    "told",
    "told_of_scanning",
]

README = Path(__file__).parents[2] / "README.md"
MIGRATION = RESULTS.with_name("migration.json")
SCANNING = RESULTS.with_name("scanning.json")
BETWEEN = re.compile(r"(?<=<!-- proof -->\n).*?(?=<!-- /proof -->)", re.DOTALL)

BETWEEN_MIGRATION = re.compile(r"(?<=<!-- migration -->\n).*?(?=<!-- /migration -->)", re.DOTALL)
BETWEEN_SCANNING = re.compile(r"(?<=<!-- scanning -->\n).*?(?=<!-- /scanning -->)", re.DOTALL)

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


def told(results: dict[str, Any]) -> str:
    """The paragraph of the README that the results of the migration stand for."""
    repair = results["repair"]
    healed, left = (sum(counts[name] for counts in repair.values()) for name in ("healed", "left"))
    text = (
        f"Tried with a generated migration of {results['messages']:,} messages of"
        f" {results['stores']} stores from a pipe, with {results['bad_lines']:,} lines cut off and"
        " one in a thousand associations pointing at nothing. pusher was killed (`kill -9`) in each"
        f" phase and in the repair, the bridge once, and {len(results['attempts'])} runs in all"
        f" took {results['elapsed_s'] / 60:.0f} minutes on {results['cpus']} CPUs shared with"
        f" others. {left:,} objects failed for good, as they or what they point at was cut off or"
        f" never there, and became dead letters; {healed:,} were healed. Afterwards"
        f" {results['objects']:,} objects were compared with what a push of one request at a time,"
        " a phase after the other, gives (properties, associations, tombstones, e-mail):"
        f" {results['differences']} differ. Peak RSS {results['peak_rss_mib']:.0f} MiB; the spool"
        f" took {results['spool_bytes'] / 2**20:.0f} MiB for"
        f" {results['input_bytes'] / 2**20:.0f} MiB. ({results['made']},"
        " `scripts/soak -k migration`, [results](benchmarks/results/migration.json))"
    )
    return _paragraph(text)


def told_of_scanning(results: dict[str, Any]) -> str:
    """The paragraph of the README on the scanner under sanitizers."""
    return _paragraph(
        f"The compiled scanner was given {results['executions']:,} chunks of lines, most of them"
        " harmed at random, in a build that tells of each byte touched out of bounds"
        " (AddressSanitizer, UndefinedBehaviorSanitizer): none was. It took"
        f" {results['taken']:,} of them, for the same, byte by byte, as decoding and encoding them"
        " gives, and the compiled lanes made the same bodies of them as those in plain Python; each"
        f" other one it left to the decoder. ({results['date']}, `scripts/soak -k scanning`,"
        " [results](benchmarks/results/scanning.json))"
    )


def _paragraph(text: str) -> str:
    return "\n".join([*wrap(text, 115, break_long_words=False, break_on_hyphens=False), ""])


def main() -> None:
    """Replace the parts between the README's marks."""
    readme = README.read_text("utf-8")
    for between, part in (
        (BETWEEN, rendered(orjson.loads(RESULTS.read_bytes()))),
        (BETWEEN_MIGRATION, told(orjson.loads(MIGRATION.read_bytes()))),
        (BETWEEN_SCANNING, told_of_scanning(orjson.loads(SCANNING.read_bytes()))),
    ):
        assert between.search(readme), "the README has no place for the results"
        readme = between.sub(lambda _, part=part: part, readme)  # type: ignore[misc]
    README.write_text(readme, "utf-8")


if __name__ == "__main__":
    main()
