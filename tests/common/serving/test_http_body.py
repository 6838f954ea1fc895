"""google.api.HttpBody, read and written without the runtime's copies."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from common.reply import Head
from common.serving.http_body import HttpReply, body_view, serialized
from common.serving.interceptor import Context
from tests.common.builders import a_call

_large = st.integers(0, 40_000).map(lambda size: b"x" * size)


@given(st.text(max_size=300), st.binary() | _large, st.booleans())
def test_the_data_is_that_of_the_runtimes_own_message(content_type: str, data: bytes, extended: bool) -> None:  # noqa: FBT001
    extensions = [any_pb2.Any(type_url="x", value=b"y")] if extended else []
    message = HttpBody(content_type=content_type, data=data, extensions=extensions).SerializeToString()
    view = body_view(message).data
    assert bytes(view) == data
    if data and not extended:
        assert view.obj is message, "a view, not a copy"


@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda tail: b"\x0a\x02aa\x12" + tail))
def test_any_bytes_are_read_as_the_runtime_reads_them(message: bytes) -> None:
    try:
        expected = HttpBody.FromString(message).data
    except DecodeError:
        # The runtime is stricter about the content type, which nobody here reads; the rest must be refused in its way.
        with suppress(DecodeError):
            body_view(message)
    else:
        assert bytes(body_view(message).data) == expected


@given(st.binary() | _large, st.text(max_size=300))
def test_what_is_serialized_is_what_the_runtime_reads(data: bytes, content_type: str) -> None:
    message = HttpBody.FromString(serialized(data, content_type=content_type))
    assert (message.data, message.content_type) == (data, content_type)


class FakeContext:
    """Keeps what is sent; from the moment it is ``closed`` it refuses messages as the runtime does."""

    def __init__(self) -> None:
        self.head: list[tuple[str, str]] = []
        self.messages: list[HttpBody] = []
        self.closed = False

    async def send_initial_metadata(self, metadata: Any) -> None:
        self.head += metadata

    async def write(self, message: bytes) -> None:
        if self.closed:
            raise grpc.aio.UsageError("RPC already finished.")
        self.messages.append(HttpBody.FromString(message))


def a_reply() -> tuple[HttpReply, FakeContext]:
    context = FakeContext()
    return HttpReply(a_call(), cast(Context, context)), context


async def test_the_head_leaves_with_the_first_piece_and_the_last_piece_is_returned() -> None:
    reply, context = a_reply()
    reply.begin(Head(429, "text/plain", {"retry-after": "7"}))
    assert context.head == []
    await reply.write(b"a")
    await reply.write(b"b")
    assert HttpBody.FromString(await reply.end(b"c")) == HttpBody(data=b"c")
    assert dict(context.head) == {"retry-after": "7", "x-request-id": "req-1", "x-http-status": "429"}
    assert context.messages == [HttpBody(content_type="text/plain", data=b"a"), HttpBody(data=b"b")]


async def test_an_answer_of_one_piece_is_one_message_with_its_head() -> None:
    reply, context = a_reply()
    reply.begin(Head(201, "text/plain"))
    assert HttpBody.FromString(await reply.end(b"")) == HttpBody(content_type="text/plain")
    assert dict(context.head)["x-http-status"] == "201"
    assert context.messages == []


async def test_a_call_that_is_closed_is_a_caller_who_has_gone() -> None:
    reply, context = a_reply()
    reply.begin(Head())
    await reply.write(b"a")
    context.closed = True
    with pytest.raises(asyncio.CancelledError):
        await reply.write(b"b")
