"""The shipper, with a real outbox and a real ingest server in this process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import grpc
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from structlog.testing import capture_logs

from common.background import Health
from common.metering import event_proto
from common.metering.outbox import DiskOutbox, Position
from common.metering.record import Outcome
from common.metering.shipper import Shipper, shipped_outbox
from common.serving.interceptor import Context
from common.telemetry import Telemetry
from common.upstream.settings import MeteredSettings
from tests.common.builders import usage_record
from tests.common.running import SERVICE_KEY
from tests.waiting import until
from turnpike.usage.v1 import ingest_pb2, ingest_pb2_grpc

_QUICKLY = 0.01


@dataclass
class Ingest(ingest_pb2_grpc.UsageIngestServiceServicer):
    """Notes every batch, and answers the first ones with the given codes."""

    refusals: list[grpc.StatusCode] = field(default_factory=list)
    batches: list[ingest_pb2.RecordUsageRequest] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_answer.set()

    async def RecordUsage(  # noqa: N802 - the RPC's name
        self, request: ingest_pb2.RecordUsageRequest, context: Context
    ) -> ingest_pb2.RecordUsageResponse:
        """Note the batch."""
        async with self.arrived:
            self.batches.append(request)
            self.keys += [str(value) for name, value in context.invocation_metadata() or () if "service-key" in name]
            self.arrived.notify_all()
        await self.may_answer.wait()
        if self.refusals:
            await context.abort(self.refusals.pop(0), "not now")
        return ingest_pb2.RecordUsageResponse()

    async def wait_for_batches(self, count: int) -> None:
        """Return once so many batches have come."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.batches) >= count)

    async def wait_for(self, numbers: Sequence[int]) -> None:
        """Return once these events have come."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: set(numbers) <= set(self.numbers))

    @property
    def numbers(self) -> list[int]:
        """The events of all batches."""
        return [number_of(event) for batch in self.batches for event in batch.events]


def number_of(event: ingest_pb2.UsageEvent) -> int:
    return int.from_bytes(event.event_id, "big")


@contextlib.asynccontextmanager
async def served(ingest: Ingest, *, port: int = 0) -> AsyncIterator[int]:
    server = grpc.aio.server()
    ingest_pb2_grpc.add_UsageIngestServiceServicer_to_server(ingest, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(0)


def a_shipper(
    outbox: DiskOutbox,
    port: int,
    *,
    interval_seconds: float = _QUICKLY,
    batch_events: int = 5_000,
    health: Health | None = None,
) -> Shipper:
    return Shipper(
        outbox,
        address=f"127.0.0.1:{port}",
        service_key=SERVICE_KEY,
        interval_seconds=interval_seconds,
        batch_events=batch_events,
        health=health,
    )


@pytest.fixture
def outbox(tmp_path: Path) -> DiskOutbox:
    return DiskOutbox(tmp_path, segment_bytes=1_000)


def settle(outbox: DiskOutbox, *numbers: int) -> None:
    for number in numbers:
        record = usage_record(number)
        outbox.intend(record)
        record.outcome = Outcome.COMPLETED
        outbox.settle(record)


async def test_events_arrive_in_order_with_the_service_key_and_leave_the_outbox(outbox: DiskOutbox) -> None:
    ingest = Ingest()
    settle(outbox, 1, 2, 3)
    async with served(ingest) as port, a_shipper(outbox, port):
        await ingest.wait_for([1, 2, 3])
        settle(outbox, 4)
        await ingest.wait_for([4])
    assert ingest.numbers == [1, 2, 3, 4]
    assert set(ingest.keys) == {SERVICE_KEY.get_secret_value()}
    assert outbox.depth == 0


async def test_an_empty_outbox_sends_nothing(outbox: DiskOutbox) -> None:
    ingest = Ingest()
    async with served(ingest) as port, a_shipper(outbox, port):
        pass
    assert ingest.batches == []


async def test_a_backlog_goes_out_in_batches_that_the_usage_service_takes(outbox: DiskOutbox) -> None:
    ingest = Ingest()
    settle(outbox, *range(2_500))
    async with served(ingest) as port, a_shipper(outbox, port, batch_events=1_000):
        await ingest.wait_for(range(2_500))
    assert [len(batch.events) for batch in ingest.batches] == [1_000, 1_000, 500]
    assert len({batch.batch_id for batch in ingest.batches}) == 3


async def test_a_batch_is_repeated_unchanged_until_it_is_acknowledged(outbox: DiskOutbox) -> None:
    ingest = Ingest(refusals=[grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL])
    settle(outbox, 1, 2)
    with capture_logs() as logs:
        async with served(ingest) as port, a_shipper(outbox, port):
            await ingest.wait_for_batches(1)
            settle(outbox, 3)
            await ingest.wait_for([3])
    first, second, third, fourth = ingest.batches
    assert first == second == third
    assert (fourth.batch_id != first.batch_id, [number_of(event) for event in fourth.events]) == (True, [3])
    assert [line["code"] for line in logs] == ["UNAVAILABLE", "INTERNAL"]


async def test_nothing_leaves_the_outbox_before_the_acknowledgement(outbox: DiskOutbox) -> None:
    ingest = Ingest()
    ingest.may_answer.clear()
    settle(outbox, 1, 2)
    async with served(ingest) as port, a_shipper(outbox, port):
        await ingest.wait_for([1, 2])
        assert outbox.depth == 2
        assert len(outbox.read(limit=10)[0]) == 2
        ingest.may_answer.set()
    assert outbox.depth == 0


async def test_a_service_that_is_away_and_comes_back_gets_everything_once(outbox: DiskOutbox, free_port: int) -> None:
    ingest = Ingest()
    with capture_logs() as logs:
        async with a_shipper(outbox, free_port):
            settle(outbox, 1)
            await until(lambda: bool(logs))
            async with served(ingest, port=free_port):
                await ingest.wait_for([1])
                settle(outbox, 2)
                await ingest.wait_for([2])
    assert ingest.numbers == [1, 2]
    assert outbox.depth == 0


async def test_leaving_ships_what_was_settled_last(outbox: DiskOutbox) -> None:
    ingest = Ingest()
    async with served(ingest) as port, a_shipper(outbox, port, interval_seconds=1_000):
        settle(outbox, 1, 2)
    assert ingest.numbers == [1, 2]
    assert outbox.depth == 0


async def test_leaving_while_a_batch_is_out_ships_what_was_settled_since(outbox: DiskOutbox) -> None:
    ingest = Ingest()
    ingest.may_answer.clear()
    settle(outbox, 1)
    async with served(ingest) as port:
        shipper = a_shipper(outbox, port)
        async with shipper:
            await ingest.wait_for([1])
            settle(outbox, 2)
            leaving = asyncio.create_task(shipper.__aexit__())
            await until(shipper._loop._closing.is_set)
            ingest.may_answer.set()
            await leaving
        assert ingest.numbers == [1, 2]


async def test_leaving_does_not_wait_for_a_service_that_is_away(outbox: DiskOutbox, free_port: int) -> None:
    settle(outbox, 1)
    with capture_logs() as logs:
        async with a_shipper(outbox, free_port, interval_seconds=1_000):
            pass
    assert [line["event"] for line in logs] == ["usage could not be shipped"]
    assert outbox.depth == 1


async def test_an_event_that_is_refused_for_what_it_says_holds_up_no_other(outbox: DiskOutbox, tmp_path: Path) -> None:
    class Choosy(Ingest):
        async def RecordUsage(  # noqa: N802 - the RPC's name
            self, request: ingest_pb2.RecordUsageRequest, context: Context
        ) -> ingest_pb2.RecordUsageResponse:
            if any(number_of(event) == 3 for event in request.events):
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not this one")
            return await super().RecordUsage(request, context)

    ingest = Choosy()
    settle(outbox, *range(10))
    with capture_logs() as logs:
        async with served(ingest) as port, a_shipper(outbox, port):
            await ingest.wait_for([9])
    assert ingest.numbers == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert outbox.depth == 0
    assert usage_record(3).request_id.encode() in (tmp_path / "rejected").read_bytes()
    assert logs[-1]["event"] == "a usage event was set aside"


async def test_a_disk_that_fails_for_a_while_does_not_end_the_shipping(outbox: DiskOutbox, tmp_path: Path) -> None:
    ingest = Ingest()
    settle(outbox, 1)
    aside = tmp_path.with_name("aside")
    tmp_path.rename(aside)  # noqa: ASYNC240 - nothing else runs in this loop
    with capture_logs() as logs:
        async with served(ingest) as port, a_shipper(outbox, port):
            await until(lambda: bool(logs))
            aside.rename(tmp_path)
            await ingest.wait_for([1])
    assert {line["event"] for line in logs} == {"a background loop failed", "a background loop works again"}
    assert outbox.depth == 0


async def test_a_usage_service_that_is_away_does_not_show_in_the_health(outbox: DiskOutbox, free_port: int) -> None:
    health = Health()
    settle(outbox, 1)
    with capture_logs() as logs:
        async with a_shipper(outbox, free_port, health=health):
            await until(lambda: len(logs) > 10)
    assert {line["event"] for line in logs} == {"usage could not be shipped"}
    assert health.failing == set()


async def test_a_disk_that_keeps_failing_shows_in_the_health(
    outbox: DiskOutbox, tmp_path: Path, free_port: int
) -> None:
    health = Health()
    settle(outbox, 1)
    aside = tmp_path.with_name("aside")
    tmp_path.rename(aside)  # noqa: ASYNC240 - nothing else runs in this loop
    with capture_logs():
        async with a_shipper(outbox, free_port, health=health):
            await health.wait_for_change()
            assert health.failing == {"shipper"}
            aside.rename(tmp_path)
            await health.wait_for_change()
            assert health.failing == set()


class Watched(DiskOutbox):
    """Notes in which thread the disk is waited for."""

    threads: ClassVar[dict[str, set[int]]] = {}

    def _note(self, name: str) -> None:
        self.threads.setdefault(name, set()).add(threading.get_ident())

    def sync(self) -> None:
        """Note the thread."""
        self._note("sync")
        super().sync()

    def read(self, *, limit: int) -> tuple[list[bytes], Position]:
        """Note the thread."""
        self._note("read")
        return super().read(limit=limit)

    def release(self, position: Position) -> None:
        """Note the thread."""
        self._note("release")
        super().release(position)

    def reject(self, event: bytes) -> None:
        """Note the thread."""
        self._note("reject")
        super().reject(event)


async def test_no_disk_is_waited_for_on_the_event_loop(tmp_path: Path) -> None:
    class Refusing(Ingest):
        async def RecordUsage(  # noqa: N802 - the RPC's name
            self, request: ingest_pb2.RecordUsageRequest, context: Context
        ) -> ingest_pb2.RecordUsageResponse:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")

    outbox = Watched(tmp_path)
    settle(outbox, 1)
    with capture_logs():
        async with served(Refusing()) as port, a_shipper(outbox, port):
            await until(lambda: outbox.depth == 0)
    assert set(outbox.threads) == {"sync", "read", "release", "reject"}
    assert threading.get_ident() not in set().union(*outbox.threads.values())
    outbox.close()


async def test_a_services_outbox_is_opened_and_its_gauges_shown(tmp_path: Path) -> None:
    reader = InMemoryMetricReader()
    meter_provider = MeterProvider([reader], shutdown_on_exit=False)
    settings = MeteredSettings.model_validate(
        {
            "TURNPIKE_SERVICE_KEY": SERVICE_KEY,
            "TURNPIKE_STATE_DIR": tmp_path,
            "TURNPIKE_USAGE_ADDRESS": "127.0.0.1:9",
        }
    )
    (tmp_path / "outbox" / "chat").mkdir(parents=True)
    (tmp_path / "outbox" / "chat" / "000000000001.journal").write_bytes(b"?" * 20)
    with capture_logs():
        telemetry = Telemetry("chat", meter_provider=meter_provider)
        async with shipped_outbox(settings, service="chat", telemetry=telemetry) as outbox:
            settle(outbox, 1)
            outbox.reject(event_proto.encode(usage_record(2)))
            data = reader.get_metrics_data()
    assert data is not None
    (scope,) = data.resource_metrics[0].scope_metrics
    points: dict[str, Any] = {metric.name: next(iter(metric.data.data_points)) for metric in scope.metrics}
    meter_provider.shutdown()
    assert points["chat.outbox.depth"].value == 1
    assert points["chat.outbox.damaged"].value == 1
    assert points["chat.outbox.rejected"].value > 0
