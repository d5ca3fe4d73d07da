"""What is shown of settings: never a secret."""

from __future__ import annotations

import pytest

from pusher.masking import shown


@pytest.mark.parametrize(
    "key", ["token", "api-key", "refresh-token", "client-secret", "developer-key", "some-password"]
)
def test_a_secret_is_stars(key: str) -> None:
    assert shown(key, "s3cret") == "***"


@pytest.mark.parametrize("key", ["token-file", "token-url", "group-instance", "dead-letters"])
def test_what_only_sounds_like_a_secret_is_shown(key: str) -> None:
    assert shown(key, "s3cret") == "s3cret"


def test_the_name_of_a_file_is_no_secret() -> None:
    assert shown("client-key", "own.pem", is_path=True) == "own.pem"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Authorization: Bearer abc", "Authorization: ***"),
        ("X-Key=abc: def", "X-Key: ***"),
        ("abc", "abc: ***"),
    ],
)
def test_a_header_is_shown_by_its_name(header: str, expected: str) -> None:
    assert shown("header", header) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://bridge.example/base?x=1", "https://bridge.example/base?x=1"),
        ("https://me:pa:ss@h/p", "https://me:***@h/p"),
        ("https://me:p@ss@h/p", "https://me:***@h/p"),
        ("https://ghp_abc@h", "https://***@h"),
        ("https://h/?hapikey=abc&x=1", "https://h/?hapikey=***&x=1"),
        ("https://h/?x=1&access_token=abc#y", "https://h/?x=1&access_token=***#y"),
        ("kafka://u:pw@h1:9092,h2:9092/t?group=g", "kafka://u:***@h1:9092,h2:9092/t?group=g"),
        ("kafka://h/t?sasl.password=abc", "kafka://h/t?sasl.password=***"),
        ("me@shop.example", "me@shop.example"),
    ],
)
def test_an_address_is_shown_without_its_password(address: str, expected: str) -> None:
    assert shown("url", address) == expected
