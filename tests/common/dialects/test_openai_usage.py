"""Usage objects of every vendor: disjoint classes, one odd field that loses no other, and nothing absurd."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.dialects.openai_usage import TokenReport, read_usage
from common.metering.units import MOST_OF_A_UNIT, Unit

_IN, _READ, _WRITTEN = Unit.UNCACHED_INPUT, Unit.CACHE_READ, Unit.CACHE_WRITE
_OUT, _THOUGHT = Unit.TEXT_OUTPUT, Unit.REASONING
_counts = st.one_of(st.integers(-5, 50), st.integers(), st.integers(-(10**30), 10**30))
_any = st.one_of(
    _counts, st.none(), st.booleans(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2)
)


@pytest.mark.parametrize(
    ("usage", "quantities"),
    [
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "total_tokens": 150,
                "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 20},
                "completion_tokens_details": {"reasoning_tokens": 40},
            },
            {_IN: 50, _READ: 30, _WRITTEN: 20, _OUT: 10, _THOUGHT: 40},
        ),
        ({"input_tokens": 11, "output_tokens": 7}, {_IN: 11, _OUT: 7}),
        (
            {"input_tokens": 11, "output_tokens": 7, "input_tokens_details": {"cached_tokens": 3}},
            {_IN: 8, _READ: 3, _OUT: 7},
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 2, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 6},
            {_IN: 6, _READ: 4, _OUT: 2},
        ),
        ({"prompt_tokens": 10, "completion_tokens": 2, "cached_tokens": 4}, {_IN: 6, _READ: 4, _OUT: 2}),
        ({"prompt_tokens": 10, "completion_tokens": 2, "num_cached_tokens": 4}, {_IN: 6, _READ: 4, _OUT: 2}),
        (
            {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cache_creation_input_tokens": 4}},
            {_IN: 6, _WRITTEN: 4, _OUT: 2},
        ),
        (
            {"input_tokens": 3, "output_tokens": 2, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 7},
            {_IN: 3, _READ: 5, _WRITTEN: 7, _OUT: 2},
        ),
        # xAI: reasoning beside the completion, and only the total tells.
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 35,
                "completion_tokens_details": {"reasoning_tokens": 20},
            },
            {_IN: 10, _OUT: 5, _THOUGHT: 20},
        ),
        # Gemini: hidden reasoning, without a field of its own.
        (
            {"prompt_tokens": 744, "completion_tokens": 1469, "total_tokens": 2496},
            {_IN: 744, _OUT: 1469, _THOUGHT: 283},
        ),
        ({"prompt_tokens": 11.0, "completion_tokens": "7"}, {_IN: 11, _OUT: 7}),
        ({"completion_tokens": 7, "total_tokens": 18}, {_IN: 11, _OUT: 7}),
        ({"prompt_tokens": 11, "total_tokens": 18}, {_IN: 11, _OUT: 7}),
    ],
)
def test_each_vendors_usage_is_taken_apart(usage: dict[str, Any], quantities: dict[Unit, int]) -> None:
    report = read_usage(usage)
    assert report is not None
    assert report.quantities == quantities


@pytest.mark.parametrize(
    "usage",
    [
        *(None, 5, [], {}, "text", {"prompt_tokens": "many"}, {"prompt_tokens": None}, {"prompt_tokens": True}),
        *({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, {"prompt_tokens": -1}),
        *({"prompt_tokens": MOST_OF_A_UNIT + 1}, {"completion_tokens": 10**400}, {"total_tokens": 1.5}),
    ],
)
def test_what_reports_nothing_credible_is_none(usage: Any) -> None:
    assert read_usage(usage) is None


@pytest.mark.parametrize("odd", [None, 1.5, "x", -1, 10**12, [], {}, True, float("nan")])
@pytest.mark.parametrize("name", ["total_tokens", "prompt_tokens_details", "completion_tokens_details", "cost"])
def test_one_odd_field_loses_no_other(name: str, odd: Any) -> None:
    report = read_usage({"prompt_tokens": 11, "completion_tokens": 7, name: odd})
    assert report is not None
    assert report.quantities == {_IN: 11, _OUT: 7}


@given(st.dictionaries(st.sampled_from(["prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens"]), _any))
@example({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": -5})
def test_classes_are_disjoint_never_negative_and_add_up(usage: dict[str, Any]) -> None:
    report = read_usage(usage)
    if report is not None:
        assert all(amount > 0 for amount in report.quantities.values())
        assert sum(report.quantities.values()) == report.prompt + report.completion
        assert (
            report.total in (0, report.prompt + report.completion) or report.total < report.prompt + report.completion
        )


def test_later_totals_replace_earlier_ones_and_zeros_replace_nothing() -> None:
    first = TokenReport(prompt=10, completion=1, total=11, cached=4)
    assert first.merged(TokenReport(completion=6, total=16)) == TokenReport(10, 6, 16, 4)
