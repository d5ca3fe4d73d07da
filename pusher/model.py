"""The nouns that travel through the house. No behaviour beyond what a noun knows of itself."""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import AsyncIterator, Container, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple, Protocol

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

__all__ = [
    "ASSOCIATION_ORDER",
    "EMPTY_MAP",
    "ID_SEPARATOR",
    "LONG_LINE_BYTES",
    "OBJECT_TYPES",
    "Action",
    "Answer",
    "Batch",
    "Change",
    "Chunk",
    "Delivery",
    "Failure",
    "Group",
    "Groups",
    "Halt",
    "HaltKind",
    "Lane",
    "LiveSource",
    "LiveState",
    "ObjectType",
    "Parked",
    "Partition",
    "Position",
    "Problem",
    "Refusal",
    "Rejection",
    "Revocation",
    "Source",
    "SyncMessage",
    "SyncMessages",
    "Transport",
    "Verdict",
    "chunk_counts",
    "ids_in",
    "ids_text_of",
    "origin_of",
    "place_of",
]

ObjectType = Literal["CONTACT", "PRODUCT", "DEAL", "LINE_ITEM"]
Action = Literal["UPSERT", "DELETE"]

OBJECT_TYPES: tuple[ObjectType, ...] = ("CONTACT", "PRODUCT", "DEAL", "LINE_ITEM")

ASSOCIATION_ORDER: tuple[frozenset[ObjectType], ...] = (
    frozenset({"CONTACT", "PRODUCT"}),
    frozenset({"DEAL"}),
    frozenset({"LINE_ITEM"}),
)
"""What others point at comes first: a DEAL names CONTACTs, a LINE_ITEM its DEAL and PRODUCT."""

EMPTY_MAP = Raw(b"{}")

ID_SEPARATOR = "\xff"
"""No id has it, as ids are ASCII."""

_SEARCHED_MAX = 32
"""So few ids are found faster in the text of all than in a set of them."""

_INDEX_BITS = 20
"""A chunk has fewer than 2**20 lines: it is cut at 256 KiB."""


class SyncMessage(msgspec.Struct, gc=False, rename="camel"):
    """One change of one object ("Sync Messages" in the reference).

    It is decoded from an input line and encoded into a request without a copy: the maps stay raw
    JSON that points into the chunk. Store and type move to the `Lane` when the message joins a
    batch, so the same object encodes as an element of `messages`.
    """

    external_object_id: Annotated[str, Meta(min_length=1, max_length=100)] | int
    store_id: Annotated[str, Meta(min_length=1)] | int | UnsetType = UNSET
    object_type: ObjectType | UnsetType = UNSET
    action: Action = "UPSERT"
    changed_at: Annotated[int, Meta(ge=0, le=2**63 - 1)] | str | UnsetType = UNSET
    """Epoch milliseconds of the change. An integer once decoding is done."""
    properties: Raw = EMPTY_MAP
    associations: Raw = EMPTY_MAP


class Lane(NamedTuple):
    """Where a message goes: one request carries messages of one lane only."""

    store_id: str
    object_type: ObjectType


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a line or a record is not a sync message."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Position:
    """How far a source was read: everything before it can be checked when it is read again.

    Attributes:
        offset: decompressed bytes.
        lines: lines that ended before it.
        digest: of these bytes, in hexadecimal.
    """

    offset: int
    lines: int
    digest: str


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of a topic, for as long as it is ours once: its messages come in order.

    `epoch` tells one time that we are assigned it from another.
    """

    topic: str
    number: int
    epoch: int = 0

    def __str__(self) -> str:
        return f"{self.topic}[{self.number}]"


LONG_LINE_BYTES = 1 << 20
"""A longer line is announced while it is read, and waits for room. It comes in a chunk of its own,
as what has to be done to some lines of a chunk copies all of them."""


@dataclass(slots=True, eq=False)
class Chunk:
    """Whole lines of one source, about 256 KiB, cut at a line end.

    A chunk with `oversized_bytes` is one line over the limit: `data` has only its beginning. In a
    chunk of a live topic, a line is the value of one message, and `end.offset` is the offset of the
    message behind it.
    """

    data: bytes
    source: str
    offset: int
    """Where `data` begins in the source, in decompressed bytes."""
    first_line: int
    """The number of the first line, from 1."""
    line_count: int
    number: int = 0
    """Set by the ledger: the chunk's place in the run."""
    oversized_bytes: int | None = None
    end: Position | None = None
    """Where it ends, when the source keeps fingerprints."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Lines that the source left out of `data` by rule, by reason."""
    partition: Partition | None = None
    """Of a live topic; None where all chunks are of one sequence."""
    offsets: Sequence[int] | None = None
    """Of each line, where `data` holds not what was read but what it stands for: its offset in the
    source, or in its partition. Then no line is blank."""
    line_numbers: Sequence[int] | None = None
    """Of each line, with `offsets`; None where they are consecutive."""
    times_ms: Sequence[int] | None = None
    """When the messages were produced, epoch ms, as far as it is known; 0 or less is not."""
    rejected: Sequence[Rejection] = ()
    """What the source could make no line of."""
    coming_bytes: int = 0
    """A chunk is being read that may take so much, or more: then that is said again. This one has
    nothing itself. Reading goes on when the next one is asked for."""

    def lines(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield (line number, offset, line without its end) for each line that is not blank."""
        if self.offsets is not None:
            values = self.data.split(b"\n") if self.offsets else []
            numbers = self.line_numbers
            if numbers is None:
                numbers = range(self.first_line, self.first_line + len(values))
            yield from zip(numbers, self.offsets, values, strict=True)
            return
        offset = self.offset
        for line_number, line in enumerate(self.data.split(b"\n"), self.first_line):
            if line.strip(b" \t\r"):
                yield line_number, offset, line.rstrip(b"\r")
            offset += len(line) + 1


def origin_of(chunk_number: int, index: int) -> int:
    """Pack where a message came from: its chunk, and its place among the lines not blank."""
    return chunk_number << _INDEX_BITS | index


class Group(Protocol):
    """The messages of one lane in a chunk, in their order, ready to become parts of a body."""

    @property
    def store_id(self) -> str:
        """Of the lane."""
        ...

    @property
    def object_type(self) -> ObjectType:
        """Of the lane."""
        ...

    def __len__(self) -> int:
        """How many are left."""
        ...

    def take(
        self,
        most: int,
        most_bytes: int,
        at_least_one: bool,  # noqa: FBT001 - all by position, which is fastest
        /,
    ) -> tuple[bytes, str, list[int]] | None:
        """Take the next messages out: as `encode_piece` and `ids_text_of` give them, and origins.

        Args:
            most: so many of them.
            most_bytes: of the piece; None is returned where not even one fits.
            at_least_one: whatever its size.
        """
        ...

    def drop(self) -> int:
        """Forget what is left; say how many messages that was."""
        ...


class Groups(Protocol):
    """All messages of a chunk, by lane, as the scanner finds them."""

    def __len__(self) -> int:
        """How many lanes there are."""
        ...

    def __getitem__(self, index: int, /) -> Group:
        """One of them."""
        ...

    def __iter__(self) -> Iterator[Group]:
        """All of them."""
        ...

    def first(self) -> Group:
        """The first one that messages are left in."""
        ...

    def left(self) -> int:
        """How many messages are left."""
        ...

    def drop(self) -> int:
        """Forget what is left; say how many messages that was."""
        ...


class SyncMessages(msgspec.Struct, rename="camel"):
    """The body of a request: messages of one lane ("Put sync messages" in the reference)."""

    store_id: str
    object_type: ObjectType
    messages: list[SyncMessage]


class Change(msgspec.Struct, rename="camel"):
    """Which object a message changes, and when; the rest of it is passed over."""

    external_object_id: str | int
    changed_at: int | str | UnsetType = UNSET


class _Changes(msgspec.Struct):
    messages: list[Change]


_decode_body = msgspec.json.Decoder(SyncMessages).decode
_decode_changes = msgspec.json.Decoder(_Changes).decode


class Batch:
    """Messages of one lane that go out in one request.

    Once its body is encoded, a batch needs the messages again only where it is refused. So it may
    come without them: thousands of small objects that nobody looks at are slow to free.

    Args:
        lane: theirs.
        messages: in the order of the input; None where `body` has all of them.
        origins: `origins[i]` says where `messages[i]` came from (see `origin_of`).
        body: the request; empty where it is not encoded yet.
        whole: the batch that this is a part of.
        ids_text: the external ids of its messages, as `ids_text_of` gives them; of a whole batch
            whose order is kept.
    """

    __slots__ = ("_ids", "_messages", "body", "ids_text", "lane", "open_count", "origins", "whole")

    def __init__(
        self,
        lane: Lane,
        messages: list[SyncMessage] | None,
        origins: Sequence[int],
        body: bytes = b"",
        whole: Batch | None = None,
        *,
        ids_text: str = "",
    ) -> None:
        self.lane = lane
        self._messages = messages
        self.origins = origins
        self.body = body
        self.whole = whole
        self.ids_text = ids_text
        self._ids: list[str] | None = None
        self.open_count = len(origins)
        """How many messages of a whole batch are not settled."""

    def __len__(self) -> int:
        return len(self.origins)

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} for {self.lane.store_id} {self.lane.object_type}>"

    @property
    def ids(self) -> list[str]:
        """The external ids of its messages, in their order; none for a part of a batch."""
        if self._ids is None:
            self._ids = ids_in(self.ids_text)
        return self._ids

    def names_any(self, ids: AbstractSet[str]) -> bool:
        """Some of its messages may be of one of these objects. A part does not know, so it may."""
        if not self.ids_text:
            return True
        if len(ids) > _SEARCHED_MAX:
            return not ids.isdisjoint(self.ids)
        text = f"{ID_SEPARATOR}{self.ids_text}{ID_SEPARATOR}"
        return any(f"{ID_SEPARATOR}{one}{ID_SEPARATOR}" in text for one in ids)

    @property
    def messages(self) -> list[SyncMessage]:
        """The messages, taken out of the body where the batch came without them."""
        if self._messages is None:
            self._messages = _decode_body(self.body).messages
        return self._messages

    def changes(self) -> Sequence[SyncMessage | Change]:
        """The objects of the messages, in their order: a fifth of the work of `messages`."""
        if self._messages is None:
            return _decode_changes(self.body).messages
        return self._messages

    def keep_messages(self) -> None:
        """Take the messages out of the body, which is about to become that of something else."""
        self._messages = self.messages

    def drop_body(self) -> None:
        """Forget the body; what is not settled is encoded anew when it is sent again."""
        if self.open_count and self._messages is None:
            self._messages = _decode_body(self.body).messages
        self.body = b""

    def part(self, start: int, stop: int) -> Batch:
        """The messages from `start` up to `stop`, with no body yet."""
        messages, origins = self.messages[start:stop], self.origins[start:stop]
        return Batch(self.lane, messages, origins, whole=self.whole or self)

    def without(self, indexes: Container[int]) -> Batch:
        """All messages but those at `indexes`, with no body yet."""
        kept = [index for index in range(len(self)) if index not in indexes]
        messages, origins = self.messages, self.origins
        return Batch(
            self.lane,
            [messages[i] for i in kept],
            [origins[i] for i in kept],
            whole=self.whole or self,
        )


def ids_text_of(messages: list[SyncMessage]) -> str:
    """The ids of messages in one string: it is let go of faster than each of them."""
    return ID_SEPARATOR.join([message.external_object_id for message in messages])  # type: ignore[misc]


def ids_in(text: str) -> list[str]:
    """The ids in such a string."""
    return text.split(ID_SEPARATOR) if text else []


def chunk_counts(origins: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (chunk number, count) of the places where messages came from."""
    origins = sorted(origins)  # Cheap: they mostly ascend.
    start = 0
    while start < len(origins):
        chunk_number = origins[start] >> _INDEX_BITS
        stop = bisect_left(origins, (chunk_number + 1) << _INDEX_BITS, start)
        yield chunk_number, stop - start
        start = stop


def place_of(origin: int) -> tuple[int, int]:
    """Unpack `origin_of`: (chunk number, index among the lines that are not blank)."""
    return origin >> _INDEX_BITS, origin & ((1 << _INDEX_BITS) - 1)


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What the endpoint answered to one request."""

    status: int
    body: bytes = b""
    retry_after: str | None = None
    date: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that got no answer. The detail has no secrets: the transport removed them."""

    kind: Literal["connect", "timeout", "reset", "protocol", "tls"]
    detail: str
    ambiguous: bool
    """The request may have been applied: it could have been sent in full before it failed."""


class Verdict(enum.Enum):
    """What an answer means for the request that it answers (design: answers of the endpoint)."""

    DELIVERED = "delivered"
    RETRY = "retry"
    REFUSED = "refused"
    STOP = "stop"


class HaltKind(enum.Enum):
    """Why a run ended before its input did."""

    STOPPED = "stopped"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Halt:
    """The first reason to end the run early; `signal_number` when a person or a supervisor did."""

    kind: HaltKind
    reason: str
    signal_number: int | None = None


class Delivery(msgspec.Struct, frozen=True):
    """A 2xx answered the request that carried `batch`."""

    batch: Batch
    accepted_at_ms: int
    """When the bridge took it, epoch milliseconds: the second is of its own clock (the Date
    header), the place in that second of ours when the request was sent."""
    latency_s: float
    status: int = 204
    request: int = 0
    """The number of the request in the run, from 1; 0 where nobody counts."""
    attempt: int = 1
    """How often this batch or part had been sent by then."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The endpoint does not take this batch; a batch of one is rejected."""

    batch: Batch
    reason: str
    detail: str
    status: int | None
    attempts: int
    named: Mapping[int, str] = field(default_factory=dict)
    """The messages that the endpoint itself calls guilty: index in the batch, and why."""


@dataclass(frozen=True, slots=True)
class Parked:
    """The lane of this batch is given up for this run: its messages stay pending."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class Rejection:
    """One message that will not be delivered, and why. It becomes a dead letter."""

    reason: str
    detail: str
    source: str
    line: int
    offset: int
    record: bytes
    status: int | None = None
    attempts: int = 0
    changed_at_ms: int | None = None
    extra: dict[str, int | str] = field(default_factory=dict)
    """More facts for the dead letter, such as the length of a line that was not kept whole."""


class Source(Protocol):
    """Something that can be read in chunks: files and pipes, or a live topic."""

    name: str
    size_bytes: int | None
    """How much there is to read, where that is known; for progress only."""
    read_bytes: int
    """How much of `size_bytes` has been read."""
    handed_bytes: int
    """As much of that was read when the chunk was cut that was yielded last."""

    def chunks(self) -> AsyncIterator[Chunk]:
        """Yield chunks in order until the end. Raises InputError when the input breaks."""
        ...


@dataclass(frozen=True, slots=True)
class Revocation:
    """Partitions that are ours no longer. `is_lost`: somebody else may have them already."""

    partitions: Sequence[Partition]
    is_lost: bool


@dataclass(slots=True, eq=False)
class LiveState:
    """What a live source knows of itself, for whoever watches it. Counts since the start."""

    has_joined: bool = False
    """It has been told which partitions are its own, if any."""
    is_paused: bool = False
    """It reads nothing at the moment, as what was read waits."""
    polled_at_s: float = 0.0
    """When it last asked the broker for something, on the monotonic clock."""
    rebalances: int = 0
    """Times that partitions came or went."""
    assigned: int = 0
    revoked: int = 0
    lost: int = 0
    """Partitions, each time that they came or went."""
    commits: int = 0
    commits_failed: int = 0
    lags: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """Messages that are not committed yet, by topic and partition, of those that are ours."""


class LiveSource(Source, Protocol):
    """Topics that go on for ever, in partitions that come and go."""

    state: LiveState

    def holds(self, partition: Partition) -> bool:
        """The partition is still ours, in the same epoch."""
        ...

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Everything before these offsets is settled; it is committed soon."""
        ...

    def rest(self) -> None:
        """All that was yielded is dealt with, as far as it can be: a bounded run may end there."""
        ...

    async def next_revocation(self) -> Revocation:
        """Wait until partitions are taken away: the broker then waits for `let_go`."""
        ...

    def let_go(self) -> None:
        """What was told by `commit` is all that will be settled of the revoked partitions."""
        ...

    async def close(self) -> str | None:
        """Commit, and leave the group. Why the last commit failed, if it did."""
        ...


class Transport(Protocol):
    """The door to the endpoint. An answer and a failure are both values."""

    async def request(
        self, method: str, path: str, *, query: str = "", body: bytes | None = None
    ) -> Answer | Failure:
        """Send one request, once. `path` begins with a slash; credentials are the door's matter."""
        ...
