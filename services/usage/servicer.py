"""Turns protobuf into the core's terms and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, datetime
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from common.errors import InvalidRequest
from common.identity.principal import Access, Scope
from common.metering import event_proto
from common.metering.record import UsageRecord
from common.metering.units import Cost
from common.request import current_call
from common.serving.routes import Route
from services.usage.core import UsageCore
from services.usage.summaries import Group, Sums
from turnpike.usage.v1 import ingest_pb2, ingest_pb2_grpc, usage_pb2, usage_pb2_grpc


def routes(*, open_to_everybody: bool) -> tuple[Route, ...]:
    """Return the routes; without USAGE_API_KEY everybody may read usage (docs/compatibility.md)."""
    reading = Access.PUBLIC if open_to_everybody else Scope("usage")
    return (
        Route("/turnpike.usage.v1.UsageService/GetUsage", reading),
        Route("/turnpike.usage.v1.UsageService/GetDailyUsage", reading),
        Route("/turnpike.usage.v1.UsageService/GetUsageRollups", reading),
        Route("/turnpike.usage.v1.UsageIngestService/RecordUsage", Access.INTERNAL),
    )


M = TypeVar("M", bound=Message)


class UsageServicer(usage_pb2_grpc.UsageServiceServicer):
    """Answers questions about usage."""

    def __init__(self, core: UsageCore) -> None:
        self._core = core

    async def GetUsage(
        self, request: usage_pb2.GetUsageRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> usage_pb2.GetUsageResponse:
        """Sum up a window for the caller."""
        report = await self._core.summarize(
            current_call().principal,
            hours=request.hours if request.HasField("hours") else None,
            days=request.days if request.HasField("days") else None,
        )
        summary = report.summary
        return usage_pb2.GetUsageResponse(
            window=usage_pb2.Window(hours=report.hours, generated_at=_iso(report.generated_at)),
            scope=report.scope,
            totals=_totals(summary.totals),
            top_models=_groups(usage_pb2.ModelUsage, summary.models, name="model"),
            top_paths=_groups(usage_pb2.PathUsage, summary.paths, name="path"),
            by_type=_groups(usage_pb2.TypeUsage, summary.types, name="type"),
            by_provider=_groups(usage_pb2.ProviderUsage, summary.providers, name="provider"),
        )

    async def GetDailyUsage(
        self, request: usage_pb2.GetDailyUsageRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> usage_pb2.GetDailyUsageResponse:
        """Sum up the last days for the caller."""
        found = await self._core.daily(
            current_call().principal, days=request.days if request.HasField("days") else None
        )
        return usage_pb2.GetDailyUsageResponse(
            generated_at=_iso(found.generated_at),
            timezone="UTC",
            days=len(found.days),
            daily=[_day(date, sums) for date, sums in found.days],
            scope=found.scope,
        )

    async def GetUsageRollups(
        self, request: usage_pb2.GetUsageRollupsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> usage_pb2.GetUsageRollupsResponse:
        """Sum up the preset windows for the caller."""
        found = await self._core.rollups(current_call().principal)
        rollups = [usage_pb2.UsageRollup(window=name, totals=_totals(sums)) for name, sums in found.windows]
        return usage_pb2.GetUsageRollupsResponse(
            generated_at=_iso(found.generated_at), rollups=rollups, windows=rollups, scope=found.scope
        )


class UsageIngestServicer(ingest_pb2_grpc.UsageIngestServiceServicer):
    """Takes in what services metered."""

    def __init__(self, core: UsageCore) -> None:
        self._core = core

    async def RecordUsage(
        self, request: ingest_pb2.RecordUsageRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> ingest_pb2.RecordUsageResponse:
        """Store a batch."""
        await self._core.record(list(_records(request.events)), batch_id=request.batch_id)
        return ingest_pb2.RecordUsageResponse()


def _records(messages: Iterable[ingest_pb2.UsageEvent]) -> Iterator[UsageRecord]:
    for index, message in enumerate(messages):
        try:
            yield event_proto.from_message(message)
        except ValueError as error:
            raise InvalidRequest(f"events[{index}] is not stored: {error}", param=f"events[{index}]") from None


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _day(day: date, sums: Sums) -> usage_pb2.DayUsage:
    return usage_pb2.DayUsage(date=day.isoformat(), **_shown(sums, usage_pb2.DayUsage))


def _totals(sums: Sums) -> usage_pb2.Totals:
    return usage_pb2.Totals(**_shown(sums, usage_pb2.Totals))


def _groups(message: type[M], groups: Iterable[Group], *, name: str) -> list[M]:
    """Return a message for each group, which has the group's name in the field ``name``."""
    return [message(**{name: group}, **_shown(sums, message)) for group, sums in groups]


def _shown(sums: Sums, message: type[Message]) -> dict[str, Any]:
    """Return the sums for which the message has a field."""
    shown = {
        **sums.by_name(),
        **{f"{cost.name.lower()}_estimated_cost_usd": sums.costs.get(cost, 0) / 1e9 for cost in Cost},
        "estimated_cost_usd": sums.cost_nanousd / 1e9,
        "avg_latency_ms": sums.avg_latency_ms,
    }
    return {name: shown[name] for name in message.DESCRIPTOR.fields_by_name if name in shown}
