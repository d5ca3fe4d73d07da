"""The file of a checkpoint: one run at a time, and never half of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pusher.checkpoint import CheckpointFile
from pusher.errors import DiskError, UsageError

HOLD = """
import sys
from pathlib import Path
from pusher.checkpoint import CheckpointFile
CheckpointFile(Path(sys.argv[1])).open()
print("held", flush=True)
sys.stdin.read()
"""

WRITE_FOR_EVER = """
import sys, anyio
from pathlib import Path
from pusher.checkpoint import CheckpointFile
async def main():
    file = CheckpointFile(Path(sys.argv[1]))
    file.open()
    for number in range(10**9):
        await file.write(b"%09d" % number * 20_000)
        if number == 5:
            print("writing", flush=True)
anyio.run(main)
"""


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_what_was_written_is_read_by_the_next_run(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "ck")
    assert file.open() is None
    await file.write(b"one")
    await file.write(b"two")
    file.close()
    again = CheckpointFile(tmp_path / "ck")
    assert again.open() == b"two"
    again.close()
    assert names_in(tmp_path) == ["ck"]


def test_two_runs_that_share_a_checkpoint_collide(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "ck")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match="in use by another run"):
            CheckpointFile(tmp_path / "ck").open()
        other.communicate(b"")
    file = CheckpointFile(tmp_path / "ck")
    file.open()
    file.close()


async def test_the_lock_outlives_a_write(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "ck")
    file.open()
    await file.write(b"one")
    with pytest.raises(UsageError, match="in use"):
        CheckpointFile(tmp_path / "ck").open()
    file.close()


def test_a_run_that_is_killed_while_it_writes_leaves_a_whole_file_and_no_lock(
    tmp_path: Path,
) -> None:
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path / "ck")], stdout=subprocess.PIPE
        ) as run:
            assert run.stdout
            assert run.stdout.readline() == b"writing\n"
            run.kill()
        file = CheckpointFile(tmp_path / "ck")
        data = file.open()
        file.close()
        assert data == data[:9] * 20_000 if data else pytest.fail("nothing was left")


async def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "ck").symlink_to(tmp_path / "there" / "real")
    file = CheckpointFile(tmp_path / "ck")
    file.open()
    await file.write(b"one")
    file.close()
    assert (tmp_path / "ck").is_symlink()
    assert (tmp_path / "there" / "real").read_bytes() == b"one"


@pytest.mark.parametrize("path", ["no/such/folder", "."])
def test_a_place_where_no_file_can_be_is_a_usage_error(path: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--checkpoint"):
        CheckpointFile(tmp_path / path).open()


@pytest.mark.parametrize("device", ["/dev/null", "/dev/full"])
def test_a_device_is_never_replaced(device: str) -> None:
    with pytest.raises(UsageError, match="is not a file"):
        CheckpointFile(Path(device)).open()


async def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = CheckpointFile(tmp_path / "ck")
    file.open()
    await file.write(b"one")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskError, match="ck: No space left"):
            await file.write(b"two")
    assert names_in(tmp_path) == ["ck"]
    await file.write(b"three")
    file.close()
    assert (tmp_path / "ck").read_bytes() == b"three"
