"""The SQL of reading and of rolling up: what is sealed comes from the hourly rows, what is open from the events.

Names come from the settings, which allow identifiers only; values go in as parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from common.metering.units import UNITS, Cost, Units, sums_of
from services.usage.migrations import Place
from services.usage.summaries import GROUPS_AT_MOST, sum_names

_DIMENSIONS: Final = ("model", "path", "type", "provider")
_OPEN: Final = "{open_hours:Array(DateTime('UTC'))}"
_OPEN_FROM: Final = "toDateTime64({open_from:Int64}, 0, 'UTC')"


def _moment(milliseconds: str) -> str:
    return f"fromUnixTimestamp64Milli({{{milliseconds}:Int64}}, 'UTC')"


def _hour(seconds: str) -> str:
    return f"toDateTime64({{{seconds}:Int64}}, 0, 'UTC')"


def event_sums(units: Units = UNITS) -> str:
    """Return the columns that sum up events (as ``e``) into the fields of Sums."""
    # Sums over UInt32 are UInt64, so they do not overflow.
    used = " OR ".join(f"e.{name} > 0" for name in (*units, "total_tokens"))
    expressions = {
        "requests": "count()",
        "errors": "countIf(e.status >= 400 OR e.outcome != 'completed')",
        "total_tokens": "sum(e.total_tokens)",
        "unpriced_requests": f"countIf(NOT e.priced AND ({used}))",
        "timed_requests": "sum(e.settled)",
        "latency_ms": "sumIf(e.latency_ms, e.settled = 1)",
        **{name: " + ".join(f"sum(e.{unit})" for unit in members) for name, members in sums_of(units).items()},
        **{str(cost): f"sum(e.{cost})" for cost in Cost},
    }
    return ", ".join(f"{expressions[name]} AS {name}" for name in sum_names(units))


class Queries:
    """The statements for the tables of one place."""

    def __init__(self, place: Place, *, units: Units = UNITS) -> None:
        self._names = sum_names(units)
        self._event_sums = event_sums(units)
        self._sums_of_sums = ", ".join(f"sum(s.{name}) AS {name}" for name in self._names)
        self._events = f"`{place.database}`.`{place.dataset}`"
        self._hourly = f"`{place.database}`.`{place.dataset}_hourly`"
        self._sealed = f"`{place.database}`.`{place.dataset}_sealed`"

    def mark(self) -> str:
        """Ask for the database's time in ms, and how far the hourly rows reach: ms of ingestion, and an hour."""
        return f"""
WITH {self._reach()} AS reach
SELECT toUnixTimestamp64Milli(now64(3)), toUnixTimestamp64Milli(reach.1), toUnixTimestamp(reach.2)"""

    def advance(self) -> str:
        """Say that the hourly rows reach to {counted_until} and {sealed_before}."""
        return f"""
INSERT INTO {self._sealed} (counted_until, sealed_before)
SELECT {_moment("counted_until")}, {_hour("sealed_before")}"""

    def late_hours(self) -> str:
        """Ask for the first hour that is not sealed, and for sealed ones in {since}..{until} that had events since."""
        return f"""
WITH {self._reach()} AS reach
SELECT toUnixTimestamp(reach.2), groupUniqArray(toUnixTimestamp(toStartOfHour(ts)))
FROM {self._events}
WHERE ingested_at >= reach.1 AND {_within("ts")} AND ts < reach.2"""  # noqa: S608

    def _reach(self) -> str:
        # Written while the database's clock was ahead, it would hide for as long what came since. Without a row: 1970.
        return f"""(
  SELECT (max(counted_until), max(sealed_before)) FROM {self._sealed} FINAL WHERE counted_until <= now64(3))"""  # noqa: S608

    def stale_hours(self) -> str:
        """Ask for the hours that {sealed_before} takes in and hourly rows lack, or have old ones of, and their rows."""
        within = f"ts >= {_hour('kept_from')} AND ts < {_hour('sealed_before')}"
        return f"""
SELECT toUnixTimestamp(toStartOfHour(ts)) AS hour, count()
FROM {self._events}
WHERE {within} AND toStartOfHour(ts) IN (
  SELECT toStartOfHour(ts) FROM {self._events} WHERE {within} AND ingested_at >= {_moment("counted_until")}
  UNION DISTINCT
  SELECT toStartOfHour(ts) FROM {self._events} WHERE {within} AND ts >= {_hour("was_before")})
GROUP BY hour ORDER BY hour"""  # noqa: S608

    def recompute(self) -> str:
        """Write the hourly rows of {hours}, all of which are in {since}..{until}.

        The generation is computed from the same rows as the sums, so that they cannot belong to different moments.
        """
        names = ", ".join(self._names)
        return f"""
INSERT INTO {self._hourly} (everyone, user_id, hour, provider, model, path, type, generation, {names})
SELECT everyone, user_id, hour, provider, model, path, type,
  sum(requests + timed_requests) OVER (PARTITION BY everyone, hour), {names}
FROM (
  SELECT grouping(e.user_id) = 1 AS everyone, e.user_id AS user_id, toStartOfHour(e.ts) AS hour,
    e.provider AS provider, e.model AS model, e.path AS path, e.type AS type, {self._event_sums}
  FROM {self._events} AS e FINAL
  WHERE {_within("e.ts")} AND toStartOfHour(e.ts) IN {{hours:Array(DateTime('UTC'))}}
  GROUP BY GROUPING SETS ((hour, provider, model, path, type), (hour, user_id, provider, model, path, type)))"""  # noqa: S608

    def summary(self, *, of_user: bool) -> str:
        """Sum up {since}..{until} in all, and by model, path, type and provider; ``part`` tells them apart.

        {open_hours} and what is not before {open_from} are read from the events.
        """
        columns = ", ".join(_DIMENSIONS)
        rows = self._rows({name: (name, f"e.{name}") for name in _DIMENSIONS}, of_user=of_user)
        return f"""
SELECT grouping({columns}) AS part, {columns}, {self._sums_of_sums}
FROM ({rows}) AS s
GROUP BY GROUPING SETS ((), {", ".join(f"({name})" for name in _DIMENSIONS)})
ORDER BY part, requests DESC, {columns}
LIMIT {GROUPS_AT_MOST} BY part"""  # noqa: S608

    def slices(self, *, of_user: bool) -> str:
        """Sum up each slice of {since}..{until} that begins at one of {starts}; else as above."""
        slice_of = "roundDown({at}, {{starts:Array(Int64)}})"
        hour = slice_of.format(at="toInt64(toUnixTimestamp(hour)) * 1000")
        event = slice_of.format(at="toUnixTimestamp64Milli(e.ts)")
        rows = self._rows({"start": (hour, event)}, of_user=of_user)
        return f"SELECT start, {self._sums_of_sums} FROM ({rows}) AS s GROUP BY start"  # noqa: S608

    def _rows(self, by: Mapping[str, tuple[str, str]], *, of_user: bool) -> str:
        """Read sealed hours and the events of open ones; ``by`` names columns, and says what they are in either."""
        scope = "NOT everyone AND user_id = {user_id:String}" if of_user else "everyone"
        # A user's latest generation of an hour is the hour's: recomputing an hour writes the rows of all its users.
        return f"""
SELECT {", ".join(f"{hour} AS {name}" for name, (hour, _) in by.items())}, {", ".join(self._names)}
FROM (
  SELECT *, max(generation) OVER (PARTITION BY hour) AS latest FROM {self._hourly} FINAL
  WHERE {scope} AND {_within("hour")} AND hour < {_OPEN_FROM} AND hour NOT IN {_OPEN})
WHERE generation = latest
UNION ALL
SELECT {", ".join(f"{event} AS {name}" for name, (_, event) in by.items())}, {self._event_sums}
FROM {self._events} AS e FINAL
WHERE {_within("e.ts")} AND (e.ts >= {_OPEN_FROM} OR toStartOfHour(e.ts) IN {_OPEN})
  {"AND e.user_id = {user_id:String}" if of_user else ""}
GROUP BY {", ".join(by)}"""  # noqa: S608


def _within(column: str) -> str:
    return f"{column} >= {_moment('since')} AND {column} < {_moment('until')}"
