"""Push NDJSON change streams into an Ecommerce Bridge v2: batched, ordered per object, confirmed.

The names below are loaded when they are first used, so that `pusher --version` does not wait for an
HTTP client that it does not need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from pusher.version import __version__

if TYPE_CHECKING:
    from pusher.client import BridgeClient
    from pusher.config import Settings
    from pusher.errors import (
        BridgeApiError,
        DiskError,
        EndpointError,
        InputError,
        PusherError,
        UsageError,
    )
    from pusher.model import Lane
    from pusher.pipeline import Pipeline, push
    from pusher.refreshing import Refresher, Tokens
    from pusher.report import Report
    from pusher.sampling import SampleSize
    from pusher.sources import LetterFilter, LineSource, open_source
    from pusher.tally import RejectedMax

__all__ = [
    "BridgeApiError",
    "BridgeClient",
    "DiskError",
    "EndpointError",
    "InputError",
    "Lane",
    "LetterFilter",
    "LineSource",
    "Pipeline",
    "PusherError",
    "Refresher",
    "RejectedMax",
    "Report",
    "SampleSize",
    "Settings",
    "Tokens",
    "UsageError",
    "__version__",
    "open_source",
    "push",
]

_HOMES = {
    "BridgeApiError": "errors",
    "BridgeClient": "client",
    "DiskError": "errors",
    "EndpointError": "errors",
    "InputError": "errors",
    "Lane": "model",
    "LetterFilter": "sources",
    "LineSource": "sources",
    "Pipeline": "pipeline",
    "PusherError": "errors",
    "Refresher": "refreshing",
    "RejectedMax": "tally",
    "Report": "report",
    "SampleSize": "sampling",
    "Settings": "config",
    "Tokens": "refreshing",
    "UsageError": "errors",
    "open_source": "sources",
    "push": "pipeline",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'pusher' has no attribute {name!r}")
    value: object = getattr(import_module(f"pusher.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
