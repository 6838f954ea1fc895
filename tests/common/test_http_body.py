"""google.api.HttpBody, read without a copy."""

from __future__ import annotations

from contextlib import suppress

from google.api.httpbody_pb2 import HttpBody
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from common.http_body import body_view

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
