"""`python -m benchmarks`: measure pusher beside others on one input and one sink."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks import cores, tables
from benchmarks.figures import ratio
from benchmarks.measuring import BenchmarkError
from benchmarks.plotting import drawn
from benchmarks.running import Bench
from benchmarks.scenarios import GUARD, SUITES

_FOLDER = Path(".benchmarks")
_LEAST_SHARE = 0.6
"""Of the bare loop's rate. With the scanner more than all of it is usual."""


def _run(arguments: argparse.Namespace) -> int:
    bench = Bench(_FOLDER)
    scenarios = [
        each
        for each in SUITES[arguments.suite]
        if not arguments.only or each.name in arguments.only
    ]
    names = dict.fromkeys(name for scenario in scenarios for name in scenario.contenders)
    results: dict[str, object] = {"scenarios": {}, "checks": {}, "versions": {}}
    if arguments.only and arguments.out and arguments.out.exists():
        results = json.loads(arguments.out.read_text())  # What is not measured now is kept.
    results |= {"suite": arguments.suite, "environment": bench.environment()}
    results["checks"] = _dict(results["checks"]) | bench.check(names)
    measured = _dict(results["scenarios"])
    if not arguments.only:
        results["latency"] = bench.latency()
        if arguments.suite == "full":
            results["second_process"] = cores.measure(_FOLDER / "inputs")
    for scenario in scenarios:
        measured[scenario.name] = bench.measure(scenario)
        results["versions"] = _dict(results["versions"]) | bench.versions()
        _keep(results, arguments.out)  # After each, so that what was measured is kept.
    return 0


def _dict(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value


def _keep(results: dict[str, object], path: Path | None) -> None:
    if path is not None:
        path.write_text(json.dumps(results, indent=1) + "\n")


def _compare(arguments: argparse.Namespace) -> int:
    first, second = (json.loads(path.read_text()) for path in (arguments.first, arguments.second))
    print(f"rate in {arguments.second} by rate in {arguments.first}, with 95 % intervals")
    for scenario, measured in first["scenarios"].items():
        others = second["scenarios"].get(scenario, {"contenders": {}})["contenders"]
        for name, figures in measured["contenders"].items():
            if name in others:
                print(
                    f"{scenario[:40]:40} {name:24} {ratio(others[name]['rates'], figures['rates'])}"
                )
    return 0


def _plot(arguments: argparse.Namespace) -> int:
    path = arguments.out or arguments.results.with_suffix(".svg")
    if path.suffix != ".svg":
        raise BenchmarkError(f"{path}: a plot is an SVG document, and its name ends in .svg")
    path.write_text(drawn(json.loads(arguments.results.read_text())), "utf-8")
    print(path)
    return 0


def _table(arguments: argparse.Namespace) -> int:
    tables.write(json.loads(arguments.results.read_text()))
    return 0


def _guard(arguments: argparse.Namespace) -> int:
    """A loss is there each time that it is looked for; a neighbour on the machine is not."""
    for _ in range(arguments.tries):
        found = Bench(_FOLDER).measure(GUARD)["contenders"]
        assert isinstance(found, dict)
        share = ratio(found["pusher, bare"]["rates"], found["bare loop"]["rates"])
        print(f"pusher by bare loop: {share}; at least {_LEAST_SHARE} is asked for")
        if share.value >= _LEAST_SHARE:
            return 0
    return 1


def _kafka(arguments: argparse.Namespace) -> int:
    from benchmarks import kafka  # noqa: PLC0415 - only this needs Kafka's client

    bench = Bench(_FOLDER)
    found = kafka.measure(_FOLDER / "inputs", arguments.messages, arguments.rounds)
    results = {"environment": bench.environment(), **found}
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    if arguments.out == tables.KAFKA_RESULTS:
        tables.put("kafka", tables.of_kafka(results))
    return 0


def main() -> int:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run", help="measure a suite")
    command.add_argument("--suite", choices=sorted(SUITES), default="quick")
    command.add_argument("--out", type=Path, help="results file (JSON)")
    command.add_argument("--only", action="append", metavar="SCENARIO", help="may be repeated")
    command.set_defaults(command=_run)
    command = commands.add_parser("compare", help="ratios of two results files, with intervals")
    command.add_argument("first", type=Path)
    command.add_argument("second", type=Path)
    command.set_defaults(command=_compare)
    command = commands.add_parser(
        "guard", help=f"fail where pusher is below {_LEAST_SHARE} of the bare loop"
    )
    command.add_argument("--tries", type=int, default=3)
    command.set_defaults(command=_guard)
    command = commands.add_parser("plot", help="draw a results file as SVG")
    command.add_argument("results", type=Path)
    command.add_argument("--out", type=Path, help="by default beside the results")
    command.set_defaults(command=_plot)
    command = commands.add_parser("table", help="write the tables of the documents")
    command.add_argument("results", type=Path)
    command.set_defaults(command=_table)
    command = commands.add_parser(
        "kafka", help="measure a topic beside a file with the same messages, and write the table"
    )
    command.add_argument("--messages", type=int, default=400_000)
    command.add_argument("--rounds", type=int, default=5)
    command.add_argument("--out", type=Path, default=tables.KAFKA_RESULTS)
    command.set_defaults(command=_kafka)
    arguments = parser.parse_args()
    try:
        code: int = arguments.command(arguments)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
