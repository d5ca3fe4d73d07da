"""What many tests need; and with REQUIRE=all, a skipped test is a failure."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
from fakes.endpoint import Endpoint, running_endpoint

_skipped: list[str] = []


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with running_endpoint() as running:
        yield running


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("REQUIRE") == "all" and _skipped:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get("REQUIRE") == "all" and _skipped:
        terminalreporter.section("REQUIRE=all: these must not be skipped", red=True)
        for nodeid in _skipped:
            terminalreporter.line(nodeid)
