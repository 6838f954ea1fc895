"""The server around every service: its interceptors, errors, limits, health and end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from common.errors import (
    ERRORS,
    GRPC_OF_HTTP,
    InvalidRequest,
    NotFound,
    RateLimited,
    TurnpikeError,
    UpstreamRefused,
)
from common.identity.principal import NOBODY
from common.request import Call, current_call, open_call
from common.serving.interceptor import Context, Interceptor, Proceed
from common.serving.routes import Route
from common.serving.server import Server
from common.settings import MAX_BODY_BYTES
from common.upstream.http import UnreachableError
from tests.common.builders import ALICE
from tests.common.fake_call_log import FakeCallLog
from tests.common.running import (
    BEARER,
    ROUTES,
    SERVICE,
    behaving,
    chat_servicer,
    error_info,
    running,
    the_interceptors,
    trailers,
)
from turnpike.chat.v1 import chat_pb2, chat_pb2_grpc

_ASK = chat_pb2.CompleteChatRequest()
_ASK_STREAM = chat_pb2.StreamChatRequest()


async def hello(request: chat_pb2.CompleteChatRequest, context: Context) -> chat_pb2.CompleteChatResponse:
    return chat_pb2.CompleteChatResponse(id="hello")


async def count_to_three(
    request: chat_pb2.StreamChatRequest, context: Context
) -> AsyncIterator[chat_pb2.StreamChatResponse]:
    for number in range(3):
        yield chat_pb2.StreamChatResponse(created=number)


def failing(error: BaseException) -> Any:
    async def complete(request: chat_pb2.CompleteChatRequest, context: Context) -> chat_pb2.CompleteChatResponse:
        raise error

    return complete


async def refusal(stub: chat_pb2_grpc.ChatServiceStub) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.CompleteChat(_ASK, metadata=BEARER)
    return raised.value


async def test_both_kinds_of_calls_are_served() -> None:
    async with behaving(complete=hello, stream=count_to_three) as stub:
        assert (await stub.CompleteChat(_ASK, metadata=BEARER)).id == "hello"
        stream = stub.StreamChat(_ASK_STREAM, metadata=BEARER)
        assert [message.created async for message in stream] == [0, 1, 2]


@pytest.mark.parametrize("missing", ROUTES)
async def test_a_server_with_an_undeclared_rpc_does_not_start(missing: Route) -> None:
    with pytest.raises(ValueError, match=missing.rpc):
        Server(routes=[route for route in ROUTES if route != missing], servicers=[], interceptors=[])


async def test_a_server_with_an_rpc_that_is_registered_and_not_declared_does_not_start() -> None:
    with pytest.raises(ValueError, match="CompleteChat"):
        Server(routes=[], servicers=[chat_servicer(complete=hello)], interceptors=[])


async def test_an_rpc_that_does_not_exist_is_unimplemented() -> None:
    async with running(routes=()) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await chat_pb2_grpc.ChatServiceStub(channel).CompleteChat(_ASK, metadata=BEARER)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error_info(raised.value)[1].reason == "UNKNOWN_RPC"


class Noting(Interceptor):
    """Writes down when it begins and ends."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self._name = name
        self._notes = notes

    async def __call__(self, route: Route, call: Call, context: Context, proceed: Proceed) -> Any:
        self._notes.append(f"{self._name} begins")
        try:
            return await proceed(call, context)
        finally:
            self._notes.append(f"{self._name} ends")


async def test_interceptors_surround_each_call_in_the_order_of_the_list() -> None:
    notes: list[str] = []
    interceptors = [Noting("outer", notes), Noting("inner", notes)]
    expected = ["outer begins", "inner begins", "inner ends", "outer ends"]
    async with behaving(complete=hello, stream=count_to_three, interceptors=interceptors) as stub:
        await stub.CompleteChat(_ASK)
        assert notes == expected
        assert len([message async for message in stub.StreamChat(_ASK_STREAM)]) == 3
        assert notes == expected * 2


async def test_a_call_knows_its_principal_its_rpc_and_its_http_request() -> None:
    calls: list[Call] = []

    async def complete(request: chat_pb2.CompleteChatRequest, context: Context) -> chat_pb2.CompleteChatResponse:
        calls.append(current_call())
        return chat_pb2.CompleteChatResponse()

    async with behaving(complete=complete) as stub:
        await stub.CompleteChat(_ASK, metadata=(*BEARER, ("x-request-id", "mine")))
        await stub.CompleteChat(
            _ASK,
            metadata=(
                *BEARER,
                ("x-envoy-original-path", "/v1/chat/completions?key=secret"),
                ("x-envoy-original-method", "POST"),
            ),
        )
    native, http = calls
    assert (native.principal, native.request_id) == (ALICE, "mine")
    assert (native.rpc, native.method, native.path) == (f"/{SERVICE}/CompleteChat", "GRPC", native.rpc)
    assert (http.method, http.path) == ("POST", "/v1/chat/completions")
    assert native.request_id != http.request_id


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a-B_1.2:3/4+5=6@7", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        ("two words", False),
        ("new\nline", False),
        ("trailing\n", False),
        ("ä", False),
    ],
)
def test_only_a_valid_request_id_is_kept(given: str, kept: bool) -> None:  # noqa: FBT001
    call = open_call("/a/B", {"x-request-id": given})
    assert (call.request_id == given) is kept
    assert call.request_id
    assert call.principal is NOBODY


@pytest.mark.parametrize("kind", [*ERRORS, UnreachableError], ids=lambda kind: kind.__name__)
async def test_every_error_arrives_with_its_code_its_details_and_its_http_form(kind: type[TurnpikeError]) -> None:
    entry = next(ERRORS[each] for each in kind.__mro__ if each in ERRORS)
    error = kind("It went wrong: ä€🎉.", code="the_code", param="the.param", headers={"retry-after": "7"})
    async with behaving(complete=failing(error)) as stub:
        refused = await refusal(stub)
    assert refused.code().name == entry.grpc
    assert refused.details() == "It went wrong: ä€🎉."
    got = trailers(refused)
    assert got["x-http-status"] == str(entry.http_status)
    assert got["retry-after"] == "7"
    assert got["x-request-id"]
    assert json.loads(got["x-error-body"]) == {
        "error": {"message": "It went wrong: ä€🎉.", "type": entry.type, "param": "the.param", "code": "the_code"}
    }
    status, info = error_info(refused)
    assert (status.code, status.message) == (refused.code().value[0], "It went wrong: ä€🎉.")
    assert (info.reason, info.domain) == ("THE_CODE", "turnpike")
    assert dict(info.metadata) == {"type": entry.type, "param": "the.param"}


async def test_an_error_without_code_and_param_has_its_rows_code_and_null() -> None:
    async with behaving(complete=failing(NotFound("Not there."))) as stub:
        refused = await refusal(stub)
    assert json.loads(trailers(refused)["x-error-body"])["error"] == {
        "message": "Not there.",
        "type": "not_found_error",
        "param": None,
        "code": "not_found",
    }
    assert error_info(refused)[1].reason == "NOT_FOUND"


@pytest.mark.parametrize("status", [400, 401, 402, 404, 418, 422, 429, 451, 500, 501, 503, 529, 599])
async def test_an_upstreams_refusal_keeps_its_status(status: int) -> None:
    async with behaving(complete=failing(UpstreamRefused("No.", status=status))) as stub:
        refused = await refusal(stub)
    assert trailers(refused)["x-http-status"] == str(status)
    fallback = "INVALID_ARGUMENT" if status < 500 else "INTERNAL"
    assert refused.code().name == GRPC_OF_HTTP.get(status, fallback)


@pytest.mark.parametrize("character", ["x", "ä", "世", "🎉", "\x01", '"'])
async def test_a_message_of_any_length_still_arrives_as_its_error(character: str) -> None:
    # Clients refuse more than 8 KiB of metadata, and would show that in place of the error.
    error = InvalidRequest(character * 20_000, code="too_long", param="messages")
    async with behaving(complete=failing(error)) as stub:
        refused = await refusal(stub)
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (refused.details() or "").startswith(character * 100)
    assert json.loads(trailers(refused)["x-error-body"])["error"]["code"] == "too_long"


@pytest.mark.parametrize("character", ["x", '"', "é", "\n", "\ud83d", "🎉"])
async def test_a_code_and_a_param_of_any_length_and_kind_arrive_cut_and_printable(character: str) -> None:
    error = UpstreamRefused("It said no.", status=400, code=character * 50_000, param=character * 50_000)
    async with behaving(complete=failing(error)) as stub:
        refused = await refusal(stub)
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    told = json.loads(trailers(refused)["x-error-body"])["error"]
    info = error_info(refused)[1]
    for text in (told["code"], told["param"], info.reason, info.metadata["param"]):
        assert text.isprintable()
        assert text.endswith("...")
        assert 90 < len(text.encode()) <= 100


@pytest.mark.parametrize("error", [RuntimeError("the secret"), KeyError("the secret"), UnicodeError("the secret")])
async def test_an_unexpected_exception_shows_nothing_and_is_logged(error: Exception) -> None:
    with capture_logs() as logs:
        async with behaving(complete=failing(error)) as stub:
            refused = await refusal(stub)
    assert refused.code() is grpc.StatusCode.INTERNAL
    shown = repr((refused.details(), refused.trailing_metadata(), refused.initial_metadata()))
    assert "secret" not in shown
    assert type(error).__name__ not in shown
    assert trailers(refused)["x-http-status"] == "500"
    assert json.loads(trailers(refused)["x-error-body"])["error"]["code"] == "internal_error"
    assert [line["event"] for line in logs] == ["unexpected error"]


async def test_an_error_within_a_stream_arrives_after_what_was_sent() -> None:
    async def stream(
        request: chat_pb2.StreamChatRequest, context: Context
    ) -> AsyncIterator[chat_pb2.StreamChatResponse]:
        yield chat_pb2.StreamChatResponse(created=1)
        raise RateLimited("Too fast.")

    async with behaving(stream=stream) as stub:
        messages = stub.StreamChat(_ASK_STREAM, metadata=BEARER)
        assert await messages.read() == chat_pb2.StreamChatResponse(created=1)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await messages.read()
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert trailers(raised.value)["x-http-status"] == "429"


@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),)], ids=["none", "unknown"])
async def test_a_caller_without_a_known_credential_does_not_reach_the_service(
    metadata: tuple[tuple[str, str], ...],
) -> None:
    async with behaving(complete=failing(AssertionError("reached"))) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.CompleteChat(_ASK, metadata=metadata)
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_client_that_leaves_cancels_its_handler() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def complete(request: chat_pb2.CompleteChatRequest, context: Context) -> chat_pb2.CompleteChatResponse:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError("unreachable")

    log = FakeCallLog()
    async with behaving(complete=complete, interceptors=the_interceptors(log=log)) as stub:
        call = stub.CompleteChat(_ASK, metadata=BEARER)
        waiting = asyncio.ensure_future(call)
        await began.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await ended.wait()
    assert [line.status for line in log.lines] == [499]


async def test_a_client_that_leaves_a_stream_closes_its_generator() -> None:
    ended = asyncio.Event()

    async def stream(
        request: chat_pb2.StreamChatRequest, context: Context
    ) -> AsyncIterator[chat_pb2.StreamChatResponse]:
        try:
            while True:
                yield chat_pb2.StreamChatResponse(model="x" * 10_000)
        finally:
            ended.set()

    async with behaving(stream=stream) as stub:
        call = stub.StreamChat(_ASK_STREAM, metadata=BEARER)
        await call.read()
        call.cancel()
        await ended.wait()


async def test_a_message_as_large_as_a_body_may_be_is_taken_and_a_larger_one_refused() -> None:
    async def complete(request: chat_pb2.CompleteChatRequest, context: Context) -> chat_pb2.CompleteChatResponse:
        return chat_pb2.CompleteChatResponse(id=str(len(request.chat.model)), model=request.chat.model)

    async with behaving(complete=complete) as stub:
        request = chat_pb2.CompleteChatRequest(chat=chat_pb2.Chat(model="x" * MAX_BODY_BYTES))
        answer = await stub.CompleteChat(request, metadata=BEARER)
        assert (answer.id, len(answer.model)) == (str(MAX_BODY_BYTES), MAX_BODY_BYTES)
        request.chat.model += "x" * (64 * 1024)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.CompleteChat(request, metadata=BEARER)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_more_calls_than_allowed_are_refused_at_once() -> None:
    let_go = asyncio.Event()

    async def complete(request: chat_pb2.CompleteChatRequest, context: Context) -> chat_pb2.CompleteChatResponse:
        await let_go.wait()
        return chat_pb2.CompleteChatResponse()

    interceptors = the_interceptors(max_concurrent_calls=2)
    async with running(chat_servicer(complete=complete), interceptors=interceptors) as channel:
        stub = chat_pb2_grpc.ChatServiceStub(channel)
        calls = [asyncio.ensure_future(stub.CompleteChat(_ASK, metadata=BEARER)) for _ in range(3)]
        done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        (refused,) = done
        error = refused.exception()
        assert isinstance(error, grpc.aio.AioRpcError)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error_info(error)[1].reason == "TOO_MANY_CONCURRENT_REQUESTS"
        refused_with = trailers(error)
        assert (refused_with["x-http-status"], refused_with["retry-after"]) == ("429", "1")
        assert json.loads(refused_with["x-error-body"])["error"]["type"] == "rate_limit_error"
        let_go.set()
        await asyncio.gather(*waiting)
        # Each place is free again.
        await asyncio.gather(*[stub.CompleteChat(_ASK, metadata=BEARER) for _ in range(2)])


async def test_calls_that_still_run_shortly_before_the_end_are_told_to_end() -> None:
    began, told = asyncio.Event(), asyncio.Event()

    async def complete(_: chat_pb2.CompleteChatRequest, __: Context) -> chat_pb2.CompleteChatResponse:
        began.set()
        await told.wait()
        return chat_pb2.CompleteChatResponse(id="ended by itself")

    server = Server(
        routes=ROUTES,
        servicers=[chat_servicer(complete=complete)],
        interceptors=the_interceptors(),
        end_streams=told.set,
    )
    port = await server.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = chat_pb2_grpc.ChatServiceStub(channel).CompleteChat(_ASK, metadata=BEARER)
        await began.wait()
        await server.stop(grace_seconds=2.0)
        assert (await call).id == "ended by itself"


async def test_a_burst_is_served_whole() -> None:
    async def complete(_: chat_pb2.CompleteChatRequest, __: Context) -> chat_pb2.CompleteChatResponse:
        return chat_pb2.CompleteChatResponse()

    servicer = chat_servicer(complete=complete)
    interceptors = the_interceptors(max_concurrent_calls=5_000)
    async with running(servicer, interceptors=interceptors, max_concurrent_calls=5_000) as channel:
        stub = chat_pb2_grpc.ChatServiceStub(channel)
        # All are sent before this loop, which is the server's too, takes the first one in.
        calls = [stub.CompleteChat(chat_pb2.CompleteChatRequest(), metadata=BEARER) for _ in range(2_500)]
        codes = await asyncio.gather(*[call.code() for call in calls])
    assert set(codes) == {grpc.StatusCode.OK}


async def test_a_second_server_does_not_share_the_port_of_the_first() -> None:
    first = Server(routes=[], servicers=[], interceptors=[])
    second = Server(routes=[], servicers=[], interceptors=[])
    port = await first.start("127.0.0.1:0")
    with pytest.raises(RuntimeError):
        await second.start(f"127.0.0.1:{port}")
    await first.stop(grace_seconds=0)
    await second.stop(grace_seconds=0)
