"""Which proxy the environment names for an address. The caller passes the environment."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

__all__ = ["proxy_for"]


def proxy_for(url: str, environment: Mapping[str, str]) -> str | None:
    """The proxy of HTTPS_PROXY or HTTP_PROXY, unless NO_PROXY names the host; None for none.

    The lower-case names go first. This machine itself is never asked through a proxy. NO_PROXY is
    a list of hosts, of domains (`.example.com`, and `example.com` with all below it), of networks
    (`10.0.0.0/8`), each also with a port; `*` is everything.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return None  # No address at all, which others complain of.
    host = (parts.hostname or "").lower()
    name = f"{parts.scheme}_proxy"
    proxy = environment.get(name) or environment.get(name.upper())
    if not proxy or _is_own(host):
        return None
    exceptions = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    if any(_names(entry.strip().lower(), host, port) for entry in exceptions.split(",")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_own(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _names(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    try:
        return ip_address(host) in ip_network(entry, strict=False)
    except ValueError:
        pass  # One of the two is a name, or has a port.
    name, _, wanted_port = entry.rpartition(":")
    if name and wanted_port.isdigit():
        entry = name.strip("[]")
        if int(wanted_port) != port:
            return False
    domain = entry.removeprefix("*").removeprefix(".")
    if not domain:
        return False
    return host == entry or host.endswith(f".{domain}") or (host == domain and entry == domain)
