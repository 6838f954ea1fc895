"""Requests a second beside the baselines, and the latency that the gateway adds to the upstream's."""

from __future__ import annotations

import asyncio
from typing import Final

from bench.comparison import Comparison, Metric, Sample
from bench.gateway import Gateway
from bench.plan import Plan
from bench.stack import Stack

_CONNECTIONS: Final = 32
# After a load the usage service still stores what was metered; the other side's round must not pay for it.
_SETTLE_SECONDS: Final = 1.5
_SIDES: Final = ("gateway requests/s", "bare requests/s", "bare on the services' runtime requests/s")


async def _throughput(stack: Stack, gateway: Gateway, plan: Plan) -> Sample:
    await asyncio.sleep(_SETTLE_SECONDS)
    shape = {"connections": _CONNECTIONS, "seconds": plan.round_seconds}
    bare = await stack.bare.load(**shape)
    ours = await gateway.load(**shape)
    await asyncio.sleep(_SETTLE_SECONDS)
    runtime = await stack.bare_on_runtime.load(**shape)
    sides = zip(_SIDES, (found.per_second for found in (ours, bare, runtime)), strict=True)
    return {
        **dict(sides),
        "of bare": ours.per_second / bare.per_second,
        "of bare on the services' runtime": ours.per_second / runtime.per_second,
        "p50 ms": ours.latency["p50"] * 1000,
        "p99 ms": ours.latency["p99"] * 1000,
    }


async def _latency(stack: Stack, gateway: Gateway, plan: Plan) -> Sample:
    times = {}
    for side in (stack.upstream, gateway, stack.bare, stack.plain):
        found = await side.load(connections=1, total=plan.sequential_requests)
        times["gateway" if side is gateway else side.name] = found.latency["p50"] * 1000
    return {f"{name} ms": value for name, value in times.items()} | {"added": times["gateway"] - times["upstream"]}


throughput: Final = Comparison(
    _throughput,
    (
        Metric(
            "of bare",
            f"requests/s at {_CONNECTIONS} connections, of a bare grpc.aio handler's",
            at_least=0.7,
            raw=(*_SIDES, "p50 ms", "p99 ms"),
        ),
        Metric(
            "of bare on the services' runtime",
            f"requests/s at {_CONNECTIONS} connections, of a bare handler's on the services' own runtime",
            at_least=0.6,
        ),
    ),
)
added_latency: Final = Comparison(
    _latency,
    (
        Metric(
            "added",
            "median latency added at 1 connection, ms",
            at_most=2.0,
            raw=("gateway ms", "bare ms", "plain ms", "upstream ms"),
        ),
    ),
)
