"""The RPCs over a real gRPC server with the real interceptors, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, timedelta
from typing import Any

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.timestamp_pb2 import Timestamp
from structlog.testing import capture_logs

from common.identity.principal import SCOPES
from services.auth.store import TokenStore
from tests.services.auth.fake_store import FakeTokenStore
from tests.services.auth.support import Clock, RunningAuth, running_auth
from tests.waiting import until
from turnpike.auth.v1 import api_token_pb2, auth_pb2


@pytest.fixture
async def auth(sql_store: TokenStore, clock: Clock) -> AsyncIterator[RunningAuth]:
    async with running_auth(sql_store, clock, static_keys={"proxy": "the proxy's key"}) as auth:
        yield auth


async def _create(auth: RunningAuth, user_id: str = "alice", **fields: Any) -> api_token_pb2.CreateApiTokenResponse:
    return await auth.token_stub.CreateApiToken(
        api_token_pb2.CreateApiTokenRequest(**fields), metadata=auth.jwt(user_id)
    )


async def _list(auth: RunningAuth, user_id: str = "alice") -> list[api_token_pb2.ApiToken]:
    answer = await auth.token_stub.ListApiTokens(api_token_pb2.ListApiTokensRequest(), metadata=auth.jwt(user_id))
    return list(answer.data)


async def _authenticate(auth: RunningAuth, credential: str) -> auth_pb2.AuthenticateResponse:
    return await auth.stub.Authenticate(auth_pb2.AuthenticateRequest(credential=credential), metadata=auth.metadata)


async def _fails(call: Awaitable[Any], code: grpc.StatusCode) -> dict[str, Any]:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    assert failure.value.code() is code, failure.value.details()
    return dict(failure.value.trailing_metadata() or ())


async def test_a_token_is_created_used_listed_and_deleted(auth: RunningAuth, clock: Clock) -> None:
    created = await _create(auth, name="laptop", scopes=["chat"])
    assert created.token.startswith("tp_")
    assert (created.name, list(created.scopes), created.prefix) == ("laptop", ["chat"], created.token[:9])
    assert created.created_at.ToDatetime(UTC) == clock.now()
    assert not created.HasField("expires_at")
    clock.advance(5)
    found = await _authenticate(auth, created.token)
    assert found == auth_pb2.AuthenticateResponse(
        principal=auth_pb2.Principal(
            user_id="alice", token_id=created.id, kind=auth_pb2.Principal.KIND_API_TOKEN, scopes=["chat"]
        ),
        cache_seconds=10,
    )
    await auth.last_use.flush()
    (listed,) = await _list(auth)
    assert (listed.id, listed.name, list(listed.scopes), listed.prefix) == (
        created.id,
        "laptop",
        ["chat"],
        created.prefix,
    )
    assert listed.last_used_at.ToDatetime(UTC) == clock.now()
    call = auth.token_stub.DeleteApiToken(
        api_token_pb2.DeleteApiTokenRequest(token_id=created.id), metadata=auth.jwt("alice")
    )
    assert await call == api_token_pb2.DeleteApiTokenResponse()
    assert dict(await call.initial_metadata())["x-http-status"] == "204"
    assert await _list(auth) == []
    trailers = await _fails(_authenticate(auth, created.token), grpc.StatusCode.UNAUTHENTICATED)
    assert trailers["x-http-status"] == "401"
    assert '"code":"invalid_api_key"' in trailers["x-error-body"]


async def test_no_scopes_are_all_scopes_and_lists_are_newest_first(auth: RunningAuth, clock: Clock) -> None:
    for name in ("first", "second"):
        created = await _create(auth, name=name)
        assert list(created.scopes) == list(SCOPES)
        clock.advance(1)
    assert [token.name for token in await _list(auth)] == ["second", "first"]
    assert not (await _list(auth))[0].HasField("last_used_at")


async def test_the_token_of_another_is_not_found(auth: RunningAuth) -> None:
    created = await _create(auth)
    assert await _list(auth, "bob") == []
    for token_id in (created.id, "tok_unknown", "\0"):
        request = api_token_pb2.DeleteApiTokenRequest(token_id=token_id)
        call = auth.token_stub.DeleteApiToken(request, metadata=auth.jwt("bob"))
        assert (await _fails(call, grpc.StatusCode.NOT_FOUND))["x-http-status"] == "404"
    assert len(await _list(auth)) == 1


async def test_an_expiry_is_kept_and_checked(auth: RunningAuth, clock: Clock) -> None:
    expires_at = Timestamp()
    expires_at.FromDatetime(clock.now() + timedelta(seconds=4))
    created = await _create(auth, expires_at=expires_at)
    assert created.expires_at == expires_at
    found = await _authenticate(auth, created.token)
    assert (found.principal.expires_at, found.cache_seconds) == (expires_at, 4)
    clock.advance(4)
    await _fails(_authenticate(auth, created.token), grpc.StatusCode.UNAUTHENTICATED)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": "x" * 201}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"scopes": ["admin"]}, "scopes"),
        ({"expires_at": Timestamp(seconds=1)}, "expires_at"),
        ({"expires_at": Timestamp(seconds=10**17)}, "expires_at"),
        ({"expires_at": Timestamp(nanos=-1)}, "expires_at"),
    ],
)
async def test_wrong_input_names_its_field(clock: Clock, fields: dict[str, Any], param: str) -> None:
    async with running_auth(FakeTokenStore(now=clock.now), clock) as auth:
        trailers = await _fails(_create(auth, **fields), grpc.StatusCode.INVALID_ARGUMENT)
        assert f'"param":"{param}"' in trailers["x-error-body"]


_NOT_UTF_8 = b"\xff"


@pytest.mark.parametrize(
    "body",
    [
        b'{"expires_at": "9999-12-31T23:59:59-14:00"}',
        b'{"expires_at": "9999-12-31T23:59:59.999999-00:01"}',
        b'{"expires_at": "0001-01-01T00:00:00+14:00"}',
        b'{"expires_at": "10000-01-01T00:00:00Z"}',
        b'{"expires_at": 99999999999999999999}',
        b'{"name": "\\ud800"}',
        b'{"name": "' + _NOT_UTF_8 + b'"}',
        _NOT_UTF_8,
        b'{"scopes": ["' + _NOT_UTF_8 + b'"]}',
        b'{"scopes": ["\\ud800"]}',
        b'{"name": 1e999}',
        b"[" * 100_000,
    ],
)
async def test_a_body_with_bad_values_is_the_callers_mistake(auth: RunningAuth, body: bytes) -> None:
    create = auth.channel.unary_unary(
        "/turnpike.auth.v1.ApiTokenHttpService/CreateApiToken", HttpBody.SerializeToString, HttpBody.FromString
    )
    trailers = await _fails(create(HttpBody(data=body), metadata=auth.jwt("alice")), grpc.StatusCode.INVALID_ARGUMENT)
    assert trailers["x-http-status"] == "400"


async def test_the_last_second_of_the_year_9999_is_a_time(auth: RunningAuth) -> None:
    last = Timestamp()
    last.FromJsonString("9999-12-31T23:59:59Z")
    created = await _create(auth, expires_at=last)
    assert created.expires_at == last
    assert [token.expires_at for token in await _list(auth)] == [last]
    assert (await _authenticate(auth, created.token)).principal.user_id == "alice"


@pytest.mark.parametrize(
    ("rpc", "message"),
    [
        ("ApiTokenService/DeleteApiToken", b"\x0a\x01" + _NOT_UTF_8),
        ("ApiTokenService/CreateApiToken", b"\x0a\x01" + _NOT_UTF_8),
        ("ApiTokenService/ListApiTokens", _NOT_UTF_8),
        ("ApiTokenHttpService/CreateApiToken", _NOT_UTF_8),
    ],
)
async def test_a_message_that_cannot_be_read_is_the_callers_mistake(
    auth: RunningAuth, rpc: str, message: bytes
) -> None:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = auth.channel.unary_unary(f"/turnpike.auth.v1.{rpc}")
    trailers = await _fails(call(message, metadata=auth.jwt("alice")), grpc.StatusCode.INVALID_ARGUMENT)
    assert (trailers["x-http-status"], '"code":"invalid_message"' in trailers["x-error-body"]) == ("400", True)


async def test_only_a_platform_jwt_manages_tokens(auth: RunningAuth) -> None:
    created = await _create(auth)
    refused = grpc.StatusCode.PERMISSION_DENIED
    for credential, code in (
        (created.token, refused),
        ("the proxy's key", refused),
        ("", grpc.StatusCode.UNAUTHENTICATED),
    ):
        metadata = (("x-api-key", credential),)
        for call in (
            auth.token_stub.ListApiTokens(api_token_pb2.ListApiTokensRequest(), metadata=metadata),
            auth.token_stub.CreateApiToken(api_token_pb2.CreateApiTokenRequest(), metadata=metadata),
            auth.token_stub.DeleteApiToken(api_token_pb2.DeleteApiTokenRequest(token_id=created.id), metadata=metadata),
        ):
            trailers = await _fails(call, code)
            assert ("platform JWT" in trailers["x-error-body"]) is (code is refused)
    assert len(await _list(auth)) == 1


async def test_an_anonymous_caller_does_not_manage_tokens(clock: Clock) -> None:
    async with running_auth(FakeTokenStore(now=clock.now), clock, required=False) as auth:
        assert (await _authenticate(auth, "")).principal.kind == auth_pb2.Principal.KIND_ANONYMOUS
        call = auth.token_stub.ListApiTokens(api_token_pb2.ListApiTokensRequest())
        assert "platform JWT" in (await _fails(call, grpc.StatusCode.UNAUTHENTICATED))["x-error-body"]


async def test_each_kind_of_credential(auth: RunningAuth, clock: Clock) -> None:
    (_, bearer), *_ = auth.jwt("alice")
    person = (await _authenticate(auth, bearer.removeprefix("Bearer "))).principal
    assert (person.kind, person.user_id) == (auth_pb2.Principal.KIND_PLATFORM_JWT, "alice")
    assert person.expires_at.ToDatetime(UTC) == clock.now() + timedelta(hours=12)
    key = (await _authenticate(auth, "the proxy's key")).principal
    assert (key.kind, key.user_id) == (auth_pb2.Principal.KIND_STATIC_KEY, "proxy")
    assert set(person.scopes) == set(key.scopes) == set(SCOPES)
    trailers = await _fails(_authenticate(auth, ""), grpc.StatusCode.UNAUTHENTICATED)
    assert '"code":"missing_api_key"' in trailers["x-error-body"]


async def test_internal_rpcs_need_the_service_key(auth: RunningAuth) -> None:
    for metadata in ((), (("x-turnpike-service-key", "wrong"),), auth.jwt("alice")):
        call = auth.stub.Authenticate(auth_pb2.AuthenticateRequest(credential="x"), metadata=metadata)
        await _fails(call, grpc.StatusCode.PERMISSION_DENIED)
        watch = auth.stub.WatchRevocations(auth_pb2.WatchRevocationsRequest(), metadata=metadata)
        await _fails(anext(aiter(watch)), grpc.StatusCode.PERMISSION_DENIED)


async def test_a_watch_greets_and_tells(auth: RunningAuth) -> None:
    created = await _create(auth)
    watch = auth.stub.WatchRevocations(auth_pb2.WatchRevocationsRequest(), metadata=auth.metadata)
    messages = aiter(watch)
    assert list((await anext(messages)).token_ids) == []
    await auth.token_stub.DeleteApiToken(
        api_token_pb2.DeleteApiTokenRequest(token_id=created.id), metadata=auth.jwt("alice")
    )
    assert list((await anext(messages)).token_ids) == [created.id]
    watch.cancel()
    await until(lambda: auth.revocations.watchers == 0)


async def test_stopping_does_not_wait_for_watches(clock: Clock) -> None:
    async with running_auth(FakeTokenStore(now=clock.now), clock) as auth:
        messages = aiter(auth.stub.WatchRevocations(auth_pb2.WatchRevocationsRequest(), metadata=auth.metadata))
        await anext(messages)
        async with asyncio.timeout(30):
            await auth.server.stop(grace_seconds=60)


async def test_a_database_that_is_away_is_503(clock: Clock) -> None:
    store = FakeTokenStore(now=clock.now)
    async with running_auth(store, clock) as auth:
        created = await _create(auth)
        store.away = True
        for call in (_authenticate(auth, created.token), _list(auth), _create(auth)):
            assert (await _fails(call, grpc.StatusCode.UNAVAILABLE))["x-http-status"] == "503"


async def test_no_credential_is_logged(auth: RunningAuth) -> None:
    with capture_logs() as logs:
        created = await _create(auth)
        await _authenticate(auth, created.token)
        changed = created.token[:-1] + ("0" if created.token[-1] != "0" else "1")
        (_, bearer), *_ = auth.jwt("alice")
        for wrong in (changed, "not a key that is known", bearer.removeprefix("Bearer ") + "x"):
            await _fails(_authenticate(auth, wrong), grpc.StatusCode.UNAUTHENTICATED)
            assert wrong not in repr(logs)
    # The line of a call is written after its answer has left.
    await until(lambda: len(auth.call_log.lines) == 5)
    for secret in (created.token, bearer.split(".")[2], "the proxy's key", auth.metadata[0][1]):
        assert secret not in repr(auth.call_log.lines) + repr(logs)
