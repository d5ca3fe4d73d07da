"""Start all parts of a bridge in the right order, and stop them in the reverse one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import orjson
from aiohttp import web

from pusher.bridge.account import Account
from pusher.bridge.app import make_app
from pusher.bridge.applier import Applier
from pusher.bridge.auth import Gate
from pusher.bridge.config import BridgeConfig
from pusher.bridge.database import connect, owned, prepare
from pusher.bridge.importing import Importing
from pusher.bridge.imports import Imports
from pusher.bridge.intake import Intake
from pusher.bridge.model import NO_APP, ObjectType
from pusher.bridge.services import Services
from pusher.bridge.validation import decode_settings, decode_store
from pusher.bridge.views import Views
from pusher.bridge.workers import Pace, Workers

_log = logging.getLogger(__name__)
_GRACE_S = 5.0  # How long requests under way may take when the bridge stops.


@dataclass(frozen=True, slots=True)
class RunningBridge:
    """A bridge that serves. `processing` ends only when processing broke down."""

    url: str
    processing: asyncio.Task[None]


@contextlib.asynccontextmanager
async def running_bridge(config: BridgeConfig) -> AsyncIterator[RunningBridge]:
    """Serve a bridge in this event loop until the block is left.

    What was answered with a 204 is kept: with `config.db` it is processed now or after the next
    start. Raises RefusalError when the preloaded settings or stores are not valid, DatabaseError
    when the files cannot be used, OSError when the address cannot.
    """
    async with contextlib.AsyncExitStack() as stack:
        path = config.db
        if path is None:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="pusher-bridge-"))
            path = Path(directory) / "bridge.db"
        stack.enter_context(owned(path))
        prepare(path)
        gate = Gate(config)
        services = await _start(config, gate, path, stack)
        processing = asyncio.create_task(_process(services), name="bridge-processing")
        stack.push_async_callback(_stop, processing)
        url = await _serve(config, make_app(services, gate), stack)
        _log.info("state in %s, queue and imports beside it", path)
        yield RunningBridge(url, processing)


async def _process(services: Services) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(services.workers.run(), name="bridge-workers")
        group.create_task(services.importing.run(), name="bridge-imports")


async def _start(
    config: BridgeConfig, gate: Gate, path: Path, stack: contextlib.AsyncExitStack
) -> Services:
    is_durable = config.db is not None
    state = stack.enter_context(contextlib.closing(connect(path, is_durable=is_durable)))
    account = Account(state, config.portal_id)
    _preload(config, account)
    applier = stack.enter_context(contextlib.closing(Applier(path, account, state)))
    views = stack.enter_context(contextlib.closing(Views(path, config.portal_id)))
    intake = Intake(path, is_durable=is_durable)
    stack.push_async_callback(intake.close)
    state_thread = stack.enter_context(ThreadPoolExecutor(1, "bridge-state"))
    view_thread = stack.enter_context(ThreadPoolExecutor(1, "bridge-views"))
    imports = stack.enter_context(contextlib.closing(Imports(path, is_durable=is_durable)))
    import_thread = stack.enter_context(ThreadPoolExecutor(1, "bridge-imports"))

    def pace(object_type: ObjectType) -> Pace:
        delay_s = config.processing_delay_s.get(object_type, 0.0)
        return Pace(object_type, delay_s, config.jitter_s, config.seed)

    workers = Workers(applier, intake, state_thread, pace)
    importing = Importing(
        imports,
        import_thread,
        intake,
        workers,
        portal_id=config.portal_id,
        secret_of=gate.client_secret,
        timeout_s=config.webhook_timeout_s,
    )
    return Services(config, account, intake, workers, views, importing, state_thread, view_thread)


def _preload(config: BridgeConfig, account: Account) -> None:
    # Through the same checks as a PUT, so that a preloaded file cannot hold what a PUT could not.
    if config.settings is not None:
        account.put_settings(NO_APP, decode_settings(orjson.dumps(config.settings)))
    for store in config.stores:
        account.put_store(decode_store(orjson.dumps(store)))


async def _serve(
    config: BridgeConfig, app: web.Application, stack: contextlib.AsyncExitStack
) -> str:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_GRACE_S)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, config.host, config.port)
    await site.start()
    port = runner.addresses[0][1]
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{port}"


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
