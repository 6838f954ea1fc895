"""The broadcast of revocations, inside one process and between processes on one database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from sqlalchemy import func, insert
from sqlalchemy.engine import URL
from structlog.testing import capture_logs

from common.background import Health
from common.errors import Unavailable
from services.auth.database import open_engine
from services.auth.postgresql_store import PostgresqlTokenStore
from services.auth.revocations import Revocations
from services.auth.schema import REVOCATIONS
from services.auth.store import NullTokenStore
from tests.services.auth.fake_store import FakeTokenStore
from tests.services.auth.support import Clock, stored
from tests.waiting import until


async def test_every_watcher_hears_of_everything_after_its_greeting() -> None:
    revocations = Revocations(NullTokenStore())
    revocations.publish(["before"])
    one, two = revocations.watch(), revocations.watch()
    assert [await anext(one), await anext(two)] == [(), ()]
    revocations.publish(["a"])
    revocations.publish(["b", "c"])
    assert [await anext(one), await anext(two)] == [("a", "b", "c"), ("a", "b", "c")]
    await one.aclose()
    revocations.publish(["d"])
    assert await anext(two) == ("d",)
    await two.aclose()
    assert revocations.watchers == 0


async def test_a_watcher_that_falls_behind_is_sent_away_and_the_others_are_not() -> None:
    revocations = Revocations(NullTokenStore())
    slow, fast = revocations.watch(), revocations.watch()
    await anext(slow)
    await anext(fast)
    for number in range(1001):
        revocations.publish([str(number)])
        assert await anext(fast) == (str(number),)
    with pytest.raises(Unavailable):
        await anext(slow)
    assert revocations.watchers == 1
    await fast.aclose()


async def test_closing_ends_the_watches() -> None:
    revocations = Revocations(NullTokenStore())
    watch = revocations.watch()
    await anext(watch)
    revocations.publish(["last"])
    revocations.close()
    assert [batch async for batch in watch] == [("last",)]
    with pytest.raises(Unavailable):
        await anext(revocations.watch())


async def test_a_poll_tells_each_revocation_once(clock: Clock) -> None:
    store = FakeTokenStore(now=clock.now)
    revocations = Revocations(store, overlap_seconds=60)
    watch = revocations.watch()
    await anext(watch)
    store.revoked = {"a": clock.now(), "b": clock.now()}
    await revocations.poll()
    assert await anext(watch) == ("a", "b")
    store.revoked["c"] = clock.now()
    await revocations.poll()
    assert await anext(watch) == ("c",)
    clock.advance(61)
    store.revoked["d"] = clock.now()
    await revocations.poll()
    await revocations.poll()
    assert await anext(watch) == ("d",)
    revocations.publish(["end"])
    assert await anext(watch) == ("end",)
    await watch.aclose()


async def test_a_store_that_is_away_for_a_while_is_asked_again(clock: Clock) -> None:
    store = FakeTokenStore(now=clock.now, shared=True)
    store.away = True
    revocations = Revocations(store, poll_seconds=0)
    watch = revocations.watch()
    await anext(watch)
    following = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    store.revoked["a"] = clock.now()
    store.away = False
    assert await following == ("a",)
    await watch.aclose()


async def test_a_lost_connection_is_made_again_soon_however_seldom_the_store_is_asked(clock: Clock) -> None:
    store = FakeTokenStore(now=clock.now, shared=True, announced=True)
    store.away = True
    revocations = Revocations(store, poll_seconds=3600)
    watch = revocations.watch()
    await anext(watch)
    following = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    store.revoked["a"] = clock.now()
    store.away = False
    async with asyncio.timeout(30):
        assert await following == ("a",)
    await watch.aclose()


async def test_a_mistake_ends_the_watches_and_the_next_one_polls_again(clock: Clock) -> None:
    class Mistaken(FakeTokenStore):
        mistaken = True

        async def recent_revocations(self, *, seconds: float) -> Sequence[str]:
            if self.mistaken:
                raise ZeroDivisionError
            return await super().recent_revocations(seconds=seconds)

    store = Mistaken(now=clock.now, shared=True)
    revocations = Revocations(store, poll_seconds=0)
    watch = revocations.watch()
    await anext(watch)
    with capture_logs() as logs, pytest.raises(Unavailable):
        await anext(watch)
    assert [entry["log_level"] for entry in logs] == ["error"]
    store.mistaken = False
    store.revoked["a"] = clock.now()
    watch = revocations.watch()
    assert [await anext(watch), await anext(watch)] == [(), ("a",)]
    await watch.aclose()


async def test_polls_that_keep_failing_show_in_the_health_of_the_process_until_one_works(clock: Clock) -> None:
    class Mistaken(FakeTokenStore):
        mistaken = True

        async def recent_revocations(self, *, seconds: float) -> Sequence[str]:
            if self.mistaken:
                raise ZeroDivisionError
            return await super().recent_revocations(seconds=seconds)

    store, health = Mistaken(now=clock.now, shared=True), Health()
    revocations = Revocations(store, poll_seconds=0, health=health)
    for _ in range(5):
        assert not health.failing
        watch = revocations.watch()
        await anext(watch)
        with capture_logs(), pytest.raises(Unavailable):
            await anext(watch)
    assert health.failing == {"poll of revocations"}
    store.mistaken = False
    watch = revocations.watch()
    await anext(watch)
    await until(lambda: not health.failing)
    await watch.aclose()


async def test_nobody_is_asked_while_nobody_watches(clock: Clock) -> None:
    class Counting(FakeTokenStore):
        asked = 0

        async def recent_revocations(self, *, seconds: float) -> list[str]:
            self.asked += 1
            return []

    for shared in (True, False):
        store = Counting(now=clock.now, shared=shared)
        revocations = Revocations(store, poll_seconds=0)
        watch = revocations.watch()
        await anext(watch)
        for _ in range(10):
            await asyncio.sleep(0)
        assert bool(store.asked) is shared
        await watch.aclose()
        asked = store.asked
        for _ in range(10):
            await asyncio.sleep(0)
        assert store.asked == asked


async def test_another_process_hears_of_a_revocation(migrated_postgresql_url: URL, clock: Clock) -> None:
    here, there = open_engine(migrated_postgresql_url), open_engine(migrated_postgresql_url)
    store = PostgresqlTokenStore(here)
    revocations = Revocations(PostgresqlTokenStore(there), poll_seconds=3600)
    watch = revocations.watch()
    await anext(watch)
    token = stored(clock)
    await store.add(token, at_most=1)
    await store.remove(token.id, user_id="alice")
    async with asyncio.timeout(30):
        assert await anext(watch) == (token.id,)
    await watch.aclose()
    await here.dispose()
    await there.dispose()


async def test_a_transaction_that_ends_late_is_not_missed(migrated_postgresql_url: URL, clock: Clock) -> None:
    engine = open_engine(migrated_postgresql_url)
    store = PostgresqlTokenStore(engine)
    revocations = Revocations(store, poll_seconds=3600)
    told: list[str] = []

    async def watch() -> None:
        async for batch in revocations.watch():
            told.extend(batch)

    watching = asyncio.create_task(watch())
    await until(lambda: revocations.watchers == 1)
    async with engine.connect() as slow:
        early = insert(REVOCATIONS).values(token_id="early", revoked_at=func.clock_timestamp())
        await slow.execute(early)
        await store.add(stored(clock), at_most=1)
        await store.remove(stored(clock).id, user_id="alice")
        await revocations.poll()
        await until(lambda: told == [stored(clock).id])
        await slow.commit()
    await revocations.poll()
    await until(lambda: told == [stored(clock).id, "early"])
    revocations.close()
    await watching
    await engine.dispose()
