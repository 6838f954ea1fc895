"""Reads the one request message of a call."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from common.errors import InvalidRequest, RequestTimeout
from common.serving.interceptor import Context

_MESSAGE_SECONDS: Final = 60.0
"""How long a request message may take to arrive; the edge sends a whole body at once."""


async def read_message(context: Context) -> Any:
    """Return the request message; raises InvalidRequest when it cannot be parsed, RequestTimeout when it is late."""
    try:
        async with asyncio.timeout(_MESSAGE_SECONDS):
            message = await context.read()
    except DecodeError:
        raise unreadable() from None
    except TimeoutError:
        raise RequestTimeout("The request message did not arrive in time.") from None
    if message is grpc.aio.EOF:
        raise InvalidRequest("The request has no message.", code="invalid_message")
    return message


def unreadable() -> InvalidRequest:
    """Return the error for a message that is not the RPC's."""
    return InvalidRequest("The request message cannot be parsed.", code="invalid_message")
