"""One broker for the session: Apache Kafka, or where that cannot run the mock cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from proof.ledger import IS_FULL

from kafka.broker import Broker, Kafka, MockCluster, missing_for_kafka, running_kafka
from kafka.campaigns import Campaigns

_used: list[str] = []
_campaigns = Campaigns()


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """Apache Kafka; without Java or Maven the mock cluster, unless REQUIRE=all."""
    missing = missing_for_kafka()
    if missing is None:
        _used.append("Apache Kafka")
        with running_kafka() as kafka:
            yield kafka
    elif os.environ.get("REQUIRE") == "all":
        pytest.fail(f"REQUIRE=all, and Apache Kafka cannot be run without {missing}")
    else:
        _used.append(f"librdkafka's mock cluster; Apache Kafka cannot be run without {missing}")
        with MockCluster() as mock:
            yield mock


@pytest.fixture
def kafka(broker: Broker) -> Kafka:
    """Apache Kafka; the test is skipped where it cannot be run."""
    if not isinstance(broker, Kafka):
        pytest.skip("needs Apache Kafka: Java and Maven")
    return broker


@pytest.fixture(scope="session")
def campaigns() -> Iterator[Campaigns]:
    """What came of the campaigns; a soak writes it down."""
    yield _campaigns
    if IS_FULL:
        _campaigns.ledger.write()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the time that Kafka takes to be fetched and started not count as its first test's."""
    for item in items:
        if "broker" in getattr(item, "fixturenames", ()):
            own = item.get_closest_marker("timeout")
            limit_s = own.args[0] if own else 60
            item.add_marker(pytest.mark.timeout(limit_s, func_only=True), append=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name in _used:
        terminalreporter.line(f"Kafka tests ran against {name}.")
    for line in _campaigns.lines:
        terminalreporter.line(f"  {line}")
