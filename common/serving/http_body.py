"""google.api.HttpBody in and out: a request's bytes without a copy, an answer's pieces with its head."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import grpc
import msgspec
from google.api.httpbody_pb2 import HttpBody

from common.reply import Head, messages_of
from common.request import Call
from common.serving import protobuf_fields
from common.serving.interceptor import Context
from common.upstream.sse import KEEP_ALIVE

_CONTENT_TYPE: Final = HttpBody.CONTENT_TYPE_FIELD_NUMBER
_DATA: Final = HttpBody.DATA_FIELD_NUMBER


class BodyView(msgspec.Struct, frozen=True):
    """A request's HttpBody whose data is a view of the bytes that came, not a copy."""

    data: memoryview


def body_view(message: bytes) -> BodyView:
    """Read a serialized HttpBody, to be used as an RPC's deserializer; raises DecodeError when it is none.

    The runtime's own message would hold a second copy for as long as the call lasts, and its ``data`` makes a third
    one at each access: 60 MiB more for a scanned document, while a provider reads it.
    """
    view = memoryview(message)
    place = 0
    if view[:1] == _tag(_CONTENT_TYPE):
        length, place = protobuf_fields.varint(view, 1)
        place += length
    if view[place : place + 1] == _tag(_DATA):
        length, start = protobuf_fields.varint(view, place + 1)
        if start + length == len(view):
            return BodyView(view[start:])
    # Extensions, fields in another order, or nothing at all: rare, so the runtime may copy.
    return BodyView(memoryview(HttpBody.FromString(message).data))


def _tag(number: int) -> bytes:
    return bytes((number << 3 | protobuf_fields.LENGTH_DELIMITED,))


def serialized(data: bytes, *, content_type: str = "") -> bytes:
    """Return the bytes of an HttpBody with these two fields."""
    typed = protobuf_fields.field(_CONTENT_TYPE, content_type.encode()) if content_type else b""
    return typed + protobuf_fields.field(_DATA, data) if data else typed


class HttpReply:
    """Answers an RPC of HttpBody: writes each piece as a message, and makes the RPC's result of the last one."""

    def __init__(self, call: Call, context: Context) -> None:
        self._call = call
        self._context = context
        self._head: Head | None = None
        self._has_begun = False

    def begin(self, head: Head) -> None:
        """Keep the head until the first piece."""
        self._head = head
        self._has_begun = True

    async def write(self, piece: bytes) -> None:
        """Send a piece; raises CancelledError when the caller has gone."""
        message = serialized(piece) if self._head is None else await self._first(self._head, piece)
        await sent(message, self._context)

    async def write_events(self, events: Sequence[bytes]) -> None:
        """Send events that came together in as few messages as they fit in."""
        for message in messages_of(events):
            await self.write(message)

    async def keep_alive(self) -> bool:
        """Send a comment, with the head of a stream before the first one."""
        if not self._has_begun:
            self.begin(Head(content_type="text/event-stream"))
        await self.write(KEEP_ALIVE)
        return True

    async def end_events(self, events: Sequence[bytes]) -> bytes:
        """Send the last pieces but one, and return the message of that one."""
        *others, last = messages_of(events) or [b""]
        for message in others:
            await self.write(message)
        return await self.end(last)

    async def end(self, piece: bytes) -> bytes:
        """Return the last message; an empty piece makes one that adds nothing to the body."""
        return serialized(piece) if self._head is None else await self._first(self._head, piece)

    async def _first(self, head: Head, piece: bytes) -> bytes:
        self._head = None
        await send_head(head, self._call, self._context)
        return serialized(piece, content_type=head.content_type)


async def sent(message: object, context: Context) -> None:
    """Write a message; raises CancelledError when the caller has gone."""
    try:
        await context.write(message)
    except grpc.aio.BaseError:
        # The call is closed already, and the runtime was about to cancel this task.
        raise asyncio.CancelledError from None


async def send_head(head: Head, call: Call, context: Context) -> None:
    """Send what the edge makes the HTTP answer's status and headers of.

    A plain 200 without headers of its own needs no message before the first piece, which spares every process on the
    way one wake-up: the edge knows the request id anyway, and native callers get it at the end.
    """
    if head.status == 200 and not head.headers:
        if call.method == "GRPC":
            context.set_trailing_metadata((("x-request-id", call.request_id),))
        return
    status = {} if head.status == 200 else {"x-http-status": str(head.status)}
    metadata: dict[str, str] = {**head.headers, "x-request-id": call.request_id, **status}
    await context.send_initial_metadata(tuple(metadata.items()))
