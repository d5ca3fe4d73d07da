"""Errors that end a run, named by who has to act.

Outcomes of single messages are values, not errors.
"""

from __future__ import annotations

__all__ = [
    "BridgeApiError",
    "DiskError",
    "EndpointError",
    "InputError",
    "PusherError",
    "UsageError",
]


class PusherError(Exception):
    """Base of all errors that pusher raises on purpose; its text is one line for a person."""


class UsageError(PusherError):
    """The caller is wrong: a bad option, a missing file, an unusable address. Exit code 2."""


class InputError(PusherError):
    """The input broke while it was read: a damaged archive, a file that shrank. Exit code 3."""


class EndpointError(PusherError):
    """The endpoint cannot be used at all: it could not be reached, or it is not a bridge."""


class BridgeApiError(EndpointError):
    """The bridge answered a call of `BridgeClient` with an error.

    Attributes:
        status: the HTTP status code.
        correlation_id: what the bridge calls this failure in its own logs, where it said so.
    """

    def __init__(self, message: str, *, status: int, correlation_id: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.correlation_id = correlation_id


class DiskError(PusherError):
    """A file of ours could not be written: a full or read-only disk. Exit code 3."""
