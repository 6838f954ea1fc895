"""Runs the OCR service."""

from __future__ import annotations

import uvloop

from common.identity.remote import RemoteAuthenticator
from common.logs import call_log, configure_logging
from common.metering.account import Meter
from common.metering.shipper import shipped_outbox
from common.providers.mistral import mistral
from common.relay import Relay
from common.routing.deployment import Deployment
from common.routing.early_keep_alive import every
from common.routing.router import Router
from common.serving.auth import AuthInterceptor
from common.serving.errors import ErrorInterceptor
from common.serving.server import Server, serve
from common.serving.telemetry import TelemetryInterceptor
from common.settings import load
from common.telemetry import from_environment
from common.upstream.http import HttpClient
from services.ocr.config import OcrSettings
from services.ocr.core import Ocr
from services.ocr.servicer import PASSED_THROUGH, REQUIREMENTS, SERVICES, OcrHttpServicer, OcrServicer
from turnpike.ocr.v1.ocr_http_pb2_grpc import add_OcrHttpServiceServicer_to_server
from turnpike.ocr.v1.ocr_pb2_grpc import add_OcrServiceServicer_to_server


def deployments(settings: OcrSettings, http: HttpClient) -> list[Deployment]:
    """Return the deployment that the settings name, none when they name no provider."""
    if settings.upstream is None:
        return []
    name, base_url = settings.upstream
    return [Deployment(mistral(base_url=base_url, api_key=settings.mistral_api_key, name=name), http)]


async def main(settings: OcrSettings) -> None:
    """Wire the service and run it until it is told to stop."""
    telemetry = from_environment("ocr")
    authenticator = RemoteAuthenticator(settings.auth_address, service_key=settings.service_key)
    async with (
        shipped_outbox(settings, service="ocr", telemetry=telemetry) as outbox,
        authenticator,
        HttpClient(timers=settings.timers) as http,
    ):
        relay = Relay(
            Router(deployments(settings, http), hint="set MISTRAL_API_KEY or MISTRAL_BASE_URL"),
            meter=Meter(
                outbox,
                service="ocr",
                telemetry=telemetry,
                prices=settings.prices,
                models=(settings.mistral_ocr_model,),
            ),
            telemetry=telemetry,
            keep_alive=every(settings.early_keep_alive_seconds),
        )
        ocr = Ocr(relay, default_model=settings.mistral_ocr_model)
        server = Server(
            services=SERVICES,
            registers=[
                lambda server: add_OcrServiceServicer_to_server(OcrServicer(ocr), server),
                lambda server: add_OcrHttpServiceServicer_to_server(OcrHttpServicer(ocr), server),
            ],
            interceptors=[
                TelemetryInterceptor(telemetry, log=call_log(settings.log_level)),
                ErrorInterceptor(),
                AuthInterceptor(authenticator, requirements=REQUIREMENTS, service_key=settings.service_key),
            ],
            requirements=REQUIREMENTS,
            passed_through=PASSED_THROUGH,
            max_concurrent_calls=settings.max_concurrent_calls,
        )
        await serve(server, name="ocr", listen=settings.listen, variable="TURNPIKE_OCR_LISTEN")


if __name__ == "__main__":
    ocr_settings = load(OcrSettings)
    configure_logging(ocr_settings.log_level)
    uvloop.run(main(ocr_settings))
