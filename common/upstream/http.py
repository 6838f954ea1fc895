"""HTTP to providers: pooled connections, four timers, and errors in the gateway's own terms.

No retries and no redirects here: the router is the only one who repeats a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from common.errors import UpstreamFailed, UpstreamTimeout
from common.upstream.http_connection import BrokenConnection, Connection
from common.upstream.sse import KEEP_ALIVE, EventSplitter

Body: TypeAlias = bytes | memoryview | tuple[bytes | memoryview, ...]
"""A request's body, whole or in pieces; a large one in pieces is sent without ever being put together."""

_MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024
_IDLE_SECONDS: Final = 30.0
_IDLE_CONNECTIONS: Final = 1024
_KNOWN_URLS: Final = 256
_LINE_BREAK: Final = re.compile(r"[\r\n\0]")
# Identity, because what is not decompressed need not be compressed again, and events must not wait in a codec.
_DEFAULT_HEADERS: Final = "accept: */*\r\naccept-encoding: identity\r\nuser-agent: turnpike/0.1\r\n"


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

    def __init__(self, connection: Connection, *, origin: _Origin, timers: Timers, deadline: float) -> None:
        self._connection = connection
        self._origin = origin
        self._timers = timers
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._splitter = EventSplitter()
        self._silent_seconds = 0.0
        self.status = connection.status
        self.headers: Mapping[str, str] = connection.headers
        self.content_type = connection.headers.get("content-type", "application/octet-stream")

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

    async def events(self) -> Sequence[bytes]:
        """Wait for events and return those that are whole: KEEP_ALIVE in silence, none at the end; raises as ``read``.

        What is left of an event when the body ends is dropped.
        """
        limit = self._timers.chunk_timeout_seconds
        while True:
            step = min(self._timers.keep_alive_seconds, limit - self._silent_seconds)
            try:
                data = await self._next(step)
            except UpstreamTimeout:
                self._silent_seconds += step
                if self._silent_seconds >= limit or self._loop.time() >= self._deadline:
                    raise
                return (KEEP_ALIVE,)
            if not data:
                return self._splitter.end()
            self._silent_seconds = 0.0
            events = self._splitter.feed(data)
            if events:
                return events

    @property
    def complete(self) -> bool:
        """Say whether the body's end has come, too."""
        return self._connection.ended

    async def finish(self, *, timeout_seconds: float = 0.25) -> None:
        """Wait for the end of a body whose content is complete, so that the connection can serve again."""
        with contextlib.suppress(TimeoutError, BrokenConnection):
            until = self._loop.time() + timeout_seconds
            while await self._connection.read(until=until):
                pass

    def close(self) -> None:
        """Let go of the connection; one whose body was not read to its end is closed, so that the provider stops."""
        if not self._closed:
            self._closed = True
            self._origin.give_back(self._connection, now=self._loop.time())

    async def _next(self, timeout_seconds: float) -> bytes:
        try:
            return await self._connection.read(until=min(self._loop.time() + timeout_seconds, self._deadline))
        except TimeoutError:
            raise UpstreamTimeout("The provider stopped sending.", code="upstream_timeout") from None
        except BrokenConnection:
            raise UpstreamFailed("The provider broke off its answer.", code="upstream_cut") from None


@dataclass(slots=True)
class _Origin:
    """A scheme, host and port, and the idle connections to it, the one used last on top."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    idle: list[Connection] = field(default_factory=list)

    def take(self, *, now: float) -> Connection | None:
        """Return a connection that still stands, None when there is none."""
        while self.idle:
            connection = self.idle.pop()
            if connection.open and now - connection.idle_since < _IDLE_SECONDS:
                return connection
            connection.close()
        return None

    def give_back(self, connection: Connection, *, now: float) -> None:
        """Keep a connection whose exchange is over, and close any other."""
        if connection.finished and len(self.idle) < _IDLE_CONNECTIONS:
            connection.idle_since = now
            self.idle.append(connection)
        else:
            connection.close()


@dataclass(frozen=True, slots=True)
class _Target:
    origin: _Origin
    start: str
    """The request line after its method, and the headers that are always sent."""


class HttpClient:
    """Connections to every provider; an async context manager. ``timers`` hold for each request.

    ``tls`` says whom https trusts; the system's authorities when None.
    """

    def __init__(self, *, timers: Timers, tls: ssl.SSLContext | None = None) -> None:
        self._timers = timers
        self._origins: dict[tuple[str, str, int], _Origin] = {}
        self._targets: dict[str, _Target] = {}
        self._tls = tls
        self._entered = False

    async def __aenter__(self) -> HttpClient:
        """Return the client; it connects when asked to."""
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the idle connections."""
        self._entered = False
        for origin in self._origins.values():
            while origin.idle:
                origin.idle.pop().close()
        # Transports close in the loop's next round.
        await asyncio.sleep(0)

    async def post(self, url: str, *, body: Body, headers: Mapping[str, str]) -> HttpAnswer:
        """Send a request and return when the answer's head is there; the caller closes the answer.

        Raises UnreachableError, UpstreamFailed or UpstreamTimeout.
        """
        return await self.request("POST", url, body=body, headers=headers)

    async def request(self, method: str, url: str, *, body: Body = b"", headers: Mapping[str, str]) -> HttpAnswer:
        """Send a request of any method, without a body when ``body`` is empty; else the same as ``post``."""
        if not self._entered:
            raise RuntimeError("the client is used outside of its context")
        target = self._targets.get(url) or self._new_target(url)
        loop = asyncio.get_running_loop()
        now = loop.time()
        deadline = now + self._timers.total_timeout_seconds
        pieces = body if isinstance(body, tuple) else (body,)
        head = _head(method, target.start, headers=headers, size=sum(map(len, pieces)))
        connection = target.origin.take(now=now) or await self._connect(target.origin)
        try:
            await connection.send(head, pieces, bodyless=method == "HEAD")
            await connection.head(until=min(loop.time() + self._timers.first_byte_timeout_seconds, deadline))
        except TimeoutError:
            connection.close()
            raise UpstreamTimeout("The provider did not answer in time.", code="upstream_timeout") from None
        except BrokenConnection:
            connection.close()
            raise UpstreamFailed("The provider closed the connection.", code="upstream_failed") from None
        except BaseException:
            # The caller has gone, and the provider must see it.
            connection.close()
            raise
        return HttpAnswer(connection, origin=target.origin, timers=self._timers, deadline=deadline)

    async def _connect(self, origin: _Origin) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timers.connect_timeout_seconds):
                _, connection = await loop.create_connection(Connection, origin.host, origin.port, ssl=origin.tls)
        except (TimeoutError, OSError):
            raise UnreachableError("The provider cannot be reached.", code="upstream_unreachable") from None
        return connection

    def _new_target(self, url: str) -> _Target:
        parts = urlsplit(url)
        host, secure = parts.hostname or "", parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        key = (parts.scheme, host, port)
        if key not in self._origins:
            if secure and self._tls is None:
                self._tls = ssl.create_default_context()
            self._origins[key] = _Origin(host, port, self._tls if secure else None)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        authority = parts.netloc.rpartition("@")[2]
        target = _Target(self._origins[key], f" {path} HTTP/1.1\r\nhost: {authority}\r\n{_DEFAULT_HEADERS}")
        if _LINE_BREAK.search(path + authority) or " " in path:
            raise ValueError("a URL with a space or a line break")
        # Paths may hold ids, and the table must not grow with them.
        if len(self._targets) < _KNOWN_URLS:
            self._targets[url] = target
        return target


def _head(method: str, start: str, *, headers: Mapping[str, str], size: int) -> bytes:
    text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if len(_LINE_BREAK.findall(text)) != 2 * len(headers):
        raise ValueError("a header with a line break")
    if size or method in ("POST", "PUT", "PATCH"):
        text += f"content-length: {size}\r\n"
    return f"{method}{start}{text}\r\n".encode("latin-1")
