"""What is measured: streams, endpoints, and who takes part."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.inputs import Stream

__all__ = ["GUARD", "SUITES", "Scenario"]

_OURS = ("pusher",)
_TOOLS = ("pusher", "bare loop")
_QUICK = ("pusher", "pusher, bare", "bare loop", "hubspot3")
_EVERYONE = (
    *("pusher", "pusher, bare", "bare loop", "Benthos", "syslog-ng"),
    *("hubspot3", "jq | split | xargs curl", "jq | parallel curl", "wrk"),
)
_LATE = ("pusher", "bare loop", "hubspot3")
_QUEUED = ("pusher", "bare loop", "Benthos", "hubspot3")
"""syslog-ng is not among them: see peers/README.md."""


@dataclass(frozen=True)
class Scenario:
    """One stream, one endpoint, some contenders; times in milliseconds.

    `few` is how many messages those get that send one request after the other.
    """

    name: str
    stream: Stream
    contenders: tuple[str, ...] = _TOOLS
    concurrency: int = 16
    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    refused_share: float = 0.0
    tls: bool = False
    stdin: bool = False
    options: tuple[str, ...] = ()
    few: int = 20_000
    rounds: int = 3

    @property
    def most_per_s(self) -> float | None:
        """What so many requests in flight can carry at this latency; None without one."""
        mean_ms = self.latency_ms + self.jitter_ms / 2
        return self.concurrency * 200 / (mean_ms / 1000) if mean_ms else None


def _lanes(count: int, messages: int, zipf: float = 0.0) -> Stream:
    return Stream(messages, lanes=count, line_bytes=236, zipf=zipf)


_QUICK_SUITE = (
    Scenario("no latency", Stream(400_000), _QUICK),
    Scenario("100 ms", Stream(400_000), _QUICK, concurrency=128, latency_ms=100, few=4_000),
    Scenario("4,000 lanes", _lanes(4_000, 800_000)),
)

_ZIPF = _lanes(40_000, 11_400_000, 0.5)
"""Half of these lanes have 200 messages or more."""

_AS_MUCH_AS_NEEDED = (
    *("--memory", "8GiB", "--max-lag", "8GiB", "--max-age", "10m", "--linger", "10m"),
)
"""Batches leave when they are full, or at the end."""

_FULL_SUITE = (
    Scenario("no latency", Stream(1_000_000), _EVERYONE, few=50_000),
    Scenario("20 ms", Stream(1_000_000), concurrency=32, latency_ms=20),
    Scenario("100 ms", Stream(1_000_000), _QUEUED, concurrency=32, latency_ms=100, few=10_000),
    Scenario("100 ms, 128 in flight", Stream(1_000_000), _LATE, 128, 100.0, few=10_000),
    Scenario("300 ms", Stream(1_000_000), concurrency=64, latency_ms=300),
    Scenario("50 to 150 ms", Stream(1_000_000), concurrency=32, latency_ms=50, jitter_ms=100),
    Scenario("1 lane", _lanes(1, 1_200_000)),
    # One right after the other, as their rates are held against each other.
    Scenario("16 lanes", _lanes(16, 1_200_000)),
    Scenario("40,000 lanes by Zipf", _ZIPF, options=_AS_MUCH_AS_NEEDED),
    Scenario("4,000 lanes", _lanes(4_000, 1_200_000)),
    Scenario("4,000 lanes, --memory 1GiB", _lanes(4_000, 1_200_000), options=("--memory", "1GiB")),
    Scenario("40,000 lanes", _lanes(40_000, 300_000)),
    Scenario("150 B", Stream(1_200_000, 16, 150)),
    Scenario("300 B", Stream(1_200_000, 16, 300)),
    Scenario("2 KB", Stream(600_000, 16, 2_000)),
    Scenario("50 KB", Stream(20_000, 16, 50_000)),
    Scenario("gzip", Stream(1_200_000, compression="gz"), _OURS),
    Scenario("zstandard", Stream(1_200_000, compression="zst"), _OURS),
    Scenario("kcat -J", Stream(400_000, in_kcat=True), _OURS),
    Scenario("standard input", Stream(1_200_000), stdin=True),
    Scenario("TLS", Stream(1_200_000), tls=True),
    Scenario("5 % of requests 503", Stream(1_200_000), _OURS, refused_share=0.05),
    Scenario("10 million messages", Stream(10_000_000), _OURS, rounds=1),
)

SUITES: dict[str, tuple[Scenario, ...]] = {"quick": _QUICK_SUITE, "full": _FULL_SUITE}

GUARD = Scenario("guard", Stream(400_000), ("pusher, bare", "bare loop"), rounds=3)
"""What a build is held against: the loss of a feature's worth of speed, not the machine's mood."""
