"""The gRPC server that every service runs."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, cast

import grpc
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import DecodeError

from common.background import Health
from common.errors import UnknownRpc, openai_body
from common.identity.principal import Access
from common.request import Call, current_call, open_call
from common.serving.errors import abort
from common.serving.http_body import body_view
from common.serving.interceptor import Context, Interceptor, Proceed
from common.serving.messages import read_message, unreadable
from common.serving.probes import Probes
from common.serving.routes import Route, services_of
from common.serving.runtime import open_runtime
from common.settings import MAX_HEADER_BYTES, MAX_MESSAGE_BYTES

_FAREWELL_SECONDS: Final = 1.0
_MOST_PENDING: Final = 100_000
SERVER_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    # Above what the edge lets in, which says what is wrong. Between the two gRPC refuses at random.
    ("grpc.max_metadata_size", 2 * MAX_HEADER_BYTES),
    ("grpc.absolute_max_metadata_size", 4 * MAX_HEADER_BYTES),
    # Beyond 1,000 calls that wait to be taken in, gRPC cancels some at random and without a body. LimitInterceptor
    # decides what is too much.
    ("grpc.server.max_pending_requests", _MOST_PENDING),
    ("grpc.server.max_pending_requests_hard_limit", 2 * _MOST_PENDING),
    # A second process on the same port is a mistake that must fail, not share the load.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)
_UNKNOWN: Final = "unknown"
"""The name under which calls of RPCs that do not exist are served: theirs is the caller's."""

Behaviour = Callable[[Any, Context], Awaitable[Any]]
Receive = Callable[[Call, Context], Awaitable[Any]]
Servicer = tuple[Callable[[Any, grpc.aio.Server], None], object]
"""What generated code adds a servicer with, and the servicer."""


class Server:
    """A gRPC server with health and reflection, whose every RPC runs inside the same interceptors.

    ``routes`` must name each RPC of their services and of ``servicers``; a forgotten one raises ValueError before the
    first call. ``health`` decides what is reported. ``before_stop`` ends the calls that never end by themselves,
    ``end_streams`` those that still run shortly before the end of the grace.
    ``max_concurrent_calls`` is what LimitInterceptor allows: the runtime refuses, without a body, only far beyond it.
    """

    def __init__(
        self,
        *,
        routes: Sequence[Route],
        servicers: Sequence[Servicer],
        interceptors: Sequence[Interceptor],
        max_concurrent_calls: int = 4096,
        max_probes: int = 100,
        probe_seconds: float = 60.0,
        reflection: bool = True,
        health: Health | None = None,
        before_stop: Callable[[], None] = lambda: None,
        end_streams: Callable[[], None] = lambda: None,
    ) -> None:
        self._before_stop = before_stop
        self._end_streams = end_streams
        services = services_of(routes)
        public = services_of(route for route in routes if route.requirement is not Access.INTERNAL)
        self._probes = Probes(
            services,
            health=health or Health(),
            public=public if reflection else None,
            at_most=max_probes,
            seconds=probe_seconds,
        )
        handlers = _Handlers(routes, interceptors=interceptors, probes=self._probes.handlers())
        for add, servicer in servicers:
            add(servicer, cast(grpc.aio.Server, handlers))
        handlers.refuse_undeclared(services)
        self._runtime = open_runtime(
            handlers, options=SERVER_OPTIONS, max_concurrent_rpcs=2 * max_concurrent_calls + 10 * max_probes
        )

    async def start(self, listen: str) -> int:
        """Listen on host:port and report healthy; returns the port. Raises RuntimeError when the port is taken."""
        port = self._runtime.listen(listen)
        await self._runtime.start()
        await self._probes.start()
        return port

    async def ended(self) -> None:
        """Wait for the server's end; raises what ended it when ``stop`` did not."""
        await self._runtime.ended()

    async def stop(self, *, grace_seconds: float) -> None:
        """Report not healthy, take no more calls, and give the running ones ``grace_seconds``."""
        await self._probes.stop()
        self._before_stop()
        stopping = asyncio.ensure_future(self._runtime.stop(grace_seconds))
        # Calls that are cancelled look complete to callers over HTTP: streams say before that they are not.
        farewell_seconds = min(_FAREWELL_SECONDS, grace_seconds / 4)
        await asyncio.wait([stopping], timeout=grace_seconds - farewell_seconds)
        if not stopping.done():
            self._end_streams()
        await stopping


class _Handlers(grpc.GenericRpcHandler):
    """Every RPC by its name, inside the interceptors; takes what generated code registers in the runtime's place.

    The runtime waits for each registered method by itself, which costs each call more the more methods there are, and
    looks its own interceptors up for every call. Handlers that are found by name cost the same however many there are.
    """

    def __init__(
        self, routes: Sequence[Route], *, interceptors: Sequence[Interceptor], probes: Mapping[str, Any]
    ) -> None:
        self._routes = {route.rpc: route for route in routes}
        self._interceptors = interceptors
        self._handlers: dict[str, Any] = dict(probes)
        self._transcoded: dict[str, Any] = {}
        self._undeclared: list[str] = []
        self._unknown: Any = grpc.stream_unary_rpc_method_handler(_refuse_unknown, None, None)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Take a service's handlers."""
        for method, handler in handlers.items():
            route = self._routes.get(f"/{service}/{method}")
            if route is None:
                self._undeclared.append(f"/{service}/{method}")
            else:
                self._handlers[route.rpc] = self._handler(route, handler)
                if route.passed_through:
                    self._transcoded[route.rpc] = self._transcoded_handler(route, handler)

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Do nothing: generated code brings the same handlers a second time, for runtimes that know no names."""

    def refuse_undeclared(self, services: Sequence[str]) -> None:
        """Raise ValueError for an RPC, of these services or registered, that has no route."""
        declared = (f"/{name}/{method.name}" for name in services for method in _service(name).methods)
        missing = [*self._undeclared, *(rpc for rpc in declared if rpc not in self._routes)]
        if missing:
            raise ValueError(f"{missing[0]} has no route: add it to the service's ROUTES")

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the RPC's handler; the call begins here, in the task that will serve it."""
        rpc = handler_call_details.method
        handler = self._handlers.get(rpc)
        pairs = handler_call_details.invocation_metadata or ()
        metadata = {key: value for key, value in pairs if isinstance(value, str)}
        open_call(_UNKNOWN if handler is None else rpc, metadata)
        if metadata.get("x-envoy-original-path"):
            handler = self._transcoded.get(rpc, handler)
        return handler or self._unknown

    def _handler(self, route: Route, handler: Any) -> Any:
        """Return a handler that reads the message itself, once the interceptors have let its caller in.

        For the caller, a stream of requests that takes one message is the same as a single request. An answer of one
        message leaves together with the status, which spares every process on the way a wake-up.
        """
        if route.passed_through:
            behaviour = self._intercepted(route, handler.unary_stream)
            return grpc.stream_unary_rpc_method_handler(behaviour, body_view, None)
        read, write = handler.request_deserializer, handler.response_serializer
        if not handler.response_streaming:
            behaviour = self._intercepted(route, _serialized(handler.unary_unary, write))
            return grpc.stream_unary_rpc_method_handler(behaviour, read, None)
        stream = handler.unary_stream
        behaviour = self._intercepted(route, stream if inspect.iscoroutinefunction(stream) else _written_out(stream))
        return grpc.stream_stream_rpc_method_handler(behaviour, read, write)

    def _transcoded_handler(self, route: Route, handler: Any) -> Any:
        """Return a handler whose message comes with the call, for calls that Envoy made of HTTP requests.

        Envoy has seen a credential and holds the whole body before it calls. A wait less is worth a tenth of the
        requests per second. From anybody else the message may come late or never, which nothing would end.
        """
        behaviour = self._intercepted(route, handler.unary_stream, receive=_received)
        return grpc.unary_unary_rpc_method_handler(behaviour, None, None)

    def _intercepted(self, route: Route, serve: Behaviour, *, receive: Receive | None = None) -> Any:
        # Plain functions that return coroutines: a stream's every event passes through all frames that are suspended.
        async def innermost(call: Call, context: Context) -> Any:
            return await serve(await (receive(call, context) if receive else read_message(context)), context)

        proceed: Proceed = innermost
        for interceptor in reversed(self._interceptors):
            proceed = _around(interceptor, route, proceed)

        async def behaviour(message: object, context: Context) -> Any:
            call = current_call()
            if isinstance(message, bytes):
                call.message = message
            return await proceed(call, context)

        return behaviour


def _around(interceptor: Interceptor, route: Route, inner: Proceed) -> Proceed:
    def intercepted(call: Call, context: Context) -> Awaitable[Any]:
        return interceptor(route, call, context, inner)

    return intercepted


def _serialized(serve: Behaviour, serialize: Callable[[Any], bytes]) -> Behaviour:
    """Serialize the answer inside of the interceptors, which answer for what cannot be serialized, too."""

    async def serialized(request: Any, context: Context) -> bytes:
        return serialize(await serve(request, context))

    return serialized


def _written_out(generator: Callable[[Any, Context], Any]) -> Behaviour:
    """Make a coroutine of a generator handler, so that one interceptor form fits both kinds of RPC."""

    async def stream(request: Any, context: Context) -> None:
        async with aclosing(generator(request, context)) as messages:
            async for message in messages:
                await context.write(message)

    return stream


async def _received(call: Call, _: Context) -> Any:
    """Return the HttpBody that came with the call; raises InvalidRequest when it cannot be parsed."""
    try:
        return body_view(call.message)
    except DecodeError:
        raise unreadable() from None


async def _refuse_unknown(_: object, context: Context) -> None:
    await abort(current_call(), context, UnknownRpc("There is no such RPC."), body=openai_body)


def _service(name: str) -> Any:
    return Default().FindServiceByName(name)
