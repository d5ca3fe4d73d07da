"""`python -m benchmarks kafka`: the same messages from a topic of Apache Kafka and from a file.

Both are pushed to the sink in turns, round by round. A topic has six partitions; each run is the
only member of a new group. It needs Java, Maven and the client: see `scripts/kafka`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import orjson
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks.figures import ratio
from benchmarks.inputs import Stream, write
from benchmarks.measuring import BenchmarkError, Command, run, sink

__all__ = ["measure"]

ROOT = Path(__file__).parents[1]

_PARTITIONS = 6
_START_UPS = 3
_CONCURRENCY = 16
_MAP = """
[tables."shop.products"]
type = "PRODUCT"
store = { field = "shop" }
id = "id"
properties = ["name", "price", "description", "stock"]
"""


@dataclass(frozen=True)
class Case:
    """Lines, and the options that they are pushed with."""

    name: str
    path: Path
    options: tuple[str, ...] = ()


def measure(folder: Path, messages: int, rounds: int) -> dict[str, Any]:
    """Rates and CPU of both sources for sync messages, and for changes of rows with a mapping.

    Args:
        folder: for the inputs.
        messages: of each run.
        rounds: of each source, in turns.

    Raises:
        BenchmarkError: Kafka does not run, or something else arrived than was given.
    """
    found: dict[str, Any] = {}
    scratch = Path(tempfile.mkdtemp(prefix="bench"))
    try:
        with _kafka() as brokers:
            for case in _cases(folder, messages, scratch):
                found[case.name] = _compared(case, brokers, messages, rounds, scratch)
    finally:
        shutil.rmtree(scratch)
    return {"messages": messages, "rounds": rounds, "partitions": _PARTITIONS, "cases": found}


def _cases(folder: Path, messages: int, scratch: Path) -> list[Case]:
    (scratch / "map.toml").write_text(_MAP)
    options = ("--map", str(scratch / "map.toml"), "--format", "debezium")
    return [
        Case("sync messages", write(Stream(messages), folder)),
        Case("changes of Debezium with --map", _changes(folder, messages), options),
    ]


def _changes(folder: Path, messages: int) -> Path:
    """Changes of rows, each of about 240 bytes, in a file."""
    path = folder / f"{messages}-debezium.ndjson"
    if not path.exists():
        with path.open("wb") as file:
            for number in range(messages):
                row = {
                    "id": number,
                    "shop": f"shop-{number % 40}",
                    "name": f"Tea number {number}",
                    "price": f"{number % 1000}.50",
                    "description": "green dried smoked whole organic fresh",
                    "stock": number % 17,
                }
                source = {"db": "shop", "table": "products", "ts_ms": 1_600_000_000_000 + number}
                change = {"before": None, "after": row, "source": source, "op": "c"}
                file.write(orjson.dumps(change, option=orjson.OPT_APPEND_NEWLINE))
    return path


def _compared(
    case: Case, brokers: str, messages: int, rounds: int, scratch: Path
) -> dict[str, Any]:
    one = scratch / "one.ndjson"
    with case.path.open("rb") as lines:
        one.write_bytes(next(lines))
    sources = {
        "file": (str(case.path), str(one)),
        "topic": (_filled(brokers, case.path), _filled(brokers, one)),
    }
    runs: dict[str, list[dict[str, float]]] = {"file": [], "topic": []}
    start_ups: dict[str, list[dict[str, float]]] = {"file": [], "topic": []}
    for _ in range(_START_UPS):
        for name, (_, short) in sources.items():
            start_ups[name].append(_run(short, case.options, 1, scratch))
    for _ in range(rounds):
        for name, (whole, _) in sources.items():
            runs[name].append(_run(whole, case.options, messages, scratch))
            print(f"{case.name:32} {name:6} {runs[name][-1]['wall_s']:7.2f} s", flush=True)
    found: dict[str, Any] = {
        "mean_line_bytes": round(case.path.stat().st_size / messages, 1),
        **{name: _summary(runs[name], start_ups[name], messages) for name in sources},
    }
    of_file, of_topic = found["file"], found["topic"]
    share = 1 - of_file["loop_us_per_message"] / of_topic["loop_us_per_message"]
    found["loop_share_of_consuming"] = round(share, 3)
    print(f"{case.name:32} {ratio(of_topic['rates'], of_file['rates'])} of the rate from a file")
    return found


def _summary(
    runs: list[dict[str, float]], start_ups: list[dict[str, float]], messages: int
) -> dict[str, Any]:
    """Rates and CPU, less what the same command takes for one message."""
    idle = {name: median(one[name] for one in start_ups) for name in start_ups[0]}
    rates = [messages / (one["wall_s"] - idle["wall_s"]) for one in runs]

    def us(name: str) -> float:
        return round(median(one[name] - idle[name] for one in runs) / messages * 1e6, 2)

    return {
        "start_up_s": round(idle["wall_s"], 3),
        "messages_per_s": round(median(rates)),
        "rates": [round(rate) for rate in rates],
        "loop_us_per_message": us("loop_s"),
        "cpu_us_per_message": us("all_s"),
        "rss_mib": round(max(one["rss_mib"] for one in runs), 1),
    }


def _run(source: str, options: tuple[str, ...], messages: int, scratch: Path) -> dict[str, float]:
    """One run, from a file or a topic; a topic's group is new, and ends with what is there."""
    timing = scratch / "timing.json"
    is_topic = source.startswith("kafka://")
    if is_topic:
        source = f"{source}?group=bench-{uuid.uuid4().hex}"
    command = [
        *(sys.executable, "-m", "benchmarks.timed", str(timing), "push", source),
        *(("--until", "end") if is_topic else ()),
        *("--concurrency", str(_CONCURRENCY), "--confirm", "0", "--no-preflight"),
        *("--progress", "never", "--dead-letters", str(scratch / "dead.ndjson"), *options),
    ]
    with sink() as target:
        taken, _ = run(Command([*command, "--url", target.url]), target, scratch / "errors")
    if taken.messages != messages:
        raise BenchmarkError(f"{source}: {taken.messages} of {messages} arrived")
    cpu: dict[str, float] = json.loads(timing.read_text())
    return {"wall_s": taken.wall_s, "rss_mib": taken.rss_mib, **cpu}


def _filled(brokers: str, path: Path) -> str:
    """Put lines into a new topic, those of an object into one partition; its address."""
    topic = f"bench-{uuid.uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": brokers})
    admin.create_topics([NewTopic(topic, _PARTITIONS, 1)])[topic].result(timeout=30)
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 50, "enable.idempotence": True})
    failed: list[object] = []

    def note(error: object, message: object) -> None:
        del message
        if error is not None:
            failed.append(error)

    with path.open("rb") as lines:
        while block := list(islice(lines, 10_000)):
            for number, line in enumerate(block):
                while True:
                    try:
                        value = line.rstrip(b"\n")
                        producer.produce(topic, value, str(number), on_delivery=note)
                    except BufferError:
                        producer.poll(0.1)
                    else:
                        break
            producer.poll(0)
    if producer.flush(120) or failed:
        raise BenchmarkError(f"the topic could not be filled: {failed[:1]}")
    return f"kafka://{brokers}/{topic}"


@contextmanager
def _kafka() -> Iterator[str]:
    process = subprocess.Popen(
        [ROOT / "scripts" / "kafka"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise BenchmarkError("scripts/kafka does not run")
        yield line.split()[-1]
    finally:
        process.terminate()
        process.wait()
