"""The bridge's own OpenAPI document, and schemathesis, which tries to catch the bridge leaving it.

OPENAPI_REQUESTS is how many requests schemathesis makes at least: 500, or more for a soak.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pusher.bridge import BridgeConfig
from pusher.bridge.app import _ROUTES
from pusher.bridge.config import Credentials
from pusher.bridge.openapi import make_document
from pusher.bridge.openapi_schemas import COUNT, SCHEMAS, answered

from .talk import BASE, SETTINGS, Talk, talking, upsert
from .test_imports import page, shop, started

REQUESTS = int(os.environ.get("OPENAPI_REQUESTS", "500"))
DOCUMENT: dict[str, Any] = make_document(is_enforced=False)
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,response_headers_conformance"
)
needs_schemathesis = pytest.mark.skipif(
    importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed"
)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, of_path in DOCUMENT["paths"].items():
        for method, operation in of_path.items():
            yield method.upper(), path, operation


async def schemathesis(directory: Path, url: str, *arguments: str) -> tuple[int | None, str]:
    """Its exit code and output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        f"{url}/openapi.json",
        f"--checks={CHECKS}",
        "--seed=1",
        "--generation-database=none",
        *arguments,
        cwd=directory,
        stdout=PIPE,
        stderr=STDOUT,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
    )
    try:
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, out.decode()


def test_every_route_is_in_the_document_and_nothing_else() -> None:
    routes = {(method, path.replace(":.+}", "}")) for method, path, _ in _ROUTES}
    routes -= {("GET", "/openapi.json")}
    # Its tail is taken apart by the endpoint, not by the router.
    routes |= {("GET", f"{BASE}/sync/status/{{objectType}}/{{storeId}}/{{externalObjectId}}")}
    assert {(method, path) for method, path, _ in operations()} == routes


def test_every_operation_has_its_own_name_and_says_what_it_refuses() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)
    for _, path, operation in operations():
        assert {"401", "403", "503"} <= operation["responses"].keys(), path
        declared = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
        assert declared == set(re.findall(r"{(\w+)}", path))


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    text = str(DOCUMENT)
    referred = set(re.findall(r"#/components/schemas/(\w+)", text))
    assert referred == set(DOCUMENT["components"]["schemas"])


async def test_the_document_is_served_without_credentials_and_says_that_they_are_needed() -> None:
    config = BridgeConfig(credentials=Credentials("t0ken", "k3y", "d3v"))
    async with talking(config) as locked, talking() as open_bridge:
        assert (await locked.get("/openapi.json"))["security"] == [{"token": []}, {"hapikey": []}]
        assert await open_bridge.get("/openapi.json") == DOCUMENT
        assert DOCUMENT["security"] == []


async def _furnish(talk: Talk, webhook: str) -> None:
    """So that there is something to find: objects, errors, a second store, an import."""
    await talk.ask("PUT", f"{BASE}/settings", SETTINGS | {"webhookUri": webhook})
    await talk.ask("PUT", f"{BASE}/settings?appId=1", SETTINGS | {"webhookUri": webhook})
    await talk.ask("PUT", f"{BASE}/stores", {"id": "0", "label": "Zero"})
    await talk.sync("PRODUCT", *(upsert(str(n), name="p") for n in range(5)))
    await talk.sync("DEAL", *(upsert(str(n), name="no stage") for n in range(5)))
    one = await started(talk)
    await talk.ask("POST", f"{BASE}/imports/page", page(one, "DEAL", 0, upsert("1")))


@needs_schemathesis
@pytest.mark.timeout(60 + REQUESTS / 10)
async def test_schemathesis_finds_no_5xx_and_no_answer_outside_of_the_document(
    tmp_path: Path,
) -> None:
    config = BridgeConfig(settings=SETTINGS, webhook_timeout_s=0.2)
    async with shop() as application, talking(config) as talk:
        await _furnish(talk, f"{application.url}/import")
        per_operation = -(-REQUESTS // len(list(operations())))
        code, out = await schemathesis(tmp_path, talk.url, f"--max-examples={per_operation}")
        assert code == 0, out
        generated = re.search(r"(\d+) generated", out)
        assert generated is not None, out
        assert int(generated[1]) >= REQUESTS


@needs_schemathesis
async def test_schemathesis_would_notice_an_answer_outside_of_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above is worth something: one field less in the document, and it fails."""
    monkeypatch.setitem(SCHEMAS, "Portal", answered({"portalId": COUNT}))
    async with talking() as talk:
        code, out = await schemathesis(
            tmp_path, talk.url, "--include-operation-id=getPortal", "--phases=fuzzing"
        )
        assert code == 1, out
        assert "schema" in out
