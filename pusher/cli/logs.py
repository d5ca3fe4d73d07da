"""Log lines on stderr, for people or as JSON. A closed stderr never stops a run."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import orjson

__all__ = ["configure", "is_json", "shown"]


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


def is_json() -> bool:
    """Whether the log was asked for as JSON."""
    handlers = logging.getLogger("pusher").handlers
    return any(isinstance(handler.formatter, _JsonFormatter) for handler in handlers)


def shown(message: str, fields: dict[str, object] | None = None) -> None:
    """Write something that was asked for, whatever the log's level is.

    Args:
        message: its text.
        fields: what a log that is JSON says besides.
    """
    logger = logging.getLogger("pusher")
    record = logger.makeRecord(
        logger.name, logging.INFO, "", 0, message, (), None, extra={"fields": fields or {}}
    )
    for handler in logger.handlers:
        handler.handle(record)


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
