"""The call before the first message: it proves the address and the credentials."""

from __future__ import annotations

import random
import re

import pytest

from pusher.model import Answer, Failure
from pusher.preflight import TRIES, preflight

REFUSED = Failure("connect", "Connection refused", ambiguous=False)


class Door:
    """A transport that gives these answers, the last one for ever."""

    def __init__(self, *answers: Answer | Failure) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def request(
        self, method: str, path: str, *, query: str = "", body: bytes | None = None
    ) -> Answer | Failure:
        del query, body
        self.asked.append(f"{method} {path}")
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pusher.preflight.FIRST_WAIT_S", 0.001)


async def verdict(*answers: Answer | Failure) -> str | None:
    return await preflight(Door(*answers), rng=random.Random(1))


async def test_it_asks_for_the_stores() -> None:
    door = Door(Answer(200, b'{"results":[]}'))
    assert await preflight(door, rng=random.Random(1)) is None
    assert door.asked == ["GET /extensions/ecomm/v2/stores"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(401, b'{"message":"expired"}'), "does not accept the credentials: .*expired"),
        (Answer(403), "does not accept the credentials: HTTP 403"),
        (Answer(302), "redirects"),
        (Answer(200, b"<!doctype html><title>Log in</title>"), "a proxy or a login page"),
        (Failure("tls", "certificate verify failed", ambiguous=False), "tls: certificate verify"),
        (REFUSED, "cannot be reached: connect: Connection refused"),
    ],
)
async def test_what_no_later_request_can_mend_ends_the_run(
    answer: Answer | Failure, reason: str
) -> None:
    found = await verdict(answer)
    assert found is not None
    assert re.search(reason, found)


@pytest.mark.parametrize("status", [204, 400, 404, 405, 429, 500, 503])
async def test_an_endpoint_that_does_not_show_its_stores_is_left_to_the_run(status: int) -> None:
    assert await verdict(Answer(status)) is None


async def test_an_endpoint_that_is_only_just_starting_is_waited_for() -> None:
    assert await verdict(REFUSED, REFUSED, Answer(200, b"[]")) is None


async def test_nobody_is_asked_for_ever() -> None:
    door = Door(REFUSED)
    assert await preflight(door, rng=random.Random(1))
    assert len(door.asked) == TRIES
    door = Door(Failure("tls", "no", ambiguous=False))
    assert await preflight(door, rng=random.Random(1))
    assert len(door.asked) == 1
