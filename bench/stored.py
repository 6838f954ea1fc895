"""Whether each request that was sent has one usage event, and none has two."""

from __future__ import annotations

import asyncio

from bench.plan import Plan
from bench.report import Row
from bench.stack import Stack

_POLL_SECONDS = 0.5
_POLLS_AT_MOST = 120
# Long enough for an event that should not be there to arrive as well.
_SETTLE_SECONDS = 2.0


async def stored(stack: Stack, _plan: Plan) -> list[Row]:
    """Compare the events stored with the requests sent, once the outbox had the time to empty."""
    for _ in range(_POLLS_AT_MOST):
        if await stack.gateway.stored_requests() >= stack.gateway.sent:
            break
        await asyncio.sleep(_POLL_SECONDS)
    await asyncio.sleep(_SETTLE_SECONDS)
    events = await stack.gateway.stored_requests()
    row = Row(
        "usage events stored for the requests sent in the whole run",
        f"{events:,} for {stack.gateway.sent:,}",
        target="equal",
        passed=events == stack.gateway.sent,
    )
    return [row]
