"""Sends requests to the Chroma server, with the gateway's key and none of the client's headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import quote

import msgspec
from pydantic import SecretStr

from common.errors import Unavailable, UpstreamFailed
from common.redaction import without_secret
from common.upstream.http import HttpAnswer, HttpClient
from services.chroma.request_line import Query, query_string

TENANTS: Final = "/api/v2/tenants"
MAX_COMPLETE_BYTES: Final = 32 * 1024 * 1024
"""How much of an answer is read before the caller gets the status, so that what breaks off until then is a 502."""
_FORWARDED_HEADERS: Final = ("retry-after", "chroma-trace-id")
_GOOD_STATUSES: Final = (200, 201)
# A JSON value begins with one of these, and with spaces before it.
_JSON_BEGIN: Final = b'{["-0123456789tfn'
_MAX_ERROR_BYTES: Final = 64 * 1024


class Rest(Protocol):
    """What is still to come of a large answer."""

    async def part(self) -> bytes:
        """Return the next part, b"" at the end; raises UpstreamFailed or UpstreamTimeout."""

    def close(self) -> None:
        """Let go of the connection, also before the end."""


@dataclass(frozen=True, slots=True)
class StoreAnswer:
    """An answer of Chroma; ``headers`` are those that a client may see, names in lower case.

    ``body`` is complete unless there is a ``rest``, which its owner closes.
    """

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    rest: Rest | None = None


class Store(Protocol):
    """Where Chroma is asked."""

    async def request(
        self, method: str, path: str, *, query: Query = (), body: bytes = b"", in_parts: bool = False
    ) -> StoreAnswer:
        """Send a request once and return the answer; the status is 200, 201 or an error's.

        ``in_parts`` is for a good answer of any size: what is beyond the first 32 MiB becomes its ``rest``. Raises
        UpstreamFailed, UpstreamTimeout or Unavailable.
        """


class NullStore:
    """Stands where no Chroma is configured."""

    async def request(
        self, method: str, path: str, *, query: Query = (), body: bytes = b"", in_parts: bool = False
    ) -> StoreAnswer:
        """Raise Unavailable."""
        raise Unavailable("No Chroma server is configured: set CHROMA_BASE_URL.", code="chroma_not_configured")


class HttpStore:
    """The Chroma server at ``base_url``, which ends before /api/v2; ``headers`` go with each request.

    ``secret`` is kept out of what the server says.
    """

    def __init__(
        self, http: HttpClient, *, base_url: str, headers: Mapping[str, str], secret: SecretStr | None = None
    ) -> None:
        self._http = http
        self._base_url = base_url
        self._headers = headers
        self._secret = secret.get_secret_value() if secret else ""

    async def request(
        self, method: str, path: str, *, query: Query = (), body: bytes = b"", in_parts: bool = False
    ) -> StoreAnswer:
        """Send a request once and return the answer; raises UpstreamFailed or UpstreamTimeout.

        What Chroma never answers is a failure: a redirect, another status below 400 than 200 and 201, a body that is no
        JSON, an error under a good status.
        """
        url = f"{self._base_url}{path}" + (f"?{query_string(query)}" if query else "")
        headers = {**self._headers, "content-type": "application/json"} if body else self._headers
        answer = await self._http.request(method, url, body=body, headers=headers)
        rest = None
        try:
            in_parts = in_parts and answer.status < 400
            content, is_complete = await _read(answer, limit=MAX_COMPLETE_BYTES)
            if not is_complete and not in_parts:
                raise UpstreamFailed("Chroma's answer is too large.", code="upstream_answer_too_large")
            if answer.status < 400:
                _check(answer.status, content)
            rest = None if is_complete else answer
        finally:
            if rest is None:
                answer.close()
        if answer.status >= 400:
            content = without_secret(content, self._secret)
        return StoreAnswer(answer.status, content, answer.content_type, _forwarded(answer.headers), rest)


def tenant_path(tenant: str) -> str:
    """Return the path of a tenant."""
    return f"{TENANTS}/{quote(tenant, safe='')}"


def databases_path(tenant: str) -> str:
    """Return the path of a tenant's databases."""
    return f"{tenant_path(tenant)}/databases"


def database_path(tenant: str, stored: str) -> str:
    """Return the path of a database, by its stored name."""
    return f"{databases_path(tenant)}/{quote(stored, safe='')}"


async def _read(answer: HttpAnswer, *, limit: int) -> tuple[bytes, bool]:
    """Return the body, or what has come of it when it is longer than ``limit`` bytes, and whether it is complete."""
    parts: list[bytes] = []
    size = 0
    while size <= limit:
        part = await answer.part()
        if not part:
            return b"".join(parts), True
        parts.append(part)
        size += len(part)
    return b"".join(parts), False


def _forwarded(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name: headers[name]
        for name in _FORWARDED_HEADERS
        if name in headers and headers[name].isascii() and headers[name].isprintable()
    }


def _check(status: int, body: bytes) -> None:
    """Raise UpstreamFailed when a good answer is none of Chroma's; one that is large is not read for that."""
    if status not in _GOOD_STATUSES:
        raise UpstreamFailed(f"The Chroma server answered {status}.", code="upstream_malformed")
    begin = body[:_MAX_ERROR_BYTES].lstrip(b" \t\r\n")[:1]
    if not begin or begin not in _JSON_BEGIN:
        raise UpstreamFailed("The Chroma server's answer is not JSON.", code="upstream_malformed")
    if begin == b"{" and len(body) <= _MAX_ERROR_BYTES and _holds_error(body):
        raise UpstreamFailed(f"The Chroma server answered {status} with an error.", code="upstream_malformed")


def _holds_error(body: bytes) -> bool:
    try:
        return msgspec.json.decode(body, type=_ErrorField).error not in (None, msgspec.UNSET)
    except (ValueError, RecursionError):
        return False


class _ErrorField(msgspec.Struct):
    error: object = msgspec.UNSET
