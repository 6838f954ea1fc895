"""The token stores: one contract, kept by the fake, by SQLite and by PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from common.errors import InvalidRequest, Unavailable
from services.auth.config import async_url
from services.auth.database import open_engine
from services.auth.migrations.upgrade import migrate
from services.auth.postgresql_store import PostgresqlTokenStore
from services.auth.schema import API_TOKENS
from services.auth.sqlite_store import SqliteTokenStore
from services.auth.store import NullTokenStore, StoredToken, TokenStore
from tests.services.auth.support import Clock, stored


async def test_a_token_comes_back_as_it_was_stored(store: TokenStore, clock: Clock) -> None:
    token = stored(clock, name="für Ünïcode 🚦", expires_at=clock.now() + timedelta(days=1, microseconds=7))
    await store.add(token, at_most=1)
    assert await store.by_hash(token.token_hash) == token
    assert await store.of_user("alice") == [token]


async def test_an_unknown_hash_is_nothing(store: TokenStore) -> None:
    assert await store.by_hash(b"\0" * 32) is None


async def test_a_user_sees_own_tokens_newest_first(store: TokenStore, clock: Clock) -> None:
    for number in (3, 1, 2):
        await store.add(stored(clock, number), at_most=10)
        await store.add(stored(clock, number + 10, user_id="bob"), at_most=10)
        clock.advance(1)
    assert [int(token.id[4:]) for token in await store.of_user("alice")] == [2, 1, 3]
    assert await store.of_user("carol") in ([], ())


async def test_the_limit_is_for_each_user(store: TokenStore, clock: Clock) -> None:
    for number in (1, 2):
        await store.add(stored(clock, number), at_most=2)
    with pytest.raises(InvalidRequest, match="2 API tokens"):
        await store.add(stored(clock, 3), at_most=2)
    await store.add(stored(clock, 4, user_id="bob"), at_most=2)
    assert len(await store.of_user("alice")) == 2


async def test_the_limit_holds_when_many_are_added_at_once(store: TokenStore, clock: Clock) -> None:
    added = await asyncio.gather(
        *(store.add(stored(clock, number), at_most=3) for number in range(1, 9)), return_exceptions=True
    )
    assert sum(isinstance(result, InvalidRequest) for result in added) == 5
    assert len(await store.of_user("alice")) == 3


async def test_removing_notes_the_revocation(store: TokenStore, clock: Clock) -> None:
    token = stored(clock)
    await store.add(token, at_most=1)
    assert await store.recent_revocations(seconds=60) == []
    assert await store.remove(token.id, user_id="alice")
    assert await store.by_hash(token.token_hash) is None
    assert await store.recent_revocations(seconds=60) == [token.id]
    assert not await store.remove(token.id, user_id="alice")


async def test_nobody_removes_the_token_of_another(store: TokenStore, clock: Clock) -> None:
    token = stored(clock)
    await store.add(token, at_most=1)
    assert not await store.remove(token.id, user_id="bob")
    assert await store.of_user("alice") == [token]
    assert await store.recent_revocations(seconds=60) == []


async def test_old_revocations_are_forgotten(store: TokenStore, clock: Clock) -> None:
    await store.add(stored(clock), at_most=1)
    await store.remove(stored(clock).id, user_id="alice")
    await store.forget_revocations(seconds=60)
    assert await store.recent_revocations(seconds=60) == [stored(clock).id]
    await store.forget_revocations(seconds=0)
    assert await store.recent_revocations(seconds=60) == []


async def test_uses_are_recorded_together(store: TokenStore, clock: Clock) -> None:
    tokens = [stored(clock, number) for number in (1, 2, 3)]
    for token in tokens:
        await store.add(token, at_most=10)
    later = clock.now() + timedelta(seconds=5)
    await store.record_uses({tokens[0].id: later, tokens[2].id: clock.now(), "tok_of_nobody": later})
    assert [token.last_used_at for token in await store.of_user("alice")] == [clock.now(), None, later]


async def test_a_use_is_never_set_back(sql_store: TokenStore, clock: Clock) -> None:
    token = stored(clock)
    await sql_store.add(token, at_most=1)
    await sql_store.record_uses({token.id: clock.now()})
    await sql_store.record_uses({token.id: clock.now() - timedelta(seconds=1)})
    assert await sql_store.of_user("alice") == [replace(token, last_used_at=clock.now())]


async def test_more_uses_than_one_write_takes(sql_store: TokenStore, clock: Clock) -> None:
    await sql_store.add(stored(clock, 2500), at_most=1)
    await sql_store.record_uses({stored(clock, number).id: clock.now() for number in range(1, 2501)})
    assert (await sql_store.of_user("alice"))[0].last_used_at == clock.now()


async def test_a_broken_database_is_away(sql_store: TokenStore, engine: AsyncEngine, clock: Clock) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE api_tokens"))
        await connection.execute(text("DROP TABLE revocations"))
    for call in (
        sql_store.add(stored(clock), at_most=1),
        sql_store.of_user("alice"),
        sql_store.by_hash(b"\0" * 32),
        sql_store.remove("tok_1", user_id="alice"),
        sql_store.record_uses({"tok_1": clock.now()}),
        sql_store.recent_revocations(seconds=60),
        sql_store.forget_revocations(seconds=60),
    ):
        with pytest.raises(Unavailable):
            await call


async def test_a_postgresql_that_does_not_listen_is_away(tmp_path: Path, clock: Clock) -> None:
    engine = open_engine(async_url(f"postgresql://postgres:@/postgres?host={tmp_path}"))
    with pytest.raises(Unavailable):
        await PostgresqlTokenStore(engine).by_hash(b"\0" * 32)
    await engine.dispose()


async def test_a_postgresql_that_was_restarted_costs_no_failed_call(migrated_postgresql_url: URL, clock: Clock) -> None:
    engine, other = open_engine(migrated_postgresql_url), open_engine(migrated_postgresql_url)
    store = PostgresqlTokenStore(engine)
    await store.add(stored(clock), at_most=1)
    async with other.begin() as connection:
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        await connection.execute(text(f"{query} AND pid <> pg_backend_pid()"))
    assert await store.of_user("alice") == [stored(clock)]
    await engine.dispose()
    await other.dispose()


def test_sqlite_files_are_for_their_owner_alone(sqlite_url: URL) -> None:
    asyncio.run(migrate(sqlite_url))
    path = Path(sqlite_url.database or "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(directory.stat().st_mode) for directory in path.parents[:2]} == {0o700}


async def test_sqlite_writes_ahead_and_waits(sqlite_url: URL) -> None:
    engine = open_engine(sqlite_url)
    async with engine.connect() as connection:
        assert (await connection.execute(text("PRAGMA journal_mode"))).scalar_one() == "wal"
        assert (await connection.execute(text("PRAGMA busy_timeout"))).scalar_one() == 3000
    await engine.dispose()


async def test_only_postgresql_is_shared(sql_store: TokenStore, migrated_url: URL) -> None:
    assert sql_store.shared is (migrated_url.get_backend_name() == "postgresql")


async def test_a_row_of_an_earlier_version_is_understood(migrated_sqlite_url: URL, clock: Clock) -> None:
    token = stored(clock, name="für", expires_at=clock.now() + timedelta(days=1, microseconds=7))
    engine = open_engine(migrated_sqlite_url)
    async with engine.begin() as connection:
        values = {**asdict(token), "scopes": list(token.scopes)}
        await connection.execute(insert(API_TOKENS).values(values))
    store = SqliteTokenStore(Path(migrated_sqlite_url.database or ""), now=clock.now)
    assert await store.by_hash(token.token_hash) == token
    await store.add(stored(clock, 2), at_most=10)
    await store.close()
    async with engine.connect() as connection:
        rows = (await connection.execute(select(API_TOKENS).order_by(API_TOKENS.c.id))).mappings().all()
    assert [StoredToken(**{**row, "scopes": tuple(row["scopes"])}) for row in rows] == [token, stored(clock, 2)]
    await engine.dispose()


async def test_another_process_that_writes_is_waited_for(migrated_sqlite_url: URL, clock: Clock) -> None:
    path = Path(migrated_sqlite_url.database or "")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store = SqliteTokenStore(path, now=clock.now)
    adding = asyncio.create_task(store.add(stored(clock), at_most=1))
    assert await store_reads(path, clock) == []
    assert not adding.done()
    other.execute("COMMIT")
    other.close()
    await adding
    assert await store.of_user("alice") == [stored(clock)]
    await store.close()


async def store_reads(path: Path, clock: Clock) -> Sequence[StoredToken]:
    """Read with a store of its own: writers do not keep readers waiting."""
    store = SqliteTokenStore(path, now=clock.now)
    found = await store.of_user("alice")
    await store.close()
    return found


async def test_the_null_store_has_nothing(clock: Clock) -> None:
    store = NullTokenStore()
    with pytest.raises(Unavailable):
        await store.add(stored(clock), at_most=1)
    await store.record_uses({"tok_1": clock.now()})
    await store.forget_revocations(seconds=1)
    assert (await store.of_user("alice"), await store.recent_revocations(seconds=1)) == ((), ())
    assert await store.by_hash(b"") is None
    assert not await store.remove("tok_1", user_id="alice")
