"""What goes to Chroma, who may send it, and what is accounted for, over both faces of the service."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from aiohttp import web

from common.identity.principal import Kind
from common.metering.record import Outcome, UsageSource
from common.settings import MAX_BODY_BYTES
from services.chroma.store import StoreAnswer
from tests.services.chroma.alice import ALICE, BEARER, COLLECTION, ID, OWN, hang, say_yes, until_settled
from tests.services.chroma.fake_chroma import FakeStore, fake_server
from tests.services.chroma.memory_chroma import MemoryChroma
from tests.services.chroma.support import (
    DATABASES,
    credential_of,
    running_service,
    service_before,
)
from turnpike.chroma.v1 import chroma_pb2


@pytest.fixture
def store() -> FakeStore:
    """A Chroma that says yes to everything."""
    return FakeStore(lambda method, path: StoreAnswer(200, COLLECTION if "/by-id/" in path else b"[]"))


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
    async with fake_server(say_yes) as (url, received), service_before(url, headers=headers) as service:
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
    async with fake_server(say_yes) as (url, received), service_before(url) as service:
        for method in ("GET", "DELETE"):
            await service.ask("alice", method, f"{DATABASES}/mine/collections/some", {"database": "x"})
    assert [request.method for request in received] == ["GET", "GET", "DELETE"]
    assert [request.body for request in received] == [b"", b"", b""]


async def test_names_with_unusual_characters_arrive_as_they_are() -> None:
    async with fake_server(say_yes) as (url, received), service_before(url) as service:
        await service.ask("alice", "DELETE", f"{DATABASES}/mine/collections/%25%2b%3F%23%20%C3%A9+~%5c")
    assert received[-1].target.rpartition("/")[2].lower() in {
        "%25%2b%3f%23%20%c3%a9%2b~%5c",
        "%25+%3f%23%20%c3%a9+~%5c",
    }


async def test_a_large_body_and_a_large_answer_pass_whole() -> None:
    large = b'["' + b"x" * (MAX_BODY_BYTES - 100) + b'"]'

    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        return await say_yes(request) if request.method == "GET" else web.Response(body=received[-1].body)

    async with fake_server(echo) as (url, received), service_before(url) as service:
        path = f"{DATABASES}/mine/collections/{ID}/get"
        answer = await service.ask("alice", "POST", path, b'{"ids":' + large + b', "x":1}')
        assert answer.body == b'{"ids":' + large + b"}"
        too_large = await service.ask("alice", "POST", path, b" " * (MAX_BODY_BYTES + 1))
    assert (too_large.status, too_large.content["error"]) == (413, "ChromaError")


async def test_a_head_request_gets_no_body() -> None:
    async with fake_server(say_yes) as (url, received), service_before(url) as service:
        answer = await service.ask("alice", "HEAD", "/api/v2/heartbeat")
    assert (answer.status, answer.body, received[0].method) == (200, b"", "GET")
    assert [event.bytes_out for event in service.outbox.events] == [0]


@pytest.mark.parametrize("answers_before", [0, 1])
async def test_a_request_that_changes_something_is_sent_once(answers_before: int) -> None:
    """Also where the server closes a connection that it had kept, at the moment of its reuse."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET" or sum(each.method == "DELETE" for each in received) <= answers_before:
            return await say_yes(request)
        assert request.transport is not None
        request.transport.close()
        raise ConnectionResetError

    async with fake_server(answer) as (url, received), service_before(url) as service:
        for _ in range(answers_before):
            await service.ask("alice", "DELETE", f"{DATABASES}/mine/collections/notes")
        failed = await service.ask("alice", "DELETE", f"{DATABASES}/mine/collections/notes")
    assert failed.status == 502
    assert sum(request.method == "DELETE" for request in received) == answers_before + 1


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


async def test_a_client_that_leaves_is_accounted_for() -> None:
    arrived = asyncio.Event()

    async def arrive(request: web.BaseRequest) -> web.StreamResponse:
        arrived.set()
        return await hang(request)

    async with fake_server(arrive) as (url, _), service_before(url) as service:
        request_task = asyncio.create_task(service.ask("alice", "GET", "/api/v2/version"))
        await asyncio.wait_for(arrived.wait(), 30)
        request_task.cancel()
        await until_settled(service)
    assert [event.outcome for event in service.outbox.events] == [Outcome.CLIENT_GONE]


async def test_the_http_face_is_for_the_edge(store: FakeStore) -> None:
    async with running_service(store) as service:
        answer = await service.over_http("GET", "", metadata={"x-envoy-original-path": "/other", **BEARER})
    assert answer.status == 400
