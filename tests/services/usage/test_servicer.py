"""The service over real gRPC: its interceptors, its keys, its messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from pydantic import SecretStr

from common.background import Health
from common.identity.principal import Kind, Principal
from common.metering.units import Cost, sums_of
from common.serving.run import Process, server_of
from common.telemetry import Telemetry
from services.usage.__main__ import service_of
from services.usage.clickhouse_store import ClickHouseStore
from services.usage.config import Settings
from services.usage.core import UsageCore
from services.usage.keys import UsageKeyAuthenticator
from services.usage.store import UsageStore
from tests.common.identity.fake_authenticator import FakeAuthenticator
from tests.services.usage.builders import NOW, event, message
from tests.services.usage.fake_store import FakeUsageStore
from turnpike.usage.v1 import ingest_pb2, ingest_pb2_grpc, usage_pb2, usage_pb2_grpc

SERVICE_KEY = "a-service-key-for-tests"
INTERNAL = (("x-turnpike-service-key", SERVICE_KEY),)
BATCH = "00000000-0000-4000-8000-000000000001"
USAGE = frozenset({"usage", "chat"})
INNER = FakeAuthenticator(
    {
        "alice": Principal(Kind.API_TOKEN, "alice", "tok", USAGE),
        "bob": Principal(Kind.PLATFORM_JWT, "bob", "", USAGE),
        "chatter": Principal(Kind.API_TOKEN, "alice", "tok", frozenset({"chat"})),
        "proxy": Principal(Kind.STATIC_KEY, "", "", USAGE),
        "stranger": Principal(Kind.ANONYMOUS, scopes=USAGE),
    }
)


class Client:
    """The service's two stubs."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.read = usage_pb2_grpc.UsageServiceStub(channel)
        self.ingest = ingest_pb2_grpc.UsageIngestServiceStub(channel)

    async def record(self, *users: str) -> None:
        """Record an event for each of the users."""
        events = [message(event(user_id=user)) for user in users]
        await self.ingest.RecordUsage(ingest_pb2.RecordUsageRequest(batch_id=BATCH, events=events), metadata=INTERNAL)

    async def get(self, *metadata: tuple[str, str], hours: int | None = None) -> usage_pb2.GetUsageResponse:
        """Read the usage."""
        return await self.read.GetUsage(usage_pb2.GetUsageRequest(hours=hours), metadata=metadata)


Start = Callable[..., Awaitable[Client]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts the service over a store, with a usage key or without."""
    async with AsyncExitStack() as stack:

        async def start_one(*, usage_key: str = "", store: UsageStore | None = None) -> Client:
            core = UsageCore(store or FakeUsageStore(), clock=lambda: NOW)
            settings = Settings(service_key=SecretStr(SERVICE_KEY), usage_key=SecretStr(usage_key), log_level="warning")
            parts = service_of(core, settings=settings, auth=INNER)
            service = server_of(parts, settings=settings, process=Process(Telemetry("usage"), Health()))
            port = await service.start("127.0.0.1:0")
            stack.push_async_callback(service.stop, grace_seconds=0)
            return Client(await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}")))

        yield start_one


async def refusal(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    """Return the code and the HTTP status of an RPC that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    metadata = dict(failed.value.trailing_metadata() or ())
    return failed.value.code(), str(metadata["x-http-status"])


async def test_the_answer_in_json_has_numbers(start: Start, clickhouse: ClickHouseStore) -> None:
    client = await start(store=clickhouse)
    await client.record("alice", "bob")
    answer = MessageToDict(await client.get(hours=24), preserving_proto_field_name=True)
    group = {
        "requests": 2.0,
        "input_tokens": 30.0,
        "output_tokens": 50.0,
        "total_tokens": 80.0,
        "estimated_cost_usd": 5.000003,
        "avg_latency_ms": 120.0,
    }
    assert answer == {
        "window": {"hours": 24, "generated_at": "2026-06-15T12:00:00.000Z"},
        "scope": "all",
        "totals": {
            **group,
            "cached_tokens": 6.0,
            "reasoning_tokens": 10.0,
            "input_estimated_cost_usd": 3e-06,
            "output_estimated_cost_usd": 5.0,
        },
        "top_models": [{"model": "gpt-4.1", **group}],
        "top_paths": [{"path": "/v1/chat/completions", **group}],
        "by_type": [{"type": "chat", **group}],
        "by_provider": [{"provider": "openai", **group}],
    }


async def test_days_and_windows_in_json_have_numbers(start: Start, clickhouse: ClickHouseStore) -> None:
    client = await start(store=clickhouse)
    await client.record("alice", "bob")
    answers = [
        MessageToDict(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        for answer in (
            await client.read.GetDailyUsage(usage_pb2.GetDailyUsageRequest(days=2)),
            await client.read.GetUsageRollups(usage_pb2.GetUsageRollupsRequest()),
        )
    ]
    used = {
        "requests": 2.0,
        "errors": 0.0,
        "input_tokens": 30.0,
        "output_tokens": 50.0,
        "total_tokens": 80.0,
        "input_estimated_cost_usd": 3e-06,
        "output_estimated_cost_usd": 5.0,
        "estimated_cost_usd": 5.000003,
        "ocr_pages": 0.0,
        "ocr_estimated_cost_usd": 0.0,
        "unpriced_requests": 0.0,
    }
    daily, rollups = answers
    assert daily == {
        "generated_at": "2026-06-15T12:00:00.000Z",
        "timezone": "UTC",
        "days": 2,
        "daily": [{"date": "2026-06-14", **dict.fromkeys(used, 0.0)}, {"date": "2026-06-15", **used}],
        "scope": "all",
    }
    assert rollups["windows"] == rollups["rollups"]
    assert rollups["generated_at"] == daily["generated_at"]
    totals = {**used, "cached_tokens": 6.0, "reasoning_tokens": 10.0, "avg_latency_ms": 120.0}
    assert rollups["rollups"] == [
        {"window": "10m", "totals": dict.fromkeys(totals, 0.0)},
        *({"window": window, "totals": totals} for window in ("1h", "6h", "24h", "7d")),
    ]


async def test_the_key_and_the_user_read_days_and_windows_as_well(start: Start) -> None:
    client = await start(usage_key="the key")
    await client.record("alice", "bob", "bob", "")
    for header, scope, count in (
        (("x-usage-key", "the key"), "all", 4),
        (("authorization", "Bearer bob"), "user", 2),
    ):
        daily = await client.read.GetDailyUsage(usage_pb2.GetDailyUsageRequest(), metadata=(header,))
        rollups = await client.read.GetUsageRollups(usage_pb2.GetUsageRollupsRequest(), metadata=(header,))
        assert (daily.scope, daily.daily[-1].requests, len(daily.daily)) == (scope, count, 7)
        assert (rollups.scope, rollups.rollups[-1].totals.requests) == (scope, count)
    for credential, code, status in (
        ("unknown", grpc.StatusCode.UNAUTHENTICATED, "401"),
        ("chatter", grpc.StatusCode.PERMISSION_DENIED, "403"),
    ):
        metadata = (("authorization", f"Bearer {credential}"),)
        daily_call = client.read.GetDailyUsage(usage_pb2.GetDailyUsageRequest(), metadata=metadata)
        rollups_call = client.read.GetUsageRollups(usage_pb2.GetUsageRollupsRequest(), metadata=metadata)
        assert await refusal(daily_call) == await refusal(rollups_call) == (code, status)


async def test_without_a_key_everybody_reads_everything(start: Start) -> None:
    client = await start()
    await client.record("alice", "bob", "")
    for metadata in ((), (("authorization", "Bearer alice"),), (("authorization", "nonsense"),)):
        answer = await client.get(*metadata)
        assert (answer.scope, answer.totals.requests, answer.window.hours) == ("all", 3, 168)
        rollups = await client.read.GetUsageRollups(usage_pb2.GetUsageRollupsRequest(), metadata=metadata)
        assert (rollups.scope, rollups.rollups[-1].totals.requests) == ("all", 3)


async def test_the_key_reads_everything_and_a_user_their_own(start: Start) -> None:
    client = await start(usage_key="the key")
    await client.record("alice", "bob", "bob", "")
    for header in (("authorization", "Bearer the key"), ("x-usage-key", "the key")):
        answer = await client.get(header)
        assert (answer.scope, answer.totals.requests) == ("all", 4)
    both = await client.get(("authorization", "Bearer alice"), ("x-usage-key", "the key"))
    assert both.scope == "all"
    for name, own in (("alice", 1), ("bob", 2)):
        for header in (("authorization", f"Bearer {name}"), ("x-api-key", name), ("x-usage-key", name)):
            answer = await client.get(header)
            assert (answer.scope, answer.totals.requests) == ("user", own)
    assert "the key" not in INNER.asked


@pytest.mark.parametrize(
    ("header", "code", "status"),
    [
        (("x-other", "x"), grpc.StatusCode.UNAUTHENTICATED, "401"),
        (("x-usage-key", "the kex"), grpc.StatusCode.UNAUTHENTICATED, "401"),
        (("authorization", "Bearer unknown"), grpc.StatusCode.UNAUTHENTICATED, "401"),
        (("authorization", "Basic the key"), grpc.StatusCode.UNAUTHENTICATED, "401"),
        (("authorization", "Bearer stranger"), grpc.StatusCode.UNAUTHENTICATED, "401"),
        (("authorization", "Bearer chatter"), grpc.StatusCode.PERMISSION_DENIED, "403"),
        (("authorization", "Bearer proxy"), grpc.StatusCode.PERMISSION_DENIED, "403"),
    ],
)
async def test_others_read_nothing(start: Start, header: tuple[str, str], code: grpc.StatusCode, status: str) -> None:
    client = await start(usage_key="the key")
    assert await refusal(client.get(header)) == (code, status)


def test_an_empty_key_is_no_key() -> None:
    with pytest.raises(ValueError, match="empty"):
        UsageKeyAuthenticator(INNER, key=SecretStr(""))


async def test_only_services_record(start: Start) -> None:
    client = await start(usage_key="the key")
    request = ingest_pb2.RecordUsageRequest(batch_id=BATCH, events=[message(event())])
    for metadata in ((), (("x-usage-key", "the key"),), (("x-turnpike-service-key", "the key"),)):
        call = client.ingest.RecordUsage(request, metadata=metadata)
        assert await refusal(call) == (grpc.StatusCode.PERMISSION_DENIED, "403")


async def test_what_is_wrong_and_what_may_be_repeated(start: Start) -> None:
    store = FakeUsageStore()
    client = await start(store=store)
    assert await refusal(client.get(hours=0)) == (grpc.StatusCode.INVALID_ARGUMENT, "400")
    too_many = client.read.GetDailyUsage(usage_pb2.GetDailyUsageRequest(days=31))
    assert await refusal(too_many) == (grpc.StatusCode.INVALID_ARGUMENT, "400")
    empty = ingest_pb2.RecordUsageRequest(batch_id=BATCH)
    assert (await refusal(client.ingest.RecordUsage(empty, metadata=INTERNAL)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    store.away = True
    assert await refusal(client.get()) == (grpc.StatusCode.UNAVAILABLE, "503")
    assert await refusal(client.record("alice")) == (grpc.StatusCode.UNAVAILABLE, "503")
    store.away = False
    await client.record("alice")
    assert len(store.events) == 1


async def test_what_this_version_does_not_know_is_refused_by_its_place(start: Start) -> None:
    client = await start()
    unknown = message(event())
    unknown.quantities["parsecs"] = 1
    request = ingest_pb2.RecordUsageRequest(batch_id=BATCH, events=[message(event()), unknown])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.ingest.RecordUsage(request, metadata=INTERNAL)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "events[1] is not stored: parsecs is not a unit"


def test_every_public_sum_is_in_the_answers() -> None:
    shown = set(usage_pb2.Totals.DESCRIPTOR.fields_by_name)
    assert set(sums_of()) <= shown
    assert {f"{cost.name.lower()}_estimated_cost_usd" for cost in Cost} <= shown
