"""Writes the laptop's Envoy configuration: everything on this machine, on this stack's ports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deploy.envoy.render import Places, write
from deploy.envoy.settings import EdgeSettings
from deploy.local.config import HOST


def write_envoy(
    target: Path, *, port: int, admin_port: int, backends: Mapping[str, int], settings: EdgeSettings | None = None
) -> Path:
    """Write the configuration into the directory ``target`` and return its path.

    ``backends`` holds the port of each service. A laptop's gateway listens to the laptop only. Raises ValueError when
    the contract routes to a service without a port.
    """
    services = {name: (HOST, number) for name, number in backends.items()}
    path = target / "envoy.json"
    places = Places(listen=(HOST, port), admin=(HOST, admin_port), services=services)
    write(path, places=places, settings=settings or EdgeSettings())
    return path
