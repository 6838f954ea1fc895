"""Typed chat messages to OpenAI's JSON and back; unknown fields travel in ``extra``."""

from __future__ import annotations

from typing import Any, Final, NoReturn

import msgspec
from google.protobuf import struct_pb2

from common.dialects import lenient_json
from common.errors import InvalidRequest, UpstreamFailed, UpstreamMalformed
from common.serving.struct_json import count, extra, objects, plain, text
from common.upstream.sse import data_of
from turnpike.chat.v1 import chat_pb2

_ROLES: Final = {
    chat_pb2.ROLE_SYSTEM: "system",
    chat_pb2.ROLE_DEVELOPER: "developer",
    chat_pb2.ROLE_USER: "user",
    chat_pb2.ROLE_ASSISTANT: "assistant",
    chat_pb2.ROLE_TOOL: "tool",
}
_ROLE_NUMBERS: Final = {name: number for number, name in _ROLES.items()}
_MESSAGE_FIELDS: Final = ("role", "content", "tool_calls", "name", "tool_call_id")
_INT64_MAX: Final = 2**63 - 1
_OPTIONAL: Final = ("max_completion_tokens", "temperature", "top_p", "n", "seed")


def request_body(chat: chat_pb2.Chat, *, stream: bool) -> bytes:
    """Return OpenAI's request; raises InvalidRequest for a message without a role or with an empty part."""
    fields: dict[str, Any] = plain(chat.extra)
    fields["model"] = chat.model
    fields["messages"] = [_message(message, number) for number, message in enumerate(chat.messages)]
    fields.update({name: getattr(chat, name) for name in _OPTIONAL if chat.HasField(name)})
    if chat.stop:
        fields["stop"] = list(chat.stop)
    if chat.tools:
        fields["tools"] = [_tool(tool) for tool in chat.tools]
    choice = chat.tool_choice.WhichOneof("choice")
    if choice == "mode":
        fields["tool_choice"] = chat.tool_choice.mode
    elif choice == "function":
        fields["tool_choice"] = {"type": "function", "function": {"name": chat.tool_choice.function}}
    fields["stream"] = stream
    return msgspec.json.encode(fields)


def completion(body: bytes) -> chat_pb2.CompleteChatResponse:
    """Return the typed form of OpenAI's answer; raises UpstreamMalformed when it is no object with choices."""
    answer = _object(body)
    if not isinstance(answer.get("choices"), list):
        _unreadable()
    return chat_pb2.CompleteChatResponse(
        id=text(answer.get("id")),
        model=text(answer.get("model")),
        created=count(answer.get("created"), most=_INT64_MAX),
        choices=[
            chat_pb2.Choice(
                index=count(choice.get("index")),
                message=_typed_message(choice.get("message")),
                finish_reason=text(choice.get("finish_reason")),
            )
            for choice in objects(answer["choices"])
        ],
        usage=_usage(answer.get("usage")),
    )


def stream_message(event: bytes) -> chat_pb2.StreamChatResponse | None:
    """Return the typed form of an event, None for one that has none: a comment, the terminator, what is no object.

    Raises UpstreamFailed for an error.
    """
    data = data_of(event).strip()
    if not data or data == b"[DONE]":
        return None
    try:
        chunk = lenient_json.decode(data)
    except ValueError:
        return None
    if not isinstance(chunk, dict):
        return None
    error = chunk.get("error")
    if error:
        details = error if isinstance(error, dict) else {"message": str(error)}
        raise UpstreamFailed(
            str(details.get("message") or "The provider failed."), code=str(details.get("code") or "") or None
        )
    return chat_pb2.StreamChatResponse(
        id=text(chunk.get("id")),
        model=text(chunk.get("model")),
        created=count(chunk.get("created"), most=_INT64_MAX),
        choices=[_delta(choice) for choice in objects(chunk.get("choices"))],
        usage=_usage(chunk.get("usage")),
    )


def _message(message: chat_pb2.Message, number: int) -> dict[str, Any]:
    fields: dict[str, Any] = plain(message.extra)
    if message.role not in _ROLES:
        raise InvalidRequest(f"'messages.{number}.role' must be set.", param=f"messages.{number}.role")
    fields["role"] = _ROLES[message.role]
    # What an answer could not type travels in ``extra``, and comes back in the history.
    parts = [_part(part, number) for part in message.content] + _list_in(fields, "content")
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in message.tool_calls
    ] + _list_in(fields, "tool_calls")
    # A single text goes out as a string: every server takes it, while some know no lists.
    only_text = len(parts) == len(message.content) == 1 and parts[0]["type"] == "text"
    if parts or not calls:
        fields["content"] = parts[0]["text"] if only_text else parts or ""
    if message.name:
        fields["name"] = message.name
    if calls:
        fields["tool_calls"] = calls
    if message.tool_call_id:
        fields["tool_call_id"] = message.tool_call_id
    return fields


def _list_in(fields: dict[str, Any], name: str) -> list[Any]:
    """Take a list out of the fields; anything else under the name has a typed field, which wins."""
    value = fields.pop(name, None)
    return value if isinstance(value, list) else []


def _part(part: chat_pb2.ContentPart, number: int) -> dict[str, Any]:
    kind = part.WhichOneof("part")
    if kind == "text":
        return {"type": "text", "text": part.text}
    if kind == "image":
        image = {"url": part.image.url}
        if part.image.detail:
            image["detail"] = part.image.detail
        return {"type": "image_url", "image_url": image}
    raise InvalidRequest(f"'messages.{number}.content' has an empty part.", param=f"messages.{number}.content")


def _tool(tool: chat_pb2.Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.HasField("parameters"):
        function["parameters"] = plain(tool.parameters)
    if tool.HasField("strict"):
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _typed_message(message: Any) -> chat_pb2.Message:
    fields = message if isinstance(message, dict) else {}
    texts, other_parts = _split_content(fields.get("content"))
    calls, other_calls = _split_calls(fields.get("tool_calls"))
    return chat_pb2.Message(
        role=_ROLE_NUMBERS.get(text(fields.get("role")), chat_pb2.ROLE_ASSISTANT),
        content=[chat_pb2.ContentPart(text=each) for each in texts],
        tool_calls=[
            chat_pb2.ToolCall(id=text(call.get("id")), name=name, arguments=arguments)
            for call, name, arguments in calls
        ],
        extra=_rest(fields, other_parts, other_calls),
    )


def _delta(choice: dict[str, Any]) -> chat_pb2.ChoiceDelta:
    delta = choice.get("delta")
    fields = delta if isinstance(delta, dict) else {}
    texts, other_parts = _split_content(fields.get("content"))
    calls, other_calls = _split_calls(fields.get("tool_calls"))
    return chat_pb2.ChoiceDelta(
        index=count(choice.get("index")),
        role=_ROLE_NUMBERS.get(text(fields.get("role")), chat_pb2.ROLE_UNSPECIFIED),
        text="".join(texts),
        tool_calls=[
            chat_pb2.ToolCallDelta(
                index=count(call.get("index")), id=text(call.get("id")), name=name, arguments=arguments
            )
            for call, name, arguments in calls
        ],
        finish_reason=text(choice.get("finish_reason")),
        extra=_rest(fields, other_parts, other_calls),
    )


def _split_content(content: Any) -> tuple[list[str], list[Any]]:
    """Return the texts of a content, and the parts that are no plain text."""
    if not isinstance(content, list):
        return ([text(content)] if content not in (None, "") else []), []
    texts: list[str] = []
    others: list[Any] = []
    for part in content:
        if isinstance(part, dict) and part.get("type", "text") == "text":
            texts.append(text(part.get("text")))
        else:
            others.append(part)
    return texts, others


def _split_calls(calls: Any) -> tuple[list[tuple[dict[str, Any], str, str]], list[Any]]:
    """Return calls of functions with their names and arguments, and those of another kind."""
    functions: list[tuple[dict[str, Any], str, str]] = []
    others: list[Any] = []
    for call in objects(calls):
        if call.get("type", "function") not in ("function", None):
            others.append(call)
            continue
        function = call.get("function")
        fields = function if isinstance(function, dict) else {}
        functions.append((call, text(fields.get("name")), text(fields.get("arguments"))))
    return functions, others


def _rest(fields: dict[str, Any], parts: list[Any], calls: list[Any]) -> struct_pb2.Struct | None:
    """Return what of a message has no typed form, under OpenAI's own names."""
    rest = {name: value for name, value in fields.items() if name not in _MESSAGE_FIELDS}
    return extra({**rest, "content": parts or None, "tool_calls": calls or None}, known=())


def _usage(usage: Any) -> chat_pb2.TokenUsage | None:
    if not isinstance(usage, dict) or not usage:
        return None
    inner, outer = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return chat_pb2.TokenUsage(
        prompt_tokens=count(usage.get("prompt_tokens")),
        completion_tokens=count(usage.get("completion_tokens")),
        total_tokens=count(usage.get("total_tokens")),
        cached_tokens=count(inner.get("cached_tokens")) if isinstance(inner, dict) else 0,
        reasoning_tokens=count(outer.get("reasoning_tokens")) if isinstance(outer, dict) else 0,
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        answer = lenient_json.decode(body)
    except ValueError:
        _unreadable()
    return answer if isinstance(answer, dict) else _unreadable()


def _unreadable() -> NoReturn:
    raise UpstreamMalformed("The provider's answer is not a chat completion.") from None
