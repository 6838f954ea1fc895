"""What the contract cannot say about the edge: one table for timers, headers, limits and the dialects of errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from deploy.envoy.dialects import CHROMA, OPENAI, ErrorDialect


@dataclass(frozen=True)
class ServicePolicy:
    """How Envoy treats a cluster's routes."""

    timeout_seconds: int = 0
    """How long Envoy waits for a whole answer; 0 where the service owns the timers, as those of inference do."""


SERVICES: Final[Mapping[str, ServicePolicy]] = MappingProxyType(
    {
        "auth": ServicePolicy(timeout_seconds=30),
        "usage": ServicePolicy(timeout_seconds=60),
    }
)
"""The services that are not as the default is."""

DIALECTS: Final[Mapping[str, ErrorDialect]] = MappingProxyType({"/v1/chroma": CHROMA})
"""The dialect of Envoy's own errors under a path; everywhere else it is DEFAULT_DIALECT."""
DEFAULT_DIALECT: Final = OPENAI

USAGE_KEY_HEADER: Final = "x-usage-key"
"""The header of a key that only the usage service knows."""
CREDENTIAL_HEADERS: Final = ("authorization", "x-api-key", "api-key", "x-chroma-token", USAGE_KEY_HEADER)
"""The headers in which a service looks for a credential."""
FORWARDED_HEADERS: Final = (
    *CREDENTIAL_HEADERS,
    "anthropic-beta",
    "anthropic-version",
    "content-type",
    "openai-beta",
    "openai-organization",
    "openai-project",
    "traceparent",
    "tracestate",
)
"""The headers of an HTTP caller that reach a service: no cookies, and nothing that means something to gRPC."""
EDGE_HEADERS: Final = ("content-length", "x-forwarded-proto", "x-request-id")
"""Headers that Envoy itself needs after the others are removed."""
LARGE_BODY_BYTES: Final = 128 * 1024
"""The size of a body above which Envoy asks about the credential before it takes the body in."""
CODEC_HEADER_KIB: Final = 256
"""The size at which Envoy stops reading headers: an HTTP/2 stream is then reset without an answer."""
HEADERS_AT_MOST: Final = 1000
"""How many headers a request may have; Envoy's default of 100 would be a second limit beside that of their size."""

OPEN_SERVICES: Final[Mapping[str, str]] = MappingProxyType(
    {"health": "/grpc.health.v1.Health/", "reflection": "/grpc.reflection."}
)
"""The services of every gRPC server that need no credential, by the setting that turns each on."""
OPEN_BACKEND: Final = "chat"
"""The service that answers them."""
OPEN_CLUSTER: Final = "open"
"""The cluster of these calls: the same service, with limits of its own."""
OPEN_SECONDS: Final = 60
"""How long such a call may last."""
