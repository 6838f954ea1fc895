"""Answers of Chroma, good and bad, small and large, on their way back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from aiohttp import web
from google.api.httpbody_pb2 import HttpBody
from pydantic import SecretStr

from common.metering.record import Outcome
from common.settings import MAX_BODY_BYTES
from common.upstream.http import Timers
from services.chroma.store import MAX_COMPLETE_BYTES, NullStore
from tests.services.chroma.alice import ALICE, BEARER, OWN, hang, say_yes, until_settled
from tests.services.chroma.fake_chroma import Handler, fake_server, web_answer
from tests.services.chroma.support import (
    DATABASES,
    running_service,
    service_before,
)

MEBIBYTE = b" " * (1 << 20)


@pytest.mark.parametrize("over", ["http", "grpc"])
async def test_errors_of_chroma_keep_their_status_and_lose_the_secret(over: str) -> None:
    secret = SecretStr("a-long-secret-key")

    async def refuse(request: web.BaseRequest) -> web.StreamResponse:
        message = f"key a-long-secret-key may not use [{ALICE.stored_name('mine')}]"
        headers = {"retry-after": "3", "chroma-trace-id": "abc", "x-other": "x"}
        if request.raw_path == OWN:
            return await say_yes(request)
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
        return await say_yes(request) if request.raw_path == OWN else await web_answer(200, body)(request)

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
            return await say_yes(request)
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
        pieces: list[Any] = [await asyncio.wait_for(call.read(), 30)]
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
    async with fake_server(_endless(until=40 << 20, then=hang)) as (url, _), service_before(url) as service:
        answer = await service.ask("alice", "HEAD", "/api/v2/version")
    assert (answer.status, answer.body) == (200, b"")


async def test_a_client_that_leaves_within_the_answer_is_accounted_for() -> None:
    large = b'["' + b"x" * (16 * 1024 * 1024) + b'"]'
    async with fake_server(web_answer(200, large)) as (url, _), service_before(url) as service:
        line = {"x-envoy-original-path": "/v1/chroma/api/v2/version", "x-envoy-original-method": "GET"}
        call = service.http.Forward(HttpBody(), metadata=tuple({**line, **BEARER}.items()))
        await call.read()
        call.cancel()
        await until_settled(service)
    (event,) = service.outbox.events
    assert event.outcome is Outcome.CLIENT_GONE
    assert 0 < event.bytes_out < len(large)


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
        (hang, 504, grpc.StatusCode.DEADLINE_EXCEEDED, Outcome.TIMED_OUT),
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
