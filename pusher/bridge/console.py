"""The console page at `/`: files of this package, under headers that let nothing else run.

The page asks the same endpoints under /_bridge/ as anybody; it knows no more than they answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Final

from aiohttp import web

from pusher.bridge.endpoints import GATE

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: Where each file is served. They hold no secret, so they are served without credentials.
_FILES: Final = {
    "/": ("console.html", "text/html"),
    "/_bridge/console.css": ("console.css", "text/css"),
    "/_bridge/console.js": ("console.js", "text/javascript"),
    "/_bridge/console.svg": ("console.svg", "image/svg+xml"),
}
_HEADERS: Final = {
    # What a message says is shown as text; if that ever failed, nothing in it could run or load.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_OPEN: Final = b'data-credentials="none"'
_LOCKED: Final = b'data-credentials="asked"'


def add_console(app: web.Application) -> None:
    """Add the page and its files to the routes."""
    page = files("pusher.bridge") / "page"
    for path, (name, content_type) in _FILES.items():
        body = (page / name).read_bytes()
        if name == "console.html" and app[GATE].is_enforced:
            # The page asks first, so that it does not have to run into a 401.
            body = body.replace(_OPEN, _LOCKED)
        app.router.add_get(path, _serve(body, content_type))


def _serve(body: bytes, content_type: str) -> _Handler:
    async def handler(request: web.Request) -> web.Response:
        del request
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=_HEADERS)

    return handler
