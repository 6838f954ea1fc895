"""Writes answers of OpenAI's chat completions: a whole object, a stream of chunks, an error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, TypeAlias

from services.sandbox.checks import Refused
from services.sandbox.core import Answer, Reply, Usage
from services.sandbox.dialects.openai import ChatRequest
from services.sandbox.faults import Faults
from services.sandbox.script import DONE, Event, Headers, Script, error_script, json_script, sse, stream_script

Json: TypeAlias = dict[str, object]

# Type and code of OpenAI's errors by status; every other status takes those of 400 or 500.
_ERRORS: Final = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    500: ("server_error", None),
    503: ("server_error", "service_unavailable"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What an answer says about itself besides its content; `sandbox` is what the request wanted echoed."""

    created: int
    headers: Headers = ()
    sandbox: Json | None = None


def answer_script(request: ChatRequest, *, answer: Answer, frame: Frame) -> Script:
    """Make the script of the answer to a valid request: an error, a stream or a whole object."""
    faults = request.faults
    if faults.status is not None:
        body = fault_body(faults, status=faults.status)
        return error_script(body, status=faults.status, faults=faults, headers=frame.headers)
    error = fault_body(faults, status=500)
    if request.stream and not faults.json_instead_of_stream:
        events = chunk_events(request, answer=answer, created=frame.created)
        return stream_script(events, faults=faults, usage=answer.usage, error=error, headers=frame.headers)
    body = completion(request, answer=answer, frame=frame)
    return json_script(body, faults=faults, usage=answer.usage, error=error, headers=frame.headers)


def refusal_script(refused: Refused, *, headers: Headers) -> Script:
    """Make the script of the answer to a request that is not valid."""
    body = _error(refused.message, kind=refused.kind, param=refused.param, code=refused.code)
    return error_script(body, status=refused.status, faults=Faults(), headers=headers)


def fault_body(faults: Faults, *, status: int) -> Json:
    """Return the error object that the faults ask for."""
    kind, code = _ERRORS.get(status, _ERRORS[500 if status >= 500 else 400])
    return _error(
        faults.error_message if faults.error_message is not None else f"The sandbox was asked to fail with {status}.",
        kind=faults.error_type or kind,
        param=None,
        code=faults.error_code or code,
    )


def completion(request: ChatRequest, *, answer: Answer, frame: Frame) -> Json:
    """Return the answer as a chat.completion object."""
    body = _head(request, object_name="chat.completion", created=frame.created)
    body["choices"] = [_choice(reply, index=index) for index, reply in enumerate(answer.replies)]
    if not request.faults.no_usage:
        body["usage"] = usage_object(answer.usage)
    if frame.sandbox is not None:
        body["sandbox"] = frame.sandbox
    return body


def chunk_events(request: ChatRequest, *, answer: Answer, created: int) -> Iterator[Event]:
    """Write the answer as the events of a stream, [DONE] included."""
    head = _head(request, object_name="chat.completion.chunk", created=created)
    tail: Json = {}
    if request.include_usage and not request.faults.no_usage:
        tail["usage"] = None
    streams = (_reply_chunks(reply, index=index) for index, reply in enumerate(answer.replies))
    for row in zip_longest(*streams):
        for choice, tokens, reasoning in filter(None, row):
            yield Event(data=sse({**head, "choices": [choice], **tail}), tokens=tokens, reasoning=reasoning)
    if tail:
        yield Event(data=sse({**head, "choices": [], "usage": usage_object(answer.usage)}))
    yield Event(data=DONE)


def usage_object(usage: Usage) -> Json:
    """Return the usage with both of its details."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _error(message: str, *, kind: str, param: str | None, code: str | None) -> Json:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _head(request: ChatRequest, *, object_name: str, created: int) -> Json:
    return {
        "id": f"chatcmpl-{request.question.identity[:24]}",
        "object": object_name,
        "created": created,
        "model": request.question.model,
        "service_tier": "default",
        "system_fingerprint": "fp_sandbox",
    }


def _choice(reply: Reply, *, index: int) -> Json:
    message: Json = {"role": "assistant", "content": "".join(reply.pieces), "refusal": None, "annotations": []}
    if reply.calls:
        message["content"] = None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": "".join(call.fragments)}}
            for call in reply.calls
        ]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": reply.finish}


def _reply_chunks(reply: Reply, *, index: int) -> Iterator[tuple[Json, int, int]]:
    first: Json = {"role": "assistant", "content": None if reply.calls else "", "refusal": None}
    yield _delta(index, delta=first), reply.reasoning_tokens, reply.reasoning_tokens
    for piece in reply.pieces:
        yield _delta(index, delta={"content": piece}), 1, 0
    for number, call in enumerate(reply.calls):
        opening = {"index": number, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        yield _delta(index, delta={"tool_calls": [opening]}), 1, 0
        for fragment in call.fragments:
            more = {"index": number, "function": {"arguments": fragment}}
            yield _delta(index, delta={"tool_calls": [more]}), 1, 0
    yield _delta(index, delta={}, finish=reply.finish), 0, 0


def _delta(index: int, *, delta: Json, finish: str | None = None) -> Json:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
