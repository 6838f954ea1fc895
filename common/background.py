"""Work that a service does beside its calls: supervised, repeated, and shown in its health when it keeps failing."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

_log = structlog.get_logger(__name__)
_RETRY_AT_FIRST_SECONDS: Final = 0.1
_RETRY_AT_MOST_SECONDS: Final = 30.0
_FAILURES_AT_MOST: Final = 5


class Health:
    """Which parts of a process keep failing; its server reports NOT_SERVING while there is one."""

    def __init__(self) -> None:
        self._failing: set[str] = set()
        self._changed = asyncio.Event()

    @property
    def failing(self) -> frozenset[str]:
        """The names of the parts that keep failing."""
        return frozenset(self._failing)

    def set_failing(self, part: str, *, failing: bool) -> None:
        """Say whether a part keeps failing; saying it twice changes nothing."""
        if failing is (part in self._failing):
            return
        (self._failing.add if failing else self._failing.discard)(part)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def wait_for_change(self) -> None:
        """Return when a part began or ceased to fail after this call."""
        await self._changed.wait()


class BackgroundLoop:
    """Runs ``step`` again and again, as an async context manager.

    The step runs at once, and ``interval_seconds`` after its end again. When it raises, that is logged with its trace
    and the step is repeated after a pause, which doubles from ``retry_at_first_seconds`` to ``retry_at_most_seconds``
    and has jitter. After ``failures_at_most`` failures in a row ``health`` has the loop among the failing parts, until
    a step ends well or calls ``succeeded``, which a step without an end of its own does. Leaving the context cancels
    the step, or lets it end when ``finishes`` is set.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], Awaitable[object]],
        *,
        interval_seconds: float,
        health: Health | None = None,
        failures_at_most: int = _FAILURES_AT_MOST,
        retry_at_first_seconds: float = _RETRY_AT_FIRST_SECONDS,
        retry_at_most_seconds: float = _RETRY_AT_MOST_SECONDS,
        finishes: bool = False,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self.failures = 0
        self._step = step
        self._interval_seconds = interval_seconds
        self._health = health or Health()
        self._failures_at_most = failures_at_most
        self._retry_at_first_seconds = retry_at_first_seconds
        self._retry_at_most_seconds = retry_at_most_seconds
        self._finishes = finishes
        self._jitter = jitter
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> BackgroundLoop:
        """Begin with the first step."""
        self._task = asyncio.create_task(self._run(), name=self.name)
        return self

    async def __aexit__(self, *_: object) -> None:
        """End; no step begins any more."""
        self._closing.set()
        task = self._task
        if task is None:
            return
        if not self._finishes:
            task.cancel()
        try:
            # Not the task itself: its cancellation and that of whoever waits here would look the same.
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    def succeeded(self) -> None:
        """Say that the step works: for a step that goes on for as long as all is well."""
        if self.failures:
            _log.info("a background loop works again", loop=self.name, failures=self.failures)
        self.failures = 0
        self._health.set_failing(self.name, failing=False)

    async def _run(self) -> None:
        while not self._closing.is_set():
            await self._pause(await self._run_step())

    async def _run_step(self) -> float:
        """Run the step, and return the seconds until the next."""
        try:
            await self._step()
        except asyncio.CancelledError:
            # Only an end of this loop ends it: a step may wait for something that was cancelled.
            if self._closing.is_set() or _is_cancelled():
                raise
            return self._failed()
        except Exception:  # noqa: BLE001 - logged with its trace, and the loop goes on
            return self._failed()
        self.succeeded()
        return self._interval_seconds

    def _failed(self) -> float:
        self.failures += 1
        _log.exception("a background loop failed", loop=self.name, failures=self.failures)
        if self.failures >= self._failures_at_most:
            self._health.set_failing(self.name, failing=True)
        doubled = self._retry_at_first_seconds * 2.0 ** min(self.failures - 1, 32)
        return min(doubled, self._retry_at_most_seconds) * (0.5 + self._jitter() / 2)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
