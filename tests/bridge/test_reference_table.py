"""The table in the bridge's README: whole, and every test in it is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
README = TESTS.parent.parent / "pusher" / "bridge" / "README.md"
ROW = re.compile(r"\| (?P<kind>[a-z ]+) \| (?P<name>.+) \| `(?P<file>\w+\.py)::(?P<test>\w+)` \|")

#: Everything that the reference names.
ENDPOINTS = (
    "PUT /settings",
    "GET /settings",
    "DELETE /settings",
    "PUT /stores",
    "GET /stores/{id}",
    "GET /stores",
    "DELETE /stores/{id}",
    "PUT /sync/messages",
    "GET /sync/status/{objectType}/{storeId}/{externalObjectId}",
    "GET /sync/errors",
)
PARAMETERS = {
    "settings": "appId hapikey showProvidedMappings",
    "errors": "objectType errorType showResolvedErrors limit offset",
}
FIELDS = {
    "Settings": "enabled webhookUri mappings",
    "PropertyMapping": "externalPropertyName hubspotPropertyName dataType",
    "Store": "id label adminUri",
    "SyncMessages": "objectType storeId messages",
    "Message": "externalObjectId action changedAt properties associations",
    "SyncStatus": "lastProcessedAt hubspotId errors objectType storeId externalObjectId",
    "SyncError": (
        "portalId storeId objectType externalObjectId changedAt erroredAt type details status"
    ),
}
PROVIDED = (
    "ip__ecomm_bridge__ecomm_synced",
    "ip__ecomm_bridge__source_app_id",
    "ip__ecomm_bridge__source_store_id",
)
ERROR_TYPES = (
    "INACTIVE_PORTAL",
    "NO_SYNC_SETTINGS",
    "SETTINGS_NOT_ENABLED",
    "NO_MAPPINGS_DEFINED",
    "MISSING_REQUIRED_PROPERTY",
    "NO_PROPERTIES_DEFINED",
    "INVALID_ASSOCIATION_PROPERTY",
    "INVALID_ENUM_PROPERTY",
    "INVALID_DEAL_STAGE",
    "INVALID_EMAIL_ADDRESS",
    "UNKNOWN_ERROR",
)
NAMED = {
    *(("endpoint", name) for name in ENDPOINTS),
    *(("parameter", f"{of}?{name}") for of, names in PARAMETERS.items() for name in names.split()),
    *(("field", f"{of}.{name}") for of, names in FIELDS.items() for name in names.split()),
    *(("value", f"dataType {name}") for name in ["STRING", "NUMBER", "DATETIME", "AVATAR_IMAGE"]),
    *(("property", name) for name in PROVIDED),
    *(("error type", name) for name in ERROR_TYPES),
}


def table() -> list[re.Match[str]]:
    """The rows below the last heading."""
    section = README.read_text().split("\n## The reference, line by line\n")[1]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    rows = [ROW.fullmatch(line) for line in lines]
    assert all(rows), [line for line, row in zip(lines, rows, strict=True) if row is None]
    return [row for row in rows if row is not None]


ROWS = table()


def test_everything_that_the_reference_names_is_in_the_table() -> None:
    listed = {(row["kind"], row["name"].strip("`")) for row in ROWS}
    assert not NAMED - listed


def test_no_line_is_there_twice() -> None:
    lines = [row[0] for row in ROWS]
    assert len(set(lines)) == len(lines)


@pytest.mark.parametrize("file", sorted({row["file"] for row in ROWS}))
def test_every_test_in_the_table_exists(file: str) -> None:
    (path,) = (
        where for where in (TESTS / file, TESTS.parent / "contract" / file) if where.exists()
    )
    functions = {
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {row["test"] for row in ROWS if row["file"] == file} <= functions
