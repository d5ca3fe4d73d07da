"""An import: count the input, send it in numbered pages, end each type, report.

The pages travel as a push does; only what an import does otherwise stands here. It knows no
webhook: whoever was asked for an import calls `Importer.run`.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

import anyio
import msgspec

from pusher.client import BridgeClient
from pusher.config import Settings
from pusher.decoding import Decoder
from pusher.errors import DiskError, EndpointError, UsageError
from pusher.import_state import ImportOrder, ImportState
from pusher.model import (
    OBJECT_TYPES,
    Batch,
    Delivery,
    Halt,
    HaltKind,
    Lane,
    Refusal,
    SyncMessage,
)
from pusher.patience import PatientTransport
from pusher.pipeline import Pipeline
from pusher.progress import Vitals
from pusher.protocol import IMPORT_PAGE_PATH, encode_import_page
from pusher.report import Report, outcome_of
from pusher.retrying import RetryPolicy
from pusher.sampling import SampleSize
from pusher.sources import LineSource
from pusher.stopping import Stopping
from pusher.transport import HttpTransport

__all__ = ["ImportReport", "ImportedType", "Importer", "Inventory", "take_inventory"]


@dataclass(frozen=True, slots=True)
class Inventory:
    """What an input holds that can be imported."""

    counts: Counter[Lane]
    digest: str


class ImportedType(msgspec.Struct, frozen=True):
    """One type of an import: what was announced, and what the endpoint has."""

    object_type: str
    counted: int
    pages: int
    items: int
    ended: bool


class ImportFacts(msgspec.Struct, frozen=True):
    """Which import it was."""

    store_id: str
    import_started_at: int
    types: list[ImportedType]


class ImportReport(Report, frozen=True, kw_only=True, rename={"import_": "import"}):
    """The outcome of an import: a push's report, and what was imported."""

    import_: ImportFacts


async def take_inventory(source: LineSource, settings: Settings, stopping: Stopping) -> Inventory:
    """Count the messages that can be imported, for each store and type, until told to stop.

    Raises:
        InputError: the input is damaged.
    """
    decoder = Decoder(default_store=settings.default_store, default_type=settings.default_type)
    counts: Counter[Lane] = Counter()
    digest = hashlib.blake2b(digest_size=16)
    async with aclosing(source.chunks()) as chunks:  # type: ignore[type-var]
        async for chunk in chunks:
            if stopping.is_reading_over:
                break
            digest.update(chunk.data)
            for message in decoder.decode(chunk, 0).messages:
                if message.action == "UPSERT":
                    # Decoding has settled both.
                    counts[Lane(message.store_id, message.object_type)] += 1  # type: ignore[arg-type]
    return Inventory(counts, digest.hexdigest())


class _ImportErrand:
    """Numbers pages, and leaves out what an import cannot carry or has carried before."""

    method = "POST"
    path = IMPORT_PAGE_PATH
    lanes_fail_alone = False  # An import is taken, or refused, as a whole.

    def __init__(self, order: ImportOrder, state: ImportState) -> None:
        self._order = order
        self._state = state

    def body_of(self, batch: Batch) -> bytes:
        return encode_import_page(
            batch.lane,
            batch.messages,
            started_at=self._order.import_started_at,
            number=self._state.number_of(batch),
        )

    def why_skipped(self, message: SyncMessage) -> str | None:
        if message.store_id != self._order.store_id:
            return "other_store"
        if message.object_type not in self._order.object_types:
            return "type_not_asked_for"
        # Pages have no action: all that is in them is upserted.
        return "delete" if message.action == "DELETE" else None

    def left_of(self, batch: Batch) -> list[Batch]:
        parts = list(self._state.unsettled(batch))
        for part in parts:
            part.body = self.body_of(part)
        return parts

    def note(self, outcome: Delivery | Refusal) -> None:
        batch = outcome.batch
        if isinstance(outcome, Delivery):
            self._state.accept(batch.lane.object_type, self._state.number_of(batch))
        else:
            self._state.reject(batch)


class Importer:
    """Runs imports of one input.

    Args:
        open_input: opens the input; each import reads it once.
        settings: as of a push. Order, phases, linger and confirmation do not apply.
        state: what is settled.
        stopping: where a run is told to end early.
        inventory: of the input.

    Raises:
        UsageError: the settings are not for an application.
    """

    def __init__(
        self,
        open_input: Callable[[], LineSource],
        settings: Settings,
        state: ImportState,
        stopping: Stopping,
        inventory: Inventory,
    ) -> None:
        if settings.api_key is not None:
            raise UsageError("imports are for applications: they want a token, not an API key")
        self._open_input = open_input
        self._settings = replace(
            settings,
            # Only a full page or the end closes a page; pages need not wait for each other.
            linger_s=math.inf,
            max_age_s=math.inf,
            keep_order=False,
            phases=False,
            confirm=SampleSize(0),
        )
        self._state = state
        self._stopping = stopping
        self._inventory = inventory
        self._rng = random.Random(settings.seed)
        self._pipeline: Pipeline | None = None

    def vitals(self) -> Vitals | None:
        """How the import is that is under way; None where there is none."""
        return self._pipeline.vitals() if self._pipeline is not None else None

    def counts(self, store_id: str) -> dict[str, int]:
        """How many objects of each type the input has for a store."""
        return {name: self._inventory.counts[Lane(store_id, name)] for name in OBJECT_TYPES}

    def begin(self, order: ImportOrder) -> None:
        """Note what was asked for, unless it is what the state has already.

        Raises:
            DiskError: it could not be noted.
        """
        if self._state.order != order:
            self._state.begin(order)

    async def run(self) -> ImportReport:
        """Send the pages and the ends that are missing.

        Raises:
            UsageError: nothing was begun, or with another input; nothing was sent.
        """
        order = self._state.order
        if order is None:
            raise UsageError("--state: there is no import to continue")
        if order.input_digest != self._inventory.digest:
            raise UsageError("the input is not the one that this import was begun with")
        settings = self._settings
        async with HttpTransport(settings.url, **settings.transport_options()) as transport:
            self._pipeline = Pipeline(
                self._open_input(),
                settings,
                transport=transport,
                errand=_ImportErrand(order, self._state),
                stopping=self._stopping,
            )
            report = await self._pipeline.run()
            if self._stopping.halt is None and not report.messages.pending:
                report = await self._end_all(order, transport, report)
        self._pipeline = None
        return self._with_facts(order, report)

    async def _end_all(
        self, order: ImportOrder, transport: HttpTransport, report: Report
    ) -> Report:
        """End the four types, unless that fails or the run is told to stop."""
        policy = RetryPolicy(max_attempts=self._settings.max_attempts)
        patient = PatientTransport(transport, policy, self._rng)
        client = BridgeClient(self._settings.url, transport=patient)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._cancel_when_told, tasks.cancel_scope)
            for name in OBJECT_TYPES:
                if not self._state.is_ended(name) and self._stopping.halt is None:
                    await self._end(client, Lane(order.store_id, name), order.import_started_at)
            tasks.cancel_scope.cancel()
        halt = self._stopping.halt
        if halt is None:
            return report
        outcome, code = outcome_of(halt, is_complete=False, rejected=0, failed=0, unconfirmed=0)
        return msgspec.structs.replace(report, outcome=outcome, exit_code=code, reason=halt.reason)

    async def _cancel_when_told(self, ends: anyio.CancelScope) -> None:
        await self._stopping.reading_ended()
        ends.cancel()

    async def _end(self, client: BridgeClient, lane: Lane, started_at: int) -> None:
        """Fill the gaps that refused pages have left in the numbers, and end a type."""
        state, name = self._state, lane.object_type
        try:
            for number in state.missing_pages(name):
                await client.post_import_page(
                    lane, [], import_started_at=started_at, page_number=number
                )
                state.accept_empty(name, number)
            await client.end_import(
                lane,
                import_started_at=started_at,
                page_count=state.page_count(name),
                item_count=state.item_count(name),
            )
            state.end(name)
        except (EndpointError, DiskError) as error:
            reason = f"the end of {name}: {error}"
            self._stopping.end_sending(Halt(HaltKind.STOPPED, reason))

    def _with_facts(self, order: ImportOrder, report: Report) -> ImportReport:
        counts = self.counts(order.store_id)
        types = [
            ImportedType(
                object_type=name,
                counted=counts[name] if name in order.object_types else 0,
                pages=self._state.page_count(name),
                items=self._state.item_count(name),
                ended=self._state.is_ended(name),
            )
            for name in OBJECT_TYPES
        ]
        facts = ImportFacts(order.store_id, order.import_started_at, types)
        fields = {name: getattr(report, name) for name in report.__struct_fields__}
        return ImportReport(**fields, import_=facts)
