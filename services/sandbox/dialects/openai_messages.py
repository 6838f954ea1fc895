"""Reads the messages of OpenAI's chat completions.

Prompt tokens: 1 for each message, those of its text and tool calls, and 85 for each image.
"""

from dataclasses import dataclass

from services.sandbox.checks import Fields
from services.sandbox.core import fragments, tokens

IMAGE_TOKENS = 85

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


@dataclass(slots=True, kw_only=True)
class Conversation:
    """What the messages hold; `text` and `role` are those of the last one, `tokens` are those of the prompt."""

    text: str = ""
    role: str = ""
    tokens: int = 0
    images: int = 0


def read_messages(body: Fields) -> Conversation:
    """Read the messages; raises `Refused` that names the wrong field."""
    if not body.has("messages"):
        raise body.missing("messages")
    messages = body.children("messages")
    if not messages:
        problem = "empty array. Expected an array with minimum length 1, but got an empty array instead."
        raise body.refuse("messages", f"Invalid 'messages': {problem}", code="empty_array")
    whole = Conversation()
    call_ids: set[str] = set()
    for message in messages:
        role = message.text("role", choices=_ROLES)
        if role is None:
            raise message.missing("role")
        whole.role = role
        whole.tokens += 1
        if role == "tool":
            _check_tool_result(message, call_ids=call_ids)
        calls = message.children("tool_calls") if role == "assistant" else []
        for call in calls:
            whole.tokens += _past_call(call, call_ids=call_ids)
        _content(message, whole=whole, may_be_null=bool(calls) or message.has("refusal"))
    return whole


def _content(message: Fields, *, whole: Conversation, may_be_null: bool) -> None:
    whole.text = ""
    content = message.values.get("content")
    if content is None:
        if not may_be_null:
            raise message.missing("content")
    elif isinstance(content, str):
        whole.text = content
    elif isinstance(content, list):
        whole.text = "\n".join(filter(None, [_part(part, whole=whole) for part in message.children("content")]))
    else:
        raise message.wrong_type("content", expected="one of a string or array of objects")
    whole.tokens += len(tokens(whole.text))


def _part(part: Fields, *, whole: Conversation) -> str:
    kind = part.text("type", choices=("text", "refusal", "image_url"))
    if kind is None:
        raise part.missing("type")
    if kind == "image_url":
        image = part.child("image_url")
        if image is None or not image.text("url"):
            raise part.missing("image_url.url")
        image.text("detail", choices=("auto", "low", "high", "original"))
        whole.images += 1
        whole.tokens += IMAGE_TOKENS
        return ""
    text = part.text(kind)
    if text is None:
        raise part.missing(kind)
    return text


def _check_tool_result(message: Fields, *, call_ids: set[str]) -> None:
    call_id = message.text("tool_call_id")
    if call_id is None:
        raise message.missing("tool_call_id")
    if call_id not in call_ids:
        text = (
            "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'."
        )
        raise message.refuse("tool_call_id", text)


def _past_call(call: Fields, *, call_ids: set[str]) -> int:
    call_id, function = call.text("id"), call.child("function")
    if call_id is None:
        raise call.missing("id")
    if function is None:
        raise call.missing("function")
    name, arguments = function.text("name"), function.text("arguments")
    if name is None:
        raise function.missing("name")
    if arguments is None:
        raise function.missing("arguments")
    call_ids.add(call_id)
    return 1 + len(fragments(arguments))
