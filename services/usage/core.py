"""What the usage service does: stores each event once, and sums up windows for those who may see them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from common.errors import InvalidRequest, PermissionDenied
from common.principal import Kind, Principal
from services.usage.events import Event, Outcome, UsageSource, is_uuid7, milliseconds
from services.usage.store import UsageStore
from services.usage.summaries import Everyone, OneUser, Summary, Whose

EVENTS_AT_MOST: Final = 5_000
_DEFAULT_HOURS: Final = 7 * 24
_HOURS_AT_MOST: Final = 720
_DAYS_AT_MOST: Final = 30
# The clocks of two machines differ by seconds; a day means that one of them is wrong.
_AHEAD_AT_MOST: Final = timedelta(days=1)
_OUTCOMES: Final = frozenset(Outcome)
_SOURCES: Final = frozenset(UsageSource)


@dataclass(frozen=True, slots=True)
class Report:
    """A summary of the last ``hours`` before ``generated_at``; ``scope`` is "all" or "user"."""

    hours: int
    generated_at: datetime
    scope: str
    summary: Summary


class UsageCore:
    """The usage service without its transport; ``clock`` returns aware datetimes."""

    def __init__(self, store: UsageStore, *, clock: Callable[[], datetime], raw_days: int = 400) -> None:
        self._store = store
        self._clock = clock
        self._kept = timedelta(days=raw_days)

    async def record(self, events: Sequence[Event], *, batch_id: str) -> None:
        """Store a frozen batch durably, or raise InvalidRequest (nothing is stored) or Unavailable (repeat it)."""
        token = _canonical(batch_id)
        if not 1 <= len(events) <= EVENTS_AT_MOST:
            raise InvalidRequest(f"A batch has 1 to {EVENTS_AT_MOST} events.", param="events")
        now = self._clock()
        # An event from before the retention would vanish as it is stored, and its sender would think it safe.
        earliest, latest = _since_1970(now - self._kept), _since_1970(now + _AHEAD_AT_MOST)
        for index, event in enumerate(events):
            wrong = _wrong_field(event, earliest=earliest, latest=latest)
            if wrong:
                raise InvalidRequest(
                    f"events[{index}].{wrong} has a value that is not stored.", param=f"events[{index}].{wrong}"
                )
        await self._store.insert(events, batch_id=token)

    async def summarize(self, principal: Principal, *, hours: int | None, days: int | None) -> Report:
        """Sum up the last hours (or days, or 7 days) of what the caller may see.

        Raises InvalidRequest, PermissionDenied or Unavailable.
        """
        whose = visible_to(principal)
        window = _hours(hours=hours, days=days)
        now = self._clock()
        until = _since_1970(now)
        summary = await self._store.summarize(whose, since_ms=until - window * 3_600_000, until_ms=until)
        return Report(window, now, "all" if isinstance(whose, Everyone) else "user", summary)


def visible_to(principal: Principal) -> Whose:
    """Return whose usage the caller may see; raises PermissionDenied for a credential that belongs to nobody.

    NOBODY comes only when the route asks for no credential; a STATIC_KEY without a user is the usage key (see keys.py).
    """
    if principal.user_id:
        return OneUser(principal.user_id)
    if principal.kind in (Kind.NOBODY, Kind.STATIC_KEY):
        return Everyone()
    raise PermissionDenied("This credential belongs to no user.", code="user_required")


def _hours(*, hours: int | None, days: int | None) -> int:
    if hours is not None:
        if not 1 <= hours <= _HOURS_AT_MOST:
            raise InvalidRequest(f"hours must be from 1 to {_HOURS_AT_MOST}.", param="hours")
        return hours
    if days is not None:
        if not 1 <= days <= _DAYS_AT_MOST:
            raise InvalidRequest(f"days must be from 1 to {_DAYS_AT_MOST}.", param="days")
        return days * 24
    return _DEFAULT_HOURS


def _canonical(batch_id: str) -> str:
    try:
        canonical = str(uuid.UUID(batch_id))
    except ValueError:
        canonical = ""
    if not canonical or canonical != batch_id.lower():
        raise InvalidRequest("batch_id must be a UUID with hyphens.", param="batch_id")
    return canonical


def _since_1970(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _wrong_field(event: Event, *, earliest: int, latest: int) -> str:
    """Return the name of a field whose value the table cannot keep; "" when all is well."""
    event_id = event.event_id
    if not is_uuid7(event_id) or not earliest <= milliseconds(event_id) <= latest:
        return "event_id"
    if event.outcome not in _OUTCOMES:
        return "outcome"
    if event.usage_source not in _SOURCES:
        return "usage_source"
    return "status" if event.status > 999 else ""
