"""What a connection trusts, and how it shows who it is."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Literal

from pusher.errors import UsageError

__all__ = ["client_context"]


def client_context(
    ca_file: Path | None = None, client_cert: Path | None = None, client_key: Path | None = None
) -> ssl.SSLContext | Literal[True]:
    """Put together what a client needs; True is the HTTP client's own context, ready since import.

    Args:
        ca_file: trust the authorities in this PEM file, instead of the system's.
        client_cert: a PEM file with the client's certificate.
        client_key: a PEM file with its key, where that is not in the same file.

    Raises:
        UsageError: a file cannot be used, or two do not belong together.
    """
    if client_key is not None and client_cert is None:
        raise UsageError("--client-key goes with --client-cert")
    if ca_file is None and client_cert is None:
        return True
    flag, path = "--ca-file", ca_file
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if client_cert is not None:
            flag, path = "--client-cert", client_cert
            context.load_cert_chain(client_cert, client_key, password=_no_password)
    except ssl.SSLError as error:
        what = "an authority's certificate" if flag == "--ca-file" else "a certificate and its key"
        reason = error.reason or str(error)
        raise UsageError(f"{flag}: {path} does not hold {what} in PEM form ({reason})") from error
    except OSError as error:
        # OpenSSL does not say which of the two it is.
        key = f" or {client_key}" if flag == "--client-cert" and client_key else ""
        raise UsageError(f"{flag}: {path}{key}: {error.strerror}") from error
    return context


def _no_password() -> str:
    """OpenSSL would ask on the terminal, in the middle of a pipeline."""
    raise UsageError("--client-cert: the key is encrypted; use one that is not")
