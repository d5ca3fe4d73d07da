"""A real browser without a window, and what goes wrong in it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the path")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = 15_000

Scheme = Literal["light", "dark"]


@dataclass
class Sheet:
    """A page, and what it has said and asked for."""

    page: Any
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@asynccontextmanager
async def opened(
    path: Path, *, width: int = 1200, scheme: Scheme = "light", scripts: bool = True
) -> AsyncIterator[Sheet]:
    """A file in a fresh browser; fails when it had a problem or asked for anything else."""
    playwright = pytest.importorskip("playwright.async_api")
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            context = await browser.new_context(
                viewport={"width": width, "height": 800},
                color_scheme=scheme,
                java_script_enabled=scripts,
            )
            page = await context.new_page()
            page.set_default_timeout(WAIT_MS)
            sheet = Sheet(page)
            page.on("console", lambda said: sheet.problems.append(f"{said.type}: {said.text}"))
            page.on("pageerror", lambda error: sheet.problems.append(str(error)))
            page.on("dialog", lambda dialog: sheet.problems.append(f"dialog {dialog.message}"))
            page.on("request", lambda request: sheet.requests.append(request.url))
            await page.goto(path.as_uri())
            yield sheet
            assert sheet.problems == []
            assert sheet.requests == [path.as_uri()]
        finally:
            await browser.close()
