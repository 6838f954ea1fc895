"""google.api.HttpBody in and out: a request's bytes without a copy, an answer's pieces with its head."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from google.api.httpbody_pb2 import HttpBody

from common.call import Call, Context
from common.passthrough import PassedAnswer

_CONTENT_TYPE: Final = 0x0A
_DATA: Final = 0x12


@dataclass(frozen=True, slots=True)
class BodyView:
    """A request's HttpBody whose data is a view of the bytes that came, not a copy."""

    data: memoryview


def body_view(message: bytes) -> BodyView:
    """Read a serialized HttpBody, to be used as an RPC's deserializer; raises DecodeError when it is none.

    The runtime's own message would hold a second copy for as long as the call lasts, and its ``data`` makes a third
    one at each access: 60 MiB more for a scanned document, while a provider reads it.
    """
    view = memoryview(message)
    place = 0
    if view[:1] == bytes((_CONTENT_TYPE,)):
        length, place = _varint(view, 1)
        place += length
    if view[place : place + 1] == bytes((_DATA,)):
        length, start = _varint(view, place + 1)
        if start + length == len(view):
            return BodyView(view[start:])
    # Extensions, fields in another order, or nothing at all: rare, so the runtime may copy.
    return BodyView(memoryview(HttpBody.FromString(message).data))


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    """Return the number at ``place`` and the place after it; one that is cut off fits no message's length."""
    number = shift = 0
    for byte in view[place : place + 5]:
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return number, place
    return len(view) + 1, place


async def http_bodies(answer: PassedAnswer, call: Call, context: Context) -> AsyncIterator[HttpBody]:
    """Yield the answer's pieces; the head waits for the first, because until then a failure can become a status."""
    begun = False
    async for piece in answer.pieces:
        if begun:
            yield HttpBody(data=piece)
            continue
        begun = True
        await send_head(answer, call, context)
        yield HttpBody(content_type=answer.content_type, data=piece)


async def send_head(answer: PassedAnswer, call: Call, context: Context) -> None:
    """Send what the edge makes the HTTP answer's status and headers of.

    A plain 200 without headers of its own needs no message before the first piece, which spares every process on the
    way one wake-up: the request id then goes out at the end, and the edge knows it anyway.
    """
    if answer.status == 200 and not answer.headers:
        context.set_trailing_metadata((("x-request-id", call.request_id),))
        return
    status = {} if answer.status == 200 else {"x-http-status": str(answer.status)}
    metadata: dict[str, str] = {**answer.headers, "x-request-id": call.request_id, **status}
    await context.send_initial_metadata(tuple(metadata.items()))
