"""A patient door asks again where that may help, and not otherwise."""

from __future__ import annotations

import random
import time

import pytest

from pusher.model import Answer, Failure
from pusher.patience import PatientTransport
from pusher.retrying import RetryPolicy

GONE = Failure("connect", "nobody there", ambiguous=False)


class Script:
    """Gives these answers, one after the other; the last one again and again."""

    def __init__(self, *answers: Answer | Failure) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def request(
        self, method: str, path: str, *, query: str = "", body: bytes | None = None
    ) -> Answer | Failure:
        assert (method, path, query, body) == ("POST", "/x", "q=1", b"{}")
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def ask(script: Script, **policy: float) -> Answer | Failure:
    rules = RetryPolicy(**{"max_attempts": 4, "base_s": 0.001, **policy})  # type: ignore[arg-type]
    door = PatientTransport(script, rules, random.Random(1))
    return await door.request("POST", "/x", query="q=1", body=b"{}")


@pytest.mark.parametrize("first", [Answer(429), Answer(500), Answer(503), GONE])
async def test_what_may_pass_is_asked_again(first: Answer | Failure) -> None:
    script = Script(first, first, Answer(204))
    assert await ask(script) == Answer(204)
    assert script.asked == 3


@pytest.mark.parametrize("status", [200, 204, 302, 400, 401, 403, 404, 409, 501])
async def test_a_verdict_is_not_asked_for_again(status: int) -> None:
    script = Script(Answer(status), Answer(204))
    assert await ask(script) == Answer(status)
    assert script.asked == 1


@pytest.mark.parametrize("last", [Answer(503), GONE])
async def test_patience_ends_with_the_last_answer(last: Answer | Failure) -> None:
    script = Script(last)
    assert await ask(script) == last
    assert script.asked == 4


async def test_the_wait_that_is_asked_for_is_kept() -> None:
    started_s = time.monotonic()
    await ask(Script(Answer(429, retry_after="1"), Answer(204)))
    assert time.monotonic() - started_s >= 1


async def test_a_wait_that_is_too_long_is_not_waited_for() -> None:
    script = Script(Answer(429, retry_after="60"), Answer(204))
    assert await ask(script, longest_wait_s=30.0) == Answer(429, retry_after="60")
    assert script.asked == 1
