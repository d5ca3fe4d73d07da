"""Run `pusher` as its users do: as a process of its own, with a deadline, and never left behind."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pusher

PUSHER = (sys.executable, "-m", "pusher")
DATA = Path(pusher.__file__).parent / "data"
NORTHWIND = DATA / "northwind.ndjson.gz"
NORTHWIND_COUNT = 4059

DEADLINE_S = 40.0

Stream = int | None


@dataclass(frozen=True)
class Ended:
    """What a command has left: its exit code and what it wrote."""

    code: int
    out: bytes
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """The report on stdout; it must be all that is there, and agree with the exit code."""
        report: dict[str, Any] = json.loads(self.out)
        assert report["exit_code"] == self.code
        messages = report["messages"]
        assert messages["read"] == sum(
            messages[name] for name in ("delivered", "rejected", "skipped", "pending")
        )
        return report

    def counts(self) -> tuple[int, int, int, int]:
        """Messages read, delivered, rejected and pending."""
        messages = self.report["messages"]
        return (
            messages["read"],
            messages["delivered"],
            messages["rejected"],
            messages["pending"],
        )


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our environment without what would steer the command."""
    passed_on = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PUSHER_") and name not in {"NO_COLOR", "FORCE_COLOR"}
    }
    return {**passed_on, **(more or {})}


@asynccontextmanager
async def starting(
    *argv: str | Path,
    cwd: Path,
    stdin: Stream = DEVNULL,
    stdout: Stream = PIPE,
    stderr: Stream = PIPE,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Process]:
    """A process; it is killed at the end, with its children, if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *map(str, argv),
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=environment(env),
        start_new_session=True,
        limit=1 << 24,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if process.stdin is not None:
            process.stdin.close()
        await process.communicate()


async def ended(process: Process, stdin: bytes = b"", *, within_s: float) -> Ended:
    """Write to a process and close its stdin, if that is a pipe; wait for it to end."""
    async with asyncio.timeout(within_s):
        out, err = await process.communicate(None if process.stdin is None else stdin)
    assert process.returncode is not None
    text = (err or b"").decode()
    assert "Traceback" not in text, text
    return Ended(process.returncode, out or b"", text)


async def run(
    *arguments: str | Path,
    cwd: Path,
    stdin: bytes | int = DEVNULL,
    stdout: Stream = PIPE,
    stderr: Stream = PIPE,
    env: Mapping[str, str] | None = None,
    within_s: float = DEADLINE_S,
) -> Ended:
    """Run `pusher ARGUMENTS` to its end. `stdin` is what is piped into it, or a descriptor."""
    async with starting(
        *PUSHER,
        *arguments,
        cwd=cwd,
        stdin=PIPE if isinstance(stdin, bytes) else stdin,
        stdout=stdout,
        stderr=stderr,
        env=env,
    ) as process:
        return await ended(process, stdin if isinstance(stdin, bytes) else b"", within_s=within_s)


async def run_shell(
    script: str,
    *arguments: str | Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    within_s: float = DEADLINE_S,
) -> Ended:
    """Run a line of shell, in which `pusher` is the command, `$1` the first argument and so on.

    A pipe ends with the code of its last command that failed.
    """
    whole = f'pusher() {{ {shlex.join(PUSHER)} "$@"; }}\n{script}'
    argv = ("bash", "-o", "pipefail", "-c", whole, "bash", *arguments)
    async with starting(*argv, cwd=cwd, env=env) as process:
        return await ended(process, within_s=within_s)


@asynccontextmanager
async def running_bridge(*arguments: str | Path, cwd: Path) -> AsyncIterator[str]:
    """`pusher bridge` on a free port; yields its address."""
    argv = (*PUSHER, "bridge", "--port", "0", *arguments)
    async with starting(*argv, cwd=cwd, stderr=None) as process:
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("listening on http://127.0.0.1:"), line
        yield line.removeprefix("listening on ").strip()


@asynccontextmanager
async def northwind_bridge(*arguments: str | Path, cwd: Path) -> AsyncIterator[str]:
    """A bridge with the settings and stores of the bundled stream."""
    settings, stores = DATA / "northwind-settings.json", DATA / "northwind-stores.json"
    given = ("--settings", settings, "--stores", stores)
    async with running_bridge(*given, *arguments, cwd=cwd) as url:
        yield url


def message(number: int, **fields: Any) -> dict[str, Any]:
    """A good message; its fields can be changed, and are left out where they are None."""
    whole = {
        "storeId": "s1",
        "objectType": "PRODUCT",
        "externalObjectId": f"id{number}",
        "changedAt": 1_600_000_000_000 + number,
        "properties": {"n": str(number)},
        **fields,
    }
    return {name: value for name, value in whole.items() if value is not None}


def ndjson(entries: Iterable[dict[str, Any]]) -> bytes:
    """Lines of JSON."""
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


def files_in(folder: Path) -> list[str]:
    """The names of all that is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def letters_in(folder: Path, name: str = "pusher.dead.ndjson") -> list[dict[str, Any]]:
    """The dead letters in a folder; none when there is no file of them."""
    path = folder / name
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines()]
