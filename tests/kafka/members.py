"""Fill topics, and run pusher as members of a consumer group."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import time
import uuid
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import Consumer, Producer, TopicPartition
from fakes.command import PUSHER, environment
from proof.driving import Oracle
from proof.judge import Record
from proof.workload import Line

from kafka.broker import Broker

__all__ = ["Group", "Member", "fill", "name_of_a_topic", "until"]

SESSION_S = 3
DEADLINE_S = 50.0


def name_of_a_topic() -> str:
    """One that no other test has."""
    return f"changes-{uuid.uuid4().hex[:12]}"


def fill(broker: Broker, topic: str, lines: Sequence[Line]) -> None:
    """Produce lines; those of one object go into one partition."""
    settings = {"bootstrap.servers": broker.address, "linger.ms": 20, "enable.idempotence": True}
    producer = Producer(settings)  # Without idempotence, a retry could change the order.
    failed: list[object] = []

    def note(error: object, message: object) -> None:
        del message
        if error is not None:
            failed.append(error)

    for line in lines:
        key = "|".join(line.object_key)
        while True:
            try:
                producer.produce(topic, line.raw, key, on_delivery=note)
            except BufferError:
                producer.poll(0.1)
            else:
                break
        producer.poll(0)
    assert producer.flush(60) == 0
    assert not failed


async def until(is_so: Callable[[], Any], what: str, within_s: float = DEADLINE_S) -> None:
    """Wait for a condition, a plain or an asynchronous one."""
    deadline_s = time.monotonic() + within_s
    while True:
        found = is_so()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline_s, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.05)


class Member:
    """One process of pusher, in a folder of its own."""

    def __init__(self, process: Process, folder: Path) -> None:
        self.process = process
        self.folder = folder
        self._err = asyncio.ensure_future(self._read())
        self.err = ""

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.err += line.decode(errors="replace")

    def signal(self, signum: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signum)

    async def ended(self, within_s: float = DEADLINE_S) -> int:
        """Wait for its end; its exit code."""
        try:
            async with asyncio.timeout(within_s):
                code = await self.process.wait()
        except TimeoutError:
            raise AssertionError(f"still runs after {within_s} s:\n{self.err[-3000:]}") from None
        await self._err
        assert "Traceback" not in self.err, self.err
        return code

    @property
    def report(self) -> dict[str, Any]:
        """The report that it has written."""
        report: dict[str, Any] = orjson.loads((self.folder / "report.json").read_bytes())
        return report


class Group:
    """A consumer group of pushers.

    Args:
        broker: where the topic is.
        topic: that is pushed.
        oracle: where to.
        folder: for the files of the members.
        protocol: of the group.
        options: of `pusher push`, besides.
    """

    def __init__(
        self,
        broker: Broker,
        topic: str,
        oracle: Oracle,
        folder: Path,
        *,
        protocol: str = "classic",
        options: Sequence[str] = (),
    ) -> None:
        self.name = f"group-{uuid.uuid4().hex[:12]}"
        self.members: list[Member] = []
        self._broker = broker
        self._topic = topic
        self._oracle = oracle
        self._folder = folder
        self._protocol = protocol
        self._options = options
        self._config = folder / "kafka.properties"
        timing = f"session.timeout.ms={SESSION_S}000\nheartbeat.interval.ms=300\n"
        self._config.write_text(timing if protocol == "classic" else "")

    def configure(self, *properties: str) -> None:
        """Give these properties to the members that are to come, instead of ours."""
        self._config.write_text("\n".join(properties))

    async def join(self, *options: str) -> Member:
        """Start a member."""
        folder = self._folder / f"member-{len(self.members)}"
        folder.mkdir()
        process = await asyncio.create_subprocess_exec(
            *(*PUSHER, "push", f"kafka://{self._broker.address}/{self._topic}?group={self.name}"),
            *("--url", self._oracle.url, "--no-preflight", "--confirm", "0"),
            *("--kafka-config", str(self._config), "--group-protocol", self._protocol),
            *("--report", "report.json", "--dead-letters", "dead.ndjson", "--progress", "never"),
            *self._options,
            *options,
            cwd=folder,
            env=environment(),
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=PIPE,
            start_new_session=True,
        )
        member = Member(process, folder)
        self.members.append(member)
        return member

    async def end(self) -> None:
        """Kill what still runs."""
        for member in self.members:
            if member.process.returncode is None:
                member.signal(signal.SIGKILL)
            await member.process.wait()

    def letters(self) -> list[bytes]:
        """The original lines of all members' dead letters; half a letter of a kill aside."""
        found = []
        for path in self._folder.glob("member-*/dead.ndjson"):
            for line in path.read_bytes().splitlines():
                with suppress(orjson.JSONDecodeError):
                    letter = orjson.loads(line)
                    encoded = letter.get("record_base64")
                    found.append(
                        letter["record"].encode() if encoded is None else base64.b64decode(encoded)
                    )
        return found

    def committed(self, partitions: int) -> list[int]:
        """The group's committed offset of each partition; below zero where there is none."""
        return self._ask(
            lambda consumer, parts: [p.offset for p in consumer.committed(parts, 10)], partitions
        )

    def ends(self, partitions: int) -> list[int]:
        """The end of each partition."""
        return self._ask(
            lambda consumer, parts: [consumer.get_watermark_offsets(p, 10)[1] for p in parts],
            partitions,
        )

    def _ask(self, question: Callable[[Any, list[Any]], list[int]], partitions: int) -> list[int]:
        consumer = Consumer({"bootstrap.servers": self._broker.address, "group.id": self.name})
        try:
            return question(consumer, [TopicPartition(self._topic, n) for n in range(partitions)])
        finally:
            consumer.close()


async def taken(oracle: Oracle) -> int:
    """How many messages the oracle has taken, each counted once."""
    record: Record = await oracle.record()
    return len(set(record.numbers))
