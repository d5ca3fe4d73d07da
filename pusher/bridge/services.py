"""The running parts of a bridge behind its endpoints, and on which thread each is called."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from pusher.bridge.account import Account
from pusher.bridge.config import BridgeConfig
from pusher.bridge.importing import Importing
from pusher.bridge.intake import Intake
from pusher.bridge.views import Views
from pusher.bridge.workers import Workers

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Services:
    """What the endpoints may use."""

    config: BridgeConfig
    account: Account
    intake: Intake
    workers: Workers
    views: Views
    importing: Importing
    state_thread: Executor
    view_thread: Executor

    async def change(self, work: Callable[[], _T]) -> _T:
        """Run `work` on the thread that owns the state, between two transactions."""
        return await asyncio.get_running_loop().run_in_executor(self.state_thread, work)

    async def look(self, work: Callable[[], _T]) -> _T:
        """Run `work` on the thread that owns the connections of `views`."""
        return await asyncio.get_running_loop().run_in_executor(self.view_thread, work)
