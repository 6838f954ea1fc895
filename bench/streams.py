"""When a stream's first byte comes, and what 300 streams at once take."""

from __future__ import annotations

from statistics import median

from bench.load import Found, spread
from bench.plan import Plan
from bench.report import Row
from bench.stack import Stack

_LATER_MS_AT_MOST = 5.0
_TIMES_AT_MOST = 1.15


async def first_byte(stack: Stack, plan: Plan) -> list[Row]:
    """Compare the first event's arrival with the upstream's own, at 10 streams that begin in the same moment or not."""
    shape = {"connections": 10, "events": 10, "rate": 50}
    ways = {
        "each begins when its last one ends": {"total": 10 * plan.waves},
        "all begin at once": {"waves": plan.waves},
    }
    rows = []
    for how, way in ways.items():
        gateway: list[float] = []
        upstream: list[float] = []
        for _ in range(plan.rounds):
            for side, times in ((stack.upstream, upstream), (stack.gateway, gateway)):
                found = await side(**shape, **way)
                times.append(found.first_byte["p50"] * 1000)
        later = [ours - theirs for ours, theirs in zip(gateway, upstream, strict=True)]
        row = Row(
            f"first byte later than the upstream's at 10 streams, {how}, median ms",
            spread(later),
            target=f"<= {_LATER_MS_AT_MOST:g}",
            passed=median(later) <= _LATER_MS_AT_MOST,
            raw=(f"gateway {spread(gateway)} ms, upstream alone {spread(upstream)} ms",),
        )
        rows.append(row)
    return rows


async def many_streams(stack: Stack, plan: Plan) -> list[Row]:
    """Compare the time that 300 concurrent streams take with what they take without the gateway."""
    shape = {"connections": 300, "events": 100, "rate": 50, "waves": 1}
    gateway: list[Found] = []
    upstream: list[Found] = []
    for _ in range(plan.rounds):
        upstream.append(await stack.upstream(**shape))
        gateway.append(await stack.gateway(**shape))
    walls = [[found.waves[0] for found in side] for side in (gateway, upstream)]
    times = [ours / theirs for ours, theirs in zip(*walls, strict=True)]
    row = Row(
        "300 streams of 100 events at 50/s, wall time of the upstream's own",
        spread(times),
        target=f"<= {_TIMES_AT_MOST}",
        passed=median(times) <= _TIMES_AT_MOST,
        raw=(
            f"gateway {spread(walls[0])} s, upstream alone {spread(walls[1])} s",
            f"gateway's first byte p50 {spread([found.first_byte['p50'] * 1000 for found in gateway], digits=0)} ms",
        ),
    )
    return [row]
