"""npm hubspot 2.3.14, the client of a real site on the bridge: its generic request, in Node."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .serving import API_KEY, MAPPINGS, TOKEN, Served, serving

RELEASE = "2.3.14"
BASE = "/extensions/ecomm/v2"
#: Kept between runs, so that only the first one needs the registry.
CACHE = Path(__file__).parent.parent.parent / ".cache" / f"npm-hubspot-{RELEASE}"
SCRIPT = Path(__file__).parent / "client.js"
INSTALL_S = 120.0
DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def modules() -> Path:
    """Where the package is installed."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node or npm is not on the path")
    if not CACHE.exists():
        install()
    package = CACHE / "node_modules" / "hubspot" / "package.json"
    assert json.loads(package.read_bytes())["version"] == RELEASE
    return CACHE / "node_modules"


def install() -> None:
    """Fill the cache; it appears whole or not at all."""
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE.parent) as folder:
        name = f"{folder}/whole"
        flags = ("--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts")
        command = ("npm", "install", "--prefix", name, *flags, f"hubspot@{RELEASE}")
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=INSTALL_S, check=False
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm could not install hubspot within {INSTALL_S:g} s")
        if done.returncode:
            pytest.skip(f"npm cannot install hubspot: {done.stderr.strip()[-300:]}")
        with contextlib.suppress(OSError):  # Another run was faster.
            Path(name).rename(CACHE)


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as served:
        yield served


def ask(
    modules: Path, bridge: Served, credentials: dict[str, str], *requests: dict[str, Any]
) -> list[dict[str, Any]]:
    """Let one client make these requests one after the other."""
    done = subprocess.run(
        [shutil.which("node") or "node", SCRIPT, bridge.url, json.dumps(credentials)],
        input="".join(f"{json.dumps(request)}\n" for request in requests),
        env={"NODE_PATH": str(modules), "NODE_NO_WARNINGS": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(requests), done.stderr
    return answers


def request(method: str, path: str, body: Any = None, **query: Any) -> dict[str, Any]:
    whole = {"method": method, "path": BASE + path, "body": body, "qs": query or None}
    return {name: value for name, value in whole.items() if value is not None}


@pytest.mark.timeout(INSTALL_S + 3 * DEADLINE_S)
@pytest.mark.parametrize("credentials", [{"accessToken": TOKEN}, {"apiKey": API_KEY}])
def test_a_whole_round_of_settings_store_messages_status_and_errors(
    modules: Path, bridge: Served, credentials: dict[str, str]
) -> None:
    settings = {"enabled": True, "webhookUri": None, "mappings": MAPPINGS}
    store = {"id": "shop-1", "label": "Shop", "adminUri": None}
    messages = [
        {"externalObjectId": "c1", "action": "UPSERT", "properties": {"mail": "c1@example.com"}},
        {"externalObjectId": "c2", "action": "UPSERT", "properties": {"mail": "nobody at home"}},
    ]
    body = {"storeId": "shop-1", "objectType": "CONTACT", "messages": messages}
    put, read, made, sent = ask(
        modules,
        bridge,
        credentials,
        request("PUT", "/settings", settings),
        request("GET", "/settings"),
        request("PUT", "/stores", store),
        request("PUT", "/sync/messages", body),
    )
    assert put == read == {"body": settings}
    assert made == {"body": store}
    assert sent == {"body": None}
    bridge.processed(2)
    status, found = ask(
        modules,
        bridge,
        credentials,
        request("GET", "/sync/status/shop-1/CONTACT/c1"),
        request("GET", "/sync/errors", limit=10),
    )
    assert status["body"]["hubspotId"] == bridge.thing("CONTACT", "c1")["hubspotId"]
    (error,) = found["body"]["results"]
    assert (error["externalObjectId"], error["type"]) == ("c2", "INVALID_EMAIL_ADDRESS")


@pytest.mark.timeout(INSTALL_S + 3 * DEADLINE_S)
def test_a_refusal_reaches_the_caller_as_it_was_sent(modules: Path, bridge: Served) -> None:
    (refused,) = ask(
        modules, bridge, {"accessToken": TOKEN}, request("PUT", "/sync/messages", {"storeId": "x"})
    )
    assert refused["status"] == 400
    assert refused["error"]["category"] == "VALIDATION_ERROR"
    (refused,) = ask(modules, bridge, {"apiKey": "wrong"}, request("GET", "/stores"))
    assert refused["status"] == 401
    assert refused["error"]["category"] == "INVALID_AUTHENTICATION"
