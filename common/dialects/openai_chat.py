"""What the gateway reads of OpenAI's chat: as little as it needs, so that everything else passes through unread.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import msgspec

from common.dialects.json_errors import json_refusal
from common.errors import InvalidRequest
from common.metering.units import Quantities, Unit

_CHARACTERS_PER_TOKEN: Final = 4
_NULL: Final = msgspec.Raw(b"null")


class ChatRequest(msgspec.Struct):
    """A request's fields that matter here; ``messages`` are counted, not read."""

    model: str
    messages: list[msgspec.Raw]
    stream: bool | None = None
    stream_options: msgspec.Raw = _NULL
    max_completion_tokens: Any = None
    max_tokens: Any = None
    temperature: Any = None
    top_p: Any = None

    @property
    def output_limit(self) -> int | None:
        """The most tokens that the caller wants, None when it does not say."""
        limit = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        return limit if isinstance(limit, int) and not isinstance(limit, bool) else None

    def number(self, name: str) -> float | None:
        """The field ``name`` if it is a number."""
        return _number(getattr(self, name))


class Counts(NamedTuple):
    """What an answer used, and the total of its tokens."""

    quantities: Quantities
    total: int


class _Delta(msgspec.Struct, gc=False):
    content: Any = None
    tool_calls: Any = None


class _ChunkChoice(msgspec.Struct, gc=False):
    delta: _Delta | None = None


class Chunk(msgspec.Struct, gc=False):
    """A stream's chunk, as far as it matters here."""

    model: str | None = None
    choices: list[_ChunkChoice] | None = None
    usage: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL


class Completion(msgspec.Struct):
    """A whole answer, as far as it matters here."""

    model: str | None = None
    usage: msgspec.Raw = _NULL


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


_REQUEST: Final = msgspec.json.Decoder(ChatRequest)
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_CHUNK: Final = msgspec.json.Decoder(Chunk)
_COMPLETION: Final = msgspec.json.Decoder(Completion)
_USAGE: Final = msgspec.json.Decoder(_Usage)


def parse_request(body: bytes | memoryview) -> ChatRequest:
    """Return the request; raises InvalidRequest that says what is wrong and where."""
    try:
        request = _REQUEST.decode(body)
    except (ValueError, RecursionError) as error:
        if not bytes(body[:4096]).strip():
            raise InvalidRequest("The request body is empty; send a JSON object.", code="empty_body") from None
        raise json_refusal(error) from None
    if not request.model:
        raise InvalidRequest("'model' must not be empty.", param="model")
    return request


def with_usage_asked(body: bytes | memoryview, request: ChatRequest) -> bytes | memoryview:
    """Return the body with stream_options.include_usage true; every other field keeps its bytes."""
    fields = _FIELDS.decode(body)
    options: dict[str, msgspec.Raw] = {}
    if present(request.stream_options):
        try:
            options = _FIELDS.decode(request.stream_options)
        except ValueError:
            raise InvalidRequest("'stream_options' must be an object.", param="stream_options") from None
    if bytes(options.get("include_usage", b"")) == b"true":
        return body
    options["include_usage"] = msgspec.Raw(b"true")
    fields["stream_options"] = msgspec.Raw(msgspec.json.encode(options))
    return msgspec.json.encode(fields)


def parse_chunk(data: bytes) -> Chunk | None:
    """Return a stream's chunk, None for one of an unknown shape; raises ValueError when it is not JSON at all."""
    try:
        return _CHUNK.decode(data)
    except msgspec.ValidationError:
        msgspec.json.decode(data)
        return None


def parse_completion(body: bytes) -> Completion:
    """Return a whole answer; an unreadable one comes back empty, because its caller gets the bytes all the same."""
    try:
        return _COMPLETION.decode(body)
    except (ValueError, RecursionError):
        return Completion()


def present(raw: msgspec.Raw) -> bool:
    """Say whether a field was there and not null."""
    return raw is not _NULL and bytes(raw) != b"null"


def is_error(chunk: Chunk) -> bool:
    """Say whether the chunk tells of an error; some servers send an empty one with each chunk."""
    return present(chunk.error) and bool(msgspec.json.decode(chunk.error))


def token_counts(usage: msgspec.Raw) -> Counts | None:
    """Return disjoint counts from OpenAI's usage object, whose totals contain their details; None when unreadable."""
    try:
        parsed = _USAGE.decode(usage)
    except (ValueError, RecursionError):
        return None
    details, output = parsed.prompt_tokens_details, parsed.completion_tokens_details
    prompt, completion = max(0, parsed.prompt_tokens), max(0, parsed.completion_tokens)
    cached = _within((details and details.cached_tokens) or 0, prompt)
    written = _within((details and details.cache_write_tokens) or 0, prompt - cached)
    reasoning = _within((output and output.reasoning_tokens) or 0, completion)
    return Counts(
        {
            Unit.UNCACHED_INPUT: prompt - cached - written,
            Unit.CACHE_READ: cached,
            Unit.CACHE_WRITE: written,
            Unit.TEXT_OUTPUT: completion - reasoning,
            Unit.REASONING: reasoning,
        },
        total=max(0, parsed.total_tokens) if parsed.total_tokens is not None else prompt + completion,
    )


def estimated_counts(request: ChatRequest, *, pieces: int) -> Counts:
    """Estimate a broken-off stream: a token for each piece of output seen, and for every four characters of the prompt.

    Images are not counted: their price in tokens is the provider's secret.
    """
    characters = sum(map(_characters, request.messages))
    prompt = math.ceil(characters / _CHARACTERS_PER_TOKEN)
    return Counts({Unit.UNCACHED_INPUT: prompt, Unit.TEXT_OUTPUT: pieces}, total=prompt + pieces)


def _characters(raw: msgspec.Raw) -> int:
    try:
        message = msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        # Messages were not read when the request came: what is in them is the provider's business.
        return 0
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return len(content)
    if not isinstance(content, list):
        return 0
    texts = [part.get("text") for part in content if isinstance(part, dict)]
    return sum(len(text) for text in texts if isinstance(text, str))


def _number(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    except OverflowError:
        return None


def _within(value: int, limit: int) -> int:
    return min(max(0, value), limit)
