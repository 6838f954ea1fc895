"""Runs the chat service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common.identity.remote import RemoteAuthenticator
from common.metering.account import Meter
from common.metering.shipper import shipped_outbox
from common.providers.openai import openai
from common.relay import Relay
from common.routing.deployment import Deployment
from common.routing.early_keep_alive import every
from common.routing.router import Router
from common.serving.run import Process, Service, run
from common.upstream.http import HttpClient
from services.chat.config import ChatSettings
from services.chat.core import Chat
from services.chat.servicer import ROUTES, ChatHttpServicer, ChatServicer
from turnpike.chat.v1.chat_http_pb2_grpc import add_ChatHttpServiceServicer_to_server
from turnpike.chat.v1.chat_pb2_grpc import add_ChatServiceServicer_to_server


def deployments(settings: ChatSettings, http: HttpClient) -> list[Deployment]:
    """Return the deployment that the settings name, none when they name no provider."""
    if settings.upstream is None:
        return []
    name, base_url = settings.upstream
    return [Deployment(openai(base_url=base_url, api_key=settings.openai_api_key, name=name), http)]


@asynccontextmanager
async def chat(settings: ChatSettings, process: Process) -> AsyncIterator[Service]:
    """Open the service's parts."""
    async with (
        shipped_outbox(settings, service="chat", telemetry=process.telemetry, health=process.health) as outbox,
        RemoteAuthenticator(
            settings.auth_address, service_key=settings.service_key, health=process.health
        ) as authenticator,
        HttpClient(timers=settings.timers, tls=settings.tls, proxies=settings.proxies) as http,
    ):
        relay = Relay(
            Router(deployments(settings, http), hint="set OPENAI_API_KEY or OPENAI_BASE_URL"),
            meter=Meter(outbox, service="chat", telemetry=process.telemetry, prices=settings.prices),
            telemetry=process.telemetry,
            keep_alive=every(settings.early_keep_alive_seconds),
        )
        core = Chat(relay)
        yield Service(
            routes=ROUTES,
            servicers=[
                (add_ChatServiceServicer_to_server, ChatServicer(core)),
                (add_ChatHttpServiceServicer_to_server, ChatHttpServicer(core)),
            ],
            authenticator=authenticator,
            end_streams=relay.end_streams,
        )


if __name__ == "__main__":
    run("chat", ChatSettings, chat)
