"""Log lines on stderr, for people or as JSON. A closed stderr never stops a run."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import orjson

__all__ = ["configure"]


def configure(*, verbosity: int, log_format: str) -> None:
    """Send the log of pusher to stderr.

    Args:
        verbosity: below 0 errors only; 0 progress and warnings; above 0 each retry as well.
        log_format: "text" or "json".
    """
    logger = logging.getLogger("pusher")
    handler = _StderrHandler()
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    logger.handlers[:] = [handler]
    logger.propagate = False
    if verbosity < 0:
        logger.setLevel(logging.ERROR)
    else:
        logger.setLevel(logging.DEBUG if verbosity else logging.INFO)


class _StderrHandler(logging.Handler):
    """Writes to what stderr is at that moment: a live display may stand in for it."""

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            return  # Nobody listens any more.


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"pusher: {prefix}{record.getMessage()}"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {
            "at": at,
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        return orjson.dumps(fields).decode()
