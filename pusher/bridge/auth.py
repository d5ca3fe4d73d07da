"""Who is calling: from a request's credentials to a caller, or a 401. It knows no endpoint."""

from __future__ import annotations

import enum
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from pusher.bridge.config import Credentials
from pusher.bridge.model import NO_APP
from pusher.bridge.refusals import unauthorized

_NOT_FOUND = (
    "Authentication credentials not found. This API accepts an OAuth token as a Bearer token in"
    " the Authorization header, or a key in the hapikey parameter."
)


class Realm(enum.Enum):
    """Whose data an endpoint serves, and so which credentials open it."""

    ACCOUNT = "account"  # an OAuth token, or the account's key
    APPLICATION = "application"  # "use your developer account's HAPIkey along with the appId"
    MANAGEMENT = "management"  # the bridge's own endpoints: any of them


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller that has been let in, and the application it speaks for."""

    app_id: int = NO_APP


def authenticate(
    credentials: Credentials,
    app_id: int,
    headers: Mapping[str, str],
    query: Mapping[str, str],
    realm: Realm,
) -> Caller:
    """Let a caller in. A token stands for the application, a key for the account itself."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    token = token.strip() if scheme.lower() == "bearer" else ""
    key = query.get("hapikey", "")
    caller = Caller(app_id) if token else Caller()
    if not credentials.are_given:
        return caller
    if not token and not key:
        raise unauthorized(_NOT_FOUND)
    accepted = {
        Realm.ACCOUNT: (credentials.token, credentials.api_key),
        Realm.APPLICATION: (None, credentials.developer_key),
        Realm.MANAGEMENT: (credentials.token, credentials.api_key or credentials.developer_key),
    }[realm]
    if token:
        if _equal(token, accepted[0]):
            return caller
        raise unauthorized("The OAuth token used to make this call is not valid for it.")
    is_developer = realm is Realm.MANAGEMENT and _equal(key, credentials.developer_key)
    if is_developer or _equal(key, accepted[1]):
        return caller
    raise unauthorized("This hapikey is not valid for this call.")


def _equal(given: str, expected: str | None) -> bool:
    # In constant time, so that the answer's delay does not spell the secret.
    return expected is not None and hmac.compare_digest(given.encode(), expected.encode())
