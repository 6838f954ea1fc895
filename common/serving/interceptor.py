"""The form that every interceptor has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc

from common.request import Call

Context = grpc.aio.ServicerContext[Any, Any]
Proceed = Callable[[Call, Any, Context], Awaitable[Any]]


class Interceptor(Protocol):
    """Surrounds every call: does something, awaits ``proceed``, does something more."""

    async def __call__(self, call: Call, request: Any, context: Context, proceed: Proceed) -> Any:
        """Serve the call, or raise."""
