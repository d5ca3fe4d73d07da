"""One frozen record of what a run was asked to do. It reads nothing: the command line does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pusher.errors import UsageError
from pusher.model import OBJECT_TYPES, ObjectType
from pusher.sampling import SampleSize
from pusher.transport import checked_url, is_loopback

__all__ = ["Settings"]

RATE_MAX = 1_000_000
STATUS_POLLS_PER_S = 9.0
"""HubSpot's clients keep to nine requests a second; the limit was ten ("Get sync status")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of a push. The defaults suit a real bridge.

    Raises:
        UsageError: a value is out of its range.
    """

    url: str
    """Base address of the bridge. There is no default: a forgotten one must not ship data."""
    token: str | None = field(default=None, repr=False)
    """Sent as `Authorization: Bearer`."""
    api_key: str | None = field(default=None, repr=False)
    """Sent as `hapikey`."""

    default_store: str | None = None
    """For lines without `storeId`."""
    default_type: ObjectType | None = None
    """For lines without `objectType`."""

    batch_size: int = 200
    batch_bytes: int = 4 << 20
    linger_s: float = 1.0
    """Open batches leave when the source has had nothing to read for so long."""
    max_age_s: float = 30.0
    """Open batches leave at the latest after so long."""
    max_line_bytes: int = 32 << 20

    concurrency: int = 16
    """Requests in flight at most."""
    rate: float | None = None
    """Requests a second at most."""
    keep_order: bool = True
    """Messages of one object go out in source order, never two at a time."""
    phases: bool = False
    """CONTACT and PRODUCT, then DEAL, then LINE_ITEM, each when the one before was processed."""
    max_attempts: int = 8
    timeout_s: float = 60.0
    connect_timeout_s: float = 10.0
    drain_timeout_s: float = 30.0
    """How long an interrupted run may take to deliver what it has read."""

    confirm: SampleSize = field(default_factory=SampleSize)
    confirm_rate: float | None = None
    """Status polls a second; None is 9 a second, or no limit on loopback."""
    confirm_timeout_s: float = 60.0

    dead_letters: Path = Path("pusher.dead.ndjson")
    seed: int | None = None
    """For the choice of the sample, and for jitter; None takes a new one."""

    def __post_init__(self) -> None:
        checked_url(self.url)
        if self.token is not None and self.api_key is not None:
            raise UsageError("give a token or an API key, not both")
        for secret in (self.token, self.api_key):
            if secret is not None and not (secret.isascii() and secret.isprintable() and secret):
                raise UsageError("a token or API key must be printable ASCII and not empty")
        if self.default_store == "":
            raise UsageError("--store must not be empty")
        if self.default_type is not None and self.default_type not in OBJECT_TYPES:
            raise UsageError(f"--type must be one of {', '.join(OBJECT_TYPES)}")
        if not 1 <= self.batch_size <= 200:
            raise UsageError("--batch-size must be between 1 and 200")
        for name, low, value in (
            ("--batch-bytes", 1, self.batch_bytes),
            ("--linger", 0, self.linger_s),
            ("--max-age", 0, self.max_age_s),
            ("--max-line", 1, self.max_line_bytes),
            ("--concurrency", 1, self.concurrency),
            ("--drain-timeout", 0, self.drain_timeout_s),
            ("--confirm-timeout", 0, self.confirm_timeout_s),
            ("--confirm", 0, self.confirm.count),
        ):
            if not value >= low:
                raise UsageError(f"{name} must be at least {low}")
        for name, rate in (("--rate", self.rate), ("--confirm-rate", self.confirm_rate)):
            if rate is not None and not 0 < rate <= RATE_MAX:
                raise UsageError(f"{name} must be more than 0, and at most {RATE_MAX:,}")

    @property
    def status_rate(self) -> float | None:
        """Status polls a second at most; None is no limit."""
        if self.confirm_rate is not None:
            return self.confirm_rate
        return None if is_loopback(self.url) else STATUS_POLLS_PER_S
