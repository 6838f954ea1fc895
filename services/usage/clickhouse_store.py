"""Keeps events in ClickHouse: a server, or chDB inside this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from clickhouse_connect.datatypes.registry import get_from_name
from clickhouse_connect.driver import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from services.usage.columns import column_types
from services.usage.connections import Connect, StoreRefused, one_line
from services.usage.events import Event
from services.usage.lanes import Lane
from services.usage.migrations import Place, migrate
from services.usage.store import GROUPS_AT_MOST
from services.usage.summaries import TOP, Group, OneUser, Summary, Sums, Whose

_WRITES_WAITING: Final = 64
_READS_WAITING: Final = 64
_READ_LIMITS: Final = {"max_execution_time": 20, "max_memory_usage": 600_000_000}

# In the order of the fields of Sums. Sums over UInt32 are UInt64, so they do not overflow.
_SUMS: Final = """
  count() AS requests,
  countIf(status >= 400 OR outcome != 'completed'),
  sum(uncached_input_tokens) + sum(cache_read_tokens) + sum(cache_write_tokens),
  sum(text_output_tokens) + sum(reasoning_tokens),
  sum(total_tokens), sum(cache_read_tokens), sum(reasoning_tokens), sum(ocr_pages),
  sum(input_cost_nanousd), sum(output_cost_nanousd), sum(ocr_cost_nanousd),
  countIf(NOT priced AND (uncached_input_tokens > 0 OR cache_read_tokens > 0 OR cache_write_tokens > 0
    OR text_output_tokens > 0 OR reasoning_tokens > 0 OR total_tokens > 0 OR ocr_pages > 0 OR images > 0)),
  sum(settled), sumIf(latency_ms, settled = 1)
"""
# grouping() has a bit for each column that a row does not group by, the first column's highest.
_TOTALS, _MODELS, _PATHS, _TYPES, _PROVIDERS = 0b1111, 0b0111, 0b1011, 0b1101, 0b1110


class ClickHouseStore:
    """Keeps events in the table ``place.dataset``; an async context manager.

    One thread writes, ``readers`` threads read; each has its own client from ``connect``.
    """

    def __init__(self, connect: Connect, *, place: Place, readers: int = 2) -> None:
        self._place = place
        self._types = column_types()
        self._writer = Lane(connect, name="write", width=1, depth=_WRITES_WAITING)
        self._readers = Lane(connect, name="read", width=readers, depth=_READS_WAITING)
        self._summary = _summary_query(place, condition="")
        self._summary_of_user = _summary_query(place, condition="AND user_id = {user_id:String}")

    async def __aenter__(self) -> ClickHouseStore:
        """Connect, bring the tables up to date and warm up; raises StoreRefused."""
        try:
            await self._writer.open()
            await self._writer.run(self._prepare)
            await self._readers.open()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let the running work end and close the clients."""
        await self._writer.close()
        await self._readers.close()

    async def insert(self, events: Sequence[Event], *, batch_id: str) -> None:
        """Store the events durably in one insert; a repeated batch or event changes nothing. Raises Unavailable."""
        settings = {"insert_deduplication_token": batch_id, "async_insert": 0}

        def work(client: Client) -> None:
            client.insert(
                self._place.dataset,
                events,
                column_names=Event._fields,
                database=self._place.database,
                column_types=self._types,
                settings=settings,
            )

        await self._writer.run(work)

    async def summarize(self, whose: Whose, *, since_ms: int, until_ms: int) -> Summary:
        """Sum up the events from ``since_ms`` until just before ``until_ms`` (since 1970); raises Unavailable."""
        query = self._summary
        parameters: dict[str, Any] = {"since": since_ms, "until": until_ms}
        if isinstance(whose, OneUser):
            query = self._summary_of_user
            parameters["user_id"] = whose.user_id
        rows = await self._readers.run(
            lambda client: client.query(query, parameters=parameters, settings=_READ_LIMITS).result_rows
        )
        return _summary(rows)

    def _prepare(self, client: Client) -> None:
        try:
            migrate(client, place=self._place)
        except ClickHouseError as error:
            raise StoreRefused(f"cannot prepare the database {self._place.database}: {one_line(error)}") from error
        # The first insert of a process imports pandas, which takes up to a second: do it now, without inserting.
        client.create_insert_context("warm_up", column_names=["n"], column_types=[get_from_name("UInt8")], data=[(1,)])


def _summary_query(place: Place, *, condition: str) -> str:
    # The names come from the settings, which allow identifiers only; values go in as parameters.
    return f"""
SELECT grouping(model, path, type, provider) AS part, model, path, type, provider, {_SUMS}
FROM `{place.database}`.`{place.dataset}` FINAL
WHERE ts >= fromUnixTimestamp64Milli({{since:Int64}}, 'UTC') AND ts < fromUnixTimestamp64Milli({{until:Int64}}, 'UTC')
  {condition}
GROUP BY GROUPING SETS ((), (model), (path), (type), (provider))
ORDER BY part, requests DESC, model, path, type, provider
LIMIT {GROUPS_AT_MOST} BY part
"""  # noqa: S608


def _summary(rows: Sequence[Sequence[Any]]) -> Summary:
    groups: dict[int, list[Group]] = {part: [] for part in (_TOTALS, _MODELS, _PATHS, _TYPES, _PROVIDERS)}
    for part, model, path, kind, provider, *sums in rows:
        # Only the column that a row groups by is not empty.
        groups[part].append((model or path or kind or provider, Sums(*sums)))
    return Summary(
        totals=groups[_TOTALS][0][1] if groups[_TOTALS] else Sums(),
        models=tuple(groups[_MODELS][:TOP]),
        paths=tuple(groups[_PATHS][:TOP]),
        types=tuple(groups[_TYPES]),
        providers=tuple(groups[_PROVIDERS]),
    )
