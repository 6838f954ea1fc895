"""Runs a service: settings, logs, telemetry, the interceptors, the server, and the end."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
import uvloop

from common.background import Health
from common.identity.authenticator import Authenticator
from common.logs import CallLog, NullCallLog, call_log, configure_logging, trace
from common.serving.auth import CREDENTIAL_HEADERS, AuthInterceptor
from common.serving.errors import ErrorInterceptor
from common.serving.interceptor import Interceptor
from common.serving.limit import LimitInterceptor
from common.serving.routes import Route
from common.serving.server import Server, Servicer
from common.serving.telemetry import TelemetryInterceptor
from common.settings import ServiceSettings, load
from common.telemetry import Telemetry, from_environment

_log = structlog.get_logger(__name__)


S = TypeVar("S", bound=ServiceSettings)


@dataclass(frozen=True, slots=True)
class Service:
    """What one service brings: its routes, its servicers, who knows its callers, and where credentials stand.

    ``before_stop`` is called when the server is about to stop: it ends the calls that never end by themselves.
    ``end_streams`` is called shortly before the end of the grace: it ends streams in a way that callers notice.
    """

    routes: Sequence[Route]
    servicers: Sequence[Servicer]
    authenticator: Authenticator
    credential_headers: Sequence[str] = CREDENTIAL_HEADERS
    before_stop: Callable[[], None] = lambda: None
    end_streams: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Process:
    """What every service is given: telemetry, where background loops say whether they work, and the log of calls."""

    telemetry: Telemetry
    health: Health
    call_log: CallLog = field(default_factory=NullCallLog)


Open = Callable[[S, Process], AbstractAsyncContextManager[Service]]
"""Opens a service's parts, and closes them when the server has stopped."""


def run(name: str, settings_type: type[S], open_service: Open[S]) -> None:
    """Run the service until SIGTERM or SIGINT.

    A bad setting, or a port that is taken, ends the process with 2 and a line that names the variable.
    """
    settings = load(settings_type)
    configure_logging(settings.log_level)
    uvloop.run(_run(name, settings, open_service))


async def _run(name: str, settings: S, open_service: Open[S]) -> None:
    asyncio.get_running_loop().set_exception_handler(_log_unhandled)
    process = Process(from_environment(name), Health(), call_log(settings.log_level))
    async with open_service(settings, process) as service:
        await serve(server_of(service, settings=settings, process=process), name=name, settings=settings)


def interceptors_of(service: Service, *, settings: ServiceSettings, process: Process) -> list[Interceptor]:
    """Return what surrounds every call of every service, outermost first."""
    return [
        TelemetryInterceptor(process.telemetry, log=process.call_log),
        ErrorInterceptor(),
        LimitInterceptor(settings.max_concurrent_calls),
        AuthInterceptor(
            service.authenticator, service_key=settings.service_key, credential_headers=service.credential_headers
        ),
    ]


def server_of(service: Service, *, settings: ServiceSettings, process: Process) -> Server:
    """Return the service's server, which was not started yet."""
    return Server(
        routes=service.routes,
        servicers=service.servicers,
        interceptors=interceptors_of(service, settings=settings, process=process),
        max_concurrent_calls=settings.max_concurrent_calls,
        max_probes=settings.max_probes,
        probe_seconds=settings.probe_seconds,
        reflection=settings.reflection,
        health=process.health,
        before_stop=service.before_stop,
        end_streams=service.end_streams,
    )


async def serve(server: Server, *, name: str, settings: ServiceSettings) -> None:
    """Run the server until SIGTERM or SIGINT, and let running calls end; raises what else ends the server."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    listen, variable = _listen(settings)
    try:
        port = await server.start(listen)
    except RuntimeError:
        sys.stderr.write(f"turnpike {name}: cannot listen on {listen}: set {variable} to a free address\n")
        raise SystemExit(2) from None
    # What is loaded by now stays: the collector need not look at it again and again while streams come and go.
    gc.collect()
    gc.freeze()
    _log.info("listening", service=name, port=port)
    await _first(stopped.wait(), server.ended())
    _log.info("stopping", service=name)
    await server.stop(grace_seconds=settings.shutdown_grace_seconds)


async def _first(*waits: Any) -> None:
    """Wait until one of these ends, and raise what it raises."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()


def _listen(settings: Any) -> tuple[str, str]:
    """Return where the service listens, and the variable that says so."""
    return settings.listen, str(type(settings).model_fields["listen"].validation_alias)


def _log_unhandled(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody caught, without the texts of exceptions and tasks: they may quote a request."""
    error = context.get("exception")
    _log.error("unhandled error", what=context["message"], exception=trace(error) if error is not None else None)
