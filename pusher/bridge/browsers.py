"""What a foreign page in somebody's browser may not do to a bridge: headers -> nothing, or a 403.

Only browsers send `Sec-Fetch-Site`, and a page cannot forge it; other clients are not concerned.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Final

from pusher.bridge.refusals import forbidden

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITES: Final = frozenset({"same-origin", "none"})
_HOST: Final = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<name>[^:]*))(?::\d*)?", re.ASCII)


def refuse_foreign_pages(method: str, headers: Mapping[str, str], *, is_open: bool) -> None:
    """Raise a 403 for a change that another site's page asks for, or for a rebound name.

    A bridge without credentials is guarded by its loopback address alone. A page whose own name
    resolves to that address (DNS rebinding) would get past it, but says its name in `Host`.
    """
    site = headers.get("Sec-Fetch-Site")
    if site is not None and method not in _READING and site.lower() not in _OWN_SITES:
        raise forbidden("A page of another site may not change anything here (Sec-Fetch-Site).")
    host = headers.get("Host")
    if is_open and host is not None and not _is_loopback(host):
        raise forbidden(
            "A bridge without credentials is asked as localhost, 127.0.0.1 or [::1] only (Host)."
        )


def _is_loopback(host: str) -> bool:
    match = _HOST.fullmatch(host.strip())
    if match is None:
        return False
    if match["name"] is not None and match["name"].lower() == "localhost":
        return True
    try:
        if match["v6"] is not None:
            return ipaddress.IPv6Address(match["v6"]).is_loopback
        return ipaddress.IPv4Address(match["name"]).is_loopback
    except ValueError:
        return False
