"""Requests a second beside the baseline, and the latency that the gateway adds to the upstream's."""

from __future__ import annotations

import asyncio
from statistics import median

from bench.load import Found, spread
from bench.plan import Plan
from bench.report import Row
from bench.stack import Stack

_CONNECTIONS = 32
_RATIO_AT_LEAST = 0.6
_ADDED_MS_AT_MOST = 2.0
# After a load the usage service still stores what was metered; the other side's round must not pay for it.
_SETTLE_SECONDS = 1.5


async def throughput(stack: Stack, plan: Plan) -> list[Row]:
    """Compare requests a second at 32 connections with a bare handler behind the same Envoy."""
    gateway: list[Found] = []
    bare: list[Found] = []
    for side in (stack.gateway, stack.bare):
        await side(connections=_CONNECTIONS, seconds=1.0)
    for _ in range(plan.rounds):
        await asyncio.sleep(_SETTLE_SECONDS)
        bare.append(await stack.bare(connections=_CONNECTIONS, seconds=plan.round_seconds))
        gateway.append(await stack.gateway(connections=_CONNECTIONS, seconds=plan.round_seconds))
    upstream = await stack.upstream(connections=_CONNECTIONS, seconds=plan.round_seconds)
    ratios = [ours.per_second / theirs.per_second for ours, theirs in zip(gateway, bare, strict=True)]
    row = Row(
        f"requests/s at {_CONNECTIONS} connections, of a bare grpc.aio handler's",
        spread(ratios),
        target=f">= {_RATIO_AT_LEAST}",
        passed=median(ratios) >= _RATIO_AT_LEAST,
        raw=(
            f"gateway {spread([found.per_second for found in gateway], digits=0)} requests/s",
            f"bare    {spread([found.per_second for found in bare], digits=0)} requests/s",
            f"upstream alone {upstream.per_second:.0f} requests/s",
            f"gateway's latency p50 {spread([found.latency['p50'] * 1000 for found in gateway])} ms, "
            f"p99 {spread([found.latency['p99'] * 1000 for found in gateway])} ms",
        ),
    )
    return [row]


async def added_latency(stack: Stack, plan: Plan) -> list[Row]:
    """Compare the median latency at one connection with the upstream's own."""
    gateway: list[float] = []
    upstream: list[float] = []
    bare: list[float] = []
    for _ in range(plan.rounds):
        for side, times in ((stack.upstream, upstream), (stack.gateway, gateway), (stack.bare, bare)):
            found = await side(connections=1, total=plan.sequential_requests)
            times.append(found.latency["p50"] * 1000)
    added = [ours - theirs for ours, theirs in zip(gateway, upstream, strict=True)]
    row = Row(
        "median latency added at 1 connection, ms",
        spread(added),
        target=f"<= {_ADDED_MS_AT_MOST:g}",
        passed=median(added) <= _ADDED_MS_AT_MOST,
        raw=(f"gateway {spread(gateway)} ms, bare {spread(bare)} ms, upstream alone {spread(upstream)} ms",),
    )
    return [row]
