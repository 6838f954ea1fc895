"""HTTP to providers: four timers, and errors in the gateway's own terms, over aiohttp (docs/adr/0011).

No retries and no redirects here: the router is the only one who repeats a request that a provider may have seen.
"""

from __future__ import annotations

import asyncio
import errno
import math
import re
import ssl
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import aiohttp
import structlog
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http import RawResponseMessage
from yarl import URL

from common.errors import UpstreamFailed, UpstreamMalformed, UpstreamTimeout
from common.upstream.http_answer import HttpAnswer, Timers
from common.upstream.http_connection import BrokenConnection, HttpConnection, NotReceived
from common.upstream.http_parser import MalformedAnswer
from common.upstream.proxies import Proxies, Proxy
from common.upstream.unreachable import reason_of

__all__ = ("Body", "HttpAnswer", "HttpClient", "Timers", "UnreachableError")

Body: TypeAlias = bytes | memoryview | tuple[bytes | memoryview, ...]
"""A request's body, whole or in pieces; a large one in pieces is sent without ever being put together."""

_KNOWN_URLS: Final = 256
# Two that were closed in the moment of their reuse may be chance; after a third, none is trusted.
_UNUSED_TRIED: Final = 3
_LINE_BREAK: Final = re.compile(r"[\r\n\0]")
# Identity, because what is not decompressed need not be compressed again, and events must not wait in a codec.
_DEFAULT_HEADERS: Final = "accept: */*\r\naccept-encoding: identity\r\nuser-agent: turnpike/0.1\r\n"

_log = structlog.get_logger()


class UnreachableError(UpstreamFailed):
    """No connection came about, so the provider has seen nothing of the request and it may be repeated."""


@dataclass(frozen=True, slots=True)
class _Target:
    origin: aiohttp.ClientRequest
    """What aiohttp connects by."""
    start: str
    """The request line after its method, and the headers that are always sent."""


class _Origin(aiohttp.ClientRequest):
    """What aiohttp connects by. Its key never changes, and is not made anew for each request."""

    @cached_property
    def connection_key(self) -> ConnectionKey:
        return super().connection_key


class HttpClient:
    """Connections to every provider; an async context manager. ``timers`` hold for each request.

    ``tls`` says whom https trusts; the system's authorities when None. Only ``proxies`` are used, whatever the
    environment says. An unused connection is closed after ``idle_seconds``, or earlier if the provider says so; there
    are at most ``max_connections``, and whoever gets none within the connect timer has not reached the provider.
    """

    def __init__(
        self,
        *,
        timers: Timers,
        tls: ssl.SSLContext | None = None,
        proxies: Proxies | None = None,
        idle_seconds: float = 30.0,
        max_connections: int = 8192,
    ) -> None:
        self._timers = timers
        self._tls = tls
        self._proxies = proxies or Proxies()
        self._idle_seconds = idle_seconds
        self._max_connections = max_connections
        seconds = min(timers.connect_timeout_seconds, timers.total_timeout_seconds)
        self._connect_timeout = aiohttp.ClientTimeout(connect=seconds, ceil_threshold=math.inf)
        self._connector: aiohttp.TCPConnector | None = None
        self._connections: weakref.WeakSet[HttpConnection] = weakref.WeakSet()
        self._origins: dict[str, aiohttp.ClientRequest] = {}
        self._targets: dict[str, _Target] = {}

    async def __aenter__(self) -> HttpClient:
        """Return the client; it connects when asked to."""
        self._connector = aiohttp.TCPConnector(
            # The system's resolver, with its hosts file; aiohttp would take another one when it finds it installed.
            resolver=aiohttp.ThreadedResolver(),
            ssl=self._tls or True,
            keepalive_timeout=self._idle_seconds,
            limit=self._max_connections,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections at once: one that still has to send something would keep it waiting."""
        connector, self._connector = self._connector, None
        if connector is not None:
            for connection in self._connections:
                connection.abort()
            await connector.close()

    async def post(self, url: str, *, body: Body, headers: Mapping[str, str]) -> HttpAnswer:
        """Send a request and return when the answer's head is there; the caller closes the answer.

        Raises UnreachableError, UpstreamFailed or UpstreamTimeout.
        """
        return await self.request("POST", url, body=body, headers=headers)

    async def request(self, method: str, url: str, *, body: Body = b"", headers: Mapping[str, str]) -> HttpAnswer:
        """Send a request of any method, without a body when ``body`` is empty; else the same as ``post``."""
        target = self._targets.get(url) or self._new_target(url)
        deadline = asyncio.get_running_loop().time() + self._timers.total_timeout_seconds
        pieces = body if isinstance(body, tuple) else (body,)
        head = _head(method, target.start, headers=headers, size=sum(map(len, pieces)))
        bodyless = method == "HEAD"
        for _ in range(_UNUSED_TRIED):
            connection = await self._connect(target.origin)
            try:
                message = await self._ask(connection, head, pieces, bodyless=bodyless, deadline=deadline)
                break
            except NotReceived:
                # It had closed an unused connection and never saw the request.
                continue
        else:
            # This closes the unused connections, which are all suspect now.
            connection = await self._connect(target.origin, unused=False)
            message = await self._ask(connection, head, pieces, bodyless=bodyless, deadline=deadline)
        try:
            return HttpAnswer(connection, message, timers=self._timers, deadline=deadline)
        except UpstreamFailed:
            connection.close()
            raise

    async def _ask(
        self,
        connection: HttpConnection,
        head: bytes,
        body: Sequence[bytes | memoryview],
        *,
        bodyless: bool,
        deadline: float,
    ) -> RawResponseMessage:
        """Send a request and return the answer's head; raises NotReceived where another connection may be tried."""
        now = asyncio.get_running_loop().time()
        until = min(now + self._timers.first_byte_timeout_seconds, deadline)
        try:
            await connection.send(head, body, bodyless=bodyless, until=until)
            return await connection.head(until=until)
        except BaseException as error:
            # Also when the caller has gone: the provider must see it.
            connection.close()
            if isinstance(error, TimeoutError):
                raise UpstreamTimeout("The provider did not answer in time.", code="upstream_timeout") from None
            if isinstance(error, MalformedAnswer):
                raise UpstreamMalformed("The provider's answer is not HTTP.", code="upstream_malformed") from None
            if isinstance(error, BrokenConnection):
                raise UpstreamFailed("The provider closed the connection.", code="upstream_failed") from None
            if isinstance(error, NotReceived) and not connection.served:
                raise UnreachableError("The provider took no request.", code="upstream_unreachable") from None
            raise

    async def _connect(self, origin: aiohttp.ClientRequest, *, unused: bool = True) -> HttpConnection:
        """Return a connection for one exchange, an ``unused`` one if there is one; raises UnreachableError."""
        if self._connector is None:
            raise RuntimeError("the client is used outside of its context")
        while True:
            try:
                pooled = await self._connector.connect(origin, traces=[], timeout=self._connect_timeout)
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise self._unreachable(origin.url, error) from None
            transport, handler = pooled.transport, pooled.protocol
            if transport is None or handler is None:
                pooled.close()
                raise self._unreachable(origin.url, ConnectionResetError(errno.ECONNRESET, ""))
            connection = transport.get_protocol()
            if not isinstance(connection, HttpConnection):
                connection = HttpConnection(transport, handler)
                self._connections.add(connection)
                transport.set_protocol(connection)
            if connection.take(pooled) and (unused or not connection.served):
                return connection
            connection.close()
            if not connection.served:
                raise self._unreachable(origin.url, ConnectionResetError(errno.ECONNRESET, ""))

    def _unreachable(self, url: URL, error: Exception) -> UnreachableError:
        reason = reason_of(error, seconds=self._timers.connect_timeout_seconds)
        _log.warning("upstream unreachable", host=url.host, port=url.port, reason=reason)
        return UnreachableError(f"The provider cannot be reached: {reason}.", code="upstream_unreachable")

    def _new_target(self, url: str) -> _Target:
        parts = urlsplit(url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        authority = parts.netloc.rpartition("@")[2]
        if _LINE_BREAK.search(path + authority) or " " in path:
            raise ValueError("a URL with a space or a line break")
        address = f"{parts.scheme}://{authority}"
        proxy = self._proxies.proxy_for(address)
        origin = self._origins.get(address)
        if origin is None:
            origin = self._origins[address] = _origin(URL(address), proxy)
        start = f"host: {origin.headers['host']}\r\n{_DEFAULT_HEADERS}"
        if proxy is not None and parts.scheme == "http":
            # https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2: what a proxy is asked for is a whole URL.
            path = f"{address}{path}"
            start += "".join(f"{name}: {value}\r\n" for name, value in proxy.headers.items())
        target = _Target(origin, f" {path} HTTP/1.1\r\n{start}")
        # Paths may hold ids, and the table must not grow with them.
        if len(self._targets) < _KNOWN_URLS:
            self._targets[url] = target
        return target


def _origin(url: URL, proxy: Proxy | None) -> aiohttp.ClientRequest:
    """Return what aiohttp connects by."""
    loop = asyncio.get_running_loop()
    request = _Origin("POST", url, loop=loop)
    if proxy is None:
        return request
    # With the host, which aiohttp adds for the tunnel: these headers are part of what it keeps connections by.
    headers = {"Host": request.headers["host"], **proxy.headers}
    return _Origin("POST", url, loop=loop, proxy=URL(proxy.url), proxy_headers=headers)


def _head(method: str, start: str, *, headers: Mapping[str, str], size: int) -> bytes:
    text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if len(_LINE_BREAK.findall(text)) != 2 * len(headers):
        raise ValueError("a header with a line break")
    if size or method in ("POST", "PUT", "PATCH"):
        text += f"content-length: {size}\r\n"
    return f"{method}{start}{text}\r\n".encode("latin-1")
