"""Runs the chat service."""

from __future__ import annotations

import uvloop

from common.identity.remote import RemoteAuthenticator
from common.logs import call_log, configure_logging
from common.metering.account import Meter
from common.metering.shipper import shipped_outbox
from common.providers.openai import openai
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
from services.chat.config import ChatSettings
from services.chat.core import Chat
from services.chat.servicer import PASSED_THROUGH, REQUIREMENTS, SERVICES, ChatHttpServicer, ChatServicer
from turnpike.chat.v1.chat_http_pb2_grpc import add_ChatHttpServiceServicer_to_server
from turnpike.chat.v1.chat_pb2_grpc import add_ChatServiceServicer_to_server


def deployments(settings: ChatSettings, http: HttpClient) -> list[Deployment]:
    """Return the deployment that the settings name, none when they name no provider."""
    if settings.upstream is None:
        return []
    name, base_url = settings.upstream
    return [Deployment(openai(base_url=base_url, api_key=settings.openai_api_key, name=name), http)]


async def main(settings: ChatSettings) -> None:
    """Wire the service and run it until it is told to stop."""
    telemetry = from_environment("chat")
    authenticator = RemoteAuthenticator(settings.auth_address, service_key=settings.service_key)
    async with (
        shipped_outbox(settings, service="chat", telemetry=telemetry) as outbox,
        authenticator,
        HttpClient(timers=settings.timers) as http,
    ):
        relay = Relay(
            Router(deployments(settings, http), hint="set OPENAI_API_KEY or OPENAI_BASE_URL"),
            meter=Meter(outbox, service="chat", telemetry=telemetry, prices=settings.prices),
            telemetry=telemetry,
            keep_alive=every(settings.early_keep_alive_seconds),
        )
        chat = Chat(relay)
        server = Server(
            services=SERVICES,
            registers=[
                lambda server: add_ChatServiceServicer_to_server(ChatServicer(chat), server),
                lambda server: add_ChatHttpServiceServicer_to_server(ChatHttpServicer(chat), server),
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
        await serve(server, name="chat", listen=settings.listen, variable="TURNPIKE_CHAT_LISTEN")


if __name__ == "__main__":
    chat_settings = load(ChatSettings)
    configure_logging(chat_settings.log_level)
    uvloop.run(main(chat_settings))
