"""How the SQLite files of a bridge are made and opened. It knows tables and no rule.

The queue and the state are two files, so that accepting a batch never waits for the transaction
that processes another: SQLite has one writer per file. Imports, pages and all, are a third.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pusher.bridge.model import TYPE_CODES

SCHEMA_VERSION: Final = 1

_QUEUE_SCHEMA: Final = """
CREATE TABLE batches (
  id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: the state remembers how far it got
  type INTEGER NOT NULL,
  app_id INTEGER NOT NULL,
  received_at_ms INTEGER NOT NULL,
  messages INTEGER NOT NULL,
  body BLOB NOT NULL
);
CREATE INDEX batches_by_type ON batches (type, id);
CREATE TABLE accepted (type INTEGER PRIMARY KEY, messages INTEGER NOT NULL);
"""

_STATE_SCHEMA: Final = """
CREATE TABLE links (
  type INTEGER NOT NULL,
  store TEXT NOT NULL,
  external_id TEXT NOT NULL,
  hubspot_id INTEGER,
  changed_at_ms INTEGER,
  is_tombstone INTEGER NOT NULL,
  last_processed_at_ms INTEGER,
  errored_at_ms INTEGER,
  has_open_error INTEGER NOT NULL,
  PRIMARY KEY (type, store, external_id)
) WITHOUT ROWID;
CREATE TABLE records (
  hubspot_id INTEGER PRIMARY KEY,
  email TEXT,
  properties TEXT NOT NULL,
  associations TEXT NOT NULL
);
CREATE INDEX records_by_email ON records (email) WHERE email IS NOT NULL;
CREATE TABLE errors (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  type INTEGER NOT NULL,
  store TEXT NOT NULL,
  external_id TEXT NOT NULL,
  app_id INTEGER NOT NULL,
  changed_at_ms INTEGER NOT NULL,
  errored_at_ms INTEGER NOT NULL,
  error_type TEXT NOT NULL,
  details TEXT NOT NULL,
  is_resolved INTEGER NOT NULL,
  UNIQUE (type, store, external_id)
);
CREATE INDEX open_errors ON errors (type, seq) WHERE is_resolved = 0;
CREATE TABLE progress (
  type INTEGER PRIMARY KEY,
  batch_id INTEGER NOT NULL,
  messages INTEGER NOT NULL,
  objects INTEGER NOT NULL
);
CREATE TABLE settings (app_id INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE stores (id TEXT PRIMARY KEY, label TEXT NOT NULL, admin_uri TEXT);
CREATE TABLE portal (name TEXT PRIMARY KEY, body TEXT NOT NULL);
-- "default" pre-exists on every account.
INSERT INTO stores VALUES ('default', 'Custom', NULL);
"""

_IMPORTS_SCHEMA: Final = """
CREATE TABLE imports (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  app_id INTEGER NOT NULL,
  store TEXT NOT NULL,
  started_at_ms INTEGER NOT NULL UNIQUE,
  webhook_uri TEXT NOT NULL,
  state TEXT NOT NULL,
  error TEXT,
  finished_at_ms INTEGER,
  errors_before INTEGER NOT NULL  -- the newest errors.seq when it started
);
CREATE TABLE import_types (
  import_id INTEGER NOT NULL,
  type INTEGER NOT NULL,
  expected INTEGER,  -- the application's importCounts
  page_count INTEGER,  -- null until the end of the type
  item_count INTEGER,
  open_errors INTEGER,  -- null until it is done
  PRIMARY KEY (import_id, type)
) WITHOUT ROWID;
CREATE TABLE import_pages (
  import_id INTEGER NOT NULL,
  type INTEGER NOT NULL,
  page INTEGER NOT NULL,
  messages INTEGER NOT NULL,
  digest BLOB NOT NULL,
  queued_through INTEGER,  -- a batch id at or after its own in the queue
  body BLOB,  -- null once it is in the queue; last, as it is long
  UNIQUE (import_id, type, page)
);
"""


class DatabaseError(Exception):
    """The database files cannot be used by this bridge."""


def queue_path(state_path: Path) -> Path:
    """The file of the queue that belongs to a file of state."""
    return state_path.with_name(state_path.name + "-queue")


def imports_path(state_path: Path) -> Path:
    """The file of the imports that belongs to a file of state."""
    return state_path.with_name(state_path.name + "-imports")


def prepare(state_path: Path) -> None:
    """Make the files that are new; refuse those of another version."""
    _prepare(state_path, _STATE_SCHEMA, "INSERT INTO progress VALUES (?, 0, 0, 0)")
    _prepare(queue_path(state_path), _QUEUE_SCHEMA, "INSERT INTO accepted VALUES (?, 0)")
    _prepare(imports_path(state_path), _IMPORTS_SCHEMA)


def _prepare(path: Path, schema: str, row_per_type: str | None = None) -> None:
    try:
        connection = connect(path, is_durable=True)
    except sqlite3.Error as error:
        raise DatabaseError(f"cannot open {path}: {error}") from error
    with contextlib.closing(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == SCHEMA_VERSION:
            return
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version or tables:
            raise DatabaseError(f"{path} was not made by this version of the bridge")
        connection.executescript(f"BEGIN; {schema}")
        if row_per_type is not None:
            connection.executemany(row_per_type, [(code,) for code in TYPE_CODES.values()])
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")


def connect(path: Path, *, is_durable: bool) -> sqlite3.Connection:
    """A connection in autocommit mode: transactions begin where the code says so.

    It may move between threads, but only one thread at a time may use it.
    """
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=30
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # FULL syncs the log at each commit: a power cut loses nothing that was answered.
        connection.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'OFF'}")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")  # pages of 4 KiB
        connection.execute("PRAGMA cache_size = -32768")  # KiB
        connection.execute("PRAGMA temp_store = MEMORY")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


@contextlib.contextmanager
def owned(state_path: Path) -> Iterator[None]:
    """Keep a second bridge away from the same files; two would process each message twice."""
    lock_path = state_path.with_name(state_path.name + "-lock")
    try:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DatabaseError(f"cannot open {lock_path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DatabaseError(f"{state_path} is in use by another bridge") from error
        yield
    finally:
        os.close(descriptor)
