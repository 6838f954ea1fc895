"""Talks to the Chroma server: with the gateway's key, and with nothing that a client sent along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import quote

from pydantic import SecretStr

from common.errors import Unavailable, UpstreamFailed
from common.upstream.http import HttpClient
from services.chroma.namespace import TENANT
from services.chroma.request_line import Query, query_string

DATABASES: Final = f"/api/v2/tenants/{TENANT}/databases"
_PASSED_ON: Final = ("retry-after", "chroma-trace-id")
# A key so short cannot be told from ordinary text.
_SECRET_CHARACTERS: Final = 6


@dataclass(frozen=True, slots=True)
class UpstreamAnswer:
    """A whole answer of Chroma; ``headers`` are those that a client may see, names in lower case."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class Upstream(Protocol):
    """Where Chroma is asked."""

    async def request(self, method: str, path: str, *, query: Query = (), body: bytes = b"") -> UpstreamAnswer:
        """Send a request, and return the answer; raises UpstreamFailed, UpstreamTimeout or Unavailable."""


class NullUpstream:
    """Stands where no Chroma is configured."""

    async def request(self, method: str, path: str, *, query: Query = (), body: bytes = b"") -> UpstreamAnswer:
        """Raise Unavailable."""
        raise Unavailable("No Chroma server is configured: set CHROMA_BASE_URL.", code="chroma_not_configured")


class HttpUpstream:
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

    async def request(self, method: str, path: str, *, query: Query = (), body: bytes = b"") -> UpstreamAnswer:
        """Send a request, and return the whole answer; raises UpstreamFailed or UpstreamTimeout."""
        url = f"{self._base_url}{path}" + (f"?{query_string(query)}" if query else "")
        headers = {**self._headers, "content-type": "application/json"} if body else self._headers
        answer = await self._http.request(method, url, body=body, headers=headers)
        try:
            content = await answer.read()
        finally:
            answer.close()
        if 300 <= answer.status < 400:
            raise UpstreamFailed("The Chroma server answered with a redirect.", code="upstream_malformed")
        if answer.status >= 400 and len(self._secret) >= _SECRET_CHARACTERS:
            content = content.replace(self._secret, b"***")
        return UpstreamAnswer(
            answer.status,
            content,
            answer.content_type,
            {
                name: answer.headers[name]
                for name in _PASSED_ON
                if name in answer.headers and answer.headers[name].isascii() and answer.headers[name].isprintable()
            },
        )


def database_path(stored: str) -> str:
    """Return the path of a database, by its stored name."""
    return f"{DATABASES}/{quote(stored, safe='')}"
