"""One answer, parsed as its bytes come: heads and most bodies by aiohttp's parser, chunks by httptools.

Both are llhttp. For each chunk aiohttp's makes three calls of Python, and one more to take it; httptools none: 100
chunks, an event each, take 22 us instead of 101 (docs/adr/0011).
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import Final

from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError, HttpResponseParser, RawResponseMessage
from httptools import HttpParserError
from httptools import HttpResponseParser as ChunkParser

MAX_HEAD_BYTES: Final = 256 * 1024
"""How long a head may be, all its lines together."""

# The parser's own flow control stays out of the way: each piece is taken from it at once.
_PARSER_LIMIT: Final = 1 << 30
_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
_ENDS_CHUNKS: Final = re.compile(rb"[^\n]\r\n\r\n")
_WITHOUT_BODY: Final = (204, 304)
_HEAD_OF_CHUNKS: Final = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*:([^\0\r]*)")


class MalformedAnswer(Exception):
    """The provider sent what is not HTTP."""


class ParserProtocol(BaseProtocol):
    """What aiohttp's parser asks to stop and to go on; it need not."""

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's signature
        """Do nothing."""


class _Chunks:
    """What httptools calls. It does not know its parser: the two would otherwise keep each other, and the data."""

    def __init__(self, parts: deque[bytes]) -> None:
        self.ended = False
        self.on_body = parts.append

    def on_message_begin(self) -> None:
        """Take the begin of this answer; raises HttpParserError for that of a further one."""
        if self.ended:
            raise HttpParserError

    def on_message_complete(self) -> None:
        """Take the end."""
        self.ended = True


class ChunkedBody:
    """A chunked body: appends the data of its chunks to ``parts``. Trailers are dropped.

    ``feed`` raises HttpParserError; what came before the fault is in ``parts``.
    """

    def __init__(self, parts: deque[bytes]) -> None:
        self._chunks = _Chunks(parts)
        parser = ChunkParser(self._chunks)
        # The same that aiohttp allows answers.
        parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        parser.feed_data(_HEAD_OF_CHUNKS)
        self.feed = parser.feed_data

    @property
    def ended(self) -> bool:
        """Say whether the end has come."""
        return self._chunks.ended


class AnswerParser:
    """Parses one answer. ``bodyless``: it has no body, whatever its head says.

    What has come of the body lies in ``parts``; an answer to a HEAD request is one that has no body.
    """

    def __init__(self, protocol: ParserProtocol, loop: asyncio.AbstractEventLoop, *, bodyless: bool) -> None:
        self._protocol = protocol
        self._loop = loop
        self._bodyless = bodyless
        self._parser = self._new_parser()
        self._head = bytearray()
        self._payload: StreamReader | None = None
        self._chunks: ChunkedBody | None = None
        self._body_bytes = 0
        self.message: RawResponseMessage | None = None
        """The head of the final answer, once it is there."""
        self.parts: deque[bytes] = deque()
        self.buffered = 0
        """How many bytes lie in ``parts`` at most."""
        self.ended = False
        self.may_be_followed = False
        """Whether the answer has ended by itself, with not a byte after it, so that its connection may serve again."""

    def feed(self, data: bytes) -> None:
        """Parse what has come; raises MalformedAnswer, after which ``parts`` has what came before the fault."""
        try:
            if self.message is None:
                data = self._feed_head(data)
            if self._chunks is not None:
                self._feed_chunks(data, self._chunks)
            elif self._payload is not None:
                self._feed_body(data, self._payload)
        except (HttpProcessingError, HttpParserError):
            # Behind a whole answer it does not matter what comes: only the connection is of no use any more.
            self.may_be_followed = False
            if not self.ended:
                raise MalformedAnswer from None

    def feed_eof(self) -> None:
        """Take the connection's end, which ends a body that has no other end."""
        if self._payload is not None and self._chunks is None and not self.ended:
            try:
                self._parser.feed_eof()
            except HttpProcessingError:
                return
            self.ended = self._payload.is_eof()

    def take(self) -> bytes:
        """Return what has come of the body since the last time."""
        data = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        self.parts.clear()
        self.buffered = 0
        return data

    def _new_parser(self) -> HttpResponseParser:
        return HttpResponseParser(
            self._protocol,
            self._loop,
            _PARSER_LIMIT,
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            max_headers=MAX_HEAD_BYTES,
            response_with_body=not self._bodyless,
            read_until_eof=True,
            auto_decompress=False,
        )

    def _feed_head(self, data: bytes) -> bytes:
        """Parse heads up to the one of the final answer, and return what follows it."""
        head = self._head
        searched = max(0, len(head) - 3)
        head += data
        if head.startswith((b"\r", b"\n")):
            head = self._head = head.lstrip(b"\r\n")
            searched = 0
        if not b"HTTP/".startswith(bytes(head[:5])):
            raise MalformedAnswer
        while (end := _end_of_head(head, searched)) >= 0:
            message, payload = self._parse_head(bytes(head[:end]))
            del head[:end]
            if message.code >= 200:
                self.message, self._payload = message, payload
                if message.chunked and not self._bodyless and message.code not in _WITHOUT_BODY:
                    self._chunks = ChunkedBody(self.parts)
                return bytes(head)
            if message.code < 100 or message.code == 101:
                raise MalformedAnswer
            searched = 0
        if len(head) > MAX_HEAD_BYTES:
            raise MalformedAnswer
        return b""

    def _parse_head(self, head: bytes) -> tuple[RawResponseMessage, StreamReader]:
        try:
            messages, _, _ = self._parser.feed_data(head)
        except HttpProcessingError:
            self._parser = self._new_parser()
            messages, _, _ = self._parser.feed_data(repaired(head))
        if not messages:
            raise MalformedAnswer
        return messages[0]

    def _feed_chunks(self, data: bytes, chunks: ChunkedBody) -> None:
        try:
            chunks.feed(data)
        finally:
            self.ended = chunks.ended
            if self.parts:
                self.buffered += len(data)
        if self.ended and self.message is not None:
            # Line ends behind it show only in the bytes: the parser skips them.
            self.may_be_followed = not self.message.should_close and _ENDS_CHUNKS.fullmatch(data[-5:]) is not None

    def _feed_body(self, data: bytes, payload: StreamReader) -> None:
        further: object = ()
        self._body_bytes += len(data)
        try:
            if data:
                further, _, _ = self._parser.feed_data(data)
        finally:
            part = payload.read_nowait()
            if part:
                self.parts.append(part)
                self.buffered += len(part)
            self.ended = payload.is_eof()
        if self.ended and self.message is not None and not further:
            # A part of a further answer shows only in the bytes: the parser keeps it to itself. Chunks that the head of
            # an answer without a body speaks of may come yet, and would be read as the next answer.
            self.may_be_followed = (
                not self.message.should_close and not self.message.chunked and self._body_bytes == payload.total_bytes
            )


def repaired(head: bytes) -> bytes:
    """Return the head without the lines that are no fields; a folded line is joined to the one before it.

    No field that decides where the body ends is lost: a blank before the colon is taken away, as a proxy must, and a
    content-length that is repeated is taken once. The grammar: https://www.rfc-editor.org/rfc/rfc9112#section-5
    """
    status, *lines = head.split(b"\n")
    fields: list[bytes] = []
    kept = False
    for line in lines:
        text = line.removesuffix(b"\r")
        if text.startswith((b" ", b"\t")):
            if kept and _FIELD.fullmatch(b"x:" + text):
                fields[-1] += b" " + text.strip()
            continue
        match = _FIELD.fullmatch(text)
        kept = match is not None
        if match is not None:
            fields.append(match[1] + b":" + match[2])
    lengths = [field for field in fields if field.partition(b":")[0].lower() == b"content-length"]
    if len({field.partition(b":")[2].strip() for field in lengths}) == 1:
        fields = [field for field in fields if field not in lengths] + lengths[:1]
    return b"\r\n".join([status.removesuffix(b"\r"), *fields, b"", b""])


def _end_of_head(data: bytearray, start: int) -> int:
    """Return where the first head in ``data`` ends, -1 when it does not; nothing before ``start`` is looked at."""
    match = _END_OF_HEAD.search(data, start)
    return match.end() if match else -1
