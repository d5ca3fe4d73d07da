"""The keys that a Confluent sink writes beside the values, line by line (`store.kafka.keys`).

The keys of tombstones are in files of their own, which have no values beside them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

from pusher.envelopes import key_content
from pusher.errors import InputError
from pusher.sources.decompressing import decompressed

__all__ = ["SIDECARS", "Keys", "is_keys_name", "keys_beside", "values_beside"]

COMPRESSIONS = ("", ".gz", ".zst")
SIDECARS = tuple(f".{what}.json{end}" for what in ("keys", "headers") for end in COMPRESSIONS)

_READ_BYTES = 64 << 10
_VALUES_NAME = re.compile(r"(.+\+\d+\+\d+)\.json(\.gz|\.zst)?")
_KEYS_NAME = re.compile(r"(.+\+\d+\+\d+)\.keys\.json(\.gz|\.zst)?")


def is_keys_name(path: Path) -> bool:
    """Whether a file is named as those of a Confluent sink that hold keys."""
    return _KEYS_NAME.fullmatch(path.name) is not None


def keys_beside(path: Path | None) -> Path | None:
    """The file with the keys of a file with values; None where there is none."""
    match = _VALUES_NAME.fullmatch(path.name) if path is not None else None
    if path is None or match is None or is_keys_name(path):
        return None
    return _present(path, [f"{match[1]}.keys.json{end}" for end in COMPRESSIONS])


def values_beside(path: Path) -> Path | None:
    """The file with the values of a file with keys; None where they are keys of tombstones."""
    match = _KEYS_NAME.fullmatch(path.name)
    if match is None:
        return None
    return _present(path, [f"{match[1]}.json{end}" for end in COMPRESSIONS])


def _present(path: Path, names: list[str]) -> Path | None:
    return next((found for name in names if (found := path.with_name(name)).is_file()), None)


class Keys:
    """The keys of a file, to be asked for in the order of their lines.

    Args:
        path: of the file.
        max_line_bytes: of the longest key.
    """

    def __init__(self, path: Path, max_line_bytes: int) -> None:
        self._path = path
        self._max_line_bytes = max_line_bytes
        self._lines = self._read()
        self._number = 0

    def __repr__(self) -> str:
        return f"<Keys of {self._path}, {self._number} read>"

    def of(self, line_number: int) -> bytes | None:
        """The key of a line, which lies behind all that were asked for; None for null.

        Raises:
            InputError: there are fewer keys than that, or they cannot be read.
        """
        skipped = line_number - self._number - 1
        line = next(islice(self._lines, skipped, None), None)
        if line is None:
            raise InputError(f"{self._path}: it ends before its values, at line {line_number}")
        self._number = line_number
        return key_content(line)

    def close(self) -> None:
        """Close the file."""
        self._lines.close()  # type: ignore[attr-defined]

    def _read(self) -> Iterator[bytes]:
        try:
            with self._path.open("rb") as file:
                blocks = iter(lambda: file.read(_READ_BYTES), b"")
                with closing(decompressed(blocks, str(self._path))) as read:  # type: ignore[type-var]
                    yield from self._cut(read)
        except OSError as error:
            raise InputError(f"{self._path}: {error.strerror}") from error

    def _cut(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        rest = b""
        for block in blocks:
            *lines, rest = (rest + block).split(b"\n")
            yield from lines
            if len(rest) > self._max_line_bytes:
                raise InputError(
                    f"{self._path}: a key behind line {self._number} is longer than --max-line"
                )
        if rest:
            yield rest
