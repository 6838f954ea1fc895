"""The gRPC server that every service runs, and the one list of interceptors around its RPCs."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType
from typing import Any, Final

import grpc
import structlog
from google.protobuf.descriptor_pool import Default
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from common.call import Call, Context, Interceptor, open_call
from common.config import MAX_MESSAGE_BYTES
from common.principal import Requirement

_log = structlog.get_logger(__name__)

_HEALTH_NAMES: Final = (health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
_OPEN: Final = ("/grpc.health.v1.Health/", "/grpc.reflection.")
SERVER_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    # A second process on the same port is a mistake that must fail, not share the load.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)

Behaviour = Callable[[Any, Context], Awaitable[Any]]
Register = Callable[[grpc.aio.Server], None]
Deserializer = Callable[[bytes], Any]


class Server:
    """A gRPC server with health and reflection, whose every RPC runs inside the same interceptors.

    ``requirements`` must name each RPC that ``registers`` add; a forgotten one raises ValueError before the first call.
    ``deserializers`` read the requests of the RPCs that they name, in the place of the generated code.
    """

    def __init__(
        self,
        *,
        services: Sequence[str],
        registers: Sequence[Register],
        interceptors: Sequence[Interceptor],
        requirements: Mapping[str, Requirement],
        deserializers: Mapping[str, Deserializer] = MappingProxyType({}),
        max_concurrent_calls: int = 4096,
    ) -> None:
        self._server = grpc.aio.server(
            interceptors=[_Chain(interceptors, deserializers)],
            options=SERVER_OPTIONS,
            maximum_concurrent_rpcs=max_concurrent_calls,
        )
        _refuse_undeclared(services, requirements)
        self._services = services
        self._health = health_aio.HealthServicer()
        for register in registers:
            register(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection([*services, *_HEALTH_NAMES], self._server)

    async def start(self, listen: str) -> int:
        """Listen on host:port and report healthy; returns the port. Raises RuntimeError when the port is taken."""
        port = self._server.add_insecure_port(listen)
        await self._server.start()
        for name in ("", *self._services):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self, *, grace_seconds: float = 4.0) -> None:
        """Report not healthy, take no more calls, and give the running ones ``grace_seconds``."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_seconds)


async def serve(server: Server, *, name: str, listen: str, variable: str) -> None:
    """Run the server until SIGTERM or SIGINT; a taken port ends the process with a line that names ``variable``."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    try:
        port = await server.start(listen)
    except RuntimeError:
        sys.stderr.write(f"turnpike {name}: cannot listen on {listen}: set {variable} to a free address\n")
        raise SystemExit(2) from None
    _log.info("listening", service=name, port=port)
    await stopped.wait()
    await server.stop()


class _Chain(grpc.aio.ServerInterceptor):
    """Puts the interceptors around each RPC once, not once for each call."""

    def __init__(self, interceptors: Sequence[Interceptor], deserializers: Mapping[str, Deserializer]) -> None:
        self._interceptors = interceptors
        self._deserializers = deserializers
        self._wrapped: dict[str, Any] = {}

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        rpc = handler_call_details.method
        wrapped = self._wrapped.get(rpc)
        if wrapped is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None or rpc.startswith(_OPEN):
            return handler
        self._wrapped[rpc] = wrapped = self._wrap(rpc, handler)
        return wrapped

    def _wrap(self, rpc: str, handler: Any) -> Any:
        streaming = handler.response_streaming
        inner = _written_out(handler.unary_stream) if streaming else _plain(handler.unary_unary)
        for interceptor in reversed(self._interceptors):
            inner = _around(interceptor, inner)

        async def behaviour(request: Any, context: Context) -> Any:
            metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
            return await inner(open_call(rpc, metadata), request, context)

        make = grpc.unary_stream_rpc_method_handler if streaming else grpc.unary_unary_rpc_method_handler
        return make(behaviour, self._deserializers.get(rpc, handler.request_deserializer), handler.response_serializer)


def _around(interceptor: Interceptor, inner: Any) -> Any:
    async def intercepted(call: Call, request: Any, context: Context) -> Any:
        return await interceptor(call, request, context, inner)

    return intercepted


def _plain(behaviour: Behaviour) -> Any:
    async def unary(_: Call, request: Any, context: Context) -> Any:
        return await behaviour(request, context)

    return unary


def _written_out(generator: Callable[[Any, Context], Any]) -> Any:
    """Make a coroutine of a generator handler, so that one interceptor form fits both kinds of RPC."""

    async def stream(_: Call, request: Any, context: Context) -> None:
        async with aclosing(generator(request, context)) as messages:
            async for message in messages:
                await context.write(message)

    return stream


def _refuse_undeclared(services: Sequence[str], requirements: Mapping[str, Requirement]) -> None:
    for name in services:
        service = Default().FindServiceByName(name)
        for method in service.methods:
            if f"/{name}/{method.name}" not in requirements:
                raise ValueError(f"/{name}/{method.name} declares no requirement: add it to the service's REQUIREMENTS")
