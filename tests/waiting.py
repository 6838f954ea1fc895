"""Waiting for what other code does, bounded, without sleeping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    """Let others run until the condition holds; raises TimeoutError after ``seconds``."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition is other code's, which has no event to wait for
            await asyncio.sleep(0)
