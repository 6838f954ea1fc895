"""A usage store that is a plain fold over what it was given."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from common.errors import Unavailable
from common.metering.record import Outcome, UsageRecord
from common.metering.units import Cost, sums_of
from common.metering.uuid7 import milliseconds
from services.usage.summaries import GROUPS_AT_MOST, TOP, Group, OneUser, Summary, Sums, UsageScope, sums_by_name


class FakeUsageStore:
    """Keeps events in memory; while ``away`` is True it raises Unavailable."""

    def __init__(self) -> None:
        self.events: dict[bytes, UsageRecord] = {}
        self.batches: list[str] = []
        self.rolled_up_at: list[int] = []
        self.away = False

    async def insert(self, records: Sequence[UsageRecord], *, batch_id: str) -> None:
        """Keep the events; one that crashed never replaces one that ended."""
        self._check()
        if batch_id in self.batches:
            return
        self.batches.append(batch_id)
        for event in records:
            known = self.events.get(event.event_id)
            if known is None or event.outcome != Outcome.CRASHED or known.outcome == Outcome.CRASHED:
                self.events[event.event_id] = event

    async def summarize(self, scope: UsageScope, *, since_ms: int, until_ms: int) -> Summary:
        """Sum up what was kept."""
        chosen = self._chosen(scope, since_ms=since_ms, until_ms=until_ms)
        return Summary(
            totals=_fold(chosen),
            models=_groups(chosen, "model")[:TOP],
            paths=_groups(chosen, "path")[:TOP],
            types=_groups(chosen, "type")[:GROUPS_AT_MOST],
            providers=_groups(chosen, "provider")[:GROUPS_AT_MOST],
        )

    async def slices(self, scope: UsageScope, *, edges_ms: Sequence[int]) -> tuple[Sums, ...]:
        """Sum up what was kept."""
        return tuple(
            _fold(self._chosen(scope, since_ms=since_ms, until_ms=until_ms))
            for since_ms, until_ms in itertools.pairwise(edges_ms)
        )

    async def roll_up(self, *, now_ms: int) -> int:
        """Note the moment: there is nothing to do."""
        self._check()
        self.rolled_up_at.append(now_ms)
        return 0

    def _chosen(self, scope: UsageScope, *, since_ms: int, until_ms: int) -> list[UsageRecord]:
        self._check()
        chosen = [event for event in self.events.values() if since_ms <= milliseconds(event.event_id) < until_ms]
        if isinstance(scope, OneUser):
            chosen = [event for event in chosen if event.user_id == scope.user_id]
        return chosen

    def _check(self) -> None:
        if self.away:
            raise Unavailable("The usage store is not available; try again.", code="usage_store_unavailable")


def _groups(records: Sequence[UsageRecord], field: str) -> tuple[Group, ...]:
    names = {getattr(event, field) for event in records}
    groups = [(name, _fold(event for event in records if getattr(event, field) == name)) for name in names]
    return tuple(sorted(groups, key=lambda group: (-group[1].requests, group[0])))


def _fold(events: Iterable[UsageRecord]) -> Sums:
    chosen = list(events)
    timed = [event for event in chosen if event.outcome != Outcome.CRASHED]
    totals = {name: sum(e.sum_of(*units) for e in chosen) for name, units in sums_of().items()}
    costs = {str(cost): sum(e.costs.get(cost, 0) for e in chosen) for cost in Cost}
    return sums_by_name(
        {
            "requests": len(chosen),
            "errors": sum(e.status >= 400 or e.outcome is not Outcome.COMPLETED for e in chosen),
            "total_tokens": sum(e.total_tokens for e in chosen),
            "unpriced_requests": sum(
                not e.priced and bool(e.total_tokens or any(e.quantities.values())) for e in chosen
            ),
            "timed_requests": len(timed),
            "latency_ms": sum(e.latency_ms for e in timed),
        }
        | totals
        | costs
    )


def _used_something(record: UsageRecord) -> bool:
    return record.total_tokens > 0 or any(record.quantities.values())
