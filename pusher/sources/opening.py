"""Find the inputs that a command line names: pipes, files, directories, globs."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from pusher.envelopes import format_of
from pusher.errors import InputError, UsageError
from pusher.sources.decompressing import decompressed
from pusher.sources.exports import Formats, file_place_of
from pusher.sources.letters import LetterFilter, letter_bytes_max
from pusher.sources.lines import STDIN, LineSource
from pusher.sources.sidecars import SIDECARS, is_keys_name, values_beside
from pusher.sources.topics import SCHEME

__all__ = ["open_source"]

SUFFIXES = (".ndjson", ".jsonl", ".json")
COMPRESSED_SUFFIXES = ("", ".gz", ".zst")

_log = logging.getLogger("pusher")

_DEAD_LETTER_KEYS = frozenset({"reason", "run_id", "attempts"})
_FIRST_LINE_BYTES_MAX = 1 << 20


def open_source(
    specs: Sequence[str | Path],
    max_line_bytes: int = 32 << 20,
    *,
    letters: LetterFilter | None = None,
    formats: Formats | None = None,
) -> LineSource:
    """Open what `specs` name: "-", files, directories (all below, by name), globs.

    Directories and globs pass over dead-letter files, which are known by their content, and hidden
    files. A directory stands for its files that end in .ndjson, .jsonl or .json, also with .gz or
    .zst; one that holds only keys of tombstones, for these. A dead-letter file that is named
    outright stands for the original lines in it.

    Args:
        specs: what to open.
        max_line_bytes: longer lines are passed on without being kept.
        letters: only dead-letter files are meant, and these of their lines.
        formats: what is known of what is in them, to be found out where it is not; None takes
            their lines as they are.

    Raises:
        UsageError: nothing is there, or it cannot be read.
    """
    inputs: list[str | Path] = []
    letter_bytes = letter_bytes_max(max_line_bytes)
    named = {Path(spec) for spec in specs}
    for spec in specs:
        inputs.extend(_expanded(spec, letter_bytes))
    if inputs.count(STDIN) > 1:
        raise UsageError("standard input can be read only once")
    letter_files = {
        one
        for one in inputs
        if isinstance(one, Path) and one in named and _is_dead_letter_file(one, letter_bytes)
    }
    for one in inputs if letters is not None else ():
        if one not in letter_files:
            raise UsageError(f"{one}: is not a file of dead letters")
    return LineSource(
        inputs,
        max_line_bytes=max_line_bytes,
        letter_files=letter_files,
        letters=letters,
        formats=formats,
    )


def _expanded(spec: str | Path, letter_bytes: int) -> list[str | Path]:
    if spec == STDIN:
        return [spec]
    text = os.fspath(spec)
    if not text:
        raise UsageError("a source has an empty name")
    if text.startswith(SCHEME):
        raise UsageError(
            "kafka://...: not a kind of source that can be read here: live topics are read by"
            " `pusher push` alone; write what is in one into a file first:"
            " kcat -C -J -e -q -o beginning"
        )
    if "://" in text:
        scheme = text.partition("://")[0]  # The rest may hold a password.
        raise UsageError(f"{scheme}://...: not a kind of source that this version can read")
    path = Path(text)
    try:
        if path.is_dir():
            return _files_below(path, letter_bytes)
        if not path.exists() and glob.has_magic(text):
            return _matching(text, letter_bytes)
    except OSError as error:
        raise UsageError(f"{text}: {error.strerror}") from error
    return [path]


def _files_below(directory: Path, letter_bytes: int) -> list[str | Path]:
    paths = list(_walk(directory))
    found: list[str | Path] = [path for path in paths if _looks_like_input(path, letter_bytes)]
    tombstones = [path for path in paths if is_keys_name(path) and values_beside(path) is None]
    if tombstones and not found:
        return list(tombstones)
    if tombstones:
        _log.warning(
            "%s: %d files with the keys of tombstones (%s ...) are passed over: they do not say"
            " when; push their folder by itself, behind the values",
            *(directory, len(tombstones), tombstones[0]),
        )
    if not found:
        wanted = ", ".join(SUFFIXES)
        raise UsageError(f"{directory}: no input files in it ({wanted}, also with .gz or .zst)")
    return found


def _matching(pattern: str, letter_bytes: int) -> list[str | Path]:
    found: list[str | Path] = []
    names = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path takes no absolute pattern
    for name in sorted(names):
        path = Path(name)
        if path.is_dir():
            found.extend(file for file in _walk(path) if _looks_like_input(file, letter_bytes))
        elif not _is_dead_letter_file(path, letter_bytes):
            found.append(path)
    if not found:
        raise UsageError(f"{pattern}: no file matches")
    return found


def _walk(directory: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(directory):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def _looks_like_input(path: Path, letter_bytes: int) -> bool:
    name = path.name.lower()
    if name.endswith(SIDECARS) or not path.is_file():
        return False
    has_suffix = any(
        name.endswith(suffix + compression)
        for suffix in SUFFIXES
        for compression in COMPRESSED_SUFFIXES
    )
    if has_suffix:
        return not _is_dead_letter_file(path, letter_bytes)
    # Files of an Aiven sink have no suffix but that of their compression.
    return (
        file_place_of(path, "aiven") is not None
        and format_of(_first_line(path, letter_bytes)) == "aiven"
    )


def _is_dead_letter_file(path: Path, letter_bytes: int) -> bool:
    """Tell by the first line: a dead letter says why, in which run, and holds a record."""
    try:
        letter = orjson.loads(_first_line(path, letter_bytes))
    except orjson.JSONDecodeError:
        return False
    if not isinstance(letter, dict) or not letter.keys() >= _DEAD_LETTER_KEYS:
        return False
    return "record" in letter or "record_base64" in letter


def _first_line(path: Path, letter_bytes: int) -> bytes:
    """The first line of a file, as far as it is needed; empty where it cannot be read."""
    if not path.is_file():
        return b""
    parts: list[bytes] = []
    left = _FIRST_LINE_BYTES_MAX
    try:
        with path.open("rb") as file:
            blocks = iter(lambda: file.read(4096), b"")
            for block in decompressed(blocks, str(path)):
                if not parts and block.startswith(b'{"reason"'):
                    left = max(left, letter_bytes)
                parts.append(block)
                left -= len(block)
                if b"\n" in block or left <= 0:
                    break
    except (OSError, InputError):
        return b""  # Whatever is wrong with it is said when it is read.
    return b"".join(parts).partition(b"\n")[0]
