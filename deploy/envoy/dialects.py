"""The errors that Envoy answers by itself, and how each dialect writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from common.errors import chroma_name
from common.settings import MAX_BODY_BYTES

MESSAGE: Final = "%LOCAL_REPLY_BODY%"
"""Stands for the words that Envoy, or a route, has for what went wrong."""


@dataclass(frozen=True)
class EdgeError:
    """An error of the edge: its status, OpenAI's type and code, and the message."""

    status: int
    type: str
    code: str
    message: str = MESSAGE


ERRORS: Final = (
    EdgeError(400, "invalid_request_error", "invalid_request"),
    EdgeError(404, "not_found_error", "unknown_url", "There is no such path or method."),
    EdgeError(405, "invalid_request_error", "method_not_allowed"),
    EdgeError(
        413,
        "invalid_request_error",
        "payload_too_large",
        f"The request body is larger than {MAX_BODY_BYTES // 2**20} MiB.",
    ),
    EdgeError(503, "server_error", "unavailable", "The service is not available; try again."),
    EdgeError(504, "server_error", "timeout", "The service did not answer in time."),
)
"""What each status means when Envoy says it."""
OTHER_CLIENT_ERROR: Final = EdgeError(499, "invalid_request_error", "invalid_request")
"""Every other status below 500."""
OTHER_SERVER_ERROR: Final = EdgeError(
    500, "server_error", "internal_error", "The gateway failed to serve this request."
)
"""Every other status from 500."""


@dataclass(frozen=True)
class ErrorDialect:
    """How one API writes an error."""

    name: str
    body: Callable[[EdgeError], Mapping[str, Any]]


def _openai(error: EdgeError) -> Mapping[str, Any]:
    return {"error": {"message": error.message, "type": error.type, "param": None, "code": error.code}}


def _chroma(error: EdgeError) -> Mapping[str, Any]:
    return {"error": chroma_name(error.status), "message": error.message}


OPENAI: Final = ErrorDialect("openai", _openai)
CHROMA: Final = ErrorDialect("chroma", _chroma)
