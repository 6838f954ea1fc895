"""What the auth service reads from the environment; an empty variable counts as unset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import AnyHttpUrl, Field, SecretStr, field_validator

from common.settings import Key, Secret, ServiceSettings, Settings

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_DRIVERS: Final = {
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
}


class JwtSettings(Settings):
    """Which platform JWTs are accepted; with neither a secret nor a JWKS URL all of them are refused."""

    jwt_secret: Secret | None = Field(None, min_length=32, validation_alias="TURNPIKE_JWT_SECRET")
    """The secret of HS256 JWTs, at least 32 characters; none: HS256 is refused."""
    jwt_issuer: str | None = Field(None, validation_alias="TURNPIKE_JWT_ISSUER")
    """The ``iss`` that a JWT must have; none: it is not looked at."""
    jwt_audience: str | None = Field(None, validation_alias="TURNPIKE_JWT_AUDIENCE")
    """What a JWT's ``aud`` must contain; none: it is not looked at."""


class AuthSettings(ServiceSettings, JwtSettings):
    """Everything that the auth service can be told."""

    listen: str = Field("127.0.0.1:18081", validation_alias="TURNPIKE_AUTH_LISTEN")
    """Where the service listens: host:port."""
    database_url: SecretStr | None = Field(None, validation_alias="TURNPIKE_AUTH_DATABASE_URL")
    """postgresql://user:password@host/name or sqlite:///path; none: auth/auth.db under the state directory."""
    jwt_jwks_url: AnyHttpUrl | None = Field(None, validation_alias="TURNPIKE_JWT_JWKS_URL")
    """Where the keys of RS256, ES256 and EdDSA JWTs are; none: these algorithms are refused."""
    jwt_leeway_seconds: float = Field(30.0, ge=0, le=600, validation_alias="TURNPIKE_JWT_LEEWAY_SECONDS")
    """How far the clocks of a JWT's issuer and of this service may be apart."""
    api_auth_required: bool | None = Field(None, validation_alias="API_AUTH_REQUIRED")
    """1: every call needs a credential; 0: none does; unset: they do when a static key is set."""
    proxy_api_key: Key | None = Field(None, validation_alias="PROXY_API_KEY")
    """A static key with every scope, for the user "proxy"; none: no such key."""
    worker_api_key: Key | None = Field(None, validation_alias="WORKER_API_KEY")
    """A static key with every scope, for the user "worker"; none: no such key."""
    cache_seconds: float = Field(10.0, ge=0, le=300, validation_alias="TURNPIKE_AUTH_CACHE_SECONDS")
    """How long services may remember who holds a credential, and so how long they work while this one is away."""
    flush_seconds: float = Field(30.0, gt=0, le=3600, validation_alias="TURNPIKE_AUTH_FLUSH_SECONDS")
    """How often the times at which tokens were last used are written to the database."""

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, given: SecretStr | None) -> SecretStr | None:
        if given is not None and _sqlite_path(given.get_secret_value()) is None:
            async_url(given.get_secret_value())
        return given

    @property
    def sqlite_path(self) -> Path | None:
        """The file of the database; None for PostgreSQL."""
        if self.database_url is None:
            return self.state_dir / "auth" / "auth.db"
        return _sqlite_path(self.database_url.get_secret_value())

    @property
    def database(self) -> URL:
        """The database's address, with an asynchronous driver; loads SQLAlchemy."""
        from sqlalchemy.engine import URL  # noqa: PLC0415 - a process on SQLite needs none of it

        if self.database_url is None or self.sqlite_path is not None:
            return URL.create("sqlite+aiosqlite", database=str(self.sqlite_path))
        return async_url(self.database_url.get_secret_value())

    @property
    def static_keys(self) -> dict[str, str]:
        """The static keys that are set, by the user that each stands for."""
        keys = {"proxy": self.proxy_api_key, "worker": self.worker_api_key}
        return {user_id: key.get_secret_value() for user_id, key in keys.items() if key is not None}

    @property
    def credential_required(self) -> bool:
        """Whether a call without a credential is refused."""
        if self.api_auth_required is not None:
            return self.api_auth_required
        return bool(self.static_keys)


def _sqlite_path(given: str) -> Path | None:
    """Return the file of a SQLite URL, None for another one; raises ValueError."""
    driver, colon, rest = given.partition("://")
    if not colon or _DRIVERS.get(driver) != "sqlite+aiosqlite":
        return None
    path = rest.removeprefix("/").partition("?")[0]
    if not rest.startswith("/") or path in ("", ":memory:"):
        raise ValueError("sqlite needs a file: sqlite:///path")
    return Path(path)


def async_url(given: str) -> URL:
    """Return a plain database URL with its asynchronous driver; raises ValueError, without the URL's password."""
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - a process on SQLite needs none of it
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

    try:
        url = make_url(given)
    except ArgumentError:
        raise ValueError("it must be a URL like postgresql://user:password@host/name or sqlite:///path") from None
    if url.drivername not in _DRIVERS:
        raise ValueError(f"'{url.drivername}' is neither postgresql nor sqlite")
    url = url.set(drivername=_DRIVERS[url.drivername])
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ValueError("sqlite needs a file: sqlite:///path")
    elif "sslmode" in url.query:
        # libpq's name for what asyncpg calls ssl; the values are the same.
        url = url.update_query_dict({"ssl": str(url.query["sslmode"])}).difference_update_query(["sslmode"])
    return url
