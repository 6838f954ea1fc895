"""What goes to Chroma, what comes back, and what is accounted for, over both faces of the service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc
import pytest
from aiohttp import web
from google.api.httpbody_pb2 import HttpBody
from pydantic import SecretStr

from common.identity.principal import Kind
from common.metering.record import Outcome, UsageSource
from common.settings import MAX_BODY_BYTES
from common.upstream.http import Timers
from services.chroma.namespace import namespace_of
from services.chroma.store import MAX_COMPLETE_BYTES, NullStore, StoreAnswer
from tests.services.chroma.fake_chroma import FakeStore, Handler, fake_server, web_answer
from tests.services.chroma.memory_chroma import MemoryChroma
from tests.services.chroma.support import (
    DATABASES,
    SEPARATOR,
    Service,
    credential_of,
    running_service,
    service_before,
)
from turnpike.chroma.v1 import chroma_pb2

ALICE = namespace_of("alice", separator=SEPARATOR)
ID = "926ecac4-b0f7-4156-a556-4bb81396a01d"
OWN = f"/api/v2/tenants/{ALICE.tenant}"
COLLECTION = json.dumps({"id": ID, "name": "x", "database": ALICE.stored_name("mine"), "tenant": ALICE.tenant}).encode()
MEBIBYTE = b" " * (1 << 20)
BEARER = {"authorization": f"Bearer {credential_of('alice')}"}


async def _ok(request: web.BaseRequest) -> web.StreamResponse:
    body = COLLECTION if "/by-id/" in request.raw_path else b"{}"
    return web.Response(body=body, content_type="application/json", headers={"server": "chroma", "x-internal": "yes"})


async def test_nothing_that_the_client_sends_reaches_chroma_but_its_request() -> None:
    sent = {
        **BEARER,
        "x-api-key": "k",
        "cookie": "c=1",
        "x-chroma-token": "t",
        "x-chroma-api-key": "mine",
        "traceparent": "00-1",
        "x-request-id": "req-of-mine",
        "x-forwarded-for": "1.2.3.4",
        "accept-language": "de",
        "accept": "text/html",
    }
    headers = {"authorization": "Bearer the key of the gateway"}
    async with fake_server(_ok) as (url, received), service_before(url, headers=headers) as service:
        path = f"{DATABASES}/mine/collections/{ID.upper()}/add?read_level=a%26b"
        answer = await service.over_http("POST", path, b'{"ids":[1.50],"evil":1}', metadata=sent)
    assert answer.status == 200
    # The request id is the edge's to give.
    assert answer.head == {}
    look, check, request = received
    assert (look.method, look.target, look.body) == ("GET", OWN, b"")
    stored = f"{OWN}/databases/{ALICE.prefix}mine/collections"
    assert (check.method, check.target, check.body) == ("GET", f"{stored}/by-id/{ID}", b"")
    assert (request.method, request.target) == ("POST", f"{stored}/{ID}/add?read_level=a%26b")
    assert request.body == b'{"ids":[1.50]}'
    assert {name: value for name, value in request.headers.items() if name != "host"} == {
        "accept": "*/*",
        "accept-encoding": "identity",
        "authorization": "Bearer the key of the gateway",
        "content-length": "14",
        "content-type": "application/json",
        "user-agent": "turnpike/0.1",
    }


async def test_bodies_of_requests_that_have_none_stay_behind() -> None:
    async with fake_server(_ok) as (url, received), service_before(url) as service:
        for method in ("GET", "DELETE"):
            await service.ask("alice", method, f"{DATABASES}/mine/collections/some", {"database": "x"})
    assert [request.method for request in received] == ["GET", "GET", "DELETE"]
    assert [request.body for request in received] == [b"", b"", b""]


async def test_names_with_unusual_characters_arrive_as_they_are() -> None:
    async with fake_server(_ok) as (url, received), service_before(url) as service:
        await service.ask("alice", "DELETE", f"{DATABASES}/mine/collections/%25%2b%3F%23%20%C3%A9+~%5c")
    assert received[-1].target.rpartition("/")[2].lower() in {
        "%25%2b%3f%23%20%c3%a9%2b~%5c",
        "%25+%3f%23%20%c3%a9+~%5c",
    }


async def test_a_large_body_and_a_large_answer_pass_whole() -> None:
    large = b'["' + b"x" * (MAX_BODY_BYTES - 100) + b'"]'

    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        return await _ok(request) if request.method == "GET" else web.Response(body=received[-1].body)

    async with fake_server(echo) as (url, received), service_before(url) as service:
        path = f"{DATABASES}/mine/collections/{ID}/get"
        answer = await service.ask("alice", "POST", path, b'{"ids":' + large + b', "x":1}')
        assert answer.body == b'{"ids":' + large + b"}"
        too_large = await service.ask("alice", "POST", path, b" " * (MAX_BODY_BYTES + 1))
    assert (too_large.status, too_large.content["error"]) == (413, "ChromaError")


async def test_a_head_request_gets_no_body() -> None:
    async with fake_server(_ok) as (url, received), service_before(url) as service:
        answer = await service.ask("alice", "HEAD", "/api/v2/heartbeat")
    assert (answer.status, answer.body, received[0].method) == (200, b"", "GET")
    assert [event.bytes_out for event in service.outbox.events] == [0]


@pytest.mark.parametrize("over", ["http", "grpc"])
async def test_errors_of_chroma_keep_their_status_and_lose_the_secret(over: str) -> None:
    secret = SecretStr("a-long-secret-key")

    async def refuse(request: web.BaseRequest) -> web.StreamResponse:
        message = f"key a-long-secret-key may not use [{ALICE.stored_name('mine')}]"
        headers = {"retry-after": "3", "chroma-trace-id": "abc", "x-other": "x"}
        if request.raw_path == OWN:
            return await _ok(request)
        return web.json_response({"error": "RateLimitError", "message": message}, status=429, headers=headers)

    async with fake_server(refuse) as (url, _), service_before(url, secret=secret) as service:
        answer = await service.ask("alice", "GET", f"{DATABASES}/mine", over=over)
    assert (answer.status, answer.content) == (
        429,
        {"error": "RateLimitError", "message": "key *** may not use [mine]"},
    )
    assert (answer.head["retry-after"], answer.head["chroma-trace-id"]) == ("3", "abc")
    assert "x-other" not in answer.head


BAD_ANSWERS = {
    "a redirect": web_answer(302, b"", location="http://127.0.0.1:1/elsewhere"),
    "no content": web_answer(204, b""),
    "accepted": web_answer(202, b"{}"),
    "a web page": web_answer(200, b"<html>a proxy's page</html>", content_type="text/html"),
    "a web page that says it is JSON": web_answer(200, b" <html></html>"),
    "nothing": web_answer(200, b""),
    "blanks": web_answer(200, b" \r\n\t"),
    "an error with a good status": web_answer(200, b'{"error":"InternalError","message":"x"}'),
    "an error object with a good status": web_answer(201, b'{"error":{"code":5}}'),
}
"""What Chroma never answers."""


@pytest.mark.parametrize("over", ["http", "grpc"])
@pytest.mark.parametrize("kind", sorted(BAD_ANSWERS))
async def test_a_bad_answer_is_a_clear_failure(kind: str, over: str) -> None:
    async with fake_server(BAD_ANSWERS[kind]) as (url, received), service_before(url) as service:
        if over == "http":
            answer = await service.ask("alice", "GET", "/api/v2/version")
            assert (answer.status, answer.content["error"]) == (502, "InternalError")
        else:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await service.ask("alice", "GET", "/api/v2/version", over="grpc")
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    (event,) = service.outbox.events
    assert len(received) == 1
    assert (event.status, event.error_code, event.outcome) == (502, "upstream_malformed", Outcome.FAILED)


@pytest.mark.parametrize("body", [b'{"name":', b"[]", b'"text"', b"{}", b'{"name":5}', b'{"name":"\xff"}'])
async def test_an_answer_that_must_be_rewritten_and_cannot_be_is_a_failure(body: bytes) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return await _ok(request) if request.raw_path == OWN else await web_answer(200, body)(request)

    async with fake_server(answer) as (url, _), service_before(url) as service:
        got = await service.ask("alice", "GET", f"{DATABASES}/mine")
    assert (got.status, got.content["error"]) == (502, "InternalError")
    assert [event.status for event in service.outbox.events] == [502]


@pytest.mark.parametrize("body", [b'{"ids":[nul}', b' "\xff"', b'[1e400,{"a":1,"a":NaN}]', b'{"x":' + b"[" * 9000])
async def test_an_answer_that_need_not_be_rewritten_keeps_every_byte(body: bytes) -> None:
    async with fake_server(web_answer(200, body)) as (url, _), service_before(url) as service:
        answers = [await service.ask("alice", "GET", "/api/v2/version", over=over) for over in ("http", "grpc")]
    assert [answer.body for answer in answers] == [body, body]
    assert [(event.status, event.bytes_out) for event in service.outbox.events] == [(200, len(body))] * 2


def _endless(*, until: int, then: Callable[[web.BaseRequest], Awaitable[None]]) -> Handler:
    """Return a handler that sends ``until`` bytes of an answer, and then something happens."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path == OWN:
            return await _ok(request)
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        await response.write(b"[")
        for _ in range(until // len(MEBIBYTE)):
            await response.write(MEBIBYTE)
        await then(request)
        await response.write(b"]")
        return response

    return answer


async def _go_on(request: web.BaseRequest) -> None:
    """Let the answer end well."""


async def _close(request: web.BaseRequest) -> None:
    assert request.transport is not None
    request.transport.abort()


async def test_a_list_that_is_too_large_is_refused() -> None:
    then = _endless(until=MAX_COMPLETE_BYTES, then=_go_on)
    async with fake_server(then) as (url, _), service_before(url) as service:
        answer = await service.ask("alice", "GET", f"{DATABASES}/mine/collections")
    assert (answer.status, answer.content["error"]) == (502, "InternalError")
    assert [event.error_code for event in service.outbox.events] == ["upstream_answer_too_large"]


async def test_a_large_answer_leaves_while_it_comes() -> None:
    goes_on = asyncio.Event()

    async def wait(request: web.BaseRequest) -> None:
        await goes_on.wait()

    async with fake_server(_endless(until=40 << 20, then=wait)) as (url, _), service_before(url) as service:
        line = {"x-envoy-original-path": "/v1/chroma/api/v2/version", "x-envoy-original-method": "GET"}
        call = service.http.Forward(HttpBody(), metadata=tuple({**line, **BEARER}.items()))
        pieces: list[Any] = [await asyncio.wait_for(call.read(), 10)]
        goes_on.set()
        while (piece := await call.read()) is not grpc.aio.EOF:
            pieces.append(piece)
    body = b"".join([piece.data for piece in pieces])
    assert body == b"[" + MEBIBYTE * 40 + b"]"
    assert [(event.outcome, event.bytes_out) for event in service.outbox.events] == [(Outcome.COMPLETED, len(body))]


async def test_a_large_answer_that_breaks_off_is_no_success() -> None:
    async with fake_server(_endless(until=40 << 20, then=_close)) as (url, _), service_before(url) as service:
        line = {"x-envoy-original-path": "/v1/chroma/api/v2/version", "x-envoy-original-method": "GET"}
        call = service.http.Forward(HttpBody(), metadata=tuple({**line, **BEARER}.items()))
        with pytest.raises(grpc.aio.AioRpcError):
            async for _ in call:
                pass
    assert [event.outcome for event in service.outbox.events] == [Outcome.UPSTREAM_CUT]


async def test_a_message_holds_32_mebibytes_at_most() -> None:
    async with (
        fake_server(_endless(until=MAX_BODY_BYTES + (1 << 20), then=_go_on)) as (url, _),
        service_before(url) as service,
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="limit") as error:
            await service.ask("alice", "GET", "/api/v2/version", over="grpc")
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert [event.status for event in service.outbox.events] == [413]


async def test_head_lets_go_of_a_large_answer() -> None:
    async with fake_server(_endless(until=40 << 20, then=_hang)) as (url, _), service_before(url) as service:
        answer = await service.ask("alice", "HEAD", "/api/v2/version")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("answers_before", [0, 1])
async def test_a_request_that_changes_something_is_sent_once(answers_before: int) -> None:
    """Also where the server closes a connection that it had kept, at the moment of its reuse."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET" or sum(each.method == "DELETE" for each in received) <= answers_before:
            return await _ok(request)
        assert request.transport is not None
        request.transport.close()
        raise ConnectionResetError

    async with fake_server(answer) as (url, received), service_before(url) as service:
        for _ in range(answers_before):
            await service.ask("alice", "DELETE", f"{DATABASES}/mine/collections/notes")
        failed = await service.ask("alice", "DELETE", f"{DATABASES}/mine/collections/notes")
    assert failed.status == 502
    assert sum(request.method == "DELETE" for request in received) == answers_before + 1


@pytest.mark.parametrize("over", ["http", "grpc"])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", DATABASES, b'{"name":"fuzz\xb0db"}'),
        ("POST", DATABASES, b'{"name":18446e44073709551616}'),
        ("POST", DATABASES, b'{"name":{"a\xbb":1}}'),
        ("POST", DATABASES, b'{"name":"\\ud800abc"}'),
        ("POST", DATABASES, b'{"n\xffame":"x"}'),
        ("POST", DATABASES, b'{"name":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
        ("POST", f"{DATABASES}/mine/collections", b'{"name":"notes","database":"\xed\xa0\x80"}'),
        ("GET", f"{DATABASES}/%ff%fe", b""),
        ("GET", f"{DATABASES}/mine/collections/%ed%a0%80", b""),
        ("GET", f"{DATABASES}/mine%2fcollections", b""),
        ("GET", f"{DATABASES}?limit=1&limit=2", b""),
        ("GET", f"{DATABASES}?limit=18446744073709551616", b""),
        ("GET", f"{DATABASES}/mine/collections?database=%ff", b""),
    ],
)
async def test_bad_bytes_are_the_callers_fault(
    store: FakeStore, over: str, method: str, path: str, body: bytes
) -> None:
    async with running_service(store) as service:
        answer = await service.ask("alice", method, path, body, over=over)
    assert (answer.status, answer.content["error"]) == (400, "InvalidArgumentError")
    assert store.requests == []
    assert [event.status for event in service.outbox.events] == [400]


async def test_a_query_does_not_override_the_path(store: FakeStore) -> None:
    async with running_service(store) as service:
        for query in ("database=other&collection_id=x", "tenant=default_tenant&database=mine", "collection=y"):
            await service.ask("alice", "GET", f"{DATABASES}/mine/collections/notes?limit=1&{query}")
    path = f"GET {OWN}/databases/{ALICE.prefix}mine/collections/notes?limit=1"
    same = f"{path}&database={ALICE.prefix}mine"
    assert store.requests == [f"GET {OWN}", f"{path}&collection_id=x", same, path]


async def test_both_faces_answer_and_count_alike() -> None:
    """Every kind of answer over both faces: same bytes, same event but for the RPC's own name."""
    requests: list[tuple[str, str, Any]] = [
        ("GET", "/api/v2/heartbeat", None),
        ("GET", "/api/v2/auth/identity", None),
        ("GET", "/api/v2/tenants/default_tenant", None),
        ("GET", DATABASES, None),
        ("POST", DATABASES, {"name": "mine"}),
        ("POST", DATABASES, {"name": "mine"}),
        ("GET", f"{DATABASES}/mine", None),
        ("GET", f"{DATABASES}/absent", None),
        ("POST", f"{DATABASES}/mine/collections", {"name": "notes", "get_or_create": True}),
        ("GET", f"{DATABASES}/mine/collections", None),
        ("HEAD", f"{DATABASES}/mine/collections", None),
        ("POST", f"{DATABASES}/mine/collections/{ID}/get", {}),
        ("POST", "/api/v2/reset", {}),
        ("DELETE", f"{DATABASES}/mine", None),
    ]
    seen = []
    for over in ("http", "grpc"):
        async with running_service(MemoryChroma(sequence=True)) as service:
            answers = [await service.ask("alice", *request, over=over) for request in requests]
        statuses = [(answer.status, answer.body) for answer in answers]
        events = [
            (
                event.status,
                event.error_code,
                event.outcome,
                event.bytes_in,
                event.bytes_out,
                event.user_id,
                event.provider,
                [(attempt.provider, attempt.status) for attempt in event.attempts],
            )
            for event in service.outbox.events
        ]
        seen.append((statuses, events))
    assert seen[0] == seen[1]
    assert {status for status, _ in seen[0][0]} == {200, 403, 404, 409}


@pytest.mark.parametrize(
    ("credential", "code"),
    [
        ("", grpc.StatusCode.UNAUTHENTICATED),
        ("wrong", grpc.StatusCode.UNAUTHENTICATED),
        (credential_of("", kind=Kind.ANONYMOUS), grpc.StatusCode.UNAUTHENTICATED),
        (credential_of("", kind=Kind.STATIC_KEY), grpc.StatusCode.PERMISSION_DENIED),
    ],
)
async def test_grpc_callers_need_the_same_permission(store: FakeStore, credential: str, code: grpc.StatusCode) -> None:
    async with running_service(store) as service:
        request = chroma_pb2.ForwardRequest(method="GET", path="/api/v2/version")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await service.typed.Forward(request, metadata=(("authorization", f"Bearer {credential}"),))
    assert error.value.code() is code
    assert store.requests == []


async def test_a_client_that_leaves_within_the_answer_is_accounted_for() -> None:
    large = b'["' + b"x" * (16 * 1024 * 1024) + b'"]'
    async with fake_server(web_answer(200, large)) as (url, _), service_before(url) as service:
        line = {"x-envoy-original-path": "/v1/chroma/api/v2/version", "x-envoy-original-method": "GET"}
        call = service.http.Forward(HttpBody(), metadata=tuple({**line, **BEARER}.items()))
        await call.read()
        call.cancel()
        await _until_settled(service)
    (event,) = service.outbox.events
    assert event.outcome is Outcome.CLIENT_GONE
    assert 0 < event.bytes_out < len(large)


async def _hang(request: web.BaseRequest) -> NoReturn:
    await asyncio.Event().wait()
    raise AssertionError


async def _break_off(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-length": "100"})
    await response.prepare(request)
    await response.write(b"[")
    assert request.transport is not None
    request.transport.close()
    return response


@pytest.mark.parametrize(
    ("answer", "status", "code", "outcome"),
    [
        (_hang, 504, grpc.StatusCode.DEADLINE_EXCEEDED, Outcome.TIMED_OUT),
        (_break_off, 502, grpc.StatusCode.UNAVAILABLE, Outcome.UPSTREAM_CUT),
    ],
)
async def test_a_chroma_that_fails(answer: Any, status: int, code: grpc.StatusCode, outcome: int) -> None:
    timers = Timers(connect_timeout_seconds=1, first_byte_timeout_seconds=0.2, chunk_timeout_seconds=0.2)
    async with fake_server(answer) as (url, _), service_before(url, timers=timers) as service:
        got = await service.ask("alice", "GET", "/api/v2/version")
        assert (got.status, got.content["error"]) == (status, "InternalError")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await service.ask("alice", "GET", "/api/v2/version", over="grpc")
        assert error.value.code() is code
    assert [event.outcome for event in service.outbox.events] == [outcome] * 2


async def test_a_chroma_that_is_away_or_not_configured() -> None:
    async with service_before("http://127.0.0.1:1") as service:
        away = await service.ask("alice", "GET", "/api/v2/version")
    async with running_service(NullStore()) as service:
        nowhere = await service.ask("alice", "GET", "/api/v2/version")
    assert (away.status, away.content["error"]) == (502, "InternalError")
    assert (nowhere.status, nowhere.content["error"]) == (503, "InternalError")


@pytest.fixture
def store() -> FakeStore:
    """A Chroma that says yes to everything."""
    return FakeStore(lambda method, path: StoreAnswer(200, COLLECTION if "/by-id/" in path else b"[]"))


@pytest.mark.parametrize(
    ("credential", "status", "error"),
    [
        ("", 401, "AuthError"),
        ("wrong", 401, "AuthError"),
        (credential_of("", kind=Kind.ANONYMOUS), 401, "AuthError"),
        (credential_of("", kind=Kind.STATIC_KEY), 403, "AuthorizationError"),
        (credential_of("proxy", kind=Kind.STATIC_KEY), 200, ""),
        (credential_of("worker", kind=Kind.PLATFORM_JWT), 200, ""),
    ],
)
async def test_chroma_always_needs_a_user(store: FakeStore, credential: str, status: int, error: str) -> None:
    metadata = {"authorization": f"Bearer {credential}"}
    async with running_service(store) as service:
        answer = await service.over_http("GET", "/api/v2/version", metadata=metadata)
    assert answer.status == status
    assert (answer.content["error"] if error else "") == error
    assert bool(store.requests) == (status == 200)


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key", "x-chroma-token"])
async def test_where_a_credential_may_stand(store: FakeStore, header: str) -> None:
    value = credential_of("alice")
    metadata = {header: f"Bearer {value}" if header == "authorization" else value}
    async with running_service(store) as service:
        assert (await service.over_http("GET", "/api/v2/version", metadata=metadata)).status == 200


async def test_one_event_for_each_request_whatever_it_takes(store: FakeStore) -> None:
    async with running_service(store) as service:
        await service.ask("alice", "POST", f"{DATABASES}/mine/collections/{ID}/get", b'{"ids":[]}')
    assert len(store.requests) == 3
    (event,) = service.outbox.events
    (intent,) = service.outbox.intents
    assert intent.event_id == event.event_id
    assert (event.type, event.service, event.provider, len(event.attempts)) == ("chroma", "chroma", "chroma", 1)
    assert (event.method, event.user_id, event.status) == ("POST", "alice", 200)
    assert event.path == ("/v1/chroma/api/v2/tenants/{tenant}/databases/{database}/collections/{collection_id}/get")
    assert [(attempt.provider, attempt.status) for attempt in event.attempts] == [("chroma", 200)]
    assert (event.bytes_in, event.bytes_out) == (10, 2)
    assert (event.outcome, event.usage_source) == (Outcome.COMPLETED, UsageSource.NONE)
    assert event.first_byte_ms >= 1


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/api/v2/reset", 403, "not_isolated"),
        ("GET", "/unknown/alice", 404, "unknown_url"),
        ("PUT", "/api/v2", 405, "method_not_allowed"),
        ("POST", f"{DATABASES}/mine/collections/no-uuid/get", 400, "invalid_collection_id"),
        ("POST", f"{DATABASES}/no good/collections", 400, "invalid_name"),
        ("GET", "/api/v2/tenants/other", 404, "not_found"),
    ],
)
async def test_a_refusal_is_an_answer_and_an_event_and_asks_nobody(
    store: FakeStore, method: str, path: str, status: int, code: str
) -> None:
    async with running_service(store) as service:
        answers = [await service.ask("alice", method, path, b"{}", over=over) for over in ("http", "grpc")]
    assert [answer.status for answer in answers] == [status, status]
    assert answers[0].body == answers[1].body
    assert set(answers[0].content) == {"error", "message"}
    assert store.requests == []
    assert service.outbox.intents == []
    assert [(event.status, event.error_code, event.outcome) for event in service.outbox.events] == [
        (status, code, Outcome.FAILED)
    ] * 2


async def test_a_client_that_leaves_is_accounted_for() -> None:
    arrived = asyncio.Event()

    async def hang(request: web.BaseRequest) -> web.StreamResponse:
        arrived.set()
        return await _hang(request)

    async with fake_server(hang) as (url, _), service_before(url) as service:
        request_task = asyncio.create_task(service.ask("alice", "GET", "/api/v2/version"))
        await asyncio.wait_for(arrived.wait(), 10)
        request_task.cancel()
        await _until_settled(service)
    assert [event.outcome for event in service.outbox.events] == [Outcome.CLIENT_GONE]


async def _until_settled(service: Service) -> None:
    async with asyncio.timeout(10):
        while not service.outbox.events:  # noqa: ASYNC110 - the service has no event to wait for
            await asyncio.sleep(0)


async def test_the_http_face_is_for_the_edge(store: FakeStore) -> None:
    async with running_service(store) as service:
        answer = await service.over_http("GET", "", metadata={"x-envoy-original-path": "/other", **BEARER})
    assert answer.status == 400
