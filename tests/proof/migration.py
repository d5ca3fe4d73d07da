"""A whole migration that is harmed again and again, and the state that a careful push would give.

The reference knows nothing of pusher: one request at a time, a phase after the other, each when the
one before was processed. What is compared is read out of the bridges' files.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fakes.command import DATA, PUSHER, environment

from proof.driving import peak_rss_mib
from pusher.bridge.model import TYPE_CODES
from pusher.model import ObjectType

__all__ = ["Attempt", "Bridge", "Migration", "difference", "push_slowly"]

TYPES = ("CONTACT", "PRODUCT", "DEAL", "LINE_ITEM")
PHASES = (("CONTACT", "PRODUCT"), ("DEAL",), ("LINE_ITEM",))
START_S = 30.0
BATCH = 200
POLL_S = 0.02


class Bridge:
    """A bridge on a file; it can be killed and started again where it was."""

    def __init__(self, path: Path, stores: int, *options: str) -> None:
        self.path = path
        self._options = options
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._stores = path.with_suffix(".stores.json")
        names = [f"store-{number + 1:04d}" for number in range(stores)]
        self._stores.write_text(json.dumps([{"id": name, "label": name} for name in names]))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *(*PUSHER, "bridge", "--port", str(self._port), "--db", str(self.path)),
                *("--settings", str(DATA / "northwind-settings.json")),
                *("--stores", str(self._stores), *self._options),
            ],
            env=environment(),
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        assert line.startswith("listening on "), line
        self._port = int(line.rsplit(":", 1)[1])

    def kill(self) -> None:
        """As when the power fails; what it has accepted is on the disk."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    @contextmanager
    def running(self) -> Iterator[Bridge]:
        self.start()
        try:
            yield self
        finally:
            self.kill()

    def wait_until_processed(self, within_s: float) -> None:
        """Until nothing is queued."""
        deadline_s = time.monotonic() + within_s
        while self._queued():
            assert time.monotonic() < deadline_s, "the bridge does not process what it has accepted"
            time.sleep(POLL_S)

    def _queued(self) -> bool:
        queue = self.path.with_name(self.path.name + "-queue")
        with closing(_reading(queue)) as batches, closing(_reading(self.path)) as state:
            through = dict(state.execute("SELECT type, batch_id FROM progress"))
            newest = batches.execute("SELECT type, max(id) FROM batches GROUP BY type").fetchall()
        return any(batch_id > through.get(code, 0) for code, batch_id in newest)


def _reading(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)


def push_slowly(lines: Path, bridge: Bridge, within_s: float) -> int:
    """Push a file as carefully as can be; how many messages that were."""
    sent = 0
    connection = http.client.HTTPConnection("127.0.0.1", int(bridge.url.rsplit(":", 1)[1]))
    with closing(connection):
        for types in PHASES:
            lanes: dict[tuple[str, str], list[dict[str, Any]]] = {}
            for message in _messages(lines, types):
                lane = message.pop("storeId"), message.pop("objectType")
                waiting = lanes.setdefault(lane, [])
                waiting.append(message)
                sent += 1
                if len(waiting) == BATCH:
                    _put(connection, lane, lanes.pop(lane))
            for lane, waiting in lanes.items():
                _put(connection, lane, waiting)
            bridge.wait_until_processed(within_s)
    return sent


def _messages(lines: Path, types: Sequence[str]) -> Iterator[dict[str, Any]]:
    marks = [f'"objectType":"{one}"' for one in types]
    with lines.open() as file:
        for line in file:
            if any(mark in line for mark in marks) and line.endswith("}\n"):
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    continue


def _put(
    connection: http.client.HTTPConnection, lane: tuple[str, str], messages: list[dict[str, Any]]
) -> None:
    body = {"storeId": lane[0], "objectType": lane[1], "messages": messages}
    connection.request("PUT", "/extensions/ecomm/v2/sync/messages", json.dumps(body))
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 204, answer.status


def difference(one: Path, other: Path) -> tuple[int, list[str]]:
    """How many objects two bridges hold, and the first of those that they do not agree on."""
    found: list[str] = []
    count = 0
    with closing(_reading(one)) as left, closing(_reading(other)) as right:
        names = [_names_of(left), _names_of(right)]
        rows = zip(_objects(left, names[0]), _objects(right, names[1]), strict=False)
        for mine, theirs in rows:
            count += 1
            if mine != theirs:
                found.append(f"{mine} is not {theirs}")
                if len(found) >= 5:
                    break
        sizes = [
            connection.execute("SELECT count(*) FROM links").fetchone()[0]
            for connection in (left, right)
        ]
    if sizes[0] != sizes[1]:
        found.append(f"{sizes[0]} objects are not {sizes[1]}")
    return count, found


def _names_of(state: sqlite3.Connection) -> sqlite3.Connection:
    """A second look at the same file, for the names of what objects point at."""
    file = state.execute("PRAGMA database_list").fetchone()[2]
    return _reading(Path(file))


def _objects(state: sqlite3.Connection, names: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """Each object in the order of its key: what it is, and what it points at by external ids."""
    rows = state.execute(
        "SELECT type, store, external_id, is_tombstone, changed_at_ms, properties, associations,"
        " email FROM links LEFT JOIN records USING (hubspot_id)"
        " ORDER BY type, store, external_id"
    )
    for (
        code,
        store,
        external_id,
        is_tombstone,
        changed_at_ms,
        properties,
        associations,
        email,
    ) in rows:
        pointed: dict[str, dict[str, bool]] = {}
        for kind, targets in json.loads(associations or "{}").items():
            pointed[kind] = {
                target: _hubspot_id(names, kind, store, target) == hubspot_id
                for target, hubspot_id in targets.items()
            }
        values = json.loads(properties) if properties is not None else None
        yield code, store, external_id, is_tombstone, changed_at_ms, values, pointed, email


def _hubspot_id(
    names: sqlite3.Connection, kind: ObjectType, store: str, external_id: str
) -> int | None:
    row = names.execute(
        "SELECT hubspot_id FROM links WHERE type = ? AND store = ? AND external_id = ?",
        (TYPE_CODES[kind], store, external_id),
    ).fetchone()
    return row[0] if row else None


@dataclass
class Attempt:
    """One process of pusher: how it ended, and what it took."""

    code: int
    stage: str
    elapsed_s: float
    peak_rss_mib: float
    report: dict[str, Any] | None


@dataclass
class Migration:
    """A generated input that is piped into pusher in phases until all is done.

    Attributes:
        folder: for everything.
        count: of lines.
        stores: how many.
        bridge: where it goes.
        way: "pipe" or "file".
        options: of `pusher push` besides.
    """

    folder: Path
    count: int
    stores: int
    bridge: Bridge
    way: str = "pipe"
    options: tuple[str, ...] = ()
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def lines(self) -> Path:
        return self.folder / "in.ndjson"

    def generate(self, *, bad: str, dangling: str) -> None:
        with self.lines.open("wb") as out:
            subprocess.run(
                [
                    *(*PUSHER, "generate", str(self.count), "--stores", str(self.stores)),
                    *("--seed", "11", "--bad", bad, "--dangling", dangling),
                ],
                stdout=out,
                check=True,
                env=environment(),
            )

    def run(self, kill_at: tuple[int, float] | None, *, restarts_bridge_at: float = 2.0) -> Attempt:
        """Push once; killed when a phase has come so far.

        Args:
            kill_at: the phase (4 is the repair), and the share of all messages that is settled.
            restarts_bridge_at: when so large a share is settled, the bridge is killed and started.
        """
        report = self.folder / "report.json"
        report.unlink(missing_ok=True)
        (self.folder / "spool").mkdir(exist_ok=True)
        source = ["-"] if self.way == "pipe" else [str(self.lines)]
        argv = [
            *(*PUSHER, "push", *source, "--phases", "--url", self.bridge.url),
            *("--checkpoint", "ck", "--dead-letters", "dead.ndjson", "--report", "report.json"),
            *("--spool-dir", "spool", "--progress", "never", *self.options),
        ]
        began_s = time.monotonic()
        feeder = (
            subprocess.Popen(["cat", str(self.lines)], stdout=subprocess.PIPE)
            if self.way == "pipe"
            else None
        )
        process = subprocess.Popen(
            argv,
            cwd=self.folder,
            env=environment(),
            stdin=feeder.stdout if feeder else subprocess.DEVNULL,
        )
        if feeder is not None and feeder.stdout is not None:
            feeder.stdout.close()
        stage = "start"
        # What the system says of a child at its end counts what its parent had when it began.
        peak_mib = 0.0
        while True:
            peak_mib = max(peak_mib, peak_rss_mib(process.pid))
            pid, status = os.waitpid(process.pid, os.WNOHANG)
            if pid:
                break
            phase, share = self._progress()
            stage = f"phase {phase}, {share:.0%}"
            if share >= restarts_bridge_at:
                restarts_bridge_at = 2.0
                self.bridge.kill()
                self.bridge.start()
            if kill_at is not None and (phase > kill_at[0] or (phase, share) >= kill_at):
                os.kill(process.pid, signal.SIGKILL)
                kill_at = None
            time.sleep(POLL_S)
        process.returncode = os.waitstatus_to_exitcode(status)
        if feeder is not None:
            feeder.kill()
            feeder.wait()
        attempt = Attempt(
            process.returncode,
            stage,
            round(time.monotonic() - began_s, 1),
            round(peak_mib, 1),
            json.loads(report.read_bytes()) if report.exists() else None,
        )
        self.attempts.append(attempt)
        return attempt

    def _progress(self) -> tuple[int, float]:
        """The phase, and the share of the messages that is settled, as the checkpoint says."""
        try:
            state = json.loads((self.folder / "ck").read_bytes())
        except (FileNotFoundError, json.JSONDecodeError):
            return 0, 0.0
        phase = 4 if state["is_repairing"] else state["phase"]
        return phase, state["settled"] / self.count
