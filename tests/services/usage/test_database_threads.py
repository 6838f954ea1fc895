"""Database threads refuse what would wait too long, and do not forget what a caller left behind."""

from __future__ import annotations

import asyncio
from threading import Event as Signal

import pytest
from clickhouse_connect.driver import Client

from common.errors import Unavailable
from services.usage.connections import Connect
from services.usage.database_threads import DatabaseThreads


@pytest.fixture
async def threads(connect: Connect) -> DatabaseThreads:
    return DatabaseThreads(connect, name="test", width=1, depth=2)


async def test_full_threads_refuse(threads: DatabaseThreads) -> None:
    started, go_on = Signal(), Signal()

    def work(client: Client) -> str:
        started.set()
        go_on.wait()
        return str(client.command("SELECT 'done'"))

    await threads.open()
    running = asyncio.create_task(threads.run(work))
    await asyncio.to_thread(started.wait)
    waiting = asyncio.create_task(threads.run(work))
    left = asyncio.create_task(threads.run(work))
    with pytest.raises(Unavailable):
        await left
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(Unavailable):
        await threads.run(work)
    go_on.set()
    assert await waiting == "done"
    assert await threads.run(work) == "done"
    await threads.close()
