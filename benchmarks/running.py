"""Runs a suite: each scenario's contenders turn by turn, each run against a fresh sink."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

import trustme

from benchmarks.contenders import CONTENDERS, Contender, Job
from benchmarks.digest import of_lines
from benchmarks.inputs import Stream, first_lines, write
from benchmarks.measuring import BenchmarkError, Run, run, sink
from benchmarks.scenarios import Scenario

__all__ = ["Bench"]

_START_UPS = 3
_CHECKED = Stream(20_000)
_READY_BODY = Stream(200, 1, 236)


class Bench:
    """Measures; keeps inputs and programs in a folder, and says on stdout what it found."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._inputs = folder / "inputs"
        folder.mkdir(parents=True, exist_ok=True)
        self._versions: dict[str, str | None] = {}
        authority = trustme.CA()
        # One file is both: the sink's key and certificate, and the authority to trust.
        self._server_pem = folder / "server.pem"
        self._authority_pem = folder / "authority.pem"
        issued = authority.issue_cert("localhost")
        self._server_pem.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
        authority.cert_pem.write_to_path(str(self._authority_pem))

    def environment(self) -> dict[str, object]:
        """What the figures depend on."""
        return {
            "at": time.strftime("%Y-%m-%d", time.gmtime()),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
            "python": platform.python_version(),
            "load_before": round(os.getloadavg()[0], 2),
            "fresh_memory_s_per_gib": _fresh_memory_s(),
        }

    def versions(self) -> dict[str, str]:
        """Those that were found, and what they are."""
        return {name: found for name, found in self._versions.items() if found}

    def check(self, names: Iterable[str]) -> dict[str, object]:
        """Let each deliver one stream to a sink that looks into every message."""
        path = write(_CHECKED, self._inputs)
        with path.open("rb") as lines:
            expected = of_lines(lines)
        found: dict[str, object] = {}
        for contender in self._installed(names):
            if contender.name == "wrk":
                continue  # It sends one body over and over.
            taken, arrived = self._run(contender, path, Scenario("check", _CHECKED), "--digest")
            same = arrived["digest"] == expected.value
            if not same:
                raise BenchmarkError(f"{contender.name} delivered something else than its input")
            found[contender.name] = {
                "messages": taken.messages,
                "requests": taken.requests,
                "same_messages": same,
                "out_of_order": arrived["out_of_order"],
            }
            print(
                f"{contender.name:24} {taken.messages:,} messages as they were given, "
                f"{arrived['out_of_order']} after a newer one of their object",
                flush=True,
            )
        return found

    def measure(self, scenario: Scenario) -> dict[str, object]:
        """All rounds of one scenario."""
        contenders = self._installed(scenario.contenders)
        whole = write(scenario.stream, self._inputs)
        one = first_lines(write(_CHECKED, self._inputs), 1, self._inputs / "one.ndjson")
        inputs = {each.name: self._input(each, scenario, whole) for each in contenders}
        start_ups: dict[str, list[float]] = {each.name: [] for each in contenders}
        runs: dict[str, list[Run]] = {each.name: [] for each in contenders}
        at_once = replace(scenario, latency_ms=0, jitter_ms=0, refused_share=0)
        for _ in range(_START_UPS):
            for each in contenders:
                if each.name != "wrk":
                    start_ups[each.name].append(self._run(each, one, at_once)[0].wall_s)
        for _ in range(scenario.rounds):
            for each in contenders:
                taken, _ = self._run(each, inputs[each.name][0], scenario)
                expected = inputs[each.name][1]
                if taken.messages != expected and each.name != "wrk":
                    raise BenchmarkError(f"{each.name}: {taken.messages} of {expected} arrived")
                runs[each.name].append(taken)
        found: dict[str, object] = {}
        for each in contenders:
            start_up_s = median(start_ups[each.name]) if each.name != "wrk" else 0.0
            found[each.name] = _summary(runs[each.name], start_up_s)
            _say(scenario, each.name, found[each.name])
        return {
            "stream": asdict(scenario.stream),
            "mean_line_bytes": round(_size(self._inputs, scenario) / scenario.stream.messages, 1),
            "concurrency": scenario.concurrency,
            "latency_ms": scenario.latency_ms,
            "jitter_ms": scenario.jitter_ms,
            "refused_share": scenario.refused_share,
            "tls": scenario.tls,
            "options": scenario.options,
            "most_per_s": scenario.most_per_s,
            "contenders": found,
        }

    def latency(self) -> list[dict[str, object]]:
        """How long a line takes from standard input to its 2xx.

        In another process: the system counts what this one has had to what it starts later.
        """
        command = [sys.executable, "-m", "benchmarks.latency"]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        found: list[dict[str, object]] = json.loads(done.stdout)
        for each in found:
            print(f"latency {each}", flush=True)
        return found

    def _installed(self, names: Iterable[str]) -> list[Contender]:
        for name in names:
            if name not in self._versions:
                self._versions[name] = CONTENDERS[name].version()
                if self._versions[name] is None:
                    print(f"{name} is not installed, and left out", flush=True)
        return [CONTENDERS[name] for name in names if self._versions[name] is not None]

    def _input(self, contender: Contender, scenario: Scenario, whole: Path) -> tuple[Path, int]:
        """What one contender gets: the whole stream, its first part, or a ready body."""
        count = scenario.stream.messages
        if contender.name == "wrk":
            return self._body(), count
        if contender.bulk or scenario.few >= count:
            return whole, count
        into = self._inputs / f"first-{scenario.few}-of-{whole.name}"
        return first_lines(whole, scenario.few, into), scenario.few

    def _body(self) -> Path:
        """A ready request body with 200 messages of the mean size."""
        lines = write(_READY_BODY, self._inputs).read_bytes().splitlines()
        body = self._inputs / "body.json"
        body.write_bytes(
            b'{"storeId":"store-00001","objectType":"PRODUCT","messages":[%b]}' % b",".join(lines)
        )
        return body

    def _run(
        self, contender: Contender, path: Path, scenario: Scenario, *options: str
    ) -> tuple[Run, dict[str, object]]:
        behaviour = [
            *("--latency-ms", str(scenario.latency_ms), "--jitter-ms", str(scenario.jitter_ms)),
            *("--refused-share", str(scenario.refused_share), *options),
        ]
        if scenario.tls:
            behaviour += ["--certificate", str(self._server_pem)]
        # Short, as a socket in it must have a short name.
        scratch = Path(tempfile.mkdtemp(prefix="bench"))
        try:
            with sink(*behaviour) as target:
                job = Job(
                    input=path.resolve(),
                    url=target.url,
                    concurrency=scenario.concurrency,
                    lanes=scenario.stream.lanes,
                    scratch=scratch,
                    certificate=self._authority_pem if scenario.tls else None,
                    stdin=scenario.stdin,
                    options=scenario.options,
                )
                return run(contender.command(job), target, scratch / "errors")
        finally:
            shutil.rmtree(scratch)


def _summary(runs: list[Run], start_up_s: float) -> dict[str, object]:
    rates = [each.messages / (each.wall_s - start_up_s) for each in runs]
    return {
        "start_up_s": round(start_up_s, 4),
        "messages_per_s": round(median(rates)),
        "spread": [round(min(rates)), round(max(rates))],
        "rates": [round(rate) for rate in rates],
        "cpu_us_per_message": round(median(r.cpu_s / r.messages for r in runs) * 1e6, 3),
        "rss_mib": round(max(each.rss_mib for each in runs), 1),
        "messages_per_request": round(
            sum(r.messages for r in runs) / sum(r.requests for r in runs), 1
        ),
        "sink_busy": round(median(each.sink_cpu_s / each.wall_s for each in runs), 2),
        "runs": [asdict(each) for each in runs],
    }


def _say(scenario: Scenario, name: str, found: object) -> None:
    assert isinstance(found, dict)
    print(
        f"{scenario.name[:32]:32} {name:24} {found['messages_per_s']:12,}/s "
        f"({found['spread'][0]:,} to {found['spread'][1]:,}), "
        f"CPU {found['cpu_us_per_message']:.2f} us a message, "
        f"RSS {found['rss_mib']:.0f} MiB, {found['messages_per_request']:.0f} a request, "
        f"sink {found['sink_busy']:.0%} busy",
        flush=True,
    )


def _size(folder: Path, scenario: Scenario) -> int:
    plain = replace(scenario.stream, compression="")
    return (folder / plain.name).stat().st_size


_TOUCH = """
import mmap, time
memory = mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
ones = b"1" * ((1 << 30) // mmap.PAGESIZE)
began_s = time.perf_counter()
memory[:: mmap.PAGESIZE] = ones
print(round(time.perf_counter() - began_s, 2))
"""


def _fresh_memory_s() -> float:
    """What the system needs to give out 1 GiB that is touched for the first time.

    Some virtual machines have to ask their host for each page, and give it back soon after. In a
    process of its own, as children are counted with the most memory that their parent had.
    """
    touch = [sys.executable, "-c", _TOUCH]
    return float(subprocess.run(touch, check=True, capture_output=True, text=True).stdout)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.processor()
