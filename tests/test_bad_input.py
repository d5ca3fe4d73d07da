"""Whatever comes in, through the real command: a clear word about it, and nothing else is lost."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import shutil
import subprocess
import zlib
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fakes.command import (
    NORTHWIND,
    PUSHER,
    Ended,
    ended,
    letters_in,
    message,
    ndjson,
    northwind_bridge,
    run,
    run_shell,
    running_bridge,
    starting,
)
from fakes.endpoint import Endpoint, Request, accept

from pusher import SampleSize, Settings, push

PUSH = ("--confirm", "0", "--report", "-")


async def pushed(endpoint: Endpoint, stdin: bytes, cwd: Path, *arguments: str | Path) -> Ended:
    return await run("push", "--url", endpoint.url, *PUSH, *arguments, cwd=cwd, stdin=stdin)


def as_line(**fields: Any) -> bytes:
    return json.dumps(message(1, **fields)).encode()


def without(name: str) -> bytes:
    entry = message(1)
    del entry[name]
    return json.dumps(entry).encode()


BAD_LINES: dict[str, tuple[bytes, str]] = {
    "words": (b"this is not JSON", "not_json"),
    "half a message": (as_line()[:-20], "not_json"),
    "a comma too many": (as_line() + b",", "not_json"),
    "two messages": (as_line() + as_line(), "not_json"),
    "single quotes": (as_line().replace(b'"', b"'"), "not_json"),
    "broken inside of properties": (
        as_line().replace(b'"properties": {', b'"properties": {"a":, '),
        "not_json",
    ),
    "NaN": (as_line(properties={"n": float("nan")}), "not_json"),
    "a line of NUL bytes": (b"\0\0\0\0", "not_json"),
    "a NUL byte inside": (as_line().replace(b"id1", b"id\0001"), "not_json"),
    "a NUL byte at the end": (as_line() + b"\0", "not_json"),
    "a hundred thousand brackets": (b"[" * 100_000, "not_an_object"),
    "a hundred thousand braces": (b'{"a":' * 100_000, "not_json"),
    "deep properties": (
        as_line().replace(b'{"n": "1"}', b'{"n": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
        "not_json",
    ),
    "Latin-1 inside of properties": (
        as_line(properties={"n": "Z"}).replace(b"Z", b"\xfc"),
        "not_utf8",
    ),
    "Latin-1 in the id": (as_line(externalObjectId="Z").replace(b"Z", b"\xfc"), "not_utf8"),
    "UTF-16": ("{}".encode("utf-16-le"), "not_json"),
    "a list": (b"[1, 2]", "not_an_object"),
    "a number": (b"42", "not_an_object"),
    "a string": (b'"hello"', "not_an_object"),
    "null": (b"null", "not_an_object"),
    "unknown type": (as_line(objectType="COMPANY"), "unknown_type"),
    "type in small letters": (as_line(objectType="product"), "unknown_type"),
    "type is a number": (as_line(objectType=1), "unknown_type"),
    "unknown action": (as_line(action="DROP"), "unknown_action"),
    "action is a list": (as_line(action=[]), "unknown_action"),
    "empty object": (b"{}", "bad_id"),
    "no id": (without("externalObjectId"), "bad_id"),
    "null id": (as_line().replace(b'"id1"', b"null"), "bad_id"),
    "id of 0 characters": (as_line(externalObjectId=""), "bad_id"),
    "id of 101 characters": (as_line(externalObjectId="x" * 101), "bad_id"),
    "id with an umlaut": (as_line(externalObjectId="grün"), "bad_id"),
    "id in raw UTF-8": (
        json.dumps(message(1, externalObjectId="größe"), ensure_ascii=False).encode(),
        "bad_id",
    ),
    "id is a fraction": (as_line(externalObjectId=1.5), "bad_id"),
    "id is true": (as_line(externalObjectId=True), "bad_id"),
    "id is a map": (as_line(externalObjectId={}), "bad_id"),
    "no store": (without("storeId"), "missing_store"),
    "null store": (as_line().replace(b'"s1"', b"null"), "bad_store"),
    "empty store": (as_line(storeId=""), "bad_store"),
    "store is a list": (as_line(storeId=["s1"]), "bad_store"),
    "no type": (without("objectType"), "missing_type"),
    "changedAt negative": (as_line(changedAt=-1), "bad_changed_at"),
    "changedAt a float": (as_line(changedAt=1542092841947.5), "bad_changed_at"),
    "changedAt with an exponent": (
        as_line(changedAt="Z").replace(b'"Z"', b"1.5e12"),
        "bad_changed_at",
    ),
    "changedAt words": (as_line(changedAt="yesterday"), "bad_changed_at"),
    "changedAt a negative string": (as_line(changedAt="-1"), "bad_changed_at"),
    "changedAt an empty string": (as_line(changedAt=""), "bad_changed_at"),
    "changedAt a date": (as_line(changedAt="2018-11-13T07:07:21Z"), "bad_changed_at"),
    "changedAt true": (as_line(changedAt=True), "bad_changed_at"),
    "changedAt beyond 64 bits": (as_line(changedAt=10**20), "bad_changed_at"),
    "changedAt a string beyond 64 bits": (as_line(changedAt="9" * 20), "bad_changed_at"),
    "changedAt with thousands of digits": (as_line(changedAt="9" * 5000), "bad_changed_at"),
    "properties a full list": (as_line(properties=["n"]), "bad_map"),
    "properties a string": (as_line(properties="n"), "bad_map"),
    "associations a number": (as_line(associations=7), "bad_map"),
    "associations a full list": (as_line(associations=[{"DEAL": ["1"]}]), "bad_map"),
}


@pytest.mark.parametrize("what", BAD_LINES)
async def test_a_bad_line_becomes_a_dead_letter_and_its_neighbours_are_delivered(
    what: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    bad, reason = BAD_LINES[what]
    before, after = ndjson([message(8), message(9)]), ndjson([message(10)])
    result = await pushed(endpoint, before + bad + b"\n" + after, tmp_path)
    assert result.counts() == (4, 3, 1, 0)
    assert result.code == 1
    assert result.report["outcome"] == "rejected"
    assert result.report["rejected"] == {reason: 1}
    assert endpoint.requests[0].ids == ["id8", "id9", "id10"]
    (letter,) = letters_in(tmp_path)
    assert letter["reason"] == reason
    assert letter["detail"]
    assert "\n" not in letter["detail"]
    assert len(letter["detail"]) < 300
    assert (letter["source"], letter["line"], letter["offset"]) == ("stdin", 3, len(before))
    assert (letter["status"], letter["attempts"]) == (None, 0)
    assert letter["run_id"] == result.report["run_id"]
    if reason == "not_utf8":
        assert base64.b64decode(letter["record_base64"]) == bad
    else:
        assert letter["record"] == bad.decode()
    assert f"1 rejected (1 {reason}) -> pusher.dead.ndjson" in result.err


async def test_all_bad_lines_at_once_cost_themselves_only(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    lines: list[bytes] = []
    for number, (bad, _) in enumerate(BAD_LINES.values()):
        lines += [bad, json.dumps(message(number)).encode()]
    result = await pushed(endpoint, b"\r\n".join(lines), tmp_path)
    count = len(BAD_LINES)
    assert result.counts() == (2 * count, count, count, 0)
    assert [entry["externalObjectId"] for entry in endpoint.delivered] == [
        f"id{number}" for number in range(count)
    ]
    letters = letters_in(tmp_path)
    assert [letter["reason"] for letter in letters] == [reason for _, reason in BAD_LINES.values()]
    assert [letter["line"] for letter in letters] == list(range(1, 2 * count, 2))
    assert sum(result.report["rejected"].values()) == count


GOOD_LINES: dict[str, tuple[bytes, dict[str, Any]]] = {
    "integer id": (as_line(externalObjectId=42), {"externalObjectId": "42"}),
    "id of 100 characters": (as_line(externalObjectId="x" * 100), {"externalObjectId": "x" * 100}),
    "id with blanks and slashes": (
        as_line(externalObjectId=" a/b?c "),
        {"externalObjectId": " a/b?c "},
    ),
    "integer store": (as_line(storeId=7), {"storeId": "7"}),
    "changedAt 0": (as_line(changedAt=0), {"changedAt": 0}),
    "changedAt a digit string": (as_line(changedAt="1600000000001"), {}),
    "changedAt the largest": (as_line(changedAt=2**63 - 1), {"changedAt": 2**63 - 1}),
    "no action": (as_line(), {"action": "UPSERT"}),
    "null action": (as_line(action="Z").replace(b'"Z"', b"null"), {"action": "UPSERT"}),
    "delete": (as_line(action="DELETE"), {"action": "DELETE"}),
    "null properties": (as_line(properties=1).replace(b": 1}", b": null}"), {"properties": {}}),
    "properties []": (as_line(properties=[]), {"properties": {}}),
    "properties [ ]": (as_line(properties=1).replace(b": 1}", b": [ ]}"), {"properties": {}}),
    "no properties": (without("properties"), {"properties": {}}),
    "null associations": (
        as_line(associations=1).replace(b": 1}", b": null}"),
        {"associations": {}},
    ),
    "associations []": (as_line(associations=[]), {"associations": {}}),
    "associations": (
        as_line(associations={"DEAL": ["1", "2"]}),
        {"associations": {"DEAL": ["1", "2"]}},
    ),
    "unknown keys": (as_line(portalId=1, note={"a": [1]}), {}),
    "unicode values": (
        json.dumps(message(1, properties={"n": "größe 茶 😀"}), ensure_ascii=False).encode(),
        {"properties": {"n": "größe 茶 😀"}},
    ),
    "an escaped NUL in a value": (
        as_line(properties={"n": "a\0b"}),
        {"properties": {"n": "a\0b"}},
    ),
    "escaped keys": (as_line().replace(b'"storeId"', rb'"store\u0049d"'), {}),
    "blanks around it": (b" \t" + as_line() + b" \t ", {}),
    "blanks between": (as_line().replace(b": ", b" :\t "), {}),
}


@pytest.mark.parametrize("what", GOOD_LINES)
async def test_an_odd_line_is_taken_and_normalised(
    what: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    line, changes = GOOD_LINES[what]
    result = await pushed(endpoint, line + b"\n", tmp_path)
    assert result.code == 0, result.err
    assert result.counts() == (1, 1, 0, 0)
    whole = {**message(1), "action": "UPSERT", "associations": {}, **changes}
    assert endpoint.delivered == [whole]
    assert letters_in(tmp_path) == []


BOM = b"\xef\xbb\xbf"
LINE_A, LINE_B = (json.dumps(message(number)).encode() for number in (1, 2))
FRAMES: dict[str, bytes] = {
    "a BOM": BOM + LINE_A + b"\n" + LINE_B + b"\n",
    "CRLF": LINE_A + b"\r\n" + LINE_B + b"\r\n",
    "a BOM and CRLF": BOM + LINE_A + b"\r\n" + LINE_B + b"\r\n",
    "no newline at the end": LINE_A + b"\n" + LINE_B,
    "a carriage return at the end": LINE_A + b"\r\n" + LINE_B + b"\r",
    "blank lines": b"\n\n" + LINE_A + b"\n\n \t\n\r\n" + LINE_B + b"\n\n",
    "blank lines behind a BOM": BOM + b"\n" + LINE_A + b"\n" + LINE_B,
}


@pytest.mark.parametrize("what", FRAMES)
async def test_what_stands_around_the_lines_is_passed_over(
    what: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    result = await pushed(endpoint, FRAMES[what], tmp_path)
    assert result.code == 0, result.err
    assert result.counts() == (2, 2, 0, 0)
    assert [entry["externalObjectId"] for entry in endpoint.delivered] == ["id1", "id2"]


async def test_line_and_offset_count_what_is_passed_over(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    start = BOM + b"\r\n" + LINE_A + b"\r\n\r\n"
    result = await pushed(endpoint, start + b"oops\r\n" + LINE_B, tmp_path)
    assert result.counts() == (3, 2, 1, 0)
    (letter,) = letters_in(tmp_path)
    assert (letter["line"], letter["offset"]) == (4, len(start))
    assert letter["record"].rstrip("\r") == "oops"


async def test_a_bom_in_each_of_several_files_is_passed_over(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "a.ndjson").write_bytes(BOM + LINE_A)
    (tmp_path / "b.ndjson").write_bytes(BOM + LINE_B)
    result = await pushed(endpoint, b"", tmp_path, "a.ndjson", "b.ndjson")
    assert result.counts() == (2, 2, 0, 0)


async def test_a_missing_changed_at_is_filled_in_and_never_twice_the_same(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    result = await pushed(endpoint, (without("changedAt") + b"\n") * 3, tmp_path)
    assert result.counts() == (3, 3, 0, 0)
    times = [entry["changedAt"] for entry in endpoint.delivered]
    assert times == sorted(set(times))
    assert times[0] > 1_600_000_000_000


async def test_a_line_of_20_mb_is_delivered_alone(endpoint: Endpoint, tmp_path: Path) -> None:
    big = message(2, properties={"n": "x" * 20_000_000})
    result = await pushed(endpoint, ndjson([message(1), big, message(3)]), tmp_path)
    assert result.code == 0
    assert result.counts() == (3, 3, 0, 0)
    assert {entry["externalObjectId"] for entry in endpoint.delivered} == {"id1", "id2", "id3"}
    (request,) = (request for request in endpoint.requests if "id2" in request.ids)
    assert request.ids == ["id2"]
    assert request.messages[0]["properties"] == big["properties"]


@pytest.mark.parametrize("end", [b"\n", b""])
async def test_a_line_longer_than_allowed_is_rejected_unread(
    end: bytes, endpoint: Endpoint, tmp_path: Path
) -> None:
    long = json.dumps(message(2, properties={"n": "x" * 300_000})).encode()
    stream = LINE_A + b"\n" + LINE_B + b"\n" + long + end
    result = await pushed(endpoint, stream, tmp_path, "--max-line", "64KiB")
    assert result.counts() == (3, 2, 1, 0)
    assert result.report["rejected"] == {"line_too_long": 1}
    (letter,) = letters_in(tmp_path)
    assert letter["reason"] == "line_too_long"
    assert (letter["line"], letter["offset"]) == (3, len(LINE_A) + len(LINE_B) + 2)
    assert letter["record"] == long[:4096].decode()
    assert letter["line_bytes"] == len(long)


async def test_the_largest_line_allowed_is_delivered_and_one_byte_more_is_not(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    longer = json.dumps(message(100)).encode()
    stream = LINE_A + b"\n" + longer + b"\n" + LINE_B + b"\n"
    assert len(longer) > len(LINE_A) == len(LINE_B)
    result = await pushed(endpoint, stream, tmp_path, "--max-line", str(len(LINE_A)))
    assert result.counts() == (3, 2, 1, 0)
    assert [entry["externalObjectId"] for entry in endpoint.delivered] == ["id1", "id2"]


async def test_a_message_longer_than_the_default_limit_is_rejected(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    long = as_line(properties={"n": "x" * (33 << 20)})
    result = await pushed(endpoint, LINE_A + b"\n" + long + b"\n" + LINE_B, tmp_path)
    assert result.counts() == (3, 2, 1, 0)
    assert result.report["rejected"] == {"line_too_long": 1}


async def test_store_and_type_fill_in_only_what_is_missing(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    lines = [
        message(1),
        {"externalObjectId": "2"},
        {"externalObjectId": "3", "storeId": "s3"},
        {"externalObjectId": "4", "objectType": "DEAL"},
    ]
    flags = ("--store", "shop", "--type", "CONTACT")
    result = await pushed(endpoint, ndjson(lines), tmp_path, *flags)
    assert result.counts() == (4, 4, 0, 0)
    lanes = {
        entry["externalObjectId"]: (entry["storeId"], entry["objectType"])
        for entry in endpoint.delivered
    }
    assert lanes == {
        "id1": ("s1", "PRODUCT"),
        "2": ("shop", "CONTACT"),
        "3": ("s3", "CONTACT"),
        "4": ("shop", "DEAL"),
    }


@pytest.mark.parametrize(
    ("flags", "reason"),
    [(("--store", "shop"), "missing_type"), (("--type", "DEAL"), "missing_store")],
)
async def test_what_stays_missing_is_a_dead_letter_that_names_the_flag(
    flags: tuple[str, str], reason: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    result = await pushed(endpoint, ndjson([{"externalObjectId": "1"}]), tmp_path, *flags)
    assert result.counts() == (1, 0, 1, 0)
    (letter,) = letters_in(tmp_path)
    assert letter["reason"] == reason
    assert "--type" in letter["detail"] or "--store" in letter["detail"]


@pytest.mark.parametrize("content", [b"", b"\n \n\r\n", BOM, BOM + b"\n"])
@pytest.mark.parametrize("form", ["pipe", "file", "gzip"])
async def test_an_empty_input_is_no_error_and_sends_nothing(
    content: bytes, form: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    path = tmp_path / "in"
    path.write_bytes(gzip.compress(content) if form == "gzip" else content)
    sources = () if form == "pipe" else (path,)
    result = await pushed(endpoint, content if form == "pipe" else b"", tmp_path, *sources)
    assert result.code == 0
    assert result.counts() == (0, 0, 0, 0)
    assert endpoint.requests == []


USAGE_ERRORS: dict[str, tuple[str, str]] = {
    "a file that does not exist": ("nothing.ndjson", "nothing.ndjson: No such file"),
    "a file behind a file": ("good.ndjson/x", "Not a directory"),
    "an empty directory": ("empty", "empty: no input files in it"),
    "a directory with other files": ("other", "other: no input files in it"),
    "a glob that matches nothing": ("*.csv", "*.csv: no file matches"),
    "stdin twice": ("- -", "standard input can be read only once"),
    "a source of another kind": ("s3://bucket/changes", "not a kind of source"),
    "a topic without a group": ("kafka://broker/topic", "name a consumer group"),
    "an empty name": ("''", ""),
    "a good file and a missing one": ("good.ndjson nothing.ndjson", "nothing.ndjson: No such file"),
}


@pytest.mark.parametrize("what", USAGE_ERRORS)
async def test_a_source_that_cannot_be_read_is_said_before_anything_is_sent(
    what: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    sources, complaint = USAGE_ERRORS[what]
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/readme.txt").write_text("hello")
    (tmp_path / "good.ndjson").write_bytes(LINE_A)
    result = await run_shell(
        f'pusher push {sources} "$@" </dev/null', "--url", endpoint.url, cwd=tmp_path
    )
    assert_usage_error(result, complaint)
    assert endpoint.requests == []


def assert_usage_error(result: Ended, complaint: str) -> None:
    assert result.code == 2
    assert result.out == b""
    last_line = result.err.rstrip().splitlines()[-1]
    assert last_line.startswith("Error: ")
    assert complaint in last_line


async def test_a_file_that_may_not_be_read_is_named(endpoint: Endpoint, tmp_path: Path) -> None:
    path = tmp_path / "secret.ndjson"
    path.write_bytes(LINE_A)
    path.chmod(0)
    argv: tuple[str | Path, ...] = (*PUSHER, "push", path, "--url", endpoint.url)
    if os.access(path, os.R_OK):  # Root may read everything, unless it gives that up.
        lesser = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
        if shutil.which("setpriv") is None:
            pytest.skip("root may read everything, and setpriv is missing")
        argv = (*lesser, *argv)
    async with starting(*argv, cwd=tmp_path) as process:
        result = await ended(process, within_s=10)
    assert_usage_error(result, "secret.ndjson: Permission denied")
    assert endpoint.requests == []


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("127.0.0.1:8080", "must begin with http:// or https://"),
        ("bridge.example", "must begin with http:// or https://"),
        ("", "must begin with http:// or https://"),
        ("ftp://bridge.example", "must begin with http:// or https://"),
        ("http://", "names no host"),
        ("http://:80", "names no host"),
        ("http://bridge.example:port", "not an address"),
        ("http://[::1", "not an address"),
        ("http://bridge.example?hapikey=s3cret", "no user name, query or fragment"),
        ("http://me:s3cret@bridge.example", "no user name, query or fragment"),
    ],
)
async def test_an_address_that_cannot_be_used_is_a_usage_error(
    url: str, complaint: str, tmp_path: Path
) -> None:
    result = await run("push", "--url", url, cwd=tmp_path, stdin=LINE_A)
    assert_usage_error(result, complaint)
    assert "s3cret" not in result.err


@pytest.mark.parametrize(
    ("store", "complaint"), [(b"", "must not be empty"), (b"a\xff", "must be UTF-8")]
)
@pytest.mark.parametrize("command", [("push", "--url", "http://127.0.0.1:9"), ("plan",)])
async def test_a_store_that_no_request_can_name_is_a_usage_error(
    command: tuple[str, ...], store: bytes, complaint: str, tmp_path: Path
) -> None:
    result = await run(*command, "--store", os.fsdecode(store), cwd=tmp_path, stdin=LINE_A)
    assert_usage_error(result, f"--store {complaint}")


@pytest.mark.parametrize("credentials", [(), ("--token", "wr0ng"), ("--api-key", "wr0ng")])
async def test_wrong_credentials_stop_the_run_before_anything_is_read(
    credentials: tuple[str, ...], tmp_path: Path
) -> None:
    async with northwind_bridge("--token", "r1ght", cwd=tmp_path) as url:
        result = await run("push", NORTHWIND, "--url", url, *PUSH, *credentials, cwd=tmp_path)
    assert result.code == 3
    assert "401" in result.report["reason"]
    assert result.counts() == (0, 0, 0, 0)
    assert result.report["requests"]["sent"] == 0


@pytest.mark.parametrize("credentials", [(), ("--token", "wr0ng"), ("--api-key", "wr0ng")])
async def test_wrong_credentials_stop_the_run_with_everything_pending(
    credentials: tuple[str, ...], tmp_path: Path
) -> None:
    flags = (*PUSH, "--no-preflight", *credentials)
    async with northwind_bridge("--token", "r1ght", cwd=tmp_path) as url:
        result = await run("push", NORTHWIND, "--url", url, *flags, cwd=tmp_path)
    report = result.report
    assert (report["outcome"], result.code) == ("stopped", 3)
    assert "credentials" in report["reason"]
    assert "401" in report["reason"]
    assert report["reason"] in result.err
    assert report["messages"]["delivered"] == report["messages"]["rejected"] == 0
    assert report["messages"]["pending"] == report["messages"]["read"] > 0
    assert report["requests"]["sent"] <= report["in_flight"]["limit"]
    assert letters_in(tmp_path) == []
    assert "wr0ng" not in result.err + result.out.decode()


async def test_the_right_token_is_let_in(tmp_path: Path) -> None:
    async with northwind_bridge("--token", "r1ght", cwd=tmp_path) as url:
        arguments = ("--phases", "--token", "r1ght", "--report", "-")
        result = await run("push", NORTHWIND, "--url", url, *arguments, cwd=tmp_path)
    assert result.code == 0
    assert result.counts() == (4059, 4059, 0, 0)


async def test_a_message_that_only_the_bridge_refuses_is_found_among_its_neighbours(
    tmp_path: Path,
) -> None:
    lines = [message(number, storeId="default") for number in range(150)]
    lines[77]["associations"] = {"COMPANY": ["1"]}
    stream = ndjson(lines)
    async with running_bridge(cwd=tmp_path) as url:
        result = await run("push", "--url", url, *PUSH, cwd=tmp_path, stdin=stream)
    assert result.counts() == (150, 149, 1, 0)
    assert result.code == 1
    (letter,) = letters_in(tmp_path)
    assert (letter["reason"], letter["status"]) == ("refused", 400)
    assert letter["attempts"] >= 1
    assert letter["line"] == 78
    assert stream[letter["offset"] :].startswith(letter["record"].encode())
    assert json.loads(letter["record"]) == lines[77]
    assert letter["changed_at"] == lines[77]["changedAt"]


async def test_a_store_that_the_bridge_does_not_know_stops_the_run_and_names_it(
    tmp_path: Path,
) -> None:
    lines = [message(number, storeId="nowhere") for number in range(5)]
    async with running_bridge(cwd=tmp_path) as url:
        result = await run("push", "--url", url, *PUSH, cwd=tmp_path, stdin=ndjson(lines))
    assert result.code == 3
    assert result.counts() == (5, 0, 0, 5)
    assert "nowhere" in result.report["reason"]


Talk = Callable[[int, StreamReader, StreamWriter], Awaitable[None]]
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


@asynccontextmanager
async def raw_server(talk: Talk) -> AsyncIterator[str]:
    """A server that reads a request and then does what `talk` does on the n-th one."""
    count = 0

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        nonlocal count
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                count += 1
                await talk(count, reader, writer)
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


BROKEN_ANSWERS: dict[str, bytes] = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 20",
    "half a body": b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"a"',
    "half a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "endless header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
    "a bad length": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
}


@pytest.mark.parametrize("what", BROKEN_ANSWERS)
async def test_a_connection_that_closes_mid_answer_is_tried_again(
    what: str, tmp_path: Path
) -> None:
    async def break_first(number: int, _: StreamReader, writer: StreamWriter) -> None:
        if number == 1:
            writer.write(BROKEN_ANSWERS[what])
            writer.close()
        else:
            writer.write(NO_CONTENT)

    async with raw_server(break_first) as url:
        stdin = ndjson(message(number) for number in range(10))
        flags = ("--no-preflight", *PUSH)
        result = await run("push", "--url", url, *flags, cwd=tmp_path, stdin=stdin)
    assert result.code == 0, result.err
    assert result.counts() == (10, 10, 0, 0)
    requests = result.report["requests"]
    assert (requests["sent"], requests["accepted"], requests["retried"]) == (2, 1, 1)
    assert requests["ambiguous"] == 1
    assert sum(requests["failures"].values()) == 1


HTML = "<!DOCTYPE html><html><body>Please log in</body></html>"


@pytest.mark.parametrize("status", [200, 301, 302, 307, 401, 405, 501])
async def test_an_answer_that_no_bridge_gives_stops_the_run(
    status: int, endpoint: Endpoint, tmp_path: Path
) -> None:
    async def show_login(request: Request) -> web.StreamResponse:
        del request
        headers = {"Location": "http://127.0.0.1:9/login"} if 300 <= status < 400 else {}
        return web.Response(status=status, text=HTML, content_type="text/html", headers=headers)

    endpoint.answer = show_login
    stdin = ndjson(message(number) for number in range(10))
    result = await pushed(endpoint, stdin, tmp_path)
    assert result.code == 3
    assert result.counts() == (10, 0, 0, 10)
    assert f"HTTP {status}" in result.report["reason"]
    assert result.report["reason"] in result.err
    assert HTML not in result.err + result.out.decode()
    assert len(endpoint.requests) == 1
    assert letters_in(tmp_path) == []


@pytest.mark.parametrize("status", [429, 502, 503])
async def test_html_from_a_proxy_that_is_overloaded_is_tried_again(
    status: int, endpoint: Endpoint, tmp_path: Path
) -> None:
    async def be_busy_first(request: Request) -> web.StreamResponse:
        if request.number < 2:
            return web.Response(status=status, text=HTML, content_type="text/html")
        return await accept(request)

    endpoint.answer = be_busy_first
    result = await pushed(endpoint, LINE_A + b"\n" + LINE_B, tmp_path)
    assert result.code == 0, result.err
    assert result.counts() == (2, 2, 0, 0)
    assert result.report["requests"]["by_status"] == {"204": 1, str(status): 2}


async def test_a_json_answer_with_200_is_as_good_as_204(endpoint: Endpoint, tmp_path: Path) -> None:
    async def answer_json(request: Request) -> web.StreamResponse:
        del request
        return web.json_response({"status": "ok"})

    endpoint.answer = answer_json
    result = await pushed(endpoint, LINE_A, tmp_path)
    assert (result.code, result.counts()) == (0, (1, 1, 0, 0))


async def test_nobody_at_the_port_stops_the_run_with_everything_pending(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    (tmp_path / "in").write_bytes(LINE_A + b"\n" + LINE_B)
    settings = Settings(
        url=f"http://127.0.0.1:{port}",
        give_up_after_s=0.3,
        preflight=False,
        confirm=SampleSize(count=0),
        dead_letters=tmp_path / "pusher.dead.ndjson",
    )
    report = await push(tmp_path / "in", settings)
    assert (report.outcome, report.exit_code) == ("stopped", 3)
    assert (report.messages.read, report.messages.pending) == (2, 2)
    assert report.requests.failures == {"connect": report.requests.sent}
    assert report.requests.ambiguous == 0
    assert report.reason is not None
    assert "no request has succeeded for 0.3 s" in report.reason
    assert "connect" in report.reason
    assert letters_in(tmp_path) == []


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.99])
async def test_a_gzip_file_that_ends_too_early_is_delivered_up_to_there(
    keep: float, endpoint: Endpoint, tmp_path: Path
) -> None:
    packed = NORTHWIND.read_bytes()
    packed = packed[: int(len(packed) * keep)]
    readable = zlib.decompressobj(wbits=31).decompress(packed)
    (tmp_path / "cut.ndjson.gz").write_bytes(packed)
    result = await pushed(endpoint, b"", tmp_path, "cut.ndjson.gz")
    assert_delivered_up_to_the_damage(result, endpoint, readable, "ends too early")
    assert letters_in(tmp_path) == []


async def test_a_gzip_pipe_that_ends_too_early_is_delivered_up_to_there(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    packed = NORTHWIND.read_bytes()[:40_000]
    readable = zlib.decompressobj(wbits=31).decompress(packed)
    result = await pushed(endpoint, packed, tmp_path)
    assert_delivered_up_to_the_damage(result, endpoint, readable, "stdin: the gzip data ends")


async def test_a_zstandard_file_that_ends_too_early_is_delivered_up_to_there(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    if shutil.which("zstd") is None:
        pytest.skip("zstd is missing")
    stream = gzip.decompress(NORTHWIND.read_bytes()) * 4
    packed = subprocess.run(  # noqa: ASYNC221 - a moment
        ["zstd", "-q", "-c"], input=stream, capture_output=True, check=True, timeout=20
    ).stdout
    (tmp_path / "cut.zst").write_bytes(packed[: len(packed) // 2])
    result = await pushed(endpoint, b"", tmp_path, "cut.zst")
    assert result.code == 3
    assert "ends too early" in result.report["reason"]
    delivered = result.report["messages"]["delivered"]
    assert 0 < delivered == result.report["messages"]["read"] == len(endpoint.delivered)


async def test_damage_inside_of_a_gzip_file_stops_the_run(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    packed = bytearray(NORTHWIND.read_bytes())
    packed[-8:-4] = b"\0\0\0\0"  # The checksum.
    (tmp_path / "damaged.gz").write_bytes(packed)
    result = await pushed(endpoint, b"", tmp_path, "damaged.gz")
    assert result.code == 3
    assert "damaged.gz: damaged gzip data" in result.report["reason"]
    assert result.report["messages"]["delivered"] == len(endpoint.delivered)


def assert_delivered_up_to_the_damage(
    result: Ended, endpoint: Endpoint, readable: bytes, complaint: str
) -> None:
    """Two decompressors need not agree to the last line on what can still be read."""
    report = result.report
    assert (report["outcome"], result.code) == ("stopped", 3)
    assert complaint in report["reason"]
    assert report["reason"] in result.err
    count = readable.count(b"\n")
    assert count - 5 <= report["messages"]["delivered"] <= count
    assert report["messages"]["delivered"] == report["messages"]["read"] == len(endpoint.delivered)
    ids = {entry["externalObjectId"] for entry in endpoint.delivered}
    assert ids == {
        json.loads(line)["externalObjectId"]
        for line in readable.splitlines()[: report["messages"]["delivered"]]
    }


async def test_a_second_file_is_not_read_behind_a_damaged_first_one(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(LINE_A * 1)[:-4])
    (tmp_path / "b.ndjson").write_bytes(LINE_B)
    result = await pushed(endpoint, b"", tmp_path, "a.gz", "b.ndjson")
    assert result.code == 3
    assert "a.gz" in result.report["reason"]
    assert "id2" not in [entry["externalObjectId"] for entry in endpoint.delivered]


async def test_random_bytes_become_dead_letters_and_no_more(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    # No blank stands beside a line end: blanks around a line are not kept.
    noise = b"\x80" + bytes(number * 7 % 256 for number in range(256)) * 40
    result = await pushed(endpoint, noise + b"\n" + LINE_A, tmp_path)
    assert result.code == 1
    assert len(endpoint.delivered) == 1
    letters = letters_in(tmp_path)
    assert len(letters) == result.report["messages"]["rejected"] == 41
    assert {letter["reason"] for letter in letters} <= {"not_json", "not_utf8"}
    original = b"\n".join(
        base64.b64decode(letter["record_base64"])
        if "record_base64" in letter
        else letter["record"].encode()
        for letter in letters
    )
    assert original == noise


async def test_a_file_of_dead_letters_is_passed_over_in_a_directory_and_named_outright_replayed(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.ndjson").write_bytes(LINE_A + b"\noops\n")
    letters = ("--dead-letters", "in/dead.ndjson")
    for _ in range(2):
        endpoint.accepted.clear()
        result = await pushed(endpoint, b"", tmp_path, "in", *letters)
        assert result.counts() == (2, 1, 1, 0)
    assert len(letters_in(folder, "dead.ndjson")) == 2
    result = await run("push", "in/dead.ndjson", "--url", endpoint.url, *letters, cwd=tmp_path)
    assert_usage_error(result, "a file that is to be read")
    result = await pushed(endpoint, b"", tmp_path, "in/dead.ndjson")
    assert result.counts() == (2, 0, 2, 0)
    assert [letter["record"] for letter in letters_in(tmp_path)] == ["oops", "oops"]
