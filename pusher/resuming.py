"""What a checkpoint says: from where, and with what in mind, a later run goes on."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from pusher.errors import UsageError
from pusher.model import Position
from pusher.sampling import SampleMemory

__all__ = ["CheckpointState", "decode", "encode"]

VERSION = 2

Count = Annotated[int, Meta(ge=0)]


class CheckpointState(msgspec.Struct, frozen=True, kw_only=True):
    """How far a chain of runs is: a run that was killed, and those that went on from it.

    Attributes:
        version: of this form.
        run_id: of the chain; its dead letters carry it.
        phase: which pass over the input is under way, from 1.
        start: where each pass begins: behind what an earlier chain has finished.
        positions: how far each source is settled in this pass.
        ends: where each source ended in the first of several passes.
        settled: messages settled before these positions, in all passes.
        rejected_before: dead letters of the passes before this one; of all, once it is complete.
        dead_letters: their file.
        dead_letters_from: where in it those of this pass begin.
        ledger: the file of the delivered ledger, where one is kept.
        ledger_from: where in it the lines of this pass begin.
        objects_of: the run that the file of all delivered objects names, where one is kept.
        sample: what is to be confirmed.
        concurrency: the limit on requests in flight that was found.
        began_ms: the bridge's clock at the first 2xx of the chain, epoch ms.
        is_repairing: all was delivered, and sync errors are being repaired.
        left: objects that could not be repaired.
        complete: the run ended well, so that the next one begins a new chain.
    """

    version: int = VERSION
    run_id: Annotated[str, Meta(min_length=1, max_length=64)]
    phase: Annotated[int, Meta(ge=1)] = 1
    start: dict[str, Position] = {}
    positions: dict[str, Position] = {}
    ends: dict[str, Position] = {}
    settled: Count = 0
    rejected_before: Count = 0
    dead_letters: str
    dead_letters_from: Count = 0
    ledger: str | None = None
    ledger_from: Count = 0
    objects_of: str | None = None
    sample: SampleMemory = SampleMemory()
    concurrency: Annotated[int, Meta(ge=1)] | None = None
    began_ms: int | None = None
    is_repairing: bool = False
    left: Count = 0
    complete: bool = False


class _Versioned(msgspec.Struct):
    version: int


def encode(state: CheckpointState) -> bytes:
    """Write a state as one JSON object and a line end."""
    return msgspec.json.encode(state) + b"\n"


def decode(data: bytes, name: str) -> CheckpointState:
    """Read a state.

    Args:
        data: what `encode` has written.
        name: the file's, for the error.

    Raises:
        UsageError: it is no checkpoint, or one that another version wrote.
    """
    try:
        version = msgspec.json.decode(data, type=_Versioned).version
        if version != VERSION:
            raise UsageError(
                f"{name}: a checkpoint of form {version}, which this version cannot read:"
                " go on with the pusher that wrote it, or remove the file to begin anew"
            )
        return msgspec.json.decode(data, type=CheckpointState)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{name}: is not a checkpoint, or is damaged: {error}") from error
