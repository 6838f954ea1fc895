"""Envoys to compare with: a gateway's own in front of a bare handler, and a plain one in front of the upstream."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import psutil
import yaml

from deploy.local.config import HOST
from deploy.local.preflight import envoy_binary

_HTTP: Final = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER: Final = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


def envoy_command(config: Path) -> list[str]:
    """Return the command of an Envoy that runs as a gateway's does."""
    flags = ["--disable-hot-restart", "--log-level", "warning", "--concurrency", str(min(2, os.cpu_count() or 1))]
    return [str(envoy_binary(None)), "-c", str(config), *flags]


def same_envoy(pid: int, *, target: Path, ports: Mapping[int, int]) -> list[str]:
    """Return the command of an Envoy with the configuration of a running one, in ``target``, with other ports."""
    command = psutil.Process(pid).cmdline()
    config = Path(command[command.index("-c") + 1])
    target.mkdir()
    for file in config.parent.iterdir():
        if file.suffix in {".json", ".yaml"}:
            content = _changed(yaml.safe_load(file.read_text()), ports=ports, old=str(config.parent), new=str(target))
            (target / file.name).write_text(json.dumps(content))
    return envoy_command(target / config.name)


def plain_envoy(*, target: Path, port: int, upstream_port: int) -> list[str]:
    """Return the command of an Envoy that passes everything on to the upstream and does nothing else."""
    cluster = {
        "name": "upstream",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(upstream_port)}}]}],
        },
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "0s"}}
    manager = {
        "@type": _HTTP,
        "stat_prefix": "plain",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": _ROUTER}}],
    }
    listener = {
        "name": "plain",
        "address": _address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    target.mkdir()
    config = target / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    return envoy_command(config)


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": HOST, "port_value": port}}


def _changed(node: Any, *, ports: Mapping[int, int], old: str, new: str) -> Any:
    if isinstance(node, dict):
        return {
            key: ports.get(value, value) if key == "port_value" else _changed(value, ports=ports, old=old, new=new)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_changed(each, ports=ports, old=old, new=new) for each in node]
    return node.replace(old, new) if isinstance(node, str) else node
