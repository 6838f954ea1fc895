"""Starts a stack: checks first, then writes what the children read, then becomes their supervisor."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from pathlib import Path

from pydantic import SecretStr

from common.settings import ServiceSettings, load
from deploy.envoy.settings import EdgeSettings
from deploy.local import preflight, tether
from deploy.local.config import DEMO_USER, REPOSITORY, LocalSettings
from deploy.local.environment import CHILDREN, Stack, child_environment
from deploy.local.envoy import write_envoy
from deploy.local.jwt import development_secret, platform_jwt
from deploy.local.processes import programs, supervisor_config
from deploy.local.refused import Refused
from deploy.local.state import SERVICE_KEY_FILE, kept_secret, lock, open_state, write_private
from deploy.local.supervise import Supervision, become_supervisor
from deploy.local.terminal import say

_DEMO_JWT_LIFETIME = timedelta(days=30)


def start() -> int:
    """Run the stack until it is stopped; returns the exit status. Raises Refused when it cannot start."""
    tether.tether(signal.SIGTERM, parent=os.getppid())
    # Databases, logs and secrets are the owner's only, whatever the user's umask is.
    os.umask(0o077)
    settings = load(LocalSettings)
    preflight.check_files(REPOSITORY)
    envoy = preflight.envoy_binary(settings.envoy)
    chroma = preflight.chroma_binary() if settings.uses_chroma_server else None
    state = open_state(settings.state_dir)
    # Held open, and so locked, until this process ends.
    held = lock(state)
    preflight.check_ports(settings)
    service_key = _service_key(settings, state=state)
    environments = _environments(settings, state=state, service_key=service_key)
    envoy_config = _envoy_config(settings, state=state, service_key=service_key)
    children = programs(settings, envoy=envoy, envoy_config=envoy_config, chroma=chroma, state=state)
    config = state / "supervisord.conf"
    write_private(config, supervisor_config(children, state=state, directory=REPOSITORY))
    if not tether.AVAILABLE:
        say("on this system a SIGKILL of the runner leaves its children behind; Ctrl-C does not")
    say("starting; logs are in " + str(state / "logs"))
    return become_supervisor(
        Supervision(config, state, lock=held, listeners=preflight.listeners(settings), environments=environments)
    )


def _service_key(settings: LocalSettings, *, state: Path) -> str:
    return settings.service_key.get_secret_value() if settings.service_key else kept_secret(state / SERVICE_KEY_FILE)


def _environments(settings: LocalSettings, *, state: Path, service_key: str) -> dict[str, dict[str, str]]:
    secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else development_secret(state)
    # What all services read is refused here, before any of them starts.
    load(ServiceSettings, TURNPIKE_SERVICE_KEY=service_key)
    stack = Stack(
        ports=settings.ports,
        state=state,
        service_key=service_key,
        jwt_secret=secret,
        demo_jwt=_demo_jwt(settings, secret=secret),
        sandbox=settings.uses_sandbox,
        chroma_server=settings.uses_chroma_server,
    )
    return {child: child_environment(child, os.environ, stack=stack) for child in CHILDREN}


def _demo_jwt(settings: LocalSettings, *, secret: str) -> str:
    return platform_jwt(
        secret,
        user_id=DEMO_USER,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        lifetime=_DEMO_JWT_LIFETIME,
    )


def _envoy_config(settings: LocalSettings, *, state: Path, service_key: str) -> Path:
    ports = settings.ports
    given = load(EdgeSettings)
    edge = given.model_copy(
        update={
            "open_services": ",".join(sorted(settings.open_services)),
            "service_key": SecretStr(service_key),
            # Twice, so that it is the service that says it does too much.
            "max_requests": max(given.max_requests, 2 * settings.max_concurrent_calls),
        }
    )
    try:
        return write_envoy(
            state / "envoy", port=ports.envoy, admin_port=ports.admin, backends=ports.services, settings=edge
        )
    except ValueError as error:
        raise Refused(str(error)) from None
