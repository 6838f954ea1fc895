"""The settings: what the variables mean."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from services.auth.config import AuthSettings, async_url
from tests.services.auth.support import ENVIRONMENT

_NOTHING = {"service_key": "0123456789abcdef", "PROXY_API_KEY": None, "WORKER_API_KEY": None, "API_AUTH_REQUIRED": None}


def _settings(**values: Any) -> AuthSettings:
    return AuthSettings(**(_NOTHING | values))


@pytest.mark.parametrize(
    ("values", "required"),
    [
        ({}, False),
        ({"API_AUTH_REQUIRED": "1"}, True),
        ({"API_AUTH_REQUIRED": "0"}, False),
        ({"PROXY_API_KEY": "key"}, True),
        ({"WORKER_API_KEY": "key"}, True),
        ({"PROXY_API_KEY": "key", "API_AUTH_REQUIRED": "0"}, False),
        ({"PROXY_API_KEY": "key", "API_AUTH_REQUIRED": "1"}, True),
    ],
)
def test_when_a_credential_is_required(values: dict[str, str], required: bool) -> None:  # noqa: FBT001 - pytest passes it by name
    assert _settings(**values).credential_required is required


def test_static_keys_are_named_by_their_user() -> None:
    assert _settings(PROXY_API_KEY="p", WORKER_API_KEY="w").static_keys == {"proxy": "p", "worker": "w"}
    assert _settings(WORKER_API_KEY="w").static_keys == {"worker": "w"}


async def test_an_empty_variable_is_unset() -> None:
    names = (
        "PROXY_API_KEY",
        "WORKER_API_KEY",
        "API_AUTH_REQUIRED",
        "TURNPIKE_JWT_SECRET",
        "TURNPIKE_AUTH_DATABASE_URL",
    )
    program = (
        "from common.settings import load; from services.auth.config import AuthSettings; s = load(AuthSettings);"
        "print(s.static_keys, s.credential_required, s.jwt_secret, s.database)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        env=ENVIRONMENT | dict.fromkeys(names, "") | {"TURNPIKE_SERVICE_KEY": "0123456789abcdef"},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert said.decode().strip() == "{} False None sqlite+aiosqlite:///.turnpike/auth/auth.db"


@pytest.mark.parametrize(
    ("given", "driver", "database"),
    [
        ("postgresql://user:secret@host:5432/name", "postgresql+asyncpg", "name"),
        ("postgres://user@host/name", "postgresql+asyncpg", "name"),
        ("postgresql+asyncpg://host/name", "postgresql+asyncpg", "name"),
        ("sqlite:///relative.db", "sqlite+aiosqlite", "relative.db"),
        ("sqlite:////absolute/auth.db", "sqlite+aiosqlite", "/absolute/auth.db"),
    ],
)
def test_a_database_url_gets_its_driver(given: str, driver: str, database: str) -> None:
    url = _settings(TURNPIKE_AUTH_DATABASE_URL=given).database
    assert (url.drivername, url.database) == (driver, database)
    assert "secret" not in repr(url)


def test_libpq_s_sslmode_is_understood() -> None:
    assert dict(async_url("postgresql://host/name?sslmode=require&x=1").query) == {"ssl": "require", "x": "1"}


def test_the_default_database_is_in_the_state_directory() -> None:
    settings = _settings(TURNPIKE_STATE_DIR="/state", TURNPIKE_AUTH_DATABASE_URL=None)
    assert settings.database.database == str(Path("/state/auth/auth.db"))


@pytest.mark.parametrize("given", ["secret", "mysql://u:secret@h/n", "sqlite://", "sqlite:///:memory:", "://secret"])
def test_a_wrong_database_url_is_refused(given: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        _settings(TURNPIKE_AUTH_DATABASE_URL=given)
    (problem,) = refusal.value.errors()
    assert problem["loc"] == ("TURNPIKE_AUTH_DATABASE_URL",)
    assert "secret" not in problem["msg"]
    assert "secret" not in str(refusal.value)


def test_secrets_are_not_shown() -> None:
    settings = _settings(PROXY_API_KEY="a proxy key", TURNPIKE_JWT_SECRET="a JWT secret of 32 characters ...")
    for secret in ("a proxy key", "a JWT secret", "0123456789abcdef"):
        assert secret not in repr(settings)
