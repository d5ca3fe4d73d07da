"""Read exports of topics as the canonical lines that their records stand for.

Chunks in, chunks out, so that what comes behind knows nothing of it; plain NDJSON of sync messages
is not touched at all. One `Reading` is one pass over all inputs: the format is told from the first
record, and deletes are remembered over the files of a partition.
"""

from __future__ import annotations

import base64
import logging
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import msgspec

from pusher.changes import ChangeFormat, Converter, Outcome
from pusher.detecting import Detected, Detector
from pusher.envelopes import FORMATS, Format, Kcat, Unwrapper, key_content, of_kcat
from pusher.envelopes import Place as FilePlace
from pusher.errors import UsageError
from pusher.mapping import Mapping
from pusher.model import Chunk, Position, Problem, Rejection
from pusher.records import Record, Skipped
from pusher.showing import Examples
from pusher.sources.cutting import LineCutter, Place, cut_into_chunks
from pusher.sources.probing import MakeCutter, probe
from pusher.sources.sidecars import Keys, is_keys_name, keys_beside

__all__ = ["Formats", "Reading", "file_place_of", "is_sink_name"]

_SINK_NAME = re.compile(r"(?P<topic>.+)\+(?P<partition>\d+)\+(?P<offset>\d+)\.json(?:\.gz|\.zst)?")
_TOMBSTONES_NAME = re.compile(
    r"(?P<topic>.+)\+(?P<partition>\d+)\+(?P<offset>\d+)\.keys\.json(?:\.gz|\.zst)?"
)
_AIVEN_NAME = re.compile(
    r"(?P<topic>.+)-(?P<partition>\d+)-(?P<offset>\d+)(?:\.(?:jsonl?|ndjson))?(?:\.gz|\.zst)?"
)
_PARTITION = re.compile(r"(.+)\[(\d+)\]")
_log = logging.getLogger("pusher")


@dataclass(frozen=True, slots=True)
class Formats:
    """What is known of the inputs beforehand.

    Attributes:
        file_format: what is around the records; None is found out.
        change: what the values hold; None is found out.
        mapping: what rows are.
        shows: examples of what is made of the records are wanted.
    """

    file_format: Format | None = None
    change: ChangeFormat | None = None
    mapping: Mapping | None = None
    shows: bool = False

    def detector(self) -> Detector:
        """Finds out the rest."""
        return Detector(
            file_format=self.file_format, change=self.change, maps=self.mapping is not None
        )


def is_sink_name(path: Path) -> bool:
    """Whether a file is named as those of a Confluent sink: topic+partition+offset.json."""
    return _SINK_NAME.fullmatch(path.name) is not None and not is_keys_name(path)


def file_place_of(path: Path | None, file_format: Format | None) -> FilePlace | None:
    """What the name of a file says of its records."""
    if path is None:
        return None
    match = _TOMBSTONES_NAME.fullmatch(path.name) or _SINK_NAME.fullmatch(path.name)
    if match is None and file_format == "aiven":
        match = _AIVEN_NAME.fullmatch(path.name)
    if match is None:
        return None
    return FilePlace(match["topic"], int(match["partition"]), int(match["offset"]))


class Reading:
    """One pass over all inputs.

    Args:
        formats: what is known of them.
        announces: say which format was found.
        examples: take note of what is made of records.
    """

    def __init__(
        self, formats: Formats, *, announces: bool = True, examples: Examples | None = None
    ) -> None:
        self.detected: Detected | None = None
        self._formats = formats
        self._announces = announces
        self._examples = examples
        self._converter = Converter(change=formats.change, mapping=formats.mapping)
        self._unwrapper = Unwrapper(formats.file_format or "ndjson")
        self._unwrappers: dict[str, Unwrapper] = {}
        self._is_plain = False

    def __repr__(self) -> str:
        return f"<Reading of {self.detected or 'what comes'}>"

    def settle(self, detected: Detected, name: str) -> None:
        """Fix the format, for all that comes."""
        self.detected = detected
        file_format, mapping = detected.file_format, self._formats.mapping
        self._unwrapper = Unwrapper(file_format)
        self._converter = Converter(change=detected.change, mapping=mapping)
        is_canonical = detected.change in (None, "canonical")
        self._is_plain = file_format == "ndjson" and is_canonical and mapping is None
        if self._announces and not self._is_plain:
            _log.info("%s: detected %s; --format overrides", name, detected)

    def chunks(
        self,
        blocks: Iterator[bytes],
        name: str,
        path: Path | None,
        max_line_bytes: int,
        *,
        after: Position | None,
        keeps_fingerprints: bool,
    ) -> Iterator[Chunk]:
        """Cut one input into chunks of canonical lines.

        Args:
            blocks: the input from its beginning, decompressed.
            name: of the input.
            path: of its file.
            max_line_bytes: a longer record is passed on without being kept.
            after: begin there; what comes before is looked at for what has to be remembered.
            keeps_fingerprints: say with each chunk where it ends.

        Raises:
            UsageError: the format is not known; or the input does not begin as it did before.
            InputError: there are fewer keys beside the values than values.
        """
        if path is not None and is_keys_name(path):
            chunks = cut_into_chunks(
                blocks, name, max_line_bytes, after=after, keeps_fingerprints=keeps_fingerprints
            )
            yield from (self._deletes(chunk, path) for chunk in chunks)
            return
        is_of_sink = path is not None and is_sink_name(path)
        detector = self._formats.detector() if self.detected is None else None
        found = probe(blocks, detector, max_line_bytes, is_of_sink=is_of_sink)
        blocks = found.blocks
        if found.detected is not None:
            self.settle(found.detected, name)
        elif detector is not None and detector.has_seen_any:
            if self._formats.file_format is None:
                raise UsageError(f"{name}: {detector.complaint()}")
            self.settle(Detected(self._formats.file_format, self._formats.change), name)
        place = file_place_of(path, self.detected.file_format if self.detected else None)
        is_plain = self._is_plain or self.detected is None
        beside = keys_beside(path) if self._formats.mapping is not None and not is_plain else None
        keys = None if beside is None else Keys(beside, max_line_bytes)
        if after is not None and not is_plain:
            blocks = self._watched(
                blocks, after, found.make_cutter, max_line_bytes, place=place, keys=keys
            )
        chunks = cut_into_chunks(
            blocks,
            name,
            max_line_bytes,
            after=after,
            keeps_fingerprints=keeps_fingerprints,
            make_cutter=found.make_cutter,
        )
        if is_plain:
            yield from chunks
            return
        was_known = self._converter.change is not None
        with nullcontext() if keys is None else closing(keys):
            for chunk in chunks:
                converted = self.converted(chunk, place, keys)
                if not was_known and self._converter.change is not None:
                    was_known = True
                    if self._converter.change != "canonical":
                        _log.info("%s: detected %s values", name, self._converter.change)
                yield converted

    def _watched(
        self,
        blocks: Iterator[bytes],
        after: Position,
        make_cutter: MakeCutter | None,
        max_line_bytes: int,
        *,
        place: FilePlace | None,
        keys: Keys | None,
    ) -> Iterator[bytes]:
        """Pass blocks on, and look at what is settled already for what has to be remembered."""
        cutter = (make_cutter or LineCutter)("", Place(), max_line_bytes)
        left = after.offset
        for block in blocks:
            if left and self._remembers:
                for chunk in cutter.feed(block[:left]):
                    self.converted(chunk, place, keys)
                left -= min(left, len(block))
                if not left and make_cutter is None:
                    for chunk in cutter.finish():
                        self.converted(chunk, place, keys)
            yield block

    @property
    def _remembers(self) -> bool:
        return self._converter.remembers or self._unwrapper.remembers

    def converted(self, chunk: Chunk, place: FilePlace | None, keys: Keys | None = None) -> Chunk:
        """The canonical lines that the records of a chunk stand for.

        Args:
            chunk: as it was cut.
            place: what the name of its file says.
            keys: what stands beside its lines; None where nothing does.
        """
        if chunk.oversized_bytes is not None:
            return chunk
        convert = self._converter.convert if self._examples is None else self._shown
        unwrapper = self._unwrapper
        data = chunk.data.removesuffix(b"\n")
        lines = data.split(b"\n")
        read = unwrapper.all(data, len(lines))
        if read is not None:
            return self._at_once(chunk, lines, read) or self._one_by_one(chunk, lines, read)
        out = _Lines(chunk, unwrapper.file_format)
        for number, offset, line in chunk.lines():
            unwrapped = unwrapper.one(line, place)
            if isinstance(unwrapped, Record) and keys is not None:
                key = keys.of(number)
                out.add(convert(unwrapped._replace(key=key)), number, offset, line, key)
            elif isinstance(unwrapped, Record):
                out.add(convert(unwrapped), number, offset, line)
            elif isinstance(unwrapped, Problem):
                out.add(unwrapped, number, offset, line)
            else:
                for record in unwrapped:
                    outcome = convert(record)
                    is_problem = isinstance(outcome, Problem)
                    own = _event_of(record) if is_problem and len(unwrapped) > 1 else line
                    out.add(outcome, number, offset, own)
        return out.chunk()

    def _deletes(self, chunk: Chunk, path: Path) -> Chunk:
        """The deletes that a file with the keys of tombstones stands for."""
        if chunk.oversized_bytes is not None:
            return chunk
        convert = self._converter.convert if self._examples is None else self._shown
        place = file_place_of(path, None)
        out = _Lines(chunk, "confluent")
        for number, offset, line in chunk.lines():
            out.add(convert(_tombstone(line, place)), number, offset, line)
        return out.chunk()

    def _at_once(self, chunk: Chunk, lines: list[bytes], read: list[Kcat]) -> Chunk | None:
        """Take values that are sync messages; None where some need a closer look."""
        if self._examples is not None or self._converter.remembers:
            return None
        out = _Lines(chunk, self._unwrapper.file_format)
        numbers, offsets = _places(chunk, lines)
        kept = [index for index, one in enumerate(read) if one.payload is not None]
        if len(kept) < len(read):
            for index, one in enumerate(read):
                if one.payload is None:
                    outcome = self._converter.convert(of_kcat(one))
                    out.add(outcome, numbers[index], offsets[index], lines[index])
            read = [read[index] for index in kept]
            numbers, offsets = [numbers[i] for i in kept], [offsets[i] for i in kept]
        values: list[str] = [one.payload for one in read]  # type: ignore[misc]
        taken = self._converter.lines_of(values, [one.ts for one in read])
        return None if taken is None else out.chunk(taken, numbers, offsets)

    def _one_by_one(self, chunk: Chunk, lines: list[bytes], read: list[Kcat]) -> Chunk:
        convert = self._converter.convert if self._examples is None else self._shown
        out = _Lines(chunk, self._unwrapper.file_format)
        numbers, offsets = _places(chunk, lines)
        for one, number, offset, line in zip(read, numbers, offsets, lines, strict=True):
            out.add(convert(of_kcat(one)), number, offset, line)
        return out.chunk()

    def _shown(self, record: Record) -> Outcome:
        outcome = self._converter.convert(record)
        if self._examples is not None:
            self._examples.add(record, outcome)
        return outcome

    def again(
        self,
        record: bytes,
        file_format: str,
        source: str,
        *,
        key: str | None = None,
        timestamp_ms: int | None = None,
    ) -> Outcome | None:
        """What a record of a dead letter stands for; None where its format is not known.

        Args:
            record: the line that could not be used.
            file_format: that it was read as.
            source: the name of the file that it came from, or of the partition.
            key: that stood beside it.
            timestamp_ms: Kafka's time of a record of a live topic, 0 where it has none.
        """
        if file_format not in FORMATS:
            return None
        unwrapper = self._unwrappers.setdefault(file_format, Unwrapper(file_format))
        place = file_place_of(Path(source), unwrapper.file_format)
        if is_keys_name(Path(source)):
            return self._converter.convert(_tombstone(record, place))
        unwrapped = unwrapper.one(record, place)
        if isinstance(unwrapped, Problem):
            return unwrapped
        if isinstance(unwrapped, list):
            if len(unwrapped) != 1:
                return Problem("wrong_format", f"an event of {len(unwrapped)} records")
            unwrapped = unwrapped[0]
        if key is not None:
            unwrapped = unwrapped._replace(key=key.encode())
        if timestamp_ms is not None and (match := _PARTITION.fullmatch(source)):
            topic, partition = match[1], int(match[2])
            unwrapped = unwrapped._replace(
                topic=topic, partition=partition, timestamp_ms=timestamp_ms or None
            )
        return self._converter.convert(unwrapped)


def _tombstone(line: bytes, place: FilePlace | None) -> Record:
    """The one whose key stands in a line."""
    topic, partition = (place.topic, place.partition) if place else (None, None)
    return Record(None, key_content(line.strip()), topic, partition)


def _places(chunk: Chunk, lines: list[bytes]) -> tuple[Sequence[int], Sequence[int]]:
    """The numbers and the offsets of the lines of a chunk, of which none is blank."""
    if chunk.line_numbers is not None and chunk.offsets is not None:
        return chunk.line_numbers, chunk.offsets
    ends = [len(line) + 1 for line in lines[:-1]]
    numbers = range(chunk.first_line, chunk.first_line + len(lines))
    return numbers, list(accumulate(ends, initial=chunk.offset))


class _Lines:
    """Collects what comes of the records of a chunk."""

    def __init__(self, chunk: Chunk, file_format: Format) -> None:
        self._chunk = chunk
        self._format = file_format
        self._lines: list[bytes] = []
        self._numbers: list[int] = []
        self._offsets: list[int] = []
        self._rejected: list[Rejection] = []
        self._skipped: Counter[str] = Counter(chunk.skipped)

    def add(
        self, outcome: Outcome, number: int, offset: int, line: bytes, key: bytes | None = None
    ) -> None:
        if type(outcome) is bytes:
            self._lines.append(outcome)
            self._numbers.append(number)
            self._offsets.append(offset)
        elif isinstance(outcome, Skipped):
            self._skipped[outcome.reason] += 1
        elif isinstance(outcome, Problem):
            extra: dict[str, int | str] = {"format": self._format}
            if key is not None:
                extra["key"] = key.decode("utf-8", "replace")
            self._rejected.append(
                Rejection(
                    outcome.reason,
                    outcome.detail,
                    self._chunk.source,
                    number,
                    offset,
                    line,
                    extra=extra,
                )
            )

    def chunk(
        self,
        lines: list[bytes] | None = None,
        numbers: Sequence[int] = (),
        offsets: Sequence[int] = (),
    ) -> Chunk:
        """The chunk of the lines that were added, or of these instead."""
        if lines is None:
            lines, numbers, offsets = self._lines, self._numbers, self._offsets
        return replace(
            self._chunk,
            data=b"\n".join(lines),
            line_count=len(lines),
            line_numbers=_compact(numbers),
            offsets=_compact(offsets),
            skipped=self._skipped,
            rejected=self._rejected,
        )


def _compact(numbers: Sequence[int]) -> Sequence[int]:
    """A chunk may be held for long, and a list takes five times the room."""
    if isinstance(numbers, range):
        return numbers
    return array("q", numbers)


def _event_of(record: Record) -> bytes:
    """An event with this record alone, so that it can be pushed again without the others."""
    one: dict[str, object] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
    }
    for name, content in (("key", record.key), ("value", record.value)):
        one[name] = None if content is None else base64.b64encode(content).decode()
    event = {"eventSource": "aws:kafka", "records": {f"{record.topic}-{record.partition}": [one]}}
    return msgspec.json.encode(event)
