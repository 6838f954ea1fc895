"""What the gateway turns down, said as Chroma itself would say it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec

from common.errors import chroma_name


class Refused(Exception):
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


def invalid(message: str, *, code: str = "invalid_request") -> Refused:
    """Refuse what cannot be understood."""
    return Refused(message, status=400, code=code)


def missing(message: str, *, code: str = "not_found") -> Refused:
    """Refuse what does not exist, or belongs to somebody else."""
    return Refused(message, status=404, code=code)


def wrong_method(allowed: Iterable[str]) -> Refused:
    """Refuse a method that the path does not take; ``allowed`` are those that it does."""
    names = ", ".join(sorted(allowed))
    return Refused(
        f"This path takes {names} only.",
        status=405,
        code="method_not_allowed",
        headers={"allow": names},
    )


def outdated() -> Refused:
    """Refuse the first version of Chroma's API, in the words of Chroma."""
    message = "The v1 API is deprecated. Please use /v2 apis"
    return Refused(message, status=410, code="api_version", error="Unimplemented")


def not_isolated(what: str) -> Refused:
    """Refuse what would reach across users."""
    message = f"{what} not available through the gateway, because one user's cannot be kept from another's."
    return Refused(message, status=403, code="not_isolated")


def unreadable(problem: str) -> Refused:
    """Refuse a body of the wrong shape, in the words of Chroma."""
    message = f"Failed to deserialize the JSON body into the target type: {problem}"
    return Refused(message, status=422, code="invalid_body")
