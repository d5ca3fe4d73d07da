"""The delivered ledger: every delivered message has its line, whatever happens to the run."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import random
import shutil
import signal
from asyncio.subprocess import DEVNULL
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from fakes.command import PUSHER, files_in, message, ndjson, run, run_shell, starting
from fakes.endpoint import Endpoint, Request, accept, refuse, until
from hypothesis import given
from hypothesis import strategies as st

from pusher import Pipeline, Report, SampleSize, Settings, open_source, push
from pusher.delivery_ledger import LedgerLine, ids_digest, ranges_of, taken_back
from pusher.errors import UsageError

QUIET = ("--confirm", "0", "--progress", "never", "-q")


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a ledger; each must be whole."""
    data = path.read_bytes()
    assert not data or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def numbers_of(ranges: str) -> list[int]:
    found: list[int] = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def input_lines_in(ledger: list[dict[str, Any]]) -> Counter[tuple[str, int]]:
    """How often each line of the input is in a ledger."""
    return Counter(
        (source, number)
        for line in ledger
        for source, ranges in line["lines"].items()
        for number in numbers_of(ranges)
    )


def assert_true(ledger: list[dict[str, Any]], texts: dict[str, Sequence[str]]) -> None:
    """Every line of a ledger has the lane, the count and the hash of the input lines it names."""
    for line in ledger:
        messages = [
            json.loads(texts[source][number - 1])
            for source, ranges in line["lines"].items()
            for number in numbers_of(ranges)
        ]
        assert len(messages) == line["messages"]
        assert {(m["storeId"], m["objectType"]) for m in messages} == {
            (line["store_id"], line["object_type"])
        }
        ids = "".join(f"{m['externalObjectId']}\n" for m in messages)
        assert hashlib.sha256(ids.encode()).hexdigest() == line["sha256"]


def settings_for(endpoint: Endpoint, tmp_path: Path, **more: Any) -> Settings:
    values: dict[str, Any] = {
        "confirm": SampleSize(count=0),
        "dead_letters": tmp_path / "dead.ndjson",
        "ledger": tmp_path / "ledger",
        "seed": 1,
        **more,
    }
    return Settings(url=endpoint.url, **values)


def mixed(count: int) -> list[dict[str, Any]]:
    """Messages of six lanes; every tenth changes an object that was there before."""
    rng = random.Random(3)
    return [
        message(
            number,
            storeId=f"s{rng.randrange(3)}",
            objectType=rng.choice(["CONTACT", "DEAL"]),
            externalObjectId=f"id{number - number % 10 if number % 10 == 9 else number}",
        )
        for number in range(count)
    ]


async def pushed(source: Path | list[Path], settings: Settings) -> Report:
    return await push(source if isinstance(source, Path) else [*source], settings)


async def test_each_accepted_request_has_a_line_that_the_input_bears_out(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    source = tmp_path / "in.ndjson"
    source.write_bytes(ndjson(mixed(3_000)))
    report = await pushed(source, settings_for(endpoint, tmp_path))
    ledger = lines_of(tmp_path / "ledger")
    assert_true(ledger, {str(source): source.read_text().splitlines()})
    assert len(ledger) == report.requests.accepted == len(endpoint.accepted)
    assert set(input_lines_in(ledger).values()) == {1}
    assert sum(line["messages"] for line in ledger) == report.messages.delivered == 3_000
    assert {line["run_id"] for line in ledger} == {report.run_id}
    assert sorted(line["request"] for line in ledger) == list(range(1, len(ledger) + 1))
    assert {(line["attempt"], line["status"]) for line in ledger} == {(1, 204)}
    assert all(line["latency_ms"] > 0 for line in ledger)
    assert report.ledger == str(tmp_path / "ledger")


async def test_lines_are_named_as_they_are_in_their_files(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """Blank lines and bad lines count, and so do those of compressed files; no file is mixed up."""
    one, two = tmp_path / "a.ndjson", tmp_path / "b.ndjson.gz"
    text = ndjson(message(n) for n in range(50)).decode().splitlines()
    text[10:10] = ["", "oops", "  ", "\r"]
    one.write_text("\n".join(text))
    second = ndjson(message(n) for n in range(50, 90))
    two.write_bytes(gzip.compress(second))
    settings = settings_for(endpoint, tmp_path, batch_size=60)
    await pushed([one, two], settings)
    ledger = lines_of(tmp_path / "ledger")
    assert_true(ledger, {str(one): text, str(two): second.decode().splitlines()})
    assert input_lines_in(ledger).total() == 90
    assert any(len(line["lines"]) == 2 for line in ledger)


async def test_retries_and_splits_are_told_and_what_is_refused_is_not_in_it(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    rng = random.Random(2)

    async def be_difficult(request: Request) -> web.StreamResponse:
        if rng.random() < 0.3:
            return web.Response(status=503, headers={"Retry-After": "0"})
        return refuse(400) if "id77" in request.ids else await accept(request)

    endpoint.answer = be_difficult
    source = tmp_path / "in.ndjson"
    source.write_bytes(ndjson(message(number) for number in range(2_000)))
    report = await pushed(source, settings_for(endpoint, tmp_path, max_attempts=30))
    ledger = lines_of(tmp_path / "ledger")
    assert_true(ledger, {str(source): source.read_text().splitlines()})
    assert (report.messages.delivered, report.messages.rejected) == (1_999, 1)
    named = input_lines_in(ledger)
    assert set(named.values()) == {1}
    assert (str(source), 78) not in named
    assert named.total() == 1_999
    numbers = [line["request"] for line in ledger]
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) <= report.requests.sent
    assert max(line["attempt"] for line in ledger) > 1


async def test_the_recipe_of_the_readme_proves_a_line(endpoint: Endpoint, tmp_path: Path) -> None:
    if shutil.which("jq") is None:
        pytest.skip("needs jq")
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    start = readme.index("verify() {")
    recipe = readme[start : readme.index("\n}", start) + 2]
    (tmp_path / "in.ndjson").write_bytes(ndjson(mixed(2_000)))
    arguments = ("push", "in.ndjson", "--url", endpoint.url, "--ledger", "ledger.ndjson")
    assert (await run(*arguments, *QUIET, cwd=tmp_path)).code == 0
    count = len(lines_of(tmp_path / "ledger.ndjson"))
    script = f'{recipe}\nfor n in $(seq 1 "$1"); do verify ledger.ndjson "$n" || exit 1; done'
    result = await run_shell(script, str(count), cwd=tmp_path)
    assert result.code == 0, result.err
    ledger = (tmp_path / "ledger.ndjson").read_text().splitlines()
    ledger[2] = ledger[2].replace('"sha256":"', '"sha256":"0')
    (tmp_path / "ledger.ndjson").write_text("\n".join(ledger) + "\n")
    assert (await run_shell(script, str(count), cwd=tmp_path)).code == 1


# Runs that go on from one another.


async def killed_after(endpoint: Endpoint, requests: int, *argv: str | Path, cwd: Path) -> None:
    """Kill a push once so many more requests have been accepted."""
    wanted = len(endpoint.accepted) + requests
    async with starting(*PUSHER, *argv, cwd=cwd, stdout=DEVNULL, stderr=DEVNULL) as process:
        await until(lambda: len(endpoint.accepted) >= wanted or process.returncode is not None)
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


@pytest.mark.parametrize("more", [(), ("--phases",)])
async def test_after_kills_each_delivered_message_has_one_line_that_counts(
    more: tuple[str, ...], endpoint: Endpoint, tmp_path: Path
) -> None:
    rng = random.Random(11 + len(more))

    async def take_a_while(request: Request) -> web.StreamResponse:
        await asyncio.sleep(rng.random() * 0.02)
        return await accept(request)

    endpoint.answer = take_a_while
    source = tmp_path / "in.ndjson"
    padded = [{**one, "properties": {"pad": "x" * 300}} for one in mixed(12_000)]
    source.write_bytes(ndjson(padded))
    argv: tuple[str | Path, ...] = ("push", source, "--url", endpoint.url, "--ledger", "ledger")
    argv = (*argv, "--checkpoint", "ck", "--concurrency", "3", "--batch-size", "50", *QUIET, *more)
    for _ in range(3):
        await killed_after(endpoint, rng.randrange(5, 60), *argv, cwd=tmp_path)
    assert len(endpoint.delivered) < 12_000 + 3 * 3 * 50 * 8
    result = await run(*argv, cwd=tmp_path)
    assert result.code == 0, result.err
    ledger = lines_of(tmp_path / "ledger")
    assert_true(ledger, {str(source): source.read_text().splitlines()})
    assert len({line["run_id"] for line in ledger}) == 1
    named = input_lines_in(ledger)
    assert set(named) == {(str(source), number) for number in range(1, 12_001)}
    again = sum(line.get("again", 0) for line in ledger)
    assert sum(line["messages"] for line in ledger) - again == 12_000
    assert named.total() - 12_000 == again


async def test_the_lines_of_other_runs_stay_and_a_torn_one_goes(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    source, path = tmp_path / "in.ndjson", tmp_path / "ledger"
    source.write_bytes(ndjson([message(1)]))
    await pushed(source, settings_for(endpoint, tmp_path))
    first = path.read_bytes()
    path.write_bytes(first + first[:30])
    await pushed(source, settings_for(endpoint, tmp_path))
    ledger = lines_of(path)
    assert path.read_bytes().startswith(first)
    assert len(ledger) == 2
    assert len({line["run_id"] for line in ledger}) == 2


@pytest.mark.parametrize("content", [b"notes\n", b'{"storeId":"s1"}\n', b'{"reason":"x"}', b"\x00"])
async def test_a_file_that_holds_something_else_is_left_alone(
    content: bytes, endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "in.ndjson").write_bytes(ndjson([message(1)]))
    (tmp_path / "ledger").write_bytes(content)
    with pytest.raises(UsageError, match=r"--ledger: .* holds something else"):
        await pushed(tmp_path / "in.ndjson", settings_for(endpoint, tmp_path))
    assert (tmp_path / "ledger").read_bytes() == content
    assert not endpoint.requests


async def test_a_ledger_is_kept_by_one_run_at_a_time(endpoint: Endpoint, tmp_path: Path) -> None:
    go = asyncio.Event()

    async def wait(request: Request) -> web.StreamResponse:
        await go.wait()
        return await accept(request)

    endpoint.answer = wait
    (tmp_path / "in.ndjson").write_bytes(ndjson([message(1)]))
    settings = settings_for(endpoint, tmp_path)
    first = asyncio.create_task(pushed(tmp_path / "in.ndjson", settings))
    await until(lambda: bool(endpoint.requests))
    with pytest.raises(UsageError, match="in use by another run"):
        await pushed(tmp_path / "in.ndjson", settings)
    go.set()
    assert (await first).exit_code == 0


@pytest.mark.parametrize("flag", ["--dead-letters", "--checkpoint", "--sample-out", "--report"])
async def test_a_ledger_needs_a_file_of_its_own(
    flag: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "in.ndjson").write_bytes(ndjson([message(1)]))
    argv = ("push", "in.ndjson", "--url", endpoint.url, "--ledger", "x", flag, "x")
    result = await run(*argv, cwd=tmp_path)
    assert result.code == 2
    assert "needs a file of its own" in result.err
    assert files_in(tmp_path) == ["in.ndjson"]


async def test_a_full_disk_stops_the_run_and_leaves_whole_lines(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """The file may grow to 4 KiB. What has no line is not delivered, and is sent again."""
    source = tmp_path / "in.ndjson"
    source.write_bytes(ndjson(message(number) for number in range(4_000)))
    argv = ("push", source, "--url", endpoint.url, "--ledger", "ledger", "--report", "-")
    script = 'ulimit -f 4; pusher "$@" --checkpoint ck 2>err | cat; exit "${PIPESTATUS[0]}"'
    result = await run_shell(script, *argv, *QUIET, cwd=tmp_path)
    assert result.code == 3
    assert "--ledger: ledger: File too large" in result.report["reason"]
    before = lines_of(tmp_path / "ledger")
    assert before
    counted = sum(line["messages"] for line in before)
    assert counted == result.report["messages"]["delivered"] < 4_000
    again = await run(*argv, "--checkpoint", "ck", *QUIET, cwd=tmp_path)
    assert again.code == 0
    ledger = lines_of(tmp_path / "ledger")
    assert set(input_lines_in(ledger)) == {(str(source), n) for n in range(1, 4_001)}
    assert sum(line["messages"] - line.get("again", 0) for line in ledger) == 4_000


async def test_without_it_there_is_no_file_and_nothing_is_noted(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "in.ndjson").write_bytes(ndjson([message(1)]))
    settings = settings_for(endpoint, tmp_path, ledger=None)
    pipeline = Pipeline(open_source([tmp_path / "in.ndjson"]), settings)
    assert pipeline._books is None
    assert (await pipeline.run()).ledger is None
    assert files_in(tmp_path) == ["in.ndjson"]


async def test_a_rehearsal_writes_no_ledger(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "in.ndjson").write_bytes(ndjson([message(1)]))
    report = await pushed(tmp_path / "in.ndjson", settings_for(endpoint, tmp_path, dry_run=True))
    assert report.ledger is None
    assert files_in(tmp_path) == ["in.ndjson"]


# The arithmetic of lines.


@given(st.sets(st.integers(1, 200), min_size=1))
def test_ranges_name_each_number_once(numbers: set[int]) -> None:
    assert numbers_of(ranges_of(sorted(numbers))) == sorted(numbers)


def line_of(ranges: str, run_id: str = "a", again: int = 0) -> bytes:
    count = len(numbers_of(ranges))
    line = LedgerLine(
        run_id, 1, 1, 204, "s", "DEAL", count, ids_digest(["x"]), {"in": ranges}, 1.0, "", again
    )
    return msgspec.json.encode(line) + b"\n"


@given(st.sets(st.integers(1, 60), min_size=1), st.integers(0, 60))
def test_a_line_is_taken_back_as_far_as_its_messages_are_sent_again(
    numbers: set[int], settled: int
) -> None:
    line = line_of(ranges_of(sorted(numbers)))
    beyond = sum(number > settled for number in numbers)
    left = taken_back(line, "a", {"in": settled})
    if beyond == len(numbers):
        assert left == b""
    elif not beyond:
        assert left == line
    else:
        assert json.loads(left) == {**json.loads(line), "again": beyond}
        # What was said once stays said, when a later run is cut off as well.
        assert taken_back(left, "a", {"in": settled + 1}) == left


def test_only_the_lines_of_the_run_are_taken_back() -> None:
    assert taken_back(line_of("5-9", "b"), "a", {}) == line_of("5-9", "b")
    assert taken_back(b"{torn\n", "a", {}) == b"{torn\n"
