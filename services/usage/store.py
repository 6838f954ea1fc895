"""What the usage service asks of its store, and the two stores without a database."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Protocol

from common.errors import Unavailable
from services.usage.events import Event, Outcome, milliseconds
from services.usage.summaries import GROUPS_AT_MOST, TOP, Group, OneUser, Summary, Sums, Whose


class UsageStore(Protocol):
    """Keeps events, each once."""

    async def insert(self, events: Sequence[Event], *, batch_id: str) -> None:
        """Store the events durably; a repeated batch or event changes nothing. Raises Unavailable."""

    async def summarize(self, whose: Whose, *, since_ms: int, until_ms: int) -> Summary:
        """Sum up the events from ``since_ms`` until just before ``until_ms`` (since 1970); raises Unavailable."""

    async def slices(self, whose: Whose, *, edges_ms: Sequence[int]) -> tuple[Sums, ...]:
        """Sum up the events between each two of the edges, which ascend (ms since 1970); raises Unavailable."""

    async def roll_up(self, *, now_ms: int) -> int:
        """Do beforehand what makes reading quick; returns the number of hours redone. Raises Unavailable."""


class NullUsageStore:
    """Forgets everything."""

    async def insert(self, events: Sequence[Event], *, batch_id: str) -> None:
        """Forget the events."""

    async def summarize(self, whose: Whose, *, since_ms: int, until_ms: int) -> Summary:
        """Return the empty summary."""
        return Summary()

    async def slices(self, whose: Whose, *, edges_ms: Sequence[int]) -> tuple[Sums, ...]:
        """Return empty sums."""
        return (Sums(),) * (len(edges_ms) - 1)

    async def roll_up(self, *, now_ms: int) -> int:
        """Do nothing."""
        return 0


class FakeUsageStore:
    """Keeps events in memory, for tests; while ``away`` is True it raises Unavailable."""

    def __init__(self) -> None:
        self.events: dict[bytes, Event] = {}
        self.batches: list[str] = []
        self.rolled_up_at: list[int] = []
        self.away = False

    async def insert(self, events: Sequence[Event], *, batch_id: str) -> None:
        """Keep the events; one that crashed never replaces one that ended."""
        self._check()
        if batch_id in self.batches:
            return
        self.batches.append(batch_id)
        for event in events:
            known = self.events.get(event.event_id)
            if known is None or event.outcome != Outcome.CRASHED or known.outcome == Outcome.CRASHED:
                self.events[event.event_id] = event

    async def summarize(self, whose: Whose, *, since_ms: int, until_ms: int) -> Summary:
        """Sum up what was kept."""
        chosen = self._chosen(whose, since_ms=since_ms, until_ms=until_ms)
        return Summary(
            totals=_fold(chosen),
            models=_groups(chosen, "model")[:TOP],
            paths=_groups(chosen, "path")[:TOP],
            types=_groups(chosen, "type")[:GROUPS_AT_MOST],
            providers=_groups(chosen, "provider")[:GROUPS_AT_MOST],
        )

    async def slices(self, whose: Whose, *, edges_ms: Sequence[int]) -> tuple[Sums, ...]:
        """Sum up what was kept."""
        return tuple(
            _fold(self._chosen(whose, since_ms=since_ms, until_ms=until_ms))
            for since_ms, until_ms in itertools.pairwise(edges_ms)
        )

    async def roll_up(self, *, now_ms: int) -> int:
        """Note the moment: there is nothing to do."""
        self._check()
        self.rolled_up_at.append(now_ms)
        return 0

    def _chosen(self, whose: Whose, *, since_ms: int, until_ms: int) -> list[Event]:
        self._check()
        chosen = [event for event in self.events.values() if since_ms <= milliseconds(event.event_id) < until_ms]
        if isinstance(whose, OneUser):
            chosen = [event for event in chosen if event.user_id == whose.user_id]
        return chosen

    def _check(self) -> None:
        if self.away:
            raise Unavailable("The usage store is not available; try again.", code="usage_store_unavailable")


def _groups(events: Sequence[Event], field: str) -> tuple[Group, ...]:
    names = {getattr(event, field) for event in events}
    groups = [(name, _fold(event for event in events if getattr(event, field) == name)) for name in names]
    return tuple(sorted(groups, key=lambda group: (-group[1].requests, group[0])))


def _fold(events: Iterable[Event]) -> Sums:
    chosen = list(events)
    timed = [event for event in chosen if event.outcome != Outcome.CRASHED]
    return Sums(
        requests=len(chosen),
        errors=sum(e.status >= 400 or e.outcome != Outcome.COMPLETED for e in chosen),
        input_tokens=sum(e.uncached_input_tokens + e.cache_read_tokens + e.cache_write_tokens for e in chosen),
        output_tokens=sum(e.text_output_tokens + e.reasoning_tokens for e in chosen),
        total_tokens=sum(e.total_tokens for e in chosen),
        cached_tokens=sum(e.cache_read_tokens for e in chosen),
        reasoning_tokens=sum(e.reasoning_tokens for e in chosen),
        ocr_pages=sum(e.ocr_pages for e in chosen),
        input_cost_nanousd=sum(e.input_cost_nanousd for e in chosen),
        output_cost_nanousd=sum(e.output_cost_nanousd for e in chosen),
        ocr_cost_nanousd=sum(e.ocr_cost_nanousd for e in chosen),
        unpriced_requests=sum(not e.priced and _used_something(e) for e in chosen),
        timed_requests=len(timed),
        latency_ms=sum(e.latency_ms for e in timed),
    )


def _used_something(event: Event) -> bool:
    return any(event[Event._fields.index("uncached_input_tokens") : Event._fields.index("images") + 1])
