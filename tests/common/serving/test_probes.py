"""Health and reflection: open to everybody, and in nobody's way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from common.background import Health
from common.errors import Unavailable
from common.identity.principal import Access, Scope
from common.serving.interceptor import Context
from common.serving.probes import _OpenCalls
from common.serving.routes import Route
from common.serving.server import Server
from tests.common.raw_grpc import RawGrpcClient
from tests.common.running import BEARER, ROUTES, SERVICE, chat_servicer, error_info, running, the_interceptors
from turnpike.chat.v1 import chat_pb2, chat_pb2_grpc
from turnpike.usage.v1 import ingest_pb2, usage_pb2

_INTERNAL = ingest_pb2.DESCRIPTOR.services_by_name["UsageIngestService"].full_name
_USAGE = usage_pb2.DESCRIPTOR.services_by_name["UsageService"]
_USAGE_ROUTES = [
    Route(f"/{_INTERNAL}/RecordUsage", Access.INTERNAL),
    *(Route(f"/{_USAGE.full_name}/{method.name}", Scope("usage")) for method in _USAGE.methods),
]
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def _health(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


async def _check(channel: grpc.aio.Channel, service: str = "") -> int:
    answer = await _health(channel).Check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


async def _watch(channel: grpc.aio.Channel) -> Any:
    watch = _health(channel).Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == _SERVING
    return watch


async def _end(watch: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await _read_all(watch)
    return raised.value


async def _read_all(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_health_is_reported_for_the_server_and_each_service_without_a_credential() -> None:
    async with running() as channel:
        for name in ("", SERVICE):
            assert await _check(channel, name) == _SERVING
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await _check(channel, "nobody.Knows")
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_stopping_server_says_that_it_is_not_serving_and_waits_for_no_watch() -> None:
    server = Server(routes=ROUTES, servicers=[], interceptors=[])
    port = await server.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        watch = await _watch(channel)
        stopping = asyncio.create_task(server.stop(grace_seconds=600))
        assert (await watch.read()).status == _NOT_SERVING
        assert (await _end(watch)).code() is grpc.StatusCode.UNAVAILABLE
        await stopping


async def test_a_part_that_fails_makes_the_server_not_serving_until_it_works_again() -> None:
    health = Health()
    async with running(health=health) as channel:
        watch = await _watch(channel)
        health.set_failing("a loop", failing=True)
        assert (await watch.read()).status == _NOT_SERVING
        health.set_failing("another", failing=True)
        health.set_failing("a loop", failing=False)
        assert [await _check(channel, name) for name in ("", SERVICE)] == [_NOT_SERVING] * 2
        health.set_failing("another", failing=False)
        assert (await watch.read()).status == _SERVING
        assert [await _check(channel, name) for name in ("", SERVICE)] == [_SERVING] * 2
        watch.cancel()


async def test_a_part_that_works_again_during_the_report_is_reported_too() -> None:
    class Recovering(Health):
        @property
        def failing(self) -> frozenset[str]:
            failing = super().failing
            self.set_failing("a loop", failing=False)
            return failing

    health = Recovering()
    async with running(health=health) as channel, asyncio.timeout(30):
        watch = await _watch(channel)
        health.set_failing("a loop", failing=True)
        assert (await watch.read()).status == _NOT_SERVING
        assert (await watch.read()).status == _SERVING
        watch.cancel()


async def test_a_report_that_fails_is_not_the_last() -> None:
    class Mistaken(Health):
        mistaken = False

        @property
        def failing(self) -> frozenset[str]:
            if self.mistaken:
                self.mistaken = False
                raise ZeroDivisionError
            return super().failing

    health = Mistaken()
    with capture_logs() as logs:
        async with running(health=health) as channel, asyncio.timeout(30):
            watch = await _watch(channel)
            health.mistaken = True
            health.set_failing("a loop", failing=True)
            assert (await watch.read()).status == _NOT_SERVING
            watch.cancel()
    assert [line["loop"] for line in logs if line["log_level"] == "error"] == ["report of health"]


async def test_a_watch_ends_by_its_timer() -> None:
    async with running(probe_seconds=0.05) as channel:
        ended = await _end(await _watch(channel))
    assert ended.code() is grpc.StatusCode.UNAVAILABLE
    assert error_info(ended)[1].reason == "PROBE_ENDED"


async def test_a_call_that_never_sends_its_message_ends_by_the_timer_too() -> None:
    server = Server(routes=ROUTES, servicers=[], interceptors=[], probe_seconds=0.05)
    port = await server.start("127.0.0.1:0")
    async with RawGrpcClient(port) as client:
        for method in (b"Check", b"Watch"):
            await client.begin(b"/grpc.health.v1.Health/" + method)
            await client.read_until(b"lasted long enough")
        await client.begin(b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        await client.read_until(b"lasted long enough")
    await server.stop(grace_seconds=0)


async def test_a_call_whose_time_is_over_hinders_neither_the_next_nor_the_end() -> None:
    calls = _OpenCalls(at_most=1, seconds=0)
    is_over, may_leave = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        async with calls.admit():
            try:
                await asyncio.Event().wait()
            finally:
                is_over.set()
                await may_leave.wait()

    call = asyncio.create_task(slow())
    await is_over.wait()
    calls.end(after_seconds=1)
    async with calls.admit():
        pass
    may_leave.set()
    with pytest.raises(Unavailable):
        await call


async def test_one_watch_too_many_ends_the_oldest_and_nobody_is_kept_from_asking() -> None:
    async with running(max_probes=2) as channel:
        oldest, middle = await _watch(channel), await _watch(channel)
        newest = await _watch(channel)
        assert (await _end(oldest)).code() is grpc.StatusCode.UNAVAILABLE
        assert await _check(channel) == _SERVING
        for watch in (middle, newest):
            assert not watch.done()
            watch.cancel()


async def test_calls_of_health_and_of_customers_do_not_count_together() -> None:
    went_in, let_go = asyncio.Event(), asyncio.Event()

    async def complete(request: chat_pb2.CompleteChatRequest, context: Context) -> chat_pb2.CompleteChatResponse:
        went_in.set()
        await let_go.wait()
        return chat_pb2.CompleteChatResponse(id="whole")

    interceptors = the_interceptors(max_concurrent_calls=1)
    async with running(chat_servicer(complete=complete), interceptors=interceptors) as channel:
        watches = [await _watch(channel) for _ in range(20)]
        stub = chat_pb2_grpc.ChatServiceStub(channel)
        call = asyncio.ensure_future(stub.CompleteChat(chat_pb2.CompleteChatRequest(), metadata=BEARER))
        await went_in.wait()
        assert await _check(channel) == _SERVING
        let_go.set()
        assert (await call).id == "whole"
        for watch in watches:
            watch.cancel()


async def _reflect(channel: grpc.aio.Channel, **request: Any) -> reflection_pb2.ServerReflectionResponse:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type] # stubs know no aio

    async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(**request)

    call = stub.ServerReflectionInfo(requests())
    answer: reflection_pb2.ServerReflectionResponse = await call.read()
    call.cancel()
    return answer


def _names(answer: reflection_pb2.ServerReflectionResponse) -> Sequence[str]:
    return [service.name for service in answer.list_services_response.service]


async def test_reflection_shows_the_public_services_without_a_credential_and_no_internal_one() -> None:
    async with running(routes=_USAGE_ROUTES) as channel:
        assert await _check(channel, _INTERNAL) == _SERVING
        shown = _names(await _reflect(channel, list_services=""))
        assert shown == [
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
            "turnpike.usage.v1.UsageService",
        ]
        for name in shown:
            described = await _reflect(channel, file_containing_symbol=name)
            assert described.file_descriptor_response.file_descriptor_proto
        assert (await _reflect(channel, file_containing_symbol=_INTERNAL)).HasField("error_response")
        internal = await _reflect(channel, file_by_filename=ingest_pb2.DESCRIPTOR.name)
        assert internal.HasField("error_response")


async def test_reflection_can_be_turned_off() -> None:
    async with running(reflection=False) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await _reflect(channel, list_services="")
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
