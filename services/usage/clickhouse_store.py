"""Keeps events in ClickHouse: a server, or chDB inside this process."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

from clickhouse_connect.driver import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from common.metering.record import UsageRecord
from common.metering.units import UNITS, Units
from services.usage.columns import columns_of, values_of
from services.usage.connections import Connect, StoreRefused, one_line
from services.usage.database_threads import DatabaseThreads
from services.usage.hourly import OVERLAP_SECONDS, Hourly, open_hours
from services.usage.migrations import Place, migrate
from services.usage.queries import Queries
from services.usage.summaries import TOP, Group, OneUser, Summary, Sums, UsageScope, sum_names, sums_of_row

_WRITES_WAITING: Final = 64
_READS_WAITING: Final = 64
_READ_LIMITS: Final = {"max_execution_time": 20, "max_memory_usage": 600_000_000}

# grouping() has a bit for each column that a row does not group by, the first column's highest.
_TOTALS, _MODELS, _PATHS, _TYPES, _PROVIDERS = 0b1111, 0b0111, 0b1011, 0b1101, 0b1110


class ClickHouseStore:
    """Keeps events in the table ``place.dataset``; an async context manager.

    One thread writes, one rolls up, ``readers`` threads read; each has its own client from ``connect``. An event may be
    stored ``overlap_seconds`` after the moment that it bears as its ingestion.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        place: Place,
        readers: int = 2,
        overlap_seconds: float = OVERLAP_SECONDS,
        units: Units = UNITS,
    ) -> None:
        self._place = place
        self._columns = columns_of(units)
        self._sum_names = sum_names(units)
        self._writer = DatabaseThreads(connect, name="write", width=1, depth=_WRITES_WAITING)
        self._readers = DatabaseThreads(connect, name="read", width=readers, depth=_READS_WAITING)
        self._roller = DatabaseThreads(connect, name="rollup", width=1, depth=1)
        self._queries = Queries(place, units=units)
        self._hourly = Hourly(
            self._roller, queries=self._queries, kept_days=place.raw_days, overlap_seconds=overlap_seconds
        )

    async def __aenter__(self) -> ClickHouseStore:
        """Connect, bring the tables up to date; raises StoreRefused."""
        try:
            await self._writer.open()
            await self._writer.run(self._prepare)
            await self._readers.open()
            await self._roller.open()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let the running work end and close the clients."""
        await self._writer.close()
        await self._readers.close()
        await self._roller.close()

    async def insert(self, records: Sequence[UsageRecord], *, batch_id: str) -> None:
        """Store the records durably in one insert; a repeated batch or event changes nothing. Raises Unavailable."""
        settings = {"insert_deduplication_token": batch_id, "async_insert": 0}

        def work(client: Client) -> None:
            client.insert(
                self._place.dataset,
                values_of(records, self._columns),
                column_names=[column.name for column in self._columns],
                column_oriented=True,
                database=self._place.database,
                column_types=[column.type for column in self._columns],
                settings=settings,
            )

        await self._writer.run(work)

    async def summarize(self, scope: UsageScope, *, since_ms: int, until_ms: int) -> Summary:
        """Sum up the events from ``since_ms`` until just before ``until_ms`` (since 1970); raises Unavailable."""
        query = self._queries.summary(of_user=isinstance(scope, OneUser))
        return self._summary(await self._read(query, scope, edges_ms=(since_ms, until_ms)))

    async def slices(self, scope: UsageScope, *, edges_ms: Sequence[int]) -> tuple[Sums, ...]:
        """Sum up the events between each two of the edges, which ascend (ms since 1970); raises Unavailable."""
        query = self._queries.slices(of_user=isinstance(scope, OneUser))
        rows = await self._read(query, scope, edges_ms=edges_ms, starts=list(edges_ms[:-1]))
        found = {start: sums_of_row(sums, self._sum_names) for start, *sums in rows}
        return tuple(
            # Two equal edges have nothing between them; the sums of that start are those up to the next edge.
            found.get(start, Sums()) if start < end else Sums()
            for start, end in itertools.pairwise(edges_ms)
        )

    async def roll_up(self, *, now_ms: int) -> int:
        """Bring the hourly rows up to date; returns the number of hours recomputed. Raises Unavailable."""
        return await self._hourly.roll_up(now_ms=now_ms)

    async def _read(
        self, query: str, scope: UsageScope, *, edges_ms: Sequence[int], **parameters: Any
    ) -> Sequence[Sequence[Any]]:
        if isinstance(scope, OneUser):
            parameters["user_id"] = scope.user_id

        def work(client: Client) -> Sequence[Sequence[Any]]:
            # Asked first: an hour that gets an event in between is then read without it, never twice or not at all.
            hours = open_hours(client, queries=self._queries, edges_ms=edges_ms)
            return client.query(query, parameters=parameters | hours, settings=_READ_LIMITS).result_rows

        return await self._readers.run(work)

    def _prepare(self, client: Client) -> None:
        try:
            migrate(client, place=self._place)
        except ClickHouseError as error:
            raise StoreRefused(f"cannot prepare the database {self._place.database}: {one_line(error)}") from error

    def _summary(self, rows: Sequence[Sequence[Any]]) -> Summary:
        groups: dict[int, list[Group]] = {part: [] for part in (_TOTALS, _MODELS, _PATHS, _TYPES, _PROVIDERS)}
        for part, model, path, kind, provider, *sums in rows:
            # Only the column that a row groups by is not empty.
            groups[part].append((model or path or kind or provider, sums_of_row(sums, self._sum_names)))
        return Summary(
            totals=groups[_TOTALS][0][1] if groups[_TOTALS] else Sums(),
            models=tuple(groups[_MODELS][:TOP]),
            paths=tuple(groups[_PATHS][:TOP]),
            types=tuple(groups[_TYPES]),
            providers=tuple(groups[_PROVIDERS]),
        )
