"""The errors that the edge answers by itself, and how each dialect writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from common.errors import chroma_name
from common.settings import MAX_BODY_BYTES, MAX_HEADER_BYTES

_INVALID: Final = "invalid_request_error"
_SERVER: Final = "server_error"


@dataclass(frozen=True)
class EdgeError:
    """An error of the edge: its status, OpenAI's type and code, and the message.

    Without a message it is what Envoy, or the route, says went wrong. ``retry_seconds`` is when to try again.
    """

    status: int
    type: str
    code: str
    message: str | None = None
    retry_seconds: int | None = None


OTHER_CLIENT_ERROR: Final = EdgeError(499, _INVALID, "invalid_request")
"""Every status below 500 that the table does not have."""
OTHER_SERVER_ERROR: Final = EdgeError(500, _SERVER, "internal_error", "The gateway failed to serve this request.")
"""Every status from 500 that the table does not have."""
ERRORS: Final = (
    EdgeError(400, _INVALID, "invalid_request"),
    EdgeError(401, "authentication_error", "invalid_api_key", "This route needs a valid credential."),
    EdgeError(403, "permission_error", "permission_denied"),
    EdgeError(404, "not_found_error", "unknown_url", "There is no such path or method."),
    EdgeError(405, _INVALID, "method_not_allowed"),
    EdgeError(408, _INVALID, "request_timeout", "The request was not sent in time."),
    EdgeError(413, _INVALID, "payload_too_large", f"The request body is larger than {MAX_BODY_BYTES // 2**20} MiB."),
    EdgeError(429, "rate_limit_error", "rate_limit_exceeded", "The gateway does too much at once; try again.", 1),
    EdgeError(
        431,
        _INVALID,
        "headers_too_large",
        f"The request's headers are more than a thousand, or larger than {MAX_HEADER_BYTES // 1024} KiB.",
    ),
    OTHER_SERVER_ERROR,
    EdgeError(501, _INVALID, "not_implemented", "The gateway does not implement this."),
    EdgeError(502, _SERVER, "bad_gateway", "The service's answer could not be read."),
    EdgeError(503, _SERVER, "unavailable", "The service is not available; try again.", 1),
    EdgeError(504, _SERVER, "timeout", "The service did not answer in time."),
)
"""What each status means when the edge says it."""


@dataclass(frozen=True)
class ErrorDialect:
    """How one API writes an error with a message."""

    name: str
    body: Callable[[EdgeError, str], Mapping[str, Any]]


def _openai(error: EdgeError, message: str) -> Mapping[str, Any]:
    return {"error": {"message": message, "type": error.type, "param": None, "code": error.code}}


def _chroma(error: EdgeError, message: str) -> Mapping[str, Any]:
    return {"error": chroma_name(error.status), "message": message}


OPENAI: Final = ErrorDialect("openai", _openai)
CHROMA: Final = ErrorDialect("chroma", _chroma)
