"""What a run writes down of each delivery: the ledger, and the objects to confirm.

Both files are off by default. A message counts as delivered only once they have it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio

from pusher.delivery_ledger import DeliveryLedger
from pusher.errors import DiskError
from pusher.journal import Journal
from pusher.model import Delivery, Halt, HaltKind
from pusher.sample_file import DeliveredObjects
from pusher.stopping import Stopping
from pusher.watermark import Ledger

__all__ = ["Books"]

SYNC_EVERY_S = 1.0


class Books:
    """The files of one run.

    Args:
        ledger: of the accepted requests.
        objects: the delivered objects.
    """

    def __init__(self, ledger: DeliveryLedger | None, objects: DeliveredObjects | None) -> None:
        self.ledger = ledger
        self.objects = objects

    @classmethod
    def of(
        cls,
        ledger_path: Path | None,
        objects_path: Path | None,
        run_id: str,
        ledger: Ledger,
        now_s: Callable[[], float],
    ) -> Books | None:
        """The books that are to be kept in these files; None where none are."""
        if ledger_path is None and objects_path is None:
            return None
        return cls(
            None if ledger_path is None else DeliveryLedger(ledger_path, run_id, ledger, now_s),
            None if objects_path is None else DeliveredObjects(objects_path, run_id),
        )

    def __repr__(self) -> str:
        return f"<Books {self.ledger!r} {self.objects!r}>"

    def open(self) -> None:
        """Open the files; `close` is to be called, after an error as well.

        Raises:
            UsageError: one of them cannot be used.
        """
        for journal in self._journals():
            journal.open()

    def close(self) -> None:
        """Let other runs use the files."""
        for journal in self._journals():
            journal.close()

    def take_id(self, run_id: str) -> None:
        """The run goes on from another one, and takes its id."""
        for book in (self.ledger, self.objects):
            if book is not None:
                book.run_id = run_id

    def note(self, delivery: Delivery) -> None:
        """Write a delivery down, whose messages must not be settled yet.

        Raises:
            DiskError: that failed.
        """
        if self.ledger is not None:
            self.ledger.note(delivery)
        if self.objects is not None:
            self.objects.note(delivery)

    async def sync(self) -> None:
        """Wait until all that was noted before is on the disk.

        Raises:
            DiskError: that failed.
        """
        for journal in self._journals():
            await journal.sync()

    async def keep(self, stopping: Stopping) -> None:
        """Sync again and again, until that fails, which stops the run: the caller cancels it."""
        while True:
            await anyio.sleep(SYNC_EVERY_S)
            try:
                await self.sync()
            except DiskError as error:
                stopping.end_sending(Halt(HaltKind.STOPPED, str(error)))
                return

    def _journals(self) -> list[Journal]:
        return [book.journal for book in (self.ledger, self.objects) if book is not None]
