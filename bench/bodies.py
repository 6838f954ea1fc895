"""What a large request costs: the latency that the gateway adds, and its CPU time."""

from __future__ import annotations

import asyncio
from typing import Final

from bench.comparison import Comparison, Metric, Sample
from bench.cost import cpu_seconds, used
from bench.gateway import Gateway
from bench.plan import Plan
from bench.stack import Stack

_SIZES: Final = {"64 KiB": 64 * 1024, "8 MiB": 8 * 1024 * 1024}
# One load generator sends so many bytes, so that a small request is sent more often than a large one.
_BYTES_AT_MOST: Final = 240 * 1024 * 1024
_SHOWN: Final = ("gateway ms", "plain ms", "upstream ms", "envoy CPU ms", "chat CPU ms")


async def _round(stack: Stack, gateway: Gateway, plan: Plan) -> Sample:
    sample: dict[str, float] = {}
    for size, body_bytes in _SIZES.items():
        total = min(plan.body_requests, _BYTES_AT_MOST // body_bytes)
        shape = {"connections": 1, "total": total, "body_bytes": body_bytes}
        upstream = await stack.upstream.load(**shape)
        plain = await stack.plain.load(**shape)
        pids = gateway.pids()
        before = cpu_seconds(pids)
        ours = await gateway.load(**shape)
        costs = used(before, cpu_seconds(pids), per=total / 1000)
        sample |= {
            f"{size}: added": (ours.latency["p50"] - upstream.latency["p50"]) * 1000,
            f"{size}: gateway ms": ours.latency["p50"] * 1000,
            f"{size}: plain ms": plain.latency["p50"] * 1000,
            f"{size}: upstream ms": upstream.latency["p50"] * 1000,
            f"{size}: envoy CPU ms": costs["envoy"],
            f"{size}: chat CPU ms": costs["chat"],
        }
        await asyncio.sleep(1.0)
    return sample


large_bodies: Final = Comparison(
    _round,
    [
        Metric(
            f"{size}: added",
            f"median latency added to a request of {size} at 1 connection, ms",
            raw=[f"{size}: {what}" for what in _SHOWN],
        )
        for size in _SIZES
    ],
)
