"""Objects are cut out of arrays, and out of what has no line ends, wherever blocks end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pusher.errors import InputError
from pusher.model import Chunk
from pusher.sources.cutting import cut_into_chunks
from pusher.sources.objects import ObjectCutter

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=3), max_size=6)


def cut(data: bytes, size: int, *, is_array: bool = False, **more: Any) -> list[Chunk]:
    make = partial(ObjectCutter, is_array=is_array, is_indented=b"\n  " in data)
    return list(cut_into_chunks(blocks(data, size), "in", make_cutter=make, **more))


def blocks(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def texts(chunks: list[Chunk]) -> list[bytes]:
    return [line for chunk in chunks for _, _, line in chunk.lines()]


@settings(deadline=None)
@given(OBJECTS, st.integers(1, 40), st.sampled_from([None, 2]), st.sampled_from(["", "\n", "\r\n"]))
def test_objects_one_after_another(
    objects: list[Any], size: int, indent: int | None, between: str
) -> None:
    dumped = (json.dumps(one, indent=indent, ensure_ascii=False) for one in objects)
    found = texts(cut(between.join(dumped).encode(), size))
    assert [json.loads(text) for text in found] == objects


@settings(deadline=None)
@given(OBJECTS, st.integers(1, 40), st.sampled_from([None, 2]))
def test_objects_of_an_array(objects: list[Any], size: int, indent: int | None) -> None:
    data = json.dumps(objects, indent=indent).encode() + b"\n"
    chunks = cut(data, size, is_array=True)
    assert [json.loads(text) for text in texts(chunks)] == objects
    numbers = [number for chunk in chunks for number, _, _ in chunk.lines()]
    assert numbers == list(range(1, len(objects) + 1))
    for chunk in chunks:
        for _, offset, text in chunk.lines():
            assert data[offset:].startswith(text[:1])


@settings(deadline=None)
@given(OBJECTS.filter(bool), st.integers(1, 40), st.integers(1, 40), st.data())
def test_what_follows_a_position_is_what_was_not_cut_before_it(
    objects: list[Any], size: int, later_size: int, data: Any
) -> None:
    text = json.dumps(objects, indent=2).encode()
    chunks = cut(text, size, is_array=True, keeps_fingerprints=True)
    done = data.draw(st.integers(1, len(chunks)))
    rest = cut(text, later_size, is_array=True, after=chunks[done - 1].end)
    assert texts(chunks[:done]) + texts(rest) == texts(chunks)


def test_an_array_may_lie_on_one_line_and_be_larger_than_a_line_may() -> None:
    data = json.dumps([{"n": n} for n in range(10_000)]).encode()
    assert len(texts(cut(data, 1000, is_array=True, max_line_bytes=20))) == 10_000


def test_an_object_over_the_limit_is_passed_on_without_being_kept() -> None:
    data = json.dumps([{"a": 1}, {"b": "x" * 90_000}, {"c": 1}]).encode()
    small, large, last = cut(data, 1000, is_array=True, max_line_bytes=2000)
    assert large.oversized_bytes == 90_009
    assert (large.first_line, large.offset) == (2, data.index(b'{"b"'))
    assert len(large.data) <= 4096
    assert texts([small, last]) == [b'{"a": 1}', b'{"c": 1}']


def test_what_stands_between_objects_is_not_lost() -> None:
    assert texts(cut(b'{"a":1} oops {"b":2},"x{",{"c":3}', 5)) == [
        b'{"a":1}',
        b"oops",
        b'{"b":2}',
        b'"x{"',
        b'{"c":3}',
    ]


@pytest.mark.parametrize("data", [b'[{"a":1},', b'[{"a":1}', b'[{"a":1},{"b"', b'[{"a":1},{"b":2}'])
def test_an_array_without_its_end_is_an_error(data: bytes) -> None:
    with pytest.raises(InputError, match="ends too early"):
        cut(data, 3, is_array=True)
