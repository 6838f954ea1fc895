"""Runs the OCR service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common.identity.remote import RemoteAuthenticator
from common.metering.account import Meter
from common.metering.shipper import shipped_outbox
from common.providers.mistral import mistral
from common.relay import Relay
from common.routing.deployment import Deployment
from common.routing.early_keep_alive import every
from common.routing.router import Router
from common.serving.run import Process, Service, run
from common.upstream.http import HttpClient
from services.ocr.config import OcrSettings
from services.ocr.core import Ocr
from services.ocr.servicer import ROUTES, OcrHttpServicer, OcrServicer
from turnpike.ocr.v1.ocr_http_pb2_grpc import add_OcrHttpServiceServicer_to_server
from turnpike.ocr.v1.ocr_pb2_grpc import add_OcrServiceServicer_to_server


def deployments(settings: OcrSettings, http: HttpClient) -> list[Deployment]:
    """Return the deployment that the settings name, none when they name no provider."""
    if settings.upstream is None:
        return []
    name, base_url = settings.upstream
    return [Deployment(mistral(base_url=base_url, api_key=settings.mistral_api_key, name=name), http)]


@asynccontextmanager
async def ocr(settings: OcrSettings, process: Process) -> AsyncIterator[Service]:
    """Open the service's parts."""
    async with (
        shipped_outbox(settings, service="ocr", telemetry=process.telemetry, health=process.health) as outbox,
        RemoteAuthenticator(
            settings.auth_address, service_key=settings.service_key, health=process.health
        ) as authenticator,
        HttpClient(timers=settings.timers, tls=settings.tls, proxies=settings.proxies) as http,
    ):
        relay = Relay(
            Router(deployments(settings, http), hint="set MISTRAL_API_KEY or MISTRAL_BASE_URL"),
            meter=Meter(
                outbox,
                service="ocr",
                telemetry=process.telemetry,
                prices=settings.prices,
                models=(settings.mistral_ocr_model,),
            ),
            telemetry=process.telemetry,
            keep_alive=every(settings.early_keep_alive_seconds),
        )
        core = Ocr(relay, default_model=settings.mistral_ocr_model)
        yield Service(
            routes=ROUTES,
            servicers=[
                (add_OcrServiceServicer_to_server, OcrServicer(core)),
                (add_OcrHttpServiceServicer_to_server, OcrHttpServicer(core)),
            ],
            authenticator=authenticator,
        )


if __name__ == "__main__":
    run("ocr", OcrSettings, ocr)
