"""Dead letters that are read as the lines that they were written for."""

from __future__ import annotations

import base64
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pusher.errors import UsageError
from pusher.model import Chunk
from pusher.sources import LetterFilter, LineSource, open_source
from pusher.sources.letters import unwrapped

LINE = b'{"storeId":"s","objectType":"DEAL","externalObjectId":"1","changedAt":5}'


def letter(record: bytes = LINE, **more: Any) -> bytes:
    entry: dict[str, Any] = {
        "reason": "refused",
        "detail": "bad",
        "status": 400,
        "attempts": 1,
        "source": "in",
        "line": 1,
        "offset": 0,
        "at": "2026-01-01T00:00:00.000+00:00",
        "run_id": "r1",
        "changed_at": 5,
        **more,
    }
    try:
        entry["record"] = record.decode()
    except UnicodeDecodeError:
        entry["record_base64"] = base64.b64encode(record).decode()
    return json.dumps(entry).encode() + b"\n"


async def chunks_of(source: LineSource) -> list[Chunk]:
    return [chunk async for chunk in source.chunks()]


async def replayed(
    tmp_path: Path, *letters: bytes, only: LetterFilter | None = None
) -> tuple[list[tuple[int, bytes]], dict[str, int]]:
    """The lines that come out, with their numbers, and what was passed over."""
    path = tmp_path / "dead.ndjson"
    path.write_bytes(b"".join(letters))
    chunks = await chunks_of(open_source([path], letters=only))
    lines = [(number, line) for chunk in chunks for number, _, line in chunk.lines()]
    return lines, dict(sum((Counter(chunk.skipped) for chunk in chunks), Counter()))


async def test_the_original_lines_come_out_under_the_numbers_of_the_letters(
    tmp_path: Path,
) -> None:
    lines, skipped = await replayed(tmp_path, letter(), letter(b"oops"), letter(b"\xff\xfe"))
    assert lines == [(1, LINE), (2, b"oops"), (3, b"\xff\xfe")]
    assert skipped == {}


async def test_only_letters_of_a_reason_or_a_status_come_out(tmp_path: Path) -> None:
    letters = [letter(b"1"), letter(b"2", reason="not_json", status=None), letter(b"3", status=413)]
    by_reason = LetterFilter(reasons=frozenset({"refused"}))
    lines, skipped = await replayed(tmp_path, *letters, only=by_reason)
    assert lines == [(1, b"1"), (3, b"3")]
    assert skipped == {"other_letter": 1}
    both = LetterFilter(frozenset({"refused"}), frozenset({413, 422}))
    assert (await replayed(tmp_path, *letters, only=both))[0] == [(3, b"3")]


async def test_a_line_that_was_not_kept_whole_is_not_sent_as_if_it_were(tmp_path: Path) -> None:
    lines, skipped = await replayed(tmp_path, letter(b'{"a', line_bytes=10**8), letter())
    assert lines == [(2, LINE)]
    assert skipped == {"not_whole": 1}


async def test_a_time_that_was_filled_in_is_kept(tmp_path: Path) -> None:
    without = b'{"storeId": "s", "properties": {"changedAt": "1"}}'
    with_null = b'{"changedAt": null}'
    lines, _ = await replayed(
        tmp_path, letter(without, changed_at=77), letter(with_null, changed_at=78), letter(b"{}")
    )
    first, second, third = (json.loads(line) for _, line in lines)
    assert first == {**json.loads(without), "changedAt": 77}
    assert second == {"changedAt": 78}
    assert third == {"changedAt": 5}


async def test_a_time_that_the_line_has_is_not_touched(tmp_path: Path) -> None:
    lines, _ = await replayed(tmp_path, letter(changed_at=99))
    assert lines == [(1, LINE)]


async def test_a_torn_last_letter_is_passed_on_to_be_rejected(tmp_path: Path) -> None:
    torn = letter()[:40]
    lines, _ = await replayed(tmp_path, letter(), torn)
    assert lines == [(1, LINE), (2, torn)]


@given(st.lists(st.binary(min_size=1).filter(lambda line: b"\n" not in line and line.strip())))
def test_whatever_was_written_comes_out_again(records: list[bytes]) -> None:
    data = b"".join(letter(record, changed_at=None) for record in records)
    chunks = [Chunk(data, "dead", 0, 1, len(records))] if data else []
    out = [
        line
        for chunk in unwrapped(iter(chunks), LetterFilter())
        for line in chunk.data.split(b"\n")
    ]
    assert out[:-1] == records


@pytest.mark.parametrize("suffix", ["", ".gz"])
async def test_a_file_of_letters_may_begin_with_one_of_megabytes(
    tmp_path: Path, suffix: str
) -> None:
    long_line = LINE.replace(b'"1"', b'"' + b'\\"' * 1_500_000 + b'"')
    data, path = letter(long_line) + letter(), tmp_path / f"dead.ndjson{suffix}"
    path.write_bytes(gzip.compress(data) if suffix else data)
    chunks = await chunks_of(open_source([path], letters=LetterFilter()))
    lines = [line for chunk in chunks for _, _, line in chunk.lines() if line]
    assert lines == [long_line, LINE]
    with pytest.raises(UsageError, match="no "):
        open_source([tmp_path])


async def test_a_first_letter_may_be_as_long_as_the_longest_line_makes_it(tmp_path: Path) -> None:
    long_line = LINE.replace(b'"1"', b'"' + b"\\\\" * 17_000_000 + b'"')
    path = tmp_path / "dead"
    path.write_bytes(letter(long_line))
    source = open_source([path], max_line_bytes=40 << 20, letters=LetterFilter())
    (chunk,) = (chunk for chunk in await chunks_of(source) if chunk.data)
    assert chunk.data == long_line + b"\n"
    with pytest.raises(UsageError, match="not a file of dead letters"):
        open_source([path], max_line_bytes=1 << 20, letters=LetterFilter())


def test_a_file_of_messages_cannot_be_replayed(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(LINE + b"\n")
    with pytest.raises(UsageError, match="not a file of dead letters"):
        open_source([tmp_path / "in"], letters=LetterFilter())
    with pytest.raises(UsageError, match="not a file of dead letters"):
        open_source(["-"], letters=LetterFilter())


async def test_letters_and_messages_can_be_pushed_together(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"message\n")
    (tmp_path / "dead").write_bytes(letter())
    chunks = await chunks_of(open_source([tmp_path / "in", tmp_path / "dead"]))
    assert [chunk.data for chunk in chunks] == [b"message\n", LINE + b"\n"]


async def test_a_letter_may_be_longer_than_the_line_that_it_holds(tmp_path: Path) -> None:
    record = b'"' * 900
    (tmp_path / "dead").write_bytes(letter(record))
    (chunk,) = await chunks_of(open_source([tmp_path / "dead"], max_line_bytes=1_000))
    assert chunk.data == record + b"\n"
