"""A service from its start to its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.background import Health
from common.serving.interceptor import Context
from common.serving.run import Process, Service, interceptors_of, serve
from common.serving.server import Server
from common.telemetry import Telemetry
from services.chat.config import ChatSettings
from tests.common.identity.fake_authenticator import FakeAuthenticator
from tests.common.raw_grpc import RawGrpcClient, framed
from tests.common.running import BEARER, ROUTES, SERVICE_KEY, chat_servicer, the_interceptors
from turnpike.chat.v1 import chat_pb2, chat_pb2_grpc

_ASK = chat_pb2.CompleteChatRequest()


def _settings(port: int, **more: Any) -> ChatSettings:
    return ChatSettings(service_key=SERVICE_KEY, listen=f"127.0.0.1:{port}", **more)


@pytest.fixture(autouse=True)
def _no_signal_handlers_are_left() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_every_service_has_the_interceptors_of_the_tests_in_their_order() -> None:
    service = Service(routes=ROUTES, servicers=[], authenticator=FakeAuthenticator({}))
    process = Process(Telemetry("chat"), Health())
    chain = interceptors_of(service, settings=_settings(1), process=process)
    assert [type(each) for each in chain] == [type(each) for each in the_interceptors()]


async def test_a_taken_port_ends_the_process_with_a_line_that_names_the_variable(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = Server(routes=[], servicers=[], interceptors=[])
        with pytest.raises(SystemExit) as ended:
            await serve(server, name="chat", settings=_settings(port))
    assert ended.value.code == 2
    said = capfd.readouterr().err.splitlines()
    assert said[-1] == f"turnpike chat: cannot listen on 127.0.0.1:{port}: set TURNPIKE_CHAT_LISTEN to a free address"
    await server.stop(grace_seconds=0)


class _Slow:
    """A call that runs until it is let go."""

    def __init__(self) -> None:
        self.began, self.let_go, self.cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def complete(self, request: chat_pb2.CompleteChatRequest, context: Context) -> chat_pb2.CompleteChatResponse:
        self.began.set()
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return chat_pb2.CompleteChatResponse(id="whole")

    def server(self) -> Server:
        return Server(routes=ROUTES, servicers=[chat_servicer(complete=self.complete)], interceptors=the_interceptors())


async def test_a_signal_lets_running_calls_end_and_then_ends_the_server(free_port: int) -> None:
    slow = _Slow()
    serving = asyncio.create_task(serve(slow.server(), name="chat", settings=_settings(free_port)))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{free_port}") as channel:
        stub = chat_pb2_grpc.ChatServiceStub(channel)
        call = asyncio.ensure_future(stub.CompleteChat(_ASK, metadata=BEARER, wait_for_ready=True))
        await slow.began.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert not serving.done()
        slow.let_go.set()
        assert (await call).id == "whole"
        await serving
        with pytest.raises(grpc.aio.AioRpcError):
            await health.Check(health_pb2.HealthCheckRequest())


async def test_calls_that_run_longer_than_the_grace_are_cancelled(free_port: int) -> None:
    slow = _Slow()
    settings = _settings(free_port, shutdown_grace_seconds=0.05)
    serving = asyncio.create_task(serve(slow.server(), name="chat", settings=settings))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{free_port}") as channel:
        stub = chat_pb2_grpc.ChatServiceStub(channel)
        call = asyncio.ensure_future(stub.CompleteChat(_ASK, metadata=BEARER, wait_for_ready=True))
        await slow.began.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await slow.cancelled.wait()
        await serving
        with pytest.raises(grpc.aio.AioRpcError):
            await call


def test_the_grace_is_thirty_seconds_unless_it_is_set() -> None:
    assert _settings(1).shutdown_grace_seconds == 30


async def test_a_server_that_ends_by_itself_ends_the_service(free_port: int) -> None:
    # gRPC's server ends when a caller names an RPC in bytes that are not UTF-8: the edge lets no such name through.
    serving = asyncio.create_task(serve(_Slow().server(), name="chat", settings=_settings(free_port)))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{free_port}") as channel:
        await channel.channel_ready()
    async with RawGrpcClient(free_port) as client:
        await client.begin(b"/turnpike.chat.v1.ChatService/\xff")
        await client.read_until(b"CANCELLED")
    with pytest.raises(UnicodeDecodeError):
        await serving


_REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("header", [b"cookie", b"x-api-key", b"authorization", b"traceparent", b"x-request-id"])
async def test_no_header_of_a_caller_reaches_a_log(tmp_path: Path, free_port: int, header: bytes) -> None:
    secret = b"sk-a-callers-secret"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.chat"),
        cwd=_REPOSITORY,
        env={
            "PYTHONPATH": f"{_REPOSITORY}:{_REPOSITORY / 'gen'}",
            "TURNPIKE_SERVICE_KEY": SERVICE_KEY.get_secret_value(),
            "TURNPIKE_STATE_DIR": str(tmp_path),
            "TURNPIKE_CHAT_LISTEN": f"127.0.0.1:{free_port}",
            "TURNPIKE_AUTH_ADDRESS": "127.0.0.1:9",
            "TURNPIKE_LOG_LEVEL": "debug",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    assert b"listening" in (first := await process.stdout.readline()), first
    async with RawGrpcClient(free_port) as client:
        rpc = b"/turnpike.chat.v1.ChatService/CompleteChat"
        await client.begin(rpc, headers=[(header, b"Bearer " + secret + b"\xe9")], message=framed(b""))
        await client.read_until(b"grpc-status")
    process.terminate()
    said, _ = await process.communicate()
    assert b"/CompleteChat" in said
    assert secret not in said
