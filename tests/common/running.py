"""A real gRPC server in this process, with the interceptors of every service, around behaviour that a test decides."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from pydantic import SecretStr

from common.identity.principal import Scope
from common.logs import CallLog, NullCallLog
from common.serving.auth import AuthInterceptor
from common.serving.errors import ErrorInterceptor
from common.serving.interceptor import Context, Interceptor
from common.serving.limit import LimitInterceptor
from common.serving.routes import Route
from common.serving.server import Server, Servicer
from common.serving.telemetry import TelemetryInterceptor
from common.telemetry import Telemetry
from tests.common.builders import ALICE
from tests.common.identity.fake_authenticator import FakeAuthenticator
from turnpike.chat.v1 import chat_pb2, chat_pb2_grpc

SERVICE: Final = "turnpike.chat.v1.ChatService"
ROUTES: Final = (
    Route(f"/{SERVICE}/CompleteChat", Scope("chat")),
    Route(f"/{SERVICE}/StreamChat", Scope("chat")),
)
ALICES_TOKEN: Final = "tp_alice"
BEARER: Final = (("authorization", f"Bearer {ALICES_TOKEN}"),)
SERVICE_KEY: Final = SecretStr("service-key-of-the-tests")

Complete: TypeAlias = Callable[[chat_pb2.CompleteChatRequest, Context], Awaitable[chat_pb2.CompleteChatResponse]]
Stream: TypeAlias = Callable[[chat_pb2.StreamChatRequest, Context], AsyncIterator[chat_pb2.StreamChatResponse]]


class Behaviour(chat_pb2_grpc.ChatServiceServicer):
    """The chat service's contract with the behaviour of a test."""

    def __init__(self, *, complete: Complete | None = None, stream: Stream | None = None) -> None:
        self._complete = complete
        self._stream = stream

    async def CompleteChat(  # noqa: N802 - the RPC's name
        self, request: chat_pb2.CompleteChatRequest, context: Context
    ) -> chat_pb2.CompleteChatResponse:
        """Do what the test wants."""
        assert self._complete is not None
        return await self._complete(request, context)

    async def StreamChat(  # noqa: N802 - the RPC's name
        self, request: chat_pb2.StreamChatRequest, context: Context
    ) -> AsyncIterator[chat_pb2.StreamChatResponse]:
        """Do what the test wants."""
        assert self._stream is not None
        async for message in self._stream(request, context):
            yield message


def chat_servicer(*, complete: Complete | None = None, stream: Stream | None = None) -> Servicer:
    """Make a servicer of the chat contract with a test's behaviour."""
    return chat_pb2_grpc.add_ChatServiceServicer_to_server, Behaviour(complete=complete, stream=stream)


def the_interceptors(
    telemetry: Telemetry | None = None, *, log: CallLog | None = None, max_concurrent_calls: int = 100
) -> list[Interceptor]:
    """Make the interceptors of every service; Alice's token is the only one that is known."""
    return [
        TelemetryInterceptor(telemetry or Telemetry("chat"), log=log or NullCallLog()),
        ErrorInterceptor(),
        LimitInterceptor(max_concurrent_calls),
        AuthInterceptor(FakeAuthenticator({ALICES_TOKEN: ALICE}), service_key=SERVICE_KEY),
    ]


@contextlib.asynccontextmanager
async def running(
    *servicers: Servicer,
    routes: Sequence[Route] = ROUTES,
    interceptors: Sequence[Interceptor] | None = None,
    **options: Any,
) -> AsyncIterator[grpc.aio.Channel]:
    """Serve on a free port, and give a channel to it; ``options`` are the server's."""
    server = Server(
        routes=routes,
        servicers=servicers,
        interceptors=the_interceptors() if interceptors is None else interceptors,
        **options,
    )
    port = await server.start("127.0.0.1:0")
    room = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=room) as channel:
            yield channel
    finally:
        await server.stop(grace_seconds=0)


@contextlib.asynccontextmanager
async def behaving(
    *,
    complete: Complete | None = None,
    stream: Stream | None = None,
    interceptors: Sequence[Interceptor] | None = None,
) -> AsyncIterator[chat_pb2_grpc.ChatServiceStub]:
    """Serve the chat contract with a test's behaviour, and give a stub for it."""
    servicer = chat_servicer(complete=complete, stream=stream)
    async with running(servicer, interceptors=interceptors) as channel:
        yield chat_pb2_grpc.ChatServiceStub(channel)


def trailers(error: grpc.aio.AioRpcError) -> dict[str, str | bytes]:
    """Return what came with an error."""
    return dict(error.trailing_metadata() or ())


def error_info(error: grpc.aio.AioRpcError) -> tuple[Status, ErrorInfo]:
    """Return the status and the details that gRPC clients read."""
    packed = trailers(error)["grpc-status-details-bin"]
    assert isinstance(packed, bytes)
    status, info = Status.FromString(packed), ErrorInfo()
    assert status.details[0].Unpack(info)
    return status, info
