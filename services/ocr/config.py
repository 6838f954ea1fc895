"""The OCR service's settings."""

from __future__ import annotations

from pydantic import AliasChoices, Field, SecretStr, field_validator

from common.providers.base_url import normalized
from common.providers.mistral import DEFAULT_BASE_URL
from common.settings import Key
from common.upstream.settings import UpstreamSettings


class OcrSettings(UpstreamSettings):
    """What the OCR service reads from the environment; an empty variable counts as not set."""

    listen: str = Field("127.0.0.1:18086", validation_alias="TURNPIKE_OCR_LISTEN")
    """Where the service listens: host:port."""
    mistral_base_url: str = Field("", validation_alias=AliasChoices("MISTRAL_BASE_URL", "MISTRAL_API_BASE"))
    """The upstream: a host alone gets /v1, a path is taken as it is. api.mistral.ai with MISTRAL_API_KEY alone."""
    mistral_api_key: Key = Field(SecretStr(""), validation_alias="MISTRAL_API_KEY")
    """The key that is sent to the upstream."""
    mistral_ocr_model: str = Field("mistral-ocr-latest", validation_alias="MISTRAL_OCR_MODEL")
    """The model of a request that names none."""

    @field_validator("mistral_base_url")
    @classmethod
    def _is_base_url(cls, value: str) -> str:
        return normalized(value) if value.strip() else ""

    @property
    def upstream(self) -> tuple[str, str] | None:
        """The provider's name and base URL, or None when nothing is configured."""
        if self.mistral_base_url:
            return "mistral", self.mistral_base_url
        if self.mistral_api_key.get_secret_value():
            return "mistral", DEFAULT_BASE_URL
        return ("sandbox", self.sandbox_url) if self.sandbox_url else None
