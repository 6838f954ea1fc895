"""RPCs of HttpBody: the message of a call that Envoy made comes with it, that of any other is waited for inside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody

from common.identity.principal import Scope
from common.request import current_call
from common.serving.http_body import BodyView, serialized
from common.serving.interceptor import Context
from common.serving.routes import Route
from common.serving.server import Server
from tests.common.raw_grpc import RawGrpcClient, framed
from tests.common.running import BEARER, the_interceptors
from turnpike.chat.v1 import chat_http_pb2, chat_http_pb2_grpc

_SERVICE: Final = chat_http_pb2.DESCRIPTOR.services_by_name["ChatHttpService"]
_RPC: Final = f"/{_SERVICE.full_name}/CreateChatCompletion"
_ROUTES: Final = (Route(_RPC, Scope("chat"), passed_through=True),)
_TRANSCODED: Final = (("x-envoy-original-path", "/v1/chat/completions"), ("x-envoy-original-method", "POST"))
_AUTHORIZED: Final = tuple((name.encode(), value.encode()) for name, value in BEARER)


class _Echo(chat_http_pb2_grpc.ChatHttpServiceServicer):
    """Answers with what came, and how it came."""

    async def CreateChatCompletion(self, request: BodyView, context: Context) -> bytes:  # type: ignore[override] # noqa: N802 - as Route.passed_through says; the RPC's name
        came = b"with the call" if current_call().message else b"later"
        return serialized(bytes(request.data) + b" " + came)


@asynccontextmanager
async def _serving() -> AsyncIterator[int]:
    add: Callable[[Any, grpc.aio.Server], None] = chat_http_pb2_grpc.add_ChatHttpServiceServicer_to_server
    server = Server(routes=_ROUTES, servicers=[(add, _Echo())], interceptors=the_interceptors())
    port = await server.start("127.0.0.1:0")
    try:
        yield port
    finally:
        await server.stop(grace_seconds=0)


def _as_it_is(message: bytes) -> bytes:
    return message


@pytest.mark.parametrize(("headers", "came"), [(_TRANSCODED, b"with the call"), ((), b"later")])
async def test_only_envoys_message_comes_with_the_call(headers: tuple[tuple[str, str], ...], came: bytes) -> None:
    async with _serving() as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(_RPC, HttpBody.SerializeToString, HttpBody.FromString)
        answer = await call(HttpBody(data=b"hello"), metadata=(*BEARER, *headers))
    assert answer.data == b"hello " + came


@pytest.mark.parametrize("headers", [_TRANSCODED, ()])
async def test_a_message_that_is_no_body_is_refused(headers: tuple[tuple[str, str], ...]) -> None:
    async with _serving() as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary(_RPC, _as_it_is)(b"\xff\xff", metadata=(*BEARER, *headers))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_call_that_ends_without_a_message_is_refused() -> None:
    async with _serving() as port, RawGrpcClient(port) as client:
        await client.begin(_RPC.encode(), headers=_AUTHORIZED, ends=True)
        await client.read_until(b"The request has no message.")


async def test_a_caller_without_a_credential_is_refused_before_its_message() -> None:
    async with _serving() as port, RawGrpcClient(port) as client:
        await client.begin(_RPC.encode(), message=framed(b"half")[:-1])
        await client.read_until(b"invalid_api_key")
