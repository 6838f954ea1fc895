"""Runs the usage service: python -m services.usage."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import uvloop

from common import telemetry
from common.identity.authenticator import Authenticator
from common.identity.remote import RemoteAuthenticator
from common.logs import call_log, configure_logging
from common.serving.auth import CREDENTIAL_HEADERS, AuthInterceptor
from common.serving.errors import ErrorInterceptor
from common.serving.server import Server, serve
from common.serving.telemetry import TelemetryInterceptor
from common.settings import load
from services.usage.clickhouse_store import ClickHouseStore
from services.usage.config import Settings
from services.usage.connections import Connect, StoreRefused, embedded, refuse_second_process, server
from services.usage.core import UsageCore
from services.usage.keys import UsageKeyAuthenticator
from services.usage.migrations import Place
from services.usage.rollup import rollup
from services.usage.servicer import OPEN_REQUIREMENTS, REQUIREMENTS, SERVICES, UsageIngestServicer, UsageServicer
from turnpike.usage.v1 import ingest_pb2_grpc, usage_pb2_grpc


async def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    settings = load(Settings)
    configure_logging(settings.log_level)
    for noisy in ("urllib3", "clickhouse_connect"):
        # They warn about each failure that the store logs, or that ends this process with a line of its own.
        logging.getLogger(noisy).setLevel(logging.ERROR)
    place = Place(
        database=settings.database, dataset=settings.dataset, cluster=settings.cluster, raw_days=settings.raw_days
    )
    try:
        store = ClickHouseStore(_connect(settings), place=place)
        auth = RemoteAuthenticator(settings.auth_address, service_key=settings.service_key)
        rolling_up = rollup(store, clock=_now, interval_seconds=settings.rollup_interval_seconds)
        async with store, auth, rolling_up:
            core = UsageCore(store, clock=_now, raw_days=settings.raw_days)
            await serve(
                _server(settings, core=core, auth=auth),
                name="usage",
                listen=settings.listen,
                variable="TURNPIKE_USAGE_LISTEN",
            )
    except StoreRefused as error:
        raise SystemExit(f"turnpike usage: {error}") from None


def _now() -> datetime:
    return datetime.now(UTC)


def _connect(settings: Settings) -> Connect:
    if settings.clickhouse_url.get_secret_value():
        return server(settings.clickhouse_url)
    directory = settings.state_dir.resolve() / "usage" / "clickhouse"
    refuse_second_process(directory)
    return embedded(directory)


def _server(settings: Settings, *, core: UsageCore, auth: Authenticator) -> Server:
    has_key = bool(settings.usage_key.get_secret_value())
    return Server(
        services=SERVICES,
        registers=[
            lambda to: usage_pb2_grpc.add_UsageServiceServicer_to_server(UsageServicer(core), to),
            lambda to: ingest_pb2_grpc.add_UsageIngestServiceServicer_to_server(UsageIngestServicer(core), to),
        ],
        interceptors=[
            TelemetryInterceptor(telemetry.from_environment("usage"), log=call_log(settings.log_level)),
            ErrorInterceptor(),
            AuthInterceptor(
                UsageKeyAuthenticator(auth, key=settings.usage_key) if has_key else auth,
                requirements=REQUIREMENTS if has_key else OPEN_REQUIREMENTS,
                service_key=settings.service_key,
                credential_headers=("x-usage-key", *CREDENTIAL_HEADERS),
            ),
        ],
        requirements=REQUIREMENTS if has_key else OPEN_REQUIREMENTS,
        max_concurrent_calls=settings.max_concurrent_calls,
    )


if __name__ == "__main__":
    uvloop.run(main())
