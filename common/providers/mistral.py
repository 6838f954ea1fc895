"""Mistral's OCR, and every server that speaks it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic import SecretStr

from common.providers.base_url import normalized
from common.upstream.http import Body, HttpAnswer, HttpClient

DEFAULT_BASE_URL: Final = "https://api.mistral.ai/v1"


class MistralProvider:
    """Has documents read by ``base_url`` with ``api_key``; ``name`` is what events and metrics call it."""

    def __init__(
        self, http: HttpClient, *, base_url: str = DEFAULT_BASE_URL, api_key: SecretStr | None, name: str = "mistral"
    ) -> None:
        self.name = name
        self._http = http
        self._url = f"{normalized(base_url)}/ocr"
        self._key = api_key.get_secret_value() if api_key else ""

    async def ocr(self, body: Body, *, headers: Mapping[str, str]) -> HttpAnswer:
        """Post a request of OCR; raises UnreachableError, UpstreamFailed or UpstreamTimeout."""
        sent = {"content-type": "application/json", **headers}
        if self._key:
            sent["authorization"] = f"Bearer {self._key}"
        return await self._http.post(self._url, body=body, headers=sent)

    def without_secrets(self, body: bytes) -> bytes:
        """Return the body with the key replaced by stars; Mistral's keys have no form by which to find others."""
        return body.replace(self._key.encode(), b"***") if self._key else body
