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

from common.background import BackgroundLoop, Health
from common.errors import Unavailable
from common.metering.outbox import DiskOutbox, Position
from common.serving import protobuf_fields
from common.serving.auth import SERVICE_KEY_HEADER
from common.serving.channel import inner_channel
from common.telemetry import Telemetry
from common.upstream.settings import MeteredSettings
from turnpike.usage.v1 import ingest_pb2

_log = structlog.get_logger(__name__)
_RECORD_USAGE: Final = "/turnpike.usage.v1.UsageIngestService/RecordUsage"
_TIMEOUT_SECONDS: Final = 30.0


class Shipper:
    """Ships while it is open, as an async context manager; leaving it makes one last attempt.

    ``interval_seconds`` is the time between looks into the outbox. A batch is frozen: it is repeated under the same id
    until the usage service has it. An event that the usage service refuses goes to the outbox's file ``rejected``. The
    outbox is for a usage service that is away, so that only other failures show in ``health``.
    """

    def __init__(
        self,
        outbox: DiskOutbox,
        *,
        address: str,
        service_key: SecretStr,
        interval_seconds: float = 1.0,
        batch_events: int = 5_000,
        health: Health | None = None,
    ) -> None:
        self._outbox = outbox
        self._channel = inner_channel(address)
        # The outbox has the events as they are sent: nothing is parsed on the way.
        self._record: grpc.aio.UnaryUnaryMultiCallable[bytes, ingest_pb2.RecordUsageResponse] = (
            self._channel.unary_unary(_RECORD_USAGE, None, ingest_pb2.RecordUsageResponse.FromString)
        )
        self._metadata = ((SERVICE_KEY_HEADER, service_key.get_secret_value()),)
        self._batch_events = batch_events
        # What was read and is not stored yet, the next batch last, and where reading goes on after it.
        self._batches: list[_Batch] = []
        self._position: Position | None = None
        self._loop = BackgroundLoop(
            "shipper", self.ship, interval_seconds=interval_seconds, health=health, finishes=True
        )

    async def __aenter__(self) -> Shipper:
        """Begin to ship."""
        await self._loop.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ship what is left if the usage service answers, and close the channel."""
        await self._loop.__aexit__()
        try:
            await self.ship()
        except (OSError, Unavailable) as error:
            _log.error("the outbox could not be read at the end", error=str(error))
        await self._channel.close()

    async def ship(self) -> None:
        """Sync the outbox and ship all that is in it, until the usage service does not take more.

        Raises OSError, or Unavailable when the outbox cannot be written.
        """
        await asyncio.to_thread(self._outbox.sync)
        with contextlib.suppress(_NotStoredError):
            while await self._ship_some() == self._batch_events:
                pass

    async def _ship_some(self) -> int:
        """Ship the events that are frozen, or else the next ones; returns their number."""
        if self._position is None:
            events, position = await asyncio.to_thread(self._outbox.read, limit=self._batch_events)
            self._position = position
            self._batches = [_Batch(events)] if events else []
        while self._batches:
            await self._deliver(self._batches[-1])
        position, self._position = self._position, None
        await asyncio.to_thread(self._outbox.release, position)
        return position.events

    async def _deliver(self, batch: _Batch) -> None:
        """Have a batch stored; one that is refused is divided until the refused event stands alone and is set aside."""
        if await self._is_stored(batch):
            self._batches.pop()
        elif len(batch.events) == 1:
            await asyncio.to_thread(self._outbox.reject, batch.events[0])
            self._batches.pop()
        else:
            middle = len(batch.events) // 2
            self._batches[-1:] = [_Batch(batch.events[middle:]), _Batch(batch.events[:middle])]

    async def _is_stored(self, batch: _Batch) -> bool:
        """Return True when the batch is stored, False when it never will be; raises _NotStoredError else."""
        try:
            await self._record(batch.request, metadata=self._metadata, timeout=_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                _log.error("a usage batch was refused", details=error.details(), events=len(batch.events))
                return False
            _log.warning("usage could not be shipped", code=error.code().name, depth=self._outbox.depth)
            raise _NotStoredError from None
        return True


class _NotStoredError(Exception):
    """The usage service did not take a batch, and may later."""


class _Batch:
    """Events that are sent together, always under the same id."""

    def __init__(self, events: Sequence[bytes]) -> None:
        self.events = events
        self.request = _request(events)


def _request(events: Sequence[bytes]) -> bytes:
    """Return a serialized RecordUsageRequest of its own id."""
    begin = ingest_pb2.RecordUsageRequest(batch_id=str(uuid.uuid4())).SerializeToString()
    number = ingest_pb2.RecordUsageRequest.EVENTS_FIELD_NUMBER
    return begin + b"".join([protobuf_fields.field(number, event) for event in events])


@contextlib.asynccontextmanager
async def shipped_outbox(
    settings: MeteredSettings, *, service: str, telemetry: Telemetry, health: Health | None = None
) -> AsyncIterator[DiskOutbox]:
    """Open a service's outbox and ship what is in it while the context is open; gauges show how it is.

    Raises RuntimeError when another process has the outbox.
    """
    directory = settings.state_dir / "outbox" / service
    outbox = await asyncio.to_thread(DiskOutbox, directory, max_bytes=settings.outbox_max_bytes)
    telemetry.observe("outbox.depth", lambda: outbox.depth, unit="{event}")
    telemetry.observe("outbox.damaged", lambda: outbox.damaged, unit="{record}")
    telemetry.observe("outbox.rejected", lambda: outbox.rejected_bytes, unit="By")
    shipper = Shipper(
        outbox,
        address=settings.usage_address,
        service_key=settings.service_key,
        interval_seconds=settings.outbox_interval_seconds,
        health=health,
    )
    async with shipper:
        yield outbox
    await asyncio.to_thread(outbox.close)
