"""What is read of a chat's answer while it passes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.dialects.dialect import Progress, Usage
from common.dialects.openai_chat_reader import ChatReader
from common.metering.record import UsageSource
from common.metering.units import Unit

_NAMES = ("choices", "delta", "content", "usage", "error", "index", "x")
_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "content", "usage", "error", "index", "x"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


_NOTHING: list[Any] = [None, "", {}, False]


def a_reader() -> ChatReader:
    return ChatReader(prompt_length=lambda: 8)


def fed(*chunks: Any) -> tuple[list[Progress], ChatReader]:
    reader = a_reader()
    return [reader.feed(each if isinstance(each, bytes) else json.dumps(each).encode()) for each in chunks], reader


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields}]}


@pytest.mark.parametrize(
    ("chunk", "progress"),
    [
        (b"[DONE]", Progress.END),
        (b" [DONE] ", Progress.END),
        (delta(role="assistant", content=""), Progress.NONE),
        (delta(), Progress.NONE),
        ({"choices": [], "prompt_filter_results": []}, Progress.NONE),
        ({"choices": [], "usage": {"prompt_tokens": 1}}, Progress.NONE),
        ([1], Progress.NONE),
        (b"hello", Progress.NONE),
        (delta(content="x"), Progress.CONTENT),
        (delta(content=5), Progress.CONTENT),
        (delta(content=[{"type": "text", "text": "x"}]), Progress.CONTENT),
        (delta(reasoning_content="x"), Progress.CONTENT),
        (delta(reasoning="x"), Progress.CONTENT),
        (delta(refusal="x"), Progress.CONTENT),
        (delta(tool_calls=[{"index": 0, "function": {"arguments": ""}}]), Progress.CONTENT),
        (delta(function_call={"name": "f"}), Progress.CONTENT),
        (delta(audio={"id": "a"}), Progress.CONTENT),
        ({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, Progress.CONTENT),
        ({"choices": [{"index": 0, "delta": {}, "finish_reason": ""}]}, Progress.NONE),
        ({"error": {"message": "m"}}, Progress.ERROR),
        ({"error": "text", "choices": []}, Progress.ERROR),
        *(({"error": nothing, "choices": []}, Progress.NONE) for nothing in _NOTHING),
    ],
)
def test_what_an_event_brings(chunk: Any, progress: Progress) -> None:
    assert fed(chunk)[0] == [progress]


def test_reasoning_refusals_and_calls_count_as_output() -> None:
    _, reader = fed(
        delta(reasoning_content="hm, let me think"),
        delta(refusal="I cannot"),
        delta(tool_calls=[{"function": {"name": "f", "arguments": '{"a":1}'}}]),
        delta(tool_calls=[{"type": "custom", "custom": {"name": "f", "input": "text"}}]),
        delta(function_call={"name": "f", "arguments": "{}"}),
    )
    usage = reader.usage()
    assert usage.source is UsageSource.ESTIMATED
    # 16 characters of thought are four tokens; 8 + 8 + 5 + 3 of output are six.
    assert usage.quantities == {Unit.UNCACHED_INPUT: 2, Unit.TEXT_OUTPUT: 6, Unit.REASONING: 4}
    assert usage.total == 12


@pytest.mark.parametrize(
    "chunk",
    [
        {"usage": {"prompt_tokens": 3, "completion_tokens": 2}},
        {"choices": [], "x_groq": {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}},
        {"choices": [{"index": 0, "delta": {}, "usage": {"prompt_tokens": 3, "completion_tokens": 2}}]},
        {"choices": [None], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
        {"choices": "odd", "model": 5, "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
        b'{"x":NaN,"usage":{"prompt_tokens":3,"completion_tokens":2}}',
        b'{"x":"\xff","usage":{"prompt_tokens":3,"completion_tokens":2}}',
        b'{"choices":[{"delta":{"content":"\\ud83d"}}],"usage":{"prompt_tokens":3,"completion_tokens":2}}',
    ],
)
def test_usage_is_found_wherever_it_stands_and_whatever_stands_beside_it(chunk: Any) -> None:
    _, reader = fed(delta(content="text"), chunk)
    assert reader.usage() == Usage({Unit.UNCACHED_INPUT: 3, Unit.TEXT_OUTPUT: 2}, UsageSource.PROVIDER, 0, "")


def test_zeros_do_not_override_counts() -> None:
    zeros = {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}
    _, reader = fed({"usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}, zeros)
    assert reader.usage().quantities == {Unit.UNCACHED_INPUT: 3, Unit.TEXT_OUTPUT: 2}


def test_an_absurd_count_is_estimated_and_the_other_is_kept() -> None:
    _, reader = fed(delta(content="x" * 40), {"usage": {"prompt_tokens": 3, "completion_tokens": 10**12}})
    assert reader.usage() == Usage({Unit.UNCACHED_INPUT: 3, Unit.TEXT_OUTPUT: 10}, UsageSource.ESTIMATED, 13)


def test_a_prompt_that_was_answered_with_nothing_is_the_providers_count() -> None:
    _, reader = fed({"usage": {"prompt_tokens": 3, "completion_tokens": 0}})
    assert reader.usage() == Usage({Unit.UNCACHED_INPUT: 3}, UsageSource.PROVIDER)


def test_a_stream_is_finished_when_every_alternative_is() -> None:
    done = {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert not fed(delta(content="x"))[1].finished
    assert fed(delta(content="x"), {"choices": [done]})[1].finished
    other = {"choices": [{"index": 1, "delta": {"content": "y"}}]}
    assert not fed(delta(content="x"), other, {"choices": [done]})[1].finished
    assert fed(delta(content="x"), other, {"choices": [done, {**done, "index": 1}]})[1].finished


@pytest.mark.parametrize(
    ("body", "progress"),
    [
        (b'{"choices":[{"message":{"content":"x"}}]}', Progress.CONTENT),
        (b'\xef\xbb\xbf{"choices":[]}', Progress.CONTENT),
        (b'{"choices":null}', Progress.CONTENT),
        (b'{"choices":[{"message":{"content":"x"}}],"error":{"code":1}}', Progress.CONTENT),
        (b'{"choices":[],"error":{"code":1}}', Progress.ERROR),
        (b'{"error":"x"}', Progress.ERROR),
        (b'{"object":"error"}', Progress.ERROR),
        (b'{"detail":"x"}', Progress.ERROR),
        *((body, Progress.NONE) for body in (b"", b"<html>", b"{}", b"[]", b"5", b'{"choices":5}', b"[" * 99_999)),
    ],
)
def test_what_a_whole_answer_is(body: bytes, progress: Progress) -> None:
    assert a_reader().read_body(body) is progress


@pytest.mark.parametrize("usage", [b"null", b"{}", b"5", b'{"prompt_tokens":"many"}'])
def test_a_whole_answer_without_usage_is_estimated_by_its_text(usage: bytes) -> None:
    reader = a_reader()
    text = b'"content":"%b","reasoning_content":"%b"' % (b"x" * 20, b"y" * 8)
    reader.read_body(b'{"model":"m","choices":[{"message":{%b}}],"usage":%b}' % (text, usage))
    quantities = {Unit.UNCACHED_INPUT: 2, Unit.TEXT_OUTPUT: 5, Unit.REASONING: 2}
    assert reader.usage() == Usage(quantities, UsageSource.ESTIMATED, 9, "m")


@given(_values)
@example({"choices": [{"delta": {"content": ["a", "list"]}}], "usage": {"prompt_tokens": 1}})
@example({"choices": [{"index": [], "delta": [], "usage": []}]})
def test_no_answer_is_beyond_reading(value: Any) -> None:
    data = json.dumps(value).encode()
    reader = a_reader()
    reader.feed(data)
    reader.read_body(data)
    assert sum(reader.usage().quantities.values()) >= 2


@given(st.binary(max_size=40))
@example(b"[" * 100_000)
@example(b'{"model":"\xff"}')
def test_no_bytes_are_beyond_reading(data: bytes) -> None:
    reader = a_reader()
    reader.feed(data)
    reader.read_body(data)
    assert reader.usage().source is UsageSource.ESTIMATED
