"""Native gRPC through the same port as HTTP."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.e2e.stack import Stack
from turnpike.auth.v1 import api_token_pb2, api_token_pb2_grpc, auth_pb2, auth_pb2_grpc
from turnpike.chat.v1 import chat_pb2, chat_pb2_grpc
from turnpike.usage.v1 import ingest_pb2, ingest_pb2_grpc, usage_pb2, usage_pb2_grpc


def _channel(stack: Stack) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{stack.port}")


def _chat(text: str = "Hello", *, model: str = "demo") -> chat_pb2.Chat:
    message = chat_pb2.Message(role=chat_pb2.ROLE_USER, content=[chat_pb2.ContentPart(text=text)])
    return chat_pb2.Chat(model=model, messages=[message])


def _bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def test_a_chat_whole_and_streamed_says_the_same(stack: Stack) -> None:
    async with _channel(stack) as channel:
        stub = chat_pb2_grpc.ChatServiceStub(channel)
        whole = await stub.CompleteChat(chat_pb2.CompleteChatRequest(chat=_chat()), metadata=_bearer(stack.token))
        pieces = [
            piece
            async for piece in stub.StreamChat(chat_pb2.StreamChatRequest(chat=_chat()), metadata=_bearer(stack.token))
        ]
    text = "".join(choice.text for piece in pieces for choice in piece.choices)
    assert text == whole.choices[0].message.content[0].text
    assert pieces[-1].usage == whole.usage
    assert whole.usage.total_tokens > 0


async def test_errors_are_canonical_statuses_with_error_info(stack: Stack) -> None:
    unscoped = stack.new_token("grpc", scopes=["usage"])["token"]
    cases = [
        (stack.token, chat_pb2.Chat(model=""), grpc.StatusCode.INVALID_ARGUMENT),
        ("tp_wrong", _chat(), grpc.StatusCode.UNAUTHENTICATED),
        (unscoped, _chat(), grpc.StatusCode.PERMISSION_DENIED),
        (stack.token, _chat(model="missing-model"), grpc.StatusCode.NOT_FOUND),
        (stack.token, _chat(model="demo?status=429&retry_after=3"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ]
    async with _channel(stack) as channel:
        stub = chat_pb2_grpc.ChatServiceStub(channel)
        for token, chat, code in cases:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.CompleteChat(chat_pb2.CompleteChatRequest(chat=chat), metadata=_bearer(token))
            assert caught.value.code() is code
            trailers = dict(caught.value.trailing_metadata() or ())
            status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
            info = error_details_pb2.ErrorInfo()
            assert status.details[0].Unpack(info)
            assert info.domain == "turnpike"
            assert trailers["x-request-id"]
    assert trailers["retry-after"] == "3"


async def test_the_other_public_services_are_there_too(stack: Stack) -> None:
    async with _channel(stack) as channel:
        tokens = await api_token_pb2_grpc.ApiTokenServiceStub(channel).ListApiTokens(
            api_token_pb2.ListApiTokensRequest(), metadata=_bearer(stack.jwt)
        )
        usage = await usage_pb2_grpc.UsageServiceStub(channel).GetUsage(usage_pb2.GetUsageRequest(hours=1))
    assert "demo" in [token.name for token in tokens.data]
    assert usage.window.hours == 1


async def test_internal_services_are_not_reachable_through_the_edge(stack: Stack) -> None:
    key = (stack.state / "service_key").read_text().strip()
    metadata = (("x-turnpike-service-key", key),)
    async with _channel(stack) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as authenticate:
            await auth_pb2_grpc.AuthServiceStub(channel).Authenticate(
                auth_pb2.AuthenticateRequest(credential=stack.token), metadata=metadata
            )
        with pytest.raises(grpc.aio.AioRpcError) as record:
            await ingest_pb2_grpc.UsageIngestServiceStub(channel).RecordUsage(
                ingest_pb2.RecordUsageRequest(), metadata=metadata
            )
    assert authenticate.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert record.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_internal_services_want_the_service_key(stack: Stack) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.port_base + 1}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await auth_pb2_grpc.AuthServiceStub(channel).Authenticate(
                auth_pb2.AuthenticateRequest(credential=stack.token), metadata=_bearer(stack.token)
            )
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_health_and_reflection_answer(stack: Stack) -> None:
    async with _channel(stack) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(  # type: ignore[attr-defined]  # its types know no aio
            health_pb2.HealthCheckRequest(service="turnpike.chat.v1.ChatService")
        )
        stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(  # type: ignore  # as above
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        names = [service.name async for answer in stream for service in answer.list_services_response.service]
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert "turnpike.chat.v1.ChatService" in names
