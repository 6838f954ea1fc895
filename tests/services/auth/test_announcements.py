"""Processes on one PostgreSQL announce revocations to each other, and notice when that does not work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL
from structlog.testing import capture_logs

from common.errors import Unavailable
from services.auth.database import away_when_it_fails, open_engine
from services.auth.notifications import listening
from services.auth.postgresql_store import PostgresqlTokenStore
from services.auth.revocations import Revocations
from services.auth.store import TokenStore
from tests.services.auth.fake_store import FakeTokenStore
from tests.services.auth.support import Clock, stored
from tests.waiting import until

_NEVER_SECONDS = 3600.0
_PATIENCE_SECONDS = 30.0
_NOTIFICATION = b"A"
_LISTENERS = sa.text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
)


async def test_an_announced_revocation_is_told_without_a_poll(clock: Clock) -> None:
    store = FakeTokenStore(now=clock.now, shared=True, announced=True)
    async with watching(store) as watch:
        await until(lambda: bool(store.listening))
        token_id = await revoked(store, clock)
        assert await anext(watch) == (token_id,)
    assert store.listening == []


async def test_a_lost_connection_is_made_again(clock: Clock) -> None:
    store = FakeTokenStore(now=clock.now, shared=True, announced=True)
    async with watching(store) as watch:
        await until(lambda: bool(store.listening))
        (first,) = store.listening
        first.lose()
        await until(lambda: bool(store.listening) and store.listening != [first])
        token_id = await revoked(store, clock)
        assert await anext(watch) == (token_id,)


async def test_a_listener_whose_connection_postgresql_ends_listens_again(
    postgresql_store_pair: tuple[PostgresqlTokenStore, PostgresqlTokenStore], clock: Clock
) -> None:
    here, there = postgresql_store_pair
    ended: list[bool] = []
    async with watching(there) as watch, asyncio.timeout(_PATIENCE_SECONDS):
        while not ended:
            async with here._transaction() as connection:
                ended = list((await connection.execute(_LISTENERS)).scalars())
        token_id = await revoked(here, clock)
        assert await anext(watch) == (token_id,)


async def test_a_driver_that_loses_its_place_when_its_connection_ends_counts_as_a_database_that_is_away() -> None:
    with capture_logs(), pytest.raises(Unavailable), away_when_it_fails():
        raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")


async def test_announcements_are_heard_and_others_channels_are_not(
    postgresql_store_pair: tuple[PostgresqlTokenStore, PostgresqlTokenStore], clock: Clock
) -> None:
    here, there = postgresql_store_pair
    async with there.announcements() as announcements:
        assert announcements.works
        async with here._transaction() as connection:
            await connection.execute(sa.text("NOTIFY something_else"))
        assert not await announcements.wait(seconds=0.05)
        await revoked(here, clock)
        assert await announcements.wait(seconds=_PATIENCE_SECONDS)


async def test_behind_a_pooler_that_delivers_no_notifications_the_database_is_asked_all_the_time(
    migrated_postgresql_url: URL, clock: Clock, tmp_path: Path
) -> None:
    direct = open_engine(migrated_postgresql_url)
    async with pooler(migrated_postgresql_url, tmp_path) as url:
        pooled = open_engine(url)
        with capture_logs() as logs:
            async with listening(pooled) as announcements:
                assert not announcements.works
        assert [entry["log_level"] for entry in logs] == ["warning"]
        async with (
            watching(PostgresqlTokenStore(pooled), poll_seconds=0.005) as watch,
            asyncio.timeout(_PATIENCE_SECONDS),
        ):
            token_id = await revoked(PostgresqlTokenStore(direct), clock)
            assert await anext(watch) == (token_id,)
        await pooled.dispose()
    await direct.dispose()


@asynccontextmanager
async def watching(
    store: TokenStore, *, poll_seconds: float = _NEVER_SECONDS
) -> AsyncIterator[AsyncIterator[tuple[str, ...]]]:
    """Watch the store's revocations; gives the watch after its greeting."""
    async with aclosing(Revocations(store, poll_seconds=poll_seconds).watch()) as watch:
        await anext(watch)
        yield watch


async def revoked(store: TokenStore, clock: Clock) -> str:
    """Add Alice's token and remove it; returns its id."""
    token = stored(clock)
    await store.add(token, at_most=1)
    await store.remove(token.id, user_id=token.user_id)
    return token.id


@asynccontextmanager
async def pooler(url: URL, directory: Path) -> AsyncIterator[URL]:
    """Stand between clients and PostgreSQL as a pooler does that shares connections: notifications do not pass."""
    real = f"{url.query['host']}/.s.PGSQL.{url.port or 5432}"
    relays: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, to_behind = await asyncio.open_unix_connection(real)
        both = asyncio.gather(_bytes(reader, to_behind), _messages(behind, writer))
        task = asyncio.current_task()
        assert task is not None
        relays.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await both
        for each in (writer, to_behind):
            each.close()
            with suppress(ConnectionError):
                await each.wait_closed()

    server = await asyncio.start_unix_server(serve, directory / ".s.PGSQL.5432")
    async with server:
        yield url.set(port=5432).update_query_dict({"host": str(directory)})
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays)


async def _bytes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def _messages(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on PostgreSQL's messages, a kind and a length each, but notifications."""
    while True:
        head = await reader.readexactly(5)
        rest = await reader.readexactly(int.from_bytes(head[1:]) - 4)
        if head[:1] != _NOTIFICATION:
            writer.write(head + rest)
            await writer.drain()
