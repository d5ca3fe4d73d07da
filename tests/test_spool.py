"""What is kept of a pipe: it is read again as it was, and goes away by itself."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import zstandard

from pusher.errors import DiskError, UsageError
from pusher.spool import Spool, SpoolPlan, default_folder


def blocks(count: int, seed: int = 1) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(rng.randrange(1, 5_000)) + b"\n" * 5_000 for _ in range(count)]


Make = Callable[..., Spool]


def plan(folder: Path, **more: object) -> SpoolPlan:
    values = {"folder": folder, "max_bytes": 1 << 30, **more}
    return SpoolPlan(**values)  # type: ignore[arg-type]


@pytest.fixture
def spools() -> Iterator[Make]:
    """Makes spools, and closes them after the test."""
    made: list[Spool] = []

    def make(*arguments: Any) -> Spool:
        made.append(Spool(*arguments))
        return made[-1]

    yield make
    for spool in made:
        spool.close()


def test_it_is_read_again_as_often_as_one_likes(spools: Make, tmp_path: Path) -> None:
    given = blocks(300)
    spool = spools(plan(tmp_path), iter(given))
    assert list(spool.read()) == given
    for _ in range(2):
        assert b"".join(spool.read()) == b"".join(given)
    assert spool.input_bytes == sum(map(len, given))
    assert 0 < spool.size_bytes < spool.input_bytes


def test_what_was_not_read_the_first_time_comes_from_the_pipe_the_second_time(
    spools: Make, tmp_path: Path
) -> None:
    given = blocks(30)
    spool = spools(plan(tmp_path), iter(given))
    assert list(islice(spool.read(), 10)) == given[:10]
    assert list(islice(spool.read(), 1))
    assert b"".join(spool.read()) == b"".join(given)
    assert b"".join(spool.read()) == b"".join(given)


def test_a_reader_that_was_given_up_but_waits_for_the_pipe_takes_nothing_away(
    spools: Make, tmp_path: Path
) -> None:
    waits, comes = threading.Event(), threading.Event()

    def slow() -> Iterator[bytes]:
        yield b"one\n"
        waits.set()
        assert comes.wait(10)
        yield b"two\n"
        yield b"three\n"

    spool = spools(plan(tmp_path), slow())
    first = spool.read()
    assert next(first) == b"one\n"
    given_up = threading.Thread(target=lambda: next(first))
    given_up.start()
    assert waits.wait(10)
    second = spool.read()
    assert next(second) == b"one\n", "all that was read already comes without waiting"
    comes.set()
    assert b"".join(second) == b"two\nthree\n"
    given_up.join(10)


def test_it_has_no_name_and_leaves_nothing(spools: Make, tmp_path: Path) -> None:
    spool = spools(plan(tmp_path), iter(blocks(3)))
    list(spool.read())
    assert list(tmp_path.iterdir()) == []
    spool.close()
    with pytest.raises(DiskError, match="closed"):
        list(spool.read())


def test_a_kept_one_is_a_file_that_zstd_reads_and_nobody_else(spools: Make, tmp_path: Path) -> None:
    given = blocks(50)
    spool = spools(plan(tmp_path, kept_as="pusher-abc"), iter(given), 2)
    list(islice(spool.read(), 5))
    list(spool.read())
    spool.close()
    path = tmp_path / "pusher-abc-2.ndjson.zst"
    assert spool.path == path
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open("rb") as file:
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        assert reader.read() == b"".join(given)


def test_its_size_is_bounded(spools: Make, tmp_path: Path) -> None:
    spool = spools(plan(tmp_path, max_bytes=100_000), iter(blocks(300)))
    with pytest.raises(DiskError, match="--spool-max"):
        list(spool.read())
    assert spool.size_bytes <= 100_000


def test_a_folder_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--spool-dir"):
        Spool(plan(tmp_path / "nowhere"), iter([]))


def test_it_goes_where_temporary_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert default_folder() == tmp_path
