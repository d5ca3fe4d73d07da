"""The main job: a real change stream through a real bridge, both as processes."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import time
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fakes.command import (
    DATA,
    NORTHWIND,
    NORTHWIND_COUNT,
    PUSHER,
    ended,
    files_in,
    letters_in,
    message,
    ndjson,
    northwind_bridge,
    run,
    run_shell,
    running_bridge,
    starting,
)
from fakes.endpoint import Endpoint, until

ALL_DELIVERED = {
    "read": NORTHWIND_COUNT,
    "delivered": NORTHWIND_COUNT,
    "rejected": 0,
    "skipped": 0,
    "pending": 0,
    "resumed": 0,
}
REQUESTS_MAX = 34
LEAST_REQUESTS = 26
LINGER_S = 1.0


def assert_all_confirmed(report: dict[str, Any]) -> None:
    assert report["messages"] == ALL_DELIVERED
    confirmation = report["confirmation"]
    assert confirmation["sampled"] >= 400
    assert confirmation["confirmed"] == confirmation["sampled"]
    assert confirmation["failed"] == confirmation["unconfirmed"] == 0
    assert confirmation["errors"] == {}
    assert (report["outcome"], report["exit_code"]) == ("delivered", 0)


async def fetched(url: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.status == 200
        found: dict[str, Any] = await answer.json()
        return found


async def accepted_by(url: str) -> int:
    stats = await fetched(f"{url}/_bridge/stats")
    return sum(counts["accepted"] for counts in stats["types"].values())


async def test_in_phases_everything_is_delivered_and_confirmed(tmp_path: Path) -> None:
    async with northwind_bridge(cwd=tmp_path) as url:
        push = await run("push", NORTHWIND, "--phases", "--url", url, "--report", "-", cwd=tmp_path)
        assert await accepted_by(url) == NORTHWIND_COUNT
    report = push.report
    assert_all_confirmed(report)
    assert LEAST_REQUESTS <= report["requests"]["sent"] <= REQUESTS_MAX
    assert report["requests"]["by_status"] == {"204": report["requests"]["sent"]}
    assert report["lanes_total"] == len(report["lanes"]) == 8
    assert sum(lane["delivered"] for lane in report["lanes"]) == NORTHWIND_COUNT
    assert report["confirmation"]["failure_rate_upper_bound_95"] < 0.01
    assert report["dead_letters"] is None
    assert letters_in(tmp_path) == []
    assert "4,059 of 4,059" in push.err


async def test_a_phase_waits_until_the_one_before_is_processed(tmp_path: Path) -> None:
    """The bridge takes its time with all that others point at, so nothing else would do."""
    delay = ("--processing-delay", "CONTACT=700ms,PRODUCT=700ms,DEAL=700ms")
    async with northwind_bridge(*delay, cwd=tmp_path) as url:
        push = await run("push", NORTHWIND, "--phases", "--url", url, "--report", "-", cwd=tmp_path)
    assert_all_confirmed(push.report)
    phases = push.report["phases"]
    assert [phase["object_types"] for phase in phases] == [
        ["CONTACT", "PRODUCT"],
        ["DEAL"],
        ["LINE_ITEM"],
    ]
    assert [phase["processed"] for phase in phases[:2]] == [True, True]
    assert all(phase["waited_s"] > 0.5 for phase in phases[:2])


async def test_without_phases_the_sample_shows_associations_that_did_not_exist_yet(
    tmp_path: Path,
) -> None:
    async with northwind_bridge(cwd=tmp_path) as url:
        push = await run("push", NORTHWIND, "--url", url, "--report", "-", cwd=tmp_path)
    report = push.report
    assert report["messages"] == ALL_DELIVERED
    assert (report["outcome"], push.code) == ("failed", 1)
    confirmation = report["confirmation"]
    assert confirmation["errors"]["INVALID_ASSOCIATION_PROPERTY"] > 0
    # A deal that could not be made is missing when only its stage changes.
    assert confirmation["errors"].keys() <= {
        "INVALID_ASSOCIATION_PROPERTY",
        "MISSING_REQUIRED_PROPERTY",
    }
    assert confirmation["failed"] == sum(confirmation["errors"].values()) > 0
    assert confirmation["unconfirmed"] == 0
    assert confirmation["failed"] + confirmation["confirmed"] == confirmation["sampled"]
    assert "INVALID_ASSOCIATION_PROPERTY" in push.err


async def test_a_second_identical_push_is_confirmed_again(tmp_path: Path) -> None:
    async with northwind_bridge(cwd=tmp_path) as url:
        for _ in range(2):
            arguments = ("--phases", "--url", url, "--report", "-")
            push = await run("push", NORTHWIND, *arguments, cwd=tmp_path)
            assert_all_confirmed(push.report)
        assert await accepted_by(url) == 2 * NORTHWIND_COUNT


async def test_the_bridge_ends_up_with_what_the_stream_says(tmp_path: Path) -> None:
    async with northwind_bridge(cwd=tmp_path) as url:
        push = await run("push", NORTHWIND, "--phases", "--url", url, "--report", "-", cwd=tmp_path)
        assert_all_confirmed(push.report)
        types = ("CONTACT", "PRODUCT", "DEAL", "LINE_ITEM")
        await all_processed(url)
        found = {key: state for kind in types for key, state in (await objects(url, kind)).items()}
    wanted = folded(gzip.decompress(NORTHWIND.read_bytes()).splitlines())
    assert len(wanted) == 3230
    assert found == wanted


async def all_processed(url: str) -> None:
    async with asyncio.timeout(20):
        while True:
            stats = await fetched(f"{url}/_bridge/stats")
            if not any(counts["queued"] for counts in stats["types"].values()):
                return
            await asyncio.sleep(0.02)


Key = tuple[str, str, str]


async def objects(url: str, kind: str) -> dict[Key, dict[str, Any]]:
    """All objects of a type in the bridge, without what the bridge itself adds to them."""
    found: dict[Key, dict[str, Any]] = {}
    after = ""
    while True:
        page = await fetched(f"{url}/_bridge/objects/{kind}?limit=1000&after={after}")
        for entry in page["results"]:
            found[entry["storeId"], kind, entry["externalObjectId"]] = {
                "changedAt": entry["changedAt"],
                "isDeleted": entry["isTombstone"],
                "properties": {
                    name: value
                    for name, value in entry["properties"].items()
                    if not name.startswith("ip__ecomm_bridge__")
                },
                "associations": {
                    other: sorted(target["externalObjectId"] for target in targets)
                    for other, targets in entry["associations"].items()
                },
            }
        if "paging" not in page:
            return found
        after = page["paging"]["next"]["after"]


def folded(lines: list[bytes]) -> dict[Key, dict[str, Any]]:
    """What a stream means: the newest change of each object counts, through the mappings."""
    settings = json.loads((DATA / "northwind-settings.json").read_bytes())
    names = {
        kind: {
            mapping["externalPropertyName"]: mapping["hubspotPropertyName"]
            for mapping in mappings["properties"]
        }
        for kind, mappings in settings["mappings"].items()
    }
    states: dict[Key, dict[str, Any]] = {}
    for line in lines:
        change = json.loads(line)
        kind = change["objectType"]
        key = (change["storeId"], kind, change["externalObjectId"])
        nothing = {"changedAt": 0, "isDeleted": False, "properties": {}, "associations": {}}
        state = states.setdefault(key, nothing)
        if change["changedAt"] < state["changedAt"]:
            continue
        state["changedAt"] = change["changedAt"]
        state["isDeleted"] = change["action"] == "DELETE"
        for name, value in change["properties"].items():
            if name in names[kind]:
                state["properties"][names[kind][name]] = value
        for other, targets in change.get("associations", {}).items():
            state["associations"][other] = sorted(targets)
    return states


FORMS = {
    "cat through a pipe": 'cat stream.ndjson | pusher push "$@"',
    "a named dash": 'cat stream.ndjson | pusher push - "$@"',
    "gzip through a pipe": 'cat stream.ndjson.gz | pusher push "$@"',
    "zstandard through a pipe": 'zstd -q -c stream.ndjson | pusher push "$@"',
    "a plain file": 'pusher push stream.ndjson "$@"',
    "a gzip file": 'pusher push stream.ndjson.gz "$@"',
    "a gzip file under another name": 'cp stream.ndjson.gz odd && pusher push odd "$@"',
    "a zstandard file": 'zstd -q stream.ndjson && pusher push stream.ndjson.zst "$@"',
    "two files": 'pusher push parts/a.ndjson parts/below/b.jsonl.gz "$@"',
    "a file and a pipe": 'gzip -dc parts/below/b.jsonl.gz | pusher push parts/a.ndjson - "$@"',
    "a directory": 'pusher push parts "$@"',
    "a glob": 'pusher push "part?/*.ndjson" "parts/**/*.gz" "$@"',
    "a named pipe": 'mkfifo pipe && (cat stream.ndjson >pipe & pusher push pipe "$@"; wait)',
}


@pytest.mark.parametrize("form", FORMS)
async def test_the_stream_arrives_whole_in_every_form(form: str, tmp_path: Path) -> None:
    if "zstd" in FORMS[form] and shutil.which("zstd") is None:
        pytest.skip("zstd is missing")
    lines = gzip.decompress(NORTHWIND.read_bytes()).splitlines(keepends=True)
    (tmp_path / "stream.ndjson").write_bytes(b"".join(lines))
    shutil.copy(NORTHWIND, tmp_path / "stream.ndjson.gz")
    (tmp_path / "parts/below").mkdir(parents=True)
    (tmp_path / "parts/a.ndjson").write_bytes(b"".join(lines[:2000]))
    (tmp_path / "parts/below/b.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[2000:])))
    (tmp_path / "parts/notes.txt").write_text("no input")
    async with northwind_bridge(cwd=tmp_path) as url:
        arguments = ("--url", url, "--confirm", "0", "--report", "-")
        push = await run_shell(FORMS[form], *arguments, cwd=tmp_path)
        assert push.code == 0, push.err
        assert push.report["messages"] == ALL_DELIVERED
        assert await accepted_by(url) == NORTHWIND_COUNT


@pytest.mark.parametrize("name", ["stream.ndjson", "stream.ndjson.gz"])
async def test_a_file_redirected_to_stdin_can_be_read_in_phases(name: str, tmp_path: Path) -> None:
    shutil.copy(NORTHWIND, tmp_path / "stream.ndjson.gz")
    (tmp_path / "stream.ndjson").write_bytes(gzip.decompress(NORTHWIND.read_bytes()))
    async with northwind_bridge(cwd=tmp_path) as url:
        script = f'pusher push "$@" <{name}'
        push = await run_shell(script, "--phases", "--url", url, "--report", "-", cwd=tmp_path)
    assert_all_confirmed(push.report)


async def test_a_stream_that_is_cut_off_loses_only_its_last_line(tmp_path: Path) -> None:
    stream = gzip.decompress(NORTHWIND.read_bytes())
    whole, _, rest = stream[:500_000].rpartition(b"\n")
    assert rest, "the cut must be inside a line"
    count = whole.count(b"\n") + 1
    async with northwind_bridge(cwd=tmp_path) as url:
        script = 'gzip -dc "$1" | head -c 500000 | pusher push "${@:2}"; exit $?'
        arguments = ("--url", url, "--confirm", "0", "--report", "-")
        push = await run_shell(f"set +o pipefail; {script}", NORTHWIND, *arguments, cwd=tmp_path)
        assert await accepted_by(url) == count
    assert push.code == 1
    assert push.counts() == (count + 1, count, 1, 0)
    assert push.report["outcome"] == "rejected"
    assert push.report["rejected"] == {"not_json": 1}
    assert push.report["dead_letters"] == "pusher.dead.ndjson"
    (letter,) = letters_in(tmp_path)
    assert letter["record"] == rest.decode()
    assert (letter["source"], letter["line"], letter["offset"]) == (
        "stdin",
        count + 1,
        len(whole) + 1,
    )
    assert letter["run_id"] == push.report["run_id"]


async def test_three_lines_and_then_silence_are_delivered_within_the_linger(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """The first line shows that the command is up; what counts is the three that follow."""
    argv = (*PUSHER, "push", "--url", endpoint.url, "--confirm", "0", "--report", "-")
    async with starting(*argv, cwd=tmp_path, stdin=PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(ndjson([message(0)]))
        await until(lambda: len(endpoint.delivered) == 1)
        process.stdin.write(ndjson(message(number) for number in (1, 2, 3)))
        written_s = time.monotonic()
        await until(lambda: len(endpoint.delivered) == 4)
        assert process.returncode is None
        assert endpoint.requests[-1].at_s - written_s <= LINGER_S + 0.5
        assert endpoint.requests[-1].ids == ["id1", "id2", "id3"]
        push = await ended(process, within_s=5)
    assert push.counts() == (4, 4, 0, 0)
    assert push.code == 0


async def test_lines_that_keep_trickling_in_leave_after_the_largest_age(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """The linger never ends when a line comes every 50 ms; the age does."""
    limits = ("--linger", "10s", "--max-age", "500ms")
    argv = (*PUSHER, "push", "--url", endpoint.url, "--confirm", "0", *limits, "--report", "-")
    async with starting(*argv, cwd=tmp_path, stdin=PIPE) as process:
        assert process.stdin is not None
        number = 0
        async with asyncio.timeout(15):
            while len(endpoint.requests) < 3:
                process.stdin.write(ndjson([message(number)]))
                number += 1
                await asyncio.sleep(0.05)
        gap_s = endpoint.requests[2].at_s - endpoint.requests[1].at_s
        assert 0.3 < gap_s < 1.5
        assert 1 < len(endpoint.requests[1].ids) < 30
        push = await ended(process, within_s=5)
    assert push.counts() == (number, number, 0, 0)


async def test_the_demo_shows_the_whole_job_within_fifteen_seconds(tmp_path: Path) -> None:
    demo = await run("demo", cwd=tmp_path, within_s=15)
    text = demo.out.decode()
    assert demo.code == 0
    assert "delivered: 4,059 of 4,059 messages" in text
    assert "sampled objects confirmed" in text
    for name in ("CONTACT VINET", "PRODUCT 11", "DEAL 10248", "LINE_ITEM 10248-11"):
        assert f"{name}: {{" in text
    assert '"dealname":"Order 10248"' in text
    assert files_in(tmp_path) == []


async def test_a_generated_stream_has_its_length_and_depends_on_its_seed_alone(
    tmp_path: Path,
) -> None:
    async def generated(seed: int) -> bytes:
        arguments = ("generate", "2500", "--stores", "3", "--seed", str(seed))
        made = await run(*arguments, cwd=tmp_path)
        assert (made.code, made.err) == (0, "")
        return made.out

    first, again, other = [await generated(seed) for seed in (7, 7, 8)]
    assert first == again
    assert first != other
    changes = [json.loads(line) for line in first.splitlines()]
    assert len(changes) == 2500
    assert {change["storeId"] for change in changes} == {"store-0001", "store-0002", "store-0003"}


async def test_a_generated_stream_can_be_cut_by_its_reader(tmp_path: Path) -> None:
    made = await run_shell("set +o pipefail; pusher generate 1000000 | head -1", cwd=tmp_path)
    assert (made.code, made.err) == (0, "")
    assert made.out.count(b"\n") == 1


async def test_a_generated_stream_goes_through_a_bridge_in_phases(tmp_path: Path) -> None:
    (tmp_path / "stores.json").write_text(
        json.dumps([{"id": f"store-000{n}", "label": f"Store {n}"} for n in (1, 2)])
    )
    settings = ("--settings", DATA / "northwind-settings.json", "--stores", "stores.json")
    async with running_bridge(*settings, cwd=tmp_path) as url:
        script = 'pusher generate 3000 --stores 2 >made && pusher push made "$@"'
        arguments = ("--phases", "--url", url, "--report", "-")
        push = await run_shell(script, *arguments, cwd=tmp_path)
    assert push.code == 0, push.err
    assert push.counts() == (3000, 3000, 0, 0)
