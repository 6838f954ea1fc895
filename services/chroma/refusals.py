"""What the gateway turns down, said as Chroma itself would say it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec

from common.errors import chroma_name


class Refusal(Exception):
    """A request that goes no further; ``body`` is the answer in Chroma's form.

    ``error`` is the name by which chromadb chooses its exception, by default the one for ``status``. ``code`` is the
    reason in the usage event.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        error: str = "",
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers
        self.body = error_body(error or chroma_name(status), message)


def error_body(error: str, message: str) -> bytes:
    """Return Chroma's form of an error."""
    return msgspec.json.encode({"error": error, "message": message})


def invalid(message: str, *, code: str = "invalid_request") -> Refusal:
    """Refuse what cannot be understood."""
    return Refusal(message, status=400, code=code)


def missing(message: str, *, code: str = "not_found") -> Refusal:
    """Refuse what does not exist, or belongs to somebody else."""
    return Refusal(message, status=404, code=code)


def wrong_method(allowed: Iterable[str]) -> Refusal:
    """Refuse a method that the path does not take; ``allowed`` are those that it does."""
    names = ", ".join(sorted(allowed))
    return Refusal(
        f"This path takes {names} only.",
        status=405,
        code="method_not_allowed",
        headers={"allow": names},
    )


def outdated() -> Refusal:
    """Refuse the first version of Chroma's API, in the words of Chroma."""
    message = "The v1 API is deprecated. Please use /v2 apis"
    return Refusal(message, status=410, code="api_version", error="Unimplemented")


def not_isolated(what: str) -> Refusal:
    """Refuse what would reach across users."""
    message = f"{what} not available through the gateway, because one user's cannot be kept from another's."
    return Refusal(message, status=403, code="not_isolated")


def unreadable(problem: str) -> Refusal:
    """Refuse a body of the wrong shape, in the words of Chroma."""
    message = f"Failed to deserialize the JSON body into the target type: {problem}"
    return Refusal(message, status=422, code="invalid_body")
