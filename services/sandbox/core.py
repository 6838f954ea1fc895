"""Builds the deterministic answer to a chat request, for every dialect.

Tokens: a word with the white space before it is one token; a tool call is one token for its name and one for each
started 8 characters of its arguments. A stream sends one event for each token.

Tools: a tool is called when the last message is the user's and names it as a whole word (each named tool once, in the
order of `tools`), or when the choice requires it (then the named ones, else the first). The arguments are the example
of the tool's schema.

Models: any name answers. One that contains "cached" has half of its prompt in the cache, one that contains "reasoning"
thinks 16 tokens before each answer.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, Literal, TypeAlias

from services.sandbox.schema import Schema, example

Finish: TypeAlias = Literal["stop", "length", "tool_calls"]
ToolChoice: TypeAlias = Literal["auto", "none", "required"]

REASONING_TOKENS: Final = 16
ARGUMENT_TOKEN_LENGTH: Final = 8
ECHO_LENGTH: Final = 2_000

_WORD: Final = re.compile(r"\s*\S+(?:\s+\Z)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call; `parameters` is its JSON Schema."""

    name: str
    parameters: Schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a chat request asks for, without the form of its dialect.

    `text` and `role` are those of the last message, `limit` is in tokens, `words` asks for a text of exactly so many
    words.
    """

    identity: str
    model: str
    text: str
    role: str
    prompt_tokens: int
    images: int = 0
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    named_tool: str | None = None
    parallel: bool = True
    json_schema: Schema | None = None
    choices: int = 1
    stop: tuple[str, ...] = ()
    limit: int | None = None
    words: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A tool call; the fragments joined are its arguments in JSON, one token each."""

    id: str
    name: str
    fragments: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One choice of an answer; the pieces joined are its text, one token each."""

    finish: Finish
    reasoning_tokens: int
    pieces: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()

    @property
    def tokens(self) -> int:
        """Return the completion tokens of this choice, its reasoning included."""
        return self.reasoning_tokens + len(self.pieces) + sum(1 + len(call.fragments) for call in self.calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an answer cost: `cached` is part of `prompt`, `reasoning` is part of `completion`; `pages` are of OCR."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0
    pages: int = 0

    @property
    def total(self) -> int:
        """Return prompt and completion tokens together."""
        return self.prompt + self.completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The whole answer: one reply for each choice asked for, and what it cost."""

    replies: tuple[Reply, ...]
    usage: Usage = field(default_factory=Usage)


def tokens(text: str) -> tuple[str, ...]:
    """Cut a text into its tokens; joined they are the text again."""
    return tuple(_WORD.findall(text)) or ((text,) if text else ())


def fragments(arguments: str) -> tuple[str, ...]:
    """Cut the arguments of a tool call into their tokens; joined they are the arguments again."""
    starts = range(0, len(arguments), ARGUMENT_TOKEN_LENGTH)
    return tuple(arguments[start : start + ARGUMENT_TOKEN_LENGTH] for start in starts)


def answer(question: Question) -> Answer:
    """Answer a request, the same way each time; raises `UnsatisfiableError` for a schema that has no example."""
    replies = tuple(_reply(question, choice=choice) for choice in range(question.choices))
    usage = Usage(
        prompt=question.prompt_tokens,
        completion=sum(reply.tokens for reply in replies),
        cached=(question.prompt_tokens + 1) // 2 if "cached" in question.model else 0,
        reasoning=sum(reply.reasoning_tokens for reply in replies),
    )
    return Answer(replies=replies, usage=usage)


def called_tools(question: Question) -> tuple[Tool, ...]:
    """Return the tools that the answer calls, in order."""
    if question.tool_choice == "none" or question.words is not None:
        return ()
    if question.named_tool is not None:
        return tuple(tool for tool in question.tools if tool.name == question.named_tool)
    mentioned = tuple(
        tool for tool in question.tools if question.role == "user" and _mentions(question.text, tool=tool.name)
    )
    if question.tool_choice == "required" and not mentioned:
        mentioned = question.tools[:1]
    return mentioned if question.parallel else mentioned[:1]


def _mentions(text: str, *, tool: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(tool)}(?![\w-])", text, re.IGNORECASE) is not None


def _reply(question: Question, *, choice: int) -> Reply:
    reasoning = REASONING_TOKENS if "reasoning" in question.model else 0
    if question.limit is not None:
        reasoning = min(reasoning, question.limit)
    budget = None if question.limit is None else question.limit - reasoning
    tools = called_tools(question)
    if tools:
        return _call_tools(question, tools=tools, choice=choice, budget=budget, reasoning=reasoning)
    pieces = _text_pieces(question, choice=choice)
    if budget is not None and len(pieces) > budget:
        return Reply(finish="length", reasoning_tokens=reasoning, pieces=pieces[:budget])
    return Reply(finish="stop", reasoning_tokens=reasoning, pieces=pieces)


def _call_tools(
    question: Question, *, tools: tuple[Tool, ...], choice: int, budget: int | None, reasoning: int
) -> Reply:
    calls = []
    for index, tool in enumerate(tools):
        parts = fragments(json.dumps(example({"type": "object", **tool.parameters}), ensure_ascii=False))
        if budget is not None:
            budget -= 1
            if budget < len(parts):
                if budget >= 0:
                    calls.append(_call(question, tool=tool, parts=parts[:budget], choice=choice, index=index))
                return Reply(finish="length", reasoning_tokens=reasoning, calls=tuple(calls))
            budget -= len(parts)
        calls.append(_call(question, tool=tool, parts=parts, choice=choice, index=index))
    return Reply(finish="tool_calls", reasoning_tokens=reasoning, calls=tuple(calls))


def _call(question: Question, *, tool: Tool, parts: tuple[str, ...], choice: int, index: int) -> Call:
    digest = hashlib.sha256(f"{question.identity} {choice} {index}".encode()).hexdigest()
    return Call(id=f"call_{digest[:24]}", name=tool.name, fragments=parts)


def _text_pieces(question: Question, *, choice: int) -> tuple[str, ...]:
    if question.words is not None:
        pieces = tuple(str(number) if number == 1 else f" {number}" for number in range(1, question.words + 1))
    elif question.json_schema is not None:
        pieces = tokens(json.dumps(example(question.json_schema), ensure_ascii=False))
    else:
        pieces = tokens(_sentence(question, choice=choice))
    return _stopped(pieces, stop=question.stop) if question.stop else pieces


def _sentence(question: Question, *, choice: int) -> str:
    echo = question.text if len(question.text) <= ECHO_LENGTH else f"{question.text[:ECHO_LENGTH]}…"
    opening = f"(Answer {choice + 1}) " if choice else ""
    if question.role in ("tool", "function"):
        return f"{opening}The tool answered: {echo}"
    images = "" if not question.images else f" I also see {question.images} image{'' if question.images == 1 else 's'}."
    if not echo.strip():
        return f"{opening}Hello from the sandbox.{images}"
    return f"{opening}You said: “{echo}”. Hello from the sandbox!{images}"


def _stopped(pieces: tuple[str, ...], *, stop: tuple[str, ...]) -> tuple[str, ...]:
    text = "".join(pieces)
    end = min((at for word in stop if (at := text.find(word)) >= 0), default=len(text))
    kept: list[str] = []
    for piece, reached in zip(pieces, accumulate(map(len, pieces)), strict=True):
        if reached > end:
            rest = piece[: end - reached + len(piece)]
            return (*kept, rest) if rest else tuple(kept)
        kept.append(piece)
    return pieces
