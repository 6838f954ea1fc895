"""The server waits for several calls at once, loses none of them, and ends."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from common.serving.runtime import CALLS_AT_ONCE, BatchRuntime, PublicRuntime, Runtime, open_runtime

_GRACE_SECONDS = 20.0


class Echo(grpc.GenericRpcHandler):
    """Answers every RPC with its request."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._answer, None, None)

    async def _answer(self, request: bytes, context: object) -> bytes:
        self.begun.append(request)
        return request


class Served:
    """A running server, what its handler saw, and a way to call it."""

    def __init__(self, runtime: BatchRuntime, echo: Echo, channel: grpc.aio.Channel) -> None:
        self.runtime = runtime
        self.echo = echo
        self._call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/any.Service/Any")

    async def ask(self, number: int) -> bytes:
        answer: bytes = await self._call(b"%d" % number)
        return answer


@asynccontextmanager
async def served() -> AsyncIterator[Served]:
    echo = Echo()
    runtime = open_runtime(echo, options=(), max_concurrent_rpcs=1_000)
    assert isinstance(runtime, BatchRuntime)
    port = runtime.listen("127.0.0.1:0")
    await runtime.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Served(runtime, echo, channel)
    finally:
        await runtime.stop(0)


async def test_a_started_server_waits_for_several_calls() -> None:
    async with served() as server:
        assert server.runtime.waiting == CALLS_AT_ONCE
        await server.ask(1)
        assert server.runtime.waiting == CALLS_AT_ONCE


async def test_every_call_of_a_burst_is_served_once() -> None:
    async with served() as server:
        numbers = range(10 * CALLS_AT_ONCE)
        answers = await asyncio.gather(*map(server.ask, numbers))
        assert answers == [b"%d" % number for number in numbers]
        assert sorted(server.echo.begun) == sorted(answers)


async def test_no_call_waits_for_one_that_comes_after_it() -> None:
    async with served() as server:
        for number in range(5 * CALLS_AT_ONCE):
            assert await server.ask(number) == b"%d" % number


async def _code(call: Awaitable[bytes]) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("rounds", [0, 1, 2, 3, 5, 8, 13])
async def test_a_server_that_ends_in_the_middle_of_a_burst_ends_every_call(rounds: int) -> None:
    unhandled: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    async with served() as server:
        await server.ask(0)
        calls = [asyncio.ensure_future(_code(server.ask(n))) for n in range(100)]
        for _ in range(rounds):
            await asyncio.sleep(0)
        async with asyncio.timeout(_GRACE_SECONDS):
            # gRPC's core sometimes keeps a call that no handler has seen, one in ten thousand, until the grace ends.
            await server.runtime.stop(1)
            codes = await asyncio.gather(*calls)
        assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert codes.count(grpc.StatusCode.OK) <= len(server.echo.begun)
    del server
    gc.collect()
    assert unhandled == []


class _WithoutMethod:
    """gRPC's server as a release may have it: without one of the private methods."""

    def _start_shutting_down(self) -> None: ...


class _WithOtherArguments:
    """The same with other arguments."""

    def __init__(self, configuration: object) -> None: ...
    def _make_request_call_future(self) -> None: ...
    def _start_shutting_down(self) -> None: ...


@pytest.mark.parametrize("parent", [None, _WithoutMethod, _WithOtherArguments])
async def test_a_release_with_another_private_server_is_served_by_the_public_one(parent: Any) -> None:
    runtime: Runtime = open_runtime(Echo(), options=(), max_concurrent_rpcs=10, parent=parent)
    assert isinstance(runtime, PublicRuntime)
    port = runtime.listen("127.0.0.1:0")
    await runtime.start()
    ended = asyncio.ensure_future(runtime.ended())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/any.Service/Any")
        assert await call(b"1") == b"1"
    await runtime.stop(0)
    await ended
