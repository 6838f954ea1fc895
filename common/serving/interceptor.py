"""The form that every interceptor has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc

from common.request import Call
from common.serving.routes import Route

Context = grpc.aio.ServicerContext[Any, Any]
Proceed = Callable[[Call, Context], Awaitable[Any]]


class Interceptor(Protocol):
    """Surrounds every call: does something, awaits ``proceed``, does something more.

    It runs before the request message has arrived, so nobody waits for a caller that it refuses. Only calls that Envoy
    made of HTTP requests bring theirs along.
    """

    async def __call__(self, route: Route, call: Call, context: Context, proceed: Proceed) -> Any:
        """Serve the call, or raise."""
