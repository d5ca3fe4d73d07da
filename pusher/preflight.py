"""Prove the address and the credentials before the first message is sent ("Get stores")."""

from __future__ import annotations

import random

import anyio
import orjson

from pusher.model import Answer, Failure, Transport
from pusher.protocol import STORES_PATH, error_text

__all__ = ["preflight"]

TRIES = 4
FIRST_WAIT_S = 0.3


async def preflight(transport: Transport, *, rng: random.Random) -> str | None:
    """Ask for the stores; return why a run would be in vain, or None.

    Only what no later request can mend counts. An endpoint that is busy, or that does not show its
    stores, is for the run itself to find out.
    """
    answer: Answer | Failure | None = None
    for attempt in range(TRIES):
        if attempt:
            await anyio.sleep(FIRST_WAIT_S * 2**attempt * rng.uniform(0.8, 1.2))
        answer = await transport.request("GET", STORES_PATH)
        if isinstance(answer, Answer) or answer.kind == "tls":
            break
    if answer is None:
        raise AssertionError("it tries at least once")
    if isinstance(answer, Failure):
        return f"the endpoint cannot be reached: {answer.kind}: {answer.detail}"
    text = error_text(answer)
    if answer.status in {401, 403}:
        return f"the endpoint does not accept the credentials: {text}"
    if 300 <= answer.status < 400:
        return f"the endpoint redirects, which a bridge does not: {text}"
    if answer.status == 200 and not _is_json(answer.body):
        return f"the answer is not the bridge's (a proxy or a login page?): {text}"
    return None


def _is_json(body: bytes) -> bool:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return True
