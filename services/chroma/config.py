"""The Chroma service's settings."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, field_validator

from common.settings import Key
from common.upstream.settings import ConnectionSettings, MeteredSettings, TimerFields
from services.chroma.namespace import checked_separator

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_NOT_FOR_KEYS: Final = frozenset(
    {"accept", "accept-encoding", "connection", "content-length", "content-type", "host", "transfer-encoding"}
)


class ChromaSettings(TimerFields, ConnectionSettings, MeteredSettings):
    """What the Chroma service reads from the environment; an empty variable counts as not set."""

    listen: str = Field("127.0.0.1:18085", validation_alias="TURNPIKE_CHROMA_LISTEN")
    """Where the service listens: host:port."""
    base_url: str = Field("", validation_alias=AliasChoices("CHROMA_BASE_URL", "CHROMA_API_BASE"))
    """The Chroma server, with or without /api/v2; without one every request is answered with 503."""
    api_key: Key = Field(SecretStr(""), validation_alias="CHROMA_API_KEY")
    """The key that is sent to the Chroma server; none for a server that wants none."""
    auth_header: str = Field("x-chroma-api-key", validation_alias="CHROMA_AUTH_HEADER")
    """The header in which the key is sent."""
    auth_scheme: str = Field("", validation_alias="CHROMA_AUTH_SCHEME")
    """What stands before the key in that header, such as Bearer."""
    namespace_separator: str = Field("__", validation_alias="CHROMA_NAMESPACE_SEPARATOR")
    """What stands between a user's hash and a database's name on the Chroma server; another one hides all databases."""
    tenant_per_user: bool = Field(default=True, validation_alias="TURNPIKE_CHROMA_TENANT_PER_USER")
    """1: each user's databases lie in a Chroma tenant of their own; 0: all users' lie in default_tenant."""
    connect_timeout_seconds: float = Field(5.0, gt=0, validation_alias="TURNPIKE_CHROMA_CONNECT_TIMEOUT_SECONDS")
    """How long a connection to the Chroma server may take."""
    first_byte_timeout_seconds: float = Field(
        120.0, gt=0, validation_alias="TURNPIKE_CHROMA_FIRST_BYTE_TIMEOUT_SECONDS"
    )
    """How long the Chroma server may take to begin its answer."""
    chunk_timeout_seconds: float = Field(30.0, gt=0, validation_alias="TURNPIKE_CHROMA_CHUNK_TIMEOUT_SECONDS")
    """How long the Chroma server may be silent within an answer."""
    total_timeout_seconds: float = Field(300.0, gt=0, validation_alias="TURNPIKE_CHROMA_TOTAL_TIMEOUT_SECONDS")
    """How long an answer may take in all."""

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        return normalized(value) if value.strip() else ""

    @field_validator("namespace_separator")
    @classmethod
    def _is_separator(cls, value: str) -> str:
        return checked_separator(value)

    @field_validator("auth_header")
    @classmethod
    def _is_header(cls, value: str) -> str:
        name = value.strip().lower()
        if not _TOKEN.fullmatch(name) or name in _NOT_FOR_KEYS:
            raise ValueError("is not the name of a header that can hold a key")
        return name

    @field_validator("auth_scheme")
    @classmethod
    def _is_scheme(cls, value: str) -> str:
        scheme = value.strip()
        if scheme and not _TOKEN.fullmatch(scheme):
            raise ValueError("is not the name of an authentication scheme")
        return scheme

    @property
    def upstream_headers(self) -> dict[str, str]:
        """The header that holds the key, if there is one."""
        key = self.api_key.get_secret_value()
        if not key:
            return {}
        return {self.auth_header: f"{self.auth_scheme} {key}" if self.auth_scheme else key}


def normalized(base_url: str) -> str:
    """Return the URL under which /api/v2 lies; raises ValueError when it is not an http(s) URL."""
    url = base_url.strip().rstrip("/").removesuffix("/api/v2").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("is not an http or https URL")
    _ = parts.port  # Raises ValueError when it is not a number.
    return url
