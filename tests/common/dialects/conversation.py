"""Chats, and the answers of providers to them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from common.dialects.openai_chat import OpenAIChat
from tests.common.builders import a_call
from tests.common.trial import Got, Trial
from tests.common.upstream.fake_client import FakeResponse

CHAT: Final = OpenAIChat()
ASK: Final = b'{"model":"gpt","messages":[{"role":"user","content":"12345678"}]}'
ASK_STREAM: Final = b'{"model":"gpt","messages":[{"role":"user","content":"12345678"}],"stream":true}'
USAGE: Final = {
    "prompt_tokens": 10,
    "completion_tokens": 6,
    "total_tokens": 16,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
DONE: Final = b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    """Return the value as a server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def chunk(*, usage: Any = None, finish: str | None = None, **delta: Any) -> bytes:
    """Return a chunk with a delta, or one with a usage and no choices."""
    value: dict[str, Any] = {"id": "c-1", "object": "chat.completion.chunk", "created": 7, "model": "gpt-1"}
    value["choices"] = [] if usage is not None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    if usage is not None:
        value["usage"] = usage
    return event(value)


EVENTS: Final = (
    chunk(role="assistant", content=""),
    chunk(content="Hel"),
    chunk(content="lo ä🎉"),
    chunk(finish="stop"),
    chunk(usage=USAGE),
    DONE,
)


def completion(*, usage: Any = USAGE, message: Mapping[str, Any] | None = None, finish: str = "stop") -> bytes:
    """Return a whole answer, spelled in a way that no encoder would choose."""
    value = {
        "id": "c-1",
        "object": "chat.completion",
        "created": 7,
        "model": "gpt-1",
        "choices": [
            {"index": 0, "message": message or {"role": "assistant", "content": "Hello"}, "finish_reason": finish}
        ],
        "x": 1.50,
    }
    if usage is not None:
        value["usage"] = usage
    return json.dumps(value, indent=3).encode()


def stream_answer(
    *pieces: bytes | BaseException, content_type: str = "text/event-stream; charset=utf-8"
) -> FakeResponse:
    """Return a streamed answer."""
    return FakeResponse(pieces, content_type=content_type)


class ChatTrial(Trial):
    """A relay for chats."""

    async def ask(self, body: bytes = ASK, *, metadata: Mapping[str, str] | None = None) -> Got:
        """Ask, and read all of the answer."""
        return await self.send(body, dialect=CHAT, call=a_call(metadata=metadata or {}))


COUNTED: Final = ("PROVIDER", 6, 4, 0, 5, 1, 16)
"""The counts that USAGE stands for."""
