"""What each child finds in its environment: the variables that it reads, and none that are another's secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pydantic import AliasChoices

from common.settings import Settings
from deploy.local.children import WELCOME
from deploy.local.config import (
    CHROMA_SERVER,
    ENVOY,
    HOST,
    REPOSITORY,
    SANDBOX,
    SHUTDOWN_GRACE_SECONDS,
    LocalSettings,
    Ports,
)
from services.auth.config import AuthSettings
from services.chat.config import ChatSettings
from services.chroma.config import ChromaSettings
from services.ocr.config import OcrSettings
from services.sandbox.config import SandboxSettings
from services.usage.config import Settings as UsageSettings

# What any program may need to run at all.
_SYSTEM: Final = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "LD_LIBRARY_PATH")
_PYTHON: Final = ("PYTHON*",)
_SERVICE: Final = (*_PYTHON, "OTEL_*", "GRPC_VERBOSITY", "GRPC_TRACE", "GRPC_DNS_RESOLVER")
# Only for children that call something outside of this machine. HTTP_PROXY is a setting of those that ask providers.
_OUTSIDE: Final = ("HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
_DEMO_JWT: Final = "TURNPIKE_JWT"
# The welcome is told that there is a key, which decides about the upstream, and not which.
_HIDDEN: Final = ("OPENAI_API_KEY", "MISTRAL_API_KEY")
_HIDDEN_VALUE: Final = "hidden"
# Secrets among the settings of the starter, of which the welcome needs nothing.
_NOT_FOR_WELCOME: Final = ("TURNPIKE_SERVICE_KEY", "TURNPIKE_JWT_SECRET", "USAGE_API_KEY")


@dataclass(frozen=True)
class Reads:
    """What a child reads: the variables of its settings, and others; ``PYTHON*`` stands for all that begin so."""

    settings: type[Settings] | None = None
    others: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    """Variables of the settings that the child does without."""

    def includes(self, name: str) -> bool:
        """Tell whether the child reads the variable. Settings do not look at the case, and proxies have both."""
        wanted = {*_SYSTEM, *self.others, *variables_of(self.settings)} - {*self.without}
        upper = name.upper()
        return upper in wanted or any(upper.startswith(each[:-1]) for each in wanted if each.endswith("*"))


CHILDREN: Final[Mapping[str, Reads]] = MappingProxyType(
    {
        "auth": Reads(AuthSettings, (*_SERVICE, *_OUTSIDE)),
        "chat": Reads(ChatSettings, (*_SERVICE, *_OUTSIDE)),
        "chroma": Reads(ChromaSettings, (*_SERVICE, *_OUTSIDE)),
        "ocr": Reads(OcrSettings, (*_SERVICE, *_OUTSIDE)),
        "usage": Reads(UsageSettings, _SERVICE),
        SANDBOX: Reads(SandboxSettings, _PYTHON),
        WELCOME: Reads(LocalSettings, (*_PYTHON, _DEMO_JWT), without=_NOT_FOR_WELCOME),
        CHROMA_SERVER: Reads(),
        ENVOY: Reads(),
    }
)


def variables_of(settings: type[Settings] | None) -> frozenset[str]:
    """Return the names of the variables that the settings are read from."""
    if settings is None:
        return frozenset()
    prefix = str(settings.model_config.get("env_prefix") or "")
    names: set[str] = set()
    for name, each in settings.model_fields.items():
        alias = each.validation_alias
        names.update([str(one) for one in alias.choices] if isinstance(alias, AliasChoices) else [])
        names.update([alias] if isinstance(alias, str) else [])
        names.update([f"{prefix}{name}".upper()] if alias is None else [])
    return frozenset(names)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What the starter knows and the user does not say."""

    ports: Ports
    state: Path
    service_key: str = field(repr=False)
    jwt_secret: str = field(repr=False)
    demo_jwt: str = field(repr=False)
    sandbox: bool
    """Whether the sandbox is run."""
    chroma_server: bool
    """Whether a Chroma server is run."""


def child_environment(child: str, user: Mapping[str, str], *, stack: Stack) -> dict[str, str]:
    """Return the whole environment of a child.

    Addresses and directories are the starter's to say, so they replace what the user set; whether authentication is
    required stays the user's choice.
    """
    reads = CHILDREN[child]
    known = {"API_AUTH_REQUIRED": "1", **user, **_known(stack, child=child)}
    environment = {name: value for name, value in known.items() if reads.includes(name)}
    if child == WELCOME:
        environment |= {name: _HIDDEN_VALUE for name, value in environment.items() if value and name.upper() in _HIDDEN}
    if child == CHROMA_SERVER:
        # It reports to nobody: the gateway has no network but the providers that were configured.
        environment["ANONYMIZED_TELEMETRY"] = "False"
    return {**environment, "TZ": "UTC"}


def _known(stack: Stack, *, child: str) -> dict[str, str]:
    ports = stack.ports
    known = {
        "TURNPIKE_SERVICE_KEY": stack.service_key,
        "TURNPIKE_JWT_SECRET": stack.jwt_secret,
        "TURNPIKE_STATE_DIR": str(stack.state),
        "TURNPIKE_SHUTDOWN_GRACE_SECONDS": str(SHUTDOWN_GRACE_SECONDS),
        **{f"TURNPIKE_{name.upper()}_LISTEN": f"{HOST}:{port}" for name, port in ports.services.items()},
        "TURNPIKE_SANDBOX_LISTEN": f"{HOST}:{ports.sandbox}",
        "TURNPIKE_AUTH_ADDRESS": f"{HOST}:{ports.auth}",
        "TURNPIKE_USAGE_ADDRESS": f"{HOST}:{ports.usage}",
        "TURNPIKE_SANDBOX_LEDGER_PATH": str(stack.state / "sandbox" / "ledger.jsonl"),
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'gen'}",
        # A log line that is lost in a buffer when its process is killed helps nobody.
        "PYTHONUNBUFFERED": "1",
        _DEMO_JWT: stack.demo_jwt,
    }
    if stack.sandbox:
        known["TURNPIKE_SANDBOX_URL"] = f"http://{HOST}:{ports.sandbox}/v1"
    # The welcome reads from this variable's absence that there is a server to wait for.
    if stack.chroma_server and child != WELCOME:
        known["CHROMA_BASE_URL"] = chroma_url(ports)
    return known


def chroma_url(ports: Ports) -> str:
    """Return the URL of the Chroma server."""
    return f"http://{HOST}:{ports.chroma_server}"
