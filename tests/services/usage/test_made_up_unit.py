"""A new unit needs a row of the table of units and a migration: its columns and sums follow."""

from __future__ import annotations

import pytest

from common.metering.units import Unit
from services.usage.clickhouse_store import ClickHouseStore
from services.usage.connections import Connect
from services.usage.migrations import Place, migrate
from services.usage.summaries import Everyone, sum_names
from tests.common.metering.made_up_unit import AUDIO, WITH_AUDIO
from tests.services.usage.builders import HOUR_MS, NOW_MS, batch_ids, event


@pytest.fixture
def migrated(connect: Connect, place: Place) -> Connect:
    """A database with the columns that the unit's migration would add."""
    client = connect()
    migrate(client, place=place)
    table = f"turnpike.{place.dataset}"
    client.command(f"ALTER TABLE {table} ADD COLUMN audio_seconds UInt32")
    client.command(f"ALTER TABLE {table}_hourly ADD COLUMN audio_seconds_heard UInt64")
    client.close()
    return connect


async def test_a_new_unit_is_stored_and_summed_up_from_events_and_from_hours(migrated: Connect, place: Place) -> None:
    async with ClickHouseStore(migrated, place=place, overlap_seconds=0, units=WITH_AUDIO) as store:
        heard = [
            event(at_ms=NOW_MS - 3 * HOUR_MS, quantities={AUDIO: 7}, total_tokens=0, priced=False),
            event(at_ms=NOW_MS - 3 * HOUR_MS, quantities={AUDIO: 5, Unit.CACHE_READ: 1}),
            event(),
        ]
        await store.insert(heard, batch_id=next(batch_ids()))
        for _ in range(2):
            found = await store.summarize(Everyone(), since_ms=NOW_MS - 4 * HOUR_MS, until_ms=NOW_MS)
            assert found.totals.quantities["audio_seconds_heard"] == 12
            assert found.totals.quantities["cached_tokens"] == 4
            assert found.totals.unpriced_requests == 1
            await store.roll_up(now_ms=NOW_MS)


def test_a_new_public_sum_has_a_name() -> None:
    assert set(sum_names(WITH_AUDIO)) - set(sum_names()) == {"audio_seconds_heard"}
