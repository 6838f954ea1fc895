"""The starter's settings: read once from the environment; the services read their own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import SettingsConfigDict

from services.auth.config import JwtSettings

REPOSITORY = Path(__file__).resolve().parents[2]
"""The checkout's root: children run there, and relative paths in Envoy's files are meant from there."""
HOST = "127.0.0.1"
"""Where everything listens: a laptop's gateway is nobody else's business."""
DEMO_USER = "demo"
"""The user that owns the token which the welcome prints."""


@dataclass(frozen=True)
class Ports:
    """The TCP ports of one stack."""

    envoy: int
    admin: int
    auth: int
    chat: int
    usage: int
    sandbox: int


class LocalSettings(JwtSettings):
    """What `make up` can be told; of the JWT settings only the secret has another default: one is made and kept."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True, env_ignore_empty=True)

    port: int = Field(8080, ge=1, le=65535, validation_alias="TURNPIKE_PORT")
    """The port that clients use."""
    port_base: int = Field(18080, ge=1, le=65531, validation_alias="TURNPIKE_PORT_BASE")
    """The first of five inner ports: Envoy's admin page, auth, chat, usage, sandbox."""
    state_dir: Path = Field(Path(".turnpike"), validation_alias="TURNPIKE_STATE_DIR")
    """The directory of everything that is kept: tokens, usage, secrets, logs."""
    envoy: Path | None = Field(None, validation_alias="TURNPIKE_ENVOY")
    """The Envoy binary; the one beside this Python by default."""
    envoy_concurrency: int = Field(
        default_factory=lambda: min(2, os.cpu_count() or 1), ge=1, le=256, validation_alias="TURNPIKE_ENVOY_CONCURRENCY"
    )
    """Envoy's worker threads; two saturate more Python services than a laptop runs."""
    service_key: SecretStr | None = Field(None, min_length=16, validation_alias="TURNPIKE_SERVICE_KEY")
    """The secret that services show each other; made and kept in the state directory by default."""
    openai_api_key: SecretStr | None = Field(None, validation_alias="OPENAI_API_KEY")
    """Looked at only to decide whether the sandbox is the upstream."""
    openai_base_url: str | None = Field(None, validation_alias="OPENAI_BASE_URL")
    """Looked at only to decide whether the sandbox is the upstream, and to name a wrong one before anything starts."""
    openai_api_base: str | None = Field(None, validation_alias="OPENAI_API_BASE")
    """The older name of the same."""

    @field_validator("openai_base_url", "openai_api_base")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None and not _is_http_url(value):
            raise PydanticCustomError("url", "it must be an http:// or https:// URL")
        return value

    @property
    def uses_sandbox(self) -> bool:
        """Whether chat goes to the sandbox on this machine rather than to a provider."""
        return self.openai_api_key is None and self.openai_base_url is None and self.openai_api_base is None

    @property
    def ports(self) -> Ports:
        """The ports that follow from the two settings."""
        base = self.port_base
        return Ports(self.port, base, base + 1, base + 2, base + 3, base + 4)

    @property
    def url(self) -> str:
        """Where clients reach the gateway, without a slash at the end."""
        return f"http://{HOST}:{self.port}"


def _is_http_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
