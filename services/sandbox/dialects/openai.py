"""Reads requests of OpenAI's chat completions; the answers are in `openai_answer`.

Models: any name is accepted but `missing-model`, which is a 404. What follows a `?` in a model is its faults.

Prompt tokens: 1 for each message, those of its text and tool calls, 85 for each image, and 8 for each tool.

What cannot be honoured is refused: logit_bias, logprobs, audio, functions, web_search_options, custom tools. Fields
that OpenAI does not know are accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from services.sandbox.checks import Refused, converted, missing
from services.sandbox.core import Question, Tool, ToolChoice, fragments, tokens
from services.sandbox.faults import Faults
from services.sandbox.schema import Schema

MISSING_MODEL: Final = "missing-model"
IMAGE_TOKENS: Final = 85
TOOL_TOKENS: Final = 8
_MAX_GENERATED_WORDS: Final = 1_000_000
_UNSUPPORTED: Final = (
    "audio",
    "functions",
    "function_call",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "web_search_options",
)
_ANY_OBJECT: Final[Schema] = {"type": "object", "properties": {"answer": {"type": "string"}}}

_Object: TypeAlias = dict[str, Any]
_Penalty: TypeAlias = Annotated[float, Meta(ge=-2, le=2)]
_Limit: TypeAlias = Annotated[int, Meta(ge=1)]


class _ImageUrl(msgspec.Struct):
    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class _Part(msgspec.Struct):
    type: Literal["text", "refusal", "image_url"]
    text: str | None = None
    refusal: str | None = None
    image_url: _ImageUrl | None = None


class _CalledFunction(msgspec.Struct):
    name: str
    arguments: str


class _PastCall(msgspec.Struct):
    id: str
    function: _CalledFunction


class _Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_Part] | None = None
    refusal: str | None = None
    tool_calls: list[_PastCall] | None = None
    tool_call_id: str | None = None


class _Function(msgspec.Struct):
    name: Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    strict: bool | None = None
    parameters: _Object | None = None


class _Tool(msgspec.Struct):
    type: Literal["function"]
    function: _Function


class _FunctionName(msgspec.Struct):
    name: str


class _NamedTool(msgspec.Struct):
    type: Literal["function"]
    function: _FunctionName


class _JsonSchema(msgspec.Struct):
    name: str
    strict: bool | None = None
    schema: _Object | None = None


class _ResponseFormat(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class _Body(msgspec.Struct):
    """The fields that are honoured or checked, with OpenAI's limits."""

    messages: Annotated[list[_Message], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=4)] | None = None
    max_tokens: _Limit | None = None
    max_completion_tokens: _Limit | None = None
    tools: list[_Tool] | None = None
    tool_choice: ToolChoice | _NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: _ResponseFormat | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    seed: int | None = None
    store: bool | None = None
    metadata: _Object | None = None
    prediction: _Object | None = None
    modalities: list[Literal["text"]] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A chat request that was found valid."""

    question: Question
    faults: Faults
    stream: bool
    include_usage: bool


def read_model(body: Mapping[str, Any]) -> str:
    """Read the model, which the faults may be in; raises Refused."""
    model = body.get("model")
    if not model or not isinstance(model, str):
        raise Refused("you must provide a model parameter", param="model", code="missing_required_parameter")
    return model


def read_chat(values: Mapping[str, Any], *, model: str, faults: Faults, identity: str) -> ChatRequest:
    """Read a chat request, of which `identity` is a digest; raises Refused for what OpenAI would refuse, too."""
    if model.partition("?")[0] == MISSING_MODEL:
        message = f"The model `{MISSING_MODEL}` does not exist or you do not have access to it."
        raise Refused(message, status=404, param="model", code="model_not_found")
    for name in _UNSUPPORTED:
        if values.get(name):
            message = f"Unsupported parameter: '{name}' is not supported by the sandbox."
            raise Refused(message, param=name, code="unsupported_parameter")
    body = converted(values, _Body)
    _check_combinations(body, faults=faults)
    tools = tuple(Tool(name=each.function.name, parameters=each.function.parameters or {}) for each in body.tools or ())
    tool_choice, named_tool = _tool_choice(body)
    texts = _texts(body.messages)
    last = body.messages[-1]
    question = Question(
        identity=identity,
        model=model,
        text=texts[-1],
        role=last.role,
        prompt_tokens=sum(map(_message_tokens, body.messages, texts)) + TOOL_TOKENS * len(tools),
        images=sum(map(_images, body.messages)),
        tools=tools,
        tool_choice=tool_choice,
        named_tool=named_tool,
        parallel=body.parallel_tool_calls is not False,
        json_schema=_json_schema(body.response_format),
        choices=body.n or 1,
        stop=tuple(filter(None, [body.stop] if isinstance(body.stop, str) else body.stop or ())),
        limit=body.max_tokens or body.max_completion_tokens,
        words=faults.events,
    )
    include_usage = body.stream_options is not None and body.stream_options.include_usage is True
    return ChatRequest(question=question, faults=faults, stream=body.stream is True, include_usage=include_usage)


def _check_combinations(body: _Body, *, faults: Faults) -> None:
    if body.max_tokens and body.max_completion_tokens:
        message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise Refused(message, param="max_tokens", code="invalid_parameter_combination")
    if body.stream_options is not None and not body.stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise Refused(message, param="stream_options")
    if (body.n or 1) * (faults.events or 0) > _MAX_GENERATED_WORDS:
        raise Refused(f"'n' times the events of the sandbox must not be above {_MAX_GENERATED_WORDS}.", param="n")


def _texts(messages: list[_Message]) -> list[str]:
    """Return the text of each message; raises Refused for a message that lacks what its role needs."""
    call_ids: set[str] = set()
    texts = []
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        call_ids.update(call.id for call in message.tool_calls or ())
        if message.role == "tool" and message.tool_call_id not in call_ids:
            text = "messages with role 'tool' must be a response to a preceding message with 'tool_calls'."
            raise Refused(f"Invalid parameter: {text}", param=f"{path}.tool_call_id")
        may_be_silent = message.role == "assistant" and (message.tool_calls or message.refusal)
        if message.content is None and not may_be_silent:
            raise missing(f"{path}.content")
        texts.append(_text(message.content, path=f"{path}.content"))
    return texts


def _text(content: str | list[_Part] | None, *, path: str) -> str:
    if not isinstance(content, list):
        return content or ""
    found = []
    for index, part in enumerate(content):
        value = getattr(part, part.type)
        if value is None:
            raise missing(f"{path}[{index}].{part.type}")
        if part.type != "image_url":
            found.append(value)
    return "\n".join(filter(None, found))


def _images(message: _Message) -> int:
    return sum(part.type == "image_url" for part in message.content) if isinstance(message.content, list) else 0


def _message_tokens(message: _Message, text: str) -> int:
    calls = sum(1 + len(fragments(call.function.arguments)) for call in message.tool_calls or ())
    return 1 + len(tokens(text)) + calls + IMAGE_TOKENS * _images(message)


def _tool_choice(body: _Body) -> tuple[ToolChoice, str | None]:
    choice = body.tool_choice
    if choice is None or choice in ("auto", "none"):
        return ("none" if choice == "none" else "auto"), None
    if not body.tools:
        raise Refused("'tool_choice' is only allowed when 'tools' are specified.", param="tool_choice")
    if not isinstance(choice, _NamedTool):
        return "required", None
    if choice.function.name not in [tool.function.name for tool in body.tools]:
        message = f"Invalid value for 'tool_choice': '{choice.function.name}' is not one of the 'tools'."
        raise Refused(message, param="tool_choice.function.name")
    return "required", choice.function.name


def _json_schema(wanted: _ResponseFormat | None) -> Schema | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return _ANY_OBJECT
    if wanted.json_schema is None:
        raise missing("response_format.json_schema")
    return wanted.json_schema.schema or {}
