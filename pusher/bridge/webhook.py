"""Call an application's import webhook: the only request that a bridge makes. It keeps nothing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import aiohttp
import orjson
from yarl import URL

from pusher.bridge.imports import Import, settings_to_import
from pusher.bridge.model import OBJECT_TYPES, TYPE_CODES, ObjectType
from pusher.bridge.refusals import RefusalError
from pusher.bridge.validation import ImportCounts, decode

MAX_ANSWER_BYTES: Final = 1 << 20


class WebhookError(Exception):
    """The application did not answer the webhook as it should; the message says how."""


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """What is sent, to the byte."""

    url: URL
    body: bytes
    headers: dict[str, str]


def can_be_called(uri: str) -> bool:
    """Whether a `webhookUri` is an absolute http or https address."""
    try:
        url = URL(uri, encoded=True)
        return url.scheme in {"http", "https"} and bool(url.host) and url.port is not None
    except ValueError:
        return False


def _as_sent(uri: str) -> URL:
    """What the application will see of its address, and so what is signed."""
    url = URL(uri, encoded=True)
    return (url if url.raw_path != "" else url.with_path("/")).with_fragment(None)


def signature(secret: str, method: str, uri: str, body: bytes) -> str:
    """HubSpot's request signature, version 2."""
    return hashlib.sha256(f"{secret}{method}{uri}".encode() + body).hexdigest()


def make_request(portal_id: int, of: Import, secret: str | None) -> WebhookRequest:
    """The request that asks for the counts of an import."""
    url = _as_sent(of.webhook_uri)
    body = orjson.dumps(
        {
            "portalId": portal_id,
            "storeId": of.store_id,
            "importStartedAt": of.started_at_ms,
            "settingsToImport": settings_to_import(),
        }
    )
    headers = {"Content-Type": "application/json"}
    if secret is not None:
        headers["X-HubSpot-Signature"] = signature(secret, "POST", str(url), body)
        headers["X-HubSpot-Signature-Version"] = "v2"
    return WebhookRequest(url, body, headers)


async def call(request: WebhookRequest, timeout_s: float) -> dict[ObjectType, int]:
    """The counts that the application answers with; types that it does not name are left out."""
    # Nothing but this one address: no redirects, no proxy from the environment, no cookies.
    async with aiohttp.ClientSession(
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=timeout_s),
    ) as session:
        try:
            async with session.post(
                request.url, data=request.body, headers=request.headers, allow_redirects=False
            ) as answer:
                text = await answer.content.read(MAX_ANSWER_BYTES + 1)
                while len(text) <= MAX_ANSWER_BYTES and not answer.content.at_eof():
                    text += await answer.content.read(MAX_ANSWER_BYTES + 1 - len(text))
                return _counts(answer.status, text)
        except TimeoutError as error:
            raise WebhookError(f"no answer within {timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise WebhookError(f"not reachable: {str(error) or type(error).__name__}") from error


def _counts(status: int, text: bytes) -> dict[ObjectType, int]:
    if not 200 <= status < 300:
        raise WebhookError(f"answered {status}")
    if len(text) > MAX_ANSWER_BYTES:
        raise WebhookError(f"answered more than {MAX_ANSWER_BYTES} bytes")
    try:
        answered = decode(text, ImportCounts)
    except RefusalError as error:
        raise WebhookError(f"answered no importCounts: {error.message}") from error
    names = {TYPE_CODES[name]: name for name in OBJECT_TYPES}
    return {
        names[count.settings_id]: count.count
        for count in answered.import_counts
        if count.settings_id in names
    }
