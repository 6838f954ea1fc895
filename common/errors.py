"""The errors that services raise, and the one table that says what each is over gRPC and HTTP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


class TurnpikeError(Exception):
    """An error whose message may be shown to the caller.

    ``code`` is the machine-readable reason, ``param`` the field it is about, ``headers`` go out with the answer.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers)


class InvalidRequest(TurnpikeError):
    """The request cannot be understood; repeating it will not help."""


class Unauthenticated(TurnpikeError):
    """The credential is missing, malformed, unknown, expired or revoked."""


class PermissionDenied(TurnpikeError):
    """The caller is known and may not do this."""


class NotFound(TurnpikeError):
    """The thing does not exist, or belongs to somebody else."""


class UnknownRpc(TurnpikeError):
    """There is no such RPC."""


class RequestTimeout(TurnpikeError):
    """The caller did not send the whole request in time."""


class PayloadTooLarge(TurnpikeError):
    """The request is larger than the gateway takes."""


class RateLimited(TurnpikeError):
    """The caller, or the gateway as a whole, does too much at once."""


class Internal(TurnpikeError):
    """The gateway is at fault; the message says nothing about why."""


class UpstreamFailed(TurnpikeError):
    """The provider could not be reached, or broke off its answer."""


class UpstreamMalformed(UpstreamFailed):
    """The provider answered, and not in a form that can be read; asking again would be billed again."""


class Unavailable(TurnpikeError):
    """Something that the gateway needs is away for now; repeating may help."""


class UpstreamTimeout(TurnpikeError):
    """One of the four timers ran out while waiting for the provider."""


class UpstreamRefused(TurnpikeError):
    """The provider answered with an error status; ``status`` is its own."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message, code=code, param=param, headers=headers)
        self.status = status


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """What an error is over gRPC (a name of grpc.StatusCode) and over HTTP (a status and OpenAI's type and code)."""

    grpc: str
    http_status: int
    type: str
    code: str


ERRORS: Mapping[type[TurnpikeError], ErrorRow] = MappingProxyType(
    {
        InvalidRequest: ErrorRow("INVALID_ARGUMENT", 400, "invalid_request_error", "invalid_request"),
        Unauthenticated: ErrorRow("UNAUTHENTICATED", 401, "authentication_error", "invalid_api_key"),
        PermissionDenied: ErrorRow("PERMISSION_DENIED", 403, "permission_error", "permission_denied"),
        NotFound: ErrorRow("NOT_FOUND", 404, "not_found_error", "not_found"),
        UnknownRpc: ErrorRow("UNIMPLEMENTED", 404, "not_found_error", "unknown_rpc"),
        RequestTimeout: ErrorRow("DEADLINE_EXCEEDED", 408, "invalid_request_error", "request_timeout"),
        PayloadTooLarge: ErrorRow("RESOURCE_EXHAUSTED", 413, "invalid_request_error", "payload_too_large"),
        RateLimited: ErrorRow("RESOURCE_EXHAUSTED", 429, "rate_limit_error", "rate_limit_exceeded"),
        Internal: ErrorRow("INTERNAL", 500, "server_error", "internal_error"),
        UpstreamFailed: ErrorRow("UNAVAILABLE", 502, "upstream_error", "upstream_failed"),
        UpstreamMalformed: ErrorRow("INTERNAL", 502, "upstream_error", "upstream_malformed"),
        Unavailable: ErrorRow("UNAVAILABLE", 503, "server_error", "unavailable"),
        UpstreamTimeout: ErrorRow("DEADLINE_EXCEEDED", 504, "upstream_error", "upstream_timeout"),
    }
)

# Follows google.rpc.Code's own mapping: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
GRPC_OF_HTTP: Mapping[int, str] = MappingProxyType(
    {
        400: "INVALID_ARGUMENT",
        401: "UNAUTHENTICATED",
        403: "PERMISSION_DENIED",
        404: "NOT_FOUND",
        408: "DEADLINE_EXCEEDED",
        409: "ABORTED",
        413: "RESOURCE_EXHAUSTED",
        422: "INVALID_ARGUMENT",
        429: "RESOURCE_EXHAUSTED",
        499: "CANCELLED",
        501: "UNIMPLEMENTED",
        502: "UNAVAILABLE",
        503: "UNAVAILABLE",
        504: "DEADLINE_EXCEEDED",
    }
)


def row(error: TurnpikeError) -> ErrorRow:
    """Return the error's row of the table; an upstream's refusal keeps the upstream's status."""
    if isinstance(error, UpstreamRefused):
        fallback = "INVALID_ARGUMENT" if error.status < 500 else "INTERNAL"
        return ErrorRow(
            GRPC_OF_HTTP.get(error.status, fallback), error.status, "upstream_error", error.code or "upstream_refused"
        )
    return next((ERRORS[kind] for kind in type(error).__mro__ if kind in ERRORS), ERRORS[Internal])


def openai_body(error: TurnpikeError) -> bytes:
    """Return OpenAI's error envelope as ASCII JSON: all four keys, null where unknown.

    ASCII, because the body travels to Envoy as a gRPC trailer.
    Source: the schema ``Error`` of https://github.com/openai/openai-openapi.
    """
    entry = row(error)
    return json.dumps(
        {
            "error": {
                "message": error.message,
                "type": entry.type,
                "param": error.param,
                "code": error.code or entry.code,
            }
        },
        separators=(",", ":"),
    ).encode("ascii")


_CHROMA_NAMES: Mapping[int, str] = MappingProxyType(
    {
        400: "InvalidArgumentError",
        401: "AuthError",
        403: "AuthorizationError",
        404: "NotFoundError",
        429: "RateLimitError",
    }
)


def chroma_name(status: int) -> str:
    """Return the name by which chromadb chooses the exception that it raises for an error with this HTTP status.

    Source: ``error_types`` of https://github.com/chroma-core/chroma/blob/main/chromadb/errors.py
    """
    return _CHROMA_NAMES.get(status, "ChromaError" if status < 500 else "InternalError")


def chroma_body(error: TurnpikeError) -> bytes:
    """Return Chroma's form of an error as ASCII JSON."""
    body = {"error": chroma_name(row(error).http_status), "message": error.message}
    return json.dumps(body, separators=(",", ":")).encode("ascii")
