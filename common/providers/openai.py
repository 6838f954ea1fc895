"""OpenAI, and every server that speaks its API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pydantic import SecretStr

from common.providers.base_url import normalized
from common.upstream.http import Body, HttpAnswer, HttpClient

DEFAULT_BASE_URL: Final = "https://api.openai.com/v1"
# OpenAI repeats most of a wrong key, and organisation ids, in its error messages.
_KEY: Final = re.compile(rb"\b(sk|sess|org|proj)[-_][A-Za-z0-9*_-]{6,}")


class OpenAIProvider:
    """Sends chats to ``base_url`` with ``api_key``; ``name`` is what events and metrics call it."""

    def __init__(
        self, http: HttpClient, *, base_url: str = DEFAULT_BASE_URL, api_key: SecretStr | None, name: str = "openai"
    ) -> None:
        self.name = name
        self._http = http
        self._url = f"{normalized(base_url)}/chat/completions"
        self._key = api_key.get_secret_value() if api_key else ""

    async def chat(self, body: Body, *, headers: Mapping[str, str]) -> HttpAnswer:
        """Post a chat completion; raises UnreachableError, UpstreamFailed or UpstreamTimeout."""
        sent = {"content-type": "application/json", **headers}
        if self._key:
            sent["authorization"] = f"Bearer {self._key}"
        return await self._http.post(self._url, body=body, headers=sent)

    def without_secrets(self, body: bytes) -> bytes:
        """Return the body with keys and organisation ids replaced by stars."""
        if self._key:
            body = body.replace(self._key.encode(), b"***")
        return _KEY.sub(rb"\1-***", body)
