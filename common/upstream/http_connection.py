"""One HTTP/1.1 connection to a provider, on asyncio's protocols with llhttp as its parser.

A general client spends more on each request than everything else here together (docs/adr/0007), so this one does only
what a gateway needs: one request at a time, bytes as they come, flow control both ways.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, cast

import httptools

from common.upstream.arrival import Arrival

_HIGH_WATER: Final = 256 * 1024
_SLICE: Final = 256 * 1024
_COMPRESSED: Final = ("gzip", "x-gzip", "deflate")


class BrokenConnection(Exception):
    """The other side closed, or sent what is no HTTP."""


class Connection(asyncio.Protocol):
    """A connection and the exchange on it; ``reusable`` says whether another exchange may follow."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._arrival = Arrival(self._loop)
        # One for all exchanges: only a connection whose answer was parsed to its end serves again.
        self._parser = httptools.HttpResponseParser(self)
        self._writable: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._until = 0.0
        self._lost = False
        self._begin()

    def _begin(self) -> None:
        self._parts: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False
        self._ended = False
        self._broken = False
        self._bodyless = False
        self._inflate: zlib._Decompress | None = None
        self._until_close = True
        self.status = 0
        self.headers: dict[str, str] = {}
        self.reusable = False
        self.idle_since = 0.0

    async def send(self, head: bytes, body: Sequence[bytes | memoryview], *, bodyless: bool) -> None:
        """Write a request; returns early when the answer comes first. ``bodyless``: the answer will have no body."""
        self._begin()
        self._bodyless = bodyless
        transport = self._open_transport()
        size = sum(map(len, body))
        if size <= _SLICE:
            transport.write(b"".join((head, *body)))
            return
        transport.write(head)
        for piece in _slices(body):
            if self._writable is not None:
                await self._writable
            if self.status or self._lost:
                return
            # In slices, because one write of many megabytes would hold up every other request of the process.
            transport.write(piece)

    async def head(self, *, until: float) -> None:
        """Return when ``status`` and ``headers`` are there; raises BrokenConnection, TimeoutError at ``until``."""
        while not self.status:
            if self._broken or self._lost:
                raise BrokenConnection
            await self._wait(until)

    async def read(self, *, until: float) -> bytes:
        """Return what has come of the body, b"" at its end; raises BrokenConnection, TimeoutError at ``until``."""
        if self._loop.time() >= until:
            # However much is there: a body without end must end too.
            raise TimeoutError
        while not self._parts:
            if self._ended:
                return b""
            if self._broken or self._lost:
                raise BrokenConnection
            await self._wait(until)
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._buffered = 0
        if self._paused:
            self._paused = False
            self._open_transport().resume_reading()
        return data

    @property
    def open(self) -> bool:
        """Say whether the connection still stands."""
        return not self._lost and self._transport is not None and not self._transport.is_closing()

    @property
    def ended(self) -> bool:
        """Say whether the answer's end has come."""
        return self._ended

    @property
    def finished(self) -> bool:
        """Say whether the exchange is over and another may follow."""
        return self._ended and not self._parts and self.reusable and self.open

    def close(self) -> None:
        """Close at once; the other side sees it."""
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # Cast, not checked: uvloop's transports are not derived from asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        if self._ended or self._broken:
            # Nothing was asked: whatever this is, the connection cannot be trusted any more.
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, zlib.error):
            self._broken = True
            self.close()
        self._arrival.wake()

    def eof_received(self) -> None:
        """End a body that has no other end."""
        if self.status and self._until_close and not self._broken:
            self._ended = True

    def connection_lost(self, error: Exception | None) -> None:
        """Wake whoever waits."""
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
        self.resume_writing()
        self._arrival.wake()

    def pause_writing(self) -> None:
        """Hold back a large request."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Go on with a large request."""
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; of a repeated one the last."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Take the head of the final answer."""
        status = self._parser.get_status_code()
        if status < 200:
            self.headers = {}
            return
        headers = self.headers
        chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._until_close = not chunked and "content-length" not in headers
        self.reusable = self._parser.should_keep_alive() and not self._until_close
        if headers.get("content-encoding", "").lower() in _COMPRESSED:
            # Asked for identity, it compressed all the same. 32 + 15: gzip or zlib, whichever it is.
            self._inflate = zlib.decompressobj(32 + zlib.MAX_WBITS)
        self.status = status
        if self._bodyless:
            self._ended = True
            self.reusable = False

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body, and stop reading when nobody takes it."""
        data = self._inflate.decompress(body) if self._inflate is not None else body
        if not data or self._bodyless:
            return
        self._parts.append(data)
        self._buffered += len(data)
        if self._buffered > _HIGH_WATER and not self._paused:
            self._paused = True
            self._open_transport().pause_reading()

    def on_message_complete(self) -> None:
        """End the answer."""
        if self.status:
            self._ended = True

    def _open_transport(self) -> asyncio.Transport:
        if self._transport is None:
            raise BrokenConnection
        return self._transport

    async def _wait(self, until: float) -> None:
        self._until = until
        if self._timer is None or until < self._timer.when():
            self._set_timer(until)
        await self._arrival

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._expire)

    def _expire(self) -> None:
        """End a wait whose time is over. The timer is set anew for a later wait only here, not for each of them."""
        self._timer = None
        if not self._arrival.awaited:
            return
        if self._loop.time() < self._until:
            self._set_timer(self._until)
        else:
            self._arrival.wake(TimeoutError())


def _slices(pieces: Sequence[bytes | memoryview]) -> Iterator[memoryview]:
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), _SLICE):
            yield view[start : start + _SLICE]
