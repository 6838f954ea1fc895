"""What the usage service does: stores each event once, and sums up windows for those who may see them."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from common.errors import InvalidRequest, PermissionDenied
from common.identity.principal import Kind, Principal
from common.metering.record import UsageRecord
from common.metering.uuid7 import is_uuid7, milliseconds
from services.usage.store import UsageStore
from services.usage.summaries import Everyone, OneUser, Summary, Sums, UsageScope

EVENTS_AT_MOST: Final = 5_000
_DEFAULT_DAYS: Final = 7
_HOURS_AT_MOST: Final = 720
_DAYS_AT_MOST: Final = 30
# The clocks of two machines differ by seconds; a day means that one of them is wrong.
_AHEAD_AT_MOST: Final = timedelta(days=1)
_WINDOWS: Final = (
    ("10m", timedelta(minutes=10)),
    ("1h", timedelta(hours=1)),
    ("6h", timedelta(hours=6)),
    ("24h", timedelta(hours=24)),
    ("7d", timedelta(days=7)),
)
_STATUS_AT_MOST: Final = 999
_UINT32_MAX: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Report:
    """A summary of the last ``hours`` before ``generated_at``; ``scope`` is "all" or "user"."""

    hours: int
    generated_at: datetime
    scope: str
    summary: Summary


@dataclass(frozen=True, slots=True)
class Days:
    """UTC days, oldest first, none left out; the last one is today until ``generated_at``."""

    generated_at: datetime
    scope: str
    days: tuple[tuple[date, Sums], ...]


@dataclass(frozen=True, slots=True)
class Windows:
    """Named windows that end at ``generated_at``, shortest first."""

    generated_at: datetime
    scope: str
    windows: tuple[tuple[str, Sums], ...]


class UsageCore:
    """The usage service without its transport; ``clock`` returns aware datetimes."""

    def __init__(self, store: UsageStore, *, clock: Callable[[], datetime], raw_days: int = 400) -> None:
        self._store = store
        self._clock = clock
        self._kept = timedelta(days=raw_days)

    async def record(self, records: Sequence[UsageRecord], *, batch_id: str) -> None:
        """Store a frozen batch durably, or raise InvalidRequest (nothing is stored) or Unavailable (repeat it)."""
        token = _canonical(batch_id)
        if not 1 <= len(records) <= EVENTS_AT_MOST:
            raise InvalidRequest(f"A batch has 1 to {EVENTS_AT_MOST} events.", param="events")
        now = self._clock()
        # An event from before the retention would vanish as it is stored, and its sender would think it safe.
        earliest, latest = since_1970(now - self._kept), since_1970(now + _AHEAD_AT_MOST)
        for index, record in enumerate(records):
            wrong = _wrong_field(record, earliest=earliest, latest=latest)
            if wrong:
                raise InvalidRequest(
                    f"events[{index}].{wrong} has a value that is not stored.", param=f"events[{index}].{wrong}"
                )
        await self._store.insert(records, batch_id=token)

    async def summarize(self, principal: Principal, *, hours: int | None, days: int | None) -> Report:
        """Sum up the last hours (or days, or 7 days) of what the caller may see.

        Raises InvalidRequest, PermissionDenied or Unavailable.
        """
        scope = visible_to(principal)
        window = _hours(hours=hours, days=days)
        now = self._clock()
        until = since_1970(now)
        summary = await self._store.summarize(scope, since_ms=until - window * 3_600_000, until_ms=until)
        return Report(window, now, _scope(scope), summary)

    async def daily(self, principal: Principal, *, days: int | None) -> Days:
        """Sum up each of the last UTC days (7 by default, today included) of what the caller may see.

        Raises InvalidRequest, PermissionDenied or Unavailable.
        """
        scope = visible_to(principal)
        count = _DEFAULT_DAYS if days is None else _checked_days(days)
        now = self._clock()
        today = now.astimezone(UTC).date()
        dates = [today - timedelta(days=ago) for ago in reversed(range(count))]
        starts = [since_1970(datetime.combine(day, time(), UTC)) for day in dates]
        sums = await self._store.slices(scope, edges_ms=[*starts, since_1970(now)])
        return Days(now, _scope(scope), tuple(zip(dates, sums, strict=True)))

    async def rollups(self, principal: Principal) -> Windows:
        """Sum up the preset windows of what the caller may see; raises PermissionDenied or Unavailable."""
        scope = visible_to(principal)
        now = self._clock()
        edges = [*(since_1970(now - length) for _, length in reversed(_WINDOWS)), since_1970(now)]
        slices = await self._store.slices(scope, edges_ms=edges)
        # Each window holds the shorter ones.
        sums = itertools.accumulate(reversed(slices))
        named = zip((name for name, _ in _WINDOWS), sums, strict=True)
        return Windows(now, _scope(scope), tuple(named))


def visible_to(principal: Principal) -> UsageScope:
    """Return whose usage the caller may see; raises PermissionDenied for a credential that belongs to nobody.

    NOBODY comes only when the route asks for no credential; a STATIC_KEY without a user is the usage key (see keys.py).
    """
    if principal.user_id:
        return OneUser(principal.user_id)
    if principal.kind in (Kind.NOBODY, Kind.STATIC_KEY):
        return Everyone()
    raise PermissionDenied("This credential belongs to no user.", code="user_required")


def _scope(scope: UsageScope) -> str:
    return "all" if isinstance(scope, Everyone) else "user"


def _hours(*, hours: int | None, days: int | None) -> int:
    if hours is not None:
        if not 1 <= hours <= _HOURS_AT_MOST:
            raise InvalidRequest(f"hours must be from 1 to {_HOURS_AT_MOST}.", param="hours")
        return hours
    if days is not None:
        return _checked_days(days) * 24
    return _DEFAULT_DAYS * 24


def _checked_days(days: int) -> int:
    if not 1 <= days <= _DAYS_AT_MOST:
        raise InvalidRequest(f"days must be from 1 to {_DAYS_AT_MOST}.", param="days")
    return days


def _canonical(batch_id: str) -> str:
    try:
        canonical = str(uuid.UUID(batch_id))
    except ValueError:
        canonical = ""
    if not canonical or canonical != batch_id.lower():
        raise InvalidRequest("batch_id must be a UUID with hyphens.", param="batch_id")
    return canonical


def since_1970(moment: datetime) -> int:
    """Return the milliseconds since 1970 of an aware datetime."""
    return round(moment.timestamp() * 1000)


def _wrong_field(record: UsageRecord, *, earliest: int, latest: int) -> str:
    """Return the name of a field whose value the table cannot keep; "" when all is well."""
    event_id = record.event_id
    if not is_uuid7(event_id) or not earliest <= milliseconds(event_id) <= latest:
        return "event_id"
    if record.outcome is None:
        return "outcome"
    if record.usage_source is None:
        return "usage_source"
    if record.status > _STATUS_AT_MOST:
        return "status"
    if any(attempt.status > _STATUS_AT_MOST for attempt in record.attempts):
        return "attempts"
    return next((f"quantities.{unit}" for unit, count in record.quantities.items() if count > _UINT32_MAX), "")
