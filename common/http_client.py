"""HTTP to providers: one shared session, four timers, and errors in the gateway's own terms.

No retries and no redirects here: the router is the only one who repeats a request.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, TypeAlias

import aiohttp

from common.errors import UpstreamFailed, UpstreamTimeout
from common.sse import KEEP_ALIVE, EventSplitter

Body: TypeAlias = bytes | tuple[bytes | memoryview, ...]
"""A request's body, whole or in pieces; a large one in pieces is sent without ever being put together."""

_SLICE: Final = 256 * 1024
_LARGE_BODY: Final = 1024 * 1024
_MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024
_DEFAULT_HEADERS: Final = {
    # Identity, because what is not decompressed need not be compressed again, and events must not wait in a codec.
    "accept-encoding": "identity",
    "user-agent": "turnpike/0.1",
}


@dataclass(frozen=True, slots=True)
class Timers:
    """The four timers of a request to a provider, and the silence after which a stream is kept alive, in seconds."""

    connect_timeout_seconds: float = 5.0
    first_byte_timeout_seconds: float = 600.0
    chunk_timeout_seconds: float = 120.0
    total_timeout_seconds: float = 1800.0
    keep_alive_seconds: float = 15.0


class UnreachableError(UpstreamFailed):
    """No connection came about, so the provider has seen nothing of the request and it may be repeated."""


class HttpAnswer:
    """A provider's answer whose head has arrived and whose body is still on its way."""

    def __init__(self, response: aiohttp.ClientResponse, *, timers: Timers, deadline: float) -> None:
        self._response = response
        self._timers = timers
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.content_type = response.headers.get("content-type", "application/octet-stream")

    @property
    def is_event_stream(self) -> bool:
        """Say whether the body is a stream of server-sent events."""
        return self.content_type.partition(";")[0].strip().lower() == "text/event-stream"

    async def read(self) -> bytes:
        """Return the whole body; raises UpstreamFailed when it breaks off, UpstreamTimeout when a timer runs out."""
        parts: list[bytes] = []
        size = 0
        while part := await self._next(self._timers.chunk_timeout_seconds):
            parts.append(part)
            size += len(part)
            if size > _MAX_ANSWER_BYTES:
                raise UpstreamFailed("The provider's answer is too large.", code="upstream_answer_too_large")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield each event as soon as it is whole, and KEEP_ALIVE in silence; raises as ``read`` does.

        What is left of an event when the body ends is dropped.
        """
        splitter = EventSplitter()
        waited = 0.0
        while True:
            step = min(self._timers.keep_alive_seconds, self._timers.chunk_timeout_seconds - waited)
            try:
                data = await self._next(step)
            except UpstreamTimeout:
                waited += step
                if waited >= self._timers.chunk_timeout_seconds or self._loop.time() >= self._deadline:
                    raise
                yield KEEP_ALIVE
                continue
            if not data:
                for event in splitter.end():
                    yield event
                return
            waited = 0.0
            for event in splitter.feed(data):
                yield event

    async def finish(self, *, timeout_seconds: float = 0.25) -> None:
        """Wait for the end of a body whose content is complete, so that the connection can serve again."""
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, ConnectionError):
            async with asyncio.timeout(timeout_seconds):
                while await self._response.content.readany():
                    pass

    async def close(self) -> None:
        """Let go of the connection; one whose body was not read to its end is closed, so that the provider stops."""
        self._response.close()

    async def _next(self, timeout_seconds: float) -> bytes:
        limit = min(self._loop.time() + timeout_seconds, self._deadline)
        try:
            async with asyncio.timeout_at(limit):
                return await self._response.content.readany()
        except TimeoutError:
            raise UpstreamTimeout("The provider stopped sending.", code="upstream_timeout") from None
        except (aiohttp.ClientError, ConnectionError):
            raise UpstreamFailed("The provider broke off its answer.", code="upstream_cut") from None


class HttpClient:
    """One session with every provider; an async context manager. ``timers`` hold for each request."""

    def __init__(self, *, timers: Timers) -> None:
        self._timers = timers
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> HttpClient:
        """Open the session."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timers.connect_timeout_seconds),
            headers=_DEFAULT_HEADERS,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session and its connections."""
        if self._session is not None:
            await self._session.close()

    async def post(self, url: str, *, body: Body, headers: Mapping[str, str]) -> HttpAnswer:
        """Send a request and return when the answer's head is there; the caller closes the answer.

        Raises UnreachableError, UpstreamFailed or UpstreamTimeout.
        """
        return await self.request("POST", url, body=body, headers=headers)

    async def request(self, method: str, url: str, *, body: Body = b"", headers: Mapping[str, str]) -> HttpAnswer:
        """Send a request of any method, without a body when ``body`` is empty; else the same as ``post``."""
        if self._session is None:
            raise RuntimeError("the client is used outside of its context")
        now = asyncio.get_running_loop().time()
        deadline = now + self._timers.total_timeout_seconds
        data, more = _sendable((body,) if isinstance(body, bytes) else body)
        try:
            async with asyncio.timeout_at(min(now + self._timers.first_byte_timeout_seconds, deadline)):
                response = await self._session.request(
                    method, url, data=data or None, headers={**headers, **more}, allow_redirects=False
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise UnreachableError("The provider cannot be reached.", code="upstream_unreachable") from None
        except TimeoutError:
            raise UpstreamTimeout("The provider did not answer in time.", code="upstream_timeout") from None
        except (aiohttp.ClientError, ConnectionError):
            raise UpstreamFailed("The provider closed the connection.", code="upstream_failed") from None
        return HttpAnswer(response, timers=self._timers, deadline=deadline)


def _sendable(pieces: tuple[bytes | memoryview, ...]) -> tuple[bytes | AsyncIterator[memoryview], dict[str, str]]:
    """Return what aiohttp sends, and the headers that it cannot work out."""
    size = sum(map(len, pieces))
    if size <= _LARGE_BODY:
        return b"".join(pieces), {}
    return _slices(pieces), {"content-length": str(size)}


async def _slices(pieces: tuple[bytes | memoryview, ...]) -> AsyncIterator[memoryview]:
    # In slices, because one write of many megabytes would hold up every other request of the process.
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), _SLICE):
            yield view[start : start + _SLICE]
