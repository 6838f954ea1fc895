"""Runs the usage service: python -m services.usage."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from common.identity.authenticator import Authenticator
from common.identity.remote import RemoteAuthenticator
from common.serving.auth import CREDENTIAL_HEADERS
from common.serving.run import Process, Service, run
from services.usage.clickhouse_store import ClickHouseStore
from services.usage.config import Settings
from services.usage.connections import Connect, StoreRefused, embedded, refuse_second_process, server
from services.usage.core import UsageCore
from services.usage.keys import UsageKeyAuthenticator
from services.usage.migrations import Place
from services.usage.rollup import rollup
from services.usage.servicer import UsageIngestServicer, UsageServicer, routes
from turnpike.usage.v1.ingest_pb2_grpc import add_UsageIngestServiceServicer_to_server
from turnpike.usage.v1.usage_pb2_grpc import add_UsageServiceServicer_to_server


@asynccontextmanager
async def usage(settings: Settings, process: Process) -> AsyncIterator[Service]:
    """Open the service's parts; a store that cannot be used ends the process with a line that names the variable."""
    for noisy in ("urllib3", "clickhouse_connect"):
        # They warn about each failure that the store logs, or that ends this process with a line of its own.
        logging.getLogger(noisy).setLevel(logging.ERROR)
    place = Place(
        database=settings.database, dataset=settings.dataset, cluster=settings.cluster, raw_days=settings.raw_days
    )
    try:
        store = ClickHouseStore(_connect(settings), place=place)
        auth = RemoteAuthenticator(settings.auth_address, service_key=settings.service_key, health=process.health)
        rolling_up = rollup(store, clock=_now, interval_seconds=settings.rollup_interval_seconds, health=process.health)
        async with store, auth, rolling_up:
            yield service_of(UsageCore(store, clock=_now, raw_days=settings.raw_days), settings=settings, auth=auth)
    except StoreRefused as error:
        raise SystemExit(f"turnpike usage: {error}") from None


def service_of(core: UsageCore, *, settings: Settings, auth: Authenticator) -> Service:
    """Return what the service brings: with USAGE_API_KEY reading needs a credential, without it none."""
    key = settings.usage_key
    return Service(
        routes=routes(open_to_everybody=not key.get_secret_value()),
        servicers=[
            (add_UsageServiceServicer_to_server, UsageServicer(core)),
            (add_UsageIngestServiceServicer_to_server, UsageIngestServicer(core)),
        ],
        authenticator=UsageKeyAuthenticator(auth, key=key) if key.get_secret_value() else auth,
        credential_headers=("x-usage-key", *CREDENTIAL_HEADERS),
    )


def _now() -> datetime:
    return datetime.now(UTC)


def _connect(settings: Settings) -> Connect:
    if settings.clickhouse_url.get_secret_value():
        return server(settings.clickhouse_url)
    directory = settings.state_dir.resolve() / "usage" / "clickhouse"
    refuse_second_process(directory)
    return embedded(directory)


if __name__ == "__main__":
    run("usage", Settings, usage)
