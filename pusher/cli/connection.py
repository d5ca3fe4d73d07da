"""What commands share that talk to a bridge: options, credentials, exit codes, output."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from pusher.cli.values import DURATION, HEADER, read_secret

if TYPE_CHECKING:
    from pusher.client import BridgeClient
    from pusher.refreshing import Refresher

__all__ = [
    "Connection",
    "application_options",
    "as_json",
    "connection_options",
    "door_options",
    "json_option",
    "option",
    "printed",
    "refresh_options",
    "refresher_of",
    "talk",
    "with_options",
    "write_all",
    "yes_option",
]

EXIT_CODES = """
\b
Exit codes:
  0  done
  1  the bridge answered with an error
  2  usage or configuration
  3  the endpoint is gone, is no bridge, or does not accept the credentials
"""

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

Command = TypeVar("Command", bound=Callable[..., Any])
T = TypeVar("T")


option = click.option
"""An option. All are also read from the environment and from a file: `naming` has the rule."""


def with_options(command: Command, *options: Callable[[Command], Command]) -> Command:
    """Give a command several options, in the order in which its help lists them."""
    for one in reversed(options):
        command = one(command)
    return command


def connection_options(command: Command, *, needs_url: bool = True) -> Command:
    """Where the bridge is, and a token or API key."""
    return with_options(
        command,
        option("--url", required=needs_url, metavar="URL", help="Base address of the bridge."),
        option(
            "--token",
            metavar="T",
            show_default=False,
            help="OAuth or private-app token. Visible in `ps`: rather set PUSHER_TOKEN, or use"
            " a file.",
        ),
        option("--token-file", metavar="FILE", type=click.Path(), help="File with the token."),
        option(
            "--api-key",
            metavar="K",
            show_default=False,
            help="The account's hapikey. Visible in `ps`: rather set PUSHER_API_KEY, or use a"
            " file.",
        ),
        option("--api-key-file", metavar="FILE", type=click.Path(), help="File with the API key."),
        option(
            "--timeout",
            type=DURATION,
            default="60s",
            show_default=True,
            help="For one request and its answer.",
        ),
        option(
            "--connect-timeout",
            type=DURATION,
            default="10s",
            show_default=True,
            help="For the connection alone.",
        ),
        option(
            "--ca-file",
            type=_FILE,
            help="Trust the authorities in this PEM file, instead of the system's.",
        ),
        option("--client-cert", type=_FILE, help="PEM file with our own certificate."),
        option(
            "--client-key",
            type=_FILE,
            help="PEM file with its key, where that is not in the same file.",
        ),
        option(
            "--header",
            "headers",
            type=HEADER,
            multiple=True,
            show_default=False,
            help="Send this header as well; may be given more than once. Visible in `ps`: rather"
            " set PUSHER_HEADER, with one a line.",
        ),
    )


def refresh_options(command: Command) -> Command:
    """How a new token is got when the old one is not accepted any more."""
    return with_options(
        command,
        option(
            "--refresh-token",
            metavar="T",
            show_default=False,
            help="Get a new token with it when the old one expires during the run. Visible in"
            " `ps`: rather set PUSHER_REFRESH_TOKEN, or use a file.",
        ),
        option(
            "--refresh-token-file",
            metavar="FILE",
            type=click.Path(),
            help="File with the refresh token.",
        ),
        option("--client-id", metavar="ID", help="The application, for the refresh token."),
        option(
            "--client-secret",
            metavar="S",
            show_default=False,
            help="The application's secret. Visible in `ps`: rather set PUSHER_CLIENT_SECRET, or"
            " use a file.",
        ),
        option(
            "--client-secret-file",
            metavar="FILE",
            type=click.Path(),
            help="File with the client secret.",
        ),
        option(
            "--token-url",
            metavar="URL",
            help="Where tokens are given.  [default: /oauth/v1/token below --url]",
        ),
    )


def refresher_of(options: dict[str, Any]) -> Refresher | None:
    """Take the refresh options out of all options; None when none is given.

    Raises:
        click.UsageError: only some of them are given, or a secret cannot be read.
    """
    from pusher.refreshing import Refresher  # noqa: PLC0415

    token = read_secret(
        options.pop("refresh_token", None),
        options.pop("refresh_token_file", None),
        "--refresh-token",
    )
    secret = read_secret(
        options.pop("client_secret", None),
        options.pop("client_secret_file", None),
        "--client-secret",
    )
    client_id, token_url = options.pop("client_id", None), options.pop("token_url", None)
    given = (token, client_id, secret)
    if not any(given) and token_url is None:
        return None
    if token is None or client_id is None or secret is None:
        raise click.UsageError("--refresh-token, --client-id and --client-secret go together")
    return Refresher(client_id, secret, token, token_url=token_url)


def door_options(options: dict[str, Any]) -> dict[str, Any]:
    """What of the options says how a connection is made, for the transport."""
    from pusher.proxying import proxy_for  # noqa: PLC0415

    return {
        "timeout_s": options["timeout"],
        "connect_timeout_s": options["connect_timeout"],
        "ca_file": options["ca_file"],
        "client_cert": options["client_cert"],
        "client_key": options["client_key"],
        "headers": options["headers"],
        "proxy": proxy_for(options["url"], os.environ),
    }


def application_options(command: Command) -> Command:
    """For calls about an application instead of an account."""
    return with_options(
        command,
        option(
            "--app-id",
            type=click.IntRange(min=1),
            metavar="N",
            help="The application; it goes with the developer's key.",
        ),
        option(
            "--developer-key",
            metavar="K",
            show_default=False,
            help="The developer's hapikey, used where --app-id is given. Visible in `ps`:"
            " rather set PUSHER_DEVELOPER_KEY, or use a file.",
        ),
        option(
            "--developer-key-file", metavar="FILE", type=click.Path(), help="File with that key."
        ),
    )


def json_option(command: Command) -> Command:
    """Machine-readable output."""
    return click.option(
        "--json", "is_json", is_flag=True, help="JSON on stdout, one value a line."
    )(command)


def yes_option(command: Command) -> Command:
    """No question."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(command)


@dataclass(frozen=True, slots=True)
class Connection:
    """Where to, and with which credential."""

    url: str
    token: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    app_id: int | None = None
    door: dict[str, Any] = field(default_factory=dict, repr=False)
    """How the connection is made: keyword arguments of the transport."""

    @classmethod
    def of(cls, options: dict[str, Any]) -> Connection:
        """Read the credentials that the options name.

        Raises:
            click.UsageError: there are two, or one cannot be read.
        """
        token = read_secret(options["token"], options["token_file"], "--token")
        api_key = read_secret(options["api_key"], options["api_key_file"], "--api-key")
        if token is not None and api_key is not None:
            raise click.UsageError("give a token or an API key, not both")
        app_id: int | None = options.get("app_id")
        developer_key = read_secret(
            options.get("developer_key"), options.get("developer_key_file"), "--developer-key"
        )
        if developer_key is not None and app_id is not None:
            token, api_key = None, developer_key
        elif developer_key is not None and token is None and api_key is None:
            raise click.UsageError("--developer-key goes with --app-id")
        for secret in (token, api_key):
            if secret is not None and not (secret.isascii() and secret.isprintable()):
                raise click.UsageError("a token or key must be printable ASCII")
        return cls(options["url"], token, api_key, app_id, door_options(options))


def talk(
    connection: Connection,
    conversation: Callable[[BridgeClient], Coroutine[Any, Any, T]],
    *,
    only_reads: bool = False,
) -> T:
    """Hold a conversation with the bridge; errors end the command with their exit codes.

    Args:
        connection: where to.
        conversation: what to ask.
        only_reads: every request may be repeated when the bridge is busy.
    """
    import anyio  # noqa: PLC0415 - loaded when it is called

    from pusher.errors import BridgeApiError, EndpointError, UsageError  # noqa: PLC0415

    try:
        return anyio.run(_hold, connection, conversation, only_reads)
    except UsageError as error:
        raise click.UsageError(str(error)) from error
    except BridgeApiError as error:
        text = str(error)
        if error.correlation_id:
            text += f" (correlationId {error.correlation_id})"
        kind = _BridgeError if _is_the_bridges_word(error.status) else _EndpointError
        raise kind(text) from error
    except EndpointError as error:
        raise _EndpointError(str(error)) from error
    except KeyboardInterrupt:
        sys.exit(130)


def _is_the_bridges_word(status: int) -> bool:
    return status >= 400 and status not in {401, 403}


class _BridgeError(click.ClickException):
    exit_code = 1


class _EndpointError(click.ClickException):
    exit_code = 3


async def _hold(
    connection: Connection,
    conversation: Callable[[BridgeClient], Coroutine[Any, Any, T]],
    only_reads: bool,  # noqa: FBT001 - anyio.run passes positions
) -> T:
    import random  # noqa: PLC0415

    from pusher.client import BridgeClient  # noqa: PLC0415
    from pusher.patience import PatientTransport  # noqa: PLC0415
    from pusher.retrying import RetryPolicy  # noqa: PLC0415
    from pusher.transport import HttpTransport  # noqa: PLC0415

    async with HttpTransport(
        connection.url, token=connection.token, api_key=connection.api_key, **connection.door
    ) as transport:
        policy = RetryPolicy(max_attempts=4 if only_reads else 1, longest_wait_s=30.0)
        patient = PatientTransport(transport, policy, random.Random())
        return await conversation(BridgeClient(connection.url, transport=patient))


def as_json(value: Any, *, is_indented: bool = False) -> bytes:
    """A value as JSON with a line end."""
    import orjson  # noqa: PLC0415

    options = orjson.OPT_APPEND_NEWLINE | (orjson.OPT_INDENT_2 if is_indented else 0)
    return orjson.dumps(value, option=options)


def write_all(stream: BinaryIO, data: bytes) -> None:
    """Write to a stream, to the end: with PYTHONUNBUFFERED one write may take only a part."""
    left = memoryview(data)
    while left:
        left = left[stream.write(left) :]
    stream.flush()


def printed(data: bytes) -> None:
    """Write to stdout. Whoever closed it has seen enough: the command then ends with 0."""
    if sys.stdout is None:  # It was closed from the start.
        return
    try:
        write_all(sys.stdout.buffer, data)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)
