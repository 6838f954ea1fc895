"""Waiting for what arrives on a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context


class Arrival:
    """What a task awaits for data to come, again and again: a future that wakes its task at once.

    asyncio's own lasts for one wait, and lets the loop go round before its task goes on: 3 of the 57 microseconds of a
    stream's event. What makes an object a future: https://docs.python.org/3/library/asyncio-future.html
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asyncio_future_blocking = False
        self._wakeup: Callable[[Arrival], object] | None = None
        self._context: Context | None = None
        self._error: BaseException | None = None
        self._cancelled = False

    def __await__(self) -> Generator[Arrival, None, None]:
        self._asyncio_future_blocking = True
        yield self

    @property
    def awaited(self) -> bool:
        """Say whether a task waits."""
        return self._wakeup is not None

    def wake(self, error: BaseException | None = None) -> None:
        """Let the task go on, with ``error`` if there is one: before this returns, unless a task has called it."""
        wakeup, context = self._wakeup, self._context
        if wakeup is None or context is None:
            return
        if asyncio.current_task(self._loop) is not None:
            self._loop.call_soon(self.wake, error)
            return
        self._wakeup = self._context = None
        # Data that come between a cancellation and its delivery do not undo it.
        self._error = asyncio.CancelledError() if self._cancelled else error
        self._cancelled = False
        context.run(wakeup, self)

    # What a task calls.

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop."""
        return self._loop

    def add_done_callback(self, wakeup: Callable[[Arrival], object], *, context: Context) -> None:
        """Take the task's wake-up."""
        self._wakeup, self._context = wakeup, context

    def cancel(self, msg: object = None) -> bool:
        """End the wait of a task that is cancelled, in the loop's next round: its canceller is still running."""
        if not self.awaited:
            return False
        self._cancelled = True
        self._loop.call_soon(self.wake)
        return True

    def result(self) -> None:
        """Raise what ended the wait."""
        error, self._error = self._error, None
        if error is not None:
            raise error
