"""Rows of the benchmark: medians of rounds, beside a target and beside another checkout's."""

from __future__ import annotations

import pytest

from bench.comparison import Metric, row

_SECONDS = [{"seconds": 2.0, "part": 1.0}, {"seconds": 1.0, "part": 0.5}, {"seconds": 9.0, "part": 0.25}]


@pytest.mark.parametrize(
    ("metric", "passed", "target"),
    [
        (Metric("seconds", "a"), None, ""),
        (Metric("seconds", "a", at_most=2.0), True, "<= 2"),
        (Metric("seconds", "a", at_most=1.9), False, "<= 1.9"),
        (Metric("seconds", "a", at_least=2.0), True, ">= 2"),
        (Metric("seconds", "a", at_least=2.1), False, ">= 2.1"),
        # There is nothing to compare with.
        (Metric("seconds", "a", no_more_than_before=True), None, ""),
    ],
)
def test_the_median_is_held_against_the_target(metric: Metric, *, passed: bool | None, target: str) -> None:
    found = row(metric, _SECONDS, before=[])
    assert found.value == "2.00 (1.00 to 9.00)"
    assert (found.passed, found.target, found.before) == (passed, target, "")


def test_the_other_checkout_is_compared_round_by_round() -> None:
    before = [{"seconds": 4.0, "part": 1.0}, {"seconds": 4.0, "part": 1.0}, {"seconds": 4.5, "part": 1.0}]
    found = row(Metric("seconds", "a", raw=("part",)), _SECONDS, before=before)
    assert found.before == "4.00 (4.00 to 4.50)"
    assert found.of_before == "0.50 (0.25 to 2.00)"
    assert found.raw == ["part 0.50 (0.25 to 1.00)", "before: part 1.00 (1.00 to 1.00)"]


@pytest.mark.parametrize(
    ("before", "passed"), [([2.0, 2.0, 2.0], True), ([1.9, 1.9, 2.1], True), ([1.9, 1.9, 1.9], False)]
)
def test_no_more_than_before_allows_for_the_noise_of_before(before: list[float], *, passed: bool) -> None:
    metric = Metric("seconds", "a", no_more_than_before=True)
    found = row(metric, _SECONDS, before=[{"seconds": value} for value in before])
    assert found.passed is passed
