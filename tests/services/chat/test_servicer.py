"""Both faces of the chat service, through a real gRPC server with the interceptors of every service."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf import json_format, struct_pb2

from common.errors import UpstreamFailed, UpstreamTimeout
from common.upstream.http import UnreachableError
from common.upstream.sse import KEEP_ALIVE
from services.chat.core import Chat
from services.chat.servicer import ROUTES, ChatHttpServicer, ChatServicer
from tests.common.dialects.conversation import (
    ASK,
    ASK_STREAM,
    COUNTED,
    DONE,
    EVENTS,
    ChatTrial,
    chunk,
    completion,
    event,
    stream_answer,
)
from tests.common.running import BEARER, error_info, running, trailers
from tests.common.upstream.fake_client import FakeResponse
from turnpike.chat.v1 import chat_http_pb2_grpc, chat_pb2, chat_pb2_grpc

_HTTP = (
    *BEARER,
    ("x-request-id", "mine"),
    ("x-envoy-original-method", "POST"),
    ("x-envoy-original-path", "/v1/chat/completions"),
)
_NATIVE = (*BEARER, ("x-request-id", "mine"))
_CUT = UpstreamFailed("The provider broke off its answer.", code="upstream_cut")


@dataclass(frozen=True)
class Faces:
    """Stubs for both services around one trial."""

    trial: ChatTrial
    http: chat_http_pb2_grpc.ChatHttpServiceStub
    typed: chat_pb2_grpc.ChatServiceStub

    def post(self, body: bytes) -> Any:
        """Ask as Envoy does for an HTTP client."""
        return self.http.CreateChatCompletion(HttpBody(content_type="application/json", data=body), metadata=_HTTP)

    def complete(self, chat: chat_pb2.Chat) -> Any:
        """Ask for a whole completion as a gRPC client."""
        return self.typed.CompleteChat(chat_pb2.CompleteChatRequest(chat=chat), metadata=_NATIVE)

    def stream(self, chat: chat_pb2.Chat) -> Any:
        """Ask for a streamed completion as a gRPC client."""
        return self.typed.StreamChat(chat_pb2.StreamChatRequest(chat=chat), metadata=_NATIVE)

    @property
    def asked(self) -> dict[str, Any]:
        """What the provider was asked."""
        (body,) = self.trial.client.bodies
        return dict(json.loads(body))


@contextlib.asynccontextmanager
async def served(*answers: FakeResponse | BaseException) -> AsyncIterator[Faces]:
    trial = ChatTrial(*answers, spawn=asyncio.create_task)
    chat = Chat(trial.relay)
    servicers = (
        (chat_pb2_grpc.add_ChatServiceServicer_to_server, ChatServicer(chat)),
        (chat_http_pb2_grpc.add_ChatHttpServiceServicer_to_server, ChatHttpServicer(chat)),
    )
    async with running(*servicers, routes=ROUTES) as channel:
        yield Faces(trial, chat_http_pb2_grpc.ChatHttpServiceStub(channel), chat_pb2_grpc.ChatServiceStub(channel))


def a_chat(text: str = "12345678") -> chat_pb2.Chat:
    part = chat_pb2.ContentPart(text=text)
    return chat_pb2.Chat(model="gpt", messages=[chat_pb2.Message(role=chat_pb2.ROLE_USER, content=[part])])


async def head_of(call: Any) -> dict[str, str]:
    return {key: value for key, value in await call.initial_metadata() if isinstance(value, str)}


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


async def broken(call: Any) -> tuple[list[Any], grpc.aio.AioRpcError]:
    """Return what a stream gave before it failed, and how it failed."""
    messages: list[Any] = []
    try:
        async for message in call:
            messages.append(message)
    except grpc.aio.AioRpcError as error:
        return messages, error
    raise AssertionError("it did not fail")


async def test_over_http_a_whole_answer_is_one_message_with_the_upstreams_bytes() -> None:
    async with served(FakeResponse([completion()], headers={"x-ratelimit-limit-requests": "5"})) as faces:
        call = faces.post(ASK)
        (message,) = [message async for message in call]
        head = await head_of(call)
    assert message == HttpBody(content_type="application/json", data=completion())
    assert head["x-request-id"] == "mine"
    assert head["x-ratelimit-limit-requests"] == "5"
    assert "x-http-status" not in head
    only = faces.trial.record
    assert (only.method, only.path, only.user_id, only.request_id) == ("POST", "/v1/chat/completions", "alice", "mine")


async def test_over_http_events_that_came_together_are_one_message() -> None:
    async with served(stream_answer(*EVENTS[:2], b"".join(EVENTS[2:4]), *EVENTS[4:])) as faces:
        messages = [message async for message in faces.post(ASK_STREAM)]
    assert [message.data for message in messages] == [b"".join(EVENTS[:2]), b"".join(EVENTS[2:4]), *EVENTS[4:]]
    assert messages[0].content_type.startswith("text/event-stream")


async def test_over_http_an_upstreams_error_keeps_its_status_and_body() -> None:
    body = b'{"error":{"message":"slow down"}}'
    async with served(FakeResponse([body], status=429, headers={"retry-after": "7"})) as faces:
        call = faces.post(ASK_STREAM)
        (message,) = [message async for message in call]
        head = await head_of(call)
        assert await call.code() is grpc.StatusCode.OK
    assert (message.data, message.content_type) == (body, "application/json")
    assert (head["x-http-status"], head["retry-after"]) == ("429", "7")
    assert faces.trial.outcome == ("COMPLETED", 429, "upstream_refused")


async def test_over_http_a_failure_before_the_first_event_is_a_status() -> None:
    async with served(stream_answer(_CUT)) as faces:
        messages, error = await broken(faces.post(ASK_STREAM))
    assert messages == []
    assert trailers(error)["x-http-status"] == "502"
    assert json.loads(trailers(error)["x-error-body"])["error"]["code"] == "upstream_cut"


async def test_over_http_a_failure_after_the_first_event_is_an_event() -> None:
    async with served(stream_answer(EVENTS[1], _CUT)) as faces:
        call = faces.post(ASK_STREAM)
        messages = [message async for message in call]
        assert await call.code() is grpc.StatusCode.OK
    assert messages[0].data == EVENTS[1]
    assert json.loads(messages[1].data.removeprefix(b"data: "))["error"]["code"] == "upstream_cut"


@pytest.mark.parametrize("body", [b"", b"{}", b'{"model":"m","messages":"text"}', b"\xff"])
async def test_over_http_wrong_input_is_a_400_with_an_envelope(body: bytes) -> None:
    async with served() as faces:
        _, error = await broken(faces.post(body))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert trailers(error)["x-http-status"] == "400"
    assert set(json.loads(trailers(error)["x-error-body"])["error"]) == {"message", "type", "param", "code"}


async def test_a_caller_without_the_scope_does_not_reach_the_provider() -> None:
    async with served(FakeResponse([completion()])) as faces:
        error = await refusal(
            faces.typed.CompleteChat(
                chat_pb2.CompleteChatRequest(chat=a_chat()), metadata=(("authorization", "Bearer other"),)
            )
        )
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert faces.trial.client.bodies == []
        assert faces.trial.outbox.events == []


async def test_a_completion_is_typed() -> None:
    message = {
        "role": "assistant",
        "content": "Hello",
        "refusal": None,
        "reasoning_content": "hm",
        "annotations": [{"a": 1}],
    }
    async with served(FakeResponse([completion(message=message)], headers={"openai-version": "v"})) as faces:
        call = faces.complete(a_chat())
        answer = await call
        head = await head_of(call)
    assert (answer.id, answer.model, answer.created) == ("c-1", "gpt-1", 7)
    (choice,) = answer.choices
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "stop", chat_pb2.ROLE_ASSISTANT)
    assert [part.text for part in choice.message.content] == ["Hello"]
    assert json_format.MessageToDict(choice.message.extra) == {"reasoning_content": "hm", "annotations": [{"a": 1.0}]}
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (10, 6, 16)
    assert (usage.cached_tokens, usage.reasoning_tokens) == (4, 1)
    assert (head["x-request-id"], head["openai-version"]) == ("mine", "v")
    assert faces.trial.counts == COUNTED


async def test_tool_calls_are_typed() -> None:
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1'}}],
    }
    async with served(FakeResponse([completion(message=message, finish="tool_calls", usage=None)])) as faces:
        answer = await faces.complete(a_chat())
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls == [chat_pb2.ToolCall(id="call_1", name="f", arguments='{"a": 1')]
    assert list(choice.message.content) == []
    assert not answer.HasField("usage")


async def test_a_stream_is_typed_and_keep_alives_are_left_out() -> None:
    async with served(stream_answer(EVENTS[0], KEEP_ALIVE, *EVENTS[1:])) as faces:
        messages = [message async for message in faces.stream(a_chat())]
    assert [message.choices[0].text for message in messages if message.choices] == ["", "Hel", "lo ä🎉", ""]
    assert messages[0].choices[0].role == chat_pb2.ROLE_ASSISTANT
    assert messages[3].choices[0].finish_reason == "stop"
    assert messages[4].usage.total_tokens == 16
    assert len(messages) == 5
    assert all((message.id, message.model, message.created) == ("c-1", "gpt-1", 7) for message in messages)
    assert faces.asked["stream"] is True
    assert faces.asked["stream_options"] == {"include_usage": True}


async def test_streamed_tool_calls_are_typed() -> None:
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
    pieces = [first, {"index": 0, "function": {"arguments": '{"a"'}}, {"index": 0, "function": {"arguments": ":1}"}}]
    events = [chunk(tool_calls=[piece], reasoning_content="hm") for piece in pieces]
    async with served(stream_answer(*events, DONE)) as faces:
        messages = [message async for message in faces.stream(a_chat())]
    deltas = [message.choices[0].tool_calls[0] for message in messages]
    assert [(delta.index, delta.id, delta.name) for delta in deltas] == [(0, "call_1", "f"), (0, "", ""), (0, "", "")]
    assert "".join(delta.arguments for delta in deltas) == '{"a":1}'
    assert messages[0].choices[0].extra["reasoning_content"] == "hm"
    # A piece of a tool's arguments is output like a piece of text, and a thought is reasoning.
    assert faces.trial.counts == ("ESTIMATED", 2, 0, 0, 3, 3, 8)


async def test_a_whole_conversation_reaches_the_provider_as_openai_would_have_it() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 2.5}}}
    chat = chat_pb2.Chat(
        model="gpt",
        messages=[
            chat_pb2.Message(role=chat_pb2.ROLE_SYSTEM, content=[chat_pb2.ContentPart(text="Be kind.")]),
            chat_pb2.Message(role=chat_pb2.ROLE_DEVELOPER, content=[chat_pb2.ContentPart(text="Be brief.")]),
            chat_pb2.Message(
                role=chat_pb2.ROLE_USER,
                name="ann",
                content=[
                    chat_pb2.ContentPart(text="What is it?"),
                    chat_pb2.ContentPart(image=chat_pb2.Image(url="https://example.com/a.png", detail="low")),
                    chat_pb2.ContentPart(image=chat_pb2.Image(url="data:image/png;base64,AA==")),
                ],
            ),
            chat_pb2.Message(
                role=chat_pb2.ROLE_ASSISTANT,
                tool_calls=[chat_pb2.ToolCall(id="call_1", name="f", arguments='{"n":1}')],
            ),
            chat_pb2.Message(role=chat_pb2.ROLE_TOOL, tool_call_id="call_1", content=[chat_pb2.ContentPart(text="42")]),
            chat_pb2.Message(role=chat_pb2.ROLE_USER),
        ],
        tools=[
            chat_pb2.Tool(
                name="f",
                description="Does it.",
                parameters=json_format.ParseDict(schema, struct_pb2.Struct()),
                strict=True,
            ),
            chat_pb2.Tool(name="g"),
        ],
        tool_choice=chat_pb2.ToolChoice(function="f"),
        max_completion_tokens=50,
        temperature=0.0,
        top_p=1.0,
        n=2,
        stop=["END"],
        seed=-(2**60),
        extra=json_format.ParseDict(
            {
                "response_format": {"type": "json_object"},
                "logit_bias": {"50256": -100},
                "temperature": 2,
                "model": "other",
                "stream": True,
                "large": 1e300,
                "nothing": None,
            },
            struct_pb2.Struct(),
        ),
    )
    chat.messages[3].extra["reasoning_content"] = "hm"
    async with served(FakeResponse([completion()])) as faces:
        await faces.complete(chat)
    function = {"name": "f", "description": "Does it.", "parameters": schema, "strict": True}
    assert faces.asked == {
        "model": "gpt",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "name": "ann",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                ],
            },
            {
                "role": "assistant",
                "reasoning_content": "hm",
                "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"n":1}'}}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "42"},
            {"role": "user", "content": ""},
        ],
        "tools": [{"type": "function", "function": function}, {"type": "function", "function": {"name": "g"}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "max_completion_tokens": 50,
        "temperature": 0.0,
        "top_p": 1.0,
        "n": 2,
        "stop": ["END"],
        "seed": -(2**60),
        "stream": False,
        "response_format": {"type": "json_object"},
        "logit_bias": {"50256": -100},
        "large": 1e300,
        "nothing": None,
    }
    body = faces.trial.client.bodies[0]
    assert b'"large":1e' in body, "not as three hundred digits"
    assert b'"minimum":1' in body
    assert b'"minimum":1.0' not in body, "schemas need whole numbers as integers"
    only = faces.trial.record
    assert (only.max_tokens, only.temperature, only.top_p, only.stream) == (50, 0.0, 1.0, False)


@pytest.mark.parametrize("mode", ["auto", "none", "required"])
async def test_a_tool_choice_may_be_a_mode(mode: str) -> None:
    chat = a_chat()
    chat.tool_choice.mode = mode
    async with served(FakeResponse([completion()])) as faces:
        await faces.complete(chat)
    assert faces.asked["tool_choice"] == mode


async def test_what_is_not_set_is_not_sent() -> None:
    async with served(FakeResponse([completion()])) as faces:
        await faces.complete(a_chat())
    assert set(faces.asked) == {"model", "messages", "stream"}


@pytest.mark.parametrize(
    ("chat", "param"),
    [
        (chat_pb2.Chat(messages=a_chat().messages), "model"),
        (chat_pb2.Chat(model="m", messages=[*a_chat().messages, chat_pb2.Message()]), "messages.1.role"),
        (
            chat_pb2.Chat(
                model="m", messages=[chat_pb2.Message(role=chat_pb2.ROLE_USER, content=[chat_pb2.ContentPart()])]
            ),
            "messages.0.content",
        ),
    ],
    ids=["no model", "no role", "an empty part"],
)
async def test_a_wrong_message_is_refused_with_its_place(chat: chat_pb2.Chat, param: str) -> None:
    async with served() as faces:
        error = await refusal(faces.complete(chat))
        _, streamed = await broken(faces.stream(chat))
    for refused in (error, streamed):
        assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error_info(refused)[1].metadata["param"] == param
    assert faces.trial.client.bodies == []


@pytest.mark.parametrize("streamed", [False, True], ids=["complete", "stream"])
async def test_an_upstreams_refusal_is_a_status_with_details(streamed: bool) -> None:  # noqa: FBT001
    body = json.dumps({"error": {"message": "Slow down.", "code": "rate_limit", "param": "model", "type": "t"}})
    answer = FakeResponse([body.encode()], status=429, headers={"retry-after": "7", "x-ratelimit-limit-tokens": "5"})
    async with served(answer) as faces:
        if streamed:
            messages, error = await broken(faces.stream(a_chat()))
            assert messages == []
        else:
            error = await refusal(faces.complete(a_chat()))
    assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Slow down.")
    got = trailers(error)
    assert (got["retry-after"], got["x-ratelimit-limit-tokens"], got["x-http-status"]) == ("7", "5", "429")
    _, info = error_info(error)
    assert (info.reason, dict(info.metadata)) == ("RATE_LIMIT", {"type": "upstream_error", "param": "model"})
    assert faces.trial.outcome == ("COMPLETED", 429, "upstream_refused")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", "The provider answered 500: <html>"),
        (b'{"error":null}', "The provider answered 500."),
        (b'{"error":"text"}', "text"),
        (b'{"error":{"message":["a"],"code":5}}', "The provider answered 500."),
    ],
)
async def test_an_upstreams_odd_refusal_is_a_status_too(body: bytes, message: str) -> None:
    async with served(FakeResponse([body], status=500)) as faces:
        error = await refusal(faces.complete(a_chat()))
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, message)


@pytest.mark.parametrize(
    "body", [b"", b"text", b"null", b"[]", b'{"choices":5}', b'{"created":"yesterday"}', b'{"id":5}']
)
async def test_an_answer_of_another_shape_is_the_providers_failure(body: bytes) -> None:
    async with served(FakeResponse([body])) as faces:
        error = await refusal(faces.complete(a_chat()))
    # Not UNAVAILABLE: clients repeat that, and would be billed again.
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error_info(error)[1].reason == "UPSTREAM_MALFORMED"
    assert len(faces.trial.outbox.events) == 1


def _answer(**message: Any) -> bytes:
    return completion(message={"role": "assistant", "content": "Hi", **message})


_CUSTOM: Any = {"id": "a", "type": "custom", "custom": {"name": "f", "input": "x"}}
_OBJECT: Any = {"id": "a", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}


@pytest.mark.parametrize(
    "body",
    [
        _answer(tool_calls=[{}]),
        _answer(deep=json.loads("[" * 200 + "]" * 200)),
        _answer(large=10**400),
        completion(usage={"prompt_tokens": 11.0, "completion_tokens": -1, "total_tokens": 10**30}),
        completion().replace(b'"created": 7', b'"created": "yesterday"'),
        completion().replace(b'"id": "c-1"', b'"id": 5'),
        completion().replace(b'"Hello"', b'"Hello \\ud83d"'),
        completion().replace(b'"x": 1.5', b'"x": NaN'),
        completion().replace(b'"index": 0', b'"index": -1'),
    ],
)
async def test_a_field_of_another_form_loses_no_other_field(body: bytes) -> None:
    async with served(FakeResponse([body])) as faces:
        answer = await faces.complete(a_chat())
    (choice,) = answer.choices
    assert choice.message.content[0].text.startswith("H")
    assert choice.finish_reason == "stop"


async def test_what_has_no_typed_form_travels_in_extra() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    body = _answer(content=[{"type": "text", "text": "Hi"}, thought], tool_calls=[_CUSTOM, _OBJECT])
    async with served(FakeResponse([body])) as faces:
        (choice,) = (await faces.complete(a_chat())).choices
    assert [part.text for part in choice.message.content] == ["Hi"]
    assert choice.message.tool_calls == [chat_pb2.ToolCall(id="a", name="f", arguments='{"a":1}')]
    assert json_format.MessageToDict(choice.message.extra) == {"content": [thought], "tool_calls": [_CUSTOM]}


async def test_what_came_in_extra_goes_back_in_the_history() -> None:
    audio = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
    message = chat_pb2.Message(role=chat_pb2.ROLE_ASSISTANT, content=[chat_pb2.ContentPart(text="Hi")])
    message.tool_calls.append(chat_pb2.ToolCall(id="b", name="g", arguments="{}"))
    json_format.ParseDict({"content": [audio], "tool_calls": [_CUSTOM]}, message.extra)
    only_audio = chat_pb2.Message(role=chat_pb2.ROLE_USER)
    json_format.ParseDict({"content": [audio]}, only_audio.extra)
    async with served(FakeResponse([completion()])) as faces:
        await faces.complete(chat_pb2.Chat(model="gpt", messages=[message, only_audio]))
    first, second = faces.asked["messages"]
    assert first["content"] == [{"type": "text", "text": "Hi"}, audio]
    assert [call["type"] for call in first["tool_calls"]] == ["function", "custom"]
    assert second == {"role": "user", "content": [audio]}


async def test_streamed_parts_and_arguments_of_another_form_are_typed() -> None:
    parts = chunk(content=[{"type": "text", "text": "hi"}, {"type": "thinking", "thinking": []}])
    call = chunk(tool_calls=[{"index": 0, "function": {"arguments": {"a": 1}}}, _CUSTOM])
    async with served(stream_answer(parts, call, b"data: {oops\n\n", DONE)) as faces:
        first, second = [message async for message in faces.stream(a_chat())]
    assert first.choices[0].text == "hi"
    assert json_format.MessageToDict(first.choices[0].extra) == {"content": [{"type": "thinking", "thinking": []}]}
    assert second.choices[0].tool_calls[0].arguments == '{"a":1}'
    assert json_format.MessageToDict(second.choices[0].extra) == {"tool_calls": [_CUSTOM]}


@pytest.mark.parametrize(
    ("answers", "code", "reason"),
    [
        ([_CUT], grpc.StatusCode.UNAVAILABLE, "UPSTREAM_CUT"),
        ([UpstreamTimeout("slow")], grpc.StatusCode.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT"),
        ([UnreachableError("away")] * 2, grpc.StatusCode.UNAVAILABLE, "UPSTREAM_FAILED"),
        ([stream_answer()], grpc.StatusCode.UNAVAILABLE, "UPSTREAM_CUT"),
        ([FakeResponse([completion()])], grpc.StatusCode.INTERNAL, "UPSTREAM_MALFORMED"),
    ],
    ids=["cut", "slow", "away", "no event", "no stream"],
)
async def test_a_stream_that_does_not_begin_is_a_status(
    answers: list[FakeResponse | BaseException], code: grpc.StatusCode, reason: str
) -> None:
    async with served(*answers) as faces:
        messages, error = await broken(faces.stream(a_chat()))
    assert messages == []
    assert (error.code(), error_info(error)[1].reason) == (code, reason)
    assert len(faces.trial.outbox.events) == 1


@pytest.mark.parametrize(
    ("rest", "reason", "outcome"),
    [
        ([_CUT], "UPSTREAM_CUT", ("UPSTREAM_CUT", 200, "upstream_cut")),
        ([], "UPSTREAM_CUT", ("UPSTREAM_CUT", 200, "upstream_cut")),
        (
            [event({"error": {"message": "overloaded", "code": "busy"}})],
            "BUSY",
            ("UPSTREAM_CUT", 200, "upstream_error"),
        ),
        ([event({"error": "overloaded"})], "UPSTREAM_FAILED", ("UPSTREAM_CUT", 200, "upstream_error")),
    ],
    ids=["cut", "no terminator", "error event", "error text"],
)
async def test_a_stream_that_breaks_gives_what_came_and_then_a_status(
    rest: list[bytes | BaseException], reason: str, outcome: tuple[str, int, str]
) -> None:
    async with served(stream_answer(*EVENTS[:3], *rest)) as faces:
        messages, error = await broken(faces.stream(a_chat()))
    assert "".join(message.choices[0].text for message in messages) == "Hello ä🎉"
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error_info(error)[1].reason == reason
    assert faces.trial.outcome == outcome


@pytest.mark.parametrize("streamed", [False, True], ids=["complete", "stream"])
async def test_the_same_chat_over_both_faces_leaves_the_same_event_but_for_its_path(streamed: bool) -> None:  # noqa: FBT001
    def answer() -> FakeResponse:
        return stream_answer(*EVENTS) if streamed else FakeResponse([completion()])

    async with served(answer(), answer()) as faces:
        if streamed:
            async for _ in faces.stream(a_chat()):
                pass
        else:
            await faces.complete(a_chat())
        body = faces.trial.client.bodies[0]
        async for _ in faces.post(body):
            pass
        typed, http = faces.trial.outbox.events
    assert (http.method, http.path) == ("POST", "/v1/chat/completions")
    method = "StreamChat" if streamed else "CompleteChat"
    assert (typed.method, typed.path) == ("GRPC", f"/turnpike.chat.v1.ChatService/{method}")
    for each in (typed, http):
        each.event_id, each.method, each.path = b"", "", ""
        each.latency_ms = each.first_byte_ms = each.bytes_in = 0
    assert typed == http
    assert faces.trial.client.bodies[1] == body


@pytest.mark.parametrize("face", ["http", "typed"])
async def test_a_caller_who_leaves_a_stream_lets_go_of_the_provider(face: str) -> None:
    closed = asyncio.Event()

    class Endless(FakeResponse):
        async def _next(self) -> bytes | None:
            if self.complete:
                await asyncio.Event().wait()
            return await super()._next()

        def close(self) -> None:
            super().close()
            closed.set()

    async with served(Endless([EVENTS[1]], content_type="text/event-stream")) as faces:
        call = faces.post(ASK_STREAM) if face == "http" else faces.stream(a_chat())
        await call.read()
        call.cancel()
        await closed.wait()
    assert faces.trial.outcome == ("CLIENT_GONE", 499, "client_gone")
    assert faces.trial.counts == ("ESTIMATED", 2, 0, 0, 1, 0, 3)


async def test_a_slow_caller_holds_the_provider_back() -> None:
    taken = 0

    class Fast(FakeResponse):
        async def _next(self) -> bytes | None:
            nonlocal taken
            taken += 1
            await asyncio.sleep(0)
            return chunk(content="x" * 50_000) if taken < 2_000 else DONE

    async with served(Fast([], content_type="text/event-stream")) as faces:
        call = faces.post(ASK_STREAM)
        await call.read()
        before = -1
        # Until nothing moves any more: what fits between the two ends is full.
        while before != taken:
            before = taken
            for _ in range(2_000):
                await asyncio.sleep(0)
        assert taken < 500
        call.cancel()
