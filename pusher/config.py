"""One frozen record of what a run was asked to do. It reads nothing: the command line does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from types import NoneType
from typing import Any

from pusher import masking
from pusher.decoding import check_default_store
from pusher.errors import UsageError
from pusher.model import OBJECT_TYPES, ObjectType
from pusher.protocol import printable
from pusher.refreshing import Refresher
from pusher.sampling import SampleSize
from pusher.sources import Formats, KafkaSource, LineSource, TopicAddress
from pusher.spool import SpoolPlan, default_folder
from pusher.tally import RejectedMax
from pusher.transport import checked_url, is_loopback

__all__ = ["Settings"]

RATE_MAX = 1_000_000
REPAIR_ROUNDS = 3
SAMPLE_FILE = "pusher.sample.ndjson"

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
    refresher: Refresher | None = None
    """Gets a new token when a 401 comes."""

    default_store: str | None = None
    """For lines without `storeId`."""
    default_type: ObjectType | None = None
    """For lines without `objectType`."""

    formats: Formats = field(default_factory=Formats)
    """What is known of the inputs: their format, and what rows are."""

    batch_size: int = 200
    batch_bytes: int = 4 << 20
    linger_s: float = 1.0
    """Open batches leave when the source has had nothing to read for so long."""
    max_age_s: float = 30.0
    """Open batches leave at the latest after so long."""
    max_line_bytes: int = 32 << 20

    concurrency: int | None = None
    """Requests in flight at most; None finds the best number by itself."""
    rate: float | None = None
    """Requests a second at most."""
    keep_order: bool = True
    """Messages of one object go out in source order, never two at a time."""
    phases: bool = False
    """CONTACT and PRODUCT, then DEAL, then LINE_ITEM, each when the one before was processed."""
    repair: int | None = None
    """So many rounds at most of sending again what the bridge could not process; None is 3 with
    phases, otherwise 0."""
    spool_dir: Path | None = None
    """Where what is read of pipes is kept, to be read again; None is TMPDIR, or /var/tmp."""
    spool_max_bytes: int = 16 << 30
    """So much of a pipe is kept at most, compressed; then the run stops."""
    keep_spool: bool = False
    """Keep what is read of pipes in any case, and leave it there for `pusher repair`."""
    only_stores: frozenset[str] = frozenset()
    """Send messages of these stores only; empty for all."""
    only_types: frozenset[ObjectType] = frozenset()
    """Send messages of these types only; empty for all."""
    limit: int | None = None
    """Send so many messages at most, in each pass over the input."""
    dry_run: bool = False
    """Everything but the requests, and no file is written."""

    max_attempts: int = 8
    """So many failures of one request, while others succeed, and its messages are rejected."""
    give_up_after_s: float = 900.0
    """The run stops when nothing has succeeded for so long."""
    max_rejected: RejectedMax | None = None
    """The run stops when more was rejected."""
    expect: int | None = None
    """The run counts as stopped when the input ended with another number of messages."""
    preflight: bool = True
    """Prove the address and the credentials before the first message."""
    timeout_s: float = 60.0
    connect_timeout_s: float = 10.0
    ca_file: Path | None = None
    """Trust the authorities in this PEM file, instead of the system's."""
    client_cert: Path | None = None
    client_key: Path | None = None
    """PEM files with our own certificate and its key, where the endpoint wants one."""
    headers: Sequence[tuple[str, str]] = field(default=(), repr=False)
    """Names and values that each request carries besides."""
    proxy: str | None = field(default=None, repr=False)
    """Address of an HTTP proxy. The command line takes it from the environment."""
    drain_timeout_s: float = 30.0
    """How long an interrupted run may take to deliver what it has read."""

    confirm: SampleSize = field(default_factory=SampleSize)
    confirm_rate: float | None = None
    """Status polls a second; None is 9 a second, or no limit on loopback."""
    confirm_timeout_s: float = 60.0
    confirm_long: bool = False
    """All may be confirmed however long it takes."""
    sample_out: Path | None = None
    """Where what is to be confirmed is written, for `pusher confirm`. Where all is, there is always
    such a file."""
    confirm_window_s: float = 300.0
    """A run over topics confirms a sample of each stretch of so much time."""

    memory_bytes: int = 64 << 20
    """What messages that are not settled may take, with their requests; then reading waits."""
    max_lag_bytes: int = 1 << 30
    """With a checkpoint: how far reading may be ahead of the oldest message not settled."""

    checkpoint: Path | None = None
    """Where a later run goes on from; locked while in use."""
    dead_letters: Path = Path("pusher.dead.ndjson")
    ledger: Path | None = None
    """Takes a line for each accepted request; appended to."""
    dead_letters_topic: TopicAddress | None = None
    """Where dead letters go instead of the file."""
    kafka_properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Of librdkafka, for the topic of dead letters."""
    seed: int | None = None
    """For the choice of the sample, and for jitter; None takes a new one."""

    def __post_init__(self) -> None:
        checked_url(self.url)
        if self.token is not None and self.api_key is not None:
            raise UsageError("give a token or an API key, not both")
        for secret in (self.token, self.api_key):
            if secret is not None and not (secret.isascii() and secret.isprintable() and secret):
                raise UsageError("a token or API key must be printable ASCII and not empty")
        check_default_store(self.default_store)
        if self.default_type is not None and self.default_type not in OBJECT_TYPES:
            raise UsageError(f"--type must be one of {', '.join(OBJECT_TYPES)}")
        if not 1 <= self.batch_size <= 200:
            raise UsageError("--batch-size must be between 1 and 200")
        for name, low, value in (
            ("--batch-bytes", 1, self.batch_bytes),
            ("--linger", 0, self.linger_s),
            ("--max-age", 0, self.max_age_s),
            ("--max-line", 1, self.max_line_bytes),
            ("--concurrency", 1, 1 if self.concurrency is None else self.concurrency),
            ("--max-attempts", 1, self.max_attempts),
            ("--give-up-after", 0, self.give_up_after_s),
            ("--expect", 0, self.expect or 0),
            ("--limit", 1, 1 if self.limit is None else self.limit),
            ("--memory", 1 << 20, self.memory_bytes),
            ("--max-lag", 1, self.max_lag_bytes),
            ("--repair", 0, self.repair or 0),
            ("--spool-max", 1, self.spool_max_bytes),
            ("--timeout", 0.001, self.timeout_s),
            ("--connect-timeout", 0.001, self.connect_timeout_s),
            ("--drain-timeout", 0, self.drain_timeout_s),
            ("--confirm-timeout", 0, self.confirm_timeout_s),
            ("--confirm-window", 1, self.confirm_window_s),
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

    @property
    def repair_rounds(self) -> int:
        """Rounds of repair at most."""
        if self.repair is not None:
            return self.repair
        return REPAIR_ROUNDS if self.phases else 0

    def spool_plan(self, source: LineSource, run_id: str) -> SpoolPlan | None:
        """Where what is read of pipes is kept; None where nothing has to be read again."""
        if source.can_be_read_again or not (self.phases or self.keep_spool):
            return None
        is_kept = self.keep_spool and not self.dry_run
        name = f"pusher-{run_id}" if is_kept else None
        return SpoolPlan(self.spool_dir or default_folder(), self.spool_max_bytes, name)

    @property
    def objects_path(self) -> Path | None:
        """Where all delivered objects are written; None where only a sample is confirmed."""
        return (self.sample_out or Path(SAMPLE_FILE)) if self.confirm.is_all else None

    def _check_reading_again(self, source: LineSource | KafkaSource) -> None:
        if isinstance(source, KafkaSource):
            for flag, is_given in (
                ("--phases", self.phases),
                ("--keep-spool", self.keep_spool),
                ("--repair", self.repair),
            ):
                if is_given:
                    raise UsageError(f"{flag} is for files and pipes: a topic has no end")
        elif self.keep_spool and source.can_be_read_again:
            raise UsageError("--keep-spool is for pipes: a file can be read again as it is")
        if self.spool_dir is not None and not self.spool_dir.is_dir():
            raise UsageError(f"--spool-dir: {self.spool_dir} is not a directory")

    def check_source(self, source: LineSource | KafkaSource) -> None:
        """See to it that nothing is written into what is read, nor two things into one file.

        Raises:
            UsageError: these settings do not suit the source.
        """
        self._check_reading_again(source)
        if self.checkpoint is not None and self.dead_letters_topic is not None:
            raise UsageError("--checkpoint needs --dead-letters: it takes back letters of a file")
        if self.checkpoint is not None and isinstance(source, KafkaSource):
            raise UsageError("--checkpoint is for files and pipes: a group keeps its own offsets")
        if not self.dead_letters.parent.is_dir():
            raise UsageError(f"--dead-letters: {self.dead_letters.parent} is not a directory")
        letters = self.dead_letters.resolve()
        if letters in source.paths:
            raise UsageError("--dead-letters is a file that is to be read: name another one")
        taken = {letters, *source.paths}
        for flag, path in (
            ("--checkpoint", self.checkpoint),
            ("--ledger", self.ledger),
            ("--sample-out", self.objects_path or self.sample_out),
        ):
            if path is None:
                continue
            if not path.parent.is_dir():
                raise UsageError(f"{flag}: {path.parent} is not a directory")
            if path.resolve() in taken:
                raise UsageError(f"{flag} needs a file of its own")
            taken.add(path.resolve())
        self._check_confirmation(source)

    def _check_confirmation(self, source: LineSource | KafkaSource) -> None:
        if self.sample_out is not None and self.confirm.is_none:
            raise UsageError("--sample-out has nothing to write with --confirm 0")
        if isinstance(source, KafkaSource) and (self.sample_out is not None or self.confirm.is_all):
            raise UsageError(
                "--sample-out and --confirm all are for files and pipes: topics are confirmed by"
                " windows of time"
            )

    def shown(self) -> dict[str, str | int | float | bool | list[str] | None]:
        """The settings by their names, for a report. Of what may be secret: whether it is set."""
        return {
            one.name: _shown(getattr(self, one.name)) if one.repr else bool(getattr(self, one.name))
            for one in fields(self)
        }

    def transport_options(self) -> dict[str, Any]:
        """The keyword arguments of an `HttpTransport`."""
        return {
            "token": self.token,
            "api_key": self.api_key,
            "timeout_s": self.timeout_s,
            "connect_timeout_s": self.connect_timeout_s,
            "refresher": self.refresher,
            "ca_file": self.ca_file,
            "client_cert": self.client_cert,
            "client_key": self.client_key,
            "headers": self.headers,
            "proxy": self.proxy,
        }


def _shown(value: object) -> str | int | float | bool | list[str] | None:
    """A value that is no secret; of what is no plain value, whether it is set."""
    if isinstance(value, (str, Path)):
        return masking.shown("", printable(str(value)))
    if isinstance(value, float):
        return value if isfinite(value) else None  # JSON has no infinity.
    if isinstance(value, (int, NoneType)):
        return value
    if isinstance(value, frozenset):
        return sorted(map(printable, value))
    if isinstance(value, (SampleSize, RejectedMax)):
        return value.count if value.rate is None else f"{value.rate * 100:g}%"
    if isinstance(value, Formats):
        parts = (value.file_format, value.change, "mapped" if value.mapping else None)
        return ", ".join(part for part in parts if part) or "auto"
    return bool(value)
