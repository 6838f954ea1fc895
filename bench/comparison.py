"""Measurements that are taken round by round, of one gateway or of two in turn, and the rows that come of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.gateway import Gateway
from bench.load import spread
from bench.plan import Plan
from bench.report import Row
from bench.stack import Stack

Sample = Mapping[str, float]
"""What one round found of one gateway, by name."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A row: the value of a sample that it shows, its target, and the other values that are shown below it."""

    key: str
    name: str
    at_least: float | None = None
    at_most: float | None = None
    no_more_than_before: bool = False
    """Whether the target is what the other checkout's gateway needs in the same run, give or take its noise."""
    raw: Sequence[str] = ()
    digits: int = 2


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a round is taken, and which rows come of it."""

    round: Callable[[Stack, Gateway, Plan], Awaitable[Sample]]
    metrics: Sequence[Metric]


async def measure(comparison: Comparison, stack: Stack, plan: Plan) -> list[Row]:
    """Take all rounds, of every gateway in turn (A B A B), and return a row for each metric."""
    found: dict[str, list[Sample]] = {gateway.name: [] for gateway in stack.gateways}
    for _ in range(plan.rounds):
        for gateway in stack.gateways:
            found[gateway.name].append(await comparison.round(stack, gateway, plan))
        stack.children.check()
    before = found[stack.before.name] if stack.before else []
    return [row(metric, found[stack.gateway.name], before=before) for metric in comparison.metrics]


def row(metric: Metric, samples: Sequence[Sample], *, before: Sequence[Sample]) -> Row:
    """Compare a metric's samples with its target and with those of the gateway before."""
    values, earlier = ([sample[metric.key] for sample in side] for side in (samples, before))
    raw = [_shown(key, samples) for key in metric.raw]
    raw += [f"before: {_shown(key, before)}" for key in metric.raw if before]
    target, passed = _target(metric, values, earlier)
    return Row(
        metric.name,
        spread(values, digits=metric.digits),
        target=target,
        passed=passed,
        raw=raw,
        before=spread(earlier, digits=metric.digits) if earlier else "",
        of_before=spread([ours / theirs for ours, theirs in zip(values, earlier, strict=True)]) if earlier else "",
    )


def _target(metric: Metric, values: Sequence[float], before: Sequence[float]) -> tuple[str, bool | None]:
    if metric.at_least is not None:
        return f">= {metric.at_least:g}", median(values) >= metric.at_least
    if metric.at_most is not None:
        return f"<= {metric.at_most:g}", median(values) <= metric.at_most
    if metric.no_more_than_before and before:
        # Where the medians differ by less than the rounds of one side do, nothing has become slower.
        noise = max(before) - median(before)
        return "no more than before, within its noise", median(values) <= median(before) + noise
    return "", None


def _shown(key: str, samples: Sequence[Sample]) -> str:
    values = [sample[key] for sample in samples]
    return f"{key} {spread(values, digits=0 if median(values) >= 100 else 2)}"
