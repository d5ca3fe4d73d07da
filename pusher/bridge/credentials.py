"""Read a TOML file of credentials: which secret belongs to which application. It lets nobody in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from pusher.bridge.config import SYNC_SCOPES, Credentials, Grant, Register
from pusher.bridge.validation import MAX_LONG

_Id = Annotated[int, msgspec.Meta(ge=1, le=MAX_LONG)]
_Secret = Annotated[str, msgspec.Meta(min_length=1)]


class CredentialsError(Exception):
    """The file of credentials cannot be used; the message repeats no secret."""


class _Portal(msgspec.Struct, forbid_unknown_fields=True):
    id: _Id
    api_keys: list[_Secret] = []


class _App(msgspec.Struct, forbid_unknown_fields=True):
    id: _Id
    client_secret: _Secret | None = None


class _Token(msgspec.Struct, forbid_unknown_fields=True):
    token: _Secret
    app: _Id
    portal: _Id | None = None
    scopes: tuple[str, ...] = tuple(sorted(SYNC_SCOPES))


class _DeveloperKey(msgspec.Struct, forbid_unknown_fields=True):
    key: _Secret
    apps: list[_Id]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    portals: list[_Portal] = []
    apps: list[_App] = []
    tokens: list[_Token] = []
    developer_keys: list[_DeveloperKey] = []


@dataclass(frozen=True, slots=True)
class CredentialsFile:
    """What a file says. `first_app_id` serves where a request or flag names no application."""

    register: Register
    portal_id: int | None
    first_app_id: int | None


def read_credentials(path: Path) -> CredentialsFile:
    """The credentials in `path`. Raises CredentialsError when they make no sense."""
    try:
        content = msgspec.toml.decode(path.read_bytes(), type=_File)
    except OSError as error:
        raise CredentialsError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # Also what msgspec raises; it names the field, not its value.
        raise CredentialsError(f"{path}: {error}") from error
    try:
        return _checked(content)
    except CredentialsError as error:
        raise CredentialsError(f"{path}: {error}") from None


def check_added(one: Credentials, app_id: int, register: Register) -> None:
    """Raise CredentialsError when a file's `register` holds already what is to be added to it."""
    added = [secret for secret in (one.token, one.api_key, one.developer_key) if secret is not None]
    listed = {*register.tokens, *register.api_keys, *register.developer_keys}
    if len(set(added)) < len(added) or not listed.isdisjoint(added):
        raise CredentialsError("a token or key is listed twice among the file and the flags")
    if one.client_secret is not None and app_id in register.client_secrets:
        raise CredentialsError(f"the client secret of application {app_id} is listed twice")


def _checked(content: _File) -> CredentialsFile:
    named = {portal.id for portal in content.portals}
    named |= {token.portal for token in content.tokens if token.portal is not None}
    if len(named) > 1:
        listed = ", ".join(map(str, sorted(named)))
        raise CredentialsError(
            f"portals {listed}: a bridge serves one portal; start another bridge for each"
        )
    apps = [app.id for app in content.apps]
    if len(set(apps)) < len(apps):
        raise CredentialsError("an application is listed twice")
    for place, app_id in [
        *(("tokens", token.app) for token in content.tokens),
        *(("developer_keys", app_id) for key in content.developer_keys for app_id in key.apps),
    ]:
        if app_id not in apps:
            raise CredentialsError(f"{place}: application {app_id} is not listed under [[apps]]")
    secrets = [
        *(token.token for token in content.tokens),
        *(key for portal in content.portals for key in portal.api_keys),
        *(key.key for key in content.developer_keys),
    ]
    if not secrets:
        raise CredentialsError("there is no token and no key in it")
    if len(set(secrets)) < len(secrets):
        raise CredentialsError("a token or key is listed twice")
    return CredentialsFile(
        register=Register(
            tokens={
                token.token: Grant(token.app, frozenset(token.scopes)) for token in content.tokens
            },
            api_keys=frozenset(key for portal in content.portals for key in portal.api_keys),
            developer_keys={key.key: frozenset(key.apps) for key in content.developer_keys},
            client_secrets={
                app.id: app.client_secret for app in content.apps if app.client_secret is not None
            },
            app_ids=frozenset(apps),
        ),
        portal_id=min(named, default=None),
        first_app_id=apps[0] if apps else None,
    )
