"""What keeps a run from doing harm: choices, limits, rehearsals, replays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fakes.command import run
from fakes.endpoint import Endpoint, Request, accept, refuse

from pusher import Pipeline, Report, SampleSize, Settings, open_source, push
from pusher.errors import UsageError
from pusher.tally import RejectedMax


def line(number: int, store: str = "s1", kind: str = "PRODUCT", **more: Any) -> dict[str, Any]:
    return {
        "storeId": store,
        "objectType": kind,
        "externalObjectId": f"id{number}",
        "changedAt": 1_600_000_000_000 + number,
        "properties": {"n": str(number)},
        **more,
    }


def written(path: Path, entries: list[dict[str, Any] | str]) -> Path:
    texts = (entry if isinstance(entry, str) else json.dumps(entry) for entry in entries)
    path.write_text("".join(text + "\n" for text in texts))
    return path


async def pushed(
    endpoint: Endpoint, tmp_path: Path, entries: list[dict[str, Any] | str], **more: Any
) -> Report:
    values: dict[str, Any] = {
        "confirm": SampleSize(count=0),
        "dead_letters": tmp_path / "dead.ndjson",
        "seed": 1,
        **more,
    }
    return await push(written(tmp_path / "in", entries), Settings(url=endpoint.url, **values))


MIXED = [
    line(number, f"s{number % 4}", ("CONTACT", "DEAL")[number // 4 % 2]) for number in range(800)
]


async def test_only_the_chosen_stores_and_types_are_sent_and_the_others_are_counted(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    report = await pushed(
        endpoint,
        tmp_path,
        [*MIXED],
        only_stores=frozenset({"s1", "s3"}),
        only_types=frozenset({"DEAL"}),
    )
    assert {request.lane for request in endpoint.requests} == {("s1", "DEAL"), ("s3", "DEAL")}
    assert (report.messages.read, report.messages.delivered) == (800, 200)
    assert report.skipped == {"other_store": 400, "other_type": 200}
    assert report.outcome == "delivered"


async def test_a_limit_sends_the_first_messages_only(endpoint: Endpoint, tmp_path: Path) -> None:
    report = await pushed(endpoint, tmp_path, [line(n) for n in range(50_000)], limit=777)
    ids = [one["externalObjectId"] for request in endpoint.requests for one in request.messages]
    assert sorted(ids) == sorted(f"id{n}" for n in range(777))
    assert (report.messages.read, report.messages.delivered, report.exit_code) == (777, 777, 0)


async def test_a_limit_counts_what_is_chosen(endpoint: Endpoint, tmp_path: Path) -> None:
    report = await pushed(endpoint, tmp_path, [*MIXED], limit=10, only_stores=frozenset({"s2"}))
    assert report.messages.delivered == 10
    assert {request.lane[0] for request in endpoint.requests} == {"s2"}


async def test_a_limit_in_phases_holds_for_each_phase(endpoint: Endpoint, tmp_path: Path) -> None:
    report = await pushed(endpoint, tmp_path, [*MIXED], limit=10, phases=True)
    assert [phase.delivered for phase in report.phases] == [10, 10, 0]


async def test_a_rehearsal_sends_and_writes_nothing_and_finds_what_is_no_message(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    entries: list[dict[str, Any] | str] = [*MIXED, "oops"]
    report = await pushed(endpoint, tmp_path, entries, dry_run=True, checkpoint=tmp_path / "ck")
    assert endpoint.requests == []
    assert report.skipped == {"dry_run": 800}
    assert report.rejected == {"not_json": 1}
    assert (report.messages.delivered, report.exit_code) == (0, 1)
    assert sum(lane.batches for lane in report.lanes) == 8
    assert not (tmp_path / "dead.ndjson").exists()
    assert report.dead_letters is None
    assert not (tmp_path / "ck").read_bytes()


async def test_another_number_of_messages_than_expected_fails_the_run(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    entries: list[dict[str, Any] | str] = [line(1), line(2), "oops"]
    right = await pushed(endpoint, tmp_path, entries, expect=3)
    assert right.exit_code == 1
    wrong = await pushed(endpoint, tmp_path, entries, expect=4)
    assert (wrong.outcome, wrong.exit_code) == ("stopped", 3)
    assert wrong.reason == "the input ended with 3 messages, not 4"
    assert wrong.messages.delivered == 2


async def test_more_rejections_than_allowed_stop_the_run(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    entries = [line(n) if n % 100 else "oops" for n in range(50_000)]
    report = await pushed(endpoint, tmp_path, entries, max_rejected=RejectedMax(20))
    assert (report.outcome, report.exit_code) == ("stopped", 3)
    assert 20 < report.messages.rejected < 400
    assert report.reason is not None
    assert "more than 20 messages" in report.reason


@pytest.mark.parametrize(("rate", "code"), [(0.2, 1), (0.05, 3)])
async def test_a_share_of_rejections_is_judged_at_the_end_of_a_short_input(
    rate: float, code: int, endpoint: Endpoint, tmp_path: Path
) -> None:
    entries: list[dict[str, Any] | str] = ["oops", *(line(n) for n in range(9))]
    report = await pushed(endpoint, tmp_path, entries, max_rejected=RejectedMax(rate=rate))
    assert report.exit_code == code
    assert report.messages.delivered == 9, "the few first lines do not stop it at once"


async def test_rejections_within_what_is_allowed_do_no_harm(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    report = await pushed(endpoint, tmp_path, ["oops", line(1)], max_rejected=RejectedMax(1))
    assert report.outcome == "rejected"


async def test_an_endpoint_that_names_the_guilty_is_asked_twice(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def name_the_bad(request: Request) -> web.StreamResponse:
        places = [n for n, one in enumerate(request.ids) if one in {"id7", "id90"}]
        if not places:
            return await accept(request)
        errors = [{"message": "no", "in": f"messages[{place}].properties"} for place in places]
        return web.json_response({"message": "invalid", "errors": errors}, status=400)

    endpoint.answer = name_the_bad
    report = await pushed(endpoint, tmp_path, [line(n) for n in range(200)])
    assert report.messages.delivered == 198
    assert len(endpoint.requests) == 2
    letters = [json.loads(text) for text in (tmp_path / "dead.ndjson").read_text().splitlines()]
    assert [letter["line"] for letter in letters] == [8, 91]


async def test_fifty_good_stores_do_not_suffer_from_a_bad_one(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def know_no_s7(request: Request) -> web.StreamResponse:
        return refuse(400, "unknown store") if request.lane[0] == "s7" else await accept(request)

    endpoint.answer = know_no_s7
    report = await pushed(endpoint, tmp_path, [line(n, f"s{n % 51}") for n in range(20_400)])
    assert report.messages.delivered == 20_000
    assert (report.messages.pending, report.messages.rejected) == (400, 0)
    assert report.exit_code == 3
    assert len([request for request in endpoint.requests if request.lane[0] == "s7"]) <= 30


async def test_bad_messages_in_lanes_of_one_message_each_cost_themselves_only(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def refuse_some(request: Request) -> web.StreamResponse:
        is_bad = int(request.ids[0][2:]) % 10 == 3
        return refuse(422, "no") if is_bad else await accept(request)

    endpoint.answer = refuse_some
    report = await pushed(endpoint, tmp_path, [line(n, f"s{n}") for n in range(300)])
    assert report.messages.delivered == 270
    assert report.rejected == {"refused": 30}
    assert report.exit_code == 1
    assert len(endpoint.requests) == 300


async def test_a_firewalls_403_on_one_message_costs_one_message(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def block_one(request: Request) -> web.StreamResponse:
        return refuse(403, "blocked") if "id150" in request.ids else await accept(request)

    endpoint.answer = block_one
    report = await pushed(endpoint, tmp_path, [line(n, f"s{n // 100}") for n in range(300)])
    assert report.messages.delivered == 299
    assert report.rejected == {"refused": 1}


async def test_what_is_parked_at_the_end_is_delivered_once_its_store_exists(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    known = {"s1"}

    async def know(request: Request) -> web.StreamResponse:
        return await accept(request) if request.lane[0] in known else refuse(400, "unknown store")

    endpoint.answer = know
    entries: list[dict[str, Any] | str] = [line(n, f"s{n % 2 + 1}") for n in range(400)]
    first = await pushed(endpoint, tmp_path, entries, checkpoint=tmp_path / "ck")
    assert (first.exit_code, first.messages.pending) == (3, 200)
    known.add("s2")
    second = await pushed(endpoint, tmp_path, entries, checkpoint=tmp_path / "ck")
    assert (second.exit_code, second.messages.pending) == (0, 0)


LETTERS = ("--dead-letters", "again.ndjson", "--confirm", "0", "--report", "-")


async def test_dead_letters_are_replayed_with_the_time_that_they_had(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def refuse_all_but_one(request: Request) -> web.StreamResponse:
        return await accept(request) if request.ids == ["id9"] else refuse(400, "not now")

    endpoint.answer = refuse_all_but_one
    without_time = line(1)
    del without_time["changedAt"]
    await pushed(endpoint, tmp_path, [line(9), "oops", without_time])
    (letter,) = [
        entry
        for text in (tmp_path / "dead.ndjson").read_text().splitlines()
        if (entry := json.loads(text))["reason"] == "refused"
    ]
    endpoint.answer = accept
    endpoint.accepted.clear()
    flags = ("dead.ndjson", "--url", endpoint.url, "--reason", "refused", *LETTERS)
    rehearsed = await run("replay", *flags, "--dry-run", cwd=tmp_path)
    assert rehearsed.report["skipped"] == {"dry_run": 1, "other_letter": 1}
    assert endpoint.accepted == []
    result = await run("replay", *flags, cwd=tmp_path)
    assert (result.code, result.counts()) == (0, (2, 1, 0, 0))
    assert result.report["skipped"] == {"other_letter": 1}
    assert [one["changedAt"] for one in endpoint.delivered] == [letter["changed_at"]]


async def test_what_is_no_file_of_dead_letters_is_not_replayed(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    written(tmp_path / "in", [line(1)])
    result = await run("replay", "in", "--url", endpoint.url, cwd=tmp_path)
    assert result.code == 2
    assert "not a file of dead letters" in result.err


async def test_letters_are_not_written_into_the_file_that_is_replayed(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    await pushed(endpoint, tmp_path, ["oops", line(1)])
    source = open_source([tmp_path / "dead.ndjson"])
    with pytest.raises(UsageError, match="a file that is to be read"):
        Pipeline(source, Settings(url=endpoint.url, dead_letters=tmp_path / "dead.ndjson"))


async def test_a_small_budget_holds_little_and_delivers_all(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """Each chunk has one message of a lane that never fills; it is copied out of its chunk."""
    entries: list[dict[str, Any] | str] = [
        line(n, f"rare{n}" if n % 1_000 == 0 else "busy", properties={"n": str(n), "p": "x" * 300})
        for n in range(30_000)
    ]
    source = open_source([written(tmp_path / "in", entries)])
    settings = Settings(
        url=endpoint.url,
        confirm=SampleSize(count=0),
        dead_letters=tmp_path / "dead.ndjson",
        memory_bytes=2 << 20,
        batch_bytes=64 << 10,
        linger_s=30.0,
    )
    report = await Pipeline(source, settings).run()
    assert report.messages.delivered == 30_000
    sent = {one["externalObjectId"]: one for one in endpoint.delivered}
    assert sent == {
        entry["externalObjectId"]: {"action": "UPSERT", "associations": {}, **entry}
        for entry in entries
        if isinstance(entry, dict)
    }


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--checkpoint", "same", "--dead-letters", "same"), "--checkpoint needs"),
        (("--checkpoint", "in"), "--checkpoint needs"),
        (("--dead-letters", "in"), "--dead-letters is a file that is to be read"),
        (("--dead-letters", "./in"), "--dead-letters is a file that is to be read"),
        (("--report", "in"), "--report needs"),
        (("--report", "same", "--dead-letters", "same"), "--report needs"),
        (("--report", "same", "--checkpoint", "same"), "--report needs"),
    ],
)
async def test_nothing_is_written_into_what_is_read_nor_two_things_into_one_file(
    flags: tuple[str, ...], complaint: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    before = written(tmp_path / "in", [line(1)]).read_bytes()
    result = await run("push", "in", "--url", endpoint.url, *flags, cwd=tmp_path)
    assert result.code == 2
    assert complaint in result.err
    assert (tmp_path / "in").read_bytes() == before
    assert endpoint.requests == []
