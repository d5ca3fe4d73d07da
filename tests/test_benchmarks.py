"""The benchmarks' own arithmetic, and that the documents say what the results file says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import orjson
import pytest

from benchmarks.digest import Digest, of_lines
from benchmarks.figures import percentile, ratio
from benchmarks.inputs import Stream, write
from benchmarks.measuring import BenchmarkError, Command, run, sink
from benchmarks.plotting import drawn
from benchmarks.scenarios import SUITES
from benchmarks.tables import DOCUMENTS, KAFKA_RESULTS, between, of_kafka, parts

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "speed.json"


def body(*messages: dict[str, Any]) -> bytes:
    return orjson.dumps({"storeId": "s", "objectType": "DEAL", "messages": messages})


def message(number: int, changed_at: int = 1) -> dict[str, Any]:
    return {"externalObjectId": str(number), "changedAt": changed_at, "properties": {"a": "b"}}


def line(one: dict[str, Any]) -> bytes:
    return orjson.dumps({"storeId": "s", "objectType": "DEAL", **one})


@pytest.mark.parametrize("mark", sorted(DOCUMENTS.keys() - {"kafka"}))
def test_the_tables_of_the_documents_are_those_of_the_results(mark: str) -> None:
    found = between(mark).search(DOCUMENTS[mark].read_text("utf-8"))
    assert found
    assert found.group() == parts(json.loads(RESULTS.read_text()))[mark], "run scripts/benchmark"


def test_the_table_of_topics_is_that_of_their_results() -> None:
    found = between("kafka").search(DOCUMENTS["kafka"].read_text("utf-8"))
    assert found
    wanted = of_kafka(json.loads(KAFKA_RESULTS.read_text()))
    assert found.group() == wanted, "run python -m benchmarks kafka"


def test_topics_are_not_much_slower_than_files_and_leave_the_event_loop_to_pushing() -> None:
    for name, found in json.loads(KAFKA_RESULTS.read_text())["cases"].items():
        share = ratio(found["topic"]["rates"], found["file"]["rates"])
        assert share.value >= 0.6, name
        assert found["loop_share_of_consuming"] < 0.25, name


def test_the_plot_is_that_of_the_results() -> None:
    results = json.loads(RESULTS.read_text())
    assert RESULTS.with_suffix(".svg").read_text("utf-8") == drawn(results)


def test_a_plot_is_not_written_under_the_name_of_another_format(tmp_path: Path) -> None:
    target = tmp_path / "speed.png"
    command = ("-m", "benchmarks", "plot", str(RESULTS), "--out", str(target))
    done = subprocess.run((sys.executable, *command), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"{target}: a plot is an SVG document, and its name ends in .svg\n"
    assert not target.exists()


def test_everyone_in_the_results_delivered_what_was_in_the_input() -> None:
    checks = json.loads(RESULTS.read_text())["checks"]
    assert checks
    assert all(check["same_messages"] for check in checks.values())


def test_a_plot_is_an_xml_document_with_a_bar_for_each_contender() -> None:
    results = json.loads(RESULTS.read_text())
    root = ET.fromstring(drawn(results))  # noqa: S314 - it is our own
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert set(results["scenarios"]["no latency"]["contenders"]) <= set(texts)


def test_a_ratio_is_that_of_the_medians_and_lies_in_its_interval() -> None:
    found = ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found.value == 2
    assert found.low <= 2 <= found.high


def test_the_ratio_of_equal_rates_has_no_width() -> None:
    found = ratio([5.0, 5.0, 5.0], [5.0, 5.0, 5.0])
    assert (found.value, found.low, found.high) == (1, 1, 1)


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (50, 3), (99, 5), (100, 5)])
def test_a_percentile_is_a_measured_value(percent: float, value: int) -> None:
    assert percentile([1, 2, 3, 4, 5], percent) == value


def test_a_digest_does_not_depend_on_the_order_of_objects_nor_on_how_json_is_written() -> None:
    digest = Digest()
    digest.add(body(message(2)))
    digest.add(json.dumps(json.loads(body({"action": "UPSERT", **message(1)})), indent=1).encode())
    assert digest.value == of_lines([line(message(1)), line(message(2))]).value


def test_a_digest_shows_a_message_that_is_missing_or_changed() -> None:
    whole = of_lines([line(message(1)), line(message(2))])
    assert of_lines([line(message(1))]).value != whole.value
    assert of_lines([line(message(1)), line(message(2, changed_at=2))]).value != whole.value


def test_a_digest_counts_what_comes_after_a_newer_change() -> None:
    assert (
        of_lines([line(message(1, 5)), line(message(1, 4)), line(message(1, 6))]).out_of_order == 1
    )


def test_a_stream_is_the_same_each_time_and_has_the_size_that_was_asked_for(tmp_path: Path) -> None:
    stream = Stream(500, lanes=16, line_bytes=300)
    first = write(stream, tmp_path / "a").read_bytes()
    assert write(stream, tmp_path / "b").read_bytes() == first
    lines = first.splitlines(keepends=True)
    assert {len(one) for one in lines} == {300}
    assert len(lines) == 500
    assert len({(m["storeId"], m["objectType"]) for m in map(orjson.loads, lines)}) == 16


def test_a_stream_of_records_holds_the_lines_of_the_plain_one(tmp_path: Path) -> None:
    plain = write(Stream(50, lanes=4, line_bytes=200), tmp_path).read_text().splitlines()
    wrapped = write(Stream(50, lanes=4, line_bytes=200, in_kcat=True), tmp_path).read_bytes()
    assert [orjson.loads(one)["payload"] for one in wrapped.splitlines()] == plain


def test_scenarios_have_names_of_their_own() -> None:
    for suite in SUITES.values():
        names = [scenario.name for scenario in suite]
        assert len(set(names)) == len(names)


def test_a_run_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with sink() as target, pytest.raises(BenchmarkError, match="exit code 3"):
        run(Command(["sh", "-c", "echo no >&2; exit 3"]), target, tmp_path / "errors")
