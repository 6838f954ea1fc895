"""What goes to Chroma, what comes back, and what is accounted for, over both faces of the service."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest
from aiohttp import web
from pydantic import SecretStr

from common.identity.principal import Kind
from common.metering.record import Outcome, UsageSource
from common.settings import MAX_BODY_BYTES
from common.upstream.http import Timers
from services.chroma.namespace import namespace_of
from services.chroma.upstream import NullUpstream, UpstreamAnswer
from tests.services.chroma.fake_chroma import FakeUpstream, fake_server
from tests.services.chroma.support import (
    DATABASES,
    SEPARATOR,
    Service,
    credential_of,
    running_service,
    service_before,
)

ALICE = namespace_of("alice", separator=SEPARATOR)
ID = "926ecac4-b0f7-4156-a556-4bb81396a01d"
FOUND = json.dumps({"id": ID, "name": "x", "database": ALICE.stored("mine"), "tenant": "default_tenant"}).encode()
BEARER = {"authorization": f"Bearer {credential_of('alice')}"}


async def _ok(request: web.BaseRequest) -> web.StreamResponse:
    body = FOUND if "/by-id/" in request.raw_path else b"{}"
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
    check, request = received
    stored = f"{DATABASES}/{ALICE.prefix}mine/collections"
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
    assert [request.body for request in received] == [b"", b""]


async def test_names_with_unusual_characters_arrive_as_they_are() -> None:
    async with fake_server(_ok) as (url, received), service_before(url) as service:
        await service.ask("alice", "DELETE", f"{DATABASES}/mine/collections/%25%2b%3F%23%20%C3%A9+~%5c")
    assert received[0].target.rpartition("/")[2].lower() in {"%25%2b%3f%23%20%c3%a9%2b~%5c", "%25+%3f%23%20%c3%a9+~%5c"}


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


@pytest.mark.parametrize("over", ["http", "grpc"])
async def test_errors_of_chroma_keep_their_status_and_lose_the_secret(over: str) -> None:
    secret = SecretStr("a-long-secret-key")

    async def refuse(request: web.BaseRequest) -> web.StreamResponse:
        message = f"key a-long-secret-key may not use [{ALICE.stored('mine')}]"
        headers = {"retry-after": "3", "chroma-trace-id": "abc", "x-other": "x"}
        return web.json_response({"error": "RateLimitError", "message": message}, status=429, headers=headers)

    async with fake_server(refuse) as (url, _), service_before(url, secret=secret) as service:
        answer = await service.ask("alice", "GET", f"{DATABASES}/mine", over=over)
    assert (answer.status, answer.content) == (
        429,
        {"error": "RateLimitError", "message": "key *** may not use [mine]"},
    )
    assert (answer.head["retry-after"], answer.head["chroma-trace-id"]) == ("3", "abc")
    assert "x-other" not in answer.head


async def test_a_redirect_is_not_followed() -> None:
    async def redirect(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=302, headers={"location": "http://127.0.0.1:1/elsewhere"})

    async with fake_server(redirect) as (url, received), service_before(url) as service:
        answer = await service.ask("alice", "GET", "/api/v2/version")
    assert (len(received), answer.status, answer.content["error"]) == (1, 502, "InternalError")


async def _hang(request: web.BaseRequest) -> web.StreamResponse:
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
    async with running_service(NullUpstream()) as service:
        nowhere = await service.ask("alice", "GET", "/api/v2/version")
    assert (away.status, away.content["error"]) == (502, "InternalError")
    assert (nowhere.status, nowhere.content["error"]) == (503, "InternalError")


@pytest.fixture
def upstream() -> FakeUpstream:
    """A Chroma that says yes to everything."""
    return FakeUpstream(lambda method, path: UpstreamAnswer(200, FOUND if "/by-id/" in path else b"[]"))


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
async def test_chroma_always_needs_a_user(upstream: FakeUpstream, credential: str, status: int, error: str) -> None:
    metadata = {"authorization": f"Bearer {credential}"}
    async with running_service(upstream) as service:
        answer = await service.over_http("GET", "/api/v2/version", metadata=metadata)
    assert answer.status == status
    assert (answer.content["error"] if error else "") == error
    assert bool(upstream.asked) == (status == 200)


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key", "x-chroma-token"])
async def test_where_a_credential_may_stand(upstream: FakeUpstream, header: str) -> None:
    value = credential_of("alice")
    metadata = {header: f"Bearer {value}" if header == "authorization" else value}
    async with running_service(upstream) as service:
        assert (await service.over_http("GET", "/api/v2/version", metadata=metadata)).status == 200


async def test_one_event_for_each_request_whatever_it_takes(upstream: FakeUpstream) -> None:
    async with running_service(upstream) as service:
        await service.ask("alice", "POST", f"{DATABASES}/mine/collections/{ID}/get", b'{"ids":[]}')
    assert len(upstream.asked) == 2
    (event,) = service.outbox.events
    (intent,) = service.outbox.intents
    assert intent.event_id == event.event_id
    assert (event.type, event.service, event.provider, len(event.attempts)) == ("chroma", "chroma", "chroma", 1)
    assert (event.method, event.user_id, event.status) == ("POST", "alice", 200)
    assert event.path == ("/v1/chroma/api/v2/tenants/{tenant}/databases/{database}/collections/{collection_id}/get")
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
    upstream: FakeUpstream, method: str, path: str, status: int, code: str
) -> None:
    async with running_service(upstream) as service:
        answers = [await service.ask("alice", method, path, b"{}", over=over) for over in ("http", "grpc")]
    assert [answer.status for answer in answers] == [status, status]
    assert answers[0].body == answers[1].body
    assert set(answers[0].content) == {"error", "message"}
    assert upstream.asked == []
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
        asking = asyncio.create_task(service.ask("alice", "GET", "/api/v2/version"))
        await asyncio.wait_for(arrived.wait(), 10)
        asking.cancel()
        await _until_settled(service)
    assert [event.outcome for event in service.outbox.events] == [Outcome.CLIENT_GONE]


async def _until_settled(service: Service) -> None:
    async with asyncio.timeout(10):
        while not service.outbox.events:  # noqa: ASYNC110 - the service has no event to wait for
            await asyncio.sleep(0)


async def test_the_http_face_is_for_the_edge(upstream: FakeUpstream) -> None:
    async with running_service(upstream) as service:
        answer = await service.over_http("GET", "", metadata={"x-envoy-original-path": "/other", **BEARER})
    assert answer.status == 400
