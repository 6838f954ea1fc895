"""Protobuf in, protobuf out: the RPCs of the auth service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

from google.api.httpbody_pb2 import HttpBody
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from common.errors import InvalidRequest
from common.identity.principal import Access, Kind
from common.request import current_call
from common.serving.interceptor import Context
from common.serving.routes import Route
from services.auth.core import ApiTokens, Authentication, CreatedToken
from services.auth.revocations import Revocations
from services.auth.store import StoredToken
from services.auth.token_request import token_request
from turnpike.auth.v1 import (
    api_token_http_pb2,  # noqa: F401 - its descriptor is looked up by name
    api_token_http_pb2_grpc,
    api_token_pb2,
    api_token_pb2_grpc,
    auth_pb2,
    auth_pb2_grpc,
)

ROUTES: Final = (
    Route("/turnpike.auth.v1.ApiTokenService/ListApiTokens", Access.PLATFORM_USER),
    Route("/turnpike.auth.v1.ApiTokenService/CreateApiToken", Access.PLATFORM_USER),
    Route("/turnpike.auth.v1.ApiTokenService/DeleteApiToken", Access.PLATFORM_USER),
    Route("/turnpike.auth.v1.ApiTokenHttpService/CreateApiToken", Access.PLATFORM_USER),
    Route("/turnpike.auth.v1.AuthService/Authenticate", Access.INTERNAL),
    Route("/turnpike.auth.v1.AuthService/WatchRevocations", Access.INTERNAL),
)

_KINDS: Final = {
    Kind.ANONYMOUS: auth_pb2.Principal.KIND_ANONYMOUS,
    Kind.API_TOKEN: auth_pb2.Principal.KIND_API_TOKEN,
    Kind.PLATFORM_JWT: auth_pb2.Principal.KIND_PLATFORM_JWT,
    Kind.STATIC_KEY: auth_pb2.Principal.KIND_STATIC_KEY,
}


class ApiTokenServicer(api_token_pb2_grpc.ApiTokenServiceServicer):
    """Serves the calling user's API tokens."""

    def __init__(self, tokens: ApiTokens) -> None:
        self._tokens = tokens

    async def ListApiTokens(
        self, request: api_token_pb2.ListApiTokensRequest, context: Context
    ) -> api_token_pb2.ListApiTokensResponse:
        """List the caller's tokens, newest first."""
        tokens = await self._tokens.list(current_call().principal.user_id)
        return api_token_pb2.ListApiTokensResponse(data=[_token(token) for token in tokens])

    async def CreateApiToken(
        self, request: api_token_pb2.CreateApiTokenRequest, context: Context
    ) -> api_token_pb2.CreateApiTokenResponse:
        """Create a token; an empty list of scopes cannot be told from none and gives all of them."""
        return _created(
            await self._tokens.create(
                current_call().principal.user_id,
                name=request.name,
                scopes=request.scopes,
                expires_at=_datetime(request.expires_at) if request.HasField("expires_at") else None,
            )
        )

    async def DeleteApiToken(
        self, request: api_token_pb2.DeleteApiTokenRequest, context: Context
    ) -> api_token_pb2.DeleteApiTokenResponse:
        """Revoke a token; over HTTP the answer is 204."""
        call = current_call()
        await self._tokens.delete(request.token_id, user_id=call.principal.user_id)
        call.status = 204
        # Envoy's edge filter takes the status from here and drops the body.
        await context.send_initial_metadata((("x-http-status", "204"),))
        return api_token_pb2.DeleteApiTokenResponse()


class ApiTokenHttpServicer(api_token_http_pb2_grpc.ApiTokenHttpServiceServicer):
    """Serves the part of API tokens that takes JSON."""

    def __init__(self, tokens: ApiTokens) -> None:
        self._tokens = tokens

    async def CreateApiToken(self, request: HttpBody, context: Context) -> HttpBody:
        """Create a token; the body may be empty."""
        wanted = token_request(request.data)
        created = await self._tokens.create(
            current_call().principal.user_id,
            name=wanted.name or "",
            scopes=wanted.scopes or (),
            expires_at=wanted.expires_at,
        )
        body = json_format.MessageToJson(
            _created(created), preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None
        )
        return HttpBody(content_type="application/json", data=body.encode())


class AuthServicer(auth_pb2_grpc.AuthServiceServicer):
    """Tells the other services who holds a credential."""

    def __init__(self, authentication: Authentication, revocations: Revocations) -> None:
        self._authentication = authentication
        self._revocations = revocations

    async def Authenticate(
        self, request: auth_pb2.AuthenticateRequest, context: Context
    ) -> auth_pb2.AuthenticateResponse:
        """Resolve a credential."""
        found = await self._authentication.resolve(request.credential)
        return auth_pb2.AuthenticateResponse(
            principal=auth_pb2.Principal(
                user_id=found.principal.user_id,
                token_id=found.principal.token_id,
                kind=_KINDS[found.principal.kind],
                scopes=sorted(found.principal.scopes),
                expires_at=_timestamp(found.expires_at),
            ),
            cache_seconds=found.cache_seconds,
        )

    async def WatchRevocations(
        self, request: auth_pb2.WatchRevocationsRequest, context: Context
    ) -> AsyncIterator[auth_pb2.WatchRevocationsResponse]:
        """Stream revoked token ids; the first message is the greeting."""
        async with aclosing(self._revocations.watch()) as batches:
            async for token_ids in batches:
                yield auth_pb2.WatchRevocationsResponse(token_ids=token_ids)


def _created(created: CreatedToken) -> api_token_pb2.CreateApiTokenResponse:
    token = created.token
    return api_token_pb2.CreateApiTokenResponse(
        id=token.id,
        token=created.secret,
        name=token.name,
        scopes=token.scopes,
        prefix=token.prefix,
        created_at=_timestamp(token.created_at),
        expires_at=_timestamp(token.expires_at),
    )


def _token(token: StoredToken) -> api_token_pb2.ApiToken:
    return api_token_pb2.ApiToken(
        id=token.id,
        name=token.name,
        scopes=token.scopes,
        prefix=token.prefix,
        created_at=_timestamp(token.created_at),
        last_used_at=_timestamp(token.last_used_at),
        expires_at=_timestamp(token.expires_at),
    )


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def _datetime(stamp: Timestamp) -> datetime:
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest("expires_at is not a time.", param="expires_at") from None
