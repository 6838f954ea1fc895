"""What requests and events cost each process in CPU time, and whether its memory grows with them."""

from __future__ import annotations

import asyncio
from statistics import median, quantiles

from bench.cost import Memory, cpu_seconds, memory, slope, used
from bench.plan import Plan
from bench.report import Row
from bench.stack import SERVICES, Stack

_UNIT = 10_000
_EVENTS = 100
_STREAMS = 300
_SAMPLES = 30
# The shipper looks once a second, and the usage service needs a moment to store what it got.
_SETTLE_SECONDS = 2.5
_GROWTH_MIB_AT_MOST = 1.0
_GROWTH_SHARE_AT_MOST = 0.02


async def cpu(stack: Stack, plan: Plan) -> list[Row]:
    """Measure CPU seconds for each 10,000 requests and for each 10,000 events."""
    requests = await _cost(stack, units=plan.cost_requests / _UNIT, connections=32, total=plan.cost_requests)
    units = _STREAMS * _EVENTS / _UNIT
    events = await _cost(stack, units=units, connections=_STREAMS, waves=1, events=_EVENTS, rate=50)
    return [
        Row("CPU seconds for 10,000 requests", _each(requests)),
        Row(f"CPU seconds for 10,000 events, with the {_UNIT // _EVENTS} requests that ask for them", _each(events)),
    ]


async def flat_memory(stack: Stack, plan: Plan) -> list[Row]:
    """Sample each process's memory while requests go through: nine in ten plain ones, the tenth a short stream."""
    slice_requests = plan.memory_requests // _SAMPLES
    pids = {name: stack.children.pid(name) for name in SERVICES}
    samples: list[dict[str, Memory]] = []
    # chDB's caches fill for this long, and the other pools until they have seen many calls at once.
    await stack.gateway(connections=_STREAMS, waves=1, events=_EVENTS, rate=50)
    await stack.gateway(connections=32, total=max(1, plan.warm_requests - stack.sent))
    for _ in range(_SAMPLES):
        await stack.gateway(connections=32, total=slice_requests * 9 // 10)
        await stack.gateway(connections=32, total=slice_requests // 10, events=5, rate=1000)
        await asyncio.sleep(1.0)
        samples.append(memory(pids))
    return [_row(name, [sample[name] for sample in samples], requests=plan.memory_requests) for name in SERVICES]


async def _cost(stack: Stack, *, units: float, **load: int) -> dict[str, float]:
    pids = {name: stack.children.pid(name) for name in (*SERVICES, "upstream")}
    await asyncio.sleep(_SETTLE_SECONDS)
    before = cpu_seconds(pids)
    await stack.gateway(**load)
    await asyncio.sleep(_SETTLE_SECONDS)
    return used(before, cpu_seconds(pids), per=units)


def _each(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())


def _middle_half(values: list[float]) -> float:
    lower, _, upper = quantiles(values, n=4)
    return upper - lower


def _row(name: str, samples: list[Memory], *, requests: int) -> Row:
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
