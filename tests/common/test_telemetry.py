"""Spans, metrics and the log line of each call."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from common.errors import InvalidRequest, UpstreamFailed
from common.logs import CallLine
from common.metering.account import Meter, NullOutbox
from common.metering.prices import PriceTable
from common.metering.units import Unit
from common.relay import Relay
from common.reply import Collected
from common.routing.router import Router
from common.serving.interceptor import Context
from common.telemetry import Telemetry, from_environment
from tests.common.builders import a_call
from tests.common.dialects.conversation import CHAT, DONE, chunk, event, stream_answer
from tests.common.fake_call_log import FakeCallLog
from tests.common.running import BEARER, behaving, the_interceptors
from tests.common.upstream.fake_client import FakeClient, FakeResponse, deployment
from turnpike.chat.v1 import chat_pb2

_REPOSITORY = Path(__file__).resolve().parents[2]
_TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
_PARENT_ID = "b7ad6b7169203331"
_TRACEPARENT = f"00-{_TRACE_ID}-{_PARENT_ID}-01"
_USED = dict(zip(Unit, (1, 2, 4, 8, 16), strict=False))


@dataclass(frozen=True)
class Recorded:
    """Telemetry that keeps what it would export."""

    telemetry: Telemetry
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    @property
    def metrics(self) -> dict[str, list[Any]]:
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracer_provider = TracerProvider(shutdown_on_exit=False)
    tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
    meter_provider = MeterProvider([reader], shutdown_on_exit=False)
    yield Recorded(Telemetry("chat", tracer_provider=tracer_provider, meter_provider=meter_provider), exporter, reader)
    tracer_provider.shutdown()
    meter_provider.shutdown()


async def complete(request: chat_pb2.CompleteChatRequest, context: Context) -> chat_pb2.CompleteChatResponse:
    if request.chat.model == "refused":
        raise InvalidRequest("the caller's secret words")
    if request.chat.model == "failed":
        raise UpstreamFailed("the caller's secret words")
    return chat_pb2.CompleteChatResponse()


async def called(recorded: Recorded, model: str = "", *metadata: tuple[str, str]) -> CallLine:
    """Make one call, and return its log line."""
    log = FakeCallLog()
    async with behaving(complete=complete, interceptors=the_interceptors(recorded.telemetry, log=log)) as stub:
        call = stub.CompleteChat(
            chat_pb2.CompleteChatRequest(chat=chat_pb2.Chat(model=model)), metadata=(*BEARER, *metadata)
        )
        await asyncio.wait([asyncio.ensure_future(call.code())])
    (line,) = log.lines
    return line


async def test_a_calls_span_continues_the_callers_trace(recorded: Recorded) -> None:
    line = await called(recorded, "", ("traceparent", _TRACEPARENT), ("x-request-id", "mine"))
    (span,) = recorded.spans
    assert span.name == "turnpike.chat.v1.ChatService/CompleteChat"
    assert span.kind is SpanKind.SERVER
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == _TRACE_ID
    assert f"{span.parent.span_id:016x}" == _PARENT_ID
    attributes = dict(span.attributes or {})
    assert attributes == {
        "rpc.system": "grpc",
        "rpc.service": "turnpike.chat.v1.ChatService",
        "rpc.method": "CompleteChat",
        "turnpike.request_id": "mine",
        "http.response.status_code": 200,
    }
    assert (line.trace_id, line.request_id, line.user_id) == (_TRACE_ID, "mine", "alice")


@pytest.mark.parametrize(
    ("model", "status", "code"), [("refused", 400, StatusCode.UNSET), ("failed", 502, StatusCode.ERROR)]
)
async def test_a_span_is_an_error_only_if_the_gateway_failed_and_never_repeats_a_message(
    recorded: Recorded, model: str, status: int, code: StatusCode
) -> None:
    line = await called(recorded, model)
    (span,) = recorded.spans
    assert dict(span.attributes or {})["http.response.status_code"] == line.status == status
    assert span.status.status_code is code
    assert "secret words" not in span.to_json()
    assert "secret words" not in repr(line)


async def test_each_calls_duration_is_measured_by_method_and_status(recorded: Recorded) -> None:
    await called(recorded, "refused")
    (point,) = recorded.metrics["chat.rpc.duration"]
    assert dict(point.attributes) == {"rpc.method": "CompleteChat", "status": 400}
    assert (point.count, point.sum > 0) == (1, True)


async def test_without_spans_the_log_line_has_the_callers_trace() -> None:
    log = FakeCallLog()
    async with behaving(complete=complete, interceptors=the_interceptors(log=log)) as stub:
        await stub.CompleteChat(chat_pb2.CompleteChatRequest(), metadata=(*BEARER, ("traceparent", _TRACEPARENT)))
    assert [line.trace_id for line in log.lines] == [_TRACE_ID]


_CHAT = b'{"model":"gpt-5","messages":[],"stream":true,"max_tokens":7,"temperature":0.5}'


def an_answer() -> FakeResponse:
    usage = {
        "prompt_tokens": 7,
        "completion_tokens": 24,
        "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 16},
    }
    content = event({"model": "gpt-5-2026", "choices": [{"index": 0, "delta": {"content": "x"}}]})
    return stream_answer(content, chunk(usage=usage).replace(b"gpt-1", b"gpt-5-2026"), DONE)


async def relayed(telemetry: Telemetry, client: FakeClient, *, metadata: dict[str, str]) -> None:
    call = a_call(metadata=metadata)
    relay = Relay(
        Router([deployment(client)]),
        meter=Meter(NullOutbox(), service="chat", telemetry=telemetry),
        telemetry=telemetry,
    )
    with telemetry.rpc(call):
        await relay.answer(_CHAT, dialect=CHAT, call=call, reply=Collected())


async def test_an_upstream_call_has_a_client_span_with_genai_names(recorded: Recorded) -> None:
    await relayed(recorded.telemetry, FakeClient(an_answer()), metadata={"traceparent": _TRACEPARENT})
    upstream, rpc = recorded.spans
    assert upstream.name == "chat gpt-5"
    assert upstream.kind is SpanKind.CLIENT
    assert rpc.context is not None
    assert upstream.parent is not None
    assert upstream.parent.span_id == rpc.context.span_id
    assert dict(upstream.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "fake",
        "gen_ai.request.model": "gpt-5",
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.response.model": "gpt-5-2026",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 24,
        "gen_ai.usage.cache_read.input_tokens": 2,
        "gen_ai.usage.cache_creation.input_tokens": 4,
        "gen_ai.usage.reasoning.output_tokens": 16,
    }


async def test_the_provider_gets_the_trace_of_the_upstream_span_and_no_baggage(recorded: Recorded) -> None:
    provider = FakeClient(an_answer())
    await relayed(recorded.telemetry, provider, metadata={"traceparent": _TRACEPARENT, "baggage": "customer=acme"})
    upstream = recorded.spans[0]
    assert upstream.context is not None
    (headers,) = provider.headers
    assert headers["traceparent"] == f"00-{_TRACE_ID}-{upstream.context.span_id:016x}-01"
    assert "baggage" not in headers


async def test_without_spans_the_callers_own_trace_is_passed_on() -> None:
    provider = FakeClient(an_answer())
    sent = {"traceparent": _TRACEPARENT, "tracestate": "a=b", "baggage": "customer=acme"}
    await relayed(Telemetry("chat"), provider, metadata=sent)
    (headers,) = provider.headers
    assert (headers["traceparent"], headers["tracestate"]) == (_TRACEPARENT, "a=b")
    assert "baggage" not in headers


async def test_a_failed_upstream_call_is_an_error_without_the_providers_words(recorded: Recorded) -> None:
    provider = FakeClient(UpstreamFailed("the provider's secret words", code="upstream_cut"))
    with pytest.raises(UpstreamFailed):
        await relayed(recorded.telemetry, provider, metadata={})
    upstream, _ = recorded.spans
    assert upstream.status.status_code is StatusCode.ERROR
    assert dict(upstream.attributes or {})["error.type"] == "UpstreamFailed"
    assert "secret words" not in upstream.to_json()


async def test_a_metered_request_is_counted_under_genai_names(recorded: Recorded) -> None:
    await relayed(recorded.telemetry, FakeClient(an_answer()), metadata={})
    metrics = recorded.metrics
    labels = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "fake", "gen_ai.request.model": "other"}
    (duration,) = metrics["gen_ai.server.request.duration"]
    assert dict(duration.attributes) == labels | {"turnpike.outcome": "completed"}
    (first_byte,) = metrics["gen_ai.server.time_to_first_token"]
    assert dict(first_byte.attributes) == labels
    tokens = {point.attributes["gen_ai.token.type"]: point.sum for point in metrics["gen_ai.client.token.usage"]}
    assert tokens == {"input": 7, "output": 24}
    assert first_byte.explicit_bounds[:2] == duration.explicit_bounds[:2] == (0.01, 0.02)
    assert metrics["gen_ai.client.token.usage"][0].explicit_bounds[:3] == (1, 4, 16)


def test_metrics_name_configured_models_only(recorded: Recorded) -> None:
    prices = PriceTable({("openai", "priced"): {"input": Decimal(1)}}, version="v")
    meter = Meter(NullOutbox(), service="chat", telemetry=recorded.telemetry, prices=prices, models=("set",))
    for model in ("priced", "set", "", *(f"made-up-{number}" for number in range(1_000))):
        with meter.open(a_call(), type="chat") as account:
            account.describe(model=model, stream=False)
    points = recorded.metrics["gen_ai.server.request.duration"]
    counts = {point.attributes["gen_ai.request.model"]: point.count for point in points}
    assert counts == {"priced": 1, "set": 1, "": 1, "other": 1_000}


def test_a_name_that_a_caller_makes_up_is_short_in_spans(recorded: Recorded) -> None:
    meter = Meter(NullOutbox(), service="chat", telemetry=recorded.telemetry)
    with meter.open(a_call(), type="chat") as account:
        account.describe(model="x" * 100_000, stream=False)
        model = account.record.model
        with recorded.telemetry.upstream("chat", model=model, attributes={}):
            pass
    (span,) = recorded.spans
    assert len(span.name) < 300
    assert len(span.to_json()) < 3_000


def test_a_gauge_shows_what_is_read_at_the_time(recorded: Recorded) -> None:
    depth = [3]
    recorded.telemetry.observe("outbox.depth", lambda: depth[0], unit="{event}")
    assert [point.value for point in recorded.metrics["chat.outbox.depth"]] == [3]
    depth[0] = 5
    assert [point.value for point in recorded.metrics["chat.outbox.depth"]] == [5]


async def test_no_context_is_lost_when_a_caller_leaves(recorded: Recorded, caplog: pytest.LogCaptureFixture) -> None:
    began = asyncio.Event()

    async def wait(request: chat_pb2.CompleteChatRequest, context: Context) -> chat_pb2.CompleteChatResponse:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    with caplog.at_level(logging.ERROR):
        async with behaving(complete=wait, interceptors=the_interceptors(recorded.telemetry)) as stub:
            call = stub.CompleteChat(chat_pb2.CompleteChatRequest(), metadata=BEARER)
            await began.wait()
            call.cancel()
            assert await call.code() is grpc.StatusCode.CANCELLED
    (span,) = recorded.spans
    assert dict(span.attributes or {})["http.response.status_code"] == 499
    assert [record for record in caplog.records if record.name.startswith("opentelemetry")] == []


_IMPORTS = "import sys; from common.telemetry import from_environment; t = from_environment('chat'); "


def _python(code: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment |= {"PYTHONPATH": f"{_REPOSITORY}:{_REPOSITORY / 'gen'}", **variables}
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=_REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
    ],
    ids=["not set", "empty", "disabled"],
)
def test_when_nobody_asked_for_telemetry_the_sdk_is_not_even_imported(variables: dict[str, str]) -> None:
    code = _IMPORTS + (
        "import services.chat.__main__;"
        "print(t.enabled, [m for m in sys.modules if m.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    assert _python(code, **variables).strip() == "False []"


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_a_standard_variable_turns_telemetry_on(variable: str) -> None:
    # Leaves without a farewell, because nobody listens and the exporters would wait.
    code = _IMPORTS + "import os; print(t.enabled, flush=True); os._exit(0)"
    assert _python(code, **{variable: "http://127.0.0.1:9"}).strip() == "True"


def test_telemetry_that_is_off_records_nothing_and_fails_at_nothing() -> None:
    telemetry = Telemetry("chat")
    assert not telemetry.enabled
    telemetry.observe("outbox.depth", lambda: 1, unit="{event}")
    with telemetry.rpc(a_call()), telemetry.upstream("chat", model="m", attributes={}) as span:
        assert not span.is_recording()


def test_the_environment_of_the_tests_asks_for_no_telemetry() -> None:
    assert not from_environment("chat").enabled


def test_logs_are_lines_of_json_with_ids_and_without_contents_and_credentials() -> None:
    lines = [json.loads(line) for line in _python(_LOGGING_CALL).splitlines()]
    calls = [line for line in lines if line["event"] == "call"]
    assert [line["status"] for line in calls] == [200, 401, 500]
    for line in calls:
        assert (line["request_id"], line["trace_id"]) == ("mine", _TRACE_ID)
        assert line["rpc"] == "/turnpike.chat.v1.ChatService/CompleteChat"
        assert line["level"] == "info"
        assert line["timestamp"].endswith("Z")
    everything = json.dumps(lines)
    for secret in ("tp_alice", "tp_wrong", "words of the person", "service-key-of-the-tests"):
        assert secret not in everything
    (failure,) = (line for line in lines if line["event"] == "unexpected error")
    assert "RuntimeError" in failure["exception"]
    assert failure["request_id"] == "mine"
    (library,) = (line for line in lines if line["event"] == "from a library")
    assert library == {"event": "from a library", "level": "warning", "timestamp": library["timestamp"]}
    assert len(lines) == len(calls) + 2


_LOGGING_CALL = f"""
import asyncio, logging, grpc
from common.logs import call_log, configure_logging
from tests.common.running import behaving, the_interceptors
from turnpike.chat.v1 import chat_pb2

async def complete(request, context):
    if request.chat.model == "broken":
        raise RuntimeError("a bug")
    return chat_pb2.CompleteChatResponse()

async def main():
    metadata = (("x-request-id", "mine"), ("traceparent", "{_TRACEPARENT}"))
    part = chat_pb2.ContentPart(text="words of the person")
    async with behaving(complete=complete, interceptors=the_interceptors(log=call_log("info"))) as stub:
        for token, model in (("tp_alice", ""), ("tp_wrong", ""), ("tp_alice", "broken")):
            chat = chat_pb2.Chat(model=model, messages=[chat_pb2.Message(content=[part])])
            call = stub.CompleteChat(
                chat_pb2.CompleteChatRequest(chat=chat), metadata=(*metadata, ("authorization", "Bearer " + token))
            )
            await call.code()

configure_logging("info")
asyncio.run(main())
logging.getLogger("library").warning("from a library")
logging.getLogger("library").info("not shown")
"""
