"""Reads requests of OpenAI's chat completions; the answers are in `openai_answer`.

Models: any name is accepted but `missing-model`, which is a 404. What follows a `?` in a model is its faults.

Prompt tokens: those of the messages (see `openai_messages`) and 8 for each tool.

What cannot be honoured is refused: logit_bias, audio, functions, web_search_options, custom tools. Fields that OpenAI
does not know are accepted.
"""

import re
from dataclasses import dataclass
from typing import Literal

from services.sandbox.checks import Fields, Refused
from services.sandbox.core import Ask, Tool
from services.sandbox.dialects.openai_messages import read_messages
from services.sandbox.faults import Faults
from services.sandbox.schema import Schema

MISSING_MODEL = "missing-model"
TOOL_TOKENS = 8

_MAX_GENERATED_WORDS = 1_000_000
_UNSUPPORTED = ("audio", "functions", "function_call", "logit_bias", "web_search_options")
_TIERS = ("auto", "default", "flex", "scale", "priority")
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
_STRINGS: tuple[tuple[str, tuple[str, ...] | None], ...] = (
    ("user", None),
    ("safety_identifier", None),
    ("prompt_cache_key", None),
    ("service_tier", _TIERS),
    ("reasoning_effort", _EFFORTS),
    ("verbosity", ("low", "medium", "high")),
)
_NUMBERS = (("temperature", 0, 2), ("top_p", 0, 1), ("presence_penalty", -2, 2), ("frequency_penalty", -2, 2))
_FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ANY_OBJECT: Schema = {"type": "object", "properties": {"answer": {"type": "string"}}}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A chat request that was found valid; `alternatives` is top_logprobs, None when no logprobs were asked for."""

    ask: Ask
    faults: Faults
    stream: bool
    include_usage: bool
    alternatives: int | None


def read_chat(body: Fields, *, model: str, faults: Faults, identity: str) -> ChatRequest:
    """Read a chat request, of which `identity` is a digest; raises `Refused` for what OpenAI would refuse too."""
    if model.partition("?")[0] == MISSING_MODEL:
        message = f"The model `{MISSING_MODEL}` does not exist or you do not have access to it."
        raise Refused(message, status=404, param="model", code="model_not_found")
    conversation = read_messages(body)
    _check_parameters(body)
    tools = _tools(body)
    tool_choice, named_tool = _tool_choice(body, tools=tools)
    stream = body.flag("stream")
    choices = body.integer("n", low=1, high=128) or 1
    if choices * (faults.events or 0) > _MAX_GENERATED_WORDS:
        raise body.refuse("n", f"'n' times the events of the sandbox must not be above {_MAX_GENERATED_WORDS}.")
    ask = Ask(
        identity=identity,
        model=model,
        text=conversation.text,
        role=conversation.role,
        prompt_tokens=conversation.tokens + TOOL_TOKENS * len(tools),
        images=conversation.images,
        tools=tools,
        tool_choice=tool_choice,
        named_tool=named_tool,
        parallel=body.flag("parallel_tool_calls", default=True),
        json_schema=_json_schema(body),
        choices=choices,
        stop=_stop(body),
        limit=_limit(body),
        words=faults.events,
    )
    include_usage = _include_usage(body, stream=stream)
    return ChatRequest(
        ask=ask, faults=faults, stream=stream, include_usage=include_usage, alternatives=_alternatives(body)
    )


def read_model(body: Fields) -> str:
    """Read the model, which the faults may be in."""
    model = body.text("model")
    if not model:
        raise Refused("you must provide a model parameter", param="model", code="missing_required_parameter")
    return model


def _check_parameters(body: Fields) -> None:
    for name in _UNSUPPORTED:
        if body.values.get(name):
            raise body.refuse(
                name, f"Unsupported parameter: '{name}' is not supported by the sandbox.", code="unsupported_parameter"
            )
    for name, choices in _STRINGS:
        body.text(name, choices=choices)
    for name, low, high in _NUMBERS:
        body.number(name, low=low, high=high)
    body.integer("seed", low=-(2**63), high=2**63 - 1)
    body.flag("store")
    body.child("metadata")
    body.child("prediction")
    if body.items("modalities") not in ([], ["text"]):
        raise body.refuse("modalities", "Invalid value: the sandbox supports the modality 'text' only.")


def _tools(body: Fields) -> tuple[Tool, ...]:
    found = []
    for tool in body.children("tools"):
        if tool.text("type", choices=("function",)) is None:
            raise tool.missing("type")
        function = tool.child("function")
        if function is None:
            raise tool.missing("function")
        name = function.text("name")
        if name is None:
            raise function.missing("name")
        if not _FUNCTION_NAME.fullmatch(name):
            raise function.refuse(
                "name", f"Invalid '{function.path('name')}': it does not match '^[a-zA-Z0-9_-]{{1,64}}$'."
            )
        function.text("description")
        function.flag("strict")
        parameters = function.child("parameters")
        found.append(Tool(name=name, parameters={} if parameters is None else parameters.values))
    return tuple(found)


def _tool_choice(body: Fields, *, tools: tuple[Tool, ...]) -> tuple[Literal["auto", "none", "required"], str | None]:
    choice = body.values.get("tool_choice")
    if choice is None or choice in ("auto", "none"):
        return ("none" if choice == "none" else "auto"), None
    if not tools:
        raise body.refuse(
            "tool_choice", "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified."
        )
    if isinstance(choice, str):
        body.text("tool_choice", choices=("none", "auto", "required"))
        return "required", None
    named = body.child("tool_choice") or body
    if named.text("type", choices=("function",)) is None:
        raise named.missing("type")
    function = named.child("function")
    name = None if function is None else function.text("name")
    if name is None:
        raise named.missing("function.name")
    if name not in [tool.name for tool in tools]:
        raise named.refuse("function.name", f"Invalid value for 'tool_choice': '{name}' is not one of the 'tools'.")
    return "required", name


def _json_schema(body: Fields) -> Schema | None:
    wanted = body.child("response_format")
    if wanted is None:
        return None
    kind = wanted.text("type", choices=("text", "json_object", "json_schema"))
    if kind is None:
        raise wanted.missing("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return _ANY_OBJECT
    named = wanted.child("json_schema")
    if named is None:
        raise wanted.missing("json_schema")
    if named.text("name") is None:
        raise named.missing("name")
    named.flag("strict")
    schema = named.child("schema")
    return {} if schema is None else schema.values


def _stop(body: Fields) -> tuple[str, ...]:
    stop = body.values.get("stop")
    words = [stop] if isinstance(stop, str) else body.items("stop")
    if len(words) > 4:
        raise body.refuse(
            "stop",
            "Invalid 'stop': array too long. Expected an array with maximum length 4.",
            code="array_above_max_length",
        )
    found = []
    for index, word in enumerate(words):
        if not isinstance(word, str):
            raise body.wrong_type(f"stop[{index}]", expected="a string", value=word)
        if word:
            found.append(word)
    return tuple(found)


def _limit(body: Fields) -> int | None:
    old, new = body.integer("max_tokens", low=1), body.integer("max_completion_tokens", low=1)
    if old is not None and new is not None:
        message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise body.refuse("max_tokens", message, code="invalid_parameter_combination")
    return old if new is None else new


def _include_usage(body: Fields, *, stream: bool) -> bool:
    options = body.child("stream_options")
    if options is None:
        return False
    if not stream:
        raise body.refuse("stream_options", "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
    options.flag("include_obfuscation")
    return options.flag("include_usage")


def _alternatives(body: Fields) -> int | None:
    wanted, count = body.flag("logprobs"), body.integer("top_logprobs", low=0, high=20)
    if count is not None and not wanted:
        raise body.refuse("top_logprobs", "'top_logprobs' is only allowed when 'logprobs' is enabled.")
    return (count or 0) if wanted else None
