"""A stalled endpoint behind a long input: pusher's memory stays within its budget."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from fakes.command import environment

from proof.driving import REPORT, peak_rss_mib, push_command, running_oracle
from proof.ledger import Ledger, size

MIB = 1 << 20
INPUT_BYTES = size(ci=300, full=2_000) * MIB
LANES = size(ci=20_000, full=100_000)
STALL_S = size(ci=5, full=30)
STALL_AFTER_REQUESTS = 20
BUDGET_MIB = 64
BOUND_MIB = 1.3 * BUDGET_MIB
SAMPLE_EVERY_S = 0.02
BLOCK_BYTES = 256 << 10
LONG_LINE_BYTES = 20 * 1000**2
LONG_LINE_EVERY_BYTES = 100 * MIB
FULL_LANES = 60_000
LONG_LINE_AT = 45_000


def line(number: int, text: str, store: str = "store") -> bytes:
    return (
        f'{{"storeId":"{store}","objectType":"DEAL","action":"UPSERT","externalObjectId":"{number}"'
        f',"changedAt":{1_600_000_000_000 + number}'
        f',"properties":{{"n":"{number}","t":"{text}"}}}}\n'
    ).encode()


def one_rare_message_a_chunk(total_bytes: int) -> Iterator[bytes]:
    """A lane that is too slow to fill a batch, with a message in every chunk."""
    text, number, sent_bytes = "x" * 900, 0, 0
    while sent_bytes < total_bytes:
        block = [line(number, text, "rare")]
        block += [line(number + 1 + i, text) for i in range(BLOCK_BYTES // len(block[0]))]
        number += len(block)
        sent_bytes += len(joined := b"".join(block))
        yield joined


def lanes_of_one_message(total_bytes: int) -> Iterator[bytes]:
    """A store for each message."""
    for number in range(LANES if total_bytes > BLOCK_BYTES else 1):
        yield line(number, "x" * 900, f"store-{number}")


def messages_of_50_kb(total_bytes: int) -> Iterator[bytes]:
    text = "x" * 50_000
    for number in range(max(1, total_bytes // len(text))):
        yield line(number, text)


def lines_of_20_mb(total_bytes: int) -> Iterator[bytes]:
    """A very long line now and then among short ones."""
    text, number, sent_bytes, long_at_bytes = "x" * 900, 0, 0, total_bytes // 3
    while sent_bytes < total_bytes:
        if sent_bytes >= long_at_bytes > BLOCK_BYTES:
            long_at_bytes += LONG_LINE_EVERY_BYTES
            block = line(number, "x" * LONG_LINE_BYTES)
            number += 1
        else:
            block = b"".join(line(number + i, text) for i in range(256))
            number += 256
        sent_bytes += len(block)
        yield block


def a_long_line_behind_many_lanes(total_bytes: int) -> Iterator[bytes]:
    """It comes when the budget is used up: before it is read, there has to be room."""
    is_whole = total_bytes > BLOCK_BYTES
    for number in range(FULL_LANES if is_whole else 1):
        if number == LONG_LINE_AT:
            yield line(FULL_LANES, "x" * LONG_LINE_BYTES, "long")
        yield line(number, "x" * 900, f"store-{number}")


SHAPES = {
    "one rare message a chunk": one_rare_message_a_chunk,
    "lanes of one message": lanes_of_one_message,
    "messages of 50 kB": messages_of_50_kb,
    "lines of 20 MB": lines_of_20_mb,
    "20 MB behind many lanes": a_long_line_behind_many_lanes,
}


@dataclass(frozen=True)
class Streamed:
    """A run that got its input through a pipe."""

    code: int
    peak_mib: float
    input_mib: float
    messages: int
    report: dict[str, Any]


async def stream(folder: Path, blocks: Iterator[bytes], url: str) -> Streamed:
    """Push blocks of lines through a pipe, in a folder, watching the memory."""
    changed = {"memory": f"{BUDGET_MIB}MiB", "timeout": "60s"}
    process = await asyncio.create_subprocess_exec(
        *push_command("-", url, changed),
        cwd=folder,
        env=environment(),
        stdin=PIPE,
        stdout=DEVNULL,
        start_new_session=True,
    )
    sizes: list[int] = []
    lines = 0
    try:
        watching = asyncio.ensure_future(watch(process))
        assert process.stdin is not None
        with suppress(ConnectionError):
            for block in blocks:
                process.stdin.write(block)
                await process.stdin.drain()
                sizes.append(len(block))
                lines += block.count(b"\n")
        process.stdin.close()
        code = await process.wait()
        peak_mib = await watching
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    report = orjson.loads((folder / REPORT).read_bytes())
    return Streamed(code, peak_mib, sum(sizes) / MIB, lines, report)


async def watch(process: Process) -> float:
    """The peak of a process's memory, when it has ended."""
    peak_mib = 0.0
    while process.returncode is None:
        peak_mib = max(peak_mib, peak_rss_mib(process.pid))
        await asyncio.sleep(SAMPLE_EVERY_S)
    return peak_mib


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    made = (tmp_path / "base", tmp_path / "whole")
    for folder in made:
        folder.mkdir()
    return made


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SHAPES)
async def test_a_stalled_endpoint_does_not_fill_the_memory(
    name: str, folders: tuple[Path, Path], ledger: Ledger
) -> None:
    shape = SHAPES[name]
    async with running_oracle() as oracle:
        base = await stream(folders[0], shape(1), oracle.url)
    stall = ("--stall-after", STALL_AFTER_REQUESTS, "--stall-s", STALL_S)
    async with running_oracle(*stall) as oracle:
        result = await stream(folders[1], shape(INPUT_BYTES), oracle.url)
        taken = (await oracle.record()).numbers
    lost = result.messages - len(set(taken))
    entry = ledger.entry("memory", name)
    entry.runs, entry.messages, entry.harms, entry.lost = 1, result.messages, 1, lost
    entry.repeated = entry.repeated_max = len(taken) - len(set(taken))
    entry.figures = {
        "input_mib": round(result.input_mib),
        "base_mib": round(base.peak_mib),
        "peak_mib": round(result.peak_mib),
        "bound_mib": round(base.peak_mib + BOUND_MIB),
        "stall_s": STALL_S,
    }
    is_within = result.peak_mib <= base.peak_mib + BOUND_MIB
    entry.failed = int(lost > 0 or result.code != 0 or not is_within)
    assert result.code == 0, str(result.report)
    assert result.report["elapsed_s"] >= STALL_S, "there was no stall"
    assert result.report["messages"]["delivered"] == result.messages
    assert lost == 0
    assert is_within, str(entry.figures)
