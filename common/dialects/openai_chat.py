"""OpenAI's chat completions: what the gateway reads of a request, which is as little as it needs.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from common.dialects.json_errors import json_refusal
from common.dialects.openai_chat_reader import ChatReader
from common.dialects.raw_fields import NULL, fields_of, is_present, with_fields
from common.dialects.text_length import length_of_messages
from common.errors import InvalidRequest, TurnpikeError, openai_body
from common.upstream.http import Body


class _Fields(msgspec.Struct):
    """The fields that matter here; ``messages`` and ``tools`` are counted, not read."""

    model: str
    messages: list[msgspec.Raw]
    stream: bool | None = None
    stream_options: msgspec.Raw = NULL
    tools: msgspec.Raw = NULL
    max_completion_tokens: Any = None
    max_tokens: Any = None
    temperature: Any = None
    top_p: Any = None


_REQUEST: Final = msgspec.json.Decoder(_Fields)


class ChatRequest:
    """A request for a completion; its body stays as it came."""

    def __init__(self, body: bytes | memoryview, fields: _Fields, raw_fields: Mapping[str, msgspec.Raw] | None) -> None:
        self._body = body
        self._fields = fields
        self._raw_fields = raw_fields
        self.model = fields.model
        self.is_stream = bool(fields.stream)
        limit = fields.max_completion_tokens if fields.max_completion_tokens is not None else fields.max_tokens
        self.max_tokens = limit if type(limit) is int else None
        self.temperature = _number(fields.temperature)
        self.top_p = _number(fields.top_p)

    def body(self, *, model: str, ask_usage: bool) -> Body:
        """Return the body for ``model``; a stream's has ``stream_options.include_usage`` true if ``ask_usage``."""
        changes: dict[str, bytes] = {}
        if model != self.model:
            changes["model"] = msgspec.json.encode(model)
        if self.is_stream and ask_usage:
            changes.update(self._usage_options())
        if not changes:
            return self._body
        return with_fields(fields_of(self._body) if self._raw_fields is None else self._raw_fields, changes)

    def reader(self) -> ChatReader:
        """Return a reader for one answer."""
        return ChatReader(prompt_length=self._prompt_length)

    def _prompt_length(self) -> int:
        tools = self._fields.tools
        return length_of_messages(self._fields.messages) + (len(bytes(tools)) if is_present(tools) else 0)

    def _usage_options(self) -> dict[str, bytes]:
        options: dict[str, msgspec.Raw] = {}
        if is_present(self._fields.stream_options):
            options = fields_of(self._fields.stream_options)
        if bytes(options.get("include_usage", b"")) == b"true":
            return {}
        options["include_usage"] = msgspec.Raw(b"true")
        return {"stream_options": msgspec.json.encode(options)}


class OpenAIChat:
    """The dialect of POST /v1/chat/completions."""

    name: Final = "openai_chat"
    operation: Final = "chat"
    request_headers: Final = ("openai-organization", "openai-project", "openai-beta")

    def read(self, body: bytes | memoryview) -> ChatRequest:
        """Read a request; raises InvalidRequest that says what is wrong and where."""
        try:
            fields = _REQUEST.decode(body)
        except (ValueError, RecursionError) as error:
            if not bytes(body[:4096]).strip():
                raise InvalidRequest("The request body is empty; send a JSON object.", code="empty_body") from None
            raise json_refusal(error) from None
        if not fields.model:
            raise InvalidRequest("'model' must not be empty.", param="model")
        return ChatRequest(body, fields, _raw_fields(body, fields) if fields.stream else None)

    def error_event(self, error: TurnpikeError) -> bytes:
        """Return the envelope as an event, which SDKs raise as an error."""
        return b"data: " + openai_body(error) + b"\n\n"


def _raw_fields(body: bytes | memoryview, fields: _Fields) -> Mapping[str, msgspec.Raw]:
    """Return a stream's fields, which are written again; raises InvalidRequest for what cannot be."""
    if is_present(fields.stream_options):
        try:
            fields_of(fields.stream_options)
        except (ValueError, RecursionError):
            raise InvalidRequest("'stream_options' must be an object.", param="stream_options") from None
    try:
        return fields_of(body)
    except (ValueError, RecursionError) as error:
        # A name that is no UTF-8: the typed decoder skips it.
        raise json_refusal(error) from None


def _number(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    except OverflowError:
        return None
