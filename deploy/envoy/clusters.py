"""Renders the clusters: where the services are, and how Envoy speaks to them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from deploy.envoy import policy
from deploy.envoy.settings import EdgeSettings

Json = dict[str, Any]
Address = tuple[str, int]
"""A host, by name or IP address, and a port."""


def clusters(names: Iterable[str], *, addresses: Mapping[str, Address], settings: EdgeSettings) -> list[Json]:
    """Return a cluster for each name, and that of health and reflection; raises ValueError without an address."""
    found = [_cluster(name, _address_of(name, addresses), limit=settings.max_requests) for name in names]
    address = _address_of(policy.OPEN_BACKEND, addresses)
    return [*found, _cluster(policy.OPEN_CLUSTER, address, limit=settings.max_open_requests)]


def _address_of(name: str, addresses: Mapping[str, Address]) -> Address:
    if name not in addresses:
        raise ValueError(f"the service {name} has no address")
    return addresses[name]


def _cluster(name: str, address: Address, *, limit: int) -> Json:
    host, port = address
    # Envoy's own limits are 1,024 of each. Nothing is repeated: whether a request may be is the router's to know.
    limits = {"max_connections": limit, "max_pending_requests": limit, "max_requests": limit, "max_retries": 0}
    options = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _GRPC}
    endpoint = {"endpoint": {"address": {"socket_address": _socket_address(host, port)}}}
    return {
        "name": name,
        "type": "STATIC" if _is_ip(host) else "STRICT_DNS",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [limits]},
        "typed_extension_protocol_options": options,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _socket_address(host: str, port: int) -> Json:
    return {"address": host, "port_value": port}


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


_GRPC: Json = {
    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    "explicit_http_config": {
        "http2_protocol_options": {
            # 64 KiB, so that a slow reader slows the service, and so the provider, instead of filling memory here.
            "initial_stream_window_size": 65536,
            "initial_connection_window_size": 16777216,
            "connection_keepalive": {"interval": "15s", "timeout": "5s"},
        }
    },
}
