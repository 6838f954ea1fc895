"""Carries events from the outbox to the usage service, and lets go of them only when they are stored."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Final

import grpc
import structlog
from pydantic import SecretStr

from common.errors import Unavailable
from common.metering.outbox import DiskOutbox
from common.serving import protobuf_fields
from common.serving.auth import SERVICE_KEY_HEADER
from common.serving.channel import inner_channel
from common.telemetry import Telemetry
from common.upstream.settings import MeteredSettings
from turnpike.usage.v1 import ingest_pb2

_log = structlog.get_logger(__name__)
_RECORD_USAGE: Final = "/turnpike.usage.v1.UsageIngestService/RecordUsage"
_TIMEOUT_SECONDS: Final = 30.0
_RETRY_AT_FIRST_SECONDS: Final = 0.1
_RETRY_AT_MOST_SECONDS: Final = 5.0


class Shipper:
    """Ships while it is open, as an async context manager; leaving it makes one last attempt.

    ``interval_seconds`` is the time between looks into the outbox. A batch is frozen: it is repeated under the same id
    until the usage service has it. An event that the usage service refuses goes to the outbox's file ``rejected``.
    """

    def __init__(
        self,
        outbox: DiskOutbox,
        *,
        address: str,
        service_key: SecretStr,
        interval_seconds: float = 1.0,
        batch_events: int = 5_000,
    ) -> None:
        self._outbox = outbox
        self._channel = inner_channel(address)
        # The outbox has the events as they are sent: nothing is parsed on the way.
        self._record: grpc.aio.UnaryUnaryMultiCallable[bytes, ingest_pb2.RecordUsageResponse] = (
            self._channel.unary_unary(_RECORD_USAGE, None, ingest_pb2.RecordUsageResponse.FromString)
        )
        self._metadata = ((SERVICE_KEY_HEADER, service_key.get_secret_value()),)
        self._interval_seconds = interval_seconds
        self._batch_events = batch_events
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Shipper:
        """Begin to ship."""
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ship what is left if the usage service answers, and close the channel."""
        self._closing.set()
        if self._task is not None:
            await self._task
        await self._channel.close()

    async def ship(self) -> int:
        """Ship one batch and return its number of events; raises grpc.aio.AioRpcError when it was not stored."""
        events, position = self._outbox.read(limit=self._batch_events)
        if events:
            await self._deliver(events)
        self._outbox.release(position)
        return len(events)

    async def _run(self) -> None:
        closing = False
        while not closing:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._interval_seconds)
            # Looked at before the outbox is, so that the last look sees what was settled before the end.
            closing = self._closing.is_set()
            await self._ship_all()

    async def _ship_all(self) -> None:
        try:
            await asyncio.to_thread(self._outbox.sync)
            with contextlib.suppress(grpc.aio.AioRpcError):
                while await self.ship() == self._batch_events:
                    pass
        except (OSError, Unavailable) as error:
            # A disk that is full, or too many open files: it may pass, and shipping must not end with it.
            _log.error("the outbox could not be read", error=str(error))

    async def _deliver(self, events: Sequence[bytes]) -> None:
        """Have the events stored, or set aside where one is refused for what it says, so that it holds up no other."""
        if await self._stored(_batch(events), count=len(events)):
            return
        if len(events) == 1:
            self._outbox.reject(events[0])
            return
        middle = len(events) // 2
        await self._deliver(events[:middle])
        await self._deliver(events[middle:])

    async def _stored(self, request: bytes, *, count: int) -> bool:
        """Repeat the batch until it is stored, or say False when it never will be."""
        delay = _RETRY_AT_FIRST_SECONDS
        while True:
            try:
                await self._record(request, metadata=self._metadata, timeout=_TIMEOUT_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                    _log.error("a usage batch was refused", details=error.details(), events=count)
                    return False
                _log.warning("usage could not be shipped", code=error.code().name, depth=self._outbox.depth)
                if self._closing.is_set():
                    raise
            else:
                return True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), delay)
            delay = min(delay * 2, _RETRY_AT_MOST_SECONDS)


def _batch(events: Sequence[bytes]) -> bytes:
    """Return a serialized RecordUsageRequest of its own id."""
    begin = ingest_pb2.RecordUsageRequest(batch_id=str(uuid.uuid4())).SerializeToString()
    number = ingest_pb2.RecordUsageRequest.EVENTS_FIELD_NUMBER
    return begin + b"".join([protobuf_fields.field(number, event) for event in events])


@contextlib.asynccontextmanager
async def shipped_outbox(settings: MeteredSettings, *, service: str, telemetry: Telemetry) -> AsyncIterator[DiskOutbox]:
    """Open a service's outbox and ship what is in it while the context is open; its depth is exported as a gauge.

    Raises RuntimeError when another process has the outbox.
    """
    outbox = DiskOutbox(settings.state_dir / "outbox" / service, max_bytes=settings.outbox_max_bytes)
    telemetry.observe("outbox.depth", lambda: outbox.depth, unit="{event}")
    shipper = Shipper(
        outbox,
        address=settings.usage_address,
        service_key=settings.service_key,
        interval_seconds=settings.outbox_interval_seconds,
    )
    async with shipper:
        yield outbox
    outbox.close()
