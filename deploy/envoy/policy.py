"""What the contract cannot say about the edge: one table for timers, the dialects of errors, and limits."""

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
"""The dialect of Envoy's own errors under a path; everywhere else it is OPENAI."""
DEFAULT_DIALECT: Final = OPENAI

OPEN_CLUSTER: Final = "chat"
"""The cluster that answers health checks and reflection."""
