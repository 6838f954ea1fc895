"""gRPC's server for asyncio, made to wait for several calls at once.

``grpc.aio.server`` waits for one call at a time, and takes four rounds of the event loop before it waits for the next.
While streams keep the loop busy, the last request of a burst is behind by four rounds for each one before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined] # compiled, without types

CALLS_AT_ONCE: Final = 64
"""How many calls are waited for; more start a burst of hundreds hardly sooner."""


class Runtime(cygrpc.AioServer):  # type: ignore[misc] # the same
    """What ``grpc.aio.server`` wraps. ``_make_request_call_future`` is the runtime's own, and private.

    It is overridden and nowhere called: a release without it serves as ``grpc.aio.server`` does, and fails the test.
    https://github.com/grpc/grpc/pull/43461 is about to change this part of the runtime.
    """

    def __init__(
        self,
        handlers: Sequence[grpc.GenericRpcHandler],
        *,
        options: Sequence[tuple[str, Any]],
        maximum_concurrent_rpcs: int,
    ) -> None:
        super().__init__(asyncio.get_running_loop(), None, handlers, (), tuple(options), maximum_concurrent_rpcs)
        self._asked: deque[asyncio.Future[Any]] = deque()

    def listen(self, address: str) -> int:
        """Open host:port and return the port; raises RuntimeError when it is taken."""
        port = int(self.add_insecure_port(address.encode()))
        if not port:
            raise RuntimeError(f"{address} cannot be opened")
        return port

    @property
    def waited_for(self) -> int:
        """Return how many calls the runtime waits for at the moment, or has taken in and not begun."""
        return len(self._asked) + 1

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        """Return the future of the next call: the runtime serves those who ask in their order."""
        while len(self._asked) < CALLS_AT_ONCE:
            self._asked.append(super()._make_request_call_future(method))
        return self._asked.popleft()

    async def _start_shutting_down(self) -> None:
        """Stop taking calls; those that came too late to begin are refused with the others that are waited for."""
        await super()._start_shutting_down()
        await asyncio.gather(*self._asked, return_exceptions=True)
        self._asked.clear()
