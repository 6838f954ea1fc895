"""The chat service's settings."""

from __future__ import annotations

from pydantic import AliasChoices, Field, SecretStr, field_validator

from common.providers.base_url import normalized
from common.providers.openai import DEFAULT_BASE_URL
from common.settings import Key
from common.upstream.settings import UpstreamSettings


class ChatSettings(UpstreamSettings):
    """What the chat service reads from the environment; an empty variable counts as not set."""

    listen: str = Field("127.0.0.1:18082", validation_alias="TURNPIKE_CHAT_LISTEN")
    """Where the service listens: host:port."""
    openai_base_url: str = Field("", validation_alias=AliasChoices("OPENAI_BASE_URL", "OPENAI_API_BASE"))
    """The upstream: a host alone gets /v1, a path is taken as it is. api.openai.com with OPENAI_API_KEY alone."""
    openai_api_key: Key = Field(SecretStr(""), validation_alias="OPENAI_API_KEY")
    """The key that is sent to the upstream."""

    @field_validator("openai_base_url")
    @classmethod
    def _is_base_url(cls, value: str) -> str:
        return normalized(value) if value.strip() else ""

    @property
    def upstream(self) -> tuple[str, str] | None:
        """The provider's name and base URL, or None when nothing is configured."""
        if self.openai_base_url:
            return "openai", self.openai_base_url
        if self.openai_api_key.get_secret_value():
            return "openai", DEFAULT_BASE_URL
        return ("sandbox", self.sandbox_url) if self.sandbox_url else None
