"""Starts a stack: checks first, then writes what the children read, then becomes their supervisor."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from common.settings import ServiceSettings, load
from deploy.local import preflight, tether
from deploy.local.config import REPOSITORY, LocalSettings
from deploy.local.environment import child_environment
from deploy.local.envoy import write_envoy
from deploy.local.jwt import development_secret
from deploy.local.processes import programs, supervisor_config
from deploy.local.refused import Refused
from deploy.local.state import SERVICE_KEY_FILE, kept_secret, lock, open_state, write_private


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
    lock(state)
    preflight.check_ports(settings)
    _set_environment(settings, state=state)
    load(ServiceSettings)
    children = programs(
        settings, envoy=envoy, envoy_config=_envoy_config(settings, state=state), chroma=chroma, state=state
    )
    config = state / "supervisord.conf"
    write_private(config, supervisor_config(children, state=state, directory=REPOSITORY))
    # Imported late: nothing of it is needed to say what is wrong.
    from deploy.local.runner import run, say  # noqa: PLC0415

    if not tether.AVAILABLE:
        say("on this system a SIGKILL of the runner leaves its children behind; Ctrl-C does not")
    say("starting; logs are in " + str(state / "logs"))
    return run(config, state=state)


def _set_environment(settings: LocalSettings, *, state: Path) -> None:
    key = settings.service_key.get_secret_value() if settings.service_key else kept_secret(state / SERVICE_KEY_FILE)
    secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else development_secret(state)
    os.environ.update(
        child_environment(
            os.environ, ports=settings.ports, state=state, service_key=key, jwt_secret=secret, repository=REPOSITORY
        )
    )


def _envoy_config(settings: LocalSettings, *, state: Path) -> Path:
    ports = settings.ports
    try:
        return write_envoy(state / "envoy", port=ports.envoy, admin_port=ports.admin, backends=ports.services)
    except ValueError as error:
        raise Refused(str(error)) from None
