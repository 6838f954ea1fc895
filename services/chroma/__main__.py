"""Runs the Chroma service."""

from __future__ import annotations

import uvloop
from pydantic import SecretStr

from common.identity.authenticator import Authenticator
from common.identity.remote import RemoteAuthenticator
from common.logs import CallLog, call_log, configure_logging
from common.metering.account import Meter
from common.metering.shipper import shipped_outbox
from common.serving.auth import AuthInterceptor
from common.serving.errors import ErrorInterceptor
from common.serving.server import Server, serve
from common.serving.telemetry import TelemetryInterceptor
from common.settings import load
from common.telemetry import Telemetry, from_environment
from common.upstream.http import HttpClient
from services.chroma.config import ChromaSettings
from services.chroma.core import Chroma
from services.chroma.servicer import (
    CREDENTIALS,
    PASSED_THROUGH,
    REQUIREMENTS,
    SERVICES,
    ChromaHttpServicer,
    ChromaServicer,
)
from services.chroma.store import HttpStore, NullStore, Store
from turnpike.chroma.v1.chroma_http_pb2_grpc import add_ChromaHttpServiceServicer_to_server
from turnpike.chroma.v1.chroma_pb2_grpc import add_ChromaServiceServicer_to_server


def store_of(settings: ChromaSettings, http: HttpClient) -> Store:
    """Return the Chroma server that the settings name."""
    if not settings.base_url:
        return NullStore()
    return HttpStore(http, base_url=settings.base_url, headers=settings.upstream_headers, secret=settings.api_key)


def server_of(
    chroma: Chroma,
    *,
    telemetry: Telemetry,
    log: CallLog,
    authenticator: Authenticator,
    service_key: SecretStr,
    max_concurrent_calls: int = 4096,
) -> Server:
    """Return the server with both faces of the service."""
    return Server(
        services=SERVICES,
        registers=[
            lambda server: add_ChromaServiceServicer_to_server(ChromaServicer(chroma), server),
            lambda server: add_ChromaHttpServiceServicer_to_server(ChromaHttpServicer(chroma), server),
        ],
        interceptors=[
            TelemetryInterceptor(telemetry, log=log),
            ErrorInterceptor(),
            AuthInterceptor(
                authenticator,
                requirements=REQUIREMENTS,
                service_key=service_key,
                credential_headers=CREDENTIALS,
            ),
        ],
        requirements=REQUIREMENTS,
        passed_through=PASSED_THROUGH,
        max_concurrent_calls=max_concurrent_calls,
    )


async def main(settings: ChromaSettings) -> None:
    """Wire the service and run it until it is told to stop."""
    telemetry = from_environment("chroma")
    authenticator = RemoteAuthenticator(settings.auth_address, service_key=settings.service_key)
    async with (
        shipped_outbox(settings, service="chroma", telemetry=telemetry) as outbox,
        authenticator,
        HttpClient(timers=settings.timers) as http,
    ):
        server = server_of(
            Chroma(
                store_of(settings, http),
                meter=Meter(outbox, service="chroma", telemetry=telemetry),
                separator=settings.namespace_separator,
                tenant_per_user=settings.tenant_per_user,
            ),
            telemetry=telemetry,
            log=call_log(settings.log_level),
            authenticator=authenticator,
            service_key=settings.service_key,
            max_concurrent_calls=settings.max_concurrent_calls,
        )
        await serve(server, name="chroma", listen=settings.listen, variable="TURNPIKE_CHROMA_LISTEN")


if __name__ == "__main__":
    chroma_settings = load(ChromaSettings)
    configure_logging(chroma_settings.log_level)
    uvloop.run(main(chroma_settings))
