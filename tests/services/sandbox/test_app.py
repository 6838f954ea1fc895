import json
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel

from tests.services.sandbox.conftest import Sandbox

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


class Person(BaseModel):
    name: str
    age: int
    tags: list[str]


def test_a_completion_is_valid_and_the_same_each_time(client: OpenAI, sandbox: Sandbox) -> None:
    first = client.chat.completions.create(model="demo", messages=user("Hello gateway"))
    second = client.chat.completions.create(model="demo", messages=user("Hello gateway"))
    assert first == second
    content = first.choices[0].message.content
    assert content is not None
    assert "Hello gateway" in content
    assert first.usage is not None
    assert first.usage.completion_tokens == len(content.split())
    assert first.created == 1_800_000_000
    entry = sandbox.last(2)
    assert (entry.outcome, entry.prompt_tokens, entry.total_tokens) == ("completed", 3, first.usage.total_tokens)
    assert (entry.events_sent, entry.stream, entry.request_id) == (1, False, None)


def test_answers_carry_the_headers_of_a_provider(client: OpenAI) -> None:
    answers = [client.chat.completions.with_raw_response.create(model="demo", messages=user("a")) for _ in range(2)]
    assert answers[0].headers["x-request-id"] != answers[1].headers["x-request-id"]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "10000"
    assert answers[0].headers["x-ratelimit-remaining-requests"] == "9999"
    assert answers[0].headers["openai-processing-ms"] == "0"


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_says_what_the_whole_says(client: OpenAI, sandbox: Sandbox, n: int) -> None:
    asked: dict[str, Any] = {"model": "demo", "messages": user("a b  c\n d"), "n": n}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert all(chunk.usage is None and len(chunk.choices) == 1 for chunk in chunks)
    for choice in whole.choices:
        texts = [c.choices[0].delta.content or "" for c in chunks if c.choices[0].index == choice.index]
        assert "".join(texts) == choice.message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop"] * n
    assert [c.choices[0].delta.role for c in chunks if c.choices[0].delta.role] == ["assistant"] * n
    assert whole.usage is not None
    assert sandbox.last(2).completion_tokens == whole.usage.completion_tokens


async def test_the_asynchronous_client_streams_usage_last(sandbox: Sandbox) -> None:
    async with AsyncOpenAI(
        base_url=f"{sandbox.url}/v1", api_key="k", max_retries=0, _strict_response_validation=True
    ) as client:
        stream = await client.chat.completions.create(
            model="cached-reasoning?events=100",
            messages=user("a"),
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={"x-request-id": "trace-1"},
        )
        chunks: list[ChatCompletionChunk] = [chunk async for chunk in stream]
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.completion_tokens_details is not None
    assert chunks[-1].choices == []
    assert (usage.prompt_tokens, usage.completion_tokens) == (2, 116)
    assert usage.prompt_tokens_details.cached_tokens == 1
    assert usage.completion_tokens_details.reasoning_tokens == 16
    assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) == 100
    entry = sandbox.last()
    assert (entry.request_id, entry.total_tokens, entry.cached_tokens) == ("trace-1", 118, 1)
    assert (entry.reasoning_tokens, entry.events_sent) == (16, 104)


def test_the_stream_helper_builds_the_same_answer(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "demo", "messages": user("get_weather get_time"), "tools": [WEATHER, CLOCK]}
    with client.chat.completions.stream(**asked) as stream:
        built = stream.get_final_completion()
    whole = client.chat.completions.create(**asked)
    assert built.choices[0].finish_reason == "tool_calls"
    streamed, direct = built.choices[0].message.tool_calls, whole.choices[0].message.tool_calls
    assert streamed is not None
    assert direct is not None
    for one, other in zip(streamed, direct, strict=True):
        assert other.type == "function"
        assert (one.function.name, one.function.arguments) == (other.function.name, other.function.arguments)
    assert json.loads(streamed[0].function.arguments) == {"city": "city", "unit": "C"}
    with client.chat.completions.stream(model="demo", messages=user("plain")) as plain:
        assert "plain" in (plain.get_final_completion().choices[0].message.content or "")


def test_streamed_tools_start_at_index_0_and_say_their_name_once(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="demo", messages=user("get_weather, get_time"), tools=[WEATHER, CLOCK], stream=True
    )
    deltas = [call for chunk in stream for call in chunk.choices[0].delta.tool_calls or []]
    assert [(call.index, call.function.name) for call in deltas if call.function and call.function.name] == [
        (0, "get_weather"),
        (1, "get_time"),
    ]
    assert [call.index for call in deltas if call.id] == [0, 1]


def test_a_tool_conversation_goes_round(client: OpenAI) -> None:
    messages = user("get_weather please")
    first = client.chat.completions.create(model="demo", messages=messages, tools=[WEATHER], tool_choice="required")
    calls = first.choices[0].message.tool_calls
    assert calls is not None
    messages += [
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": calls[0].id, "content": "sunny"},
    ]
    second = client.chat.completions.create(model="demo", messages=messages, tools=[WEATHER])
    assert second.choices[0].finish_reason == "stop"
    assert "sunny" in (second.choices[0].message.content or "")


def test_structured_output_is_parsed(client: OpenAI) -> None:
    parsed = client.chat.completions.parse(model="demo", messages=user("a"), response_format=Person)
    assert isinstance(parsed.choices[0].message.parsed, Person)
    answer = client.chat.completions.create(model="demo", messages=user("a"), response_format={"type": "json_object"})
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
    with client.chat.completions.stream(model="demo", messages=user("a"), response_format=Person) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Person)


def test_limits_and_stops(client: OpenAI) -> None:
    cut = client.chat.completions.create(model="demo?events=9", messages=user("a"), max_completion_tokens=4)
    assert (cut.choices[0].finish_reason, cut.choices[0].message.content) == ("length", "1 2 3 4")
    stopped = client.chat.completions.create(model="demo?events=9", messages=user("a"), stop=" 3", max_tokens=8)
    assert (stopped.choices[0].finish_reason, stopped.choices[0].message.content) == ("stop", "1 2")
    stream = client.chat.completions.create(model="demo?events=2", messages=user("a"), stream=True, max_tokens=1)
    assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "length"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (529, openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_each_status_is_its_error(
    client: OpenAI, sandbox: Sandbox, status: int, expected: type[openai.APIStatusError], *, stream: bool
) -> None:
    with pytest.raises(expected) as caught:
        client.chat.completions.create(
            model="demo", messages=user("a"), stream=stream, extra_body={"sandbox": {"status": status}}
        )
    assert isinstance(caught.value.body, dict)
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    assert caught.value.request_id
    entry = sandbox.last()
    assert (entry.outcome, entry.status, entry.total_tokens, entry.stream) == ("error", status, 0, stream)


def test_an_error_is_as_asked(client: OpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(
            model="demo?status=429&retry_after=1&retry_after_ms=50&should_retry=false&error_code=insufficient_quota",
            messages=user("a"),
            extra_body={"sandbox": {"error_message": "Spent.", "error_type": "insufficient_quota"}},
        )
    headers = caught.value.response.headers
    assert (headers["retry-after"], headers["retry-after-ms"], headers["x-should-retry"]) == ("1", "50", "false")
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert (caught.value.code, caught.value.type) == ("insufficient_quota", "insufficient_quota")
    assert "Spent." in caught.value.message


def test_wrong_requests_are_refused_and_in_the_ledger(client: OpenAI, sandbox: Sandbox) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="missing-model", messages=user("a"))
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="demo", messages=user("a"), extra_body={"sandbox": {"statsu": 1}})
    assert wrong.value.param == "sandbox.statsu"
    schema: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": []}}}
    with pytest.raises(openai.BadRequestError, match="allows no value"):
        client.chat.completions.create(model="demo", messages=user("a"), response_format=schema)
    answer = httpx.post(f"{sandbox.url}/v1/chat/completions", content=b"{")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    entries = sandbox.ledger.wait_for_ends(4)
    assert [(entry.status, entry.model) for entry in entries] == [
        (404, "missing-model"),
        (400, "demo"),
        (400, "demo"),
        (400, None),
    ]


def test_headers_and_body_can_be_seen(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo",
        messages=user("a"),
        extra_headers={"X-Trace": "7"},
        extra_body={"sandbox": {"echo_headers": True, "echo_body": True}, "made_up": 2**70},
    )
    assert answer.model_extra is not None
    seen = answer.model_extra["sandbox"]
    assert (seen["headers"]["x-trace"], seen["headers"]["authorization"]) == ("7", "Bearer sk-s")
    assert seen["body"]["made_up"] == 2**70


def test_the_ledger_is_read_by_page_and_emptied(client: OpenAI, sandbox: Sandbox) -> None:
    for name in ("a", "b", "a"):
        client.chat.completions.create(model="demo", messages=user("x"), extra_headers={"x-request-id": name})
    found = httpx.get(f"{sandbox.url}/sandbox/ledger", params={"request_id": "a"}).json()
    assert [(entry["seq"], entry["outcome"]) for entry in found["data"]] == [(1, "completed"), (3, "completed")]
    page = httpx.get(f"{sandbox.url}/sandbox/ledger", params={"after": 1, "limit": 1}).json()
    assert ([entry["seq"] for entry in page["data"]], page["has_more"]) == ([2], True)
    assert httpx.delete(f"{sandbox.url}/sandbox/ledger").status_code == 200
    assert httpx.get(f"{sandbox.url}/sandbox/ledger").json() == {"data": [], "has_more": False}
    wrong = httpx.get(f"{sandbox.url}/sandbox/ledger", params={"limit": 0})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "limit")


def test_health_and_unknown_paths(sandbox: Sandbox) -> None:
    assert httpx.get(f"{sandbox.url}/health").json() == {"status": "ok"}
    unknown = httpx.get(f"{sandbox.url}/v1/nothing")
    assert unknown.status_code == 404
    assert set(unknown.json()["error"]) == {"message", "type", "param", "code"}
    assert httpx.get(f"{sandbox.url}/v1/chat/completions").status_code == 405
