"""Where change streams come from."""

from pusher.sources.client import Plan, load_client
from pusher.sources.exports import Formats
from pusher.sources.kafka import KafkaSource
from pusher.sources.letters import LetterFilter
from pusher.sources.lines import LineSource
from pusher.sources.opening import open_source
from pusher.sources.topics import SCHEME, TopicAddress, read_properties, redacted
from pusher.sources.until import Until

__all__ = [
    "SCHEME",
    "Formats",
    "KafkaSource",
    "LetterFilter",
    "LineSource",
    "Plan",
    "TopicAddress",
    "Until",
    "load_client",
    "open_source",
    "read_properties",
    "redacted",
]
