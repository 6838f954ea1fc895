"""When tokens were last used: collected, and written together."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import pytest
from structlog.testing import capture_logs

from common.background import Health
from common.errors import Unavailable
from services.auth.last_use import LastUse
from tests.services.auth.fake_store import FakeTokenStore
from tests.services.auth.support import Clock
from tests.waiting import until


@pytest.fixture
def fake_store(clock: Clock) -> FakeTokenStore:
    return FakeTokenStore(now=clock.now)


async def test_what_is_noted_is_written_once(fake_store: FakeTokenStore, clock: Clock) -> None:
    last_use = LastUse(fake_store)
    last_use.note("a", clock.now())
    clock.advance(1)
    last_use.note("a", clock.now())
    last_use.note("b", clock.now())
    await last_use.flush()
    await last_use.flush()
    assert fake_store.written == [{"a": clock.now(), "b": clock.now()}]


async def test_the_rest_is_written_at_the_end(fake_store: FakeTokenStore, clock: Clock) -> None:
    async with LastUse(fake_store, flush_seconds=3600) as last_use:
        last_use.note("a", clock.now())
    assert fake_store.written == [{"a": clock.now()}]


async def test_it_is_written_now_and_then_and_old_revocations_are_forgotten(
    fake_store: FakeTokenStore, clock: Clock
) -> None:
    fake_store.revoked = {"old": clock.now()}
    clock.advance(3601)
    async with LastUse(fake_store, flush_seconds=0.001) as last_use:
        last_use.note("a", clock.now())
        await until(lambda: fake_store.written == [{"a": clock.now()}] and not fake_store.revoked)


async def test_nothing_is_lost_while_the_store_is_away(fake_store: FakeTokenStore, clock: Clock) -> None:
    last_use = LastUse(fake_store)
    earlier = clock.now()
    last_use.note("a", earlier)
    last_use.note("b", earlier)
    fake_store.away = True
    with pytest.raises(Unavailable):
        await last_use.flush()
    clock.advance(1)
    last_use.note("a", clock.now())
    fake_store.away = False
    await last_use.flush()
    assert fake_store.written == [{"a": clock.now(), "b": earlier}]


async def test_a_store_that_is_away_at_the_end_does_not_matter(fake_store: FakeTokenStore, clock: Clock) -> None:
    async with LastUse(fake_store, flush_seconds=3600) as last_use:
        last_use.note("a", clock.now())
        fake_store.away = True


async def test_a_mistake_does_not_end_the_writes_and_shows_in_the_health_of_the_process(clock: Clock) -> None:
    class Mistaken(FakeTokenStore):
        mistaken = True

        async def record_uses(self, uses: Mapping[str, datetime]) -> None:
            if self.mistaken:
                raise ZeroDivisionError
            await super().record_uses(uses)

    store, health = Mistaken(now=clock.now), Health()
    with capture_logs() as logs:
        async with LastUse(store, flush_seconds=0.001, health=health) as last_use:
            last_use.note("a", clock.now())
            await until(lambda: bool(health.failing))
            store.mistaken = False
            await until(lambda: store.written == [{"a": clock.now()}] and not health.failing)
    assert {entry["event"] for entry in logs} == {"a background loop failed", "a background loop works again"}


async def test_memory_is_bounded(fake_store: FakeTokenStore, clock: Clock) -> None:
    last_use = LastUse(fake_store)
    for number in range(50_001):
        last_use.note(str(number), clock.now())
    last_use.note("0", clock.now())
    await last_use.flush()
    assert len(fake_store.written[0]) == 50_000
