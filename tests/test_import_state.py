"""The state of an import: the same messages always have the same page, over any kill."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pusher.errors import UsageError
from pusher.import_state import ImportOrder, ImportState
from pusher.model import Batch, Lane, ObjectType, SyncMessage

ORDER = ImportOrder(1, "s", ["DEAL", "CONTACT"], "digest")


def batch_of(origins: list[int], object_type: ObjectType = "DEAL") -> Batch:
    messages = [SyncMessage(external_object_id=str(origin)) for origin in origins]
    return Batch(Lane("s", object_type), messages, origins)


def left(state: ImportState, origins: list[int]) -> list[list[int]]:
    return [list(part.origins) for part in state.unsettled(batch_of(origins))]


@pytest.mark.parametrize("is_in_a_file", [True, False])
def test_pages_are_numbered_from_0_for_each_type(tmp_path: Path, *, is_in_a_file: bool) -> None:
    with ImportState(tmp_path / "state" if is_in_a_file else None) as state:
        state.begin(ORDER)
        batches = [batch_of([1, 2]), batch_of([3]), batch_of([4], "CONTACT")]
        assert [state.number_of(batch) for batch in batches] == [0, 1, 0]
        assert [state.number_of(batch) for batch in batches] == [0, 1, 0]
        assert (state.page_count("DEAL"), state.item_count("DEAL")) == (2, 0)


def test_another_run_finds_what_was_settled(tmp_path: Path) -> None:
    with ImportState(tmp_path / "state") as state:
        state.begin(ORDER)
        for origins in ([1, 2, 3], [4, 5, 6], [9]):
            state.number_of(batch_of(origins))
        state.accept("DEAL", 1)
        state.reject(batch_of([9]))
        state.end("CONTACT")
    with ImportState(tmp_path / "state") as state:
        assert state.order == ORDER
        assert left(state, [1, 2, 3]) == [[1, 2, 3]]
        assert left(state, [4, 5, 6]) == []
        assert left(state, [3, 4, 5, 6, 7, 8, 9, 10]) == [[3], [7, 8], [10]]
        assert left(state, [7, 8, 9]) == [[7, 8]]
        assert state.number_of(batch_of([1, 2, 3])) == 0
        assert state.number_of(batch_of([7, 8])) == 3
        assert state.missing_pages("DEAL") == [0, 2, 3]
        assert state.item_count("DEAL") == 3
        assert (state.is_ended("CONTACT"), state.is_ended("DEAL")) == (True, False)


def test_an_empty_page_fills_a_number_and_counts_nothing(tmp_path: Path) -> None:
    with ImportState(tmp_path / "state") as state:
        state.begin(ORDER)
        state.number_of(batch_of([1]))
        state.accept_empty("DEAL", 0)
    with ImportState(tmp_path / "state") as state:
        assert state.missing_pages("DEAL") == []
        assert (state.page_count("DEAL"), state.item_count("DEAL")) == (1, 0)
        assert left(state, [0, 1]) == [[0, 1]]


def test_a_file_that_was_cut_anywhere_is_taken_up_to_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with ImportState(path) as state:
        state.begin(ORDER)
        for first in range(0, 30, 3):
            state.number_of(batch_of([first, first + 1]))
            state.accept("DEAL", first // 3)
    data = path.read_bytes()
    rng = random.Random(5)
    for cut in rng.sample(range(data.index(b"\n") + 1, len(data)), 40):
        path.write_bytes(data[:cut])
        with ImportState(path) as state:
            lines = data[:cut].count(b"\n") - 1
            assert state.item_count("DEAL") == lines // 2 * 2
            state.end("DEAL")
        with ImportState(path) as state:
            assert state.is_ended("DEAL")


def test_a_new_import_forgets_the_one_before(tmp_path: Path) -> None:
    with ImportState(tmp_path / "state") as state:
        state.begin(ORDER)
        state.number_of(batch_of([1]))
        state.begin(ImportOrder(2, "s", [], "digest"))
        assert state.page_count("DEAL") == 0
    with ImportState(tmp_path / "state") as state:
        assert state.order is not None
        assert state.order.import_started_at == 2
        assert state.page_count("DEAL") == 0


def test_two_runs_cannot_use_one_file(tmp_path: Path) -> None:
    with ImportState(tmp_path / "state"), pytest.raises(UsageError, match="another run"):
        ImportState(tmp_path / "state").__enter__()


@pytest.mark.parametrize(
    "data", [b"hello\n", b'{"type":"DEAL","page":0}\n', b'{"order":5}\n', b"\xff\n", b"[]\n"]
)
def test_a_file_that_is_something_else_is_the_callers_error_and_stays(
    data: bytes, tmp_path: Path
) -> None:
    (tmp_path / "state").write_bytes(data)
    with pytest.raises(UsageError, match="not the state of an import"):
        ImportState(tmp_path / "state").__enter__()
    assert (tmp_path / "state").read_bytes() == data


def test_a_file_that_cannot_be_opened_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--state"):
        ImportState(tmp_path / "nowhere" / "state").__enter__()
