"""Who is measured: how each is started, which version it is, and what it promises."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.measuring import Command

__all__ = ["CONTENDERS", "Contender", "Job"]

PEERS = Path(__file__).with_name("peers")
WRK_S = 3


@dataclass(frozen=True)
class Job:
    """What a contender is to push, and where; `scratch` is a folder of its own."""

    input: Path
    url: str
    concurrency: int
    lanes: int
    scratch: Path
    certificate: Path | None = None
    stdin: bool = False
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contender:
    """One of those that are compared.

    `bulk` is false for what sends one request after the other, or starts a process for each: it
    gets the first part of the input only. `version` says None where it is not installed.
    """

    name: str
    command: Callable[[Job], Command]
    version: Callable[[], str | None]
    bulk: bool = True


def _pusher(job: Job, *features: str) -> Command:
    url, certificate = job.url, job.certificate
    return Command(
        [
            *(sys.executable, "-m", "pusher", "push", "-" if job.stdin else str(job.input)),
            *("--url", url, "--concurrency", str(job.concurrency), *features, *job.options),
            *(("--ca-file", str(certificate)) if certificate else ()),
        ],
        stdin=job.input if job.stdin else None,
    )


def _with_features(job: Job) -> Command:
    """As it is used: with a checkpoint, dead letters, a confirmed sample and progress on stderr."""
    checkpoint = job.scratch / "checkpoint"
    checkpoint.unlink(missing_ok=True)
    letters = job.scratch / "dead.ndjson"
    return _pusher(job, "--checkpoint", str(checkpoint), "--dead-letters", str(letters))


def _without_features(job: Job) -> Command:
    letters = str(job.scratch / "dead.ndjson")
    return _pusher(
        job, "--confirm", "0", "--progress", "never", "--no-preflight", "--dead-letters", letters
    )


def _bare(job: Job) -> Command:
    environment = {"SSL_CERT_FILE": str(job.certificate)} if job.certificate else {}
    return Command(
        [
            *(sys.executable, "-m", "benchmarks.bare"),
            *("/dev/stdin" if job.stdin else str(job.input), job.url, str(job.concurrency)),
        ],
        stdin=job.input if job.stdin else None,
        environment=environment,
    )


def _hubspot3(job: Job) -> Command:
    script = str(PEERS / "hubspot3" / "push.py")
    return Command([sys.executable, script, str(job.input), job.url])


def _shell(script: str) -> Callable[[Job], Command]:
    return lambda job: Command(
        [
            str(PEERS / "shell" / script),
            *(str(job.input), job.url, str(job.concurrency), str(job.scratch)),
        ]
    )


def _wrk(job: Job) -> Command:
    return Command(
        [
            *("wrk", "--threads", "2", "--connections", str(job.concurrency)),
            *("--duration", f"{WRK_S}s", "--script", str(PEERS / "wrk" / "put.lua"), job.url),
        ],
        environment={"BODY": str(job.input)},
    )


def _package(name: str) -> Callable[[], str | None]:
    return lambda: f"{name} {version(name)}"


def _programs(*commands: tuple[str, ...]) -> Callable[[], str | None]:
    """The versions that programs print of themselves; None where one is missing."""

    def versions() -> str | None:
        found = []
        for program, *arguments in commands:
            if not shutil.which(program):
                return None
            ran = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
            number = re.search(r"\d+(\.\d+)+|\d{8}", ran.stdout + ran.stderr)
            found.append(f"{program} {number[0] if number else 'of unknown version'}")
        return ", ".join(found)

    return versions


def _libraries() -> str:
    names = ("aiohttp", "msgspec", "uvloop")
    return f"Python {platform.python_version()}, " + ", ".join(f"{n} {version(n)}" for n in names)


def _benthos(job: Job) -> Command:
    return Command(
        [str(benthos_program()), "run", str(PEERS / "benthos" / "push.yaml")],
        environment={
            "INPUT": str(job.input),
            "URL": job.url,
            "CONCURRENCY": str(job.concurrency),
            "READ_TOGETHER": str(200 * job.lanes),
        },
    )


def benthos_program() -> Path:
    """Where the program is built to."""
    return Path(".benchmarks") / "benthos"


def _benthos_version() -> str | None:
    """Build it where Go is installed; the version is that of the module."""
    if not shutil.which("go"):
        return None
    folder = PEERS / "benthos"
    program = benthos_program().resolve()
    subprocess.run(["go", "build", "-o", str(program), "."], cwd=folder, check=True)
    module = re.search(r"redpanda-data/benthos/v4 (v\S+)", (folder / "go.mod").read_text())
    return f"Benthos {module[1]}" if module else None


def _syslog_ng(job: Job) -> Command:
    folder = PEERS / "syslog_ng"
    scratch = job.scratch
    config = scratch / "push.conf"
    made = subprocess.run(
        [
            *(sys.executable, str(folder / "make_config.py")),
            *(str(job.input), job.url, str(job.concurrency)),
        ],
        capture_output=True,
        check=True,
    )
    config.write_bytes(made.stdout)
    # It cannot wait for a regular file as it does for a pipe.
    return Command(
        [
            *("sh", "-c", 'cat "$0" | exec syslog-ng "$@"', str(job.input)),
            *("-F", "--no-caps", "-f", str(config), "-R", str(scratch / "persist")),
            *("-p", str(scratch / "pid"), "-c", str(scratch / "control")),
        ],
    )


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("pusher", _with_features, lambda: f"pusher {version('ecomm-pusher')}"),
        Contender("pusher, bare", _without_features, lambda: f"pusher {version('ecomm-pusher')}"),
        Contender("bare loop", _bare, _libraries),
        Contender("Benthos", _benthos, _benthos_version),
        Contender("syslog-ng", _syslog_ng, _programs(("syslog-ng", "--version"))),
        Contender("hubspot3", _hubspot3, _package("hubspot3"), bulk=False),
        Contender(
            "jq | split | xargs curl",
            _shell("xargs.sh"),
            _programs(("jq", "--version"), ("curl", "--version")),
            bulk=False,
        ),
        Contender(
            "jq | parallel curl",
            _shell("parallel.sh"),
            _programs(("parallel", "--version"), ("curl", "--version")),
            bulk=False,
        ),
        Contender("wrk", _wrk, _programs(("wrk", "--version"))),
    )
}
