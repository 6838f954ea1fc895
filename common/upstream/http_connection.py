"""Exchanges of requests and answers on a connection that aiohttp has made.

aiohttp looks names up, connects, speaks TLS, passes proxies, keeps unused connections and parses HTTP. What it does
not promise is here: a connection serves again only when the request was sent whole and the answer read whole, what
came before a cut is not lost, the timers hold while a request is being sent, and a wait costs no task (docs/adr/0011).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage

from common.upstream.http_parser import AnswerParser, MalformedAnswer, ParserProtocol
from common.upstream.socket_state import SocketPoll, is_unacknowledged

_HIGH_WATER: Final = 256 * 1024
_SLICE: Final = 256 * 1024


class BrokenConnection(Exception):
    """The provider closed the connection."""


class NotReceived(Exception):
    """The provider had closed the connection before any byte of the request reached it."""


class HttpConnection(asyncio.Protocol):
    """The protocol of one connection: one exchange after the other, each begun by ``take`` and ended by ``close``.

    It stands between the transport and aiohttp's ``handler``, which only learns that the connection is lost.
    """

    def __init__(self, transport: asyncio.Transport, handler: ResponseHandler) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._handler = handler
        self._poll: SocketPoll | None = None
        self._parser_protocol = ParserProtocol(self._loop)
        self._pooled: Connection | None = None
        self._answer: AnswerParser | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._until = 0.0
        self._closes_when_idle = False
        self._write_paused = False
        self._read_paused = False
        self._request_bytes = 0
        self._sent = False
        self._received = False
        self._not_received = False
        self._malformed = False
        self._lost = False
        self.served = 0
        """How many exchanges there were before this one."""

    def take(self, pooled: Connection) -> bool:
        """Begin an exchange on what aiohttp's pool gave; returns False when something came while nothing was asked."""
        self._pooled = pooled
        self._answer = None
        self._sent = self._received = self._closes_when_idle = False
        if not self._open:
            return False
        if not self.served:
            return not self._handler.should_close
        self._poll = self._poll or SocketPoll(self._transport)
        return not self._poll.has_come()

    async def send(self, head: bytes, body: Sequence[bytes | memoryview], *, bodyless: bool, until: float) -> None:
        """Write a request; returns early when the answer comes first, raises TimeoutError at ``until``.

        ``bodyless`` says that the answer will have no body.
        """
        self._answer = AnswerParser(self._parser_protocol, self._loop, bodyless=bodyless)
        size = sum(map(len, body))
        self._request_bytes = len(head) + size
        if size <= _SLICE:
            self._transport.write(b"".join((head, *body)))
            self._sent = True
            return
        self._transport.write(head)
        for piece in _slices(body):
            while self._write_paused and not self._is_over:
                await self._next(until)
            if self._is_over:
                return
            # In slices, because one write of many megabytes would hold up every other request of the process.
            self._transport.write(piece)
        self._sent = True

    async def head(self, *, until: float) -> RawResponseMessage:
        """Return the answer's head; raises MalformedAnswer, BrokenConnection, NotReceived, or TimeoutError."""
        answer = self._current()
        while answer.message is None:
            if self._not_received:
                raise NotReceived
            self._check()
            await self._next(until)
        return answer.message

    async def read(self, *, until: float) -> bytes:
        """Return what has come of the body, b"" at its end; raises as ``head``."""
        if self._loop.time() >= until:
            # However much is there: a body without end must end too.
            raise TimeoutError
        answer = self._current()
        while not answer.parts:
            if answer.ended:
                return b""
            self._check()
            await self._next(until)
        data = answer.take()
        if self._read_paused:
            self._read_paused = False
            if self._open:
                self._transport.resume_reading()
        return data

    @property
    def ended(self) -> bool:
        """Say whether the answer's end has come, and all before it was taken."""
        return self._answer is not None and self._answer.ended and not self._answer.parts

    def close(self, *, idle_seconds: float | None = None) -> None:
        """End the exchange: keep a connection that may serve again, for ``idle_seconds`` at most; close any other."""
        pooled, self._pooled = self._pooled, None
        if pooled is None:
            return
        answer = self._answer
        if (
            answer is None
            or not self._sent
            or not answer.may_be_followed
            or answer.parts
            or not self._open
            or (idle_seconds is not None and idle_seconds <= 0)
        ):
            self._transport.abort()
            pooled.close()
            return
        self.served += 1
        if idle_seconds is not None:
            self._closes_when_idle = True
            self._arm(self._loop.time() + idle_seconds)
        pooled.release()

    def abort(self) -> None:
        """Close the connection at once, whatever it does; whoever waits on it gets an error."""
        self._transport.abort()

    # What asyncio calls.

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        self._received = True
        answer = self._answer
        if self._pooled is None or answer is None or answer.ended:
            # Nothing was asked: whatever this is, the connection cannot be trusted any more.
            self._transport.abort()
            return
        try:
            answer.feed(data)
        except MalformedAnswer:
            self._malformed = True
            self._transport.abort()
        if answer.buffered > _HIGH_WATER and not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """End a body that has no other end."""
        if not self._received:
            self._not_received = is_unacknowledged(self._transport, self._request_bytes)
        if self._answer is not None:
            self._answer.feed_eof()

    def connection_lost(self, error: Exception | None) -> None:
        """Wake whoever waits, and tell the pool."""
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
        self._handler.connection_lost(error)
        self._wake()

    def pause_writing(self) -> None:
        """Hold back a large request."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """Go on with a large request."""
        self._write_paused = False
        self._wake()

    @property
    def _open(self) -> bool:
        return not self._lost and not self._transport.is_closing()

    @property
    def _is_over(self) -> bool:
        """Say whether it is of no use to send more."""
        return self._current().message is not None or self._malformed or self._lost

    def _current(self) -> AnswerParser:
        if self._answer is None:
            raise BrokenConnection
        return self._answer

    def _check(self) -> None:
        if self._malformed:
            raise MalformedAnswer
        if self._lost:
            raise BrokenConnection

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        # It is done when whoever waited was cancelled.
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _next(self, until: float) -> asyncio.Future[None]:
        """Return what is done when something has happened, at ``until`` at the latest; raises TimeoutError after it.

        No coroutine, because each event of a stream resumes all that wait for it.
        """
        if self._loop.time() >= until:
            raise TimeoutError
        self._arm(until)
        self._waiter = waiter = self._loop.create_future()
        return waiter

    def _arm(self, until: float) -> None:
        """Set the timer, unless it rings before: it is set anew when it rings, not for each wait."""
        self._until = until
        if self._timer is None or until < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(until, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._waiter is None and not self._closes_when_idle:
            return
        if self._loop.time() < self._until:
            self._arm(self._until)
        elif self._closes_when_idle:
            self._transport.abort()
        else:
            self._wake()


def _slices(pieces: Sequence[bytes | memoryview]) -> Iterator[memoryview]:
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), _SLICE):
            yield view[start : start + _SLICE]
