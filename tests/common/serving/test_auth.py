"""The interceptor that asks who is calling: deny by default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest
from pydantic import SecretStr

from common.errors import PermissionDenied, Unauthenticated
from common.identity.principal import NOBODY, Access, Kind, Principal, Scope
from common.request import Call, open_call
from common.serving.auth import AuthInterceptor, check
from common.serving.interceptor import Context
from common.serving.routes import Route
from tests.common.identity.fake_authenticator import FakeAuthenticator

_CHAT = Principal(Kind.API_TOKEN, "alice", "tok_1", frozenset({"chat"}))
_PERSON = Principal(Kind.PLATFORM_JWT, "alice", scopes=frozenset({"chat"}))
_ANONYMOUS = Principal(Kind.ANONYMOUS, scopes=frozenset({"chat"}))
_KEY = Principal(Kind.STATIC_KEY, "proxy", scopes=frozenset({"chat"}))
_ROUTES: Mapping[str, Route] = {
    route.rpc: route
    for route in (
        Route("/x/Chat", Scope("chat")),
        Route("/x/Usage", Scope("usage")),
        Route("/x/Person", Access.PLATFORM_USER),
        Route("/x/Internal", Access.INTERNAL),
        Route("/x/Public", Access.PUBLIC),
    )
}


class _Served:
    """Stands at the end of the chain."""

    def __init__(self) -> None:
        self.principals: list[Principal] = []

    async def __call__(self, call: Call, context: Context) -> str:
        self.principals.append(call.principal)
        return "served"


class _Chain:
    """An interceptor, who it asks, and what comes after it."""

    def __init__(self, *, headers: tuple[str, ...] | None = None) -> None:
        self.authenticator = FakeAuthenticator({"token": _CHAT, "jwt": _PERSON, "key": _KEY, "": _ANONYMOUS})
        self.served = _Served()
        more: dict[str, Any] = {} if headers is None else {"credential_headers": headers}
        self._interceptor = AuthInterceptor(self.authenticator, service_key=SecretStr("the service key"), **more)

    async def call(self, rpc: str, **metadata: str) -> Principal:
        """Make the call; returns the principal that was served."""
        call = open_call(rpc, {name.replace("_", "-"): value for name, value in metadata.items()})
        assert await self._interceptor(_ROUTES[rpc], call, cast(Context, None), self.served) == "served"
        return self.served.principals[-1]


@pytest.fixture
def chain() -> _Chain:
    return _Chain()


@pytest.mark.parametrize(
    "metadata",
    [
        {"authorization": "Bearer token"},
        {"authorization": "bearer   token  "},
        {"authorization": "BEARER token"},
        {"x_api_key": "token"},
        {"x_api_key": " token "},
        {"api_key": "token"},
        {"authorization": "", "x_api_key": "", "api_key": "token"},
        {"authorization": "Bearer ", "api_key": "token"},
        {"authorization": "Bearer token", "x_api_key": "other", "api_key": "another"},
    ],
)
async def test_where_the_credential_is_read(chain: _Chain, metadata: dict[str, str]) -> None:
    assert await chain.call("/x/Chat", **metadata) == _CHAT
    assert chain.authenticator.asked == ["token"]


@pytest.mark.parametrize(
    "metadata", [{}, {"authorization": "Bearer"}, {"authorization": "Bearer  "}, {"x_api_key": ""}]
)
async def test_no_credential_is_asked_about_too(chain: _Chain, metadata: dict[str, str]) -> None:
    assert await chain.call("/x/Chat", **metadata) == _ANONYMOUS
    assert chain.authenticator.asked == [""]


@pytest.mark.parametrize("value", ["sk-token", "Basic dG9rZW4=", "Bearersk-token", "Token sk-token"])
async def test_another_authorization_is_refused(chain: _Chain, value: str) -> None:
    with pytest.raises(Unauthenticated) as refusal:
        await chain.call("/x/Chat", authorization=value, x_api_key="token")
    assert refusal.value.code == "invalid_authorization"
    assert value not in refusal.value.message
    assert chain.authenticator.asked == []


async def test_a_service_may_read_another_header() -> None:
    chain = _Chain(headers=("x-chroma-token", "authorization"))
    assert await chain.call("/x/Chat", x_chroma_token="token", authorization="Bearer jwt") == _CHAT
    assert await chain.call("/x/Chat", x_api_key="token") == _ANONYMOUS


async def test_an_unknown_credential_is_refused(chain: _Chain) -> None:
    with pytest.raises(Unauthenticated):
        await chain.call("/x/Chat", x_api_key="unknown")
    assert chain.served.principals == []


async def test_a_scope_is_needed(chain: _Chain) -> None:
    with pytest.raises(PermissionDenied) as refusal:
        await chain.call("/x/Usage", x_api_key="token")
    assert refusal.value.code == "insufficient_scope"
    assert chain.served.principals == []


@pytest.mark.parametrize(
    ("credential", "error"), [("token", PermissionDenied), ("key", PermissionDenied), ("", Unauthenticated)]
)
async def test_a_platform_user_is_needed(chain: _Chain, credential: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="platform JWT"):
        await chain.call("/x/Person", x_api_key=credential)
    assert await chain.call("/x/Person", x_api_key="jwt") == _PERSON


@pytest.mark.parametrize("given", ["", "wrong", "the service key ", "The service key", "schlüssel"])
async def test_the_service_key_is_needed(chain: _Chain, given: str) -> None:
    with pytest.raises(PermissionDenied) as refusal:
        await chain.call("/x/Internal", x_turnpike_service_key=given, authorization="Bearer jwt")
    assert refusal.value.code == "invalid_service_key"
    assert await chain.call("/x/Internal", x_turnpike_service_key="the service key") == NOBODY
    assert chain.authenticator.asked == []


async def test_a_public_rpc_looks_at_no_credential(chain: _Chain) -> None:
    assert await chain.call("/x/Public", authorization="Basic x") == NOBODY
    assert chain.authenticator.asked == []


async def test_an_rpc_that_nobody_declared_is_not_served(chain: _Chain) -> None:
    with pytest.raises(KeyError):
        await chain.call("/x/Forgotten", x_api_key="token")
    assert chain.served.principals == []


@pytest.mark.parametrize("requirement", [Access.INTERNAL, Access.PUBLIC])
def test_what_cannot_be_checked_does_not_pass(requirement: Access) -> None:
    with pytest.raises(ValueError, match="cannot be checked"):
        check(_PERSON, requirement)
