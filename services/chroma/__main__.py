"""Runs the Chroma service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common.identity.authenticator import Authenticator
from common.identity.remote import RemoteAuthenticator
from common.metering.account import Meter
from common.metering.shipper import shipped_outbox
from common.serving.run import Process, Service, run
from common.upstream.http import HttpClient
from services.chroma.config import ChromaSettings
from services.chroma.core import Chroma
from services.chroma.servicer import CREDENTIALS, ROUTES, ChromaHttpServicer, ChromaServicer
from services.chroma.store import HttpStore, NullStore, Store
from turnpike.chroma.v1.chroma_http_pb2_grpc import add_ChromaHttpServiceServicer_to_server
from turnpike.chroma.v1.chroma_pb2_grpc import add_ChromaServiceServicer_to_server


def store_of(settings: ChromaSettings, http: HttpClient) -> Store:
    """Return the Chroma server that the settings name."""
    if not settings.base_url:
        return NullStore()
    return HttpStore(http, base_url=settings.base_url, headers=settings.upstream_headers, secret=settings.api_key)


@asynccontextmanager
async def chroma(settings: ChromaSettings, process: Process) -> AsyncIterator[Service]:
    """Open the service's parts."""
    async with (
        shipped_outbox(settings, service="chroma", telemetry=process.telemetry, health=process.health) as outbox,
        RemoteAuthenticator(
            settings.auth_address, service_key=settings.service_key, health=process.health
        ) as authenticator,
        HttpClient(timers=settings.timers, tls=settings.tls, proxies=settings.proxies) as http,
    ):
        core = Chroma(
            store_of(settings, http),
            meter=Meter(outbox, service="chroma", telemetry=process.telemetry),
            separator=settings.namespace_separator,
            tenant_per_user=settings.tenant_per_user,
        )
        yield service_of(core, authenticator=authenticator)


def service_of(core: Chroma, *, authenticator: Authenticator) -> Service:
    """Return what the service brings."""
    return Service(
        routes=ROUTES,
        servicers=[
            (add_ChromaServiceServicer_to_server, ChromaServicer(core)),
            (add_ChromaHttpServiceServicer_to_server, ChromaHttpServicer(core)),
        ],
        authenticator=authenticator,
        credential_headers=CREDENTIALS,
    )


if __name__ == "__main__":
    run("chroma", ChromaSettings, chroma)
