"""Reads OpenAI's chat answers while they pass: what was used, and where a stream ends.

Providers bend the format in many ways (docs/metering.md); whatever an event holds, the caller gets it, and what is
readable counts. Each event is on the hot path, so that a typed decoder that skips most of it comes first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from common.dialects import lenient_json
from common.dialects.dialect import Progress, Usage
from common.dialects.openai_usage import TokenReport, read_usage
from common.dialects.text_length import length_of_calls, length_of_text
from common.metering.record import UsageSource

_CHARACTERS_PER_TOKEN: Final = 4
_ABSENT: Final = msgspec.Raw(b"")


class _Text(msgspec.Struct, gc=False):
    """What a model writes: a stream's delta, or a whole answer's message."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None
    audio: Any = None


class _Choice(msgspec.Struct, gc=False):
    index: Any = 0
    delta: _Text | None = None
    message: _Text | None = None
    finish_reason: Any = None
    usage: Any = None


class _Chunk(msgspec.Struct, gc=False):
    """An event of a stream. ``x_groq`` is where Groq puts its usage."""

    model: Any = None
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    x_groq: Any = None


class _Answer(msgspec.Struct):
    """A whole answer, whose choices are read only when somebody asks how long they are."""

    model: Any = None
    choices: msgspec.Raw = _ABSENT
    usage: Any = None
    error: Any = None
    x_groq: Any = None


_decode_chunk: Final = msgspec.json.Decoder(_Chunk).decode
_ANSWER: Final = msgspec.json.Decoder(_Answer)
_CHOICES: Final = msgspec.json.Decoder(list[_Choice])
# Names of the module, because an enum's members are looked up in its class for each event.
_NOTHING: Final = Progress.NONE
_CONTENT: Final = Progress.CONTENT
_NO_CHOICES: Final = (b"", b"[]", b"null")
_TEXT_FIELDS: Final = _Text.__struct_fields__


class ChatReader:
    """Reads one answer; ``prompt_length`` gives the characters of the prompt, for an estimate."""

    def __init__(self, *, prompt_length: Callable[[], int]) -> None:
        self._prompt_length = prompt_length
        self._report = TokenReport()
        self._model = ""
        # Pieces and characters of output, for an estimate.
        self._pieces = 0
        self._characters = 0
        self._reasoning_pieces = 0
        self._reasoning_characters = 0
        self._unfinished: set[Any] = set()
        self._has_finish = False

    @property
    def finished(self) -> bool:
        """Say whether every alternative that has begun has its finish_reason."""
        return self._has_finish and not self._unfinished

    def feed(self, data: bytes) -> Progress:
        """Read an event's data."""
        try:
            chunk = _decode_chunk(data)
        except (ValueError, RecursionError):
            if data.strip() == b"[DONE]":
                return Progress.END
            found = _tolerant(data)
            if found is None:
                return Progress.NONE
            chunk = found
        if chunk.error:
            # Some servers send an empty one with each chunk.
            return Progress.ERROR
        if chunk.usage is not None or chunk.x_groq is not None:
            self._count(chunk.usage, chunk.x_groq)
        model = chunk.model
        if type(model) is str and model:
            self._model = model
        progress = _NOTHING
        for choice in chunk.choices or ():
            if self._take(choice):
                progress = _CONTENT
        return progress

    def read_body(self, body: bytes) -> Progress:
        """Read a whole answer: an object with ``choices``; one with an ``error``, or in a known form of one, failed."""
        answer = _answer(body)
        if answer is None:
            return Progress.NONE
        choices = bytes(answer.choices)
        if choices in _NO_CHOICES and answer.error:
            return Progress.ERROR
        if not choices.startswith((b"[", b"null")):
            return Progress.ERROR if _is_flat_error(body) else Progress.NONE
        self._count(answer.usage, answer.x_groq)
        if isinstance(answer.model, str):
            self._model = answer.model
        if not (self._report.prompt and self._report.completion):
            for choice in _choices(choices):
                self._take(choice)
            # A whole answer has no pieces: only its characters tell how many tokens it has.
            self._pieces = self._reasoning_pieces = 0
        return Progress.CONTENT

    def usage(self) -> Usage:
        """Return the provider's counts; what it has not said is estimated."""
        report = self._report
        if report.prompt and report.completion:
            return Usage(report.quantities, UsageSource.PROVIDER, report.total, self._model)
        text = max(self._pieces, _tokens(self._characters))
        reasoning = max(self._reasoning_pieces, _tokens(self._reasoning_characters))
        if report.prompt and not text + reasoning:
            # The provider counted, and there was no output.
            return Usage(report.quantities, UsageSource.PROVIDER, report.total, self._model)
        prompt = report.prompt or _tokens(self._prompt_length())
        estimate = report.with_estimates(prompt=prompt, text=text, reasoning=reasoning)
        total = estimate.total or estimate.prompt + estimate.completion
        return Usage(estimate.quantities, UsageSource.ESTIMATED, total, self._model)

    def _take(self, choice: _Choice) -> bool:
        """Count what a choice brings, and say whether it brings anything that a caller would miss."""
        if choice.usage is not None:
            self._count(choice.usage, None)
        text = choice.delta or choice.message
        found = text is not None and self._measure(text)
        index = choice.index if type(choice.index) is int else 0
        if choice.finish_reason:
            self._has_finish = True
            self._unfinished.discard(index)
            return True
        if found:
            self._unfinished.add(index)
        return found

    def _measure(self, text: _Text) -> bool:
        content = text.content
        if type(content) is str and not (
            text.reasoning_content
            or text.reasoning
            or text.refusal
            or text.tool_calls
            or text.function_call
            or text.audio
        ):
            # What nearly every event has: nothing but text.
            self._characters += len(content)
            self._pieces += bool(content)
            return bool(content)
        characters = length_of_text(content)
        if text.refusal:
            characters += length_of_text(text.refusal)
        if text.tool_calls:
            characters += length_of_calls(text.tool_calls)
        if text.function_call:
            characters += length_of_calls(text.function_call)
        self._characters += characters
        thoughts = 0
        if text.reasoning_content or text.reasoning:
            thoughts = length_of_text(text.reasoning_content or text.reasoning)
            self._reasoning_characters += thoughts
        if thoughts:
            self._reasoning_pieces += 1
        # A content of another type than text is one, too: some servers send a digit as a number.
        written = bool(characters or text.tool_calls or text.function_call or text.audio or content)
        if written:
            self._pieces += 1
        return written or thoughts > 0

    def _count(self, usage: Any, x_groq: Any) -> None:
        if usage is None and isinstance(x_groq, dict):
            usage = x_groq.get("usage")
        report = read_usage(usage)
        if report is not None:
            self._report = self._report.merged(report)


def _tokens(characters: int) -> int:
    return math.ceil(characters / _CHARACTERS_PER_TOKEN)


def _is_flat_error(body: bytes) -> bool:
    """Recognize errors without an envelope: older vLLM's {"object":"error"}, FastAPI's detail, a bare message."""
    value = lenient_json.decode_object(body) or {}
    return value.get("object") == "error" or any(value.get(name) for name in ("detail", "message", "errors"))


def _answer(body: bytes) -> _Answer | None:
    """Return a whole answer, None when it is no JSON object."""
    try:
        return _ANSWER.decode(body)
    except (ValueError, RecursionError):
        value = lenient_json.decode_object(body)
    if value is None:
        return None
    choices = msgspec.Raw(json.dumps(value["choices"]).encode()) if "choices" in value else _ABSENT
    return _Answer(value.get("model"), choices, value.get("usage"), value.get("error"), value.get("x_groq"))


def _choices(raw: bytes) -> list[_Choice]:
    """Return the choices of a whole answer, as far as they can be read."""
    try:
        return _CHOICES.decode(raw)
    except (ValueError, RecursionError):
        pass
    try:
        return _tolerant_choices(lenient_json.decode(raw))
    except ValueError:
        return []


def _tolerant(data: bytes) -> _Chunk | None:
    """Return what can be read of an event that a typed decoder refuses, None when it is no JSON object."""
    value = lenient_json.decode_object(data)
    if value is None:
        return None
    choices = _tolerant_choices(value.get("choices"))
    return _Chunk(value.get("model"), choices, value.get("usage"), value.get("error"), value.get("x_groq"))


def _tolerant_choices(choices: Any) -> list[_Choice]:
    found = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    return [
        _Choice(
            choice.get("index"),
            _tolerant_text(choice.get("delta")),
            _tolerant_text(choice.get("message")),
            choice.get("finish_reason"),
            choice.get("usage"),
        )
        for choice in found
    ]


def _tolerant_text(text: Any) -> _Text | None:
    if not isinstance(text, Mapping):
        return None
    return _Text(**{name: text[name] for name in _TEXT_FIELDS if name in text})
