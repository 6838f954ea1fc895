"""gRPC's server for asyncio, made to wait for several calls at once.

``grpc.aio.server`` waits for one call at a time, and takes four rounds of the event loop before it waits for the next.
While streams keep the loop busy, the last request of a burst is behind by four rounds for each one before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined] # compiled, without types

CALLS_AT_ONCE: Final = 64
"""How many calls are waited for; more start a burst of hundreds hardly sooner."""
_PARENT: Final = getattr(cygrpc, "AioServer", None)
_PRIVATE: Final = ("_make_request_call_future", "_start_shutting_down")
"""The methods of the runtime that are overridden. https://github.com/grpc/grpc/pull/43461 is about to change them."""


class Runtime(Protocol):
    """A gRPC server on one port."""

    def listen(self, address: str) -> int:
        """Open host:port and return the port; raises RuntimeError when it is taken."""

    async def start(self) -> None:
        """Serve."""

    async def ended(self) -> None:
        """Wait for the server's end; raises what ended it when it was not ``stop``."""

    async def stop(self, grace_seconds: float) -> None:
        """Take no more calls, and cancel those that run after ``grace_seconds``."""


def open_runtime(
    handlers: grpc.GenericRpcHandler,
    *,
    options: Sequence[tuple[str, Any]],
    max_concurrent_rpcs: int,
    parent: Any = _PARENT,
) -> Runtime:
    """Return a server that waits for many calls, or the public one when the private ``parent`` is not as it was."""
    if all(hasattr(parent, name) for name in _PRIVATE):
        arguments = (asyncio.get_running_loop(), None, [handlers], (), tuple(options), max_concurrent_rpcs)
        try:
            return BatchRuntime(_waiting_for_many(parent)(*arguments))
        except TypeError:
            pass  # Its arguments are other ones.
    return PublicRuntime(
        grpc.aio.server(handlers=[handlers], options=tuple(options), maximum_concurrent_rpcs=max_concurrent_rpcs)
    )


class PublicRuntime:
    """``grpc.aio.server``."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def listen(self, address: str) -> int:
        """Open host:port and return the port; raises RuntimeError when it is taken."""
        return self._server.add_insecure_port(address)

    async def start(self) -> None:
        """Serve."""
        await self._server.start()

    async def ended(self) -> None:
        """Wait for the server's end; raises what ended it when it was not ``stop``."""
        # Shielded: the runtime's own future would be cancelled together with the wait, and then the stop fails.
        await asyncio.shield(self._server.wait_for_termination())

    async def stop(self, grace_seconds: float) -> None:
        """Take no more calls, and cancel those that run after ``grace_seconds``."""
        await self._server.stop(grace_seconds)


class BatchRuntime:
    """What ``grpc.aio.server`` wraps, waiting for many calls."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def listen(self, address: str) -> int:
        """Open host:port and return the port; raises RuntimeError when it is taken."""
        port = int(self._server.add_insecure_port(address.encode()))
        if not port:
            raise RuntimeError(f"{address} cannot be opened")
        return port

    async def start(self) -> None:
        """Serve."""
        await self._server.start()

    async def ended(self) -> None:
        """Wait for the server's end; raises what ended it when it was not ``stop``."""
        # Shielded: the runtime's own future would be cancelled together with the wait, and then the stop fails.
        await asyncio.shield(self._server.wait_for_termination(None))

    async def stop(self, grace_seconds: float) -> None:
        """Take no more calls, and cancel those that run after ``grace_seconds``."""
        await self._server.shutdown(grace_seconds)

    @property
    def waiting(self) -> int:
        """How many calls the server waits for at the moment, or has taken in and not begun."""
        return int(self._server.waiting)


def _waiting_for_many(parent: Any) -> Any:
    class WaitingServer(parent):  # type: ignore[misc] # compiled, without types
        """Keeps the futures of several calls; the runtime serves those who wait in their order."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._futures: deque[asyncio.Future[Any]] = deque()

        @property
        def waiting(self) -> int:
            return len(self._futures) + 1

        def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
            while len(self._futures) < CALLS_AT_ONCE:
                self._futures.append(super()._make_request_call_future(method))
            return self._futures.popleft()

        async def _start_shutting_down(self) -> None:
            # Calls that came too late to begin are refused with the others that are waited for.
            await super()._start_shutting_down()
            await asyncio.gather(*self._futures, return_exceptions=True)
            self._futures.clear()

    return WaitingServer
