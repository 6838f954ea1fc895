"""Rolls events up again and again while the service runs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from common.background import BackgroundLoop, Health
from services.usage.core import since_1970
from services.usage.store import UsageStore


def rollup(
    store: UsageStore, *, clock: Callable[[], datetime], interval_seconds: float, health: Health | None = None
) -> BackgroundLoop:
    """Return the loop that rolls up; ``clock`` returns aware times.

    Reading does not wait for it: hours that are not rolled up are read from their events.
    """

    async def roll_up() -> None:
        await store.roll_up(now_ms=since_1970(clock()))

    return BackgroundLoop("rollup", roll_up, interval_seconds=interval_seconds, health=health)
