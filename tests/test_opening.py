"""Opening: what a command line names is found, in order, and nothing is taken by accident."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import zstandard

from pusher.errors import PusherError, UsageError
from pusher.sources import open_source

LINE = b'{"storeId":"s","objectType":"DEAL","externalObjectId":"1"}\n'
LETTER = (
    json.dumps(
        {
            "reason": "not_json",
            "detail": "x",
            "status": None,
            "attempts": 0,
            "source": "a",
            "line": 1,
            "offset": 0,
            "at": "2020-01-01T00:00:00.000+00:00",
            "run_id": "r",
            "changed_at": None,
            "record": "x",
        }
    ).encode()
    + b"\n"
)


def place(directory: Path, *names: str, content: bytes = LINE) -> None:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


async def found(specs: Sequence[str | Path], base: Path) -> list[str]:
    """The files that are read, in order, by their names below `base`."""
    names: list[str] = []
    async for chunk in open_source(specs).chunks():
        name = str(Path(chunk.source).relative_to(base))
        if name not in names[-1:]:
            names.append(name)
    return names


async def test_a_file_is_itself_whatever_its_suffix(tmp_path: Path) -> None:
    place(tmp_path, "data.txt")
    assert await found([tmp_path / "data.txt"], tmp_path) == ["data.txt"]
    assert await found([str(tmp_path / "data.txt")], tmp_path) == ["data.txt"]


async def test_sources_are_read_in_the_order_given(tmp_path: Path) -> None:
    place(tmp_path, "a", "b", "c")
    specs = [tmp_path / name for name in ("b", "c", "a")]
    assert await found(specs, tmp_path) == ["b", "c", "a"]


# Directories


async def test_a_directory_stands_for_its_input_files_by_name(tmp_path: Path) -> None:
    place(tmp_path, "c.ndjson", "a.jsonl", "b.json", "d.ndjson.gz", "e.jsonl.zst", "F.NDJSON")
    place(tmp_path, "notes.txt", "a.csv", "ndjson", "x.ndjson.bz2", "x.ndjson~")
    assert await found([tmp_path], tmp_path) == [
        "F.NDJSON",
        "a.jsonl",
        "b.json",
        "c.ndjson",
        "d.ndjson.gz",
        "e.jsonl.zst",
    ]


async def test_a_directory_is_read_with_all_that_is_below_it(tmp_path: Path) -> None:
    place(tmp_path, "2024/02/a.ndjson", "2024/01/b.ndjson", "2024/01/a.ndjson", "2023/12/z.ndjson")
    assert await found([tmp_path], tmp_path) == [
        "2023/12/z.ndjson",
        "2024/01/a.ndjson",
        "2024/01/b.ndjson",
        "2024/02/a.ndjson",
    ]


async def test_hidden_files_and_directories_are_passed_over(tmp_path: Path) -> None:
    place(tmp_path, "a.ndjson", ".b.ndjson", ".git/c.ndjson")
    assert await found([tmp_path], tmp_path) == ["a.ndjson"]
    assert await found([f"{tmp_path}/*"], tmp_path) == ["a.ndjson"]


def test_a_directory_without_input_files_is_the_callers_error(tmp_path: Path) -> None:
    place(tmp_path, "notes.txt", ".hidden.ndjson")
    with pytest.raises(UsageError, match="no input files"):
        open_source([tmp_path])


def test_an_empty_directory_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no input files"):
        open_source([tmp_path])


async def test_a_link_to_a_file_is_read_and_a_loop_of_links_ends(tmp_path: Path) -> None:
    place(tmp_path, "in/a.ndjson")
    (tmp_path / "in" / "b.ndjson").symlink_to("a.ndjson")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "in" / "broken.ndjson").symlink_to("nowhere")
    assert await found([tmp_path / "in"], tmp_path) == ["in/a.ndjson", "in/b.ndjson"]


async def test_a_pipe_in_a_directory_is_not_waited_for(tmp_path: Path) -> None:
    place(tmp_path, "a.ndjson")
    os.mkfifo(tmp_path / "b.ndjson")
    assert await found([tmp_path], tmp_path) == ["a.ndjson"]


# Dead letters

DEAD_LETTER_FILES = {
    "plain": LETTER,
    "gzip": gzip.compress(LETTER * 3),
    "zstandard": zstandard.ZstdCompressor().compress(LETTER),
    "base64": LETTER.replace(b'"record"', b'"record_base64"'),
    "no last line end": LETTER.rstrip(),
    "long": LETTER.replace(b'"x"}', b'"' + b"x" * 100_000 + b'"}'),
}


@pytest.mark.parametrize("kind", DEAD_LETTER_FILES)
async def test_dead_letters_are_passed_over_by_their_content(tmp_path: Path, kind: str) -> None:
    place(tmp_path, "a.ndjson", "c.ndjson")
    place(tmp_path, "b.ndjson", content=DEAD_LETTER_FILES[kind])
    assert await found([tmp_path], tmp_path) == ["a.ndjson", "c.ndjson"]
    assert await found([f"{tmp_path}/*.ndjson"], tmp_path) == ["a.ndjson", "c.ndjson"]


@pytest.mark.parametrize("kind", ["plain", "gzip"])
def test_where_there_are_only_dead_letters_there_is_no_input(tmp_path: Path, kind: str) -> None:
    place(tmp_path, "dead.ndjson", content=DEAD_LETTER_FILES[kind])
    with pytest.raises(UsageError):
        open_source([tmp_path])
    with pytest.raises(UsageError):
        open_source([f"{tmp_path}/*"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"not json\n",
        b"\xff\xfe\n",
        b"[]\n",
        b'{"reason":"a customer wrote this","record":"gold"}\n',
        b'{"run_id":"r","attempts":1,"reason":"x"}\n',
        b"\x1f\x8b broken",
        b"{" * 50_000,
        LINE,
        LINE + LETTER,
    ],
)
async def test_only_dead_letters_are_taken_for_dead_letters(tmp_path: Path, content: bytes) -> None:
    place(tmp_path, "a.ndjson", content=content)
    assert open_source([tmp_path]).name == str(tmp_path / "a.ndjson")


async def test_dead_letters_named_outright_are_read_as_their_original_lines(
    tmp_path: Path,
) -> None:
    place(tmp_path, "dead.ndjson", content=LETTER)
    source = open_source([tmp_path / "dead.ndjson"])
    (chunk,) = [chunk async for chunk in source.chunks()]
    record = json.loads(LETTER)["record"]
    assert [line for _, _, line in chunk.lines()] == [record.encode()]
    assert source.paths == [(tmp_path / "dead.ndjson").resolve()]


# Globs


async def test_a_glob_stands_for_its_matches_by_name(tmp_path: Path) -> None:
    place(tmp_path, "b.txt", "a.txt", "c.csv")
    assert await found([f"{tmp_path}/*.txt"], tmp_path) == ["a.txt", "b.txt"]


async def test_two_stars_reach_below(tmp_path: Path) -> None:
    place(tmp_path, "x/y/a.ndjson", "x/b.ndjson", "x/c.txt")
    names = await found([f"{tmp_path}/**/*.ndjson"], tmp_path)
    assert names == sorted(names) == ["x/b.ndjson", "x/y/a.ndjson"]


async def test_a_directory_that_a_glob_finds_is_read(tmp_path: Path) -> None:
    place(tmp_path, "day-1/a.ndjson", "day-2/a.ndjson", "day-2/notes.txt")
    assert await found([f"{tmp_path}/day-*"], tmp_path) == ["day-1/a.ndjson", "day-2/a.ndjson"]


async def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    place(tmp_path, "a[1].ndjson", "a1.ndjson")
    assert await found([tmp_path / "a[1].ndjson"], tmp_path) == ["a[1].ndjson"]


def test_a_glob_without_a_match_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file matches"):
        open_source([f"{tmp_path}/*.ndjson"])


# What cannot be opened


@pytest.mark.parametrize("name", ["missing.ndjson", "missing/a.ndjson", "a\0b", "x" * 300])
def test_a_file_that_does_not_exist_is_the_callers_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError) as error:
        open_source([f"{tmp_path}/{name}"])
    assert len(str(error.value).splitlines()) == 1


def test_one_missing_file_among_others_is_said_before_anything_is_read(tmp_path: Path) -> None:
    place(tmp_path, "a.ndjson")
    with pytest.raises(UsageError, match="missing"):
        open_source([tmp_path / "a.ndjson", tmp_path / "missing"])


def test_standard_input_can_be_named_only_once() -> None:
    with pytest.raises(UsageError, match="only once"):
        open_source(["-", "-"])


@pytest.mark.parametrize("spec", ["kafka://host:9092/topic", "s3://bucket/key", "https://h/a"])
def test_an_unknown_kind_of_source_is_the_callers_error(spec: str) -> None:
    with pytest.raises(UsageError, match="not a kind of source"):
        open_source([spec])


def test_a_password_in_an_unknown_kind_of_source_is_not_shown() -> None:
    with pytest.raises(PusherError) as error:
        open_source(["kafka://user:s3cret@host:9092/topic"])
    assert "s3cret" not in str(error.value)


def test_a_name_that_is_not_utf8_is_taken(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.ndjson"))
    path.write_bytes(LINE)
    assert open_source([tmp_path]).size_bytes == len(LINE)
