"""What the bridge could not process is sent again, and the report says what was healed and left."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.command import (
    NORTHWIND,
    NORTHWIND_COUNT,
    PUSHER,
    Ended,
    letters_in,
    ndjson,
    northwind_bridge,
    run,
    run_shell,
    starting,
)
from fakes.endpoint import Endpoint, until

from pusher import BridgeClient
from pusher.model import Lane, ObjectType

SLOW_DEALS = ("--processing-delay", "DEAL=700ms,LINE_ITEM=0")
STORE = "northwind-europe"
DANGLING = "INVALID_ASSOCIATION_PROPERTY"


def entry(kind: ObjectType, external_id: str, at: int | None, **fields: Any) -> dict[str, Any]:
    whole = {
        "storeId": STORE,
        "objectType": kind,
        "externalObjectId": external_id,
        "changedAt": at,
        **fields,
    }
    return {name: value for name, value in whole.items() if value is not None}


def deal(external_id: str, at: int | None = 1_600_000_000_000, **fields: Any) -> dict[str, Any]:
    properties = {"name": f"Order {external_id}", "stage": "processed"}
    return entry("DEAL", external_id, at, **{"properties": properties, **fields})


def item(
    external_id: str, of: str, at: int | None = 1_600_000_000_000, **properties: str
) -> dict[str, Any]:
    values = properties or {"num_items": "1", "price": "2"}
    return entry("LINE_ITEM", external_id, at, properties=values, associations={"DEAL": [of]})


async def pushed(cwd: Path, url: str, *arguments: str | Path, stdin: bytes = b"") -> Ended:
    given = ("--url", url, "--report", "report.json", "--progress", "never")
    ended = await run("push", *arguments, *given, cwd=cwd, stdin=stdin)
    return Ended(ended.code, (cwd / "report.json").read_bytes(), ended.err)


async def repaired(cwd: Path, url: str, *arguments: str | Path) -> Ended:
    given = ("--url", url, "--report", "-", "--confirm-timeout", "10s")
    return await run("repair", "report.json", *arguments, *given, cwd=cwd)


async def open_errors(url: str, **credentials: Any) -> list[str]:
    async with BridgeClient(url, **credentials) as client:
        of_portal = "api_key" in credentials
        return [str(e.external_object_id) async for e in client.all_errors(of_portal=of_portal)]


async def object_of(url: str, kind: ObjectType, external_id: str) -> dict[str, Any]:
    """What the bridge has of an object."""
    async with BridgeClient(url) as client:
        path = f"/_bridge/objects/{kind}?storeId={STORE}&externalObjectId={external_id}"
        answer = await client._transport.request("GET", path)
    found: dict[str, Any] = json.loads(answer.body)["results"][0]  # type: ignore[union-attr]
    return found


# Northwind, whose line items are processed before their deals.


async def test_without_phases_line_items_fail_and_the_report_names_them(tmp_path: Path) -> None:
    async with northwind_bridge(*SLOW_DEALS, cwd=tmp_path) as url:
        push = await pushed(tmp_path, url, NORTHWIND)
        assert push.code == 1
        confirmation = push.report["confirmation"]
        assert confirmation["errors"].keys() == {DANGLING}
        assert {one["object_type"] for one in confirmation["examples"]} == {"LINE_ITEM"}
        assert push.report["repair"] is None
        assert len(await open_errors(url)) > 1_000


async def test_with_phases_none_fails(tmp_path: Path) -> None:
    async with northwind_bridge(*SLOW_DEALS, cwd=tmp_path) as url:
        push = await pushed(tmp_path, url, NORTHWIND, "--phases")
        assert push.code == 0
        assert push.report["repair"] == {
            "looked": True,
            "rounds": 0,
            "resent": 0,
            "errors": {},
            "of_others": 0,
            "examples": [],
            "detail": None,
        }
        assert await open_errors(url) == []


async def test_with_repair_alone_none_is_left(tmp_path: Path) -> None:
    async with northwind_bridge(*SLOW_DEALS, cwd=tmp_path) as url:
        push = await pushed(tmp_path, url, NORTHWIND, "--repair", "2")
        assert push.code == 0
        repair, confirmation = push.report["repair"], push.report["confirmation"]
        found = repair["errors"][DANGLING]
        assert found["found"] == found["healed"] == repair["resent"] > 1_000
        assert (found["left"], repair["rounds"]) == (0, 1)
        assert (confirmation["failed"], confirmation["unconfirmed"]) == (0, 0)
        assert push.report["messages"]["delivered"] == NORTHWIND_COUNT
        assert await open_errors(url) == []
    assert letters_in(tmp_path) == []


async def test_a_pipe_is_repaired_later_from_the_spool_that_was_kept(tmp_path: Path) -> None:
    async with northwind_bridge(*SLOW_DEALS, cwd=tmp_path) as url:
        script = (
            'zcat "$1" | pusher push --url "$2" --keep-spool --spool-dir . --report report.json'
        )
        push = await run_shell(script, NORTHWIND, url, cwd=tmp_path)
        assert push.code == 1
        await once(lambda: is_processed(url))
        ended = await repaired(tmp_path, url)
        assert ended.code == 0
        assert ended.report["repair"]["errors"][DANGLING]["left"] == 0
        assert await open_errors(url) == []
        again = await repaired(tmp_path, url)
        assert (again.code, again.report["repair"]["errors"]) == (0, {})


async def is_processed(url: str) -> bool:
    """All deals of the bundled stream are there; they come one after the other."""
    async with BridgeClient(url) as client:
        return await client.get_status(Lane(STORE, "DEAL"), "11076") is not None


async def once(condition: Callable[[], Awaitable[bool]], *, within_s: float = 20.0) -> None:
    """Ask until it is so; fail when it does not come in time."""
    deadline_s = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.02)


async def test_what_cannot_be_read_again_is_only_named(tmp_path: Path) -> None:
    lines = ndjson([item("i1", "gone"), deal("d1")])
    async with northwind_bridge(cwd=tmp_path) as url:
        push = await pushed(tmp_path, url, "--repair", "3", stdin=lines)
    assert push.code == 1
    repair = push.report["repair"]
    assert repair["errors"] == {DANGLING: {"found": 1, "healed": 0, "left": 1}}
    assert repair["examples"][0]["external_object_id"] == "i1"
    assert "only named" in repair["detail"]
    assert (repair["resent"], letters_in(tmp_path)) == (0, [])


# What is left, and what heals later.


async def test_what_is_left_becomes_a_dead_letter_in_the_bridges_words_and_heals_later(
    tmp_path: Path,
) -> None:
    (tmp_path / "in").write_bytes(
        ndjson(
            [
                deal("d1"),
                item("i1", "gone"),
                item("i2", "d1"),
                deal("d2", properties={"name": "x", "stage": "no such stage"}),
            ]
        )
    )
    async with northwind_bridge(cwd=tmp_path) as url:
        push = await pushed(tmp_path, url, "in", "--repair", "3")
        assert (push.code, push.report["outcome"]) == (1, "failed")
        repair = push.report["repair"]
        assert repair["errors"] == {
            DANGLING: {"found": 1, "healed": 0, "left": 1},
            "INVALID_DEAL_STAGE": {"found": 1, "healed": 0, "left": 1},
        }
        assert (repair["rounds"], repair["resent"]) == (1, 1), "a round that heals none is the last"
        assert "1 object failed, 0 healed, 1 left" in push.err
        assert "2 objects left -> pusher.dead.ndjson" in push.err
        letters = {letter["reason"]: letter for letter in letters_in(tmp_path)}
        assert letters.keys() == {DANGLING, "INVALID_DEAL_STAGE"}
        assert letters[DANGLING]["line"] == 2
        assert letters[DANGLING]["attempts"] == 2
        assert "hs_assoc__deal_id: gone" in letters[DANGLING]["detail"]
        assert json.loads(letters[DANGLING]["record"]) == item("i1", "gone")
        assert "no such stage" in letters["INVALID_DEAL_STAGE"]["detail"]
        (tmp_path / "more").write_bytes(ndjson([deal("gone")]))
        assert (await run("push", "more", "--url", url, cwd=tmp_path)).code == 0
        ended = await repaired(tmp_path, url)
        assert ended.code == 1
        errors = ended.report["repair"]["errors"]
        assert errors[DANGLING] == {"found": 1, "healed": 1, "left": 0}
        assert errors["INVALID_DEAL_STAGE"]["left"] == 1
        assert await open_errors(url) == ["d2"]


async def test_settings_that_were_off_heal_in_the_order_of_associations(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(
        ndjson([item("i1", "d1"), deal("d1", associations={"CONTACT": ["c1"]}), contact("c1")])
    )
    async with northwind_bridge(cwd=tmp_path) as url:
        async with BridgeClient(url) as client:
            settings = await client.get_settings()
            await client.put_settings({**settings, "enabled": False})
            push = await pushed(tmp_path, url, "in", "--repair", "1")
            assert push.code == 1
            assert push.report["repair"]["errors"]["SETTINGS_NOT_ENABLED"]["left"] == 3
            await client.put_settings(settings)
        ended = await repaired(tmp_path, url, "--repair", "1")
        assert ended.code == 0
        assert ended.report["repair"]["errors"]["SETTINGS_NOT_ENABLED"]["healed"] == 3


def contact(external_id: str) -> dict[str, Any]:
    properties = {"customer_email": f"{external_id}@example.com", "firstname": "A"}
    return entry("CONTACT", external_id, 1_600_000_000_000, properties=properties)


@pytest.mark.parametrize("at", [1_600_000_000_000, None])
async def test_all_that_an_object_failed_with_is_sent_again_in_its_order(
    at: int | None, tmp_path: Path
) -> None:
    """Its last message alone would lack what only an earlier one says."""
    entries = [
        item("i1", "d1", at, num_items="1", price="2"),
        item("i1", "d1", at and at + 1, price="3"),
    ]
    (tmp_path / "in").write_bytes(ndjson([*entries, deal("d1")]))
    async with northwind_bridge("--processing-delay", "DEAL=500ms", cwd=tmp_path) as url:
        push = await pushed(tmp_path, url, "in", "--repair", "3")
        assert push.code == 0
        assert push.report["repair"]["resent"] == 2
        found = await object_of(url, "LINE_ITEM", "i1")
    assert found["properties"]["quantity"] == "1"
    assert found["properties"]["price"] == "3"
    if at is not None:
        assert found["changedAt"] == at + 1


async def test_the_errors_of_others_and_of_earlier_runs_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(ndjson([item("old", "gone"), item("both", "gone", 5)]))
    (tmp_path / "in").write_bytes(ndjson([deal("d1"), item("i1", "d1"), item("both", "d1", 9)]))
    async with northwind_bridge("--processing-delay", "DEAL=500ms", cwd=tmp_path) as url:
        await run("push", "old", "--url", url, cwd=tmp_path)
        [before] = [e async for e in all_errors(url) if e["external_object_id"] == "old"]
        push = await pushed(tmp_path, url, "in", "--repair", "3")
        assert push.code == 0
        assert push.report["repair"]["errors"] == {DANGLING: {"found": 2, "healed": 2, "left": 0}}
        assert [e async for e in all_errors(url)] == [before]


async def test_the_error_of_a_push_a_second_ago_is_not_one_of_its_repetition(
    tmp_path: Path,
) -> None:
    """It has the same changedAt, and is open until the message is processed again."""
    (tmp_path / "in").write_bytes(ndjson([item("i1", "d1", 5)]))
    (tmp_path / "whole").write_bytes(ndjson([deal("d1"), item("i1", "d1", 5)]))
    async with northwind_bridge("--processing-delay", "LINE_ITEM=1200ms", cwd=tmp_path) as url:
        assert (await pushed(tmp_path, url, "in")).code == 1
        assert (await pushed(tmp_path, url, "whole")).code == 0


async def test_an_error_that_the_input_cannot_have_caused_is_somebody_elses(
    tmp_path: Path,
) -> None:
    """Another program sends to the same lane meanwhile."""
    (tmp_path / "in").write_bytes(ndjson([item("i1", "gone"), item("i2", "gone", 5)]))
    async with northwind_bridge(cwd=tmp_path) as url:
        await pushed(tmp_path, url, "in")
        others = [item("i2", "gone", 9), item("theirs", "gone")]
        (tmp_path / "others").write_bytes(ndjson(others))
        await run("push", "others", "--url", url, cwd=tmp_path)
        (tmp_path / "pusher.dead.ndjson").unlink(missing_ok=True)
        ended = await repaired(tmp_path, url)
    assert ended.code == 1
    repair = ended.report["repair"]
    assert repair["errors"] == {DANGLING: {"found": 1, "healed": 0, "left": 1}}
    assert (repair["of_others"], repair["resent"]) == (2, 1)


async def all_errors(url: str) -> AsyncIterator[dict[str, Any]]:
    async with BridgeClient(url) as client:
        async for error in client.all_errors():
            yield {"external_object_id": error.external_object_id, "at": error.errored_at}


# Where it cannot be done.


@pytest.mark.parametrize(("arguments", "code"), [(("--repair", "1"), 4), (("--phases",), 0)])
async def test_errors_that_cannot_be_listed_are_said_and_count_where_repair_was_asked_for(
    arguments: tuple[str, ...], code: int, endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.errors_refusal = 403
    (tmp_path / "in").write_bytes(ndjson([deal("d1")]))
    push = await pushed(tmp_path, endpoint.url, "in", *arguments)
    assert push.code == code
    assert push.report["repair"]["looked"] is False
    assert "HTTP 403" in push.report["repair"]["detail"]


async def test_an_api_key_asks_for_the_errors_of_its_account(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(ndjson([item("i1", "d1"), deal("d1")]))
    delay = ("--processing-delay", "DEAL=500ms")
    async with northwind_bridge("--api-key", "k3y", *delay, cwd=tmp_path) as url:
        push = await pushed(tmp_path, url, "in", "--repair", "1", "--api-key", "k3y")
        assert push.code == 0
        assert push.report["repair"]["errors"][DANGLING]["healed"] == 1


async def test_a_repair_that_is_interrupted_goes_on_with_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(ndjson([item("i1", "gone"), deal("d1")]))
    arguments = ("in", "--repair", "3", "--checkpoint", "ck", "--drain-timeout", "100ms")
    delay = ("--processing-delay", "LINE_ITEM=2s")
    async with northwind_bridge(*delay, cwd=tmp_path) as url:
        argv = (*PUSHER, "push", *arguments, "--url", url)
        async with starting(*argv, cwd=tmp_path) as process:
            await until(lambda: is_repairing(tmp_path / "ck"), within_s=20)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(20):
                assert await process.wait() == 143
        assert letters_in(tmp_path) == []
        push = await pushed(tmp_path, url, *arguments)
        assert push.code == 1
        assert push.report["messages"]["resumed"] == 2
        assert push.report["repair"]["errors"][DANGLING]["left"] == 1
        assert [letter["reason"] for letter in letters_in(tmp_path)] == [DANGLING]
        again = await pushed(tmp_path, url, *arguments)
        assert again.code == 1, "who was killed before the report was written does not look better"
        assert len(letters_in(tmp_path)) == 1


def is_repairing(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_bytes())["is_repairing"])
    except (OSError, ValueError):
        return False


# Usage.


@pytest.mark.parametrize(
    ("report", "complaint"),
    [
        (None, "No such file"),
        ("junk", "is not a report of pusher push"),
        ('{"run_id": "x"}', "is not a report of pusher push"),
        (
            '{"run_id":"x","began_ms":null,"inputs":[],"lanes":[],"lanes_total":0}',
            "has sent nothing",
        ),
        (
            '{"run_id":"x","began_ms":5,"inputs":["gone"],"lanes":[],"lanes_total":0}',
            "gone: No such file",
        ),
    ],
)
async def test_a_report_that_says_not_what_to_repair_is_exit_2(
    report: str | None, complaint: str, tmp_path: Path
) -> None:
    if report is not None:
        (tmp_path / "report.json").write_text(report)
    ended = await repaired(tmp_path, "http://127.0.0.1:9")
    assert ended.code == 2
    assert complaint in ended.err


async def test_topics_have_no_repair(tmp_path: Path) -> None:
    given = ("kafka://h:1/t?group=g", "--repair", "2", "--url", "http://127.0.0.1:9")
    ended = await run("push", *given, cwd=tmp_path)
    assert ended.code == 2
    assert "--repair is for files and pipes" in ended.err
