"""The service as a process: it starts, serves, stops, and says clearly why it cannot start."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from common.identity.remote import RemoteAuthenticator
from deploy.local.jwt import platform_jwt
from tests.services.auth.support import ENVIRONMENT, JWT_SECRET, SERVICE_KEY
from tests.tied import tied
from turnpike.auth.v1 import api_token_pb2, api_token_pb2_grpc


def _environment(state_dir: Path, **more: str) -> dict[str, str]:
    return ENVIRONMENT | {
        "TURNPIKE_SERVICE_KEY": SERVICE_KEY.get_secret_value(),
        "TURNPIKE_JWT_SECRET": JWT_SECRET.get_secret_value(),
        "TURNPIKE_STATE_DIR": str(state_dir),
        "TURNPIKE_AUTH_LISTEN": "127.0.0.1:0",
        **more,
    }


@asynccontextmanager
async def _service(environment: Mapping[str, str]) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Start the service; yields its process and its address."""
    process = await asyncio.create_subprocess_exec(
        *tied([sys.executable, "-W", "error", "-m", "services.auth"]),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            line = json.loads(await process.stdout.readline())
        yield process, f"127.0.0.1:{line['port']}"
    finally:
        if process.returncode is None:
            process.kill()
        # Reads to the end, so that the pipe is closed.
        await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_tokens_outlive_the_process(tmp_path: Path, number: signal.Signals) -> None:
    environment = _environment(tmp_path)
    bearer = platform_jwt(JWT_SECRET.get_secret_value(), user_id="alice")
    async with _service(environment) as (process, address), grpc.aio.insecure_channel(address) as channel:
        stub = api_token_pb2_grpc.ApiTokenServiceStub(channel)
        created = await stub.CreateApiToken(
            api_token_pb2.CreateApiTokenRequest(name="laptop"), metadata=(("authorization", f"Bearer {bearer}"),)
        )
        async with RemoteAuthenticator(address, service_key=SERVICE_KEY) as remote:
            await remote.watching.wait()
            process.send_signal(number)
            async with asyncio.timeout(30):
                assert await process.wait() == (0 if number is signal.SIGTERM else -signal.SIGKILL)
    async with _service(environment) as (_, address), RemoteAuthenticator(address, service_key=SERVICE_KEY) as remote:
        await remote.watching.wait()
        assert (await remote.authenticate(created.token)).token_id == created.id


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TURNPIKE_AUTH_DATABASE_URL", "mysql://localhost/auth"),
        ("TURNPIKE_AUTH_DATABASE_URL", "sqlite:////proc/no/such/directory/auth.db"),
        ("TURNPIKE_AUTH_DATABASE_URL", "postgresql://nobody:hidden@127.0.0.1:1/auth"),
        ("TURNPIKE_JWT_SECRET", "hidden"),
        ("TURNPIKE_SERVICE_KEY", ""),
        ("TURNPIKE_JWT_JWKS_URL", "hidden"),
        ("API_AUTH_REQUIRED", "maybe"),
        ("TURNPIKE_AUTH_LISTEN", "256.0.0.1:1"),
    ],
)
async def test_a_wrong_setting_is_one_line_that_names_it(tmp_path: Path, variable: str, value: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.auth",
        env=_environment(tmp_path, **{variable: value}),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode
    # gRPC's C core says on its own line why a listener failed.
    (line,) = [line for line in said.decode().splitlines() if not re.match(r"E\d{4} ", line)]
    assert variable in line
    assert "hidden" not in line


async def test_a_process_on_sqlite_loads_no_library_that_only_postgresql_and_migrations_need(tmp_path: Path) -> None:
    # Together they took a third of its memory.
    program = """
import asyncio, sys
from datetime import UTC, datetime
from common.settings import load
import services.auth.__main__
from services.auth.config import AuthSettings
from services.auth.opening import open_store

async def main():
    async with open_store(load(AuthSettings), now=lambda: datetime.now(UTC)) as store:
        print(await store.of_user("alice"), {"sqlalchemy", "alembic", "asyncpg", "httpx"} & set(sys.modules))

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env=_environment(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert said.decode().strip() == "[] set()"
