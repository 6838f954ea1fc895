"""Spans and metrics, exported over OTLP when the standard OTEL variables ask for it; otherwise next to free of cost.

Names follow OpenTelemetry's GenAI conventions, copied as strings because the Python package marks its constants
deprecated: https://github.com/open-telemetry/semantic-conventions-genai
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

from opentelemetry import metrics, propagate, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import Span, SpanKind, StatusCode

from common.request import Call

_BUCKETS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKEN_BUCKETS: Final = tuple(4**power for power in range(14))
_ENDPOINTS: Final = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
"""Source: https://www.w3.org/TR/trace-context/#traceparent-header"""
_TRACE_HEADERS: Final = ("traceparent", "tracestate")
_NOTHING: Final = nullcontext()
_NO_SPAN: Final = nullcontext(trace.INVALID_SPAN)


class Telemetry:
    """One service's tracer and instruments; without providers every method costs next to nothing and sends nothing.

    Tests pass in-memory providers of the OpenTelemetry SDK.
    """

    def __init__(
        self,
        service: str,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self.service = service
        self.enabled = tracer_provider is not None or meter_provider is not None
        self._tracer = (tracer_provider or trace.NoOpTracerProvider()).get_tracer("turnpike")
        self._meter = (meter_provider or metrics.NoOpMeterProvider()).get_meter("turnpike")
        histogram = self._meter.create_histogram
        self._rpc_seconds = histogram(f"{service}.rpc.duration", "s", explicit_bucket_boundaries_advisory=_BUCKETS)
        self._requests = histogram("gen_ai.server.request.duration", "s", explicit_bucket_boundaries_advisory=_BUCKETS)
        self._first_bytes = histogram(
            "gen_ai.server.time_to_first_token", "s", explicit_bucket_boundaries_advisory=_BUCKETS
        )
        self._tokens = histogram(
            "gen_ai.client.token.usage", "{token}", explicit_bucket_boundaries_advisory=_TOKEN_BUCKETS
        )

    def rpc(self, call: Call) -> AbstractContextManager[None]:
        """Surround an RPC with a span that continues the caller's trace, and record its duration in seconds."""
        return self._rpc(call) if self.enabled else _NOTHING

    @contextmanager
    def _rpc(self, call: Call) -> Iterator[None]:
        parent = propagate.extract(call.metadata)
        with self._tracer.start_as_current_span(
            call.rpc.strip("/"),
            context=parent,
            kind=SpanKind.SERVER,
            # The status below says whether the gateway failed; a refused caller is no error of the gateway.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            service, _, method = call.rpc.strip("/").rpartition("/")
            span.set_attributes(
                {
                    "rpc.system": "grpc",
                    "rpc.service": service,
                    "rpc.method": method,
                    "turnpike.request_id": call.request_id,
                }
            )
            try:
                yield
            finally:
                span.set_attribute("http.response.status_code", call.status)
                if call.status >= 500:
                    span.set_status(StatusCode.ERROR)
                self._rpc_seconds.record(
                    time.perf_counter() - call.started, {"rpc.method": method, "status": call.status}
                )

    def upstream(self, operation: str, *, model: str, attributes: Mapping[str, Any]) -> AbstractContextManager[Span]:
        """Surround a call to a provider with a client span; ``attributes`` are gen_ai.request.* ones, None left out."""
        if not self.enabled:
            return _NO_SPAN
        return self._upstream(operation, model=model, attributes=attributes)

    @contextmanager
    def _upstream(self, operation: str, *, model: str, attributes: Mapping[str, Any]) -> Iterator[Span]:
        with self._tracer.start_as_current_span(
            f"{operation} {model}",
            kind=SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": operation,
                "gen_ai.request.model": model,
                **{key: value for key, value in attributes.items() if value is not None},
            },
            # An exception's text may be the provider's: its type says enough.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except Exception as error:
                span.set_status(StatusCode.ERROR)
                span.set_attribute("error.type", type(error).__name__)
                raise

    def trace_headers(self, call: Call) -> dict[str, str]:
        """Return the trace context to pass on: that of the current span, or the caller's own when spans are off."""
        if not self.enabled:
            return {name: call.metadata[name] for name in _TRACE_HEADERS if name in call.metadata}
        headers: dict[str, str] = {}
        propagate.inject(headers)
        return headers

    def trace_id(self, call: Call) -> str:
        """Return the trace's id: of the current span, or of the caller's when spans are off; "" without either."""
        if self.enabled and (span := trace.get_current_span().get_span_context()).is_valid:
            return trace.format_trace_id(span.trace_id)
        parent = _TRACEPARENT.match(call.metadata.get("traceparent", ""))
        return parent[1] if parent else ""

    def request(
        self,
        *,
        operation: str,
        provider: str,
        model: str,
        outcome: str,
        seconds: float,
        first_byte_seconds: float | None,
        input_tokens: int,
        output_tokens: int,
    ) -> None:
        """Record a metered request; ``model`` is a configured one or a name for all others, or the labels never end."""
        labels = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": model,
        }
        self._requests.record(seconds, labels | {"turnpike.outcome": outcome})
        if first_byte_seconds is not None:
            self._first_bytes.record(first_byte_seconds, labels)
        if input_tokens or output_tokens:
            self._tokens.record(input_tokens, labels | {"gen_ai.token.type": "input"})
            self._tokens.record(output_tokens, labels | {"gen_ai.token.type": "output"})

    def observe(self, name: str, read: Callable[[], int], *, unit: str) -> None:
        """Export what ``read`` returns as the gauge ``<service>.<name>``."""

        def callback(_: CallbackOptions) -> list[Observation]:
            return [Observation(read())]

        self._meter.create_observable_gauge(f"{self.service}.{name}", [callback], unit)


def from_environment(service: str) -> Telemetry:
    """Return telemetry that exports as the standard OTEL variables say, or not at all without them."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or not any(map(os.environ.get, _ENDPOINTS)):
        return Telemetry(service)
    # Imported only when wanted: the SDK and its exporters take 100 ms to load.
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter  # noqa: PLC0415
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    resource = Resource.create({"service.name": service, "service.namespace": "turnpike"})
    tracer_provider = TracerProvider(resource=resource)
    tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    return Telemetry(
        service, tracer_provider=tracer_provider, meter_provider=MeterProvider([reader], resource=resource)
    )
