"""The starter's settings: read once from the environment; the services read their own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_core import PydanticCustomError

from services.auth.config import JwtSettings

REPOSITORY = Path(__file__).resolve().parents[2]
"""The checkout's root: children run there, and relative paths in Envoy's files are meant from there."""
HOST = "127.0.0.1"
"""Where everything listens: a laptop's gateway is nobody else's business."""
SHUTDOWN_GRACE_SECONDS = 4
"""How long running calls may go on when a stack stops: who presses Ctrl-C does not wait for a long stream."""
DEMO_USER = "demo"
"""The user that owns the token which the welcome prints."""


@dataclass(frozen=True)
class Service:
    """A gRPC service of the stack, run as ``services.<name>``; its field in Ports has the same name."""

    name: str
    offset: int
    """Its port, counted from the first inner one."""
    stop_last: int
    """Services with a higher number are stopped later: those that meter must still hand over what they have."""


SERVICES = (
    Service("auth", 1, stop_last=2),
    Service("chat", 2, stop_last=1),
    Service("usage", 3, stop_last=2),
    Service("chroma", 5, stop_last=1),
    Service("ocr", 6, stop_last=1),
)
SANDBOX = "sandbox"
"""The child that is the provider of a laptop."""
CHROMA_SERVER = "chroma-server"
"""The child that is a Chroma server."""
ENVOY = "envoy"
"""The child that is the edge."""
_SANDBOX_OFFSET = 4
_CHROMA_SERVER_OFFSET = 7
INNER_PORTS = 8
"""How many ports in a row a stack keeps to itself."""


@dataclass(frozen=True)
class Ports:
    """The TCP ports of one stack; 0 for a service that is not run."""

    envoy: int
    admin: int
    auth: int
    chat: int
    usage: int
    sandbox: int
    chroma: int = 0
    ocr: int = 0
    chroma_server: int = 0

    @property
    def services(self) -> dict[str, int]:
        """The port of each gRPC service that is run."""
        named = {service.name: int(getattr(self, service.name)) for service in SERVICES}
        return {name: port for name, port in named.items() if port}


class LocalSettings(JwtSettings):
    """What `make up` can be told; of the JWT settings only the secret has another default: one is made and kept."""

    port: int = Field(8080, ge=1, le=65535, validation_alias="TURNPIKE_PORT")
    """The port that clients use."""
    port_base: int = Field(18080, ge=1, le=65536 - INNER_PORTS, validation_alias="TURNPIKE_PORT_BASE")
    """The first of eight inner ports: Envoy's admin page, auth, chat, usage, sandbox, chroma, ocr, Chroma's server."""
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
    chroma_base_url: str | None = Field(None, validation_alias="CHROMA_BASE_URL")
    """Looked at only to decide whether a Chroma server is run here, and to name a wrong one before anything starts."""
    chroma_api_base: str | None = Field(None, validation_alias="CHROMA_API_BASE")
    """Another name of the same."""
    mistral_api_key: SecretStr | None = Field(None, validation_alias="MISTRAL_API_KEY")
    """As OPENAI_API_KEY, for OCR."""
    mistral_base_url: str | None = Field(None, validation_alias="MISTRAL_BASE_URL")
    """As OPENAI_BASE_URL, for OCR."""
    mistral_api_base: str | None = Field(None, validation_alias="MISTRAL_API_BASE")
    """Another name of the same."""

    api_auth_required: bool = Field(default=True, validation_alias="API_AUTH_REQUIRED")
    """Looked at only to tell the edge which services answer without a credential."""
    usage_key: SecretStr | None = Field(None, validation_alias="USAGE_API_KEY")
    """As API_AUTH_REQUIRED, for usage."""
    max_concurrent_calls: int = Field(4096, ge=1, validation_alias="TURNPIKE_MAX_CONCURRENT_CALLS")
    """Looked at only to give the edge a higher limit."""

    @field_validator(
        "openai_base_url",
        "openai_api_base",
        "mistral_base_url",
        "mistral_api_base",
        "chroma_base_url",
        "chroma_api_base",
    )
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None and not _is_http_url(value):
            raise PydanticCustomError("url", "it must be an http:// or https:// URL")
        return value

    @property
    def sandboxed(self) -> frozenset[str]:
        """The services that go to the sandbox on this machine, because no provider was named for them."""
        named = {
            "chat": (self.openai_api_key, self.openai_base_url, self.openai_api_base),
            "ocr": (self.mistral_api_key, self.mistral_base_url, self.mistral_api_base),
        }
        return frozenset(service for service, upstream in named.items() if upstream == (None, None, None))

    @property
    def open_services(self) -> frozenset[str]:
        """The services that answer without a credential."""
        services = {"usage"} if self.usage_key is None else set()
        return frozenset(services if self.api_auth_required else services | {"chat", "ocr"})

    @property
    def uses_chroma_server(self) -> bool:
        """Whether a Chroma server is run on this machine, because none was named."""
        return self.chroma_base_url is None and self.chroma_api_base is None

    @property
    def uses_sandbox(self) -> bool:
        """Whether the sandbox is run at all."""
        return bool(self.sandboxed)

    @property
    def ports(self) -> Ports:
        """The ports that follow from the two settings."""
        base = self.port_base
        services = {service.name: base + service.offset for service in SERVICES}
        return Ports(
            envoy=self.port,
            admin=base,
            sandbox=base + _SANDBOX_OFFSET,
            chroma_server=base + _CHROMA_SERVER_OFFSET,
            **services,
        )

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
