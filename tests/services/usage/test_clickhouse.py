"""What is ClickHouse's own: tables, migrations, tokens, failures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr

from common.errors import Unavailable
from common.metering.record import Attempt, Outcome, UsageSource
from common.metering.units import Unit
from services.usage.clickhouse_store import ClickHouseStore
from services.usage.columns import columns_of
from services.usage.connections import Connect, StoreRefused, server
from services.usage.migrations import Place, migrate
from services.usage.summaries import Everyone
from tests.services.usage.builders import HOUR_MS, NOW_MS, batch_ids, crashed, event
from tests.services.usage.clickhouse_bridge import ClickHouseBridge
from turnpike.usage.v1 import ingest_pb2


def ask(connect: Connect, query: str, *, place: Place) -> list[tuple[Any, ...]]:
    """Ask the database directly; {table} and {dataset} stand for the test's own."""
    client = connect()
    try:
        named = query.format(table=f"turnpike.{place.dataset}", dataset=place.dataset)
        return [tuple(row) for row in client.query(named).result_rows]
    finally:
        client.close()


async def requests(store: ClickHouseStore) -> int:
    return (await store.summarize(Everyone(), since_ms=NOW_MS - 24 * HOUR_MS, until_ms=NOW_MS)).totals.requests


def test_outcomes_and_sources_have_the_numbers_of_the_message() -> None:
    for ours, theirs, prefix in (
        (Outcome, ingest_pb2.Outcome, "OUTCOME_"),
        (UsageSource, ingest_pb2.UsageSource, "USAGE_SOURCE_"),
    ):
        assert {prefix + member.name: member.value for member in ours} == {
            name: number for name, number in theirs.items() if number
        }


async def test_the_types_of_an_insert_are_those_of_the_table(
    clickhouse: ClickHouseStore, connect: Connect, place: Place
) -> None:
    found = dict(ask(connect, "SELECT name, type FROM system.columns WHERE table = '{dataset}'", place=place))
    expected = {column.name: column.type.name for column in columns_of()}
    assert {name: found[name].replace(" ", "") for name in expected} == {
        name: kind.replace(" ", "") for name, kind in expected.items()
    }
    assert set(found) - set(expected) == {"ts", "settled", "ingested_at"}


async def test_every_field_is_stored_as_it_came(clickhouse: ClickHouseStore, connect: Connect, place: Place) -> None:
    counts: dict[str, Any] = {str(unit): 2**32 - 1 - number for number, unit in enumerate(Unit)}
    odd: dict[str, Any] = {"max_tokens": 0, "temperature": None, "top_p": 0.25, "error_code": "ü\0'"}
    odd["attempts"] = [Attempt("openai", "small", 503, 70, may_be_billed=True), Attempt("mistral")]
    one = event(**odd, **counts, bytes_in=2**32 - 1, bytes_out=2**64 - 1)
    await clickhouse.insert([one], batch_id=next(batch_ids()))
    columns = columns_of()
    names = ", ".join(column.name for column in columns)
    query = f"SELECT toUnixTimestamp64Milli(ts), {names} FROM {{table}}"  # noqa: S608 - our own names
    (row,) = ask(connect, query, place=place)
    found = dict(zip(["ts", *(column.name for column in columns)], row, strict=True))
    wanted = {column.name: column.read(one) for column in columns}
    wanted |= {"ts": NOW_MS - HOUR_MS // 2, "event_id": UUID(bytes=one.event_id)}
    wanted |= {"outcome": "completed", "usage_source": "provider"}
    assert found == wanted


async def test_migrations_run_once_for_each_dataset(connect: Connect, place: Place) -> None:
    client = connect()
    try:
        assert migrate(client, place=place) == [1, 2, 3]
        assert migrate(client, place=place) == []
        assert migrate(client, place=replace(place, dataset=place.dataset + "_b")) == [1, 2, 3]
    finally:
        client.close()


async def test_a_second_start_keeps_what_the_first_stored(connect: Connect, place: Place) -> None:
    ids = batch_ids()
    batch, batch_id = [event(), event()], next(ids)
    async with ClickHouseStore(connect, place=place) as store:
        await store.insert(batch, batch_id=batch_id)
    async with ClickHouseStore(connect, place=place, readers=1) as store:
        await store.insert(batch, batch_id=batch_id)
        await store.insert([event()], batch_id=next(ids))
        assert await requests(store) == 3


async def test_the_retention_follows_the_setting(connect: Connect, place: Place) -> None:
    ids = batch_ids()
    for days in (500, 700, 700):
        async with ClickHouseStore(connect, place=replace(place, raw_days=days)) as store:
            await store.insert([event()], batch_id=next(ids))
        ((made,),) = ask(connect, "SELECT create_table_query FROM system.tables WHERE name = '{dataset}'", place=place)
        assert f"TTL toDateTime(ts) + toIntervalDay({days})" in made
        for name in ("fsync_after_insert", "fsync_part_directory", "min_rows_to_fsync_after_merge"):
            assert f"{name} = 1" in made


async def test_a_token_keeps_a_repeated_batch_from_being_written(
    clickhouse: ClickHouseStore, connect: Connect, place: Place
) -> None:
    batch, batch_id = [event(), event(at_ms=NOW_MS - 60 * 24 * HOUR_MS)], next(batch_ids())
    for _ in range(3):
        await clickhouse.insert(batch, batch_id=batch_id)
    assert ask(connect, "SELECT count() FROM {table}", place=place) == [(2,)]


async def test_merges_keep_what_really_happened(clickhouse: ClickHouseStore, connect: Connect, place: Place) -> None:
    ids = batch_ids()
    real = event()
    for one in (real, crashed(real)):
        await clickhouse.insert([one], batch_id=next(ids))
    client = connect()
    client.command(f"OPTIMIZE TABLE turnpike.{place.dataset} FINAL")
    client.close()
    assert ask(connect, "SELECT outcome, total_tokens FROM {table}", place=place) == [("completed", 40)]


async def test_an_insert_says_what_makes_it_safe_and_asks_nothing(bridge: ClickHouseBridge, place: Place) -> None:
    async with ClickHouseStore(server(SecretStr(bridge.url)), place=place) as store:
        asked, inserted = len(bridge.queries), len(bridge.inserts)
        await store.insert([event()], batch_id="an-id")
        assert len(bridge.queries) == asked
        (sent,) = bridge.inserts[inserted:]
    assert (sent["insert_deduplication_token"], sent["async_insert"]) == ("an-id", "0")


async def test_a_lost_answer_makes_no_second_event(bridge: ClickHouseBridge, place: Place) -> None:
    connect = server(SecretStr(bridge.url))
    async with ClickHouseStore(connect, place=place) as store:
        inserted = len(bridge.inserts)
        bridge.lost_answers = 1
        await store.insert([event(), event()], batch_id=next(batch_ids()))
        assert len(bridge.inserts) == inserted + 2, "the client repeats the insert by itself"
        assert ask(connect, "SELECT count() FROM {table}", place=place) == [(2,)]


async def test_a_server_that_went_away_is_unavailable_until_it_is_back(bridge: ClickHouseBridge, place: Place) -> None:
    batch, batch_id = [event()], next(batch_ids())
    async with ClickHouseStore(server(SecretStr(bridge.url)), place=place) as store:
        bridge.away = True
        try:
            with pytest.raises(Unavailable):
                await store.insert(batch, batch_id=batch_id)
            with pytest.raises(Unavailable):
                await requests(store)
        finally:
            bridge.away = False
        await store.insert(batch, batch_id=batch_id)
        assert await requests(store) == 1


async def test_a_wrong_password_is_one_line_without_it(bridge: ClickHouseBridge, place: Place) -> None:
    url = bridge.url.replace("p%40ss", "wrong-secret")
    with pytest.raises(StoreRefused) as refused:
        async with ClickHouseStore(server(SecretStr(url)), place=place):
            pass
    assert str(refused.value).startswith("CLICKHOUSE_URL: ")
    assert "AUTHENTICATION_FAILED" in str(refused.value)
    assert "wrong-secret" not in str(refused.value)
    assert "\n" not in str(refused.value)
