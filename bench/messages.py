"""The requests of the benchmark and the only right answers to them, known to the client, the upstream and the baseline.

A stream's length and pace stand in the request's body, in fields that the gateway passes on as it does any other.
"""

from __future__ import annotations

import json
from typing import Any, Final

_HEAD: Final = {"id": "chatcmpl-bench0123456789abcdef", "created": 1_700_000_000, "model": "bench-1"}
_USAGE: Final = {
    "prompt_tokens": 31,
    "completion_tokens": 48,
    "total_tokens": 79,
    "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}
_MESSAGES: Final = (
    {"role": "system", "content": "You are a benchmark. Answer in one short paragraph of plain text."},
    {"role": "user", "content": "Why does a gateway that adds nothing to an answer still take time?"},
)
_QUESTION: Final = {
    "model": "bench-1",
    "messages": _MESSAGES,
    "temperature": 0.7,
    "max_tokens": 256,
}


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _event(value: Any) -> bytes:
    return b"data: " + _json(value) + b"\n\n"


def _choice(**fields: Any) -> list[dict[str, Any]]:
    return [{"index": 0, **fields, "logprobs": None}]


_TEXT: Final = "Because each hop reads, decides and writes, and no machine does any of these three for nothing. " * 2
_MESSAGE: Final[dict[str, Any]] = {"role": "assistant", "content": _TEXT, "refusal": None, "annotations": []}
ANSWER: Final = _json(
    {**_HEAD, "object": "chat.completion", "choices": _choice(message=_MESSAGE, finish_reason="stop"), "usage": _USAGE}
)
"""The whole answer to a request without a stream."""
_CHUNK: Final = {**_HEAD, "object": "chat.completion.chunk", "system_fingerprint": "fp_bench"}
EVENT: Final = _event({**_CHUNK, "choices": _choice(delta={"content": " token"}, finish_reason=None), "usage": None})
"""One of a stream's events: a real one's fields and size."""
USAGE_EVENT: Final = _event({**_CHUNK, "choices": [], "usage": _USAGE})
"""A stream's last event but one."""
DONE: Final = b"data: [DONE]\n\n"
"""A stream's last event."""
QUESTION: Final = _json(_QUESTION)
"""The body of a request without a stream."""


def question(*, body_bytes: int) -> bytes:
    """Return a body without a stream of about so many bytes, as a long conversation has; at least QUESTION's."""
    text = "Once more, with everything that was said before. "
    long = text * max(0, (body_bytes - len(QUESTION)) // len(text))
    return _json({**_QUESTION, "messages": [*_MESSAGES, {"role": "user", "content": long}]}) if long else QUESTION


def stream_question(*, events: int, rate: int) -> bytes:
    """Return the body that asks for a stream of ``events`` events, ``rate`` of them a second; 0 is full speed."""
    return _json({**_QUESTION, "stream": True, "bench_events": events, "bench_rate": rate})


def stream_answer(*, events: int) -> bytes:
    """Return the body of the stream's answer."""
    return EVENT * events + USAGE_EVENT + DONE


def http_request(body: bytes, *, credential: str, method: str = "POST", path: str = "/v1/chat/completions") -> bytes:
    """Return an HTTP/1.1 request as bytes."""
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {credential}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
