"""Hourly rows stand for events without changing a number, whatever comes late, twice or in two versions."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from common.background import Health
from common.metering.record import UsageRecord
from services.usage.clickhouse_store import ClickHouseStore
from services.usage.connections import embedded
from services.usage.hourly import OVERLAP_SECONDS, chunks
from services.usage.migrations import Place
from services.usage.rollup import rollup
from services.usage.store import NullUsageStore, UsageStore
from services.usage.summaries import Everyone, OneUser, Sums, UsageScope, sum_names
from tests.services.usage.builders import HOUR_MS, NOW, NOW_MS, batch_ids, crashed, event
from tests.services.usage.fake_store import FakeUsageStore

DAY_MS = 24 * HOUR_MS
START_MS = NOW_MS - DAY_MS


class Database:
    """A dataset that several processes use, and a client that looks behind them."""

    def __init__(self, directory: Path, *, place: Place) -> None:
        self.place = place
        self.connect = embedded(directory)
        self.client: Client = self.connect()
        self.ids = batch_ids()
        self.events = f"turnpike.{place.dataset}"
        self.hourly = f"turnpike.{place.dataset}_hourly"
        self.sealed = f"turnpike.{place.dataset}_sealed"

    def store(self, **changes: Any) -> ClickHouseStore:
        """Make a process's store, for which no insert takes longer than a millisecond."""
        place = replace(self.place, **changes)
        return ClickHouseStore(self.connect, place=place, readers=1, overlap_seconds=0)

    async def insert(self, store: UsageStore, *events: UsageRecord) -> None:
        """Insert the events as a batch of their own."""
        await store.insert(events, batch_id=next(self.ids))

    def count(self, table: str) -> int:
        """Count the rows of a table as a reader would."""
        return int(self.client.query(f"SELECT count() FROM {table} FINAL").result_rows[0][0])  # noqa: S608 - our own name


@pytest.fixture
def database(chdb_directory: Path, place: Place) -> Iterator[Database]:
    made = Database(chdb_directory, place=place)
    yield made
    made.client.close()


@pytest.fixture
async def store(database: Database) -> AsyncIterator[ClickHouseStore]:
    async with database.store() as opened:
        yield opened


async def requests(store: UsageStore, *, scope: UsageScope = Everyone(), until_ms: int = NOW_MS) -> int:  # noqa: B008 - frozen
    return (await store.summarize(scope, since_ms=START_MS, until_ms=until_ms)).totals.requests


def at(hours: float, **changes: Any) -> UsageRecord:
    """Make an event so many hours after the start."""
    return event(at_ms=START_MS + round(hours * HOUR_MS), **changes)


def test_hourly_rows_have_the_fields_of_the_sums(store: ClickHouseStore, database: Database) -> None:
    found = database.client.query(f"SELECT * FROM {database.hourly} LIMIT 0").column_names  # noqa: S608 - our own name
    assert sorted(found[8:]) == sorted(sum_names())


async def test_the_first_run_takes_in_all_that_is_there(store: ClickHouseStore, database: Database) -> None:
    await database.insert(store, *(at(hour + 0.5) for hour in range(5)), at(24.5), event(at_ms=NOW_MS - 300 * DAY_MS))
    assert await store.roll_up(now_ms=NOW_MS) == 6
    assert await store.roll_up(now_ms=NOW_MS) == 0
    assert await store.roll_up(now_ms=NOW_MS + HOUR_MS) == 1


async def test_sealed_hours_do_not_need_their_events(store: ClickHouseStore, database: Database) -> None:
    await database.insert(store, *(at(hour + 0.5, user_id=f"user-{hour % 2}") for hour in range(5)))
    await store.roll_up(now_ms=NOW_MS)
    # As the retention does.
    database.client.command(f"TRUNCATE TABLE {database.events}")
    for _ in range(2):
        assert await requests(store) == 5
        assert await requests(store, scope=OneUser("user-0")) == 3
        await store.roll_up(now_ms=NOW_MS + DAY_MS)


async def test_a_late_event_counts_at_once_and_its_hour_is_done_again(
    store: ClickHouseStore, database: Database
) -> None:
    await database.insert(store, at(1.5), at(2.5))
    await store.roll_up(now_ms=NOW_MS)
    await database.insert(store, at(1.75))
    assert await requests(store) == 3
    assert await store.roll_up(now_ms=NOW_MS) == 1
    assert await requests(store) == 3


async def test_what_really_happened_takes_the_place_of_a_crash_in_another_group(
    store: ClickHouseStore, database: Database
) -> None:
    real = at(1.5, provider="second", model="b")
    await database.insert(store, crashed(real, provider="first", model="a"))
    await store.roll_up(now_ms=NOW_MS)
    await database.insert(store, real)
    for _ in range(2):
        for scope in (Everyone(), OneUser("alice")):
            found = await store.summarize(scope, since_ms=START_MS, until_ms=NOW_MS)
            assert [name for name, _ in found.providers] == ["second"]
            assert (found.totals.requests, found.totals.errors) == (1, 0)
        assert await store.roll_up(now_ms=NOW_MS) in (0, 1)


async def test_a_process_that_read_before_and_writes_after_another_changes_nothing(
    store: ClickHouseStore, database: Database
) -> None:
    real = at(1.5, provider="second")
    await database.insert(store, crashed(real, provider="first"), at(1.25))
    await store.roll_up(now_ms=NOW_MS)
    old = f"{database.hourly}_old"
    database.client.command(f"CREATE TABLE {old} ENGINE = Memory AS SELECT * FROM {database.hourly}")  # noqa: S608
    await database.insert(store, real)
    assert await store.roll_up(now_ms=NOW_MS) == 1
    database.client.command(f"INSERT INTO {database.hourly} SELECT * FROM {old}")  # noqa: S608
    database.client.command(f"TRUNCATE TABLE {database.events}")
    assert await requests(store) == await requests(store, scope=OneUser("alice")) == 2


async def test_an_hour_scope_events_may_be_gone_is_not_done_again(database: Database) -> None:
    now_ms = NOW_MS - 40 * DAY_MS
    async with database.store() as store:
        await database.insert(store, event(at_ms=now_ms - 1), event(at_ms=now_ms - 2))
        assert await store.roll_up(now_ms=now_ms + DAY_MS) == 1
        database.client.command(f"TRUNCATE TABLE {database.events}")
        await database.insert(store, event(at_ms=now_ms - 3), event(at_ms=NOW_MS - 2 * DAY_MS))
    rows = database.count(database.hourly)
    # The setting only: with it in the table, the events would be gone by the real clock.
    roller = database.store()
    roller._hourly._kept_seconds = 31 * 24 * 3600
    async with roller:
        assert await roller.roll_up(now_ms=NOW_MS) == 1
    assert database.count(database.hourly) == rows + 2


async def test_an_insert_that_takes_long_is_waited_for(database: Database) -> None:
    async with ClickHouseStore(database.connect, place=database.place) as store:
        await database.insert(store, at(1.5))
        # Its last hour ended less than an overlap ago.
        await database.insert(store, event(at_ms=NOW_MS - 1))
        assert await store.roll_up(now_ms=NOW_MS) == 1
        assert await store.roll_up(now_ms=NOW_MS + round(OVERLAP_SECONDS * 1000)) == 2, "ingested within the overlap"
        assert await requests(store) == 2


async def test_a_mark_from_the_future_hides_nothing(store: ClickHouseStore, database: Database) -> None:
    await database.insert(store, at(1.5))
    await store.roll_up(now_ms=NOW_MS)
    database.client.command(f"INSERT INTO {database.sealed} SELECT now64(3) + 86400, now64(3) + 86400")
    await database.insert(store, at(1.75), at(23.5))
    assert await requests(store) == 3
    assert await store.roll_up(now_ms=NOW_MS) == 2
    assert database.count(database.sealed) == 1
    assert await store.roll_up(now_ms=NOW_MS) == 0
    assert await requests(store) == 3


@dataclass
class Scene:
    """One example: two processes over one dataset, a plain fold beside them, and hours of its own."""

    stores: list[ClickHouseStore]
    database: Database
    start_ms: int
    plain: FakeUsageStore = field(default_factory=FakeUsageStore)
    stored: list[UsageRecord] = field(default_factory=list)
    open: list[UsageRecord] = field(default_factory=list)

    async def add(self, drawn: list[tuple[int, bool, dict[str, Any]]]) -> None:
        """Store events; of some of them only the crash, as of a service that was killed."""
        for offset, crashes, changes in drawn:
            real = event(at_ms=self.start_ms + offset, **changes)
            self.stored.append(crashed(real, provider="first") if crashes else real)
            if crashes:
                self.open.append(real)
        await self._both(self.stored[-len(drawn) :])

    async def repeat(self, which: int) -> None:
        """Store some events again, in another batch."""
        await self._both(self.stored[which % len(self.stored) :][:3] if self.stored else [])

    async def complete(self, which: int) -> None:
        """Store what became of a request that had crashed: its event was on disk after all."""
        if self.open:
            self.stored.append(self.open.pop(which % len(self.open)))
            await self._both(self.stored[-1:])

    async def roll_up(self, which: int) -> None:
        """Let one of the processes roll up at some hour."""
        await self.stores[which % 2].roll_up(now_ms=self.start_ms + which % 8 * HOUR_MS)

    async def compare(self, which: int) -> None:
        """Compare with the fold."""
        since = self.start_ms + which % 3 * HOUR_MS // 2
        edges = [since, since + which % 5 * 1000, self.start_ms + 2 * HOUR_MS, self.start_ms + 6 * HOUR_MS - which % 2]
        reader = self.stores[which % 2]
        for scope in (Everyone(), OneUser("alice")):
            window = {"since_ms": edges[0], "until_ms": edges[-1]}
            assert await reader.summarize(scope, **window) == await self.plain.summarize(scope, **window)
            assert await reader.slices(scope, edges_ms=edges) == await self.plain.slices(scope, edges_ms=edges)

    async def _both(self, events: list[UsageRecord]) -> None:
        if events:
            batch_id = str(uuid.uuid4())
            await self.stores[0].insert(events, batch_id=batch_id)
            await self.plain.insert(events, batch_id=batch_id)


_CHANGES = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(["", "alice", "bob"]),
        "model": st.sampled_from(["", "a", "b"]),
        "provider": st.sampled_from(["", "first", "second"]),
        "status": st.sampled_from([200, 500]),
        "priced": st.booleans(),
        "input_cost_nanousd": st.integers(0, 2**50),
        "total_tokens": st.integers(0, 2**32 - 1),
        "latency_ms": st.integers(0, 2**32 - 1),
    }
)
_ADD = st.lists(st.tuples(st.integers(0, 6 * HOUR_MS - 1), st.booleans(), _CHANGES), min_size=1, max_size=6)
_WHICH = st.integers(0, 1000)
_STEPS = st.lists(
    st.tuples(st.just("add"), _ADD)
    | st.tuples(st.sampled_from(["repeat", "complete", "roll_up", "roll_up", "compare"]), _WHICH),
    min_size=3,
    max_size=12,
)


@pytest.fixture
async def scenes(database: Database) -> AsyncIterator[Iterator[Scene]]:
    """Scenes one after the other: each has days of its own, which makes the one dataset as good as a fresh one."""
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(database.store()) for _ in range(2)]
        yield (Scene(stores, database, START_MS + number * 2 * DAY_MS) for number in itertools.count())


@settings(
    # Each takes most of a second.
    max_examples=settings().max_examples // 6,
    deadline=None,  # the machine is shared
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=_STEPS, last=_WHICH)
async def test_no_interleaving_changes_a_number(
    scenes: Iterator[Scene], steps: list[tuple[str, Any]], last: int
) -> None:
    scene = next(scenes)
    # Whatever was drawn, it ends with crashes that turn out otherwise once their hours are sealed.
    ends = [
        ("compare", last),
        ("roll_up", 7),
        ("complete", last),
        ("complete", last),
        ("compare", last),
        ("roll_up", 7),
    ]
    for name, argument in [*steps, *ends, ("compare", last)]:
        await getattr(scene, name)(argument)


@given(rows=st.lists(st.integers(0, 30)), events_at_once=st.integers(1, 20))
def test_chunks_hold_few_events(rows: list[int], events_at_once: int) -> None:
    numbered = list(enumerate(rows))
    found = list(chunks(numbered, events_at_once=events_at_once))
    assert list(itertools.chain(*found)) == list(range(len(rows)))
    for chunk in found:
        assert len(chunk) == 1 or sum(rows[hour] for hour in chunk) <= events_at_once


class Turns(FakeUsageStore):
    """Counts down the rollups that it takes, and then says so."""

    def __init__(self, turns: int) -> None:
        super().__init__()
        self.left = turns
        self.done = asyncio.Event()

    async def roll_up(self, *, now_ms: int) -> int:
        """Roll up, or fail."""
        self.left -= 1
        if not self.left:
            self.done.set()
        return await super().roll_up(now_ms=now_ms)


def now() -> datetime:
    return NOW


async def test_the_loop_rolls_up_at_once_and_again() -> None:
    store = Turns(3)
    async with rollup(store, clock=now, interval_seconds=0):
        await store.done.wait()
    assert store.rolled_up_at[:3] == [NOW_MS] * 3


async def test_the_loop_outlives_a_store_that_is_away() -> None:
    store = Turns(3)
    store.away = True
    with capture_logs() as logs:
        async with rollup(store, clock=now, interval_seconds=0):
            await store.done.wait()
            store.away = False
            store.done.clear()
            store.left = 1
            await store.done.wait()
    assert store.rolled_up_at
    assert logs[0]["event"] == "a background loop failed"


async def test_a_store_that_stays_away_shows_in_the_health() -> None:
    store, health = Turns(1), Health()
    store.away = True
    with capture_logs():
        async with rollup(store, clock=now, interval_seconds=0, health=health):
            await health.wait_for_change()
            assert health.failing == {"rollup"}


async def test_the_null_store_has_nothing_to_roll_up() -> None:
    assert await NullUsageStore().roll_up(now_ms=NOW_MS) == 0
    assert await NullUsageStore().slices(Everyone(), edges_ms=[0, 1, 2]) == (Sums(), Sums())
