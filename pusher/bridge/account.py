"""Settings, stores and portal of the account: what is configured rather than synced.

It keeps a copy in memory, small and always equal to the tables, for the door (is the store
known?) and for the rules of a batch. Its writing methods are called from the state's thread only.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec
import orjson

from pusher.bridge.model import NO_APP, ObjectType
from pusher.bridge.portal import STANDARD, Catalogue
from pusher.bridge.processing import Rules, make_rules
from pusher.bridge.validation import Settings, Store


class Account:
    """The one account behind a bridge."""

    def __init__(self, state: sqlite3.Connection, portal_id: int) -> None:
        self._state = state
        self.portal_id = portal_id
        self._settings: dict[int, Settings] = {
            app_id: msgspec.json.decode(body, type=Settings)
            for app_id, body in state.execute("SELECT app_id, body FROM settings")
        }
        self._stores: dict[str, Store] = {
            store_id: Store(store_id, label, admin_uri)
            for store_id, label, admin_uri in state.execute(
                "SELECT id, label, admin_uri FROM stores"
            )
        }
        kept: dict[str, str] = dict(state.execute("SELECT name, body FROM portal"))
        self.is_active: bool = orjson.loads(kept.get("active", "true"))
        self._catalogue: Catalogue = {
            **STANDARD,
            **msgspec.json.decode(kept.get("properties", "{}"), type=Catalogue),
        }
        self._rules: dict[tuple[ObjectType, str, int], Rules] = {}

    def rules(self, object_type: ObjectType, store_id: str, app_id: int) -> Rules:
        """The rules for a batch of this type, store and application, as of now."""
        key = (object_type, store_id, app_id)
        if key not in self._rules:
            self._rules[key] = make_rules(
                object_type,
                store_id,
                app_id,
                settings=self.effective_settings(app_id),
                specs=self._catalogue[object_type],
                portal_id=self.portal_id,
                portal_is_active=self.is_active,
            )
        return self._rules[key]

    def effective_settings(self, app_id: int) -> Settings | None:
        """The settings that apply to what an application sends."""
        # The application's own come first, then the account's. An open bridge does not know its
        # callers, so where only one application has settings, they serve all.
        for candidate in (app_id, NO_APP):
            if candidate in self._settings:
                return self._settings[candidate]
        return next(iter(self._settings.values())) if len(self._settings) == 1 else None

    def settings(self, app_id: int) -> Settings | None:
        """The settings of an application, or of the account with NO_APP."""
        return self._settings.get(app_id)

    def put_settings(self, app_id: int, settings: Settings) -> None:
        """Replace the settings of an application or the account."""
        body = msgspec.json.encode(settings).decode()
        self._state.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (app_id, body))
        self._settings[app_id] = settings
        self._rules.clear()

    def delete_settings(self, app_id: int) -> bool:
        """Whether there were any."""
        self._state.execute("DELETE FROM settings WHERE app_id = ?", (app_id,))
        self._rules.clear()
        return self._settings.pop(app_id, None) is not None

    def has_store(self, store_id: str) -> bool:
        """Whether messages for this store are taken."""
        return store_id in self._stores

    def store(self, store_id: str) -> Store | None:
        """One store."""
        return self._stores.get(store_id)

    def stores(self) -> list[Store]:
        """All stores by id."""
        return [self._stores[store_id] for store_id in sorted(self._stores)]

    def put_store(self, store: Store) -> None:
        """Make or replace a store."""
        store_id = str(store.id)
        row = (store_id, store.label, store.admin_uri)
        self._state.execute("INSERT OR REPLACE INTO stores VALUES (?, ?, ?)", row)
        self._stores[store_id] = store

    def delete_store(self, store_id: str) -> bool:
        """Whether it existed. "This will not delete or corrupt any data in the account."."""
        self._state.execute("DELETE FROM stores WHERE id = ?", (store_id,))
        return self._stores.pop(store_id, None) is not None

    def catalogue(self) -> Catalogue:
        """The properties that are defined on the account."""
        return dict(self._catalogue)

    def put_catalogue(self, catalogue: Catalogue) -> None:
        """Replace the properties of the types that are named."""
        self._catalogue |= catalogue
        self._keep("properties", msgspec.to_builtins(self._catalogue))

    def put_active(self, *, is_active: bool) -> None:
        """Switch the account on or off."""
        self.is_active = is_active
        self._keep("active", is_active)

    def _keep(self, name: str, value: Any) -> None:
        body = orjson.dumps(value).decode()
        self._state.execute("INSERT OR REPLACE INTO portal VALUES (?, ?)", (name, body))
        self._rules.clear()
