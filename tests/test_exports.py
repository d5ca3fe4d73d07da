"""Exports, through the real command and source: what is detected, sent, skipped and refused."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fakes.command import PUSHER, Ended, letters_in, message, run, starting
from fakes.endpoint import Endpoint, Request, accept, until

from pusher.sources import Formats, open_source

TIME_MS = 1_700_000_000_000
ISO_TIME = "2023-11-14T22:13:20Z"
MAP = """
[tables."shop.customers"]
type = "CONTACT"
store = "s1"
id = "id"
properties = { email = "mail" }
"""


async def pushed(
    endpoint: Endpoint, cwd: Path, *arguments: str | Path, stdin: bytes = b"", **more: Any
) -> Ended:
    return await run(
        "push",
        *("--url", endpoint.url, "--confirm", "0", "--report", "-"),
        *arguments,
        cwd=cwd,
        stdin=stdin,
        **more,
    )


def ndjson(values: list[Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def value_of(number: int) -> str:
    one = message(number)
    del one["changedAt"]
    return json.dumps(one)


def kcat(number: int, payload: str | None, *, key: str | None = "k", partition: int = 0) -> bytes:
    record = {"topic": "t.shop.customers", "partition": partition, "offset": number}
    stamp = {"tstype": "create", "ts": TIME_MS + number, "broker": 1}
    return json.dumps({**record, **stamp, "key": key, "payload": payload}).encode()


def debezium(op: str, row: dict[str, Any]) -> str:
    before, after = (row, None) if op == "d" else (None, row)
    source = {"db": "shop", "table": "customers", "ts_ms": 5}
    return json.dumps({"before": before, "after": after, "source": source, "op": op})


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def rpk(number: int) -> dict[str, Any]:
    place = {"timestamp": TIME_MS, "partition": 0, "offset": number}
    return {"topic": "t", "key": "k", "value": value_of(number), **place}


def lambda_event(numbers: list[int]) -> dict[str, Any]:
    records = [
        {
            "topic": "t",
            "partition": 0,
            "offset": number,
            "timestamp": TIME_MS,
            "timestampType": "CREATE_TIME",
            "key": b64("k"),
            "value": b64(value_of(number)),
            "headers": [{"h": [1]}],
        }
        for number in numbers
    ]
    return {"eventSource": "aws:kafka", "bootstrapServers": "b", "records": {"t-0": records}}


def kafkactl(number: int) -> dict[str, Any]:
    return {
        "Partition": 0,
        "Offset": number,
        "Headers": {},
        "Key": "k",
        "Value": value_of(number),
        "Timestamp": ISO_TIME,
    }


def akhq(number: int) -> dict[str, Any]:
    content = {"headers": [], "key": "k", "value": value_of(number)}
    ids = {"keySchemaId": None, "valueSchemaId": None}
    return {"partition": 0, "offset": number, "timestamp": ISO_TIME, **ids, **content}


def rest(number: int, value: Any) -> dict[str, Any]:
    return {"topic": "t", "key": None, "value": value, "partition": 0, "offset": number}


def aiven(number: int, value: Any) -> dict[str, Any]:
    return {"offset": number, "value": value, "timestamp": ISO_TIME, "key": "k"}


SAMPLES: dict[str, tuple[str, bytes]] = {
    "rpk, a line each": ("rpk", ndjson([rpk(1), rpk(2)])),
    "rpk, pretty": ("rpk", "\n".join(json.dumps(rpk(n), indent=2) for n in (1, 2)).encode()),
    "rpk, one after another": ("rpk", json.dumps(rpk(1)).encode() + json.dumps(rpk(2)).encode()),
    "Lambda": ("lambda", ndjson([lambda_event([1, 2])])),
    "Lambda, pretty": ("lambda", json.dumps(lambda_event([1, 2]), indent=4).encode()),
    "kafkactl": ("kafkactl", ndjson([kafkactl(1), kafkactl(2)])),
    "kafka-ui, indented": (
        "kafkactl",
        "\n".join(json.dumps(kafkactl(n), indent="\t") for n in (1, 2)).encode(),
    ),
    "AKHQ": ("akhq", json.dumps([akhq(1), akhq(2)]).encode()),
    "REST proxy, json": (
        "rest-proxy",
        json.dumps([rest(n, json.loads(value_of(n))) for n in (1, 2)]).encode(),
    ),
    "REST proxy, binary": (
        "rest-proxy",
        json.dumps([rest(n, b64(value_of(n))) for n in (1, 2)]).encode(),
    ),
    "Aiven, objects": ("aiven", ndjson([aiven(n, json.loads(value_of(n))) for n in (1, 2)])),
    "Aiven, strings": ("aiven", ndjson([aiven(n, value_of(n)) for n in (1, 2)])),
    "JSON strings": ("confluent", ndjson([value_of(1), value_of(2)])),
    "console consumer": (
        "console-consumer",
        b"".join(
            f"CreateTime:{TIME_MS}\tPartition:0\tOffset:{n}\tNO_HEADERS\tk\t{value_of(n)}\n".encode()
            for n in (1, 2)
        ),
    ),
}


@pytest.mark.parametrize("what", SAMPLES)
@pytest.mark.parametrize("is_piped", [True, False])
async def test_an_export_is_known_by_its_first_record(
    what: str,
    is_piped: bool,  # noqa: FBT001
    endpoint: Endpoint,
    tmp_path: Path,
) -> None:
    name, data = SAMPLES[what]
    (tmp_path / "in").write_bytes(data)
    source = () if is_piped else ("in",)
    result = await pushed(endpoint, tmp_path, *source, stdin=data if is_piped else b"")
    assert result.code == 0, result.err
    assert f"detected {name} " in result.err
    assert [one["externalObjectId"] for one in endpoint.delivered] == ["id1", "id2"]
    if name not in ("rest-proxy", "confluent"):
        assert {one["changedAt"] for one in endpoint.delivered} == {TIME_MS}


@pytest.mark.parametrize("indent", [None, 2])
async def test_an_array_of_messages_needs_no_format(
    indent: int | None, endpoint: Endpoint, tmp_path: Path
) -> None:
    data = json.dumps([message(n, properties={"n": '}{,["\\'}) for n in range(500)], indent=indent)
    result = await pushed(endpoint, tmp_path, stdin=data.encode())
    assert result.counts() == (500, 500, 0, 0)
    assert endpoint.delivered[499]["properties"] == {"n": '}{,["\\'}


async def test_an_array_that_is_cut_off_stops_the_run(endpoint: Endpoint, tmp_path: Path) -> None:
    data = json.dumps([message(n) for n in range(5)]).encode()
    (tmp_path / "in").write_bytes(data[:-30])
    for _ in range(2):
        result = await pushed(endpoint, tmp_path, "in", "--checkpoint", "ck")
        assert result.code == 3
        assert "the JSON array ends too early" in result.err
    (tmp_path / "in").write_bytes(data)
    result = await pushed(endpoint, tmp_path, "in", "--checkpoint", "ck")
    assert result.code == 0, result.err
    assert len(endpoint.delivered) == 5


async def test_an_object_that_is_broken_off_costs_itself_only(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    texts = [json.dumps(message(n), indent=2) for n in range(4)]
    texts[1] = texts[1][:70]
    texts[2] = texts[2].replace('"id2"', '"id2')
    result = await pushed(endpoint, tmp_path, stdin="\n".join(texts).encode())
    assert result.counts() == (4, 2, 2, 0)
    assert [letter["line"] for letter in letters_in(tmp_path)] == [2, 3]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"topic":"t","partition":1,"offset":2,"payload":"x"}', "the closest is kcat"),
        (b'{"Partition":1,"Offset":2}', "the closest is kafkactl"),
        (b'{"id":1,"name":"x"}', "no record has externalObjectId"),
        (b"Struct{id=1}", "the closest is ndjson"),
        (kcat(1, '{"id":1}'), "the values are rows (id)"),
        (debezium("c", {"id": 1}).encode(), "debezium changes of rows (id): --map FILE"),
    ],
)
async def test_what_has_no_known_format_is_refused_before_anything_is_sent(
    line: bytes, complaint: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    result = await pushed(endpoint, tmp_path, "--no-preflight", stdin=line + b"\n")
    assert result.code == 2
    last_line = result.err.rstrip().splitlines()[-1]
    assert complaint in last_line
    assert line.decode()[:20] in last_line
    assert endpoint.requests == []


async def test_later_lines_of_another_format_are_dead_letters(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    lines = [kcat(1, value_of(1)), json.dumps(message(2)).encode(), b"oops", kcat(3, value_of(3))]
    result = await pushed(endpoint, tmp_path, stdin=b"\n".join(lines))
    assert result.counts() == (4, 2, 2, 0)
    letters = letters_in(tmp_path)
    assert [(letter["reason"], letter["line"]) for letter in letters] == [
        ("wrong_format", 2),
        ("not_json", 3),
    ]
    assert [letter["offset"] for letter in letters] == [
        len(lines[0]) + 1,
        len(lines[0]) + len(lines[1]) + 2,
    ]


async def test_format_overrides_what_would_be_found(endpoint: Endpoint, tmp_path: Path) -> None:
    data = ndjson([{"value": value_of(1), "offset": 1}])
    result = await pushed(endpoint, tmp_path, "--format", "ndjson", stdin=data)
    assert result.counts() == (1, 0, 1, 0)
    both = ("--format", "kcat", "--format", "rpk")
    result = await pushed(endpoint, tmp_path, *both, stdin=data)
    assert result.code == 2
    assert "exclude each other" in result.err


@pytest.mark.parametrize("is_string", [True, False])
async def test_a_folder_of_a_sink_is_read_in_the_order_of_offsets_partitions_in_turns(
    is_string: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    numbers: dict[int, list[int]] = {0: [], 1: []}
    for partition in (0, 1):
        folder = tmp_path / f"topics/t/partition={partition}"
        folder.mkdir(parents=True)
        for start in (0, 4_000, 20_000, 100_000):
            values = [value_of(start + n) for n in range(4_000)]
            data = ndjson(list(values) if is_string else [json.loads(one) for one in values])
            path = folder / f"t+{partition}+{start}.json.gz"  # Not padded: 100000 before 20000.
            path.write_bytes(gzip.compress(data, 1))
            (folder / f"t+{partition}+{start}.keys.json").write_bytes(b'"k"\n')
    source = open_source([tmp_path], formats=Formats())
    turns = []
    async for chunk in source.chunks():
        partition = int("+1+" in chunk.source)
        turns.append(partition)
        numbers[partition] += [
            int(json.loads(line)["externalObjectId"][2:]) for _, _, line in chunk.lines()
        ]
    wanted = [start + n for start in (0, 4_000, 20_000, 100_000) for n in range(4_000)]
    assert numbers == {0: wanted, 1: wanted}
    assert turns[:4] == [0, 1, 0, 1]


async def test_files_of_an_aiven_sink_are_read_in_the_order_of_offsets(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    for start in (0, 20, 100):
        data = gzip.compress(ndjson([aiven(start, json.loads(value_of(start)))]))
        (folder / f"my-topic-0-{start}.gz").write_bytes(data)
    result = await pushed(endpoint, tmp_path, "export")
    assert result.code == 0, result.err
    assert [one["externalObjectId"] for one in endpoint.delivered] == ["id0", "id20", "id100"]


async def test_files_of_several_formats_are_refused(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(ndjson([message(1)]))
    (tmp_path / "b").write_bytes(kcat(1, value_of(1)))
    result = await pushed(endpoint, tmp_path, "a", "b", "--no-preflight")
    assert result.code == 2
    assert "b is kcat" in result.err
    assert endpoint.requests == []


def history(count: int, objects: int = 50) -> list[bytes]:
    """Debezium changes and deletes, each with its tombstone; the last one of an object deletes."""
    rng = random.Random(5)
    lines: list[bytes] = []
    for number in range(count):
        row = {"id": number % objects, "mail": f"{number}@x", "old": 1}
        key = json.dumps({"id": row["id"]})
        op = "d" if number >= count - objects or rng.random() < 0.3 else "u"
        lines.append(kcat(len(lines), debezium(op, row), key=key, partition=number % 5))
        if op == "d":
            lines.append(kcat(len(lines), None, key=key, partition=number % 5))
    return lines


async def test_a_delete_and_its_tombstone_are_one_delete_across_every_resumption(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """The run is killed again and again; what was between the two halves is remembered."""
    lines = history(4_000)
    (tmp_path / "in").write_bytes(b"\n".join(lines) + b"\n")
    (tmp_path / "map.toml").write_text(MAP)

    async def slow(request: Request) -> web.StreamResponse:
        await asyncio.sleep(0.05)
        return await accept(request)

    endpoint.answer = slow
    arguments = (
        *("push", "in", "--url", endpoint.url, "--confirm", "0", "--map", "map.toml"),
        *("--checkpoint", "ck", "--batch-size", "20", "--concurrency", "2", "--report", "report"),
    )
    for _ in range(4):
        wanted_count = len(endpoint.accepted) + 15
        async with starting(*PUSHER, *arguments, cwd=tmp_path) as process:
            await until(lambda: len(endpoint.accepted) >= wanted_count, within_s=30)  # noqa: B023
            process.kill()
            await process.wait()
    endpoint.answer = accept
    result = await run(*arguments, cwd=tmp_path)
    assert result.code == 0, result.err
    report = json.loads((tmp_path / "report").read_text())
    assert report["messages"]["read"] + report["messages"]["resumed"] == len(lines)
    assert report["messages"]["rejected"] == 0
    last = {one["externalObjectId"]: one["action"] for one in endpoint.delivered}
    assert set(last.values()) == {"DELETE"}
    # The delete and its tombstone differ in their times: a tombstone that was sent would show.
    wanted = {TIME_MS + n for n, line in enumerate(lines) if b'"payload": null' not in line}
    assert {one["changedAt"] for one in endpoint.delivered} == wanted


async def test_a_pair_may_lie_in_two_files_and_on_both_sides_of_a_checkpoint(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    key = '{"id":1}'
    (tmp_path / "map.toml").write_text(MAP)
    arguments = ("--map", "map.toml", "--checkpoint", "ck")
    (tmp_path / "a").write_bytes(kcat(1, debezium("d", {"id": 1}), key=key) + b"\n")
    (tmp_path / "b").write_bytes(b"")
    result = await pushed(endpoint, tmp_path, "a", "b", *arguments)
    assert result.counts() == (1, 1, 0, 0)
    (tmp_path / "b").write_bytes(kcat(2, None, key=key) + b"\n")
    result = await pushed(endpoint, tmp_path, "a", "b", *arguments)
    assert result.report["skipped"] == {"tombstone_of_pair": 1}
    assert len(endpoint.delivered) == 1


async def test_dead_letters_of_an_export_can_be_replayed_with_a_mapping(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    row = debezium("c", {"id": 1, "mail": "m"})
    lines = [kcat(1, value_of(1)), kcat(2, row), kcat(3, '{"broken')]
    result = await pushed(endpoint, tmp_path, stdin=b"\n".join(lines))
    assert result.counts() == (3, 1, 2, 0)
    (tmp_path / "map.toml").write_text(f'{MAP}[topics."*"]\ntype="CONTACT"\nstore="s"\nid="id"\n')
    letters = tmp_path / "export.dead"
    result = await pushed(
        endpoint,
        tmp_path,
        *("--format", "debezium", "--map", "map.toml", "--dead-letters", letters),
        stdin=b"\n".join([kcat(1, row), kcat(2, '{"id":2}')]),
    )
    assert result.counts() == (2, 1, 1, 0)
    result = await run(
        *("replay", letters, "--map", "map.toml", "--url", endpoint.url, "--confirm", "0"),
        *("--report", "-"),
        cwd=tmp_path,
    )
    assert result.counts() == (1, 1, 0, 0)
    assert endpoint.delivered[-1]["externalObjectId"] == "2"
    assert endpoint.delivered[-1]["changedAt"] == TIME_MS + 2


async def test_one_bad_record_of_a_lambda_event_is_a_letter_of_its_own(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    event = lambda_event([1, 2, 3])
    event["records"]["t-0"][1]["value"] = ""
    result = await pushed(endpoint, tmp_path, stdin=ndjson([event]))
    assert result.counts() == (3, 2, 1, 0)
    (letter,) = letters_in(tmp_path)
    assert [one["offset"] for one in json.loads(letter["record"])["records"]["t-0"]] == [2]


async def test_a_refused_message_of_an_export_is_a_letter_that_needs_no_mapping(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def refuse(request: Request) -> web.StreamResponse:
        if any(one["externalObjectId"] == "1" for one in request.messages):
            return web.json_response({"message": "bad"}, status=400)
        return await accept(request)

    endpoint.answer = refuse
    (tmp_path / "map.toml").write_text(MAP)
    lines = [kcat(n, debezium("c", {"id": n, "mail": "m"})) for n in range(3)]
    result = await pushed(endpoint, tmp_path, "--map", "map.toml", stdin=b"\n".join(lines))
    assert result.counts() == (3, 2, 1, 0)
    endpoint.answer = accept
    result = await run(
        *("replay", "pusher.dead.ndjson", "--url", endpoint.url, "--confirm", "0"),
        *("--report", "-"),
        cwd=tmp_path,
    )
    assert result.counts() == (1, 1, 0, 0)
    assert endpoint.delivered[-1]["properties"] == {"email": "m"}


async def test_a_dry_run_shows_what_a_mapping_does(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "map.toml").write_text(MAP)
    lines = [kcat(n, debezium("cd"[n % 2], {"id": n, "mail": "m"})) for n in range(5)]
    result = await pushed(
        endpoint, tmp_path, "--map", "map.toml", "--dry-run", stdin=b"\n".join(lines)
    )
    assert result.code == 0, result.err
    assert "t.shop.customers: 3 UPSERT" in result.err
    assert "t.shop.customers: 2 DELETE" in result.err
    assert '"externalObjectId":"0"' in result.err
    assert '"after": {"id": 0' in result.err
    assert not endpoint.delivered


async def test_a_mapping_with_a_mistake_is_a_usage_error_that_names_the_key(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "map.toml").write_text(MAP.replace("id =", "idd ="))
    result = await pushed(endpoint, tmp_path, "--map", "map.toml")
    assert result.code == 2
    assert 'map.toml: tables."shop.customers".idd: is not known; did you mean id?' in result.err


async def test_phases_and_limits_work_on_exports(endpoint: Endpoint, tmp_path: Path) -> None:
    types = ["LINE_ITEM", "DEAL", "PRODUCT", "CONTACT"]
    lines = [kcat(n, json.dumps(message(n, objectType=types[n % 4]))) for n in range(40)]
    (tmp_path / "in").write_bytes(b"\n".join(lines))
    result = await pushed(endpoint, tmp_path, "in", "--phases", "--limit", "5")
    assert result.code == 0, result.err
    sent = [request.body["objectType"] for request in endpoint.accepted]
    assert sent[-1] == "LINE_ITEM"
    assert len(endpoint.delivered) == 15
    assert result.err.count("detected kcat") == 1


async def test_a_record_over_the_limit_is_rejected_unread(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    large = json.dumps(rpk(2), indent=2).replace("id2", "x" * 100_000)
    texts = [json.dumps(rpk(1), indent=2), large, json.dumps(rpk(3), indent=2)]
    data = "\n".join(texts).encode()
    result = await pushed(endpoint, tmp_path, "--max-line", "1000", stdin=data)
    assert result.counts() == (3, 2, 1, 0)
    (letter,) = letters_in(tmp_path)
    assert (letter["reason"], letter["line"]) == ("line_too_long", 2)
    assert letter["line_bytes"] == len(large)


KEYED = """
[topics.orders]
type = "DEAL"
store = "s1"
id = "$key"
properties = ["status"]
"""


def sink_files(folder: Path, values: list[Any], keys: list[Any] | None, start: int = 0) -> Path:
    """A file of a Confluent sink with store.kafka.keys, and its sidecar."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"orders+0+{start:010}.json.gz"
    path.write_bytes(gzip.compress(ndjson(values)))
    if keys is not None:
        path.with_name(f"orders+0+{start:010}.keys.json.gz").write_bytes(
            gzip.compress(ndjson(keys))
        )
    return path


async def test_the_keys_beside_the_values_of_a_sink_are_their_ids_across_a_resume(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "map.toml").write_text(KEYED)
    values = [{"status": f"s{n}"} for n in range(6_000)]
    for start in (0, 3_000):
        part = range(start, start + 3_000)
        keys = [f"k{n}" if start else n for n in part]  # Strings, and other JSON.
        sink_files(tmp_path / "topics", values[start : start + 3_000], keys, start)
    arguments = ("topics", "--map", "map.toml", "--checkpoint", "ck", "--concurrency", "1")
    endpoint.answer = refuse_after(endpoint, 20)
    stopped = await pushed(endpoint, tmp_path, *arguments)
    assert stopped.code == 3, stopped.err
    endpoint.answer = accept
    result = await pushed(endpoint, tmp_path, *arguments)
    assert result.code == 0, result.err
    wanted = {f"k{n}" if n >= 3_000 else str(n): f"s{n}" for n in range(6_000)}
    found = {one["externalObjectId"]: one["properties"]["status"] for one in endpoint.delivered}
    assert found == wanted


def refuse_after(endpoint: Endpoint, count: int) -> Any:
    async def answer(request: Request) -> web.StreamResponse:
        if len(endpoint.accepted) < count:
            return await accept(request)
        return web.Response(status=401)

    return answer


async def test_a_dead_letter_keeps_the_key_that_stood_beside_its_value(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "map.toml").write_text(KEYED.replace('"s1"', '{ field = "shop" }'))
    path = sink_files(tmp_path, [{"status": "new"}], ["k7"])
    first = await pushed(endpoint, tmp_path, path, "--map", "map.toml")
    assert first.counts() == (1, 0, 1, 0), first.err
    (letter,) = letters_in(tmp_path)
    assert (letter["reason"], letter["key"]) == ("no_store", "k7")
    (tmp_path / "map.toml").write_text(KEYED)
    again = await pushed(
        endpoint, tmp_path, "pusher.dead.ndjson", "--map", "map.toml", "--dead-letters", "more"
    )
    assert again.code == 0, again.err
    assert [one["externalObjectId"] for one in endpoint.delivered] == ["k7"]


async def test_fewer_keys_than_values_stop_the_run_and_nothing_gets_a_wrong_id(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "map.toml").write_text(KEYED)
    path = sink_files(tmp_path, [{"status": "a"}, {"status": "b"}], ["k1"])
    result = await pushed(endpoint, tmp_path, path, "--map", "map.toml")
    assert result.code == 3
    assert "it ends before its values, at line 2" in result.err
    assert endpoint.delivered == []


async def test_keys_of_tombstones_are_deletes_only_where_their_folder_is_named(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "map.toml").write_text(KEYED)
    sink_files(tmp_path / "topics/orders/partition=0", [{"status": "new"}], ["k1"])
    tombstones = tmp_path / "topics/orders/tombstone"
    tombstones.mkdir()
    (tombstones / "orders+0+0000000001.keys.json").write_bytes(b'"k1"\n"k2"\n')
    values = await pushed(endpoint, tmp_path, "topics", "--map", "map.toml")
    assert values.counts() == (1, 1, 0, 0), values.err
    assert "1 files with the keys of tombstones" in values.err
    deletes = await pushed(endpoint, tmp_path, tombstones, "--map", "map.toml")
    assert deletes.counts() == (2, 2, 0, 0), deletes.err
    found = [(one["action"], one["externalObjectId"]) for one in endpoint.delivered]
    assert found == [("UPSERT", "k1"), ("DELETE", "k1"), ("DELETE", "k2")]
