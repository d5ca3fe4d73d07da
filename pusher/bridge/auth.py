"""Who is calling: a request's credentials -> a caller, a 401 or a 403. It knows no endpoint."""

from __future__ import annotations

import enum
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pusher.bridge.config import SYNC_SCOPES, BridgeConfig
from pusher.bridge.model import NO_APP
from pusher.bridge.refusals import RefusalError, forbidden, unauthorized

_NOT_FOUND = (
    "Authentication credentials not found. This API accepts an OAuth token as a Bearer token in"
    " the Authorization header, or a key in the hapikey parameter."
)
_WRONG_TOKEN = "The OAuth token used to make this call is not valid for it."  # noqa: S105
_WRONG_KEY = "This hapikey is not valid for this call."
_FOR_APPS_ONLY = (
    "Imports are only available for application development, not for an individual HubSpot"
    " account: use the OAuth token of an application instead of a hapikey."
)
_MISSING_SCOPES = (
    "This app hasn't been granted all required scopes to make this call. One of these is"
    f" required: {', '.join(sorted(SYNC_SCOPES))}."
)


class Realm(enum.Enum):
    """Whose data an endpoint serves, and so which credentials open it."""

    ACCOUNT = "account"  # an OAuth token, or the account's key
    APPLICATION = "application"  # "use your developer account's HAPIkey along with the appId"
    IMPORTS = "imports"  # "only available for application development": an OAuth token
    MANAGEMENT = "management"  # the bridge's own endpoints: any of them


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller that has been let in, and the application it speaks for."""

    app_id: int = NO_APP


class Gate:
    """Knows every credential of a bridge. Without any that is enforced it lets all callers in."""

    def __init__(self, config: BridgeConfig) -> None:
        self._app_id = config.app_id
        self._register = config.all_credentials()

    @property
    def is_enforced(self) -> bool:
        """Whether callers must show something."""
        return self._register.is_enforced

    def knows_app(self, app_id: int) -> bool:
        """Whether there is such an application; an open bridge has them all."""
        return not self.is_enforced or app_id in self._register.app_ids

    def client_secret(self, app_id: int) -> str | None:
        """What an application's webhooks are signed with, None for not at all."""
        return self._register.client_secrets.get(app_id)

    def admit(
        self,
        realm: Realm,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        app_id: int | None = None,
    ) -> Caller:
        """Let a caller in. A token stands for its application, a key for the account itself.

        `app_id` is the application that the request names, as far as its realm has one.
        """
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        key = query.get("hapikey", "")
        if not self.is_enforced:
            if realm is Realm.IMPORTS and key and not token:
                raise forbidden(_FOR_APPS_ONLY)
            return Caller(self._app_id) if token else Caller()
        if token:
            return self._admit_token(realm, token)
        if key:
            return self._admit_key(realm, key, app_id)
        raise unauthorized(_NOT_FOUND)

    def _admit_token(self, realm: Realm, token: str) -> Caller:
        known = _find(token, self._register.tokens)
        if known is None or realm is Realm.APPLICATION:
            raise unauthorized(_WRONG_TOKEN)
        grant = self._register.tokens[known]
        if not grant.scopes & SYNC_SCOPES:
            raise RefusalError(403, _MISSING_SCOPES, "MISSING_SCOPES")
        return Caller(grant.app_id)

    def _admit_key(self, realm: Realm, key: str, app_id: int | None) -> Caller:
        is_of_account = _find(key, self._register.api_keys) is not None
        developer_key = _find(key, self._register.developer_keys)
        if realm is Realm.IMPORTS and (is_of_account or developer_key):
            raise forbidden(_FOR_APPS_ONLY)
        if realm is Realm.APPLICATION and developer_key is not None:
            if app_id is not None and app_id not in self._register.developer_keys[developer_key]:
                raise forbidden(f"Application {app_id} does not belong to this developer account.")
            return Caller()
        if realm is Realm.MANAGEMENT and developer_key is not None:
            return Caller()
        if realm in {Realm.ACCOUNT, Realm.MANAGEMENT} and is_of_account:
            return Caller()
        raise unauthorized(_WRONG_KEY)


def _find(given: str, known: Iterable[str]) -> str | None:
    # In constant time, and through to the end, so that the answer's delay does not spell a secret.
    found = None
    wanted = given.encode("utf-8", "surrogatepass")  # A header may be no text.
    for secret in known:
        if hmac.compare_digest(wanted, secret.encode()):
            found = secret
    return found
