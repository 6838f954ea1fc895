"""What requests cost each process in CPU time, and whether its memory grows with them."""

from __future__ import annotations

import asyncio
from statistics import median, quantiles
from typing import Final

from bench.comparison import Comparison, Metric, Sample
from bench.cost import Memory, cpu_seconds, memory, slope, used
from bench.gateway import SERVICES, Gateway
from bench.plan import Plan
from bench.report import Row
from bench.stack import Stack

_UNIT: Final = 10_000
_PLAIN: Final = "plain Envoy alone"
_STARTER: Final = "the starter, which keeps the logs"
_SAMPLES: Final = 30
# The shipper looks once a second, and the usage service needs a moment to store what it got.
_SETTLE_SECONDS: Final = 2.5
_GROWTH_MIB_AT_MOST: Final = 1.0
_GROWTH_SHARE_AT_MOST: Final = 0.02


async def _cpu(stack: Stack, gateway: Gateway, plan: Plan) -> Sample:
    load = {"connections": 32, "total": plan.cost_requests}
    plain = {_PLAIN: stack.children.pid(stack.plain.name)}
    before = cpu_seconds(plain)
    await stack.plain.load(**load)
    floor = used(before, cpu_seconds(plain), per=plan.cost_requests / _UNIT)
    pids = {**gateway.pids(), _STARTER: gateway.processes()["starter"]}
    await asyncio.sleep(_SETTLE_SECONDS)
    before = cpu_seconds(pids)
    await gateway.load(**load)
    await asyncio.sleep(_SETTLE_SECONDS)
    costs = used(before, cpu_seconds(pids), per=plan.cost_requests / _UNIT)
    return {**costs, **floor, "all four": sum(costs[name] for name in SERVICES)}


cpu: Final = Comparison(
    _cpu,
    (
        Metric(
            "all four",
            f"CPU seconds of the gateway for {_UNIT:,} requests at 32 connections",
            raw=(*SERVICES, _STARTER, _PLAIN),
        ),
    ),
)


async def flat_memory(stack: Stack, plan: Plan) -> list[Row]:
    """Sample each process's memory while requests go through: nine in ten plain ones, the tenth a short stream."""
    gateway = stack.gateway
    slice_requests = plan.memory_requests // _SAMPLES
    samples: list[dict[str, Memory]] = []
    # chDB's caches fill for this long, and the other pools until they have seen many calls at once.
    await gateway.load(connections=300, waves=1, events=100, rate=50)
    await gateway.load(connections=32, total=max(1, plan.warm_requests - gateway.sent))
    for _ in range(_SAMPLES):
        await gateway.load(connections=32, total=slice_requests * 9 // 10)
        await gateway.load(connections=32, total=slice_requests // 10, events=5, rate=1000)
        await asyncio.sleep(1.0)
        samples.append(memory(gateway.pids()))
    return [_growth(name, [sample[name] for sample in samples], requests=plan.memory_requests) for name in SERVICES]


def _middle_half(values: list[float]) -> float:
    lower, _, upper = quantiles(values, n=4)
    return upper - lower


def _growth(name: str, samples: list[Memory], *, requests: int) -> Row:
    own = [sample.own for sample in samples]
    third = len(own) // 3
    first, last = own[:third], own[-third:]
    growth = median(last) - median(first)
    noise = max(_middle_half(first), _middle_half(last))
    tolerance = max(_GROWTH_MIB_AT_MOST, _GROWTH_SHARE_AT_MOST * median(first), noise)
    per_unit = slope(own) * _UNIT / (requests / _SAMPLES)
    return Row(
        f"{name}: own memory over {requests:,} requests, growth from the first third to the last, MiB",
        f"{growth:+.1f}",
        target=f"<= {tolerance:.1f}: 1 MiB, 2 %, or how far the middle half of a third spreads",
        passed=growth <= tolerance,
        raw=(
            f"own (USS) {' '.join(f'{value:.1f}' for value in own)} MiB; fitted {per_unit:+.2f} for 10,000 requests",
            f"resident (RSS) {samples[0].resident:.1f} to {samples[-1].resident:.1f} MiB",
        ),
    )
