"""What a second process brings: two pushers at the same time against one, with nginx as the sink.

`halves`: the input is two files from the start, so nothing is split or handed over. `shares`: both
read and decode all of it, and each sends its own stores, as workers that share the objects out
would have to. Neither has one checkpoint, one report or one limit of requests in flight.
`apart`: one reads, decodes and encodes, and the other one sends; see `benchmarks.apart`.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.figures import ratio
from benchmarks.inputs import Stream, write
from benchmarks.measuring import BenchmarkError

__all__ = ["measure"]

_STREAM = Stream(4_000_000)
_LONGEST_START_S = 10.0
_CONFIG = """
daemon off;
worker_processes auto;
pid {folder}/pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 64m;
  client_body_buffer_size 1m;
  keepalive_requests 1000000;
  upstream inner {{ server unix:{folder}/inner; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    # Passed on, so that the body is read to its end.
    location / {{
      proxy_pass http://inner;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}
  server {{ listen unix:{folder}/inner; location / {{ return 204; }} }}
}}
"""


def measure(folder: Path, rounds: int = 5) -> dict[str, object] | None:
    """The rates of one process and of two at the same time; None without nginx."""
    if shutil.which("nginx") is None:
        print("nginx is not installed: a second process is not measured", flush=True)
        return None
    whole = write(_STREAM, folder)
    halves, stores = _halved(whole)
    ways = {
        "one": [_Part(whole)],
        "halves": [_Part(half) for half in halves],
        "shares": [_Part(whole, tuple(names)) for names in stores],
    }
    rates: dict[str, list[float]] = {name: [] for name in (*ways, "apart")}
    with _nginx() as url:
        start_up_s = median(_push([_Part(_one_line(whole))], url) for _ in range(3))
        start_up_apart_s = median(_push_apart(_one_line(whole), url) for _ in range(3))
        for _ in range(rounds):
            for name, parts in ways.items():
                rates[name].append(_STREAM.messages / (_push(parts, url) - start_up_s))
            rates["apart"].append(_STREAM.messages / (_push_apart(whole, url) - start_up_apart_s))
    found: dict[str, object] = {"messages": _STREAM.messages}
    for name, each in rates.items():
        times = ratio(each, rates["one"])
        found[name] = {
            "rates": [round(rate) for rate in each],
            "by_one": [round(value, 3) for value in (times.value, times.low, times.high)],
        }
        print(f"two processes, {name}, by one: {times}", flush=True)
    return found


@dataclass(frozen=True)
class _Part:
    """What one process pushes: of these stores, or all."""

    path: Path
    stores: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[str]:
        chosen = [word for store in self.stores for word in ("--only-store", store)]
        return [str(self.path), *chosen]


def _halved(whole: Path) -> tuple[list[Path], list[list[str]]]:
    """Two files, and the stores in each: an object is in one of them only."""
    halves = [whole.with_name(f"half-{number}-of-{whole.name}") for number in (1, 2)]
    places: dict[bytes, int] = {}
    with whole.open("rb") as lines, halves[0].open("wb") as first, halves[1].open("wb") as last:
        for line in lines:
            store = line.partition(b'"storeId":"')[2].partition(b'"')[0]
            place = places.setdefault(store, len(places) % 2)
            (first, last)[place].write(line)
    return halves, [[s.decode() for s in places if places[s] == place] for place in (0, 1)]


def _one_line(whole: Path) -> Path:
    path = whole.with_name(f"one-of-{whole.name}")
    with whole.open("rb") as lines:
        path.write_bytes(lines.readline())
    return path


def _push(parts: list[_Part], url: str) -> float:
    """Push all parts, a process each, at the same time; how long it took."""
    with tempfile.TemporaryDirectory() as name:
        reports = [Path(name) / f"report-{number}" for number in range(len(parts))]
        started_s = time.perf_counter()
        processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "pusher", "push", *part.arguments),
                    *("--url", url, "-q", "--concurrency", "16"),
                    *("--confirm", "0", "--no-preflight"),
                    *("--report", str(report), "--dead-letters", f"{report}.dead"),
                ]
            )
            for part, report in zip(parts, reports, strict=True)
        ]
        codes = [process.wait() for process in processes]
        wall_s = time.perf_counter() - started_s
        if any(codes):
            raise BenchmarkError(f"exit codes {codes}")
        delivered = sum(json.loads(r.read_bytes())["messages"]["delivered"] for r in reports)
    if delivered not in {1, _STREAM.messages}:
        raise BenchmarkError(f"{delivered} of {_STREAM.messages} messages were delivered")
    return wall_s


def _push_apart(path: Path, url: str) -> float:
    """Decode in one process and send from another; how long it took."""
    module = (sys.executable, "-m", "benchmarks.apart")
    started_s = time.perf_counter()
    with subprocess.Popen([*module, "decode", str(path)], stdout=subprocess.PIPE) as decoding:
        sent = subprocess.run(
            [*module, "send", url, "16"], stdin=decoding.stdout, timeout=600, check=False
        )
    wall_s = time.perf_counter() - started_s
    if sent.returncode or decoding.returncode:
        raise BenchmarkError(f"exit codes {decoding.returncode} and {sent.returncode}")
    return wall_s


@contextmanager
def _nginx() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as name, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        Path(name).chmod(0o755)  # Its workers may be other users.
        config = Path(name) / "nginx.conf"
        config.write_text(_CONFIG.format(folder=name, port=port))
        process = subprocess.Popen(["nginx", "-p", name, "-c", str(config)])
        try:
            _wait_until_open(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _wait_until_open(port: int) -> None:
    deadline_s = time.monotonic() + _LONGEST_START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline_s:
                raise BenchmarkError("nginx does not listen") from None
            time.sleep(0.01)
        else:
            return
