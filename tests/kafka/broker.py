"""Run a Kafka: Apache's own by `scripts/kafka`, or the mock cluster that librdkafka brings."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

__all__ = ["Broker", "Kafka", "MockCluster", "missing_for_kafka", "running_kafka"]

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "kafka"
END_S = 30.0


def missing_for_kafka() -> str | None:
    """What a real Kafka would need and is not there."""
    missing = [name for name in ("java", "mvn") if shutil.which(name) is None]
    return " and ".join(missing) or None


class Broker:
    """Something that speaks Kafka's protocol.

    Attributes:
        address: host and port.
        is_real: it is Apache Kafka.
    """

    address: str
    is_real: bool

    def create_topic(self, name: str, partitions: int, largest_bytes: int = 1 << 20) -> str:
        """Make a topic that takes messages so large; its name."""
        raise NotImplementedError


@dataclass
class Kafka(Broker):
    """A running `scripts/kafka`."""

    process: subprocess.Popen[str]
    address: str
    secure_address: str | None = None
    """Where it speaks SASL over TLS."""
    is_real: bool = field(default=True, init=False)

    def create_topic(self, name: str, partitions: int, largest_bytes: int = 1 << 20) -> str:
        """Make a topic that takes messages so large; its name."""
        admin = AdminClient({"bootstrap.servers": self.address})
        topic = NewTopic(name, partitions, 1, config={"max.message.bytes": str(largest_bytes)})
        for future in admin.create_topics([topic]).values():
            future.result(timeout=20)
        return name

    def tool(self, name: str, *arguments: str, stdin: bytes = b"", timeout_s: float = 50) -> bytes:
        """Run one of Kafka's own programs on this broker; what it prints.

        Args:
            name: of the class, as `org.apache.kafka.tools.consumer.ConsoleConsumer`.
            arguments: besides --bootstrap-server.
            stdin: its input.
            timeout_s: how long it may take.
        """
        command = [str(SCRIPT), "tool", name, "--bootstrap-server", self.address, *arguments]
        done = subprocess.run(
            command, input=stdin, capture_output=True, timeout=timeout_s, check=False
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout


@contextmanager
def running_kafka(*arguments: str) -> Iterator[Kafka]:
    """Apache Kafka on a free port; see `scripts/kafka` for what it takes."""
    process = subprocess.Popen(
        [SCRIPT, *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), f"scripts/kafka does not run: {line!r}"
        kafka = Kafka(process, line.split()[-1])
        if "--secure" in arguments:
            line = process.stdout.readline()
            kafka.secure_address = line.removeprefix("with SASL over TLS on ").split(": ")[0]
        yield kafka
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


_PRODUCER = 0


class MockCluster(Broker):
    """A mock cluster inside this process; other processes can reach it as well.

    It goes through the C library that the client's wheel carries. That part of its interface is
    made for tests, and may change.

    Args:
        brokers: how many.
    """

    is_real = False

    def __init__(self, brokers: int = 1) -> None:
        self._lib = _library()
        error = ctypes.create_string_buffer(512)
        conf = self._lib.rd_kafka_conf_new()
        self._client = self._lib.rd_kafka_new(_PRODUCER, conf, error, len(error))
        assert self._client, error.value
        self._cluster = self._lib.rd_kafka_mock_cluster_new(self._client, brokers)
        assert self._cluster
        self.address = self._lib.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        self._lib.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lib.rd_kafka_mock_cluster_destroy(self._cluster)
        self._lib.rd_kafka_destroy(self._client)

    def create_topic(self, name: str, partitions: int, largest_bytes: int = 1 << 20) -> str:
        """Make a topic, which takes messages of any size; its name."""
        del largest_bytes
        code = self._lib.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)
        assert code == 0, f"error {code}"
        return name

    def push_errors(self, api: int, codes: Sequence[int]) -> None:
        """Let the next requests of this kind fail, one with each of these codes."""
        array = (ctypes.c_int * len(codes))(*codes)
        self._lib.rd_kafka_mock_push_request_errors_array(self._cluster, api, len(codes), array)

    def set_down(self, broker: int) -> None:
        """Close a broker's connections, and take no new ones."""
        self._lib.rd_kafka_mock_broker_set_down(self._cluster, broker)

    def set_up(self, broker: int) -> None:
        """Let it be reached again."""
        self._lib.rd_kafka_mock_broker_set_up(self._cluster, broker)


def _library() -> Any:
    import confluent_kafka  # noqa: PLC0415 - where it is installed is what matters

    folder = Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
    (path,) = folder.glob("librdkafka*.so*")
    library = ctypes.CDLL(str(path))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures: Iterable[tuple[str, Any, list[Any]]] = (
        ("conf_new", pointer, []),
        ("new", pointer, [number, pointer, text, ctypes.c_size_t]),
        ("destroy", None, [pointer]),
        ("mock_cluster_new", pointer, [pointer, number]),
        ("mock_cluster_destroy", None, [pointer]),
        ("mock_cluster_bootstraps", text, [pointer]),
        ("mock_topic_create", number, [pointer, text, number, number]),
        ("mock_group_initial_rebalance_delay_ms", None, [pointer, ctypes.c_int32]),
        (
            "mock_push_request_errors_array",
            None,
            [pointer, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(number)],
        ),
        ("mock_broker_set_down", number, [pointer, ctypes.c_int32]),
        ("mock_broker_set_up", number, [pointer, ctypes.c_int32]),
    )
    for name, result, arguments in signatures:
        function = getattr(library, f"rd_kafka_{name}")
        function.restype, function.argtypes = result, arguments
    return library
