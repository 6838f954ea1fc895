"""The Chroma server: asked with the gateway's key, and with nothing that a client sent along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import quote

import msgspec
from pydantic import SecretStr

from common.errors import Unavailable, UpstreamFailed
from common.upstream.http import HttpClient
from services.chroma.request_line import Query, query_string

TENANTS: Final = "/api/v2/tenants"
MAX_ANSWER_BYTES: Final = 128 * 1024 * 1024
"""The largest answer of Chroma: it is held in memory until the caller has it."""
_FORWARDED_HEADERS: Final = ("retry-after", "chroma-trace-id")
# A key so short cannot be told from ordinary text.
_MIN_SECRET_CHARACTERS: Final = 6
_GOOD_STATUSES: Final = (200, 201)
# A JSON value begins with one of these, and with spaces before it.
_JSON_BEGIN: Final = b'{["-0123456789tfn'
_MAX_ERROR_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class StoreAnswer:
    """A complete answer of Chroma; ``headers`` are those that a client may see, names in lower case."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class Store(Protocol):
    """Where Chroma is asked."""

    async def request(self, method: str, path: str, *, query: Query = (), body: bytes = b"") -> StoreAnswer:
        """Send a request once and return the answer; the status is 200, 201 or an error's.

        Raises UpstreamFailed, UpstreamTimeout or Unavailable.
        """


class NullStore:
    """Stands where no Chroma is configured."""

    async def request(self, method: str, path: str, *, query: Query = (), body: bytes = b"") -> StoreAnswer:
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
        self._secret = secret.get_secret_value().encode() if secret else b""

    async def request(self, method: str, path: str, *, query: Query = (), body: bytes = b"") -> StoreAnswer:
        """Send a request once and return the answer; raises UpstreamFailed or UpstreamTimeout.

        What Chroma never answers is a failure: a redirect, another status below 400 than 200 and 201, a body that is no
        JSON, an error under a good status.
        """
        url = f"{self._base_url}{path}" + (f"?{query_string(query)}" if query else "")
        headers = {**self._headers, "content-type": "application/json"} if body else self._headers
        answer = await self._http.request(method, url, body=body, headers=headers)
        try:
            _check_size(int(length) if (length := answer.headers.get("content-length", "")).isdecimal() else 0)
            content = await answer.read()
        finally:
            answer.close()
        _check_size(len(content))
        if answer.status < 400:
            _check(answer.status, content)
        elif len(self._secret) >= _MIN_SECRET_CHARACTERS:
            content = content.replace(self._secret, b"***")
        return StoreAnswer(
            answer.status,
            content,
            answer.content_type,
            {
                name: answer.headers[name]
                for name in _FORWARDED_HEADERS
                if name in answer.headers and answer.headers[name].isascii() and answer.headers[name].isprintable()
            },
        )


def tenant_path(tenant: str) -> str:
    """Return the path of a tenant."""
    return f"{TENANTS}/{quote(tenant, safe='')}"


def databases_path(tenant: str) -> str:
    """Return the path of a tenant's databases."""
    return f"{tenant_path(tenant)}/databases"


def database_path(tenant: str, stored: str) -> str:
    """Return the path of a database, by its stored name."""
    return f"{databases_path(tenant)}/{quote(stored, safe='')}"


def _check_size(size: int) -> None:
    if size > MAX_ANSWER_BYTES:
        raise UpstreamFailed(
            f"Chroma's answer is larger than {MAX_ANSWER_BYTES >> 20} MiB: ask for fewer records with 'limit'.",
            code="upstream_answer_too_large",
        )


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
