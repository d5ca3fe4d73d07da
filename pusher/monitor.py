"""The door for those who watch a run: /metrics, /healthz and /readyz over HTTP.

It runs in the run's own event loop, so an answer to /healthz also shows that the loop turns.
"""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Self

from aiohttp import web

from pusher.errors import UsageError
from pusher.metrics import CONTENT_TYPE, exposition, health, readiness
from pusher.pipeline import Pipeline

__all__ = ["Monitor"]

_log = logging.getLogger("pusher")


class Monitor:
    """Serves how a pipeline is. An async context manager.

    Args:
        pipeline: that is watched.
        host: where to listen.
        port: where to listen; 0 picks a free one.
    """

    def __init__(self, pipeline: Pipeline, host: str, port: int) -> None:
        self.url = ""
        self._pipeline = pipeline
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        """Begin to listen.

        Raises:
            UsageError: the address cannot be listened on.
        """
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/readyz", self._readiness)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            where = f"{self._host}:{self._port}"
            raise UsageError(f"--metrics-port: {where}: {error.strerror}") from error
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"http://{host}:{self._runner.addresses[0][1]}"
        _log.info("metrics on %s/metrics", self.url)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        del request
        body = exposition(self._pipeline.vitals)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def _health(self, request: web.Request) -> web.Response:
        del request
        return _answer(health(self._pipeline.vitals(), time.monotonic()))

    async def _readiness(self, request: web.Request) -> web.Response:
        del request
        return _answer(readiness(self._pipeline.vitals()))


def _answer(trouble: str | None) -> web.Response:
    return web.Response(status=503 if trouble else 200, text=f"{trouble or 'ok'}\n")
