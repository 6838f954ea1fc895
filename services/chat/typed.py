"""Typed chat messages to OpenAI's JSON and back; unknown fields travel in ``extra``."""

from __future__ import annotations

from typing import Any, Final, NoReturn

import msgspec
from google.protobuf import json_format

from common.errors import InvalidRequest, UpstreamFailed
from common.serving.struct_json import extra, plain
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
_WRONG_SHAPE: Final = (ValueError, TypeError, AttributeError, KeyError, OverflowError, json_format.ParseError)
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
    """Return the typed form of OpenAI's answer; raises UpstreamFailed when it has another shape."""
    try:
        answer = msgspec.json.decode(body)
        return chat_pb2.CompleteChatResponse(
            id=answer.get("id") or "",
            model=answer.get("model") or "",
            created=int(answer.get("created") or 0),
            choices=[
                chat_pb2.Choice(
                    index=choice.get("index") or 0,
                    message=_typed_message(choice.get("message") or {}),
                    finish_reason=choice.get("finish_reason") or "",
                )
                for choice in answer.get("choices") or ()
            ],
            usage=_usage(answer.get("usage")),
        )
    except _WRONG_SHAPE:
        _unreadable()


def stream_message(event: bytes) -> chat_pb2.StreamChatResponse | None:
    """Return the typed form of an event, None for comments and the terminator; raises UpstreamFailed for an error."""
    data = data_of(event).strip()
    if not data or data == b"[DONE]":
        return None
    try:
        chunk = msgspec.json.decode(data)
        error = chunk.get("error")
        if not error:
            return chat_pb2.StreamChatResponse(
                id=chunk.get("id") or "",
                model=chunk.get("model") or "",
                created=int(chunk.get("created") or 0),
                choices=[_delta(choice) for choice in chunk.get("choices") or ()],
                usage=_usage(chunk.get("usage")),
            )
    except _WRONG_SHAPE:
        _unreadable()
    details = error if isinstance(error, dict) else {"message": str(error)}
    raise UpstreamFailed(
        str(details.get("message") or "The provider failed."), code=str(details.get("code") or "") or None
    )


def _message(message: chat_pb2.Message, number: int) -> dict[str, Any]:
    fields: dict[str, Any] = plain(message.extra)
    if message.role not in _ROLES:
        raise InvalidRequest(f"'messages.{number}.role' must be set.", param=f"messages.{number}.role")
    fields["role"] = _ROLES[message.role]
    parts = [_part(part, number) for part in message.content]
    # A single text goes out as a string: every server takes it, while some know no lists.
    only_text = len(parts) == 1 and parts[0]["type"] == "text"
    if parts or not message.tool_calls:
        fields["content"] = parts[0]["text"] if only_text else parts or ""
    if message.name:
        fields["name"] = message.name
    if message.tool_calls:
        fields["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        fields["tool_call_id"] = message.tool_call_id
    return fields


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


def _typed_message(message: dict[str, Any]) -> chat_pb2.Message:
    return chat_pb2.Message(
        role=_ROLE_NUMBERS.get(message.get("role") or "", chat_pb2.ROLE_ASSISTANT),
        content=_parts(message.get("content")),
        tool_calls=[
            chat_pb2.ToolCall(
                id=call.get("id") or "",
                name=call["function"].get("name") or "",
                arguments=call["function"].get("arguments") or "",
            )
            for call in message.get("tool_calls") or ()
        ],
        extra=extra(message, known=_MESSAGE_FIELDS),
    )


def _parts(content: Any) -> list[chat_pb2.ContentPart]:
    if isinstance(content, str):
        return [chat_pb2.ContentPart(text=content)] if content else []
    return [chat_pb2.ContentPart(text=part.get("text") or "") for part in content or ()]


def _delta(choice: dict[str, Any]) -> chat_pb2.ChoiceDelta:
    delta = choice.get("delta") or {}
    return chat_pb2.ChoiceDelta(
        index=choice.get("index") or 0,
        role=_ROLE_NUMBERS.get(delta.get("role") or "", chat_pb2.ROLE_UNSPECIFIED),
        text=delta.get("content") or "",
        tool_calls=[
            chat_pb2.ToolCallDelta(
                index=call.get("index") or 0,
                id=call.get("id") or "",
                name=(call.get("function") or {}).get("name") or "",
                arguments=(call.get("function") or {}).get("arguments") or "",
            )
            for call in delta.get("tool_calls") or ()
        ],
        finish_reason=choice.get("finish_reason") or "",
        extra=extra(delta, known=_MESSAGE_FIELDS),
    )


def _usage(usage: dict[str, Any] | None) -> chat_pb2.TokenUsage | None:
    if not usage:
        return None
    return chat_pb2.TokenUsage(
        prompt_tokens=usage.get("prompt_tokens") or 0,
        completion_tokens=usage.get("completion_tokens") or 0,
        total_tokens=usage.get("total_tokens") or 0,
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        reasoning_tokens=(usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0,
    )


def _unreadable() -> NoReturn:
    raise UpstreamFailed("The provider's answer is not a chat completion.", code="upstream_malformed") from None
