"""An endpoint that fails in every way that we know of, alone and all at once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from proof.driving import Job, Oracle, check_report, finish, running_oracle
from proof.faults import FAULTS
from proof.ledger import Ledger, size
from proof.workload import lines

MESSAGES = size(ci=4_000, full=10_000)
SEEDS = range(size(ci=1, full=3))
ALL_FOR_MESSAGES = size(ci=10_000, full=40_000)
"""As many as take about 15 s in CI and 60 s in a soak."""
PATIENT = ("--timeout", "1s", "--batch-size", "50", "--concurrency", "16", "--max-attempts", "20")
"""A batch that fails 20 times in a row by chance does not exist; by default 8 are enough."""


async def check_delivery(
    job: Job, oracle: Oracle, ledger: Ledger, name: str, *, within_s: float = 60.0
) -> None:
    """One run brings all through, and says so."""
    attempt = await job.run(oracle.url, within_s=within_s)
    record = await oracle.record()
    verdict = job.judged(record)
    harms = sum(count for deed, count in record.deeds.items() if deed != "204 whole")
    ledger.add("faults", name, verdict, harms=harms)
    assert attempt.code == 1, str(attempt)
    check_report(attempt)
    assert attempt.report is not None
    assert not verdict.protests, f"{verdict.protests}; {attempt}"
    assert verdict.letters_repeated == 0
    assert harms, f"no harm was done: {record.deeds}"
    messages = attempt.report["messages"]
    assert messages["delivered"] == len(set(record.numbers))
    assert messages["rejected"] == len(job.letters())
    assert messages["pending"] == 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_costs_no_message(
    fault: str, seed: int, tmp_path: Path, ledger: Ledger
) -> None:
    job = Job(tmp_path, lines(MESSAGES, seed=seed), options=PATIENT)
    async with running_oracle("--fault", fault, "--seed", seed, "--latency-ms", 2, 10) as oracle:
        await check_delivery(job, oracle, ledger, fault)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("told", [[], ["--names-the-guilty"]], ids=["silent", "named"])
async def test_poison_is_found_wherever_it_is_and_costs_nothing_else(
    told: list[str], seed: int, tmp_path: Path, ledger: Ledger
) -> None:
    job = Job(tmp_path, lines(MESSAGES, seed=seed, poison=0.01), options=PATIENT)
    async with running_oracle("--seed", seed, "--latency-ms", 2, 10, *told) as oracle:
        await check_delivery(job, oracle, ledger, "poison-named" if told else "poison")


@pytest.mark.timeout(300)
async def test_all_faults_at_once_cost_no_message(tmp_path: Path, ledger: Ledger) -> None:
    faults = [part for name in FAULTS for part in ("--fault", name)]
    job = Job(tmp_path, lines(ALL_FOR_MESSAGES, seed=7), options=PATIENT)
    async with running_oracle(*faults, "--seed", 7, "--latency-ms", 2, 10) as oracle:
        await check_delivery(job, oracle, ledger, "all-at-once", within_s=280)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("at_request", [1, 20])
async def test_a_web_page_ends_the_run_which_can_go_on_later(
    at_request: int, tmp_path: Path, ledger: Ledger
) -> None:
    job = Job(tmp_path, lines(MESSAGES, seed=3), options=PATIENT)
    async with running_oracle("--web-page-at", at_request, "--latency-ms", 2, 10) as oracle:
        stopped = await job.run(oracle.url)
        await finish(job, oracle.url)
        verdict = job.judged(await oracle.record())
    ledger.add("endings", "web-page", verdict, harms=1)
    assert stopped.code == 3, str(stopped)
    check_report(stopped)
    assert stopped.report is not None
    assert stopped.report["messages"]["pending"] > 0
    assert not verdict.protests, str(verdict.protests)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["dns", "no-tls", "self-signed", "refused-connection"])
async def test_an_endpoint_that_cannot_be_reached_ends_the_run_with_nothing_lost(
    name: str, tmp_path: Path, ledger: Ledger
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    tls: list[object] = []
    if name == "self-signed":
        make_certificate(certificate, key)
        tls = ["--tls", certificate, key]
    job = Job(
        tmp_path / "job", lines(MESSAGES, seed=4), options=[*PATIENT, "--give-up-after", "3s"]
    )
    async with running_oracle(*tls, scheme="https" if tls else "http") as oracle:
        urls = {
            "dns": "http://bridge.invalid:80",
            "no-tls": f"https://127.0.0.1:{oracle.port}",
            "self-signed": oracle.url,
            "refused-connection": "http://127.0.0.1:1",
        }
        stopped = await job.run(urls[name])
        requests = (await oracle.record()).requests
        await finish(job, oracle.url, {"ca-file": str(certificate)} if tls else {})
        verdict = job.judged(await oracle.record())
    ledger.add("endings", name, verdict, harms=1)
    assert stopped.code == 3, str(stopped)
    check_report(stopped)
    assert stopped.report is not None
    assert stopped.report["messages"]["delivered"] == requests == 0
    assert stopped.report["messages"]["pending"] > 0
    assert stopped.report["reason"]
    assert not verdict.protests, str(verdict.protests)


def make_certificate(certificate: Path, key: Path) -> None:
    """A certificate that nobody has signed but itself."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
