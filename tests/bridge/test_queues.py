"""The queues: order, delay, the race between types, shared commits."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from pusher.bridge import BridgeConfig
from pusher.bridge.database import DatabaseError, prepare
from pusher.bridge.intake import Intake
from pusher.bridge.model import ObjectType, QueuedBatch
from pusher.bridge.workers import Pace

from .talk import SETTINGS, Talk, deal, talking, upsert


async def test_a_line_item_that_is_processed_before_its_deal_fails_although_it_was_sent_after() -> (
    None
):
    config = BridgeConfig(settings=SETTINGS, processing_delay_s={"DEAL": 0.3})
    async with talking(config) as talk:
        await talk.send("DEAL", deal("7"))
        await talk.send("LINE_ITEM", upsert("l", count=1) | {"associations": {"DEAL": ["7"]}})
        stats = await talk.until(lambda stats: stats["LINE_ITEM"]["processed"] == 1)
        assert stats["DEAL"]["queued"] == 1
        await talk.settled()
        assert (await talk.error("LINE_ITEM", "l"))["type"] == "INVALID_ASSOCIATION_PROPERTY"
        assert (await talk.status("DEAL", "7"))["errors"] == []


async def test_a_line_item_sent_before_its_deal_fails_without_any_delay(talk: Talk) -> None:
    await talk.sync("LINE_ITEM", upsert("l", count=1) | {"associations": {"DEAL": ["7"]}})
    await talk.sync("DEAL", deal("7"))
    assert (await talk.error("LINE_ITEM", "l"))["type"] == "INVALID_ASSOCIATION_PROPERTY"


async def test_a_processing_delay_is_waited_for_and_the_status_is_a_400_meanwhile() -> None:
    config = BridgeConfig(settings=SETTINGS, processing_delay_s={"PRODUCT": 0.3})
    async with talking(config) as talk:
        started = time.monotonic()
        await talk.send("PRODUCT", upsert("1", name="p"))
        path = "/extensions/ecomm/v2/sync/status/PRODUCT/default/1"
        assert (await talk.ask("GET", path)).status == 400
        await talk.settled()
        assert time.monotonic() - started >= 0.29
        assert (await talk.ask("GET", path)).status == 200


async def test_one_type_is_processed_in_the_order_of_acceptance(talk: Talk) -> None:
    for number in range(50):
        await talk.send("PRODUCT", upsert("1", 1000, name=str(number)))
    await talk.settled()
    assert (await talk.thing("PRODUCT", "1"))["properties"]["name"] == "49"


async def test_jitter_keeps_the_order_of_acceptance() -> None:
    config = BridgeConfig(settings=SETTINGS, jitter_s=0.05, seed=3)
    async with talking(config) as talk:
        for number in range(10):
            await talk.send("PRODUCT", upsert("1", 1000, name=str(number)))
        await talk.settled()
        assert (await talk.thing("PRODUCT", "1"))["properties"]["name"] == "9"


def test_the_jitter_of_a_batch_is_decided_by_seed_type_and_id() -> None:
    pace = Pace("DEAL", delay_s=2.0, jitter_s=1.0, seed=1)
    due = [pace.due_at_ms(number, 0) for number in range(100)]
    assert due == [pace.due_at_ms(number, 0) for number in range(100)]
    assert all(2000 <= moment <= 3000 for moment in due)
    assert len(set(due)) > 50
    assert due != [Pace("DEAL", 2.0, 1.0, seed=2).due_at_ms(n, 0) for n in range(100)]
    assert due != [Pace("CONTACT", 2.0, 1.0, seed=1).due_at_ms(n, 0) for n in range(100)]
    assert Pace("DEAL", 2.0).due_at_ms(9, 5) == 2005


async def test_puts_that_wait_share_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bridge.db"
    prepare(path)
    intake = Intake(path, is_durable=True)
    batch = QueuedBatch("DEAL", 0, 0, 1, b"{}")
    await intake.put(batch)
    first = intake.commits

    # Hold the thread in one commit until all the others wait.
    entered, released = threading.Event(), threading.Event()
    commit = intake._commit

    def held(jobs: list[object]) -> None:
        entered.set()
        released.wait()
        commit(jobs)  # type: ignore[arg-type]

    monkeypatch.setattr(intake, "_commit", held)
    puts = [asyncio.create_task(intake.put(batch)) for _ in range(100)]
    await asyncio.to_thread(entered.wait)
    await asyncio.sleep(0)
    assert not any(put.done() for put in puts)
    released.set()
    await asyncio.gather(*puts)
    assert intake.commits - first <= 2
    await intake.close()


async def test_acceptance_goes_on_while_much_is_processed(talk: Talk) -> None:
    for start in range(0, 10_000, 200):
        await talk.send("PRODUCT", *(upsert(str(start + n), name="p") for n in range(200)))
    stats = await talk.stats()
    assert stats["PRODUCT"]["accepted"] == 10_000
    await talk.settled()
    assert (await talk.stats())["PRODUCT"]["objects"] == 10_000


async def test_latency_delays_each_answer() -> None:
    async with talking(BridgeConfig(latency_s=0.1)) as talk:
        started = time.monotonic()
        await talk.stats()
        await talk.ask("GET", "/nothing")
        assert time.monotonic() - started >= 0.19


async def test_a_second_bridge_on_the_same_files_is_refused(tmp_path: Path) -> None:
    config = BridgeConfig(db=tmp_path / "bridge.db")
    async with talking(config):
        with pytest.raises(DatabaseError, match="in use"):
            async with talking(config):
                pass


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bridge.db"
    path.write_text("not a database, but long enough to be taken for something " * 100)
    with pytest.raises(DatabaseError):
        async with talking(BridgeConfig(db=path)):
            pass


async def test_everything_is_there_again_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "bridge.db"
    slow: dict[ObjectType, float] = {"DEAL": 3600.0}
    async with talking(BridgeConfig(db=path, settings=SETTINGS, processing_delay_s=slow)) as talk:
        await talk.ask("PUT", "/extensions/ecomm/v2/stores", {"id": "shop", "label": "Shop"})
        await talk.ask("DELETE", "/extensions/ecomm/v2/stores/default")
        await talk.ask("PUT", "/_bridge/portal", {"active": False})
        catalogue = await talk.ask("PUT", "/_bridge/properties", {"PRODUCT": [{"name": "name"}]})
        await talk.send("PRODUCT", upsert("1", name="p"), store="shop")
        await talk.send("DEAL", deal("7"), store="shop")
        await talk.until(lambda stats: stats["PRODUCT"]["processed"] == 1)
        error = await talk.error("PRODUCT", "1", "shop")
    async with talking(BridgeConfig(db=path, processing_delay_s=slow)) as talk:
        assert (await talk.get("/extensions/ecomm/v2/settings")) == SETTINGS
        stores = (await talk.get("/extensions/ecomm/v2/stores"))["results"]
        assert [store["id"] for store in stores] == ["shop"]
        assert (await talk.get("/_bridge/portal"))["active"] is False
        assert await talk.get("/_bridge/properties") == catalogue.body
        assert await talk.error("PRODUCT", "1", "shop") == error
        assert (await talk.stats())["DEAL"]["queued"] == 1
    async with talking(BridgeConfig(db=path)) as talk:
        await talk.settled()
        assert (await talk.error("DEAL", "7", "shop"))["type"] == "INACTIVE_PORTAL"
        assert (await talk.stats())["PRODUCT"]["processed"] == 1


async def test_a_batch_that_is_still_in_the_queue_is_not_processed_again_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BridgeConfig(db=tmp_path / "bridge.db", settings=SETTINGS)

    # As a kill between the state's commit and the queue's leaves it.
    def forget_nothing(_intake: Intake, _object_type: ObjectType, _through_id: int) -> None:
        return

    with monkeypatch.context() as patch:
        patch.setattr(Intake, "forget", forget_nothing)
        async with talking(config) as talk:
            await talk.sync("PRODUCT", upsert("1", name="p"))
            before = await talk.thing("PRODUCT", "1")
    async with talking(config) as talk:
        await talk.send("PRODUCT", upsert("2", name="p"))
        stats = await talk.until(lambda stats: stats["PRODUCT"]["processed"] >= 2)
        await talk.send("PRODUCT", upsert("3", name="p"))
        stats = await talk.until(lambda stats: stats["PRODUCT"]["objects"] == 3)
        assert stats["PRODUCT"]["processed"] == 3
        assert await talk.thing("PRODUCT", "1") == before
