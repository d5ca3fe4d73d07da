"""How long a line that arrives on standard input takes to its 2xx.

Lines are written when they are due, whether the earlier ones have been answered or not, and a line
counts from when it was due. So a stall makes all lines behind it late, and none is left out
(coordinated omission).
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import tempfile
import termios
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from benchmarks.figures import percentile
from benchmarks.measuring import BenchmarkError, sink

__all__ = ["ARRIVALS", "Arrivals", "measure"]

_LANES = 8
_TICK_S = 0.001
_WARM_UP_S = 0.5
_LONGEST_START_S = 10.0
_LONGEST_END_S = 60.0


@dataclass(frozen=True)
class Arrivals:
    """Lines that come at an even rate, for so long; times as the command line takes them."""

    lines_per_s: int
    linger: str = "1s"
    max_age: str = "30s"
    for_s: float = 10.0

    @property
    def count(self) -> int:
        """All lines."""
        return int(self.lines_per_s * self.for_s)


ARRIVALS = (
    Arrivals(20, linger="10ms"),
    Arrivals(20, max_age="1s"),
    Arrivals(1_000, linger="10ms"),
    Arrivals(1_000, max_age="200ms"),
    Arrivals(10_000),
    Arrivals(50_000),
)


def measure(arrivals: Arrivals, scratch: Path) -> dict[str, object]:
    """Feed one pusher and compare when lines were due with when the sink had answered.

    Raises:
        BenchmarkError: it failed, or lines are missing.
    """
    lines = [_line(number) for number in range(arrivals.count)]
    letters = str(scratch / "dead.ndjson")
    with sink("--times") as target:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pusher", "push", "--url", target.url, "-q"),
                *("--linger", arrivals.linger, "--max-age", arrivals.max_age),
                *("--confirm", "0", "--dead-letters", letters),
            ],
            stdin=subprocess.PIPE,
        )
        assert process.stdin is not None
        due_s = _feed(process.stdin, lines, arrivals.lines_per_s)
        code = process.wait(_LONGEST_END_S)
        answered = target.finish()["acknowledged"]
    assert isinstance(answered, dict)
    if code or len(answered) != len(lines):
        raise BenchmarkError(f"exit code {code}, {len(answered)} of {len(lines)} lines arrived")
    first = int(arrivals.lines_per_s * _WARM_UP_S)  # The first of them wait for the start.
    late_s = sorted(answered[f"o{number}"] - due_s[number] for number in range(first, len(lines)))
    return (
        asdict(arrivals)
        | {f"p{percent}_ms": round(percentile(late_s, percent) * 1000, 1) for percent in (50, 99)}
        | {"max_ms": round(late_s[-1] * 1000, 1), "lines": len(late_s)}
    )


def _feed(pipe: IO[bytes], lines: list[bytes], lines_per_s: int) -> list[float]:
    """Write each line when it is due; return when that was."""
    pipe.write(b"\n")  # A blank line is passed over; once it is gone, the pusher has started.
    pipe.flush()
    _wait_until_read(pipe)
    began_s = time.monotonic()
    written = 0
    while written < len(lines):
        now_s = time.monotonic()
        due = min(int((now_s - began_s) * lines_per_s) + 1, len(lines))
        if due > written:
            pipe.write(b"".join(lines[written:due]))
            pipe.flush()
            written = due
        time.sleep(_TICK_S)
    pipe.close()
    return [began_s + number / lines_per_s for number in range(len(lines))]


def _wait_until_read(pipe: IO[bytes]) -> None:
    deadline_s = time.monotonic() + _LONGEST_START_S
    while int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder):
        if time.monotonic() > deadline_s:
            raise BenchmarkError("it does not read its standard input")
        time.sleep(_TICK_S)


def _line(number: int) -> bytes:
    return (
        b'{"storeId":"store-%d","objectType":"PRODUCT","action":"UPSERT","changedAt":%d,'
        b'"externalObjectId":"o%d","properties":{"name":"%d","description":"green tea, dried"}}\n'
        % (number % _LANES, 1_600_000_000_000 + number, number, number)
    )


def main() -> None:
    """Print a JSON array. A process of its own, as it remembers every line."""
    with tempfile.TemporaryDirectory() as name:
        json.dump([measure(arrivals, Path(name)) for arrivals in ARRIVALS], sys.stdout)


if __name__ == "__main__":
    main()
