"""Where a live topic is: its address on the command line, and the client's properties in a file.

It reads no topic, and needs no client library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from pusher.errors import UsageError

__all__ = ["SCHEME", "TopicAddress", "read_properties", "redacted"]

SCHEME = "kafka://"

_OURS = {
    "bootstrap.servers": "the address names the brokers",
    "metadata.broker.list": "the address names the brokers",
    "group.id": "the address names the group",
    "enable.auto.commit": "what is delivered is committed, and nothing else",
    "enable.auto.offset.store": "what is delivered is committed, and nothing else",
    "enable.partition.eof": "pusher needs it",
}
"""Properties that are not to be set, and why."""

_SECRET = re.compile(r"password|secret|\bkey\.pem|jaas|oauthbearer\.config|token", re.IGNORECASE)
_ALWAYS_SHOWN = frozenset({"sasl.oauthbearer.token.endpoint.url"})
_PROPERTY = re.compile(r"\s*([A-Za-z0-9_.]+)\s*=(.*)")


@dataclass(frozen=True, slots=True)
class TopicAddress:
    """Brokers and topics: `kafka://host:9092,host:9092/topic,topic?group=name`.

    Attributes:
        brokers: host:port, separated by commas.
        topics: names; or one pattern that begins with ^.
        group: of consumers; None in the address of a topic that is written to.
    """

    brokers: str
    topics: tuple[str, ...]
    group: str | None = None

    @classmethod
    def parse(cls, text: str) -> TopicAddress:
        """Take an address apart.

        Raises:
            UsageError: it is not one. The message does not show it: it may hold a password.
        """
        if not text.startswith(SCHEME):
            raise UsageError("the address of a topic must be kafka://HOST:PORT/TOPIC")
        brokers, _, rest = text.removeprefix(SCHEME).partition("/")
        if "@" in brokers:
            raise UsageError("kafka://...: credentials go into the file of --kafka-config")
        path, has_query, query = rest.rpartition("?")
        if not has_query:
            path, query = rest, ""
        given = dict(parse_qsl(query, keep_blank_values=True))
        group = given.pop("group", None)
        for name in given:
            raise UsageError(f"kafka://...: {name!a:.40} is not known: only ?group=NAME is")
        names = unquote(path)
        topics = (names,) if names.startswith("^") else tuple(names.split(","))
        if (
            not brokers
            or not all(topics)
            or any("/" in topic for topic in topics[:1] if topic[0] != "^")
        ):
            raise UsageError("kafka://... must be kafka://HOST:PORT/TOPIC?group=NAME")
        if group == "":
            raise UsageError("kafka://...: the group has an empty name")
        for topic in topics:
            _check_pattern(topic)
        return cls(brokers, topics, group)

    @property
    def name(self) -> str:
        """What is read, for people."""
        return ", ".join(self.topics)

    def matches(self, topic: str) -> bool:
        """Whether a topic is one of those meant."""
        return any(
            re.search(one, topic) is not None if one.startswith("^") else one == topic
            for one in self.topics
        )


def _check_pattern(topic: str) -> None:
    if topic.startswith("^"):
        try:
            re.compile(topic)
        except re.error as error:
            raise UsageError(f"kafka://...: {topic} is no pattern: {error}") from error


def read_properties(path: Path | None) -> dict[str, str]:
    """Read librdkafka's properties: `name=value`, one a line; a line with # is a comment.

    Raises:
        UsageError: the file cannot be read, is no such file, or sets what is not to be set. No
            value is shown.
    """
    if path is None:
        return {}
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UsageError(f"--kafka-config: {path}: {why}") from error
    properties: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _PROPERTY.fullmatch(line)
        if match is None:
            raise UsageError(f"--kafka-config: {path}, line {number}: not a line of name=value")
        name, value = match[1], match[2].strip()
        if name in _OURS:
            raise UsageError(f"--kafka-config: {path}, line {number}: {name}: {_OURS[name]}")
        properties[name] = value
    return properties


def redacted(text: str, properties: Mapping[str, str]) -> str:
    """Take the values of secret properties out of what the client library says."""
    for name, value in properties.items():
        if value and _SECRET.search(name) and name not in _ALWAYS_SHOWN:
            text = text.replace(value, "***")
    return text
