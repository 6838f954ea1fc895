from typing import Any

import pytest

from services.sandbox.checks import Refused, json_object
from services.sandbox.dialects.openai import ChatRequest, read_chat, read_model
from services.sandbox.faults import read_faults

USER = {"role": "user", "content": "Hi there"}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
PAST_CALL = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"a": "bcdef"}'}}


def read(**changes: Any) -> ChatRequest:
    body = {"model": "demo", "messages": [USER], **changes}
    model = read_model(body)
    return read_chat(body, model=model, faults=read_faults(body, model=model), identity="0" * 64)


def refused(**changes: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        read(**changes)
    return caught.value


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 4}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "text"}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": ["text"]}, "messages[0]"),
        ({"messages": [{"content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "boss", "content": "a"}]}, "messages[0].role"),
        ({"messages": [USER, {"role": "user"}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": 4}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].image_url",
        ),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "tool", "content": "a", "tool_call_id": "call_1"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].id"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]}, "messages[0].tool_calls[0].function"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "b"}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"n": 100, "sandbox": {"events": 100_000}}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
        ({"stop": 4}, "stop"),
        ({"stop": [4]}, "stop[0]"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"audio": {"voice": "alloy"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities[1]"),
        ({"seed": "a"}, "seed"),
        ({"user": 4}, "user"),
        ({"service_tier": "gold"}, "service_tier"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"metadata": "a"}, "metadata"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"function": {"name": "a"}}]}, "tools[0].type"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "perhaps"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": 4}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
            "tool_choice.function.name",
        ),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.name"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], param: str) -> None:
    error = refused(**changes)
    assert (error.status, error.kind, error.param) == (400, "invalid_request_error", param)
    assert error.message
    assert error.code


def test_only_one_model_is_missing() -> None:
    error = refused(model="missing-model?events=1")
    assert (error.status, error.code) == (404, "model_not_found")
    assert read(model="anything/at-all").question.model == "anything/at-all"


def test_null_is_absent_and_unknown_fields_are_accepted() -> None:
    nulls = dict.fromkeys(("n", "stop", "tools", "tool_choice", "stream_options", "temperature", "logit_bias", "audio"))
    assert read(**nulls, made_up={"a": 1}) == read()


def test_ordinary_fields_are_accepted() -> None:
    read(
        temperature=1, top_p=0.5, seed=-1, user="u", store=True, metadata={"a": "b"}, verbosity="low",
        modalities=["text"], service_tier="auto", reasoning_effort="low", logit_bias={},
        prediction={"type": "content", "content": "a"}, presence_penalty=-2, frequency_penalty=2.0,
        max_tokens=5, tool_choice="none", parallel_tool_calls=False,
    )  # fmt: skip


def test_prompt_tokens_are_counted() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}
    parts = [{"type": "text", "text": "what is this"}, image, image]
    assert read().question.prompt_tokens == 1 + 2
    assert read(tools=[TOOL, TOOL]).question.prompt_tokens == 1 + 2 + 16
    seen = read(messages=[{"role": "system", "content": "be kind"}, {"role": "user", "content": parts}]).question
    assert (seen.prompt_tokens, seen.images, seen.text, seen.role) == (1 + 2 + 1 + 3 + 170, 2, "what is this", "user")


def test_a_tool_result_is_the_last_message() -> None:
    past = {"role": "assistant", "content": None, "tool_calls": [PAST_CALL]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
    asked = read(messages=[USER, past, result]).question
    assert (asked.text, asked.role, asked.prompt_tokens) == ("sunny", "tool", 3 + (1 + 1 + 2) + 2)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b"4", b'"a"', b"\xff", b'{"a": "\xff"}', b"[" * 100_000, b'{"a": "\\ud800"}']
)
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(Refused) as caught:
        json_object(raw)
    assert caught.value.status == 400
