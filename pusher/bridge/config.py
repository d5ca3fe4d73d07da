"""What a bridge can be told before it starts. It reads no flag, no environment and no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pusher.bridge.faults import FaultPlan
from pusher.bridge.model import ObjectType

#: What a token must be allowed to do; HubSpot has used both names for it.
SYNC_SCOPES: Final = frozenset({"integration-sync", "e-commerce"})
DEFAULT_PORTAL_ID: Final = 62515


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token stands for."""

    app_id: int
    scopes: frozenset[str] = SYNC_SCOPES


@dataclass(frozen=True, slots=True)
class Register:
    """Any number of applications and their secrets, all on one account."""

    tokens: Mapping[str, Grant] = field(default_factory=dict, repr=False)
    api_keys: frozenset[str] = field(default=frozenset(), repr=False)
    #: The applications that belong to the developer account of a key.
    developer_keys: Mapping[str, frozenset[int]] = field(default_factory=dict, repr=False)
    client_secrets: Mapping[int, str] = field(default_factory=dict, repr=False)
    app_ids: frozenset[int] = frozenset()

    @property
    def is_enforced(self) -> bool:
        """Whether callers must show something. A client secret signs, it does not close."""
        return bool(self.tokens or self.api_keys or self.developer_keys)


@dataclass(frozen=True, slots=True)
class Credentials:
    """One secret of each kind, for one application. With none of them the bridge is open."""

    token: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    developer_key: str | None = field(default=None, repr=False)
    client_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class BridgeConfig:
    """Everything that one bridge needs to know.

    `db` None keeps the state in temporary files that go away with the bridge. `settings` and
    `stores` are bodies as the API takes them, put before the first request is served.
    """

    host: str = "127.0.0.1"
    port: int = 0
    db: Path | None = None
    credentials: Credentials = field(default_factory=Credentials)
    #: More of them, as from a file of credentials; `credentials` are added to these.
    register: Register = field(default_factory=Register)
    portal_id: int = DEFAULT_PORTAL_ID
    app_id: int = 1
    settings: Mapping[str, Any] | None = None
    stores: tuple[Mapping[str, Any], ...] = ()
    processing_delay_s: Mapping[ObjectType, float] = field(default_factory=dict)
    jitter_s: float = 0.0
    seed: int = 0
    latency_s: float = 0.0
    faults: FaultPlan | None = None
    max_body_bytes: int = 32 * 1024 * 1024
    webhook_timeout_s: float = 30.0

    def all_credentials(self) -> Register:
        """`register` with the single `credentials` in it, which are those of `app_id`."""
        one, many = self.credentials, self.register
        app_id = self.app_id
        tokens = {one.token: Grant(app_id)} if one.token else {}
        keys = {one.api_key} if one.api_key else set()
        developer_keys = {one.developer_key: frozenset({app_id})} if one.developer_key else {}
        secrets = {app_id: one.client_secret} if one.client_secret else {}
        return Register(
            tokens={**many.tokens, **tokens},
            api_keys=many.api_keys | keys,
            developer_keys={**many.developer_keys, **developer_keys},
            client_secrets={**many.client_secrets, **secrets},
            app_ids=many.app_ids | {app_id},
        )
