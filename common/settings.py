"""Settings that every service has, and how they are read: once, from the environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn, TypeVar

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

S = TypeVar("S", bound=BaseSettings)

MAX_BODY_BYTES = 32 * 1024 * 1024
"""The largest request body."""
MAX_MESSAGE_BYTES = MAX_BODY_BYTES + 64 * 1024
"""The same with what protobuf adds; deploy/envoy/envoy.yaml has the same number, and a test compares them."""


class ServiceSettings(BaseSettings):
    """What each service needs to find the others and to keep its state."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        env_ignore_empty=True,
        # An error's text would show what a secret was set to.
        hide_input_in_errors=True,
    )

    service_key: SecretStr = Field(min_length=16, validation_alias="TURNPIKE_SERVICE_KEY")
    """The secret that services show each other; no default, so that nobody runs with a known one."""
    auth_address: str = Field("127.0.0.1:18081", validation_alias="TURNPIKE_AUTH_ADDRESS")
    """Where the auth service listens: host:port, or any gRPC target."""
    usage_address: str = Field("127.0.0.1:18083", validation_alias="TURNPIKE_USAGE_ADDRESS")
    """Where the usage service listens: host:port, or any gRPC target."""
    state_dir: Path = Field(Path(".turnpike"), validation_alias="TURNPIKE_STATE_DIR")
    """The directory under which services keep files: outboxes, embedded databases."""
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", validation_alias="TURNPIKE_LOG_LEVEL")
    """The least severe level that is logged."""
    max_concurrent_calls: int = Field(4096, ge=1, validation_alias="TURNPIKE_MAX_CONCURRENT_CALLS")
    """Calls that one process serves at once; further ones are refused with RESOURCE_EXHAUSTED."""


def load(settings: type[S]) -> S:
    """Read the settings from the environment; on a bad one print a line that names the variable and exit with 2."""
    try:
        return settings()
    except ValidationError as error:
        _refuse(settings, error)


def _refuse(settings: type[BaseSettings], error: ValidationError) -> NoReturn:
    for problem in error.errors():
        message = problem["msg"].removeprefix("Value error, ")
        name = _variable(settings, str(problem["loc"][0])) if problem["loc"] else ""
        what = "is not set" if problem["type"] == "missing" else f"is wrong: {message}"
        sys.stderr.write(f"turnpike: {name} {what}\n" if name else f"turnpike: {message}\n")
    raise SystemExit(2)


def _variable(settings: type[BaseSettings], place: str) -> str:
    """Return the variable that an error's place stands for; of several names, the one that is set."""
    if place in settings.model_fields:
        return f"{settings.model_config.get('env_prefix', '')}{place}".upper()
    for field in settings.model_fields.values():
        alias = field.validation_alias
        if isinstance(alias, AliasChoices) and place in alias.choices:
            return next((str(name) for name in alias.choices if os.environ.get(str(name))), place)
    return place
