"""The edge's settings: what an operator may change of Envoy's configuration when it is rendered."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Final

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from common.settings import Key, Settings

_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")
ANY_ORIGIN: Final = "*"


class EdgeSettings(Settings):
    """What may be set; each limit holds for one Envoy."""

    cors_origins: str = Field(ANY_ORIGIN, validation_alias="TURNPIKE_CORS_ORIGINS")
    """Origins, with commas between, whose web pages may call the gateway. `*`: of every origin, except at services
    that answer without a credential."""
    open_services: str = Field("usage", validation_alias="TURNPIKE_EDGE_OPEN_SERVICES")
    """Services, with commas between, that answer without a credential; empty where all want one. `make up` finds out by
    itself."""
    service_key: Key | None = Field(None, min_length=16, validation_alias="TURNPIKE_SERVICE_KEY")
    """With it Envoy asks the auth service about the credential before it takes in a large body; without it a made-up
    credential is enough to fill its memory."""
    health: bool = Field(default=True, validation_alias="TURNPIKE_EDGE_HEALTH")
    """1: everybody may ask over gRPC whether the gateway is healthy; 0: nobody."""
    reflection: bool = Field(default=True, validation_alias="TURNPIKE_EDGE_REFLECTION")
    """1: everybody may ask over gRPC which public RPCs there are; 0: nobody."""
    max_requests: int = Field(8192, ge=1, validation_alias="TURNPIKE_EDGE_MAX_REQUESTS")
    """Requests that Envoy has open at one service, at all its replicas together. More than each replica's
    TURNPIKE_MAX_CONCURRENT_CALLS, so that it is the service that refuses."""
    max_open_requests: int = Field(64, ge=1, validation_alias="TURNPIKE_EDGE_MAX_OPEN_REQUESTS")
    """Calls of health and reflection that Envoy has open; they are counted apart from all others."""
    max_connections: int = Field(20_000, ge=1, validation_alias="TURNPIKE_EDGE_MAX_CONNECTIONS")
    """Connections of callers; further ones are closed at once."""
    memory_mib: int = Field(512, ge=64, validation_alias="TURNPIKE_EDGE_MEMORY_MIB")
    """Envoy's memory, in MiB. At it no new requests are taken; most of it is bodies that are being sent."""
    request_seconds: int = Field(120, ge=1, validation_alias="TURNPIKE_EDGE_REQUEST_SECONDS")
    """How long a caller may take to send a request; 120 s are 2.3 Mbit/s for the largest body."""

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        origins = _listed(value)
        if value.strip() != ANY_ORIGIN and not all(_ORIGIN.fullmatch(origin) for origin in origins):
            raise PydanticCustomError("origins", "it must be * or origins such as https://app.example.com")
        return value

    @cached_property
    def origins(self) -> tuple[str, ...]:
        """The origins that are named; empty where every origin is meant."""
        return () if self.cors_origins.strip() == ANY_ORIGIN else _listed(self.cors_origins)

    @cached_property
    def open(self) -> frozenset[str]:
        """The services that answer without a credential."""
        return frozenset(_listed(self.open_services))


def _listed(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())
