"""TLS to providers: which authorities are trusted, and which client certificate is shown."""

from __future__ import annotations

import ssl
from pathlib import Path


def client_context(*, authorities: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Return a context that trusts the system's authorities and those in a file, and shows a certificate if asked.

    Raises ValueError when a file is not what it should be.
    """
    context = ssl.create_default_context()
    if authorities is not None:
        try:
            context.load_verify_locations(cafile=authorities)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"no certificates can be read from that file: {_reason(error)}") from None
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"no certificate with its key can be read from that file: {_reason(error)}") from None
    return context


def _no_password() -> str:
    """Refuse a key that has one, which OpenSSL would ask the terminal for."""
    raise ValueError("the key is protected by a password")


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or "it is not PEM"
