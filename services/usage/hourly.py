"""Keeps the hourly rows up to date, and knows which hours of a window they may stand for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import structlog
from clickhouse_connect.driver import Client

from services.usage.database_threads import DatabaseThreads
from services.usage.queries import Queries

HOUR: Final = 3_600
# An insert is given up after 60 s (connections.py), and the clocks of a cluster's servers differ by less than the rest.
OVERLAP_SECONDS: Final = 300.0
"""How long before the last look an event may have been ingested that this look did not see."""
_EVENTS_AT_ONCE: Final = 250_000
_LIMITS: Final = {
    "max_execution_time": 50,
    "max_memory_usage": 600_000_000,
    "max_bytes_before_external_group_by": 200_000_000,
    "max_bytes_before_external_sort": 200_000_000,
    # An hour's rows must become visible together: larger than an hour is.
    "max_insert_threads": 1,
    "min_insert_block_size_rows": 1 << 24,
    "min_insert_block_size_bytes": 400_000_000,
}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a run recomputes, and what it may say afterwards."""

    chunks: Sequence[Sequence[int]]
    counted_until_ms: int
    sealed_before: int
    is_news: bool


class Hourly:
    """Rolls events up into hourly rows; any number of processes may do so, in any order.

    A run recomputes whole hours from the events, so it can be repeated, and it says how far the rows reach only when
    all are written. Hours are named by the seconds since 1970 at which they begin.
    """

    def __init__(self, threads: DatabaseThreads, *, queries: Queries, kept_days: int, overlap_seconds: float) -> None:
        self._threads = threads
        self._queries = queries
        self._kept_seconds = kept_days * 24 * HOUR
        self._overlap_ms = round(overlap_seconds * 1000)

    async def roll_up(self, *, now_ms: int) -> int:
        """Bring up to date the hours that ended an overlap before ``now_ms``; returns how many were recomputed.

        Raises Unavailable; what was done until then stays good.
        """
        plan = await self._threads.run(partial(self._plan, now_ms=now_ms))
        for chunk in plan.chunks:
            await self._threads.run(partial(self._recompute, hours=chunk))
        if plan.is_news:
            await self._threads.run(partial(self._advance, plan=plan))
        hours = sum(map(len, plan.chunks))
        _log.debug("rolled up", hours=hours, sealed_before=plan.sealed_before)
        return hours

    def _plan(self, client: Client, *, now_ms: int) -> _Plan:
        ((db_now_ms, counted_until_ms, was_before),) = client.query(self._queries.mark()).result_rows
        # Not sooner, or an hour would be recomputed by each run until its last events are an overlap old.
        sealed_before = (now_ms - self._overlap_ms) // 1000 // HOUR * HOUR
        parameters = {
            "sealed_before": sealed_before,
            "was_before": was_before,
            "counted_until": counted_until_ms,
            # Of an older hour, some events may be gone. Two hours cover that the database's clock is not ours.
            "kept_from": max(0, (now_ms // 1000 - self._kept_seconds) // HOUR * HOUR + 2 * HOUR),
        }
        rows = client.query(self._queries.stale_hours(), parameters=parameters, settings=_LIMITS).result_rows
        return _Plan(
            chunks=list(chunks(rows)),
            counted_until_ms=db_now_ms - self._overlap_ms,
            sealed_before=sealed_before,
            is_news=bool(rows) or sealed_before != was_before,
        )

    def _recompute(self, client: Client, *, hours: Sequence[int]) -> None:
        parameters = {
            "since": hours[0] * 1000,
            "until": (hours[-1] + HOUR) * 1000,
            "hours": _moments(hours),
        }
        client.command(self._queries.recompute(), parameters=parameters, settings=_LIMITS)

    def _advance(self, client: Client, *, plan: _Plan) -> None:
        parameters = {"counted_until": plan.counted_until_ms, "sealed_before": plan.sealed_before}
        client.command(self._queries.advance(), parameters=parameters)


def open_hours(client: Client, *, queries: Queries, edges_ms: Sequence[int]) -> dict[str, Any]:
    """Return the parameters that say which hours must be read from the events. Blocks.

    They are those in which one of ``edges_ms`` (a window's edges and those within) lies, those that are not sealed,
    and those that had events since.
    """
    parameters = {"since": edges_ms[0], "until": edges_ms[-1]}
    ((open_from, late),) = client.query(queries.late_hours(), parameters=parameters).result_rows
    cut = {edge // 1000 // HOUR * HOUR for edge in edges_ms if edge % (HOUR * 1000)}
    return {**parameters, "open_from": open_from, "open_hours": _moments(sorted(cut.union(late)))}


def _moments(hours: Iterable[int]) -> list[datetime]:
    return [datetime.fromtimestamp(hour, UTC) for hour in hours]


def chunks(rows: Sequence[Sequence[int]], *, events_at_once: int = _EVENTS_AT_ONCE) -> Iterator[list[int]]:
    """Divide (hour, events) into runs of hours that have few enough events to be recomputed at once, or one hour."""
    chunk: list[int] = []
    room = events_at_once
    for hour, events in rows:
        if chunk and events > room:
            yield chunk
            chunk, room = [], events_at_once
        chunk.append(hour)
        room -= events
    if chunk:
        yield chunk
