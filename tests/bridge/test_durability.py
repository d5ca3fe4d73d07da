"""`kill -9` of a bridge while a stream is pushed into it: nothing is lost, nothing is there twice.

MESSAGES=100000 in the environment makes it the long rehearsal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fakes.command import DATA, PUSHER, Ended, ended, run, starting

from pusher.generating import generate

MESSAGES = int(os.environ.get("MESSAGES", "12000"))
STORES = 3
DEADLINE_S = 40.0 + MESSAGES / 500
TYPES = ("CONTACT", "PRODUCT", "DEAL", "LINE_ITEM")
SETTINGS = DATA / "northwind-settings.json"
Key = tuple[str, str, str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def bridge(port: int, cwd: Path) -> AsyncIterator[Process]:
    """A bridge on a given port that keeps its state in `cwd`."""
    stores = [{"id": f"store-{n + 1:04d}", "label": f"Store {n + 1}"} for n in range(STORES)]
    (cwd / "stores.json").write_text(json.dumps(stores))
    arguments = ("--port", str(port), "--db", "b.db", "--settings", SETTINGS)
    argv = (*PUSHER, "bridge", *arguments, "--stores", "stores.json")
    async with starting(*argv, cwd=cwd, stderr=None) as process:
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            line = (await process.stdout.readline()).decode()
        assert line == f"listening on http://127.0.0.1:{port}\n"
        yield process


async def kill(process: Process) -> None:
    process.kill()  # SIGKILL: nothing can be put in order.
    await process.wait()


async def stats(url: str) -> dict[str, dict[str, int]]:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/_bridge/stats") as answer:
        found: dict[str, dict[str, int]] = (await answer.json())["types"]
        return found


async def accepted_more_than(count: int, url: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while sum(of["accepted"] for of in (await stats(url)).values()) <= count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def all_processed(url: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while any(of["queued"] for of in (await stats(url)).values()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def objects(url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with aiohttp.ClientSession() as session:
        for object_type in TYPES:
            after = ""
            while True:
                path = f"/_bridge/objects/{object_type}?limit=1000&after={after}"
                async with session.get(url + path) as answer:
                    page = await answer.json()
                found += page["results"]
                if "paging" not in page:
                    break
                after = page["paging"]["next"]["after"]
    return found


def folded(lines: list[bytes]) -> dict[Key, dict[str, Any]]:
    """What the stream says: each object's changes one on the other, by `changedAt`."""
    names = {
        object_type: {
            one["externalPropertyName"]: one["hubspotPropertyName"] for one in mapped["properties"]
        }
        for object_type, mapped in json.loads(SETTINGS.read_bytes())["mappings"].items()
    }
    states: dict[Key, dict[str, Any]] = {}
    for change in sorted(map(json.loads, lines), key=lambda change: int(change["changedAt"])):
        object_type = change["objectType"]
        key = (change["storeId"], object_type, change["externalObjectId"])
        state = states.setdefault(
            key, {"changedAt": 0, "isTombstone": False, "properties": {}, "associations": {}}
        )
        if state["isTombstone"]:
            continue
        state["changedAt"] = change["changedAt"]
        state["isTombstone"] = change["action"] == "DELETE"
        for name, value in change.get("properties", {}).items():
            if name in names[object_type]:
                state["properties"][names[object_type][name]] = value
        for other_type, others in change.get("associations", {}).items():
            state["associations"][other_type] = sorted(others)
    return states


def as_folded(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "changedAt": found["changedAt"],
        "isTombstone": found["isTombstone"],
        "properties": {
            name: value
            for name, value in found["properties"].items()
            if not name.startswith("ip__ecomm_bridge__")
        },
        "associations": {
            other_type: sorted(other["externalObjectId"] for other in others)
            for other_type, others in found["associations"].items()
        },
    }


async def assert_it_has(wanted: dict[Key, dict[str, Any]], url: str) -> None:
    found = await objects(url)
    keys = [(one["storeId"], one["objectType"], one["externalObjectId"]) for one in found]
    assert len(keys) == len(set(keys)), "an external id is there twice"
    hubspot_ids = [one["hubspotId"] for one in found]
    assert None not in hubspot_ids
    assert len(hubspot_ids) == len(set(hubspot_ids)), "two external ids share an object"
    assert {key: as_folded(one) for key, one in zip(keys, found, strict=True)} == wanted
    counts = await stats(url)
    assert sum(of["objects"] for of in counts.values()) == len(wanted)
    assert sum(of["openErrors"] for of in counts.values()) == 0


def push(stream: Path, url: str) -> tuple[str | Path, ...]:
    return ("push", stream, "--url", url, "--phases", "--confirm", "0", "--report", "-")


def delivered(end: Ended) -> None:
    assert end.code == 0, end.err
    assert end.counts() == (MESSAGES, MESSAGES, 0, 0)


def made() -> list[bytes]:
    return b"".join(generate(MESSAGES, stores=STORES, seed=5)).splitlines(keepends=True)


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    path = tmp_path / "stream.ndjson"
    path.write_bytes(b"".join(made()))
    return path


@pytest.mark.timeout(60 + 4 * DEADLINE_S)
async def test_a_push_goes_on_over_two_kills_of_the_bridge(tmp_path: Path, stream: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(bridge(port, tmp_path))
        pushing = await stack.enter_async_context(
            starting(*PUSHER, *push(stream, url), cwd=tmp_path)
        )
        for share in (0.03, 0.6):  # Among the contacts and products; among the line items.
            await accepted_more_than(int(MESSAGES * share), url)
            await kill(running)
            assert pushing.returncode is None, "the push was over before the kill"
            running = await stack.enter_async_context(bridge(port, tmp_path))
        delivered(await ended(pushing, within_s=DEADLINE_S))
        await all_processed(url)
        await assert_it_has(folded(made()), url)


@pytest.mark.timeout(60 + 4 * DEADLINE_S)
async def test_a_push_that_died_with_the_bridge_is_rerun_whole(
    tmp_path: Path, stream: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with (
        bridge(port, tmp_path) as running,
        starting(*PUSHER, *push(stream, url), cwd=tmp_path) as pushing,
    ):
        await accepted_more_than(MESSAGES // 2, url)
        await kill(running)
        await kill(pushing)
    async with bridge(port, tmp_path):
        before = sum(of["accepted"] for of in (await stats(url)).values())
        assert before > MESSAGES // 2
        delivered(await run(*push(stream, url), cwd=tmp_path, within_s=DEADLINE_S))
        await all_processed(url)
        counts = await stats(url)
        assert sum(of["accepted"] for of in counts.values()) == before + MESSAGES
        assert sum(of["processed"] for of in counts.values()) == before + MESSAGES
        await assert_it_has(folded(made()), url)
