"""The laptop's Envoy files are those of every deployment, with other addresses."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local.config import REPOSITORY
from deploy.local.envoy import local_bootstrap, local_clusters, write_envoy
from deploy.local.preflight import envoy_binary

BACKENDS = {"auth": 18181, "chat": 18182, "usage": 18183}
BOOTSTRAP: dict[str, Any] = yaml.safe_load("""
admin:
  address: {socket_address: {address: 0.0.0.0, port_value: 9901}}
dynamic_resources:
  cds_config:
    path_config_source: {path: deploy/envoy/clusters.k8s.yaml}
static_resources:
  listeners:
    - name: public
      address: {socket_address: {address: 0.0.0.0, port_value: 8080}}
      filter_chains:
        - filters:
            - routes:
                - match: {path: /v1/usage}
              access_log: {path: /dev/stdout}
              lua: {default_source_code: {filename: deploy/envoy/edge.lua}}
              transcoder: {proto_descriptor: gen/turnpike.pb}
              label: {path: chat}
""")
CLUSTERS: dict[str, Any] = yaml.safe_load("""
resources:
  - name: auth
    load_assignment:
      endpoints:
        - lb_endpoints: [{endpoint: {address: {socket_address: {address: auth, port_value: 1}}}}]
  - name: chat
    load_assignment:
      endpoints:
        - lb_endpoints: [{endpoint: {address: {socket_address: {address: chat, port_value: 2}}}}]
  - name: telemetry
    load_assignment:
      endpoints:
        - lb_endpoints: [{endpoint: {address: {socket_address: {address: otel, port_value: 4317}}}}]
""")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("deploy/envoy/edge.lua", "gen/turnpike.pb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def derived(bootstrap: dict[str, Any], repository: Path) -> dict[str, Any]:
    return local_bootstrap(
        bootstrap, repository=repository, port=28080, admin_port=28180, clusters_file=Path("/state/clusters.json")
    )


def test_listener_and_admin_page_listen_on_this_machine_only(repository: Path) -> None:
    local = derived(BOOTSTRAP, repository)
    listener = local["static_resources"]["listeners"][0]["address"]["socket_address"]
    assert listener == {"address": "127.0.0.1", "port_value": 28080}
    assert local["admin"]["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 28180}


def test_clusters_come_from_the_derived_file(repository: Path) -> None:
    source = derived(BOOTSTRAP, repository)["dynamic_resources"]["cds_config"]["path_config_source"]
    assert source["path"] == "/state/clusters.json"


def test_files_are_absolute_and_other_paths_stay(repository: Path) -> None:
    part = derived(BOOTSTRAP, repository)["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    assert part["lua"]["default_source_code"]["filename"] == str(repository / "deploy/envoy/edge.lua")
    assert part["transcoder"]["proto_descriptor"] == str(repository / "gen/turnpike.pb")
    assert part["routes"][0]["match"]["path"] == "/v1/usage"
    assert part["access_log"]["path"] == "/dev/stdout"
    assert part["label"]["path"] == "chat"


def test_the_source_is_not_changed(repository: Path) -> None:
    before = copy.deepcopy(BOOTSTRAP)
    derived(BOOTSTRAP, repository)
    assert before == BOOTSTRAP


def test_more_than_one_listener_is_refused(repository: Path) -> None:
    bootstrap = copy.deepcopy(BOOTSTRAP)
    bootstrap["static_resources"]["listeners"] *= 2
    with pytest.raises(ValueError, match="2 listeners"):
        derived(bootstrap, repository)


@pytest.mark.parametrize("part", ["admin", "static_resources", "dynamic_resources"])
def test_a_missing_part_is_named(repository: Path, part: str) -> None:
    bootstrap = {name: value for name, value in BOOTSTRAP.items() if name != part}
    with pytest.raises(ValueError, match=part):
        derived(bootstrap, repository)


def test_clusters_get_ports_by_name(repository: Path) -> None:
    local = local_clusters(CLUSTERS, repository=repository, backends={"auth": 18181, "chat": 18182})
    ports = {
        cluster["name"]: cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"][
            "socket_address"
        ]
        for cluster in local["resources"]
    }
    assert ports == {
        "auth": {"address": "127.0.0.1", "port_value": 18181},
        "chat": {"address": "127.0.0.1", "port_value": 18182},
        "telemetry": {"address": "otel", "port_value": 4317},
    }


def test_a_backend_without_a_cluster_is_named(repository: Path) -> None:
    with pytest.raises(ValueError, match="no cluster usage"):
        local_clusters(CLUSTERS, repository=repository, backends=BACKENDS)


def test_envoy_accepts_what_is_derived_from_the_real_files(tmp_path: Path) -> None:
    path = write_envoy(
        REPOSITORY / "deploy" / "envoy",
        target=tmp_path,
        repository=REPOSITORY,
        port=28080,
        admin_port=28180,
        backends=BACKENDS,
    )
    assert json.loads(path.read_text())["admin"]["address"]["socket_address"]["port_value"] == 28180
    command = [str(envoy_binary(None)), "--mode", "validate", "-c", str(path), "--disable-hot-restart"]
    # Somewhere else than the repository, so that a path that stayed relative would fail.
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stderr
