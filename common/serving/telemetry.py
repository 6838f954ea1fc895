"""The span, the duration and the log line of every call."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from common.logs import CallLine, CallLog
from common.request import CLIENT_GONE_STATUS, Call
from common.serving.interceptor import Context, Proceed
from common.serving.routes import Route
from common.telemetry import Telemetry


class TelemetryInterceptor:
    """Puts a span, a duration and one log line around each call."""

    def __init__(self, telemetry: Telemetry, *, log: CallLog) -> None:
        self._telemetry = telemetry
        self._log = log

    async def __call__(self, route: Route, call: Call, context: Context, proceed: Proceed) -> Any:
        """Serve the call."""
        with self._telemetry.rpc(call):
            try:
                return await proceed(call, context)
            except asyncio.CancelledError:
                call.status = CLIENT_GONE_STATUS
                raise
            finally:
                line = CallLine(
                    rpc=call.rpc,
                    request_id=call.request_id,
                    trace_id=self._telemetry.trace_id(call),
                    status=call.status,
                    user_id=call.principal.user_id,
                    milliseconds=round((time.perf_counter() - call.started) * 1000, 1),
                )
                self._log.write(line)
