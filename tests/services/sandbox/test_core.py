import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sandbox.core import Question, Reply, Tool, answer, fragments, tokens

WEATHER = Tool(
    name="get_weather",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
CLOCK = Tool(name="get_time", parameters={})


def ask(text: str = "Hello there", **changes: Any) -> Question:
    return Question(
        **{"identity": "a" * 64, "model": "demo", "text": text, "role": "user", "prompt_tokens": 3, **changes}
    )


def only(asked: Question) -> Reply:
    (reply,) = answer(asked).replies
    return reply


def text_of(asked: Question) -> str:
    return "".join(only(asked).pieces)


@given(st.text())
def test_the_tokens_of_a_text_are_the_text(text: str) -> None:
    assert "".join(tokens(text)) == text
    assert len(tokens(text)) == max(len(text.split()), 1 if text else 0)


@given(st.text())
def test_the_fragments_of_arguments_are_the_arguments(text: str) -> None:
    assert "".join(fragments(text)) == text
    assert all(fragments(text))


@given(
    text=st.text(max_size=60),
    limit=st.none() | st.integers(1, 30),
    stop=st.lists(st.text(min_size=1, max_size=3), max_size=4),
    model=st.sampled_from(["demo", "reasoning", "cached", "cached-reasoning"]),
    choices=st.integers(1, 3),
    tools=st.sampled_from([(), (WEATHER,), (WEATHER, CLOCK)]),
    tool_choice=st.sampled_from(["auto", "none", "required"]),
    words=st.none() | st.integers(0, 20),
)
def test_every_answer_keeps_its_bounds(**changes: Any) -> None:
    asked = ask(changes.pop("text"), **{**changes, "stop": tuple(changes.pop("stop"))})
    answered = answer(asked)
    assert answered == answer(asked)
    assert len(answered.replies) == asked.choices
    assert answered.usage.completion == sum(reply.tokens for reply in answered.replies)
    assert answered.usage.total == answered.usage.prompt + answered.usage.completion
    assert answered.usage.cached <= answered.usage.prompt
    for reply in answered.replies:
        assert asked.limit is None or reply.tokens <= asked.limit
        assert reply.finish != "length" or reply.tokens == asked.limit
        assert (reply.finish == "tool_calls") <= bool(reply.calls)
        assert not any(word in "".join(reply.pieces) for word in asked.stop)


def test_the_answer_echoes_the_text() -> None:
    assert "Hello there" in text_of(ask())
    assert text_of(ask("")).startswith("Hello")
    assert "the tool answered: 12°" in text_of(ask("12°", role="tool")).lower()
    assert "2 images" in text_of(ask(images=2))
    assert len(text_of(ask("x" * 10_000))) < 3_000


def test_each_choice_differs() -> None:
    first, second = answer(ask(choices=2)).replies
    assert first.pieces != second.pieces


@pytest.mark.parametrize("count", [0, 1, 100])
def test_a_number_of_words_can_be_asked_for(count: int) -> None:
    answered = answer(ask(words=count, tools=(WEATHER,), tool_choice="required", named_tool="get_weather"))
    assert answered.usage.completion == count
    assert len("".join(answered.replies[0].pieces).split()) == count


def test_a_limit_ends_with_length() -> None:
    reply = only(ask(words=10, limit=4))
    assert (reply.finish, len(reply.pieces)) == ("length", 4)
    assert only(ask(words=10, limit=10)).finish == "stop"


def test_reasoning_is_part_of_the_limit() -> None:
    reply = only(ask(model="my-reasoning", limit=5))
    assert (reply.finish, reply.reasoning_tokens, reply.pieces) == ("length", 5, ())
    usage = answer(ask(model="my-reasoning", choices=2, words=1)).usage
    assert (usage.reasoning, usage.completion) == (32, 34)


def test_a_cached_model_has_half_of_its_prompt_in_the_cache() -> None:
    assert answer(ask(model="cached-model")).usage.cached == 2
    assert answer(ask(model="cached", prompt_tokens=1)).usage.cached == 1
    assert answer(ask()).usage.cached == 0


def test_the_first_stop_word_ends_the_text_wherever_tokens_part() -> None:
    assert text_of(ask(words=5, stop=("4", "3 4"))) == "1 2 "
    assert text_of(ask(words=5, stop=("1",))) == ""
    assert text_of(ask(words=3, stop=("never",))) == "1 2 3"


def test_tools_are_called_when_the_user_names_them() -> None:
    both = (WEATHER, CLOCK)
    assert [call.name for call in only(ask("Use get_time and get_weather", tools=both)).calls] == [
        "get_weather",
        "get_time",
    ]
    assert len(only(ask("get_time, get_weather", tools=both, parallel=False)).calls) == 1
    assert not only(ask("my_get_time", tools=both)).calls
    assert not only(ask("get_time", tools=both, tool_choice="none")).calls
    assert not only(ask("get_time", tools=both, role="tool")).calls


def test_tools_are_called_when_they_must_be() -> None:
    both = (WEATHER, CLOCK)
    assert [call.name for call in only(ask(tools=both, tool_choice="required")).calls] == ["get_weather"]
    assert [call.name for call in only(ask("get_time", tools=both, tool_choice="required")).calls] == ["get_time"]
    reply = only(ask("get_weather", tools=both, tool_choice="required", named_tool="get_time"))
    assert [call.name for call in reply.calls] == ["get_time"]
    assert reply.finish == "tool_calls"


def test_arguments_follow_the_schema_and_ids_differ() -> None:
    calls = only(ask("get_time get_weather", tools=(WEATHER, CLOCK))).calls
    assert json.loads("".join(calls[0].fragments)) == {"city": "city"}
    assert json.loads("".join(calls[1].fragments)) == {}
    assert len({call.id for call in calls}) == 2


def test_a_json_schema_is_answered_in_json() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]}
    assert json.loads(text_of(ask(json_schema=schema))) == {"n": 3}
