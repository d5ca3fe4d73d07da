"""A network that misbehaves below HTTP, by way of toxiproxy."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import Process
from dataclasses import dataclass
from pathlib import Path

import pytest

from proof.driving import Job, check_report, running_oracle
from proof.ledger import Ledger, size
from proof.toxics import Toxiproxy, build_toxiproxy, running_toxiproxy
from proof.workload import lines

MESSAGES = size(ci=3_000, full=15_000)
SEEDS = range(size(ci=1, full=3))
OPTIONS = ("--batch-size", "50", "--concurrency", "8", "--timeout", "2s", "--max-attempts", "20")


@dataclass(frozen=True)
class Toxic:
    """A toxic in one direction, on a share of the connections."""

    kind: str
    stream: str
    share: float
    attributes: dict[str, int]


TOXICS = {
    "latency": (
        Toxic("latency", "upstream", 1.0, {"latency": 50}),
        Toxic("latency", "downstream", 1.0, {"latency": 50}),
    ),
    "jitter": (Toxic("latency", "downstream", 1.0, {"latency": 60, "jitter": 60}),),
    "bandwidth": (Toxic("bandwidth", "upstream", 1.0, {"rate": 100}),),
    "slicer": (
        Toxic("slicer", "upstream", 1.0, {"average_size": 512, "size_variation": 256}),
        Toxic("slicer", "downstream", 1.0, {"average_size": 4, "size_variation": 2}),
    ),
    "limit_data up": (Toxic("limit_data", "upstream", 0.6, {"bytes": 40_000}),),
    "limit_data down": (Toxic("limit_data", "downstream", 0.6, {"bytes": 100}),),
    "reset_peer": (Toxic("reset_peer", "downstream", 0.6, {"timeout": 40}),),
    "slow_close": (Toxic("slow_close", "downstream", 1.0, {"delay": 500}),),
    # Round trips of 60 ms, so that no machine is through before the proxy goes down.
    "down": (Toxic("latency", "downstream", 1.0, {"latency": 60}),),
}


@pytest.fixture(scope="module")
def program() -> Path:
    built = build_toxiproxy()
    if built is None:
        pytest.skip("there is no Go to build toxiproxy with")
    return built


async def flap(proxy: Toxiproxy) -> None:
    """The proxy is down for a fifth of the time."""
    while True:
        await asyncio.sleep(0.4)
        await proxy.switch(is_on=False)
        await asyncio.sleep(0.1)
        await proxy.switch(is_on=True)


@pytest.mark.timeout(400)  # The first one builds the proxy.
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", TOXICS)
async def test_a_bad_network_costs_no_message(
    name: str, seed: int, program: Path, tmp_path: Path, ledger: Ledger
) -> None:
    job = Job(tmp_path, lines(MESSAGES, seed=seed), options=OPTIONS)
    async with (
        running_oracle("--seed", seed, "--latency-ms", 2, 10) as oracle,
        running_toxiproxy(program, oracle.port) as proxy,
    ):
        for toxic in TOXICS[name]:
            await proxy.add(toxic.kind, toxic.stream, toxic.attributes, toxic.share)

        async def interfere(process: Process) -> None:
            del process
            if name == "down":
                await flap(proxy)

        attempt = await job.run(proxy.url, interfere)
        record = await oracle.record()
    verdict = job.judged(record)
    ledger.add("network", name, verdict, harms=1)
    context = f"seed {seed}: {verdict.protests}; {attempt}"
    assert attempt.code == 1, context
    check_report(attempt)
    assert not verdict.protests, context
    assert attempt.report is not None
    assert attempt.report["messages"]["delivered"] == len(set(record.numbers)), context
    if name in {"limit_data up", "limit_data down", "reset_peer", "down"}:
        assert attempt.report["requests"]["retried"] > 0, f"no harm was done: {context}"
