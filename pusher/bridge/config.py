"""What a bridge can be told before it starts. It reads no flag, no environment and no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pusher.bridge.model import ObjectType


@dataclass(frozen=True, slots=True)
class Credentials:
    """The secrets that callers must show. With none of them the bridge is open."""

    token: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    developer_key: str | None = field(default=None, repr=False)

    @property
    def are_given(self) -> bool:
        """Whether any credential is enforced."""
        return any((self.token, self.api_key, self.developer_key))


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
    portal_id: int = 62515
    app_id: int = 1
    settings: Mapping[str, Any] | None = None
    stores: tuple[Mapping[str, Any], ...] = ()
    processing_delay_s: Mapping[ObjectType, float] = field(default_factory=dict)
    jitter_s: float = 0.0
    seed: int = 0
    latency_s: float = 0.0
    max_body_bytes: int = 32 * 1024 * 1024
