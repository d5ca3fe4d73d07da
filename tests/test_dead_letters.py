"""Dead letters: whole JSON lines on the disk, or an error and the file as it was."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pusher.dead_letters import DeadLetters
from pusher.errors import DiskError
from pusher.model import Rejection
from pusher.sources import open_source

NOW_S = 1_700_000_000.25
KEYS = {
    "reason",
    "detail",
    "status",
    "attempts",
    "source",
    "line",
    "offset",
    "at",
    "run_id",
    "changed_at",
}


def rejection_of(record: bytes = b'{"a":1}', **more: Any) -> Rejection:
    fields: dict[str, Any] = {"source": "in.ndjson", "line": 3, "offset": 70} | more
    return Rejection("not_json", "why", record=record, **fields)


@contextmanager
def letters_in(path: Path, run_id: str = "run-1") -> Iterator[DeadLetters]:
    letters = DeadLetters(path, run_id, lambda: NOW_S)
    try:
        yield letters
    finally:
        letters.close()


def read(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    assert data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


async def write(path: Path, *rejections: Rejection) -> list[dict[str, Any]]:
    with letters_in(path) as letters:
        await letters.write(rejections)
    return read(path)


async def test_a_letter_has_the_keys_that_the_design_fixes(tmp_path: Path) -> None:
    rejection = rejection_of(status=400, attempts=2, changed_at_ms=17)
    (letter,) = await write(tmp_path / "dead", rejection)
    assert set(letter) == KEYS | {"record"}
    assert datetime.fromisoformat(letter.pop("at")).timestamp() == NOW_S
    assert letter == {
        "reason": "not_json",
        "detail": "why",
        "status": 400,
        "attempts": 2,
        "source": "in.ndjson",
        "line": 3,
        "offset": 70,
        "run_id": "run-1",
        "changed_at": 17,
        "record": '{"a":1}',
    }


async def test_a_record_that_is_not_utf8_is_kept_in_base64(tmp_path: Path) -> None:
    (letter,) = await write(tmp_path / "dead", rejection_of(b'{"a":"\xff"}'))
    assert set(letter) == KEYS | {"record_base64"}
    assert base64.b64decode(letter["record_base64"]) == b'{"a":"\xff"}'


@settings(deadline=None, max_examples=50)
@given(st.lists(st.binary(max_size=60) | st.text(max_size=20).map(str.encode), min_size=1))
def test_every_record_can_be_had_back(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("letters") / "dead"
    found = asyncio.run(write(path, *(rejection_of(record) for record in records)))
    assert [
        letter["record"].encode()
        if "record" in letter
        else base64.b64decode(letter["record_base64"])
        for letter in found
    ] == records


async def test_more_facts_are_written_too(tmp_path: Path) -> None:
    (letter,) = await write(tmp_path / "dead", rejection_of(extra={"line_bytes": 99}))
    assert letter["line_bytes"] == 99


async def test_a_source_whose_name_is_not_utf8_does_not_lose_the_letter(tmp_path: Path) -> None:
    (letter,) = await write(tmp_path / "dead", rejection_of(source=os.fsdecode(b"\xff.ndjson")))
    assert letter["record"] == '{"a":1}'


async def test_the_file_is_created_with_the_first_letter_and_for_the_owner_alone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "dead"
    with letters_in(path) as letters:
        assert not path.exists()
        await letters.write([rejection_of()])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert letters.written == 1


async def test_closing_without_a_letter_leaves_no_file(tmp_path: Path) -> None:
    with letters_in(tmp_path / "dead"):
        pass
    assert not (tmp_path / "dead").exists()


async def test_letters_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "dead"
    for run_id in ("run-1", "run-2"):
        with letters_in(path, run_id) as letters:
            await letters.write([rejection_of()])
            await letters.write([rejection_of(), rejection_of()])
            assert letters.written == 3
    assert [letter["run_id"] for letter in read(path)] == ["run-1"] * 3 + ["run-2"] * 3


async def test_a_half_line_that_a_killed_run_left_does_not_spoil_the_next_letter(
    tmp_path: Path,
) -> None:
    path = tmp_path / "dead"
    await write(path, rejection_of())
    with path.open("ab") as file:
        file.write(b'{"reason":"not_js')
    with letters_in(path) as letters:
        await letters.write([rejection_of(b"the next one")])
    last = path.read_bytes().splitlines()[-1]
    assert json.loads(last)["record"] == "the next one"


async def test_writers_at_the_same_time_do_not_mix_their_letters(tmp_path: Path) -> None:
    path = tmp_path / "dead"
    with letters_in(path) as letters:
        await asyncio.gather(
            *(
                letters.write([rejection_of(b"x" * 3_000, line=line) for _ in range(3)])
                for line in range(40)
            )
        )
        assert letters.written == 120
    lines = [letter["line"] for letter in read(path)]
    assert [lines[at] for at in range(0, 120, 3)] == [lines[at + 2] for at in range(0, 120, 3)]
    assert set(lines) == set(range(40))


async def test_a_letter_is_synced_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    path = tmp_path / "dead"
    with letters_in(path) as letters:
        await letters.write([rejection_of()])
        assert synced[-1] == path.stat().st_size > 0


# Disks that do not take it


@pytest.mark.parametrize("place", ["missing/dead", "", "file/dead"])
async def test_a_path_that_cannot_be_written_is_a_disk_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with letters_in(tmp_path / place) as letters:
        with pytest.raises(DiskError):
            await letters.write([rejection_of()])
        assert letters.written == 0


async def test_a_full_disk_is_a_disk_error_that_says_so() -> None:
    with letters_in(Path("/dev/full")) as letters:
        with pytest.raises(DiskError, match="No space left on device"):
            await letters.write([rejection_of()])
        assert letters.written == 0


@pytest.mark.parametrize("taken_bytes", [0, 1, 100])
async def test_a_write_that_fails_in_the_middle_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken_bytes: int
) -> None:
    path = tmp_path / "dead"
    await write(path, rejection_of())
    before = path.read_bytes()
    real_write, room = os.write, [taken_bytes]

    def full(descriptor: int, data: memoryview) -> int:
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = real_write(descriptor, data[: room[0]])
        room[0] -= done
        return done

    with letters_in(path) as letters:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(DiskError, match="No space left"):
            await letters.write([rejection_of(), rejection_of()])
        monkeypatch.undo()
        assert path.read_bytes() == before
        assert letters.written == 0
        await letters.write([rejection_of(b"after")])
    assert [letter["record"] for letter in read(path)] == ['{"a":1}', "after"]


async def test_a_sync_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dead"
    await write(path, rejection_of())
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with letters_in(path) as letters:
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(DiskError, match="Input/output error"):
            await letters.write([rejection_of()])
        assert letters.written == 0
    assert path.read_bytes() == before


async def test_short_writes_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real_write(fd, bytes(data[:7])))
    (letter,) = await write(tmp_path / "dead", rejection_of())
    assert letter["record"] == '{"a":1}'


async def test_sources_know_the_file_for_what_it_is(tmp_path: Path) -> None:
    """The two doors agree on what a dead letter looks like."""
    await write(tmp_path / "a.ndjson", rejection_of(b"\xff"))
    (tmp_path / "b.ndjson").write_bytes(b"{}\n")
    assert open_source([tmp_path]).name == str(tmp_path / "b.ndjson")


# Going on from an earlier run.


def settled_up_to(line: int) -> Callable[[str, int], bool]:
    return lambda source, number: source == "in.ndjson" and number <= line


async def written(path: Path, run_id: str, *lines: int) -> None:
    with letters_in(path, run_id) as letters:
        for line in lines:
            await letters.write([rejection_of(line=line)])


async def test_letters_of_messages_that_are_read_again_are_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "dead"
    await written(path, "mine", 1, 5, 2, 9)
    with letters_in(path, "mine") as letters:
        assert letters.rewind(0, settled_up_to(4)) == 2
        await letters.write([rejection_of(line=5)])
    assert [letter["line"] for letter in read(path)] == [1, 2, 5]


async def test_letters_of_other_runs_stay(tmp_path: Path) -> None:
    path = tmp_path / "dead"
    await written(path, "other", 7)
    await written(path, "mine", 8)
    await written(path, "later", 9)
    with letters_in(path, "mine") as letters:
        assert letters.rewind(0, settled_up_to(0)) == 0
    assert [letter["run_id"] for letter in read(path)] == ["other", "later"]


async def test_what_comes_before_the_place_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "dead"
    await written(path, "mine", 8)
    with letters_in(path, "mine") as letters:
        start_bytes = letters.length_bytes
        await letters.write([rejection_of(line=9)])
        assert letters.rewind(start_bytes, settled_up_to(0)) == 0
    assert [letter["line"] for letter in read(path)] == [8]


async def test_a_letter_that_was_torn_by_a_kill_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "dead"
    await written(path, "mine", 1, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with letters_in(path, "mine") as letters:
        assert letters.rewind(0, settled_up_to(9)) == 1
    assert [letter["line"] for letter in read(path)] == [1]


async def test_where_nothing_has_to_go_the_file_stays_the_same(tmp_path: Path) -> None:
    path = tmp_path / "dead"
    await written(path, "mine", 1, 2)
    before = path.stat().st_ino, path.read_bytes()
    with letters_in(path, "mine") as letters:
        assert letters.rewind(0, settled_up_to(9)) == 2
    assert (path.stat().st_ino, path.read_bytes()) == before
    assert names_in(tmp_path) == ["dead"]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_file_that_was_moved_away_is_no_trouble(tmp_path: Path) -> None:
    with letters_in(tmp_path / "dead", "mine") as letters:
        assert letters.length_bytes == 0
        assert letters.rewind(500, settled_up_to(0)) == 0
    assert names_in(tmp_path) == []


async def test_a_file_that_cannot_be_rewritten_is_an_error_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "dead"
    await written(path, "mine", 1)
    (tmp_path / ".dead.new").mkdir()
    before = path.read_bytes()
    with letters_in(path, "mine") as letters, pytest.raises(DiskError, match="dead letters"):
        letters.rewind(0, settled_up_to(0))
    assert path.read_bytes() == before


async def test_its_permissions_stay(tmp_path: Path) -> None:
    path = tmp_path / "dead"
    await written(path, "mine", 1, 2)
    path.chmod(0o640)
    with letters_in(path, "mine") as letters:
        letters.rewind(0, settled_up_to(1))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_a_run_that_writes_goes_on_in_the_file_that_another_runs_rewind_has_left(
    tmp_path: Path,
) -> None:
    path = tmp_path / "dead"
    with letters_in(path, "other") as other, letters_in(path, "mine") as mine:
        await other.write([rejection_of(line=1)])
        await mine.write([rejection_of(line=2)])
        mine.rewind(0, settled_up_to(0))
        await other.write([rejection_of(line=3)])
        await mine.write([rejection_of(line=4)])
    assert [(letter["run_id"], letter["line"]) for letter in read(path)] == [
        ("other", 1),
        ("other", 3),
        ("mine", 4),
    ]


async def test_letters_go_on_in_a_new_file_when_somebody_moves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "dead"
    with letters_in(path) as letters:
        await letters.write([rejection_of(line=1)])
        path.rename(tmp_path / "moved")
        await letters.write([rejection_of(line=2)])
    assert [letter["line"] for letter in read(path)] == [2]
    assert [letter["line"] for letter in read(tmp_path / "moved")] == [1]
