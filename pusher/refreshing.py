"""What OAuth wants for a new access token, and what it gives. Values only: the transport asks."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlencode

import msgspec

__all__ = ["Refresher", "Tokens"]

TOKEN_PATH = "/oauth/v1/token"  # noqa: S105 - an address


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a refresh has brought. Neither token shows in its repr."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    """The next refresh needs this one: a server may replace it each time."""
    expires_in_s: int | None = None


class _TokenAnswer(msgspec.Struct):
    access_token: str
    refresh_token: str | None = None
    expires_in: int | None = None


_decode = msgspec.json.Decoder(_TokenAnswer).decode


class Refresher:
    """The credentials of an installed application, for one account.

    Args:
        client_id: of the application.
        client_secret: of the application.
        refresh_token: what the account's owner has granted.
        token_url: where tokens are given; `/oauth/v1/token` below the bridge's address by default.
    """

    def __init__(
        self,
        client_id: str,
        client_secret: str,
        refresh_token: str,
        *,
        token_url: str | None = None,
    ) -> None:
        self.token_url = token_url
        self.tokens: Tokens | None = None
        """The newest tokens, once there was a refresh; keep them for the next run."""
        self.trouble: str | None = None
        """Why the last refresh brought none; None when it did."""
        self._client_id = client_id
        self._client_secret = client_secret
        self._refresh_token = refresh_token

    def __repr__(self) -> str:
        return f"<Refresher, {'used' if self.tokens else 'not used yet'}>"

    @property
    def secrets(self) -> tuple[str, ...]:
        """All that must never be shown."""
        return (
            self._client_secret,
            self._refresh_token,
            *((self.tokens.access_token,) if self.tokens else ()),
        )

    def form(self) -> bytes:
        """The body of the request for new tokens, form-encoded."""
        return urlencode(
            {
                "grant_type": "refresh_token",
                "client_id": self._client_id,
                "client_secret": self._client_secret,
                "refresh_token": self._refresh_token,
            }
        ).encode()

    def accept(self, body: bytes) -> bool:
        """Take the tokens of a 200; false, with `trouble`, when there are none in it."""
        try:
            answer = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.trouble = "the token endpoint's answer has no access_token"
            return False
        token = answer.access_token
        if not (token and token.isascii() and token.isprintable()):
            self.trouble = "the new access token is not printable ASCII"
            return False
        self._refresh_token = answer.refresh_token or self._refresh_token
        self.tokens = Tokens(token, self._refresh_token, answer.expires_in)
        self.trouble = None
        return True
