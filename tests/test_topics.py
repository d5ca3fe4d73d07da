"""Addresses of topics, properties of the client, and what is made of a partition's values."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.origins import origins_of
from hypothesis import given
from hypothesis import strategies as st

from pusher.batching import Batcher
from pusher.changes import Converter
from pusher.decoding import Decoder
from pusher.errors import UsageError
from pusher.model import Partition
from pusher.records import Record
from pusher.sources import TopicAddress, Until, read_properties, redacted
from pusher.sources.values import chunks_of_records, chunks_of_values
from pusher.watermark import Ledger

PARTITION = Partition("t", 3, 1)


def test_an_address_names_brokers_topics_and_a_group() -> None:
    address = TopicAddress.parse("kafka://a:1,b:2/x,y?group=g")
    assert (address.brokers, address.topics, address.group) == ("a:1,b:2", ("x", "y"), "g")


def test_a_pattern_may_have_commas_and_an_encoded_question_mark() -> None:
    address = TopicAddress.parse("kafka://a/^x{1,2}y%3F$?group=g")
    assert [address.matches(name) for name in ("x", "xxy", "xxxy", "z")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "text",
    [
        "kafka://a",
        "kafka:///t?group=g",
        "kafka://a/t,?group=g",
        "kafka://me:secret@a/t?group=g",
        "kafka://a/t?group=",
        "kafka://a/t?team=g",
        "kafka://a/^(?group=g",
        "kafka://a/t/u?group=g",
        "http://a/t",
    ],
)
def test_what_is_no_address_is_a_usage_error_that_shows_no_password(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        TopicAddress.parse(text)
    assert "secret" not in str(caught.value)


def test_properties_are_read_with_comments_and_values_that_have_equals_signs(
    tmp_path: Path,
) -> None:
    file = tmp_path / "p"
    file.write_text("# mine\n\nsasl.password = a=b \nsecurity.protocol=SSL\n")
    assert read_properties(file) == {"sasl.password": "a=b", "security.protocol": "SSL"}


@pytest.mark.parametrize("line", ["group.id=other", "enable.auto.commit=true", "hunter2"])
def test_properties_that_are_ours_or_none_are_usage_errors(line: str, tmp_path: Path) -> None:
    file = tmp_path / "p"
    file.write_text(line + "\n")
    with pytest.raises(UsageError, match="line 1") as caught:
        read_properties(file)
    assert "hunter2" not in str(caught.value)


def test_secret_values_are_taken_out_of_what_the_client_says() -> None:
    properties = {"sasl.password": "hunter2", "security.protocol": "SSL"}
    assert redacted("bad hunter2 over SSL", properties) == "bad *** over SSL"


@pytest.mark.parametrize("text", ["END", "tomorrow", "2026-01-01", "2026-01-01T00:00"])
def test_an_end_is_end_or_a_time_with_its_zone(text: str) -> None:
    with pytest.raises(UsageError):
        Until.parse(text)
    assert Until.parse("1970-01-01T00:00:01Z").at_ms == 1000


def test_plain_values_are_lines_with_their_offsets_and_the_end_lies_behind_the_last() -> None:
    chunks = chunks_of_values(
        PARTITION, [b"{}", b'{"a":1}'], [5, 9], [1, 2], first_line=1, max_line_bytes=100
    )
    assert chunks is not None
    (chunk,) = chunks
    assert chunk.end is not None
    assert list(chunk.lines()) == [(1, 5, b"{}"), (2, 9, b'{"a":1}')]
    assert (chunk.end.offset, chunk.line_count) == (10, 2)


def test_chunks_of_a_topic_are_of_64_kib_as_what_is_open_of_one_is_read_again() -> None:
    values = [b'{"pad":"' + b"x" * 990 + b'"}'] * 300
    plain = chunks_of_values(
        PARTITION, values, range(300), [1] * 300, first_line=1, max_line_bytes=1 << 20
    )
    records = [Record(value, offset=at) for at, value in enumerate(values)]
    as_they_are = Converter(change="canonical").convert
    looked_at = chunks_of_records(
        PARTITION, records, as_they_are, first_line=1, max_line_bytes=1 << 20
    )
    for chunks in (plain, list(looked_at)):
        assert chunks is not None
        assert sum(chunk.line_count for chunk in chunks) == 300
        assert len(chunks) == 5
        assert max(len(chunk.data) for chunk in chunks) < (64 << 10) + 1_001


@pytest.mark.parametrize("odd", [None, b"", b" {}", b"{\n}", b"{}\n{}", b"x", b"{" + b"x" * 100])
def test_values_that_are_not_plain_are_looked_at_one_by_one(odd: bytes | None) -> None:
    values = [b"{}", odd, b"{}"]
    assert (
        chunks_of_values(PARTITION, values, [1, 2, 3], [0] * 3, first_line=1, max_line_bytes=50)
        is None
    )


@given(st.lists(st.one_of(st.none(), st.binary(max_size=12), st.just(b'{"a":\n1}')), min_size=1))
def test_every_record_is_a_line_or_counted_and_the_last_chunk_ends_behind_it(
    values: list[bytes | None],
) -> None:
    records = [Record(v, b"k", "t", 3, 2 * n, 0) for n, v in enumerate(values)]
    chunks = list(
        chunks_of_records(
            PARTITION,
            records,
            Converter(change="canonical").convert,
            first_line=1,
            max_line_bytes=8,
        )
    )
    found = 0
    for chunk in chunks:
        decoded = Decoder().decode(chunk, 0)
        found += len(decoded.messages) + len(decoded.rejections) + len(chunk.rejected)
        found += sum(chunk.skipped.values())
    assert found == len(values)
    assert chunks[-1].end is not None
    assert chunks[-1].end.offset == 2 * (len(values) - 1) + 1


def line(number: int) -> bytes:
    return b'{"storeId":"s","objectType":"DEAL","externalObjectId":"%d"}' % number


def test_what_is_withdrawn_is_in_no_batch_and_holds_the_watermark() -> None:
    ledger, batcher = Ledger(), Batcher(batch_size=2)
    chunks = chunks_of_values(
        PARTITION, [line(n) for n in range(5)], range(5), [0] * 5, first_line=1, max_line_bytes=99
    )
    assert chunks is not None
    (chunk,) = chunks
    ledger.admit(chunk)
    ledger.expect(chunk, 5)
    adding = batcher.add(Decoder().decode(chunk, 1).messages, range(5), chunk, 0.0)
    first = next(adding)
    gone = batcher.withdraw(ledger.chunks_of(PARTITION))
    ledger.withdraw(gone)
    assert gone == {chunk.number: 3}
    assert not list(adding)
    assert ledger.open_in(PARTITION) == len(first) == 2
    ledger.settle(origins_of([(chunk.number, 2)]))
    assert (ledger.pending, ledger.offsets) == (0, {})


def test_each_partition_has_a_watermark_of_its_own_and_a_forgotten_one_has_none() -> None:
    ledger = Ledger()
    other = Partition("t", 4, 1)
    found = []
    for partition in (PARTITION, other):
        chunks = chunks_of_values(partition, [line(1)], [7], [0], first_line=1, max_line_bytes=99)
        assert chunks is not None
        ledger.admit(chunks[0])
        ledger.expect(chunks[0], 1)
        found.append(chunks[0].number)
    ledger.settle(origins_of([(found[1], 1)]))
    assert ledger.offsets == {other: 8}
    ledger.forget(PARTITION)
    ledger.settle(origins_of([(found[0], 1)]))
    assert (ledger.offsets, ledger.pending, ledger.lag_bytes) == ({other: 8}, 0, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ("kafka://127.0.0.1:9/t?group=g",),
        ("input.ndjson", "--dead-letters-topic", "kafka://127.0.0.1:9/dead"),
    ],
)
def test_where_the_client_is_not_installed_the_error_says_how_to_install_it(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "input.ndjson").write_bytes(line(1) + b"\n")
    blocked = (
        "import sys; sys.modules['confluent_kafka'] = None; "
        "from pusher.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", blocked, "push", *arguments, "--url", "http://127.0.0.1:9"],
        cwd=tmp_path,
        env={name: one for name, one in os.environ.items() if not name.startswith("PUSHER_")},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "the Kafka client is not installed: pip install 'ecomm-pusher[kafka]'" in done.stderr
    assert "Traceback" not in done.stderr
