"""The gRPC server that every service runs, and the one list of interceptors around its RPCs."""

from __future__ import annotations

import asyncio
import gc
import inspect
import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, cast

import grpc
import structlog
from google.protobuf.descriptor_pool import Default
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from common.identity.principal import Requirement
from common.request import Call, current_call, open_call
from common.serving.http_body import body_view
from common.serving.interceptor import Context, Interceptor, Proceed
from common.serving.runtime import Runtime
from common.settings import MAX_MESSAGE_BYTES

_log = structlog.get_logger(__name__)

_OPEN: Final = (health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
"""What every server offers to everybody."""
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


class Server:
    """A gRPC server with health and reflection, whose every RPC runs inside the same interceptors.

    ``requirements`` must name each RPC that ``registers`` add; a forgotten one raises ValueError before the first call.
    The RPCs of HttpBody that ``passed_through`` names are served by coroutines that take a BodyView, write serialized
    messages and return the last of them: see common/serving/http_body.py.
    """

    def __init__(
        self,
        *,
        services: Sequence[str],
        registers: Sequence[Register],
        interceptors: Sequence[Interceptor],
        requirements: Mapping[str, Requirement],
        passed_through: Collection[str] = (),
        max_concurrent_calls: int = 4096,
    ) -> None:
        handlers = _Handlers(interceptors, passed_through=passed_through)
        to = cast(grpc.aio.Server, handlers)
        for register in registers:
            register(to)
        handlers.refuse_undeclared(services, requirements)
        self._services = services
        self._health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, to)
        reflected = reflection.aio.ReflectionServicer([*services, *_OPEN])
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, to)  # type: ignore[no-untyped-call] # no stubs
        self._runtime = Runtime([handlers], options=SERVER_OPTIONS, maximum_concurrent_rpcs=max_concurrent_calls)

    async def start(self, listen: str) -> int:
        """Listen on host:port and report healthy; returns the port. Raises RuntimeError when the port is taken."""
        port = self._runtime.listen(listen)
        await self._runtime.start()
        for name in ("", *self._services):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self, *, grace_seconds: float = 4.0) -> None:
        """Report not healthy, take no more calls, and give the running ones ``grace_seconds``."""
        await self._health.enter_graceful_shutdown()
        await self._runtime.shutdown(grace_seconds)


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
    # What is loaded by now stays: the collector need not look at it again and again while streams come and go.
    gc.collect()
    gc.freeze()
    _log.info("listening", service=name, port=port)
    await stopped.wait()
    await server.stop()


class _Handlers(grpc.GenericRpcHandler):
    """Every RPC by its name, inside the interceptors; takes what generated code registers in the runtime's place.

    The runtime waits for each registered method by itself, which costs each call more the more methods there are, and
    looks its own interceptors up for every call. Handlers that are found by name cost the same however many there are.
    """

    def __init__(self, interceptors: Sequence[Interceptor], *, passed_through: Collection[str]) -> None:
        self._interceptors = interceptors
        self._passed_through = passed_through
        self._handlers: dict[str, Any] = {}

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Take a service's handlers."""
        for method, handler in handlers.items():
            rpc = f"/{service}/{method}"
            self._handlers[rpc] = handler if service in _OPEN else self._wrapped(rpc, handler)

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Do nothing: generated code brings the same handlers a second time, for runtimes that know no names."""

    def refuse_undeclared(self, services: Sequence[str], requirements: Mapping[str, Requirement]) -> None:
        """Raise ValueError for an RPC, of these services or registered, that declares no requirement."""
        found = Default().FindServiceByName
        declared = {f"/{name}/{method.name}" for name in services for method in found(name).methods}
        for rpc in sorted(declared | {rpc for rpc in self._handlers if rpc.split("/")[1] not in _OPEN}):
            if rpc not in requirements:
                raise ValueError(f"{rpc} declares no requirement: add it to the service's REQUIREMENTS")

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the RPC's handler, None when there is none; the call begins here, in the task that will serve it."""
        handler = self._handlers.get(handler_call_details.method)
        if handler is not None:
            pairs = handler_call_details.invocation_metadata or ()
            metadata = {key: value for key, value in pairs if isinstance(value, str)}
            open_call(handler_call_details.method, metadata)
        return handler

    def _wrapped(self, rpc: str, handler: Any) -> Any:
        if rpc in self._passed_through:
            # On the wire, a single answer is a stream of one message. As a single answer the last message and the
            # status are one write, which spares every process on the way a wake-up.
            return grpc.unary_unary_rpc_method_handler(self._behaviour(handler.unary_stream), body_view, None)
        read, write = handler.request_deserializer, handler.response_serializer
        if not handler.response_streaming:
            return grpc.unary_unary_rpc_method_handler(self._behaviour(handler.unary_unary), read, write)
        stream = handler.unary_stream
        writes = stream if inspect.iscoroutinefunction(stream) else _written_out(stream)
        return grpc.unary_stream_rpc_method_handler(self._behaviour(writes), read, write)

    def _behaviour(self, serve: Behaviour) -> Any:
        # Plain functions that return coroutines: a stream's every event passes through all frames that are suspended.
        def inner(_: Call, request: Any, context: Context) -> Awaitable[Any]:
            return serve(request, context)

        proceed: Proceed = inner
        for interceptor in reversed(self._interceptors):
            proceed = _around(interceptor, proceed)

        async def behaviour(request: Any, context: Context) -> Any:
            return await proceed(current_call(), request, context)

        return behaviour


def _around(interceptor: Interceptor, inner: Proceed) -> Proceed:
    def intercepted(call: Call, request: Any, context: Context) -> Awaitable[Any]:
        return interceptor(call, request, context, inner)

    return intercepted


def _written_out(generator: Callable[[Any, Context], Any]) -> Behaviour:
    """Make a coroutine of a generator handler, so that one interceptor form fits both kinds of RPC."""

    async def stream(request: Any, context: Context) -> None:
        async with aclosing(generator(request, context)) as messages:
            async for message in messages:
                await context.write(message)

    return stream
