"""Where change streams come from."""

from pusher.sources.lines import LineSource
from pusher.sources.opening import open_source

__all__ = ["LineSource", "open_source"]
