"""What several tests of the auth service need: a clock, a running service, a server of public keys."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
from pydantic import SecretStr

from common.background import Health
from common.errors import Unauthenticated
from common.identity.remote import RemoteAuthenticator
from common.serving.run import Process, server_of
from common.serving.server import Server
from common.telemetry import Telemetry
from deploy.local.jwt import platform_jwt
from services.auth.__main__ import service_of
from services.auth.config import AuthSettings
from services.auth.core import ApiTokens, Authentication
from services.auth.jwt import JwtVerifier
from services.auth.last_use import LastUse
from services.auth.revocations import Revocations
from services.auth.store import StoredToken, TokenStore
from tests.common.fake_call_log import FakeCallLog
from turnpike.auth.v1 import api_token_pb2_grpc, auth_pb2_grpc

SERVICE_KEY = SecretStr("the services' own key, for tests")
JWT_SECRET = SecretStr("a secret of at least 32 characters")

_ROOT = Path(__file__).parents[3]
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "gen")])}
"""The environment of processes that tests start: without the developer's own variables."""


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def seconds(self) -> float:
        return self.time.timestamp()

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


def stored(clock: Clock, number: int = 1, *, user_id: str = "alice", **fields: Any) -> StoredToken:
    """Return a token to store, different for each number."""
    token = StoredToken(
        id=f"tok_{number:022}",
        user_id=user_id,
        name=f"token {number}",
        scopes=("chat", "usage"),
        token_hash=number.to_bytes(32, "big"),
        prefix="tp_abcdef",
        created_at=clock.now(),
    )
    return replace(token, **fields)


async def until_refused(authenticator: RemoteAuthenticator, credential: str) -> None:
    """Let others run until the credential is refused; raises TimeoutError after 30 s."""
    async with asyncio.timeout(30):
        while True:
            try:
                await authenticator.authenticate(credential)
            except Unauthenticated:
                return
            await asyncio.sleep(0)


@dataclass
class RunningAuth:
    """The auth service, listening on a port of this machine."""

    clock: Clock
    store: TokenStore
    server: Server
    tokens: ApiTokens
    authentication: Authentication
    revocations: Revocations
    last_use: LastUse
    call_log: FakeCallLog
    address: str = ""
    metadata: tuple[tuple[str, str], ...] = (("x-turnpike-service-key", SERVICE_KEY.get_secret_value()),)
    channel: grpc.aio.Channel = field(init=False, repr=False)
    stub: auth_pb2_grpc.AuthServiceStub = field(init=False, repr=False)
    token_stub: api_token_pb2_grpc.ApiTokenServiceStub = field(init=False, repr=False)

    def jwt(self, user_id: str) -> tuple[tuple[str, str], ...]:
        """Return the metadata of a call by this user."""
        token = platform_jwt(JWT_SECRET.get_secret_value(), user_id=user_id, now=self.clock.now())
        return (("authorization", f"Bearer {token}"),)


def assembled(
    store: TokenStore,
    clock: Clock,
    *,
    seed: int = 0,
    required: bool = True,
    static_keys: Mapping[str, str] = MappingProxyType({}),
    poll_seconds: float = 0.005,
) -> RunningAuth:
    """Return the service, wired as in __main__ but with a clock and random numbers of the test."""
    revocations = Revocations(store, poll_seconds=poll_seconds)
    last_use = LastUse(store, flush_seconds=3600)
    authentication = Authentication(
        store,
        jwts=JwtVerifier(secret=JWT_SECRET, now=clock.now),
        last_use=last_use,
        static_keys=static_keys,
        required=required,
        cache_seconds=10,
        now=clock.now,
    )
    calls = FakeCallLog()
    tokens = ApiTokens(store, revocations=revocations, randbelow=random.Random(seed).randrange, now=clock.now)
    server = server_of(
        service_of(authentication, tokens=tokens, revocations=revocations),
        settings=AuthSettings(service_key=SERVICE_KEY),
        process=Process(Telemetry("auth"), Health(), calls),
    )
    return RunningAuth(clock, store, server, tokens, authentication, revocations, last_use, calls)


@asynccontextmanager
async def running_auth(
    store: TokenStore, clock: Clock, *, listen: str = "127.0.0.1:0", **options: Any
) -> AsyncIterator[RunningAuth]:
    """Run the service with real interceptors on a real port."""
    auth = assembled(store, clock, **options)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(auth.last_use)
        port = await auth.server.start(listen)
        stack.push_async_callback(auth.server.stop, grace_seconds=1)
        auth.address = f"127.0.0.1:{port}"
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(auth.address))
        auth.channel = channel
        auth.stub = auth_pb2_grpc.AuthServiceStub(channel)
        auth.token_stub = api_token_pb2_grpc.ApiTokenServiceStub(channel)
        yield auth


class KeyServer:
    """An HTTP server on this machine that publishes ``body``; an async context manager."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.status = 200
        self.requests = 0
        self.url = ""

    async def __aenter__(self) -> KeyServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/jwks.json"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        head = f"HTTP/1.1 {self.status} Said\r\ncontent-length: {len(self.body)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + self.body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
