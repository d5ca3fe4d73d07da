"""A bridge for clients that block: in a process of its own, with what was queued readable."""

from __future__ import annotations

import contextlib
import json
import select
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_S = 20.0
DEADLINE_S = 20.0
TOKEN, API_KEY, DEVELOPER_KEY, APP_ID = "t0ken", "acc0unt-key", "devel0per-key", 42

MAPPINGS: dict[str, Any] = {
    "CONTACT": {
        "properties": [
            {
                "externalPropertyName": "mail",
                "hubspotPropertyName": "email",
                "dataType": "STRING",
            },
            {
                "externalPropertyName": "first",
                "hubspotPropertyName": "firstname",
                "dataType": "STRING",
            },
        ]
    },
    "PRODUCT": {
        "properties": [
            {"externalPropertyName": "name", "hubspotPropertyName": "name", "dataType": "STRING"}
        ]
    },
}


@dataclass(frozen=True)
class Served:
    """A bridge that demands credentials, and the file of its state."""

    url: str
    db: Path

    def batches(self) -> list[int]:
        """How many messages each request brought that still waits in the queue."""
        with contextlib.closing(sqlite3.connect(f"{self.db}-queue")) as connection:
            rows = connection.execute("SELECT messages FROM batches ORDER BY id").fetchall()
        return [count for (count,) in rows]

    def processed(self, count: int) -> None:
        """Wait until so many messages have been processed."""
        ends_s = time.monotonic() + DEADLINE_S
        while sum(of["processed"] for of in self.stats().values()) < count:
            assert time.monotonic() < ends_s, self.stats()
            time.sleep(0.01)

    def stats(self) -> dict[str, dict[str, int]]:
        """Counts per type."""
        types: dict[str, dict[str, int]] = self._get("/_bridge/stats")["types"]
        return types

    def thing(self, object_type: str, external_id: str) -> Any:
        """The object behind an external id."""
        path = f"/_bridge/objects/{object_type}?externalObjectId={external_id}"
        (found,) = self._get(path)["results"]
        return found

    def _get(self, path: str) -> Any:
        request = urllib.request.Request(  # noqa: S310  # Our own address.
            self.url + path, headers={"Authorization": f"Bearer {TOKEN}"}
        )
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:  # noqa: S310
            return json.load(answer)


@contextlib.contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Served]:
    """Start a bridge, and kill it at the end."""
    db = folder / "bridge.db"
    secrets = ("--token", TOKEN, "--api-key", API_KEY, "--developer-key", DEVELOPER_KEY)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "pusher", "bridge", "--port", "0", "--db", str(db)),
            *(*secrets, "--app-id", str(APP_ID), *arguments),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], START_S)
        line = process.stdout.readline() if ready else ""
        assert line.startswith("listening on "), line
        yield Served(line.removeprefix("listening on ").strip(), db)
    finally:
        process.kill()
        process.communicate()
