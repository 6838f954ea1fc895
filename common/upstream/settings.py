"""The settings that services with an upstream share."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator

from common.metering.prices import PriceSettings
from common.providers.base_url import normalized
from common.settings import ServiceSettings, Settings
from common.upstream.http import Timers
from common.upstream.proxies import Proxies, checked_proxy
from common.upstream.tls import client_context


class MeteredSettings(ServiceSettings):
    """The outbox of a service that meters what it serves."""

    outbox_max_bytes: int = Field(1 << 30, ge=1 << 20, validation_alias="TURNPIKE_OUTBOX_MAX_BYTES")
    """How large the outbox may grow while the usage service is away; then requests are refused with 503."""
    outbox_interval_seconds: float = Field(1.0, gt=0, validation_alias="TURNPIKE_OUTBOX_INTERVAL_SECONDS")
    """How often events are shipped to the usage service, and the outbox is synced to the disk."""


class TimerFields:
    """The four timers of a service with an upstream; each service says which variables they come from."""

    connect_timeout_seconds: float
    first_byte_timeout_seconds: float
    chunk_timeout_seconds: float
    total_timeout_seconds: float

    @property
    def timers(self) -> Timers:
        """The four timers."""
        return Timers(
            connect_timeout_seconds=self.connect_timeout_seconds,
            first_byte_timeout_seconds=self.first_byte_timeout_seconds,
            chunk_timeout_seconds=self.chunk_timeout_seconds,
            total_timeout_seconds=self.total_timeout_seconds,
        )


class ConnectionSettings(Settings):
    """How servers outside of the gateway are reached: proxies and TLS.

    SSL_CERT_FILE and SSL_CERT_DIR are OpenSSL's own, and say who the system's authorities are.
    """

    https_proxy: SecretStr = Field(SecretStr(""), validation_alias="HTTPS_PROXY")
    """The proxy for servers at https://, such as http://user:password@proxy:3128."""
    http_proxy: SecretStr = Field(SecretStr(""), validation_alias="HTTP_PROXY")
    """The same for servers at http://. Nothing on this machine and no service of the gateway is asked through it."""
    no_proxy: str = Field("", validation_alias="NO_PROXY")
    """Hosts, domains, addresses and networks that are reached without a proxy, separated by commas; * for all."""
    upstream_ca_file: Path | None = Field(None, validation_alias="TURNPIKE_UPSTREAM_CA_FILE")
    """A PEM file with authorities that are trusted besides the system's."""
    upstream_client_certificate: Path | None = Field(None, validation_alias="TURNPIKE_UPSTREAM_CLIENT_CERTIFICATE")
    """A PEM file with the certificate that is shown to servers that ask for one, perhaps with its key."""
    upstream_client_key: Path | None = Field(None, validation_alias="TURNPIKE_UPSTREAM_CLIENT_KEY")
    """A PEM file with the key of that certificate, without a password."""

    @field_validator("https_proxy", "http_proxy")
    @classmethod
    def _is_proxy(cls, value: SecretStr) -> SecretStr:
        return SecretStr(checked_proxy(value.get_secret_value()))

    @field_validator("upstream_ca_file")
    @classmethod
    def _has_authorities(cls, value: Path | None) -> Path | None:
        client_context(authorities=value, certificate=None, key=None)
        return value

    @model_validator(mode="after")
    def _has_a_key(self) -> Self:
        if self.upstream_client_certificate is None and self.upstream_client_key is not None:
            raise ValueError("TURNPIKE_UPSTREAM_CLIENT_KEY is set and TURNPIKE_UPSTREAM_CLIENT_CERTIFICATE is not")
        try:
            _ = self.tls
        except ValueError as error:
            variables = "TURNPIKE_UPSTREAM_CLIENT_CERTIFICATE" + (
                " or TURNPIKE_UPSTREAM_CLIENT_KEY" if self.upstream_client_key else ""
            )
            raise ValueError(f"{variables} is wrong: {error}") from None
        return self

    @property
    def proxies(self) -> Proxies:
        """The proxies, and who is reached without one."""
        return Proxies(http=self.http_proxy, https=self.https_proxy, exceptions=self.no_proxy)

    @property
    def tls(self) -> ssl.SSLContext | None:
        """Whom https trusts and what it shows; None when nothing is set."""
        if self.upstream_ca_file is None and self.upstream_client_certificate is None:
            return None
        return client_context(
            authorities=self.upstream_ca_file,
            certificate=self.upstream_client_certificate,
            key=self.upstream_client_key,
        )


class UpstreamSettings(TimerFields, ConnectionSettings, PriceSettings, MeteredSettings):
    """The timers of inference, the prices, and the sandbox, for a service that asks a provider of models."""

    sandbox_url: str = Field("", validation_alias="TURNPIKE_SANDBOX_URL")
    """The sandbox provider, used when no upstream is configured."""
    connect_timeout_seconds: float = Field(5.0, gt=0, validation_alias="TURNPIKE_CONNECT_TIMEOUT_SECONDS")
    """How long a connection to the upstream may take."""
    first_byte_timeout_seconds: float = Field(600.0, gt=0, validation_alias="TURNPIKE_FIRST_BYTE_TIMEOUT_SECONDS")
    """How long the upstream may take to begin its answer."""
    chunk_timeout_seconds: float = Field(600.0, gt=0, validation_alias="TURNPIKE_CHUNK_TIMEOUT_SECONDS")
    """How long the upstream may be silent within an answer; as long as before it, because models reason in between."""
    total_timeout_seconds: float = Field(1800.0, gt=0, validation_alias="TURNPIKE_TOTAL_TIMEOUT_SECONDS")
    """How long an answer may take in all."""
    keep_alive_seconds: float = Field(15.0, gt=0, validation_alias="TURNPIKE_KEEP_ALIVE_SECONDS")
    """After how much silence a stream gets a comment, so that nothing on the way closes it."""
    early_keep_alive_seconds: float = Field(30.0, gt=0, validation_alias="TURNPIKE_EARLY_KEEP_ALIVE_SECONDS")
    """The same before a stream's answer has begun; the first such comment commits the status to 200."""

    @field_validator("sandbox_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        return normalized(value) if value.strip() else ""

    @property
    def timers(self) -> Timers:
        """The four timers and the keep-alive."""
        return replace(super().timers, keep_alive_seconds=self.keep_alive_seconds)
