"""`pusher plan` as a command: what it finds, whether it comes true, and how it ends."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import pty
import re
import signal
import subprocess
import time
from asyncio.subprocess import PIPE
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
import zstandard
from aiohttp import web
from fakes.command import (
    DATA,
    DEADLINE_S,
    NORTHWIND,
    NORTHWIND_COUNT,
    PUSHER,
    Ended,
    environment,
    files_in,
    message,
    ndjson,
    northwind_bridge,
    run,
    run_shell,
    running_bridge,
    starting,
)
from fakes.endpoint import Endpoint, Request, accept

from pusher import Settings, push
from pusher.cli.connection import write_all
from pusher.coverage import Mappings
from pusher.findings import KINDS
from pusher.planning import Assumptions, compose_plan
from pusher.record_spool import RecordSpool
from pusher.sources import open_source
from pusher.surveying import Known, Reading, Surveyor

SETTINGS = ("--settings", DATA / "northwind-settings.json")
STORE = "northwind-europe"
MS = 1_600_000_000_000


async def planned(
    cwd: Path, *arguments: str | Path, stdin: bytes = b"", code: int | None = None
) -> dict[str, Any]:
    result = await run("plan", *arguments, "--json", cwd=cwd, stdin=stdin)
    plan: dict[str, Any] = json.loads(result.out)
    assert result.code == plan["exit_code"], result.err
    assert code is None or result.code == code, plan
    messages = plan["messages"]
    assert messages["read"] == messages["to_send"] + messages["rejected"] + messages["skipped"]
    return plan


async def surveyed(
    cwd: Path,
    stdin: bytes,
    *,
    settings: dict[str, Any] | None = None,
    assumptions: Assumptions | None = None,
    max_line_bytes: int = 1 << 20,
    **reading: Any,
) -> dict[str, Any]:
    """The same without a process of its own; against the settings of Northwind or others."""
    (cwd / "stdin").write_bytes(stdin)
    if settings is None:
        settings = json.loads((DATA / "northwind-settings.json").read_bytes())
    known = Known(mappings=Mappings.of(settings))
    with RecordSpool(1 << 20) as spool:
        source = open_source([cwd / "stdin"], max_line_bytes)
        now_ms = int(time.time() * 1000)
        surveyor = Surveyor(source, Reading(**reading), known, spool, now_ms=now_ms)
        await surveyor.read()
        await surveyor.finish()
    plan = compose_plan(
        surveyor.survey,
        surveyor.findings.listed(surveyor.source_names),
        assumptions or Assumptions(),
        mappings_from="a test",
    )
    as_dict: dict[str, Any] = json.loads(plan.to_json())
    return as_dict


def found(plan: dict[str, Any]) -> dict[tuple[str, str], tuple[int, list[str]]]:
    """The findings: (kind, of) -> count and lines, the lines without their source."""
    return {
        (one["kind"], one["of"]): (
            one["count"],
            [line.rpartition(":")[2] for line in one["lines"]],
        )
        for one in plan["findings"]
    }


def contact(number: int, **fields: Any) -> dict[str, Any]:
    properties = {"firstname": "A", "customer_email": f"c{number}@example.com"}
    base = {"storeId": STORE, "objectType": "CONTACT", "externalObjectId": f"c{number}"}
    return {**base, "changedAt": MS + number, "properties": properties, **fields}


def deal(number: int, **fields: Any) -> dict[str, Any]:
    properties = {"name": f"d{number}", "stage": "shipped", "purchase_date": str(MS)}
    base = {"storeId": STORE, "objectType": "DEAL", "externalObjectId": f"d{number}"}
    points_at = {"associations": {"CONTACT": ["c1"]}}
    return {**base, "changedAt": MS + number, "properties": properties, **points_at, **fields}


# The counts are those of a dry run.


def assert_same(plan: dict[str, Any], report: dict[str, Any]) -> None:
    messages = report["messages"]
    assert plan["messages"]["read"] == messages["read"]
    assert plan["messages"]["rejected"] == messages["rejected"]
    assert plan["rejected"] == report["rejected"]
    assert {**plan["skipped"], "dry_run": plan["messages"]["to_send"]} == report["skipped"]
    assert plan["lanes_total"] == report["lanes_total"]
    of_plan, of_report = [
        {(lane["store_id"], lane["object_type"], lane["batches"]) for lane in each["lanes"]}
        for each in (plan, report)
    ]
    assert of_plan == of_report
    assert plan["batches"] == sum(lane["batches"] for lane in plan["lanes"])


async def both(cwd: Path, stream: bytes, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plan of a stream and the report of its dry run, with the same options."""
    max_line_bytes = options.pop("max_line_bytes", 1 << 20)
    plan = await surveyed(cwd, stream, max_line_bytes=max_line_bytes, **options)
    settings = Settings(url="http://127.0.0.1:9", dry_run=True, **options)
    report = await push(open_source([cwd / "stdin"], max_line_bytes), settings)
    return plan, json.loads(report.to_json())


async def test_the_plan_of_northwind_agrees_with_its_dry_run(tmp_path: Path) -> None:
    plan = await planned(tmp_path, NORTHWIND)
    flags = ("--dry-run", "--url", "http://127.0.0.1:9", "--report", "-", "-q")
    assert_same(plan, (await run("push", NORTHWIND, *flags, cwd=tmp_path)).report)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 7},
        {"batch_bytes": 2048},
        {"limit": 1000},
        {"only_types": frozenset({"DEAL"}), "only_stores": frozenset({STORE})},
        {"max_line_bytes": 230},
        {"memory_bytes": 1 << 20, "batch_bytes": 200 << 10},
        {"default_store": "s", "default_type": "DEAL"},
    ],
)
async def test_the_plan_agrees_with_the_dry_run_under_the_same_options(
    options: dict[str, Any], tmp_path: Path
) -> None:
    bad = b'oops\n\n{}\n{"externalObjectId": 1}\n'
    assert_same(*await both(tmp_path, bad + gzip.decompress(NORTHWIND.read_bytes()), **options))


async def test_many_lanes_leave_early_in_the_plan_as_in_the_dry_run(tmp_path: Path) -> None:
    entries = [message(number, storeId=f"s{number % 997}") for number in range(6_000)]
    plan, report = await both(tmp_path, ndjson(entries), memory_bytes=1 << 20, batch_bytes=64 << 10)
    assert_same(plan, report)
    assert plan["batches"] > 997  # Otherwise memory was not short.


async def test_the_dry_run_points_to_the_plan_and_says_the_same_number(tmp_path: Path) -> None:
    result = await run("push", NORTHWIND, "--dry-run", "--url", "http://127.0.0.1:9", cwd=tmp_path)
    plan = await planned(tmp_path, NORTHWIND)
    assert f"dry run: {plan['batches']} requests would be sent; `pusher plan`" in result.err


async def test_the_bodies_are_as_large_as_planned(endpoint: Endpoint, tmp_path: Path) -> None:
    entries = ndjson(message(number) for number in range(450))
    plan = await planned(tmp_path, stdin=entries, code=0)
    result = await run(
        *("push", "--url", endpoint.url, "--confirm", "0", "--report", "-"),
        cwd=tmp_path,
        stdin=entries,
    )
    assert result.report["bytes"]["sent"] == plan["bytes"]["bodies"]
    assert result.report["requests"]["sent"] == plan["batches"] == 3


async def test_a_run_takes_at_least_as_long_as_the_plan_says(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def slow(request: Request) -> web.StreamResponse:
        await asyncio.sleep(0.25)
        return await accept(request)

    endpoint.answer = slow
    hot = [message(0, changedAt=MS + number) for number in range(8)]
    for entries, bound_by in (([message(n) for n in range(16)], "latency"), (hot, "order")):
        flags = ("--batch-size", "1", "--concurrency", "2")
        stdin = ndjson(entries)
        assumptions = Assumptions(latency_s=0.25, concurrency=2, batch_size=1)
        plan = await surveyed(tmp_path, stdin, assumptions=assumptions, batch_size=1)
        (estimate,) = plan["estimates"]
        assert estimate["bound_by"] == bound_by
        run_flags = ("--url", endpoint.url, "--confirm", "0", "--report", "-")
        report = (await run("push", *flags, *run_flags, cwd=tmp_path, stdin=stdin)).report
        assert estimate["seconds"] <= report["elapsed_s"] < estimate["seconds"] + 20


# What is found comes true.


def bad_lines() -> Iterable[tuple[dict[str, Any], tuple[str, str] | None]]:
    """Lines, and what the bridge makes of them: how often each error of processing comes."""
    yield contact(1), None
    yield contact(2, properties={"firstname": "B"}), ("missing_email", "")
    yield (
        contact(3, properties={"customer_email": "nobody"}),
        ("bad_email", "CONTACT.customer_email"),
    )
    yield deal(1), None
    yield deal(2, properties={"name": "x", "stage": "sold"}), ("bad_stage", "DEAL.stage")
    late = {"name": "x", "stage": "shipped", "purchase_date": "2020-01-01"}
    yield deal(3, properties=late), ("bad_time", "DEAL.purchase_date")
    yield deal(4, properties={"colour": "red"}), ("nothing_mapped", "DEAL")
    nobody = {"CONTACT": ["c1", "nobody"]}
    yield deal(5, associations=nobody), ("dangling_association", "DEAL to CONTACT")
    other = {"PRODUCT": ["p1"]}
    yield deal(6, associations=other), ("unknown_association", "DEAL to PRODUCT")


ERRORS = {
    "missing_email": "MISSING_REQUIRED_PROPERTY",
    "bad_email": "INVALID_EMAIL_ADDRESS",
    "bad_stage": "INVALID_DEAL_STAGE",
    "bad_time": "UNKNOWN_ERROR",
    "nothing_mapped": "NO_MAPPINGS_DEFINED",
    "dangling_association": "INVALID_ASSOCIATION_PROPERTY",
    "unknown_association": "INVALID_ASSOCIATION_PROPERTY",
}


async def test_what_the_plan_says_would_fail_fails_and_nothing_else(tmp_path: Path) -> None:
    lines = list(bad_lines())
    (tmp_path / "in.ndjson").write_bytes(ndjson(line for line, _ in lines))
    wanted = {
        (line["objectType"], line["externalObjectId"], ERRORS[finding[0]])
        for line, finding in lines
        if finding is not None
    }
    async with northwind_bridge(cwd=tmp_path) as url:
        plan = await planned(tmp_path, "in.ndjson", "--url", url, code=1)
        await run("push", "in.ndjson", "--phases", "--url", url, cwd=tmp_path)
        errors = await run("errors", "--json", "--url", url, cwd=tmp_path)
    fails = {
        key: lines
        for key, (count, lines) in found(plan).items()
        if KINDS[key[0]].severity == "fails" and count
    }
    assert fails == {
        finding: [str(number)] for number, (_, finding) in enumerate(lines, 1) if finding
    }
    happened = {
        (error["objectType"], error["externalObjectId"], error["type"])
        for error in map(json.loads, errors.out.splitlines())
    }
    assert happened == wanted


async def test_what_the_plan_says_would_be_refused_is_refused(tmp_path: Path) -> None:
    entries = [
        contact(1),
        contact(2, properties={"firstname": ["A"]}),
        deal(3, associations={"CONTACT": "c1"}),
        deal(4, associations={"COMPANY": ["c1"]}),
        deal(5),
    ]
    (tmp_path / "in.ndjson").write_bytes(ndjson(entries) + b"oops\n")
    async with northwind_bridge(cwd=tmp_path) as url:
        plan = await planned(tmp_path, "in.ndjson", "--url", url, code=1)
        pushed = await run("push", "in.ndjson", "--url", url, "--report", "-", cwd=tmp_path)
    assert found(plan) == {
        ("rejected", "not_json"): (1, ["6"]),
        ("bad_properties", "CONTACT"): (1, ["2"]),
        ("bad_associations", "DEAL"): (2, ["3", "4"]),
    }
    assert pushed.report["rejected"] == {"refused": 3, "not_json": 1}


async def test_northwind_is_ready_for_its_bridge_and_the_plan_sends_nothing(tmp_path: Path) -> None:
    async with northwind_bridge(cwd=tmp_path) as url:
        plan = await planned(tmp_path, NORTHWIND, "--url", url, code=0)
        status = await run("status", "CONTACT", STORE, "VINET", "--url", url, cwd=tmp_path)
    assert plan["outcome"] == "ready"
    assert plan["messages"]["to_send"] == NORTHWIND_COUNT
    assert {kind for kind, _ in found(plan)} == {"changed_again", "unmapped_property"}
    assert plan["mappings_from"] == "the bridge"
    assert status.code == 4  # The bridge knows no such object.


async def test_a_bridge_without_settings_or_the_store_is_found_out(tmp_path: Path) -> None:
    async with running_bridge(cwd=tmp_path) as url:
        plan = await planned(tmp_path, "--url", url, stdin=ndjson([contact(1)]), code=1)
    assert found(plan) == {("unknown_store", STORE): (1, ["1"]), ("no_settings", ""): (1, [])}


async def test_settings_that_are_off_or_map_no_email_are_found_out(tmp_path: Path) -> None:
    mapping = {"externalPropertyName": "firstname", "hubspotPropertyName": "firstname"}
    settings = {"enabled": False, "mappings": {"CONTACT": {"properties": [mapping]}}}
    entries = ndjson([contact(1), deal(2, associations={})])
    plan = await surveyed(tmp_path, entries, settings=settings)
    assert plan["exit_code"] == 1
    assert found(plan) == {
        ("settings_disabled", ""): (2, []),
        ("type_not_mapped", "DEAL"): (1, ["2"]),
        ("email_not_mapped", "CONTACT"): (1, []),
        ("unmapped_property", "CONTACT.customer_email"): (1, ["1"]),
    }


# What is only a warning.


async def test_times_and_repeats_that_lose_changes_are_warned_of(tmp_path: Path) -> None:
    day_ms = 24 * 3_600_000
    entries = [
        contact(1, changedAt=MS // 1000),
        contact(2, changedAt=int(time.time() * 1000) + 2 * day_ms),
        contact(3, changedAt=None),
        contact(4),
        contact(4),
        contact(4, changedAt=MS),
        contact(4, changedAt=MS + 5, action="DELETE"),
        contact(4, changedAt=MS + 6),
        contact(5, properties={"customer_email": "e@example.com", "firstname": None}),
        {**deal(1, associations={}), "externalObjectId": "c1"},
    ]
    del entries[2]["changedAt"]
    plan = await surveyed(tmp_path, ndjson(entries))
    assert plan["exit_code"] == 0
    assert found(plan) == {
        ("seconds", ""): (1, ["1"]),
        ("future", ""): (1, ["2"]),
        ("undated", ""): (1, ["3"]),
        ("same_time", "CONTACT"): (1, ["5"]),
        ("stale", "CONTACT"): (1, ["6"]),
        ("after_delete", "CONTACT"): (1, ["8"]),
        ("changed_again", "CONTACT"): (1, ["5"]),
        ("null_values", "CONTACT"): (1, ["9"]),
        ("shared_id", ""): (1, ["10"]),
    }
    assert plan["most_messages_of_an_object"] == 5


async def test_what_comes_before_its_target_is_to_be_pushed_in_phases(tmp_path: Path) -> None:
    entries = ndjson([deal(1), contact(1), deal(2)])
    plan = await surveyed(tmp_path, entries)
    assert plan["exit_code"] == 0
    assert found(plan) == {("later_target", "DEAL to CONTACT"): (1, ["1"])}
    assert any("--phases" in hint for hint in plan["hints"])
    assert [phase["messages"] for phase in plan["phases"]] == [1, 2, 0]


async def test_lines_are_numbered_as_in_their_files_blank_ones_too(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(ndjson([contact(1)]) + b"\n\r\n" + ndjson([deal(9)]))
    bad = ndjson([deal(1, associations={"CONTACT": ["x"]})])
    (tmp_path / "b.ndjson.zst").write_bytes(zstandard.compress(b"\n" + bad))
    (tmp_path / "c.ndjson.gz").write_bytes(gzip.compress(b"oops\n" + bad))
    plan = await planned(tmp_path, "--settings", SETTINGS[1], ".", code=1)
    lines = {one["kind"]: one["lines"] for one in plan["findings"]}
    assert lines["dangling_association"] == ["b.ndjson.zst:2", "c.ndjson.gz:2"]
    assert lines["rejected"] == ["c.ndjson.gz:1"]
    plan = await planned(tmp_path, "a.ndjson", *SETTINGS, "--only-type", "DEAL", code=1)
    assert found(plan)["dangling_association", "DEAL to CONTACT"] == (1, ["4"])


async def test_rows_of_an_export_are_planned_with_their_mapping(tmp_path: Path) -> None:
    (tmp_path / "map.toml").write_text(
        '[topics.people]\ntype = "CONTACT"\nstore = "s"\nid = "id"\n'
    )
    records = [
        {
            "topic": "people",
            "partition": 0,
            "offset": number,
            "tstype": "create",
            "ts": MS,
            "broker": 0,
            "key": None,
            "payload": json.dumps(row),
        }
        for number, row in enumerate([{"id": 1, "email": "a@example.com"}, {"id": 2}, {"x": 1}])
    ]
    plan = await planned(tmp_path, "--map", "map.toml", stdin=ndjson(records), code=1)
    assert plan["rejected"] == {"no_id": 1}
    assert found(plan) == {
        ("rejected", "no_id"): (1, ["3"]),
        ("missing_email", ""): (1, ["2"]),
    }


async def test_an_allowed_finding_is_no_failure(tmp_path: Path) -> None:
    entries = ndjson([contact(2), deal(1)])
    assert (await surveyed(tmp_path, entries))["exit_code"] == 1
    plan = await planned(
        tmp_path, *SETTINGS, "--allow", "dangling_association", stdin=entries, code=0
    )
    assert plan["allowed"] == ["dangling_association"]
    assert ("dangling_association", "DEAL to CONTACT") in found(plan)


async def test_latency_concurrency_and_rate_decide_on_the_estimate(tmp_path: Path) -> None:
    entries = ndjson(message(number) for number in range(100))
    flags = ("--batch-size", "1", "--latency", "2s", "--concurrency", "10", "--confirm", "10%")
    plan = await planned(tmp_path, *flags, stdin=entries)
    (estimate,) = plan["estimates"]
    assert (estimate["seconds"], estimate["bound_by"]) == (20.0, "latency")
    assert plan["polls"] == {"count": 11, "per_s": 9.0, "seconds": 1.2}
    (estimate,) = (await planned(tmp_path, *flags, "--rate", "2", stdin=entries))["estimates"]
    assert (estimate["seconds"], estimate["bound_by"]) == (51.5, "rate")


# How it ends.


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--nonsense",), "--nonsense"),
        (("missing.ndjson",), "missing.ndjson"),
        (("kafka://127.0.0.1:9/orders?group=g",), "kcat"),
        (("--settings", "missing.json"), "missing.json"),
        (("--settings", "empty"), "empty is not JSON"),
        (("--batch-size", "201"), "--batch-size must be between 1 and 200"),
        (("--rate", "0"), "--rate"),
        (("--memory", "1"), "--memory"),
        (("--max-line", "0"), "--max-line"),
        (("--spool-dir", "nowhere"), "nowhere"),
        (("--allow", "stale"), "stale"),
        (("--url", "nonsense"), "nonsense"),
        (("--url", "http://127.0.0.1:9", "--token", "a", "--api-key", "b"), "not both"),
    ],
)
async def test_a_command_line_that_makes_no_sense_is_exit_2(
    arguments: tuple[str, ...], complaint: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").write_text("")
    result = await run("plan", *arguments, cwd=tmp_path, stdin=b"")
    assert result.code == 2, result.err
    assert result.out == b""
    assert complaint in result.err


async def test_a_bridge_that_is_gone_or_refuses_is_exit_3(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    flags = ("--connect-timeout", "1s")
    gone = await run("plan", "--url", "http://127.0.0.1:9", *flags, cwd=tmp_path, stdin=b"")
    assert (gone.code, gone.out) == (3, b"")
    # It has no settings at all, and is no bridge: 404 for everything that it does not know.
    none = await run("plan", "--url", f"{endpoint.url}/x", *flags, cwd=tmp_path, stdin=b"")
    assert (none.code, none.out) == (3, b"")
    assert "does not tell its settings and stores" in none.err


async def test_a_damaged_input_is_exit_3_with_what_was_read(tmp_path: Path) -> None:
    (tmp_path / "in.gz").write_bytes(NORTHWIND.read_bytes()[:60_000])
    plan = await planned(tmp_path, "in.gz", code=3)
    assert plan["outcome"] == "stopped"
    assert "in.gz" in plan["reason"]
    assert plan["messages"]["read"] > 100


async def test_an_input_that_is_nothing_known_is_exit_2(tmp_path: Path) -> None:
    result = await run("plan", "--json", cwd=tmp_path, stdin=b'{"a": 1}\n' * 200)
    assert result.code == 2, result.err
    assert result.out == b""


async def test_a_signal_ends_reading_and_prints_the_plan_of_what_was_read(tmp_path: Path) -> None:
    await asyncio.gather(
        assert_a_signal_ends_it(signal.SIGINT, 130, tmp_path),
        assert_a_signal_ends_it(signal.SIGTERM, 143, tmp_path),
    )


async def assert_a_signal_ends_it(signum: signal.Signals, code: int, cwd: Path) -> None:
    async with (
        starting(*PUSHER, "plan", "--json", cwd=cwd, stdin=PIPE) as process,
        asyncio.timeout(DEADLINE_S),
    ):
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(ndjson(message(number) for number in range(2_000)))
        await process.stdin.drain()
        # Every few seconds it says how far it is; the pipe stays open, so it goes on reading.
        async for line in process.stderr:
            if b"2,000 messages" in line:
                break
        process.send_signal(signum)
        plan = json.loads(await process.stdout.read())
        assert await process.wait() == code
    assert (plan["outcome"], plan["exit_code"]) == ("interrupted", code)
    assert plan["messages"]["to_send"] == 2_000


async def test_nothing_to_read_is_ready(tmp_path: Path) -> None:
    plan = await planned(tmp_path, code=0)
    assert plan["batches"] == plan["lanes_total"] == plan["polls"]["count"] == 0
    assert (await run("plan", cwd=tmp_path, stdin=b"")).code == 0


async def test_a_plan_writes_no_file(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(ndjson([contact(1)]) + b"oops\n")
    await run("plan", "in", "--memory", "1MiB", "--spool-dir", ".", cwd=tmp_path)
    assert files_in(tmp_path) == ["in"]


# How it looks.


async def test_in_a_pipe_it_is_plain_text_with_the_first_lines(tmp_path: Path) -> None:
    entries = ndjson([contact(1), deal(1), deal(2, associations={"CONTACT": ["x"]})]) + b"oops\n"
    result = await run("plan", *SETTINGS, cwd=tmp_path, stdin=entries)
    text = result.out.decode()
    assert result.code == 1
    assert "\x1b" not in text
    assert text.startswith("findings: 4 messages read: 3 to send, 1 rejected, 0 skipped\n")
    assert re.search(
        r"^ +1  dangling_association  DEAL to CONTACT: .* stdin:3$", text, re.MULTILINE
    )
    assert re.search(r"^ +1  rejected +not_json: .* stdin:4$", text, re.MULTILINE)
    assert re.search(rf"^  {STORE}  DEAL +2 +1 +\d+$", text, re.MULTILINE)


async def test_names_from_the_input_cannot_steer_the_terminal(tmp_path: Path) -> None:
    evil = "a\x1b[2Jb\u202ec"
    entries = ndjson([contact(1, storeId=evil, properties={evil: "x"})])
    result = await run("plan", *SETTINGS, cwd=tmp_path, stdin=entries)
    assert "\x1b" not in result.out.decode()
    assert "\u202e" not in result.out.decode()


def test_on_a_terminal_it_is_a_table(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(ndjson([contact(1), deal(1)]))
    ours, theirs = pty.openpty()
    env = {**environment(), "COLUMNS": "100", "TERM": "xterm"}
    command = [*PUSHER, "plan", "in", "-q"]
    with subprocess.Popen(command, stdout=theirs, cwd=tmp_path, env=env) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += (block := os.read(ours, 4096))
            except OSError:  # The other side is closed.
                break
            if not block:
                break
    os.close(ours)
    assert process.returncode == 0
    assert b"\x1b[1m" in shown
    assert b"Stores and types" in shown
    widths = [len(re.sub(rb"\x1b\[[0-9;]*m", b"", line)) for line in shown.splitlines()]
    assert max(widths) <= 100


async def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    script = f"pusher plan {NORTHWIND} | head -1"
    result = await run_shell(script, cwd=tmp_path)
    assert result.code == 0, result.err
    assert result.out.startswith(b"ready: 4,059 messages read")


class NarrowStream(io.RawIOBase):
    """Takes a part of what is written, as a pipe without a buffer may do."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = b""

    def write(self, data: Any, /) -> int:
        part = bytes(data)[:1000]
        self.taken += part
        return len(part)


def test_what_is_printed_is_whole_where_a_write_takes_only_a_part() -> None:
    stream = NarrowStream()
    write_all(cast("BinaryIO", stream), data := bytes(range(256)) * 20)
    assert stream.taken == data


async def test_every_option_can_be_set_in_the_environment(tmp_path: Path) -> None:
    async with northwind_bridge(cwd=tmp_path) as url:
        env = {
            "PUSHER_URL": url,
            "PUSHER_BATCH_SIZE": "5",
            "PUSHER_LATENCY": "1s",
            "PUSHER_CONCURRENCY": "2",
            "PUSHER_ALLOW": "rejected dangling_association",
        }
        result: Ended = await run(
            "plan",
            "--json",
            cwd=tmp_path,
            env=env,
            stdin=ndjson([deal(n) for n in range(11)]) + b"x\n",
        )
    plan = json.loads(result.out)
    assert (result.code, plan["batches"]) == (0, 3)
    assert [(one["concurrency"], one["seconds"]) for one in plan["estimates"]] == [(2, 2.0)]


async def test_the_help_names_every_exit_code_and_only_options_that_push_has_too(
    tmp_path: Path,
) -> None:
    text, push = [
        (await run(command, "--help", cwd=tmp_path)).out.decode() for command in ("plan", "push")
    ]
    for code in ("0", "1", "2", "3", "130, 143"):
        assert re.search(rf"^ *{code}  ", text, re.MULTILINE)
    options, of_push = [
        set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", one, re.MULTILINE)) for one in (text, push)
    ]
    own = {
        *("--settings", "--latency", "--allow", "--json"),
        *("--app-id", "--developer-key", "--developer-key-file"),
    }
    assert options - of_push == own
