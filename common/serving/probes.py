"""Health and reflection: open to everybody, and so bounded apart from the calls that callers pay for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, cast

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import Default, DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from common.background import BackgroundLoop, Health
from common.errors import TurnpikeError, Unavailable, openai_body
from common.request import current_call
from common.serving.errors import abort
from common.serving.interceptor import Context
from common.serving.messages import read_message

HEALTH: Final[str] = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_CLOSING_SECONDS: Final = 1.0
"""How long a watch may take to send that the server is stopping."""


class Probes:
    """Serves health and reflection.

    Each of their RPCs has ``at_most`` calls at once. A further one ends the oldest, so that whoever holds all of them
    does not keep the orchestrator from asking. None lasts longer than ``seconds``. ``public`` are the services that
    reflection shows; None turns it off. While ``health`` has failing parts, the services are reported not serving.
    """

    def __init__(
        self,
        services: Sequence[str],
        *,
        health: Health,
        public: Sequence[str] | None,
        at_most: int,
        seconds: float,
    ) -> None:
        self._services = services
        self._parts = health
        self._at_most = at_most
        self._seconds = seconds
        self._calls: list[_OpenCalls] = []
        self._health = health_aio.HealthServicer()
        self._public = public
        self._following = BackgroundLoop("report of health", self._follow, interval_seconds=0)

    def handlers(self) -> Mapping[str, Any]:
        """Return the handler of each RPC by its name."""
        found = _Registry()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, cast(grpc.aio.Server, found))
        if self._public is not None:
            names = [*self._public, HEALTH, reflection.SERVICE_NAME]
            servicer = reflection.aio.ReflectionServicer(names, pool=_pool_of(names))
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, found)  # type: ignore[no-untyped-call] # no stubs
        return {rpc: self._bounded(handler) for rpc, handler in found.handlers.items()}

    async def start(self) -> None:
        """Report how the process is from now on."""
        await self._report(self._parts.failing)
        await self._following.__aenter__()

    async def stop(self) -> None:
        """Report not healthy for good, and end the open calls when they have said so."""
        await self._following.__aexit__()
        for calls in self._calls:
            calls.end(after_seconds=_CLOSING_SECONDS)
        # Waits for watches whose caller does not read, until they end.
        await self._health.enter_graceful_shutdown()

    async def _follow(self) -> None:
        failing = self._parts.failing
        await self._report(failing)
        # A report waits for watches that send, and what changes meanwhile wakes nobody.
        if failing == self._parts.failing:
            await self._parts.wait_for_change()

    async def _report(self, failing: Set[str]) -> None:
        answer = health_pb2.HealthCheckResponse
        status = answer.NOT_SERVING if failing else answer.SERVING
        for name in ("", *self._services):
            await self._health.set(name, status)

    def _bounded(self, handler: Any) -> Any:
        calls = _OpenCalls(at_most=self._at_most, seconds=self._seconds)
        self._calls.append(calls)

        async def serve(requests: Any, context: Context) -> Any:
            try:
                async with calls.admit():
                    return await _serve(handler, requests, context)
            except TurnpikeError as error:
                await abort(current_call(), context, error, body=openai_body)

        # Served as a stream of requests, because the runtime would wait without end for a single one.
        read, write = handler.request_deserializer, handler.response_serializer
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(serve, read, write)
        return grpc.stream_unary_rpc_method_handler(serve, read, write)


async def _serve(handler: Any, requests: Any, context: Context) -> Any:
    if handler.request_streaming:
        async with aclosing(handler.stream_stream(requests, context)) as answers:
            async for answer in answers:
                await context.write(answer)
        return None
    request = await read_message(context)
    if handler.response_streaming:
        return await handler.unary_stream(request, context)
    return await handler.unary_unary(request, context)


class _OpenCalls:
    """The open calls of one RPC, each under a timer, oldest first."""

    def __init__(self, *, at_most: int, seconds: float) -> None:
        self._at_most = at_most
        self._seconds = seconds
        self._timers: dict[asyncio.Timeout, None] = {}

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Be one of the open calls; raises Unavailable when it has lasted too long, or too many came after it."""
        while len(self._timers) >= self._at_most:
            oldest = next(iter(self._timers))
            del self._timers[oldest]
            _reschedule(oldest, seconds=0)
        timer = asyncio.timeout(self._seconds)
        try:
            async with timer:
                self._timers[timer] = None
                yield
        except TimeoutError:
            if not timer.expired():
                raise
            raise Unavailable("This call has lasted long enough; start it again.", code="probe_ended") from None
        finally:
            self._timers.pop(timer, None)

    def end(self, *, after_seconds: float) -> None:
        """End all open calls soon."""
        for timer in self._timers:
            _reschedule(timer, seconds=after_seconds)


def _reschedule(timer: asyncio.Timeout, *, seconds: float) -> None:
    # A timer that has run out ends its call already, and cannot be set any more.
    if not timer.expired():
        timer.reschedule(asyncio.get_running_loop().time() + seconds)


class _Registry:
    """Takes what generated code registers at a server."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Take a service's handlers."""
        self.handlers |= {f"/{service}/{method}": handler for method, handler in handlers.items()}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Do nothing: generated code brings the same handlers a second time, for servers that know no names."""


def _pool_of(services: Sequence[str]) -> DescriptorPool:
    """Return a pool that knows the files of these services and what they import, and no others."""
    pool = DescriptorPool()

    def add(file: FileDescriptor) -> None:
        for dependency in file.dependencies:
            add(dependency)
        pool.AddSerializedFile(file.serialized_pb)

    for name in services:
        add(Default().FindServiceByName(name).file)
    return pool
