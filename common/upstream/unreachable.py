"""Why no connection to a provider came about, in words that hold no secret."""

from __future__ import annotations

import os

import aiohttp


def reason_of(error: Exception, *, seconds: float) -> str:
    """Return what went wrong, without any address; ``seconds`` is how long a connection may take."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        message = getattr(error.certificate_error, "verify_message", "") or "it does not fit the name"
        return f"its certificate is not trusted ({message})"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return f"TLS failed ({getattr(error.os_error, 'reason', None) or 'no reason given'})"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy refused with {error.status}"
    if isinstance(error, TimeoutError):
        return f"no connection within {seconds:g} s"
    reason = "its name does not resolve" if isinstance(error, aiohttp.ClientConnectorDNSError) else _of_system(error)
    return f"the proxy: {reason}" if isinstance(error, aiohttp.ClientProxyConnectionError) else reason


def _of_system(error: Exception) -> str:
    """Return the system's words for an error; those of the exception itself would hold addresses."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number).lower() if number else "the connection broke off"
