"""How long the texts of a conversation are, in characters: what estimates are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from common.dialects import lenient_json

# No dialect nests the texts of a message deeper; callers and providers can nest JSON as deep as they like.
_DEPTH: Final = 8


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


def length_of_text(content: Any, *, depth: int = _DEPTH) -> int:
    """Return the characters of a text, or of the texts among a list of parts."""
    if isinstance(content, str):
        return len(content)
    if not depth:
        return 0
    if isinstance(content, dict):
        # A part of text, or of thinking, which holds texts of its own in some dialects.
        parts = [content.get("text"), content.get("thinking")]
    elif isinstance(content, list):
        parts = content
    else:
        return 0
    return sum(length_of_text(part, depth=depth - 1) for part in parts)


def length_of_calls(calls: Any, *, depth: int = _DEPTH) -> int:
    """Return the characters that a model wrote to call tools: names and arguments, however they are spelled."""
    if not depth:
        return 0
    if isinstance(calls, list):
        return sum(length_of_calls(call, depth=depth - 1) for call in calls)
    if not isinstance(calls, dict):
        return 0
    inner = sum(length_of_calls(calls.get(name), depth=depth - 1) for name in ("function", "custom"))
    return inner + sum(_length_of_value(calls.get(name)) for name in ("name", "arguments", "input"))


def _length_of_value(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    try:
        return len(msgspec.json.encode(value)) if value is not None else 0
    except (ValueError, RecursionError):
        return 0
