"""Rolls events up again and again while the service runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import datetime

import structlog

from common.errors import Unavailable
from services.usage.core import since_1970
from services.usage.store import UsageStore

_log = structlog.get_logger(__name__)


class Rollup:
    """Rolls up at once and then every ``interval_seconds``, as an async context manager; ``clock`` returns aware times.

    Reading does not wait for it: hours that are not rolled up are read from their events.
    """

    def __init__(self, store: UsageStore, *, clock: Callable[[], datetime], interval_seconds: float) -> None:
        self._store = store
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Rollup:
        """Begin."""
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End; what was not finished is done again by the next start."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            try:
                await self._store.roll_up(now_ms=since_1970(self._clock()))
            except Unavailable as error:
                _log.warning("the rollup is late", error=str(error))
            await asyncio.sleep(self._interval_seconds)
