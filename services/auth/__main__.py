"""Starts the auth service: settings, database, core, server."""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import asyncpg
import sqlalchemy as sa
import uvloop
from alembic.util import CommandError

from common.logs import call_log, configure_logging
from common.serving.auth import AuthInterceptor
from common.serving.errors import ErrorInterceptor
from common.serving.server import Server, serve
from common.serving.telemetry import TelemetryInterceptor
from common.settings import load
from common.telemetry import from_environment
from services.auth.config import AuthSettings
from services.auth.core import ApiTokens, Authentication
from services.auth.database import migrate, open_engine
from services.auth.jwks import JwksKeys
from services.auth.jwt import JwtVerifier
from services.auth.last_use import LastUse
from services.auth.revocations import Revocations
from services.auth.servicer import REQUIREMENTS, SERVICES, ApiTokenHttpServicer, ApiTokenServicer, AuthServicer
from services.auth.store import SqlTokenStore
from turnpike.auth.v1 import api_token_http_pb2_grpc, api_token_pb2_grpc, auth_pb2_grpc

_LATE_SECONDS: Final = 60.0
"""By how much a revocation's transaction may be late, or a poll fail, and the revocation still be pushed."""


async def run(settings: AuthSettings) -> None:
    """Run the service until SIGTERM or SIGINT."""
    try:
        await migrate(settings.database)
    except (sa.exc.SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, CommandError, OSError) as error:
        _give_up(error)
    async with AsyncExitStack() as stack:
        engine = open_engine(settings.database)
        stack.push_async_callback(engine.dispose)
        store = SqlTokenStore(engine, now=_now)
        revocations = Revocations(store, overlap_seconds=settings.cache_seconds + _LATE_SECONDS)
        last_use = await stack.enter_async_context(LastUse(store, flush_seconds=settings.flush_seconds))
        keys = None
        if settings.jwt_jwks_url is not None:
            keys = JwksKeys(str(settings.jwt_jwks_url))
            stack.push_async_callback(keys.aclose)
        authentication = Authentication(
            store,
            jwts=JwtVerifier(
                secret=settings.jwt_secret,
                keys=keys,
                issuer=settings.jwt_issuer,
                audience=settings.jwt_audience,
                leeway_seconds=settings.jwt_leeway_seconds,
                now=_now,
            ),
            last_use=last_use,
            static_keys=settings.static_keys,
            required=settings.credential_required,
            cache_seconds=settings.cache_seconds,
            now=_now,
        )
        tokens = ApiTokens(store, revocations=revocations, randbelow=secrets.randbelow, now=_now)
        server = make_server(settings, authentication=authentication, tokens=tokens, revocations=revocations)
        await serve(server, name="auth", listen=settings.listen, variable="TURNPIKE_AUTH_LISTEN")


def make_server(
    settings: AuthSettings, *, authentication: Authentication, tokens: ApiTokens, revocations: Revocations
) -> Server:
    """Return the server with its interceptors, outermost first."""
    telemetry = from_environment("auth")
    telemetry.observe("revocation.watchers", lambda: revocations.watchers, unit="{watcher}")
    return _AuthServer(
        revocations,
        services=SERVICES,
        registers=[
            lambda server: api_token_pb2_grpc.add_ApiTokenServiceServicer_to_server(ApiTokenServicer(tokens), server),
            lambda server: api_token_http_pb2_grpc.add_ApiTokenHttpServiceServicer_to_server(
                ApiTokenHttpServicer(tokens), server
            ),
            lambda server: auth_pb2_grpc.add_AuthServiceServicer_to_server(
                AuthServicer(authentication, revocations), server
            ),
        ],
        interceptors=[
            TelemetryInterceptor(telemetry, log=call_log(settings.log_level)),
            ErrorInterceptor(),
            AuthInterceptor(authentication, requirements=REQUIREMENTS, service_key=settings.service_key),
        ],
        requirements=REQUIREMENTS,
        max_concurrent_calls=settings.max_concurrent_calls,
    )


class _AuthServer(Server):
    """Ends the watches before it stops: they never end by themselves, and stopping would wait for them."""

    def __init__(self, revocations: Revocations, **server: Any) -> None:
        super().__init__(**server)
        self._revocations = revocations

    async def stop(self, *, grace_seconds: float = 4.0) -> None:
        self._revocations.close()
        await super().stop(grace_seconds=grace_seconds)


def _now() -> datetime:
    return datetime.now(UTC)


def _give_up(error: Exception) -> NoReturn:
    reason = str(error).partition("\n")[0] or type(error).__name__
    raise SystemExit(f"turnpike auth: cannot open the database ({reason}): set TURNPIKE_AUTH_DATABASE_URL") from None


def main() -> None:
    """Read the settings and run."""
    settings = load(AuthSettings)
    configure_logging(settings.log_level)
    uvloop.run(run(settings))


if __name__ == "__main__":
    main()
