"""When a stream's first byte comes, what 300 streams at once take, and what 10,000 events cost."""

from __future__ import annotations

import asyncio
from typing import Final

from bench.comparison import Comparison, Metric, Sample
from bench.cost import cpu_seconds, used
from bench.gateway import SERVICES, Gateway
from bench.plan import Plan
from bench.stack import Stack

_RATE: Final = 50
_STREAMS: Final = 100
_EVENTS: Final = 100
# The shipper looks once a second, and the usage service needs a moment to store what it got.
_SETTLE_SECONDS: Final = 2.5
_WAYS: Final = {"one after the other": "each begins when its last one ends", "at once": "all begin at once"}
_TIMES_ENVOY: Final = "envoy and chat, times plain Envoy"
# 0.30 s where Envoy alone takes 0.09: a machine's seconds change within the hour, their ratio hardly does.
_FULL_SPEED_AT_MOST: Final = 3.3
_COSTS: Final = (
    *(*SERVICES, "all four", "envoy and chat", "plain Envoy alone", "upstream"),
    *("seconds of a wave", "seconds of a wave without the gateway"),
)


async def _first_byte(stack: Stack, gateway: Gateway, plan: Plan) -> Sample:
    shape = {"connections": 10, "events": 10, "rate": _RATE}
    sample: dict[str, float] = {}
    for way, load in zip(_WAYS, ({"total": 10 * plan.waves}, {"waves": plan.waves}), strict=True):
        upstream, plain, ours = [await side.load(**shape, **load) for side in (stack.upstream, stack.plain, gateway)]
        sample[f"plain Envoy ms, {way}"] = plain.first_byte["p50"] * 1000
        sample[f"gateway ms, {way}"] = ours.first_byte["p50"] * 1000
        sample[f"upstream ms, {way}"] = upstream.first_byte["p50"] * 1000
        sample[way] = sample[f"gateway ms, {way}"] - sample[f"upstream ms, {way}"]
    return sample


async def _many(stack: Stack, gateway: Gateway, _plan: Plan) -> Sample:
    shape = {"connections": 300, "events": _EVENTS, "rate": _RATE, "waves": 1}
    upstream, ours = [await side.load(**shape) for side in (stack.upstream, gateway)]
    return {
        "gateway s": ours.waves[0],
        "upstream s": upstream.waves[0],
        "ratio": ours.waves[0] / upstream.waves[0],
        "first byte p50 ms": ours.first_byte["p50"] * 1000,
    }


async def _cost(stack: Stack, gateway: Gateway, *, waves: int, rate: int) -> Sample:
    """Return the CPU seconds of every process for a wave of all the streams."""
    shape = {"connections": _STREAMS, "events": _EVENTS, "rate": rate, "waves": waves}
    alone = await stack.upstream.load(**shape)
    plain = {"plain Envoy alone": stack.children.pid("plain")}
    before = cpu_seconds(plain)
    await stack.plain.load(**shape)
    floor = used(before, cpu_seconds(plain), per=waves)
    pids = {**gateway.pids(), "upstream": stack.children.pid("upstream")}
    await asyncio.sleep(_SETTLE_SECONDS)
    before = cpu_seconds(pids)
    ours = await gateway.load(**shape)
    await asyncio.sleep(_SETTLE_SECONDS)
    costs = used(before, cpu_seconds(pids), per=waves)
    return {
        **costs,
        **floor,
        "envoy and chat": costs["envoy"] + costs["chat"],
        _TIMES_ENVOY: (costs["envoy"] + costs["chat"]) / sum(floor.values()),
        "all four": sum(costs[name] for name in SERVICES),
        "seconds of a wave": sum(ours.waves) / waves,
        "seconds of a wave without the gateway": sum(alone.waves) / waves,
    }


async def _full_speed(stack: Stack, gateway: Gateway, plan: Plan) -> Sample:
    return await _cost(stack, gateway, waves=plan.full_speed_waves, rate=0)


async def _paced(stack: Stack, gateway: Gateway, plan: Plan) -> Sample:
    return await _cost(stack, gateway, waves=plan.paced_waves, rate=_RATE)


first_byte: Final = Comparison(
    _first_byte,
    [
        Metric(
            way,
            f"first byte later than the upstream's at 10 streams, {how}, median ms",
            at_most=5.0,
            raw=tuple(f"{side} ms, {way}" for side in ("gateway", "plain Envoy", "upstream")),
        )
        for way, how in _WAYS.items()
    ],
)
many_streams: Final = Comparison(
    _many,
    (
        Metric(
            "ratio",
            f"300 streams of {_EVENTS} events at {_RATE}/s, wall time of the upstream's own",
            at_most=1.15,
            raw=("gateway s", "upstream s", "first byte p50 ms"),
        ),
    ),
)
full_speed: Final = Comparison(
    _full_speed,
    (
        Metric(
            _TIMES_ENVOY,
            f"CPU of envoy and chat for {_STREAMS} streams of {_EVENTS} events at full speed, times Envoy's alone",
            at_most=_FULL_SPEED_AT_MOST,
            raw=_COSTS,
        ),
    ),
)
paced: Final = Comparison(
    _paced,
    (
        Metric(
            "envoy and chat",
            f"CPU seconds of envoy and chat for {_STREAMS} streams of {_EVENTS} events at {_RATE}/s each",
            no_more_than_before=True,
            raw=_COSTS,
        ),
    ),
)
