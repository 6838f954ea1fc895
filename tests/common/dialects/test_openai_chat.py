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

from common.dialects import openai_chat
from common.dialects.openai_chat import parse_chunk, parse_completion, parse_request, token_counts, with_usage_asked
from common.errors import InvalidRequest
from common.metering.units import Kind, Unit, units_of

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
@example(b'{"model":"m","messages":[],"seed":123456789012345678901234567890,"x":1.0,"y":1e5,"z":-0.0,"a":0.10}')
@example(b'{"model":"m","messages":[],"stream_options":{"x":123456789012345678901234567890,"y":1.50}}')
@example('{"model":"m","messages":[{"content":"ä€🎉\\u00e4\\ud83c\\udf89"}],"logit_bias":{"5":1}}'.encode())
def test_asking_for_usage_changes_nothing_else(body: bytes) -> None:
    sent = bytes(with_usage_asked(body, parse_request(body)))
    before, after = dict(as_written(body)), dict(as_written(sent))
    options = dict(after.pop("stream_options"))
    asked = dict(before.pop("stream_options", None) or [])
    assert options == asked | {"include_usage": True}
    assert list(after.items()) == list(before.items())
    assert parse_request(sent).stream == parse_request(body).stream


@given(_values)
def test_each_value_keeps_its_very_bytes(value: Any) -> None:
    spelled = json.dumps(value, indent=1, ensure_ascii=False)
    body = f'{{"model":"m","messages":[],"x":{spelled}}}'.encode()
    assert f'"x":{spelled}'.encode() in with_usage_asked(body, parse_request(body))


def test_a_body_that_asks_for_usage_itself_is_not_touched() -> None:
    body = b'{"model": "m",  "messages":[ ], "stream_options": {"include_usage": true, "x": 1.0}}'
    assert with_usage_asked(body, parse_request(body)) is body


@pytest.mark.parametrize("value", ["false", "null", "1", '"true"', "[true]"])
def test_whatever_else_include_usage_is_becomes_true(value: str) -> None:
    body = f'{{"model":"m","messages":[],"stream_options":{{"include_usage":{value}}}}}'.encode()
    assert json.loads(bytes(with_usage_asked(body, parse_request(body))))["stream_options"] == {"include_usage": True}


def test_of_a_repeated_key_the_last_counts_here_and_at_the_provider() -> None:
    body = b'{"model":"a","model":"b","messages":[],"n":1,"n":2,"stream":false,"stream":true}'
    request = parse_request(body)
    sent = bytes(with_usage_asked(body, request))
    assert (request.model, request.stream) == ("b", True)
    assert json.loads(sent) == json.loads(body) | {"stream_options": {"include_usage": True}}


@pytest.mark.parametrize("value", ["5", "true", '"yes"', "[]"])
def test_stream_options_of_another_type_are_refused(value: str) -> None:
    body = f'{{"model":"m","messages":[],"stream_options":{value}}}'.encode()
    with pytest.raises(InvalidRequest) as refused:
        with_usage_asked(body, parse_request(body))
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
        parse_request(body)
    error = refused.value
    assert error.message.startswith(message)
    assert (error.param, error.code) == (param, code)
    assert "`" not in error.message


@given(st.one_of(st.binary(max_size=60), _values.map(lambda value: json.dumps(value).encode())))
def test_no_body_at_all_is_an_unexpected_error(body: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        assert parse_request(body).model


@given(_values, _values, _values, _values)
@example(10**400, 10**400, 10**400, 10**400)
@example(True, False, True, False)  # noqa: FBT003 - values of a JSON field
def test_parameters_of_any_type_are_the_providers_business(a: Any, b: Any, c: Any, d: Any) -> None:
    body = msgspec.json.encode(
        {"model": "m", "messages": [], "max_completion_tokens": a, "max_tokens": b, "temperature": c, "top_p": d}
    )
    request = parse_request(body)
    assert request.output_limit is None or type(request.output_limit) is int
    for name in ("temperature", "top_p"):
        number = request.number(name)
        assert number is None or math.isfinite(number)


def test_max_completion_tokens_goes_before_max_tokens() -> None:
    body = b'{"model":"m","messages":[],"max_tokens":5,"max_completion_tokens":7,"temperature":0,"top_p":0.5}'
    request = parse_request(body)
    assert (request.output_limit, request.number("temperature"), request.number("top_p")) == (7, 0.0, 0.5)
    body = b'{"model":"m","messages":[],"max_tokens":5}'
    assert parse_request(body).output_limit == 5


_counts = st.one_of(st.integers(-5, 50), st.integers(), st.integers(-(10**30), 10**30))
_maybe = st.one_of(st.none(), _counts)


@given(prompt=_counts, completion=_counts, total=_maybe, cached=_maybe, written=_maybe, reasoning=_maybe)
@example(prompt=10, completion=5, total=-5, cached=None, written=None, reasoning=None)
@example(prompt=10, completion=5, total=15, cached=8, written=8, reasoning=9)
def test_token_classes_are_disjoint_never_negative_and_add_up(
    *, prompt: int, completion: int, total: int | None, cached: int | None, written: int | None, reasoning: int | None
) -> None:
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    counts = token_counts(msgspec.Raw(json.dumps(usage).encode()))
    assert counts is not None
    inputs = [counts.quantities[unit] for unit in units_of(Kind.INPUT_TOKENS)]
    outputs = [counts.quantities[unit] for unit in units_of(Kind.OUTPUT_TOKENS)]
    assert min(*inputs, *outputs, counts.total) >= 0
    assert sum(inputs) == max(0, prompt)
    assert sum(outputs) == max(0, completion)
    assert counts.total == (max(0, total) if total is not None else sum(inputs) + sum(outputs))


def test_details_are_taken_out_of_their_totals() -> None:
    usage = (
        b'{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,'
        b'"prompt_tokens_details":{"cached_tokens":30,"cache_write_tokens":20},'
        b'"completion_tokens_details":{"reasoning_tokens":40}}'
    )
    assert token_counts(msgspec.Raw(usage)) == (dict(zip(Unit, (50, 30, 20, 10, 40), strict=False)), 150)


@given(st.one_of(st.binary(max_size=30), _values.map(lambda value: json.dumps(value).encode())))
@example(b'{"prompt_tokens":"\xff"}')
def test_a_usage_of_any_shape_is_read_or_left(usage: bytes) -> None:
    counts = token_counts(msgspec.Raw(usage))
    assert counts is None or counts.total >= 0


@given(_values)
@example({"choices": [{"delta": {"content": ["a", "list"]}}], "usage": {"prompt_tokens": 1}})
@example({"choices": "none"})
@example({"choices": [None]})
def test_a_chunk_of_any_shape_is_read_or_left(value: Any) -> None:
    chunk = parse_chunk(json.dumps(value).encode())
    if chunk is not None:
        openai_chat.is_error(chunk)


def test_a_chunk_whose_content_is_a_list_still_counts() -> None:
    # Some providers write the parts of a text as a list.
    chunk = parse_chunk(b'{"choices":[{"delta":{"content":[{"type":"text"}]}}],"usage":{"prompt_tokens":1}}')
    assert chunk is not None
    assert token_counts(chunk.usage) is not None


@pytest.mark.parametrize("data", [b"{", b"\xff", b'{"model":"\xff"}', b"not json", b"[" * 100_000])
def test_a_chunk_that_is_no_json_is_an_error(data: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        parse_chunk(data)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [("null", False), ('""', False), ("{}", False), ("false", False), ('"text"', True), ('{"message":"m"}', True)],
)
def test_only_an_error_that_says_something_is_one(error: str, is_one: bool) -> None:  # noqa: FBT001
    chunk = parse_chunk(f'{{"error":{error},"choices":[]}}'.encode())
    assert chunk is not None
    assert openai_chat.is_error(chunk) is is_one


@given(st.one_of(st.binary(max_size=30), _values.map(lambda value: json.dumps(value).encode())))
@example(b'{"model":"\xff"}')
@example(b"[" * 100_000)
def test_a_whole_answer_of_any_shape_is_read_or_left(body: bytes) -> None:
    assert parse_completion(body) is not None


@given(st.lists(_values, max_size=4), st.integers(0, 1000))
def test_an_estimate_of_any_conversation_is_a_number(messages: list[Any], pieces: int) -> None:
    request = parse_request(json.dumps({"model": "m", "messages": messages}).encode())
    counts = openai_chat.estimated_counts(request, pieces=pieces)
    prompt = counts.quantities[Unit.UNCACHED_INPUT]
    assert prompt >= 0
    assert (counts.quantities[Unit.TEXT_OUTPUT], counts.total) == (pieces, prompt + pieces)


def test_an_estimate_counts_texts_and_text_parts_and_no_images() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:" + "x" * 10_000}}
    messages = [
        {"role": "user", "content": "x" * 9},
        {"role": "user", "content": [{"type": "text", "text": "y" * 4}, image]},
        {"role": "assistant", "content": None},
    ]
    request = parse_request(json.dumps({"model": "m", "messages": messages}).encode())
    assert openai_chat.estimated_counts(request, pieces=2) == ({Unit.UNCACHED_INPUT: 4, Unit.TEXT_OUTPUT: 2}, 6)


@pytest.mark.parametrize("message", [b'"\xff"', b'{"content":"\xff"}'])
def test_a_message_that_cannot_be_read_does_not_break_the_estimate(message: bytes) -> None:
    request = parse_request(b'{"model":"m","messages":[' + message + b',{"content":"four"}]}')
    assert openai_chat.estimated_counts(request, pieces=0).total == 1
