"""Comments that fill the silence before a stream's answer has begun."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeAlias

from common.reply import Reply


class KeepAlive(Protocol):
    """Keeps a silent stream alive from when it is made until it is stopped."""

    async def stop(self) -> bool:
        """Stop, and say whether anything has left, and with it the status."""

    def cancel(self) -> None:
        """Stop at once, because the caller has gone."""


KeepAliveFactory: TypeAlias = Callable[[Reply], KeepAlive]
"""Begins to keep a reply alive."""


def every(seconds: float) -> KeepAliveFactory:
    """Return what keeps a reply alive after each ``seconds`` of silence."""
    return partial(EarlyKeepAlive, seconds=seconds)


class NullKeepAlive:
    """Lets a stream be silent."""

    def __init__(self, reply: Reply) -> None:
        """Do nothing."""

    async def stop(self) -> bool:
        """Say that nothing has left."""
        return False

    def cancel(self) -> None:
        """Do nothing."""


class EarlyKeepAlive:
    """Sends a comment after each ``seconds`` without an answer.

    The first comment commits the status to 200, and a later failure becomes an event. It holds no content, so that the
    router may still choose another deployment. See docs/adr/0012.
    """

    def __init__(self, reply: Reply, *, seconds: float) -> None:
        self._reply = reply
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._has_left = False
        # A timer and no task: nearly every answer begins before it.
        self._timer = self._loop.call_later(seconds, self._start)

    async def stop(self) -> bool:
        """Stop, and say whether a comment has left; one that is being written leaves first."""
        self._timer.cancel()
        if self._task is not None:
            await self._task
            self._timer.cancel()
        return self._has_left

    def cancel(self) -> None:
        """Stop at once."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _start(self) -> None:
        self._task = self._loop.create_task(self._send())

    async def _send(self) -> None:
        self._has_left |= await self._reply.keep_alive()
        self._timer = self._loop.call_later(self._seconds, self._start)
