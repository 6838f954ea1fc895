"""What is read of OpenAI's requests and answers, and what must pass through unread."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.dialects.openai_chat import ChatRequest, OpenAIChat
from common.errors import InvalidRequest
from common.metering.record import UsageSource
from common.metering.units import Unit

_keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_numbers = st.one_of(
    st.integers(),
    st.integers(-(10**60), 10**60),
    st.floats(allow_nan=False, allow_infinity=False),
)
_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_values = st.recursive(
    st.one_of(st.none(), st.booleans(), _numbers, _text),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_keys, inner, max_size=3)),
    max_leaves=8,
)
_KNOWN = {"model", "messages", "stream", "stream_options"}


def read(body: bytes | memoryview) -> ChatRequest:
    return OpenAIChat().read(body)


def with_usage_asked(body: bytes) -> bytes:
    request = read(body)
    sent = request.body(model=request.model, ask_usage=True)
    assert isinstance(sent, bytes)
    return sent


class Verbatim(str):
    """A number as it was written."""

    __slots__ = ()


def as_written(body: bytes) -> Any:
    """Read JSON, and keep each number's spelling and each object's order."""
    return json.loads(
        body,
        parse_int=Verbatim,
        parse_float=Verbatim,
        object_pairs_hook=lambda pairs: list(dict(pairs).items()),
    )


@st.composite
def _bodies(draw: st.DrawFn) -> bytes:
    others = draw(st.dictionaries(_keys.filter(lambda key: key not in _KNOWN), _values, max_size=5))
    fields = {"model": "gpt", "messages": draw(st.lists(_values, max_size=3)), "stream": True, **others}
    options = draw(st.sampled_from(["absent", "null", "object"]))
    if options == "null":
        fields["stream_options"] = None
    if options == "object":
        wanted = draw(st.dictionaries(_keys, _values, max_size=3))
        fields["stream_options"] = wanted | draw(st.sampled_from([{}, {"include_usage": False}]))
    names = draw(st.permutations(list(fields)))
    indent = draw(st.sampled_from([None, 2]))
    ascii_only = draw(st.booleans())
    return json.dumps({name: fields[name] for name in names}, indent=indent, ensure_ascii=ascii_only).encode()


@given(_bodies())
@example(
    b'{"model":"m","messages":[],"stream":true,"seed":123456789012345678901234567890,"x":1.0,"y":1e5,"z":-0.0,"a":0.10}'
)
@example(b'{"model":"m","messages":[],"stream":true,"stream_options":{"x":123456789012345678901234567890,"y":1.50}}')
@example(
    '{"model":"m","stream":true,"messages":[{"content":"ä€🎉\\u00e4\\ud83c\\udf89"}],"logit_bias":{"5":1}}'.encode()
)
def test_asking_for_usage_changes_nothing_else(body: bytes) -> None:
    sent = bytes(with_usage_asked(body))
    before, after = dict(as_written(body)), dict(as_written(sent))
    options = dict(after.pop("stream_options"))
    asked = dict(before.pop("stream_options", None) or [])
    assert options == asked | {"include_usage": True}
    assert list(after.items()) == list(before.items())
    assert read(sent).is_stream == read(body).is_stream


@given(_values)
def test_each_value_keeps_its_very_bytes(value: Any) -> None:
    spelled = json.dumps(value, indent=1, ensure_ascii=False)
    body = f'{{"model":"m","messages":[],"stream":true,"x":{spelled}}}'.encode()
    assert f'"x":{spelled}'.encode() in with_usage_asked(body)


def test_a_body_that_asks_for_usage_itself_is_not_touched() -> None:
    body = b'{"model": "m",  "messages":[ ], "stream":true, "stream_options": {"include_usage": true, "x": 1.0}}'
    assert with_usage_asked(body) is body


@pytest.mark.parametrize("value", ["false", "null", "1", '"true"', "[true]"])
def test_whatever_else_include_usage_is_becomes_true(value: str) -> None:
    body = f'{{"model":"m","messages":[],"stream":true,"stream_options":{{"include_usage":{value}}}}}'.encode()
    assert json.loads(bytes(with_usage_asked(body)))["stream_options"] == {"include_usage": True}


def test_of_a_repeated_key_the_last_counts_here_and_at_the_provider() -> None:
    body = b'{"model":"a","model":"b","messages":[],"n":1,"n":2,"stream":false,"stream":true}'
    request = read(body)
    sent = bytes(with_usage_asked(body))
    assert (request.model, request.is_stream) == ("b", True)
    assert json.loads(sent) == json.loads(body) | {"stream_options": {"include_usage": True}}


@pytest.mark.parametrize("value", ["5", "true", '"yes"', "[]"])
def test_stream_options_of_another_type_are_refused(value: str) -> None:
    body = f'{{"model":"m","messages":[],"stream":true,"stream_options":{value}}}'.encode()
    with pytest.raises(InvalidRequest) as refused:
        with_usage_asked(body)
    assert refused.value.param == "stream_options"


@pytest.mark.parametrize(
    ("body", "message", "param", "code"),
    [
        (b"", "The request body is empty; send a JSON object.", None, "empty_body"),
        (b" \r\n\t", "The request body is empty; send a JSON object.", None, "empty_body"),
        (b"hello", "The request body is not valid JSON: ", None, "invalid_json"),
        (b"{", "The request body is not valid JSON: ", None, "invalid_json"),
        (b'{"model":"m","messages":[]}x', "The request body is not valid JSON: ", None, "invalid_json"),
        (b"\xff\xfe", "The request body is not valid JSON: ", None, "invalid_json"),
        (b"\xef\xbb\xbf{}", "The request body is not valid JSON: ", None, "invalid_json"),
        (b'{"model":"\xff","messages":[]}', "The request body is not valid JSON: ", None, "invalid_json"),
        (b'{"model":"\\ud800","messages":[]}', "The request body is not valid JSON: ", None, "invalid_json"),
        (b"[" * 100_000, "The request body must be a JSON object: ", None, "invalid_type"),
        (b'{"model":"m","messages":' + b"[" * 100_000, "The request body is not valid JSON: ", None, "invalid_json"),
        (b"null", "The request body must be a JSON object: ", None, "invalid_type"),
        (b"[]", "The request body must be a JSON object: ", None, "invalid_type"),
        (b'"text"', "The request body must be a JSON object: ", None, "invalid_type"),
        (b"42", "The request body must be a JSON object: ", None, "invalid_type"),
        (b"{}", "You must provide 'model'.", "model", "missing_required_parameter"),
        (b'{"messages":[]}', "You must provide 'model'.", "model", "missing_required_parameter"),
        (b'{"model":"m"}', "You must provide 'messages'.", "messages", "missing_required_parameter"),
        (b'{"model":"","messages":[]}', "'model' must not be empty.", "model", None),
        (b'{"model":null,"messages":[]}', "Invalid type for 'model': ", "model", "invalid_type"),
        (b'{"model":5,"messages":[]}', "Invalid type for 'model': ", "model", "invalid_type"),
        (b'{"model":["m"],"messages":[]}', "Invalid type for 'model': ", "model", "invalid_type"),
        (b'{"model":"m","messages":"text"}', "Invalid type for 'messages': ", "messages", "invalid_type"),
        (b'{"model":"m","messages":null}', "Invalid type for 'messages': ", "messages", "invalid_type"),
        (b'{"model":"m","messages":{}}', "Invalid type for 'messages': ", "messages", "invalid_type"),
        (b'{"model":"m","messages":[],"stream":"yes"}', "Invalid type for 'stream': ", "stream", "invalid_type"),
        (b'{"model":"m","messages":[],"stream":1}', "Invalid type for 'stream': ", "stream", "invalid_type"),
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_wrong_input_is_refused_with_what_and_where(
    body: bytes, message: str, param: str | None, code: str | None
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(body)
    error = refused.value
    assert error.message.startswith(message)
    assert (error.param, error.code) == (param, code)
    assert "`" not in error.message


@given(st.one_of(st.binary(max_size=60), _values.map(lambda value: json.dumps(value).encode())))
def test_no_body_at_all_is_an_unexpected_error(body: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        assert read(body).model


@given(_values, _values, _values, _values)
@example(10**400, 10**400, 10**400, 10**400)
@example(True, False, True, False)  # noqa: FBT003 - values of a JSON field
def test_parameters_of_any_type_are_the_providers_business(a: Any, b: Any, c: Any, d: Any) -> None:
    body = msgspec.json.encode(
        {"model": "m", "messages": [], "max_completion_tokens": a, "max_tokens": b, "temperature": c, "top_p": d}
    )
    request = read(body)
    assert request.max_tokens is None or type(request.max_tokens) is int
    for number in (request.temperature, request.top_p):
        assert number is None or math.isfinite(number)


def test_max_completion_tokens_goes_before_max_tokens() -> None:
    body = b'{"model":"m","messages":[],"max_tokens":5,"max_completion_tokens":7,"temperature":0,"top_p":0.5}'
    request = read(body)
    assert (request.max_tokens, request.temperature, request.top_p) == (7, 0.0, 0.5)
    body = b'{"model":"m","messages":[],"max_tokens":5}'
    assert read(body).max_tokens == 5


def test_a_provider_that_takes_no_stream_options_gets_the_very_bytes() -> None:
    body = b'{"model": "m",  "messages":[ ], "stream": true}'
    request = read(body)
    assert request.body(model="m", ask_usage=False) is body
    assert request.body(model="other", ask_usage=False) == b'{"model":"other","messages":[ ],"stream":true}'


def test_what_is_no_stream_is_not_asked_for_usage() -> None:
    body = b'{"model": "m",  "messages":[ ]}'
    assert read(body).body(model="m", ask_usage=True) is body


def test_an_estimate_counts_texts_text_parts_calls_and_tools_and_no_images() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:" + "x" * 10_000}}
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    messages: list[Any] = [
        {"role": "user", "content": "x" * 9},
        {"role": "user", "content": [{"type": "text", "text": "y" * 3}, image, "z"]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        None,
    ]
    usage = read(json.dumps({"model": "m", "messages": messages}).encode()).reader().usage()
    # 9 + 3 + 1 characters of text, 1 + 7 of a call: 21 are six tokens.
    assert usage.quantities == {Unit.UNCACHED_INPUT: 6}
    tools = json.dumps({"model": "m", "messages": [], "tools": ["x" * 6]}).encode()
    assert read(tools).reader().usage().quantities == {Unit.UNCACHED_INPUT: 3}


@pytest.mark.parametrize("message", [b'"\xff"', b'{"content":"\xff"}'])
def test_a_message_that_cannot_be_read_does_not_break_the_estimate(message: bytes) -> None:
    request = read(b'{"model":"m","messages":[' + message + b',{"content":"four"}]}')
    assert request.reader().usage().quantities[Unit.UNCACHED_INPUT] in (1, 2)


@given(st.lists(_values, max_size=4))
def test_an_estimate_of_any_conversation_is_a_number(messages: list[Any]) -> None:
    usage = read(json.dumps({"model": "m", "messages": messages}).encode()).reader().usage()
    assert usage.source is UsageSource.ESTIMATED
    assert sum(usage.quantities.values()) == usage.total
