"""Settings that every service has, and how they are read: once, from the environment."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

S = TypeVar("S", bound=BaseSettings)

MAX_BODY_BYTES = 32 * 1024 * 1024
"""The largest request body."""
MAX_MESSAGE_BYTES = MAX_BODY_BYTES + 64 * 1024
"""The same with what protobuf adds; Envoy's configuration is rendered with the same number."""
MAX_HEADER_BYTES = 64 * 1024
"""The largest request headers, names and values together."""
_HEADER_TEXT: Final = re.compile(r"[\x20-\x7e]+")


def _key(given: SecretStr) -> SecretStr:
    """Return the key without blanks and line ends around it; raises ValueError, without the value."""
    key = given.get_secret_value().strip()
    if given.get_secret_value() and not _HEADER_TEXT.fullmatch(key):
        raise ValueError("it must be printable ASCII text, because it is sent in a header")
    return SecretStr(key)


def _secret(given: SecretStr) -> SecretStr:
    """Return the secret without blanks and line ends around it; raises ValueError, without the value."""
    secret = given.get_secret_value().strip()
    if given.get_secret_value() and not (secret and secret.isprintable()):
        raise ValueError("it must be printable text")
    return SecretStr(secret)


Key = Annotated[SecretStr, AfterValidator(_key)]
"""A key that is sent in a header: files and editors add line ends, which no header holds."""
Secret = Annotated[SecretStr, AfterValidator(_secret)]
"""A secret that is not sent."""


class Settings(BaseSettings):
    """Settings of which each is read from the variable that its ``validation_alias`` names, and from no other.

    Code passes the fields by their own names. An empty variable counts as not set.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        env_ignore_empty=True,
        # An error's text would show what a secret was set to.
        hide_input_in_errors=True,
    )

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return what was passed, then the environment."""
        return init_settings, _Environment(settings_cls)


class _Environment(EnvSettingsSource):
    """The environment, in which a field's own name means nothing: LISTEN or STATE_DIR may be another program's."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        self.config = {**self.config, "populate_by_name": False}


class ServiceSettings(Settings):
    """What each service needs to find the others and to keep its state."""

    service_key: Key = Field(min_length=16, validation_alias="TURNPIKE_SERVICE_KEY")
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
    """Calls that one process serves at once; further ones are refused with 429. Health and reflection do not count."""
    max_probes: int = Field(100, ge=1, validation_alias="TURNPIKE_MAX_PROBES")
    """Calls of each RPC of health and reflection that one process serves at once; a further one ends the oldest."""
    probe_seconds: float = Field(60.0, gt=0, validation_alias="TURNPIKE_PROBE_SECONDS")
    """How long a call of health or reflection may last; who watches starts again."""
    reflection: bool = Field(default=True, validation_alias="TURNPIKE_REFLECTION")
    """1: gRPC clients may ask which public RPCs there are; 0: they may not."""
    shutdown_grace_seconds: float = Field(30.0, ge=0, validation_alias="TURNPIKE_SHUTDOWN_GRACE_SECONDS")
    """How long running calls may go on after SIGTERM."""


def load(settings: type[S], **variables: Any) -> S:
    """Read the settings from the environment; on a bad one print a line that names the variable and exit with 2.

    ``variables`` take the place of those in the environment.
    """
    try:
        return settings(**variables)
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
