"""Where change streams come from."""

from pusher.sources.exports import Formats
from pusher.sources.letters import LetterFilter
from pusher.sources.lines import LineSource
from pusher.sources.opening import open_source

__all__ = ["Formats", "LetterFilter", "LineSource", "open_source"]
