"""Which proxy the environment names."""

from __future__ import annotations

import pytest

from pusher.proxying import proxy_for

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("https://bridge.example", {"HTTPS_PROXY": PROXY}, PROXY),
        ("https://bridge.example", {"https_proxy": PROXY, "HTTPS_PROXY": "http://other"}, PROXY),
        ("https://bridge.example", {"HTTP_PROXY": PROXY}, None),
        ("http://bridge.example", {"HTTP_PROXY": PROXY}, PROXY),
        ("http://bridge.example", {"http_proxy": "proxy.example:3128"}, PROXY),
        ("http://bridge.example", {"HTTP_PROXY": ""}, None),
        ("http://bridge.example", {"ALL_PROXY": PROXY}, None),
        ("http://127.0.0.1:8080", {"HTTP_PROXY": PROXY}, None),
        ("http://[::1]:8080", {"HTTP_PROXY": PROXY}, None),
        ("http://localhost:8080", {"HTTP_PROXY": PROXY}, None),
        ("http://[::1", {"HTTP_PROXY": PROXY}, None),
        ("http://host:port", {"HTTP_PROXY": PROXY}, None),
    ],
)
def test_the_proxy_goes_by_the_scheme_of_the_address(
    url: str, environment: dict[str, str], proxy: str | None
) -> None:
    assert proxy_for(url, environment) == proxy


@pytest.mark.parametrize(
    "exceptions",
    [
        "bridge.example",
        "example",
        ".example",
        "*.example",
        "*",
        "other, BRIDGE.example ,more",
        "bridge.example:80",
    ],
)
def test_no_proxy_names_hosts_domains_and_ports(exceptions: str) -> None:
    environment = {"HTTP_PROXY": PROXY, "NO_PROXY": exceptions}
    assert proxy_for("http://bridge.example", environment) is None


@pytest.mark.parametrize(
    "exceptions", ["ridge.example", "bridge.example:8080", "other.example", ".bridge.example", ","]
)
def test_no_proxy_is_not_taken_for_more_than_it_names(exceptions: str) -> None:
    environment = {"HTTP_PROXY": PROXY, "NO_PROXY": exceptions}
    assert proxy_for("http://bridge.example", environment) == PROXY


@pytest.mark.parametrize(
    ("exceptions", "is_direct"),
    [("10.0.0.0/8", True), ("10.1.2.3", True), ("10.1.2.3:80", True), ("192.168.0.0/16", False)],
)
def test_no_proxy_names_networks(exceptions: str, *, is_direct: bool) -> None:
    environment = {"HTTP_PROXY": PROXY, "NO_PROXY": exceptions}
    assert (proxy_for("http://10.1.2.3", environment) is None) == is_direct
