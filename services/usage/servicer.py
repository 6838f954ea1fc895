"""Turns protobuf into the core's terms and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from types import MappingProxyType
from typing import Any, Final

import grpc

from common.errors import InvalidRequest
from common.identity.principal import Access, Requirement, Scope
from common.metering import event_proto
from common.metering.units import Cost, Unit
from common.request import current_call
from services.usage.core import UsageCore
from services.usage.events import Event
from services.usage.summaries import Sums
from turnpike.usage.v1 import ingest_pb2, ingest_pb2_grpc, usage_pb2, usage_pb2_grpc

SERVICES: Final = ("turnpike.usage.v1.UsageService", "turnpike.usage.v1.UsageIngestService")
REQUIREMENTS: Final[Mapping[str, Requirement]] = MappingProxyType(
    {
        "/turnpike.usage.v1.UsageService/GetUsage": Scope("usage"),
        "/turnpike.usage.v1.UsageService/GetDailyUsage": Scope("usage"),
        "/turnpike.usage.v1.UsageService/GetUsageRollups": Scope("usage"),
        "/turnpike.usage.v1.UsageIngestService/RecordUsage": Access.INTERNAL,
    }
)
OPEN_REQUIREMENTS: Final[Mapping[str, Requirement]] = MappingProxyType(
    {method: Access.PUBLIC if need == Scope("usage") else need for method, need in REQUIREMENTS.items()}
)
"""Without USAGE_API_KEY: reading usage needs no credential, as the first seed says."""


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
            top_models=[usage_pb2.ModelUsage(model=name, **_group(sums)) for name, sums in summary.models],
            top_paths=[usage_pb2.PathUsage(path=name, **_group(sums)) for name, sums in summary.paths],
            by_type=[usage_pb2.TypeUsage(type=name, **_group(sums)) for name, sums in summary.types],
            by_provider=[usage_pb2.ProviderUsage(provider=name, **_group(sums)) for name, sums in summary.providers],
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
        await self._core.record(list(_events(request.events)), batch_id=request.batch_id)
        return ingest_pb2.RecordUsageResponse()


def _events(messages: Iterable[ingest_pb2.UsageEvent]) -> Iterator[Event]:
    for index, message in enumerate(messages):
        try:
            yield to_event(message)
        except ValueError as error:
            raise InvalidRequest(f"events[{index}] is not stored: {error}", param=f"events[{index}]") from None


def to_event(message: ingest_pb2.UsageEvent) -> Event:
    """Return the message as the core's event; raises ValueError for what this version does not know."""
    record = event_proto.from_message(message)
    fields = {name: getattr(record, name) for name in Event._fields if hasattr(record, name)}
    fields |= {unit.value: record.quantities.get(unit, 0) for unit in Unit}
    fields |= {cost.value: record.costs.get(cost, 0) for cost in Cost}
    fields |= {
        "attempts": len(record.attempts),
        "outcome": record.outcome or 0,
        "usage_source": record.usage_source or 0,
    }
    return Event(**fields)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _day(day: date, sums: Sums) -> usage_pb2.DayUsage:
    return usage_pb2.DayUsage(
        date=day.isoformat(),
        requests=sums.requests,
        errors=sums.errors,
        input_tokens=sums.input_tokens,
        output_tokens=sums.output_tokens,
        total_tokens=sums.total_tokens,
        input_estimated_cost_usd=sums.input_cost_nanousd / 1e9,
        output_estimated_cost_usd=sums.output_cost_nanousd / 1e9,
        estimated_cost_usd=sums.cost_nanousd / 1e9,
        ocr_pages=sums.ocr_pages,
        ocr_estimated_cost_usd=sums.ocr_cost_nanousd / 1e9,
        unpriced_requests=sums.unpriced_requests,
    )


def _totals(sums: Sums) -> usage_pb2.Totals:
    return usage_pb2.Totals(
        requests=sums.requests,
        errors=sums.errors,
        input_tokens=sums.input_tokens,
        output_tokens=sums.output_tokens,
        total_tokens=sums.total_tokens,
        cached_tokens=sums.cached_tokens,
        reasoning_tokens=sums.reasoning_tokens,
        ocr_pages=sums.ocr_pages,
        input_estimated_cost_usd=sums.input_cost_nanousd / 1e9,
        output_estimated_cost_usd=sums.output_cost_nanousd / 1e9,
        ocr_estimated_cost_usd=sums.ocr_cost_nanousd / 1e9,
        estimated_cost_usd=sums.cost_nanousd / 1e9,
        unpriced_requests=sums.unpriced_requests,
        avg_latency_ms=sums.avg_latency_ms,
    )


def _group(sums: Sums) -> dict[str, float]:
    return {
        "requests": sums.requests,
        "errors": sums.errors,
        "input_tokens": sums.input_tokens,
        "output_tokens": sums.output_tokens,
        "total_tokens": sums.total_tokens,
        "ocr_pages": sums.ocr_pages,
        "ocr_estimated_cost_usd": sums.ocr_cost_nanousd / 1e9,
        "estimated_cost_usd": sums.cost_nanousd / 1e9,
        "avg_latency_ms": sums.avg_latency_ms,
    }
