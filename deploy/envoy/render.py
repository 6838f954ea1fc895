"""Renders Envoy's whole configuration from the contract, the table and the template."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common.settings import MAX_MESSAGE_BYTES
from deploy.envoy import policy
from deploy.envoy.clusters import Address, clusters
from deploy.envoy.contract import read_contract, without_comments
from deploy.envoy.filters import filters, measured
from deploy.envoy.queries import path_fields
from deploy.envoy.replies import local_reply_config
from deploy.envoy.routes import clusters_of, routes, transcoded_services
from deploy.envoy.settings import EdgeSettings
from deploy.envoy.template import fill

_HERE = Path(__file__).parent
CONTRACT = _HERE.parents[1] / "gen" / "turnpike.pb"
"""The descriptors that `make proto` writes."""


@dataclass(frozen=True)
class Places:
    """Where Envoy listens, and where the services do."""

    listen: Address
    admin: Address
    services: Mapping[str, Address]


def render(descriptors: bytes, *, places: Places, settings: EdgeSettings) -> dict[str, Any]:
    """Return Envoy's bootstrap configuration.

    ``descriptors`` is a serialized FileDescriptorSet with all imports. Raises ValueError when a service that the
    contract routes has no address, when two services claim the same path, or when a name is a path's field in one place
    and a query parameter in another.
    """
    contract = read_contract(descriptors)
    heap_bytes = settings.memory_mib * 2**20
    values = {
        "listen_host": places.listen[0],
        "listen_port": places.listen[1],
        "admin_host": places.admin[0],
        "admin_port": places.admin[1],
        "heap_bytes": heap_bytes,
        "max_connections": settings.max_connections,
        "request_timeout": f"{settings.request_seconds}s",
        "header_kib": policy.CODEC_HEADER_KIB,
        "header_count": policy.HEADERS_AT_MOST,
        "early_mutations": [measured()],
        "filters": filters(settings),
        "routes": routes(contract, settings),
        "local_replies": local_reply_config(policy.DIALECTS, default=policy.DEFAULT_DIALECT),
        "transcoded_services": transcoded_services(contract),
        "path_fields": path_fields(contract),
        "descriptors": base64.b64encode(without_comments(descriptors)).decode("ascii"),
        "body_bytes": MAX_MESSAGE_BYTES,
        "clusters": clusters(clusters_of(contract), addresses=places.services, settings=settings),
    }
    template = yaml.safe_load((_HERE / "envoy.yaml").read_text())
    filled: dict[str, Any] = fill(template, values)
    return filled


def write(target: Path, *, places: Places, settings: EdgeSettings, contract: Path = CONTRACT) -> None:
    """Write the configuration as JSON, which leaves no doubt about types; raises as ``render`` does."""
    config = render(contract.read_bytes(), places=places, settings=settings)
    # It holds the service key, so only the owner may read it: a file that exists would keep its mode.
    new = target.with_name(f"{target.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600, exist_ok=False)
    new.write_text(json.dumps(config, indent=1) + "\n")
    new.replace(target)
