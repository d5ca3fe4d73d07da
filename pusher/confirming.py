"""The confirmation at the end of a push: of its sample, or of all that it has delivered."""

from __future__ import annotations

import logging
import random

import anyio
from msgspec import structs

from pusher.accounting import LONG_S, Accounting
from pusher.config import Settings
from pusher.confirmer import Confirmer
from pusher.errors import DiskError, UsageError
from pusher.model import Halt, HaltKind, Transport
from pusher.progress import Watched
from pusher.report import Confirmation, confirmation_of
from pusher.sample_file import DeliveredObjects, SampleFile
from pusher.sampling import Sample
from pusher.stopping import Stopping, cancel_after

__all__ = ["Confirming"]

SHOW_EVERY_S = 1.0

_log = logging.getLogger("pusher")


class Confirming:
    """Waits until the bridge has processed what was sent, or the time is up, or a person is.

    Args:
        settings: of the run.
        sample: of the run.
        stopping: told when a file cannot be read; a signal ends the waiting.
        view: told how far it is.
        rng: for jitter.
    """

    def __init__(
        self,
        settings: Settings,
        sample: Sample,
        stopping: Stopping,
        view: Watched,
        rng: random.Random,
    ) -> None:
        self._settings = settings
        self._sample = sample
        self._stopping = stopping
        self._view = view
        self._rng = rng
        self.confirmation: Confirmation | None = None
        """What is known of all; None where the sample tells."""
        self.declined_s: float | None = None
        """All were to be confirmed, which was not begun as it takes so long, at least."""

    def __repr__(self) -> str:
        return f"<Confirming of {self._sample!r}>"

    async def run(
        self,
        transport: Transport,
        confirmer: Confirmer,
        objects: DeliveredObjects | None,
        *,
        resumed: int,
    ) -> None:
        """Confirm.

        Args:
            transport: the door.
            confirmer: of the sample.
            objects: all that was delivered, where all are to be confirmed.
            resumed: messages that earlier runs had settled.
        """
        if objects is not None and not objects.is_empty:
            await self._confirm_all(objects, transport, confirmer)
            return
        await confirmer.finish_unless(self._stopping, self._settings.confirm_timeout_s)
        if objects is not None and resumed:
            detail = f"{objects.journal.path} does not hold what earlier runs have delivered"
            known = confirmation_of(self._sample, detail)
            left = max(0, resumed - known.sampled)
            self.confirmation = structs.replace(known, unconfirmed=known.unconfirmed + left)

    async def _confirm_all(
        self, objects: DeliveredObjects, transport: Transport, confirmer: Confirmer
    ) -> None:
        """Confirm all; the sample only, where nobody has agreed to how long that takes."""
        settings = self._settings
        accounting = Accounting(
            SampleFile(objects.journal),
            transport,
            rate=settings.status_rate,
            rng=self._rng,
            of_portal=settings.api_key is not None,
        )
        try:
            await accounting.load()
            if accounting.estimate_s > LONG_S and not settings.confirm_long:
                self.declined_s = accounting.estimate_s
                await confirmer.finish_unless(self._stopping, settings.confirm_timeout_s)
                accounting.decline(self._sample.failure_rate_upper_bound())
            await accounting.take(self._sample.objects())
            if self.declined_s is None:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(cancel_after, self._stopping.reading_ended, tasks.cancel_scope)
                    tasks.start_soon(self._show, accounting)
                    await accounting.run(settings.confirm_timeout_s)
                    tasks.cancel_scope.cancel()
            self.confirmation = accounting.confirmation()
        except (DiskError, UsageError) as error:
            self._stopping.end_sending(Halt(HaltKind.STOPPED, str(error)))
        finally:
            accounting.close()

    async def _show(self, accounting: Accounting) -> None:
        """Tell how far the confirmation is, for ever: the caller cancels it."""
        _log.info("%s", accounting.plan())
        while True:
            self._view.stage = accounting.stage()
            await anyio.sleep(SHOW_EVERY_S)
