"""Uses the gateway with the OpenAI SDK in strict validation mode, whichever major is on the path.

Run as a program, because two majors of one package cannot live in one interpreter: arguments are the base URL, a good
token, a token without the scope "chat". Prints a line for each check and exits with 1 at the first that fails.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import openai
from openai import AsyncOpenAI, OpenAI

HELLO: Any = [{"role": "user", "content": "Say hello"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TOOLS: Any = {"tools": [WEATHER], "tool_choice": "required"}


def chat(client: OpenAI) -> None:
    """A chat passes strict validation, and its usage adds up."""
    answer = client.chat.completions.create(model="demo", messages=HELLO, temperature=0.5, max_completion_tokens=50)
    assert answer.choices[0].message.content
    assert answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id


def stream(client: OpenAI) -> None:
    """A stream has text, one finish reason, and the usage last."""
    chunks = list(client.chat.completions.create(model="demo", messages=HELLO, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].usage
    assert chunks[-1].choices == []


def stream_helper(client: OpenAI) -> None:
    """The stream helper puts the same answer together."""
    with client.chat.completions.stream(model="demo", messages=HELLO) as events:
        kinds = {event.type for event in events}
        final = events.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.role == "assistant"
    assert final.choices[0].message.content
    assert final.usage


def tools(client: OpenAI) -> None:
    """A tool call comes whole."""
    answer = client.chat.completions.create(model="demo", messages=HELLO, **TOOLS)
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.tool_calls


def tools_streamed(client: OpenAI) -> None:
    """A streamed tool call, put together by the helper, is the same as the whole one."""
    whole = client.chat.completions.create(model="demo", messages=HELLO, **TOOLS)
    with client.chat.completions.stream(model="demo", messages=HELLO, **TOOLS) as events:
        final = events.get_final_completion()
    want, got = whole.choices[0].message.tool_calls, final.choices[0].message.tool_calls
    assert want
    assert got
    assert [_call(call) for call in got] == [_call(call) for call in want]


def _call(call: Any) -> tuple[str, str]:
    return call.function.name, call.function.arguments


def errors(url: str, token: str, unscoped: str) -> None:
    """Each status raises the SDK's own class, with the request id and the whole envelope."""
    good = _client(url, token)
    cases: list[tuple[type[openai.APIStatusError], OpenAI, dict[str, Any]]] = [
        (openai.BadRequestError, good, {"model": "demo", "messages": "text"}),
        (openai.AuthenticationError, _client(url, "tp_nonsense"), {"model": "demo", "messages": HELLO}),
        (openai.PermissionDeniedError, _client(url, unscoped), {"model": "demo", "messages": HELLO}),
        (openai.NotFoundError, good, {"model": "missing-model", "messages": HELLO}),
        (openai.RateLimitError, good, {"model": "demo?status=429&retry_after=7", "messages": HELLO}),
        (openai.InternalServerError, good, {"model": "demo?status=500", "messages": HELLO}),
    ]
    for streamed in (False, True):
        for expected, client, request in cases:
            error = _raised(client, request, stream=streamed)
            assert type(error) is expected, (expected, error)
            assert error.request_id, expected
            assert isinstance(error.body, dict), expected
            assert error.body["message"], expected
            if expected is openai.RateLimitError:
                assert error.response.headers["retry-after"] == "7"


def _raised(client: OpenAI, request: dict[str, Any], *, stream: bool) -> openai.APIStatusError:
    try:
        client.chat.completions.create(**request, stream=stream)
    except openai.APIStatusError as error:
        return error
    raise AssertionError("nothing was raised")


def retried(client: OpenAI) -> None:
    """An error in the middle of a stream reaches the caller as an error, not as a short answer."""
    broken = client.chat.completions.create(model="demo?cut_after_bytes=900", messages=HELLO, stream=True)
    try:
        for _ in broken:
            pass
    except openai.APIError as error:
        assert "broke off" in str(error), error
    else:
        raise AssertionError("the stream ended as if it were whole")


async def asynchronous(client: AsyncOpenAI) -> None:
    """The asynchronous client does the same."""
    answer = await client.chat.completions.create(model="demo", messages=HELLO)
    assert answer.choices[0].message.content
    text = [
        chunk.choices[0].delta.content or ""
        async for chunk in await client.chat.completions.create(model="demo", messages=HELLO, stream=True)
        if chunk.choices
    ]
    assert "".join(text) == answer.choices[0].message.content
    async with client.chat.completions.stream(model="demo", messages=HELLO, **TOOLS) as events:
        final = await events.get_final_completion()
    assert final.choices[0].message.tool_calls
    try:
        await client.chat.completions.create(model="missing-model", messages=HELLO)
    except openai.NotFoundError as error:
        assert error.code == "model_not_found"
    else:
        raise AssertionError("nothing was raised")
    await client.close()


def _client(url: str, token: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0, _strict_response_validation=True)


def main(url: str, token: str, unscoped: str) -> None:
    """Run every check."""
    client = _client(url, token)
    checks: list[Callable[[OpenAI], None]] = [chat, stream, stream_helper, tools, tools_streamed, retried]
    for check in checks:
        check(client)
        print(openai.VERSION, check.__name__, "ok")
    errors(url, token, unscoped)
    print(openai.VERSION, "errors ok")
    asyncio.run(asynchronous(AsyncOpenAI(base_url=f"{url}/v1", api_key=token, _strict_response_validation=True)))
    print(openai.VERSION, "asynchronous ok")
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
