"""The settings that services with an upstream share."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field, field_validator

from common.metering.prices import PriceSettings
from common.providers.base_url import normalized
from common.settings import ServiceSettings
from common.upstream.http import Timers


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


class UpstreamSettings(TimerFields, PriceSettings, MeteredSettings):
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
