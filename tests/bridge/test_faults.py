"""Faults on purpose: the plan by itself, and each fault through a real socket."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from click.testing import CliRunner
from fakes.command import NORTHWIND, NORTHWIND_COUNT, northwind_bridge, run

from pusher.bridge import BridgeConfig
from pusher.bridge.faults import FaultKind, FaultPlan, FaultPlanError, RetryAfter, parse_faults
from pusher.cli.bridge import command

from .talk import BASE, SETTINGS, Talk, talking, upsert

MESSAGES = f"{BASE}/sync/messages"


@dataclass(frozen=True)
class Heard:
    """What came over the wire until the connection ended; `was_reset` when it ended by a RST."""

    received: bytes
    was_reset: bool

    @property
    def body(self) -> bytes:
        return self.received.partition(b"\r\n\r\n")[2]

    def header(self, name: str) -> str | None:
        for line in self.received.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]:
            found, _, value = line.partition(": ")
            if found.lower() == name.lower():
                return value
        return None


async def hear(talk: Talk, method: str, path: str, body: bytes = b"") -> Heard:
    """One request by hand: a client's library would hide how the answer ends."""
    address = urlsplit(talk.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        head = f"{method} {path} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        received = b""
        async with asyncio.timeout(20):
            try:
                while piece := await reader.read(65536):
                    received += piece
            except ConnectionResetError:
                return Heard(received, was_reset=True)
        return Heard(received, was_reset=False)
    finally:
        writer.close()


def always(plan: str) -> BridgeConfig:
    return BridgeConfig(settings=SETTINGS, faults=parse_faults(plan))


def put_body(external_id: str = "1") -> bytes:
    message = upsert(external_id, name="p")
    return json.dumps(
        {"storeId": "default", "objectType": "PRODUCT", "messages": [message]}
    ).encode()


async def accepted(talk: Talk) -> int:
    stats = await talk.stats()
    count: int = stats["PRODUCT"]["accepted"]
    return count


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_an_error_answer_has_hubspots_body_and_no_work_is_done(status: int) -> None:
    async with talking(always(f"{status}=100%")) as talk:
        heard = await hear(talk, "PUT", MESSAGES, put_body())
        assert heard.received.startswith(f"HTTP/1.1 {status} ".encode())
        body = json.loads(heard.body)
        assert body["status"] == "error"
        assert "on purpose" in body["message"]
        assert body["correlationId"]
        assert await accepted(talk) == 0


async def test_a_429_names_its_policy_as_hubspot_does() -> None:
    async with talking(always("429=100%")) as talk:
        body = (await talk.ask("GET", f"{BASE}/stores")).body
        assert body["category"] == "RATE_LIMITS"
        assert body["errorType"] == "RATE_LIMIT"
        assert body["policyName"] == "TEN_SECONDLY_ROLLING"


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_can_be_seconds(status: int) -> None:
    async with talking(always(f"{status}=100%,retry-after=seconds:3s")) as talk:
        answer = await talk.ask("GET", f"{BASE}/stores")
        assert answer.headers["Retry-After"] == "3"


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_can_be_a_date(status: int) -> None:
    async with talking(always(f"{status}=100%,retry-after=date:3s")) as talk:
        before_s = time.time()
        answer = await talk.ask("GET", f"{BASE}/stores")
        at_s = parsedate_to_datetime(answer.headers["Retry-After"]).timestamp()
        assert before_s + 3 <= at_s <= time.time() + 4


async def test_retry_after_can_be_left_out_and_is_never_in_a_500() -> None:
    for plan in ("429=100%,retry-after=none", "500=100%,retry-after=seconds"):
        async with talking(always(plan)) as talk:
            answer = await talk.ask("GET", f"{BASE}/stores")
            assert "Retry-After" not in answer.headers


async def test_a_reset_before_the_work_is_a_reset_and_nothing_was_done() -> None:
    async with talking(always("reset-before=100%")) as talk:
        assert await hear(talk, "PUT", MESSAGES, put_body()) == Heard(b"", was_reset=True)
        assert await accepted(talk) == 0


async def test_a_reset_after_the_work_is_a_reset_and_the_batch_was_taken() -> None:
    async with talking(always("reset-after=100%")) as talk:
        assert await hear(talk, "PUT", MESSAGES, put_body()) == Heard(b"", was_reset=True)
        await talk.settled()
        assert await accepted(talk) == 1
        assert (await talk.thing("PRODUCT", "1"))["properties"]["name"] == "p"


async def test_a_slow_answer_is_the_right_one_late() -> None:
    async with talking(always("slow=100%:300ms")) as talk:
        started_s = time.monotonic()
        assert (await talk.ask("PUT", MESSAGES, data=put_body())).status == 204
        assert time.monotonic() - started_s >= 0.3
        assert await accepted(talk) == 1


async def test_a_truncated_answer_breaks_off_in_its_body() -> None:
    async with talking(always("truncated=100%")) as talk:
        heard = await hear(talk, "GET", f"{BASE}/stores")
        assert heard.received.startswith(b"HTTP/1.1 200 ")
        announced = int(heard.header("Content-Length") or 0)
        assert 0 < len(heard.body) < announced
        assert heard.body.startswith(b'{"results"')
        assert not heard.was_reset


async def test_a_truncated_204_breaks_off_in_its_head_and_the_batch_was_taken() -> None:
    async with talking(always("truncated=100%")) as talk:
        heard = await hear(talk, "PUT", MESSAGES, put_body())
        assert heard.received
        assert b"HTTP/1.1 204 No Content\r\n".startswith(heard.received)
        assert b"\r\n" not in heard.received
        assert await accepted(talk) == 1


async def test_html_is_a_proxys_page_and_no_work_is_done() -> None:
    async with talking(always("html=100%")) as talk:
        heard = await hear(talk, "PUT", MESSAGES, put_body())
        assert heard.received.startswith(b"HTTP/1.1 502 ")
        assert (heard.header("Content-Type") or "").startswith("text/html")
        assert b"<html>" in heard.body
        assert await accepted(talk) == 0


async def test_the_bridges_own_paths_are_never_touched() -> None:
    async with talking(always("reset-before=100%")) as talk:
        for path in ("/_bridge/stats", "/_bridge/objects/DEAL", "/_bridge/portal"):
            for _ in range(5):
                assert (await talk.ask("GET", path)).status == 200


async def test_a_refusal_stays_one_when_no_fault_is_drawn() -> None:
    async with talking(always("429=0%")) as talk:
        assert (await talk.ask("PUT", MESSAGES, data=b"{")).status == 400


async def status_of_stores(talk: Talk) -> int:
    async with talk.session.get(f"{talk.url}{BASE}/stores") as answer:
        return answer.status


async def test_two_bridges_with_one_seed_fail_in_the_same_places() -> None:
    plan = "seed=3,429=20%,503=20%,html=20%"
    seen = []
    for _ in range(2):
        async with talking(always(plan)) as talk:
            seen.append([await status_of_stores(talk) for _ in range(40)])
    assert seen[0] == seen[1]
    assert {200, 429, 502, 503} == set(seen[0])
    assert seen[0] == [
        kind.status if (kind := parse_faults(plan).fault(number)) else 200 for number in range(40)
    ]


def test_a_plan_keeps_its_rates() -> None:
    plan = parse_faults("seed=7,429=2%,reset-after=0.5%,slow=10%:2s")
    counts = Counter(plan.fault(number) for number in range(20_000))
    assert counts[FaultKind.TOO_MANY] == pytest.approx(400, rel=0.2)
    assert counts[FaultKind.RESET_AFTER] == pytest.approx(100, rel=0.3)
    assert counts[FaultKind.SLOW] == pytest.approx(2000, rel=0.1)
    assert set(counts) == {None, FaultKind.TOO_MANY, FaultKind.RESET_AFTER, FaultKind.SLOW}


def test_another_seed_is_another_course_and_the_same_seed_the_same() -> None:
    plan = parse_faults("seed=1,500=50%")
    course = [plan.fault(number) for number in range(100)]
    assert course == [plan.fault(number) for number in range(100)]
    other = replace(plan, seed=2)
    assert course != [other.fault(number) for number in range(100)]


def test_a_plan_is_read_in_any_order() -> None:
    assert parse_faults("503=1%,429=2%,seed=4") == parse_faults(" seed=4 , 429=2% , 503=1%")
    assert parse_faults("slow=1%:250ms,retry-after=date:2s") == FaultPlan(
        rates=((FaultKind.SLOW, 1.0),), slow_s=0.25, retry_after=RetryAfter.DATE, retry_after_s=2.0
    )


def test_both_forms_of_retry_after_come_by_turns_of_chance() -> None:
    plan = parse_faults("429=100%,retry-after=both")
    values = [plan.retry_after_header(number, 1_000.0) for number in range(50)]
    assert set(values) == {"1", "Thu, 01 Jan 1970 00:16:41 GMT"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not NAME=VALUE"),
        ("429", "not NAME=VALUE"),
        ("429=2", "not a share"),
        ("429=-2%", "not a share"),
        ("429=101%", "not a share"),
        ("429=60%,500=41%", "more than 100%"),
        ("429=1%,429=1%", "comes twice"),
        ("418=1%", "not one of 429"),
        ("429=1%:2s", "takes no duration"),
        ("429=1%:", "takes no duration"),
        ("slow=1%:soon", "not a duration"),
        ("slow=1%:", "'' is not a duration"),
        ("slow=1%:86401s", "'86401s' is longer than a day"),
        ("retry-after=date:", "'' is not a duration"),
        ("retry-after=date:9999999999999999s", "longer than a day"),
        (f"retry-after=date:{'9' * 400}ms", "longer than a day"),
        ("seed=x", "not a number"),
        (f"seed={'9' * 5000}", "at most 18 digits"),
        ("retry-after=tomorrow", "not one of seconds"),
    ],
)
def test_a_text_that_is_no_plan_says_why(text: str, why: str) -> None:
    with pytest.raises(FaultPlanError, match=why):
        parse_faults(text)


def test_the_command_refuses_a_bad_plan_with_exit_2() -> None:
    result = CliRunner().invoke(command, ["--port", "0", "--faults", "429=often"])
    assert result.exit_code == 2
    assert "--faults: 429: 'often' is not a share" in result.output


def test_a_time_of_a_whole_day_is_a_plan_and_makes_a_date() -> None:
    plan = parse_faults("503=100%,slow=0%:86400s,retry-after=date:86400000ms")
    assert plan.slow_s == 86_400
    assert plan.retry_after_header(0, 0.0) == "Fri, 02 Jan 1970 00:00:00 GMT"


def test_the_command_refuses_a_time_without_end_before_it_listens() -> None:
    plan = "503=100%,retry-after=date:9999999999999999s"
    result = CliRunner().invoke(command, ["--port", "0", "--faults", plan])
    assert result.exit_code == 2
    assert "--faults: '9999999999999999s' is longer than a day" in result.output


def test_the_help_shows_the_syntax() -> None:
    text = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    for kind in FaultKind:
        assert kind.value in text
    assert "retry-after=seconds|date|both|none[:TIME]" in text


PLAN = (
    "seed=7,429=2%,500=2%,502=2%,503=2%,504=2%,html=2%,reset-before=4%,reset-after=4%,"
    "slow=4%:200ms,truncated=4%,retry-after=both:100ms"
)
NORTHWIND_OBJECTS = 3230


async def test_a_push_through_every_fault_delivers_everything_once(tmp_path: Path) -> None:
    """Also the faults under uvloop, on which the command runs."""
    pushing = ("push", NORTHWIND, "--phases", "--batch-size", "50", "--confirm", "0")
    async with northwind_bridge("--faults", PLAN, cwd=tmp_path) as url:
        push = await run(*pushing, "--url", url, "--report", "-", cwd=tmp_path)
        assert push.code == 0, push.err
        assert push.counts() == (NORTHWIND_COUNT, NORTHWIND_COUNT, 0, 0)
        async with aiohttp.ClientSession() as session:
            talk = Talk(session, url)
            await talk.settled()
            stats = await talk.stats()
    assert sum(of["accepted"] for of in stats.values()) > NORTHWIND_COUNT  # Some came twice.
    assert sum(of["objects"] for of in stats.values()) == NORTHWIND_OBJECTS
    assert sum(of["openErrors"] for of in stats.values()) == 0


async def test_the_command_resets_connections_on_its_own_event_loop_too(tmp_path: Path) -> None:
    async with (
        northwind_bridge("--faults", "reset-after=100%", cwd=tmp_path) as url,
        aiohttp.ClientSession() as session,
    ):
        talk = Talk(session, url)
        assert await hear(talk, "PUT", MESSAGES, put_body()) == Heard(b"", was_reset=True)
        assert await accepted(talk) == 1
