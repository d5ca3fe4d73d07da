"""What may be shown of a setting: its value without what is secret in it."""

from __future__ import annotations

import re

__all__ = ["MASK", "shown"]

MASK = "***"

_SECRETS = frozenset({"key", "password", "secret", "token"})
"""Last words of the names of settings that are secrets: `api-key`, but not `api-key-file`."""
_HEADER = re.compile(r"[^:=]*")
_USER = re.compile(r"(?<=://)([^\s/?#:@]*)(:[^\s/?#]*)?@")
_QUERY = re.compile(
    r"([?&;][^\s=&#]*(?:key|password|secret|token)[^\s=&#]*=)[^\s&#]*", re.IGNORECASE
)


def shown(key: str, text: str, *, is_path: bool = False) -> str:
    """A value without what is secret in it.

    Args:
        key: the name of the setting, as `api-key`.
        text: its value.
        is_path: it names a file, which is no secret whatever the setting is called.

    Returns:
        Stars for a secret; of a header the name; of addresses all but the password, and of their
        queries all but keys and tokens.
    """
    if key.rpartition("-")[2] in _SECRETS and not is_path:
        return MASK
    if key == "header":
        name = _HEADER.match(text)
        return f"{name[0].strip() if name else ''}: {MASK}"
    return _QUERY.sub(rf"\1{MASK}", _USER.sub(_without_password, text))


def _without_password(user: re.Match[str]) -> str:
    # A name alone is often a token.
    return f"{user[1]}:{MASK}@" if user[2] else f"{MASK}@"
