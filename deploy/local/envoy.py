"""Derives the laptop's Envoy files from those in deploy/envoy: the same listener, other addresses and ports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deploy.local.config import HOST

_PATH_KEYS = frozenset({"filename", "path", "proto_descriptor"})


def write_envoy(
    source: Path, *, target: Path, repository: Path, port: int, admin_port: int, backends: Mapping[str, int]
) -> Path:
    """Write the two files into the directory ``target`` and return the first one's path.

    ``source`` holds envoy.yaml and clusters.local.yaml, ``backends`` the port of each cluster. JSON is written because
    it leaves no doubt about types, and Envoy reads it as well. Raises ValueError when a file has not the form expected.
    """
    clusters = yaml.safe_load((source / "clusters.local.yaml").read_text())
    clusters_file = target / "clusters.json"
    _write(clusters_file, local_clusters(clusters, repository=repository, backends=backends))
    bootstrap = yaml.safe_load((source / "envoy.yaml").read_text())
    bootstrap_file = target / "envoy.json"
    _write(
        bootstrap_file,
        local_bootstrap(
            bootstrap, repository=repository, port=port, admin_port=admin_port, clusters_file=clusters_file
        ),
    )
    return bootstrap_file


def local_bootstrap(
    bootstrap: Mapping[str, Any], *, repository: Path, port: int, admin_port: int, clusters_file: Path
) -> dict[str, Any]:
    """Return the bootstrap with this stack's listener, admin page and clusters file; raises ValueError on another form.

    A gateway on a laptop listens to the laptop only, whatever the file says for containers.
    """
    local: dict[str, Any] = _with_absolute_paths(bootstrap, repository)
    try:
        listeners = local["static_resources"]["listeners"]
        source = local["dynamic_resources"]["cds_config"]["path_config_source"]
        admin = local["admin"]["address"]["socket_address"]
        listener = listeners[0]["address"]["socket_address"]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"deploy/envoy/envoy.yaml has no {error}") from error
    if len(listeners) != 1:
        raise ValueError(f"deploy/envoy/envoy.yaml has {len(listeners)} listeners: only one gets a port")
    listener.update(address=HOST, port_value=port)
    admin.update(address=HOST, port_value=admin_port)
    source["path"] = str(clusters_file)
    return local


def local_clusters(clusters: Mapping[str, Any], *, repository: Path, backends: Mapping[str, int]) -> dict[str, Any]:
    """Return the clusters with this stack's ports; clusters that ``backends`` does not name stay as they are.

    Raises ValueError when a backend has no cluster.
    """
    local: dict[str, Any] = _with_absolute_paths(clusters, repository)
    missing = set(backends)
    for cluster in local.get("resources", []):
        name = cluster.get("name")
        if name not in backends:
            continue
        missing.discard(name)
        for address in _socket_addresses(cluster.get("load_assignment", {})):
            address.update(address=HOST, port_value=backends[name])
    if missing:
        raise ValueError(f"deploy/envoy/clusters.local.yaml has no cluster {', '.join(sorted(missing))}")
    return local


def _socket_addresses(assignment: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        place["endpoint"]["address"]["socket_address"]
        for locality in assignment.get("endpoints", [])
        for place in locality.get("lb_endpoints", [])
    ]


def _with_absolute_paths(node: Any, repository: Path) -> Any:
    if isinstance(node, Mapping):
        return {
            key: _absolute(value, repository)
            if key in _PATH_KEYS and isinstance(value, str)
            else _with_absolute_paths(value, repository)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_with_absolute_paths(item, repository) for item in node]
    return node


def _absolute(value: str, repository: Path) -> str:
    """Return the file's absolute path; a value that is no file of the repository (a route's path) stays."""
    return str(repository / value) if value and (repository / value).is_file() else value


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
