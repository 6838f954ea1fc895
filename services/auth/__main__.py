"""Runs the auth service."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from common.serving.run import Process, Service, run
from services.auth.config import AuthSettings
from services.auth.core import ApiTokens, Authentication
from services.auth.jwt import JwtVerifier
from services.auth.last_use import LastUse
from services.auth.opening import DatabaseRefused, open_store
from services.auth.revocations import Revocations
from services.auth.servicer import ROUTES, ApiTokenHttpServicer, ApiTokenServicer, AuthServicer
from turnpike.auth.v1.api_token_http_pb2_grpc import add_ApiTokenHttpServiceServicer_to_server
from turnpike.auth.v1.api_token_pb2_grpc import add_ApiTokenServiceServicer_to_server
from turnpike.auth.v1.auth_pb2_grpc import add_AuthServiceServicer_to_server

_LATE_SECONDS: Final = 60.0
"""By how much a revocation's transaction may be late, or a poll fail, and the revocation still be pushed."""


@asynccontextmanager
async def auth(settings: AuthSettings, process: Process) -> AsyncIterator[Service]:
    """Open the service's parts; a database that cannot be opened ends the process with a line that says so."""
    async with AsyncExitStack() as stack:
        try:
            store = await stack.enter_async_context(open_store(settings, now=_now))
        except DatabaseRefused as refusal:
            raise SystemExit(
                f"turnpike auth: cannot open the database ({refusal}): set TURNPIKE_AUTH_DATABASE_URL"
            ) from None
        revocations = Revocations(store, overlap_seconds=settings.cache_seconds + _LATE_SECONDS, health=process.health)
        process.telemetry.observe("revocation.watchers", lambda: revocations.watchers, unit="{watcher}")
        last_use = await stack.enter_async_context(
            LastUse(store, flush_seconds=settings.flush_seconds, health=process.health)
        )
        keys = None
        if settings.jwt_jwks_url is not None:
            # Its HTTP client is loaded only when it is wanted: it takes memory of every process otherwise.
            from services.auth.jwks import JwksKeys  # noqa: PLC0415

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
        yield service_of(authentication, tokens=tokens, revocations=revocations)


def service_of(authentication: Authentication, *, tokens: ApiTokens, revocations: Revocations) -> Service:
    """Return what the service brings; watches of revocations end before it stops, because they have no other end."""
    return Service(
        routes=ROUTES,
        servicers=[
            (add_ApiTokenServiceServicer_to_server, ApiTokenServicer(tokens)),
            (add_ApiTokenHttpServiceServicer_to_server, ApiTokenHttpServicer(tokens)),
            (add_AuthServiceServicer_to_server, AuthServicer(authentication, revocations)),
        ],
        authenticator=authentication,
        before_stop=revocations.close,
    )


def _now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    run("auth", AuthSettings, auth)
