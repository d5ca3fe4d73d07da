"""Generated streams: of any size, the same for the same seed, and in themselves consistent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pusher.decoding import Decoder
from pusher.generating import generate
from pusher.model import Chunk


def stream(count: int, *, stores: int = 1, seed: int = 0) -> bytes:
    return b"".join(generate(count, stores=stores, seed=seed))


def records(count: int, *, stores: int = 1, seed: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream(count, stores=stores, seed=seed).splitlines()]


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert stream(3_000, stores=3, seed=5) == stream(3_000, stores=3, seed=5)


def test_another_seed_gives_other_bytes() -> None:
    assert stream(1_000, seed=1) != stream(1_000, seed=2)


@pytest.mark.parametrize("count", [0, 1, 2, 999, 1_000, 1_001, 2_500])
def test_the_count_is_exact_and_every_line_has_an_end(count: int) -> None:
    data = stream(count, stores=2)
    assert data.count(b"\n") == count
    assert data == b"" or data.endswith(b"\n")


def test_blocks_hold_whole_lines() -> None:
    assert all(block.endswith(b"\n") for block in generate(2_500))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 800), st.integers(1, 20), st.integers(0, 2**32))
def test_associations_name_objects_of_the_same_store_that_came_before(
    count: int, stores: int, seed: int
) -> None:
    seen: set[tuple[str, str, str]] = set()
    for record in records(count, stores=stores, seed=seed):
        store = record["storeId"]
        for object_type, ids in record.get("associations", {}).items():
            for external_id in ids:
                assert (store, object_type, external_id) in seen
        if record["action"] == "DELETE":
            assert (store, record["objectType"], record["externalObjectId"]) in seen
        seen.add((store, record["objectType"], record["externalObjectId"]))


def test_deals_name_contacts_and_line_items_name_their_deal_and_product() -> None:
    for record in records(3_000, stores=2):
        is_whole = record["action"] == "UPSERT" and len(record["properties"]) > 1
        if record["objectType"] == "DEAL" and is_whole:
            assert list(record["associations"]) == ["CONTACT"]
        if record["objectType"] == "LINE_ITEM":
            assert set(record["associations"]) == {"DEAL", "PRODUCT"}


def test_all_lines_decode_without_a_warning() -> None:
    data = stream(5_000, stores=4, seed=9)
    decoded = Decoder().decode(Chunk(data, "in", 0, 1, data.count(b"\n")), 1_700_000_000_000)
    assert len(decoded.messages) == 5_000
    assert decoded.rejections == []
    assert decoded.warnings == []


def test_every_store_and_type_appears() -> None:
    found = {(record["storeId"], record["objectType"]) for record in records(5_000, stores=5)}
    assert len(found) == 20
    assert {store for store, _ in found} == {f"store-{number:04d}" for number in range(1, 6)}


def test_changes_are_in_the_order_of_time() -> None:
    times = [record["changedAt"] for record in records(2_000, stores=3)]
    assert times == sorted(set(times))


def test_property_values_are_strings_as_the_bridge_expects() -> None:
    for record in records(2_000):
        assert all(isinstance(value, str) for value in record.get("properties", {}).values())


def test_the_bundled_settings_know_every_property() -> None:
    """Otherwise the bridge would drop them."""
    import importlib.resources  # noqa: PLC0415 - used here alone

    text = importlib.resources.files("pusher").joinpath("data/northwind-settings.json").read_text()
    mappings = json.loads(text)["mappings"]
    known = {
        object_type: {one["externalPropertyName"] for one in mapping["properties"]}
        for object_type, mapping in mappings.items()
    }
    for record in records(2_000):
        assert set(record.get("properties", {})) <= known[record["objectType"]]
