"""The API contract: what is asked, what an answer means, and no answer that could crash us."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from urllib.parse import parse_qs, unquote

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from pusher.model import Answer, Lane, SyncMessage, Verdict
from pusher.protocol import (
    MESSAGES_PATH,
    as_ms,
    date_ms,
    decode_errors,
    decode_status,
    encode_messages,
    error_text,
    errors_query,
    retry_after_s,
    status_paths,
    verdict_of,
)

DELIVERED, RETRY, REFUSED, STOP = (
    Verdict.DELIVERED,
    Verdict.RETRY,
    Verdict.REFUSED,
    Verdict.STOP,
)

# What is asked


def test_the_path_is_the_references() -> None:
    assert MESSAGES_PATH == "/extensions/ecomm/v2/sync/messages"


def test_a_body_has_the_references_fields() -> None:
    message = SyncMessage(
        "1000",
        changed_at=1_542_092_841_947,
        properties=Raw(b'{"name":"1000"}'),
        associations=Raw(b'{"CONTACT":["daniel452834529"]}'),
    )
    assert json.loads(encode_messages(Lane("store", "DEAL"), [message])) == {
        "storeId": "store",
        "objectType": "DEAL",
        "messages": [
            {
                "action": "UPSERT",
                "changedAt": 1_542_092_841_947,
                "externalObjectId": "1000",
                "properties": {"name": "1000"},
                "associations": {"CONTACT": ["daniel452834529"]},
            }
        ],
    }


# What an answer means


@pytest.mark.parametrize("had_success", [False, True])
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *((status, DELIVERED) for status in (200, 201, 202, 204)),
        *((status, RETRY) for status in (408, 423, 425, 429, 477)),
        *((status, RETRY) for status in (500, 502, 503, 504, 507, 520, 524, 599)),
        *((status, REFUSED) for status in (400, 404, 409, 413, 422)),
        *((status, STOP) for status in (401, 405, 410, 415, 501, 505)),
        *((status, STOP) for status in (300, 301, 302, 303, 304, 307, 308)),
    ],
)
def test_an_answer_means_what_the_design_says(
    status: int,
    expected: Verdict,
    had_success: bool,  # noqa: FBT001
) -> None:
    assert verdict_of(Answer(status), had_success=had_success) is expected


def test_a_403_is_about_the_credentials_until_something_was_accepted() -> None:
    assert verdict_of(Answer(403), had_success=False) is STOP
    assert verdict_of(Answer(403), had_success=True) is REFUSED


@pytest.mark.parametrize("body", [b"", b" \r\n", b"{}", b'{"a":1}', b"[]", b"null"])
def test_a_2xx_with_an_empty_or_json_body_is_a_delivery(body: bytes) -> None:
    assert verdict_of(Answer(200, body), had_success=False) is DELIVERED


@pytest.mark.parametrize(
    "body", [b"<html>login</html>", b"OK", b"\xff\x00", b"{", b"[" * 100_000, b"\x1f\x8b\x08"]
)
def test_a_2xx_with_another_body_stops_the_run(body: bytes) -> None:
    """A proxy or a login page: nothing was delivered."""
    assert verdict_of(Answer(200, body), had_success=True) is STOP


@settings(deadline=None)
@given(st.integers(100, 999), st.binary(max_size=50), st.booleans())
def test_every_answer_has_a_meaning_and_only_a_2xx_is_a_delivery(
    status: int,
    body: bytes,
    had_success: bool,  # noqa: FBT001
) -> None:
    verdict = verdict_of(Answer(status, body), had_success=had_success)
    assert (verdict is DELIVERED) <= (200 <= status < 300)


# Retry-After and Date

NOW_S = 1_445_412_480.0
NOW_DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


def wait_s(retry_after: str | None, *, date: str | None = None, now_s: float = NOW_S) -> float:
    return retry_after_s(Answer(429, retry_after=retry_after, date=date), now_s=now_s)


@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [
        (None, 0.0),
        ("", 0.0),
        ("0", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        ("Wed, 21 Oct 1815 07:28:00 GMT", 0.0),
        ("Wednesday, 21-Oct-15 07:28:30 GMT", 30.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(retry_after: str | None, expected: float) -> None:
    assert wait_s(retry_after) == expected


@pytest.mark.parametrize(
    "garbage",
    [
        "soon",
        "-5",
        "1.5",
        "1e3",
        "٣",
        ",",
        "Wed",
        "Wed, 99 Foo 2015 99:99:99 GMT",
        "\0",
        "GMT",
        "+",
    ],
)
def test_garbage_asks_for_no_wait(garbage: str) -> None:
    assert wait_s(garbage) == 0.0


def test_a_date_is_a_moment_on_the_servers_clock() -> None:
    """Our clock may be an hour off."""
    assert wait_s("Wed, 21 Oct 2015 07:28:30 GMT", date=NOW_DATE, now_s=NOW_S + 3_600) == 30.0


@pytest.mark.parametrize("digits", [20, 400, 5_000])
def test_a_huge_number_of_seconds_does_not_raise(digits: int) -> None:
    assert wait_s("9" * digits) > 1e9


@settings(deadline=None)
@given(
    st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ \S+")
)
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("Mon, 01 Jan 0001 00:00:00 +2359")
@example("Mon, 01 Jan 0000 00:00:00 GMT")
@example("Thu, 01 Jan 1970 00:00:00 +" + "9" * 30)
def test_no_header_raises(text: str) -> None:
    assert wait_s(text) >= 0.0
    assert wait_s("5", date=text) == 5.0
    date = date_ms(text)
    assert date is None or isinstance(date, int)


@pytest.mark.parametrize("missing", [None, "", "garbage", "12345"])
def test_a_missing_or_unreadable_date_is_none(missing: str | None) -> None:
    assert date_ms(missing) is None


@pytest.fixture
def _far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_far_from_greenwich")
@pytest.mark.parametrize(
    "date",
    [NOW_DATE, "Wednesday, 21-Oct-15 07:28:00 GMT", "Wed Oct 21 07:28:00 2015"],
)
def test_each_form_of_an_http_date_is_read_as_utc_in_every_time_zone(date: str) -> None:
    """RFC 9110 5.6.7: a recipient must accept all three forms."""
    assert date_ms(date) == int(NOW_S * 1000)


# Errors in words


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, b'{"status":"error","message":"Invalid input"}', "HTTP 400: Invalid input"),
        (400, b'{"message":"two\\nlines\\tand tabs"}', "HTTP 400: two lines and tabs"),
        (502, b"<html><body>Bad gateway</body></html>", "HTTP 502: an HTML page"),
        (502, b"\r\n  <!DOCTYPE html>", "HTTP 502: an HTML page"),
        (503, b"", "HTTP 503"),
        (503, b"  \n ", "HTTP 503"),
        (500, b"plain words", "HTTP 500: plain words"),
        (500, b'{"message":5}', 'HTTP 500: {"message":5}'),
        (500, b'["x"]', 'HTTP 500: ["x"]'),
    ],
)
def test_an_error_is_told_in_one_line(status: int, body: bytes, expected: str) -> None:
    assert error_text(Answer(status, body)) == expected


@settings(deadline=None)
@given(st.binary(max_size=600))
@example(b"\xff" * 600)
@example(b"[" * 100_000)
@example(b'{"message":"' + b"x" * 10_000 + b'"}')
def test_every_body_makes_one_short_line(body: bytes) -> None:
    text = error_text(Answer(500, body))
    assert text.startswith("HTTP 500")
    assert len(text) < 400
    assert len(text.splitlines()) == 1


# Status and errors


@pytest.mark.parametrize(
    ("external_id", "quoted"),
    [
        ("daniel452834529", "daniel452834529"),
        ("a/b", "a%2Fb"),
        ("a b", "a%20b"),
        ("50%", "50%25"),
        ("a?b#c&d=e", "a%3Fb%23c%26d%3De"),
        ("a+b", "a%2Bb"),
        ("a%2Fb", "a%252Fb"),
        ("\x00", "%00"),
    ],
)
def test_ids_are_percent_encoded_in_the_path(external_id: str, quoted: str) -> None:
    assert status_paths(Lane("s", "DEAL"), external_id) == (
        f"/extensions/ecomm/v2/sync/status/DEAL/s/{quoted}",
        f"/extensions/ecomm/v2/sync/status/s/DEAL/{quoted}",
    )


def test_stores_are_percent_encoded_in_the_path() -> None:
    first, second = status_paths(Lane("Größe/1", "CONTACT"), "1")
    assert first.endswith("/sync/status/CONTACT/Gr%C3%B6%C3%9Fe%2F1/1")
    assert second.endswith("/sync/status/Gr%C3%B6%C3%9Fe%2F1/CONTACT/1")


@settings(deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.text(st.characters(max_codepoint=127), min_size=1),
)
def test_a_path_can_be_taken_apart_again(store_id: str, external_id: str) -> None:
    for path in status_paths(Lane(store_id, "DEAL"), external_id):
        assert path.isascii()
        parts = [unquote(part) for part in path.split("/")[6:]]
        assert sorted(parts) == sorted(["DEAL", store_id, external_id])


def test_the_query_for_errors_has_both_families_of_parameters() -> None:
    query = parse_qs(
        errors_query(
            object_type="DEAL", error_type="UNKNOWN_ERROR", show_resolved=True, limit=50, offset=100
        )
    )
    assert query == {
        "objectType": ["DEAL"],
        "errorType": ["UNKNOWN_ERROR"],
        "showResolvedErrors": ["true"],
        "includeResolved": ["true"],
        "limit": ["50"],
        "offset": ["100"],
        "page": ["101"],
    }


def test_the_query_for_errors_has_the_references_defaults() -> None:
    query = parse_qs(errors_query())
    assert query["showResolvedErrors"] == query["includeResolved"] == ["false"]
    assert (query["limit"], query["offset"], query["page"]) == (["200"], ["0"], ["1"])
    assert "objectType" not in query
    assert "errorType" not in query


def test_a_status_of_the_reference_is_read() -> None:
    status = decode_status(
        b'{"lastProcessedAt":"1542094119555","hubspotId":5402,"errors":[],"objectType":"CONTACT",'
        b'"storeId":"ecommercebridge-test-store","externalObjectId":"daniel452834529"}'
    )
    assert as_ms(status.last_processed_at) == 1_542_094_119_555
    assert status.hubspot_id == 5402
    assert status.errors == []


def test_an_unknown_error_type_and_unknown_keys_are_kept_and_ignored() -> None:
    errors = decode_errors(
        b'{"results":[{"type":"BRAND_NEW","changedAt":1,"erroredAt":"2","more":{"a":1}}],"x":1}'
    ).results
    assert [(one.type, as_ms(one.changed_at), as_ms(one.errored_at)) for one in errors] == [
        ("BRAND_NEW", 1, 2)
    ]


def test_nulls_in_a_status_are_taken() -> None:
    status = decode_status(b'{"lastProcessedAt":null,"hubspotId":null,"errors":[]}')
    assert (status.last_processed_at, status.hubspot_id) == (None, None)


def test_a_status_that_is_no_object_is_an_error() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_status(b"[]")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, None), (0, 0), (5, 5), ("5", 5), ("", None), ("-5", None), ("x", None), ("٣", None)],
)
def test_times_are_numbers_or_digit_strings(value: int | str | None, expected: int | None) -> None:
    assert as_ms(value) == expected


def test_an_absurdly_long_time_does_not_raise() -> None:
    as_ms("9" * 5_000)


def test_what_the_endpoint_says_cannot_steer_a_terminal() -> None:
    body = b'{"message": "bad \\u001b[31mred\\u001b]0;owned\\u0007 caf\\u00e9"}'
    text = error_text(Answer(400, body))
    assert text.isprintable()
    assert text == "HTTP 400: bad \\x1b[31mred\\x1b]0;owned\\x07 café"
