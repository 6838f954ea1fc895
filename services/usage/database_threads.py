"""Threads that each have a database client, behind a bounded queue."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import TypeVar

import structlog
from clickhouse_connect.driver import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from common.errors import Unavailable
from services.usage.connections import Connect, one_line

_log = structlog.get_logger(__name__)
T = TypeVar("T")


class DatabaseThreads:
    """Runs blocking work on ``width`` threads; at most ``depth`` pieces wait or run, more are refused.

    A client answers one question at a time, so each thread has its own: a long read never holds up a write.
    """

    def __init__(self, connect: Connect, *, name: str, width: int, depth: int) -> None:
        self._connect = connect
        self._name = name
        self._width = width
        self._threads = ThreadPoolExecutor(width, thread_name_prefix=f"usage-{name}")
        self._room = BoundedSemaphore(depth)
        self._idle: deque[Client] = deque()

    async def open(self) -> None:
        """Open the clients; raises StoreRefused."""
        loop = asyncio.get_running_loop()
        for _ in range(self._width):
            self._idle.append(await loop.run_in_executor(self._threads, self._connect))

    async def close(self) -> None:
        """Let the running work end, drop what waits, and close the clients."""
        await asyncio.to_thread(self._close)

    async def run(self, work: Callable[[Client], T]) -> T:
        """Return what ``work`` returns; raises Unavailable when the database fails or too much waits."""
        if not self._room.acquire(blocking=False):
            raise Unavailable("The usage store has too much to do; try again.", code="usage_store_busy")
        future = self._threads.submit(self._with_client, work)
        # Not in a finally: a caller that leaves does not stop the thread, and the place stays taken until it is free.
        future.add_done_callback(lambda _: self._room.release())
        try:
            return await asyncio.wrap_future(future)
        except (ClickHouseError, OSError) as error:
            _log.warning("the usage store failed", threads=self._name, error=one_line(error))
            raise Unavailable("The usage store is not available; try again.", code="usage_store_unavailable") from error

    def _with_client(self, work: Callable[[Client], T]) -> T:
        client = self._idle.pop()
        try:
            return work(client)
        finally:
            self._idle.append(client)

    def _close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        while self._idle:
            self._idle.pop().close()
