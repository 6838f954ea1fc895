"""How long the texts of a conversation are, in characters: what estimates are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from common.dialects import lenient_json


def length_of_messages(messages: Sequence[msgspec.Raw]) -> int:
    """Return the characters of the texts and tool calls in messages; images and what cannot be read count nothing."""
    return sum(map(_length_of_message, messages))


def _length_of_message(raw: msgspec.Raw) -> int:
    try:
        message = lenient_json.decode(bytes(raw))
    except ValueError:
        # Messages were not read when the request came: what is in them is the provider's business.
        return 0
    if not isinstance(message, dict):
        return 0
    return length_of_text(message.get("content")) + length_of_calls(message.get("tool_calls"))


def length_of_text(content: Any) -> int:
    """Return the characters of a text, or of the texts among a list of parts."""
    if isinstance(content, str):
        return len(content)
    if isinstance(content, dict):
        # A part of text, or of thinking, which holds texts of its own in some dialects.
        return length_of_text(content.get("text")) + length_of_text(content.get("thinking"))
    return sum(map(length_of_text, content)) if isinstance(content, list) else 0


def length_of_calls(calls: Any) -> int:
    """Return the characters that a model wrote to call tools: names and arguments, however they are spelled."""
    if isinstance(calls, dict):
        return sum(map(_length_of_call_field, calls.items()))
    return sum(map(length_of_calls, calls)) if isinstance(calls, list) else 0


def _length_of_call_field(field: tuple[str, Any]) -> int:
    name, value = field
    if name in ("function", "custom"):
        return length_of_calls(value)
    if name not in ("name", "arguments", "input"):
        return 0
    if isinstance(value, str):
        return len(value)
    return len(msgspec.json.encode(value)) if value is not None else 0
